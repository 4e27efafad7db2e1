"""Page tables drawn by plotly: a column for each level, tables and ranges of pages as boxes, entries as lines.

Shadow tables stand to the right of the guest's, each tied by a dotted line to the table that it shadows; one that is out of
step has a dashed border and the sign ≠, and says how many of its entries are stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.views.theme import MODES, Mode, colours_of, template

if TYPE_CHECKING:
    import networkx as nx
    import plotly.graph_objects as go

__all__ = ["page_tables_figure"]

ROLES = {"guest": "user", "host": "vmm", "shadow": "shadow"}
MOST = 28
"""Boxes in a column; the rest is one box that says how many."""
WIDE, TALL, HALF = 190, 34, 0.4  # pixels of a column and a row; half a box, in columns and rows
RELATIONS = {"points to": ("neutral", "solid"), "maps": ("neutral", "dash"), "shadows": ("shadow", "dot")}


@dataclass(frozen=True, slots=True)
class Box:
    """A node, or several that there is no room for."""

    nodes: tuple[str, ...]
    label: str
    sub: str
    x: int
    y: int
    dimension: str
    out_of_step: bool


def page_tables_figure(graph: nx.DiGraph, mode: str = "light") -> go.Figure:
    """Draw page tables.

    Parameters
    ----------
    graph : networkx.DiGraph
        From `vmlab.page_tables`.
    mode : {"light", "dark"}
        Colours.

    Returns
    -------
    plotly.graph_objects.Figure
        With addresses and rights as hover text.

    Raises
    ------
    OptionError
        There is no such mode.
    """
    import plotly.graph_objects as go

    colours = colours_of(mode)
    boxes = _boxes(graph)
    figure = go.Figure()
    for relation, (xs, ys) in _lines(graph, boxes).items():
        role, dash = RELATIONS[relation]
        line = {"color": colours.line[role], "dash": dash, "width": 1.3}
        figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", name=relation, line=line, hoverinfo="skip"))
    figure.add_trace(
        go.Scatter(
            x=[box.x for box in boxes],
            y=[-box.y for box in boxes],
            mode="markers",
            marker={"size": 26, "opacity": 0},
            hovertext=["<br>".join(_hover(graph, node) for node in box.nodes[:6]) for box in boxes],
            hoverinfo="text",
            showlegend=False,
            name="boxes",
        )
    )
    for box in boxes:
        role = ROLES[box.dimension]
        line = {"color": colours.line[role], "width": 2.2 if box.out_of_step else 1.4, "dash": "dash" if box.out_of_step else "solid"}  # fmt: skip
        figure.add_shape(
            type="rect", x0=box.x - HALF, x1=box.x + HALF, y0=-box.y - HALF, y1=-box.y + HALF,
            line=line, fillcolor=colours.tint(role, 0.14), layer="above",
        )  # fmt: skip
        figure.add_annotation(x=box.x, y=-box.y, text=_text(box, colours), showarrow=False, font={"size": 11})
    _frame(figure, graph, boxes, mode)
    return figure


def _frame(figure: go.Figure, graph: nx.DiGraph, boxes: list[Box], mode: str) -> None:
    across, down = max(box.x for box in boxes) + 1, max(box.y for box in boxes) + 1
    colours = MODES[mode]
    for dimension in dict.fromkeys(box.dimension for box in boxes):
        left = min(box.x for box in boxes if box.dimension == dimension)
        figure.add_annotation(
            x=left - HALF, y=0.75, text=f"{dimension} tables", xanchor="left", showarrow=False,
            font={"size": 12, "color": colours.ink[ROLES[dimension]]},
        )  # fmt: skip
    figure.update_layout(
        template=template(mode),
        title={"text": graph.graph["title"], "font": {"size": 14}, "x": 0.01},
        width=60 + across * WIDE,
        height=110 + down * TALL,
        xaxis={"visible": False, "range": [-0.5, across - 0.5], "fixedrange": True},
        yaxis={"visible": False, "range": [-down + 0.3, 1.1], "fixedrange": True},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
    )


def _boxes(graph: nx.DiGraph) -> list[Box]:
    """Return the boxes: column by column, each dimension to the right of the one before."""
    boxes: list[Box] = []
    left = 0
    for dimension in dict.fromkeys(data["dimension"] for _, data in graph.nodes(data=True)):
        own = [(node, data) for node, data in graph.nodes(data=True) if data["dimension"] == dimension]
        levels = sorted({data["level"] for _, data in own})
        for level in levels:
            column = [(node, data) for node, data in own if data["level"] == level]
            shown = column if len(column) <= MOST else column[: MOST - 1]
            for y, (node, data) in enumerate(shown):
                boxes.append(Box((node,), *_words(data), left + level, y, dimension, data["out_of_step"]))
            rest = column[len(shown) :]
            if rest:
                nodes = tuple(node for node, _ in rest)
                boxes.append(Box(nodes, f"{len(rest)} more", "", left + level, len(shown), dimension, False))
        left += levels[-1] + 1
    return boxes


def _words(data: dict[str, Any]) -> tuple[str, str]:
    """Return the two lines of a box."""
    if data["kind"] == "pages":
        return data["label"], data["rights"].replace("=", " ")
    step = f"≠ {len(data['stale'])} stale, " if data["out_of_step"] or data["stale"] else ""
    sub = data["role"] or f"{data['entries']} entr{'y' if data['entries'] == 1 else 'ies'}"
    return f"{data['label']} {data['address']:#x}", f"{step}{sub}"


def _text(box: Box, colours: Mode) -> str:
    small = f"<br><span style='font-size:9.5px;color:{colours.muted}'>{box.sub}</span>" if box.sub else ""
    return f"<b>{box.label}</b>{small}" if len(box.label) < 22 else f"<span style='font-size:10px'>{box.label}</span>{small}"  # fmt: skip


def _hover(graph: nx.DiGraph, node: str) -> str:
    data = graph.nodes[node]
    lines = [f"<b>{node}</b>", f"{data['entries']} entries"]
    lines += [str(data[key]) for key in ("rights", "role", "of") if data.get(key)]
    if data["out_of_step"]:
        lines.append("out of step")
    lines += [f"≠ entry {slot}: from {source:#x}, by now {now:#x}" for slot, source, now in data["stale"]]
    return "<br>".join(lines)


Lines = dict[str, tuple[list[float | None], list[float | None]]]


def _lines(graph: nx.DiGraph, boxes: list[Box]) -> Lines:
    """Return the lines of each relation, with gaps."""
    place = {node: box for box in boxes for node in box.nodes}
    lines: Lines = {}
    for source, target, data in graph.edges(data=True):
        one, other = place[source], place[target]
        xs, ys = lines.setdefault(data["relation"], ([], []))
        if data["relation"] == "shadows":
            one, other = other, one
        if one.x == other.x:
            continue
        xs += [one.x + HALF, other.x - HALF, None]
        ys += [-one.y, -other.y, None]
    return lines
