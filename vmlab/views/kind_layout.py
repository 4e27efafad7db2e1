"""Where the parts of a running system stand in its picture: layers as rows, what carries several parts as wide as they are.

A part that carries nothing is as wide as its words; one that carries others is as wide as they are together. The hardware is a row
of its own; what is dedicated to a part stands under it. So the picture has the shape of the textbook's figures (18.1, 18.2, 18.7).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["ROLES", "Box", "place_parts", "row_names", "small_words"]

ROWS = {
    "processes": 0, "containers": 1, "guest kernel": 2, "runtime": 2, "guest vmm": 3, "vmm": 4, "host processes": 4, "host kernel": 5,
    "firmware": 6, "hardware": 7,
}  # fmt: skip
"""Row of a layer; rows that a system has nothing in are left out."""
ROLES = {
    "processes": "user", "containers": "inject", "guest kernel": "kernel", "runtime": "shadow", "guest vmm": "vmm", "vmm": "vmm",
    "host processes": "user", "host kernel": "kernel", "firmware": "vmm", "hardware": "hardware",
}  # fmt: skip
"""Role of a layer, for its colour."""

GAP, PAD = 8.0, 10.0
TALL, BETWEEN = 46.0, 16.0
LETTER = 7.3
SMALL_LETTER = 5.4
NARROWEST = 74.0
ROW_LETTERS = 20
LABEL = 126.0  # of the rows' names, at the left


@dataclass(frozen=True, slots=True)
class Box:
    """A part's place: its left upper corner and size, in units of the picture."""

    name: str
    x: float
    y: float
    w: float
    h: float


def place_parts(graph: nx.DiGraph) -> tuple[list[Box], dict[str, float], float, float]:
    """Return the boxes, the ordinate of each layer's row, and width and height of the picture.

    Parameters
    ----------
    graph : networkx.DiGraph
        From `kind_graph`.
    """
    owned = Counter(target for _, target, edge in graph.edges(data=True) if edge["relation"] == "assigned to")
    nodes = {name: {**data, "least": owned[name] * (NARROWEST + 4)} for name, data in graph.nodes(data=True)}
    above: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target, edge in graph.edges(data=True):
        if edge["relation"] == "runs on" and nodes[target]["layer"] != "hardware":
            above[target].append(source)
    software = [name for name, data in nodes.items() if data["layer"] not in ("hardware", "firmware")]
    spans: dict[str, tuple[float, float]] = {}
    right = LABEL
    bases = [name for name in software if not any(name in each for each in above.values())]
    for base in bases:
        right = _span(base, right, above, nodes, spans) + GAP
    hardware = [name for name, data in nodes.items() if data["layer"] == "hardware"]
    right = max(right - GAP, LABEL + len(hardware) * (NARROWEST + GAP) - GAP)
    if len(bases) == 1:
        spans[bases[0]] = LABEL, right
    for name, data in nodes.items():
        if data["layer"] == "firmware":
            spans[name] = LABEL, right
    _hardware(graph, hardware, spans, right)
    used = sorted({ROWS[data["layer"]] for data in nodes.values()})
    tops = {row: PAD + n * (TALL + BETWEEN) for n, row in enumerate(used)}
    boxes = [
        Box(name, spans[name][0], tops[ROWS[data["layer"]]], spans[name][1] - spans[name][0], TALL)
        for name, data in nodes.items()
    ]
    layers = {data["layer"]: tops[ROWS[data["layer"]]] for data in nodes.values()}
    return boxes, layers, right + PAD, PAD + len(used) * (TALL + BETWEEN) - BETWEEN + PAD


def _words(data: dict[str, Any]) -> float:
    """Return how wide the words of a part are."""
    return max(
        NARROWEST,
        LETTER * (len(data["label"]) + 2) + 16,
        SMALL_LETTER * len(data["privilege"]) + 16,
        float(data["least"]),
    )


def _span(
    name: str,
    left: float,
    above: dict[str, list[str]],
    nodes: dict[str, dict[str, Any]],
    spans: dict[str, tuple[float, float]],
) -> float:
    """Place a part and all that it carries, from an abscissa on; return where it ends."""
    right = left
    for each in sorted(above[name], key=lambda other: nodes[other]["layer"] == "host processes"):
        right = _span(each, right, above, nodes, spans) + GAP
    end = max(right - GAP if above[name] else left, left + _words(nodes[name]))
    carried = above[name]
    if len(carried) == 1:  # as wide as what carries it
        _widen(carried[0], left, end, above, spans)
    spans[name] = left, end
    return end


def _widen(
    name: str, left: float, right: float, above: dict[str, list[str]], spans: dict[str, tuple[float, float]]
) -> None:
    spans[name] = left, right
    if len(above[name]) == 1:
        _widen(above[name][0], left, right, above, spans)


def _hardware(graph: nx.DiGraph, names: list[str], spans: dict[str, tuple[float, float]], right: float) -> None:
    """Place the hardware: what is dedicated under its owner, the rest side by side."""
    owners = {
        name: next((t for _, t, e in graph.out_edges(name, data=True) if e["relation"] == "assigned to"), None)
        for name in names
    }
    dedicated = [
        name for name in names if owners[name] in spans and name != "hardware/disk" and owners[name] is not None
    ]
    if not dedicated:
        width = (right - LABEL - GAP * (len(names) - 1)) / len(names)
        for n, name in enumerate(names):
            spans[name] = LABEL + n * (width + GAP), LABEL + n * (width + GAP) + width
        return
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(str(owners[name] or owners[dedicated[0]]), []).append(name)
    for owner, members in groups.items():
        left, end = spans[owner]
        width = (end - left - 4 * (len(members) - 1)) / len(members)
        for n, name in enumerate(members):
            spans[name] = left + n * (width + 4), left + n * (width + 4) + width


def row_names(layers: dict[str, float]) -> list[tuple[str, float]]:
    """Return the rows' names, and where they are; of two layers in a row the first gives the name, where both are too long."""
    rows: dict[float, list[str]] = {}
    for layer, top in layers.items():
        rows.setdefault(top, []).append(layer)
    joined = {top: " / ".join(names) for top, names in rows.items()}
    return [(joined[top] if len(joined[top]) <= ROW_LETTERS else names[0], top) for top, names in rows.items()]


def small_words(graph: nx.DiGraph, node: str) -> str:
    """Return the second line of a part: its mode, or what else there is to say, or whose it is."""
    data = graph.nodes[node]
    owners = [target for _, target, edge in graph.out_edges(node, data=True) if edge["relation"] == "assigned to"]
    said = data["privilege"] or ", ".join(str(value) for value in data["state"].values())
    return str(said or ", ".join(f"of {graph.nodes[owner]['label']}" for owner in owners))
