"""The layer graph as a plotly figure: Figure 18.1 of *Operating System Concepts* (10th ed.), from the running system.

Positions are computed here, row by row, without a numeric library. A guest is a column; the monitor lies under all
columns, the hardware under the monitor. The devices of one owner share a box, which names them.
Colour says the layer, and so do row and label; the kind of an edge is its dash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.views.theme import LAYERS, RELATIONS, Mode, colours_of, template

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import networkx as nx
    import plotly.graph_objects as go

__all__ = ["layers_figure", "positions"]

WIDTH, HEIGHT = 960, 460
ROWS = {"processes": 4.0, "kernel": 3.0, "vmm": 2.0, "kept": 1.0, "hardware": 0.0}
HALF = 0.31  # of a box's height, in rows
MARGIN = 0.06  # between columns, in columns
INSET = 0.03  # of the row under the monitor: the monitor's own way to the CPU passes it by
SPAN = 4.0  # abscissae run from 0 to this, whatever the number of guests
NATIVE_ROWS = {"processes": 2.0, "kernel": 1.0, "hardware": 0.0}


@dataclass(frozen=True, slots=True)
class Place:
    """A box of the figure: which nodes it stands for, and where (centre and half sizes)."""

    nodes: tuple[str, ...]
    label: str
    sub: str
    x: float
    y: float
    half_width: float
    role: str


def positions(graph: nx.DiGraph) -> list[Place]:
    """Return the boxes of the figure with their places, from the top row to the bottom one."""
    guests = graph.graph["guests"]
    column = SPAN / guests
    virtual = "vmm" in graph
    rows = ROWS if virtual else NATIVE_ROWS
    places = []
    for index in range(guests):
        left, right = index * column + MARGIN, (index + 1) * column - MARGIN
        own = [(node, data) for node, data in graph.nodes(data=True) if data["guest"] == index]
        users = [(node, data) for node, data in own if data["kind"] == "processes"]
        places += _row(
            [((node,), data["label"], data["privilege"]) for node, data in users],
            left,
            right,
            rows["processes"],
            "user",
        )
        kernels = [((node,), data["label"], data["privilege"]) for node, data in own if data["kind"] == "kernel"]
        places += _row(kernels, left, right, rows["kernel"], "kernel")
        if virtual:
            places += _row(_kept(own), left + INSET, right - INSET, rows["kept"], "vmm")
    if virtual:
        data = graph.nodes["vmm"]
        places += _row([(("vmm",), data["label"], data["privilege"])], MARGIN, SPAN - MARGIN, rows["vmm"], "vmm")
    return places + _row(_hardware(graph), MARGIN, SPAN - MARGIN, rows["hardware"], "hardware")


Content = tuple[tuple[str, ...], str, str]
"""Nodes of a box, its label, its second line."""


def _row(contents: Sequence[Content], left: float, right: float, y: float, role: str) -> list[Place]:
    """Share a stretch of a row among boxes."""
    if not contents:
        return []
    gap = min(0.08, (right - left) / len(contents) / 5)
    width = (right - left - gap * (len(contents) - 1)) / len(contents)
    return [
        Place(nodes, label, sub, left + (width + gap) * n + width / 2, y, width / 2, role)
        for n, (nodes, label, sub) in enumerate(contents)
    ]


def _devices(nodes: Iterable[tuple[str, dict[str, Any]]], label: str) -> list[Content]:
    found = [(node, data["label"]) for node, data in nodes if data["kind"] == "device"]
    return [(tuple(node for node, _ in found), label, " ".join(name for _, name in found))] if found else []


def _kept(own: list[tuple[str, dict[str, Any]]]) -> list[Content]:
    """Return what the monitor keeps for one guest."""
    kept: list[Content] = [
        ((node,), data["label"], data["privilege"]) for node, data in own if data["kind"] in {"vcpu", "shadow"}
    ]
    return kept + _devices(own, "virtual devices")


def _hardware(graph: nx.DiGraph) -> list[Content]:
    bottom = [(node, data) for node, data in graph.nodes(data=True) if data["layer"] == "hardware"]
    contents: list[Content] = []
    for node, data in bottom:
        if data["kind"] == "device":
            continue
        size = data["state"].get("size", "")
        contents.append(((node,), data["label"], data["privilege"] or size))
    return contents + _devices(bottom, "devices")


def layers_figure(graph: nx.DiGraph, mode: str = "light") -> go.Figure:
    """Draw the layer graph.

    Parameters
    ----------
    graph : networkx.DiGraph
        From `vmlab.views.layers`.
    mode : {"light", "dark"}
        Colours.

    Returns
    -------
    plotly.graph_objects.Figure
        With the state and counters of each node as hover text.

    Raises
    ------
    OptionError
        There is no such mode.
    """
    import plotly.graph_objects as go

    colours = colours_of(mode)
    places = positions(graph)
    figure = go.Figure()
    for relation, traces in _edges(graph, places).items():
        role, dash = RELATIONS[relation]
        xs, ys = traces
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines",
                name=relation,
                hoverinfo="skip",
                line={"color": colours.line[role], "dash": dash, "width": 2},
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[place.x for place in places],
            y=[place.y for place in places],
            mode="markers",
            marker={"size": 34, "opacity": 0},
            hovertext=[_hover(graph, place) for place in places],
            hoverinfo="text",
            showlegend=False,
            name="nodes",
        )
    )
    for place in places:
        figure.add_shape(
            type="rect", x0=place.x - place.half_width, x1=place.x + place.half_width, y0=place.y - HALF, y1=place.y + HALF,
            line={"color": colours.line[place.role], "width": 2}, fillcolor=colours.tint(place.role, 0.16), layer="above",
        )  # fmt: skip
        figure.add_annotation(x=place.x, y=place.y, text=_label(place, colours), showarrow=False, font={"size": 12})
    guests = graph.graph["guests"]
    rows = {place.y for place in places}
    places_of = ROWS if "vmm" in graph else NATIVE_ROWS
    names = {
        places_of[layer]: words.removeprefix("guest ") if "vmm" not in graph else words
        for layer, (_, words) in LAYERS.items()
        if layer in places_of
    }
    figure.update_layout(
        template=template(mode),
        title={"text": f"{graph.graph['technique']}, {guests} guest{'' if guests == 1 else 's'}", "font": {"size": 15}, "x": 0.01},
        width=WIDTH,
        height=70 + 78 * len(rows),
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
        xaxis={"visible": False, "range": [0, SPAN], "fixedrange": True},
        yaxis={
            "range": [-0.5, max(rows) + 0.5], "fixedrange": True, "showgrid": False, "zeroline": False,
            "tickvals": list(names), "ticktext": list(names.values()), "ticks": "",
        },
    )  # fmt: skip
    return figure


def _label(place: Place, colours: Mode) -> str:
    room = int(place.half_width * 2 / SPAN * 112)  # characters of the small line that fit
    label = place.label
    if len(label) + 2 > room:
        label = label.replace("page ", "")
    if len(label) + 2 > room:
        label = label.replace("virtual ", "").replace(" tables", "")
    size = 12 if len(label) + 2 <= room else 10
    sub = place.sub if len(place.sub) <= room else ""  # the hover text has it
    small = f"<br><span style='font-size:10.5px;color:{colours.muted}'>{sub}</span>" if sub else ""
    return f"<b style='font-size:{size}px'>{label}</b>{small}"


def _edges(graph: nx.DiGraph, places: list[Place]) -> dict[str, tuple[list[float | None], list[float | None]]]:
    """Return the lines of each relation, as abscissae and ordinates with gaps."""
    box = {node: place for place in places for node in place.nodes}
    lines: dict[str, tuple[list[float | None], list[float | None]]] = {}
    seen = set()
    for source, target, data in graph.edges(data=True):
        upper, lower = sorted((box[source], box[target]), key=lambda place: -place.y)
        if (upper, lower, data["relation"]) in seen or upper.y == lower.y:
            continue
        seen.add((upper, lower, data["relation"]))
        bypass = upper.y - lower.y > 1 and upper.role == "user"
        x = _meet(upper, lower)
        xs, ys = lines.setdefault(data["relation"], ([], []))
        if bypass:  # a process's own trap passes its kernel by, at the column's edge
            edge = upper.x + upper.half_width + MARGIN / 2
            xs += [upper.x + upper.half_width, edge, edge, None]
            ys += [upper.y, upper.y, lower.y + HALF, None]
        else:
            xs += [x, x, None]
            ys += [upper.y - HALF, lower.y + HALF, None]
    return lines


def _meet(upper: Place, lower: Place) -> float:
    """Return an abscissa under `upper` and over `lower`: the narrower one's middle, or past a row between them."""
    if upper.y - lower.y > 1 and upper.role == "vmm":
        return max(upper.x - upper.half_width, lower.x - lower.half_width) + INSET / 2
    narrow = min(upper, lower, key=lambda place: place.half_width)
    return narrow.x


def _hover(graph: nx.DiGraph, place: Place) -> str:
    lines = []
    for node in place.nodes:
        data = graph.nodes[node]
        lines.append(
            f"<b>{data['label']}</b> ({data['kind']})" + (f": {data['privilege']}" if data["privilege"] else "")
        )
        lines += [f"{key}: {value}" for key, value in data["state"].items()]
        lines += [f"{key}: {value:,}" for key, value in data["counters"].items()]
    return "<br>".join(lines)
