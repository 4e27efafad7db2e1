"""Where the nodes of a layer graph stand on the theatre's stage.

The picture follows Figure 18.2 of *Operating System Concepts* (10th ed.): user mode above, kernel mode below, the
VCPU inside the monitor; under them the hardware. With hardware assistance the two are the modes for guest and host. Positions depend on the system's shape alone (which guests, which
layers), so that they stay fixed during a run. Paths are SVG path data, computed here once for browser and static SVG.

Simplified: beyond two guests a guest's shadow tables and virtual devices are not drawn, its VCPU is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.views.assistance import ASSISTANCE
from vmlab.views.theme import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable

    import networkx as nx

__all__ = ["HEIGHT", "WIDTH", "stage_shape"]

WIDTH, HEIGHT = 440.0, 312.0
LEFT, RIGHT = 34.0, 438.0  # beside the labels of the zones
GAP = 10.0
NARROW = 64.0  # below this, "process 1" becomes "P1"
CHANNEL = 15.0  # between a guest's frame and its kernel: where the processes' own traps run down


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: its left upper corner and its size."""

    x: float
    y: float
    w: float
    h: float

    @property
    def middle(self) -> float:
        """Abscissa of the centre."""
        return self.x + self.w / 2

    @property
    def bottom(self) -> float:
        """Ordinate of the lower side."""
        return self.y + self.h


def _rounded(box: Box, radius: float) -> str:
    r = min(radius, box.w / 2, box.h / 2)
    return (
        f"M{box.x + r:g} {box.y:g}h{box.w - 2 * r:g}a{r:g} {r:g} 0 0 1 {r:g} {r:g}v{box.h - 2 * r:g}"
        f"a{r:g} {r:g} 0 0 1 {-r:g} {r:g}h{2 * r - box.w:g}a{r:g} {r:g} 0 0 1 {-r:g} {-r:g}v{2 * r - box.h:g}"
        f"a{r:g} {r:g} 0 0 1 {r:g} {-r:g}z"
    )


def _chamfered(box: Box) -> str:
    c = 7.0
    return (
        f"M{box.x + c:g} {box.y:g}h{box.w - 2 * c:g}l{c:g} {c:g}v{box.h - 2 * c:g}l{-c:g} {c:g}"
        f"h{2 * c - box.w:g}l{-c:g} {-c:g}v{2 * c - box.h:g}z"
    )


def _pins(box: Box) -> str:
    """Draw the pins of a chip on its upper and lower side."""
    places = (box.x + box.w * n / 8 for n in range(1, 8))
    return "".join(f"M{x:g} {box.y:g}v-3.5M{x:g} {box.bottom:g}v3.5" for x in places)


def _sheets(box: Box) -> str:
    """Draw the edge of a further sheet behind a rectangle."""
    return f"M{box.x + 4:g} {box.bottom + 3:g}H{box.x + box.w + 3:g}V{box.y + 4:g}"


SHAPES: dict[str, Callable[[Box], str]] = {
    "processes": lambda box: _rounded(box, box.h / 2),
    "kernel": lambda box: _rounded(box, 4),
    "vmm": lambda box: _rounded(box, 3),
    "vcpu": _chamfered,
    "shadow": lambda box: _rounded(box, 2),
    "devices": lambda box: _rounded(box, 9),
    "cpu": lambda box: _rounded(box, 2),
    "memory": lambda box: _rounded(box, 2),
}
STROKES: dict[str, Callable[[Box], str]] = {"cpu": _pins, "memory": _sheets, "shadow": _sheets}
ROLES = {"processes": "user", "kernel": "kernel", "vmm": "vmm", "vcpu": "vmm", "shadow": "shadow"}


class _Shape:
    """Collects the parts of one picture."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []
        self.zones: list[dict[str, Any]] = []

    def zone(self, name: str, label: str, top: float, bottom: float) -> None:
        self.zones.append({"id": name, "label": label, "y": top, "h": bottom - top})

    def node(self, name: str, kind: str, label: str, sub: str, box: Box, guest: int | None = None) -> None:
        self.boxes[name] = box
        self.nodes.append(
            {
                "id": name, "kind": kind, "label": label, "sub": sub, "guest": guest, "d": SHAPES[kind](box),
                "stroke": STROKES[kind](box) if kind in STROKES else "",
                "role": ROLES.get(kind, "hardware"), "x": box.x, "y": box.y, "w": box.w, "h": box.h,
            }
        )  # fmt: skip

    def edge(self, source: str, target: str, relation: str, path: str) -> None:
        self.edges.append(
            {"id": f"{source}>{target}", "source": source, "target": target, "relation": relation, "d": path}
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "width": WIDTH,
            "height": HEIGHT,
            "zones": self.zones,
            "frames": self.frames,
            "nodes": self.nodes,
            "edges": self.edges,
        }


def stage_shape(graph: nx.DiGraph) -> dict[str, Any]:
    """Return the fixed part of the picture: zones, frames, nodes and edges with their places.

    Parameters
    ----------
    graph : networkx.DiGraph
        From `vmlab.views.layers`.

    Returns
    -------
    dict
        JSON-able. Lengths in units of a canvas of `width` by `height`.
    """
    shape = _Shape()
    virtual = "vmm" in graph
    rows = (
        {"frame": 4.0, "user": 26.0, "kernel": 80.0, "mode": 142.0}
        if virtual
        else {"frame": 4.0, "user": 30.0, "kernel": 128.0, "mode": 98.0}
    )
    count = graph.graph["guests"]
    width = (RIGHT - LEFT - GAP * (count - 1)) / count
    for index in range(count):
        column = Box(LEFT + index * (width + GAP), rows["frame"], width, rows["mode"] - rows["frame"] - 8)
        _guest(shape, graph, index, column, rows, virtual=virtual)
    if virtual:
        guest_mode, host_mode = _modes(graph.graph["technique"])
        shape.zone("user", guest_mode, 4, rows["mode"] - 4)
        shape.zone("kernel", host_mode, rows["mode"] + 2, 250)
        _vmm(shape, graph, count, width, rows["mode"] + 2)
    else:
        shape.zone("user", "user mode", 4, rows["mode"] - 4)
        shape.zone("kernel", "kernel mode", rows["mode"] + 4, 222)
    shape.zone("hardware", LAYERS["hardware"][1], 256 if virtual else 232, HEIGHT - 2)
    _hardware(shape, graph, virtual=virtual)
    return shape.as_dict()


def _modes(technique: str) -> tuple[str, str]:
    """Name the modes of the processor in which guests run, and the monitor."""
    words = ASSISTANCE.get(technique)
    if words is not None:
        return words.guest_mode, words.host_mode
    return (
        "outer rings" if technique == "paravirtualization" else "user mode",
        "kernel mode",
    )  # there the kernel has ring 1


def _guest(shape: _Shape, graph: nx.DiGraph, index: int, column: Box, rows: dict[str, float], *, virtual: bool) -> None:
    """Place a guest's frame, processes and kernel, and their ways down."""
    name = str(graph.nodes[f"guest{index}/kernel"]["label"]).removesuffix(" kernel")
    if virtual:
        place = {"x": column.x, "y": column.y, "w": column.w, "h": column.h}
        shape.frames.append({"guest": index, "title": name, "narrow": column.w < 160, **place})
    users = [node for node, data in graph.nodes(data=True) if data["kind"] == "processes" and data["guest"] == index]
    inner = Box(column.x + CHANNEL, rows["user"], column.w - 2 * CHANNEL, 34 if virtual else 44)
    width = (inner.w - 6 * (len(users) - 1)) / max(1, len(users))
    kernel = f"guest{index}/kernel"
    tall = 44.0 if virtual else 66.0
    for number, user in enumerate(users):
        box = Box(inner.x + number * (width + 6), inner.y, width, inner.h)
        words = str(graph.nodes[user]["label"])
        shape.node(user, "processes", words if width > NARROW else words.replace("process ", "P"), "", box, index)
    label = "kernel" if virtual else f"{name} kernel"
    shape.node(kernel, "kernel", label, "", Box(inner.x, rows["kernel"], inner.w, tall), index)
    box = shape.boxes[kernel]
    for user in users:
        above = shape.boxes[user]
        shape.edge(user, kernel, "runs on" if virtual else "traps to", f"M{above.middle:g} {above.bottom:g}V{box.y:g}")
        if virtual:
            side = column.x + CHANNEL / 2
            start = (
                f"M{above.x:g} {above.y + above.h / 2:g}"
                if user == users[0]
                else f"M{above.x + 14:g} {above.bottom:g}v9"
            )
            shape.edge(user, "vmm", "traps to", f"{start}H{side:g}V{rows['mode'] + 14:g}")
    if virtual:
        shape.edge(kernel, "vmm", "traps to", f"M{box.middle:g} {box.bottom:g}V{rows['mode'] + 14:g}")


def _vmm(shape: _Shape, graph: nx.DiGraph, count: int, width: float, top: float) -> None:
    """Place the monitor: one bar that takes every trap, under it what it keeps for each guest."""
    bar = Box(LEFT, top + 12, RIGHT - LEFT, 30)
    shape.node("vmm", "vmm", str(graph.nodes["vmm"]["label"]), "ring 0", bar)
    for index in range(count):
        left = LEFT + index * (width + GAP)
        tables = str(graph.nodes[f"guest{index}/shadow"]["label"]).replace(" page tables", " tables")
        kept = [("vcpu", "VCPU"), ("shadow", tables), ("devices", "virtual devices")]
        if count > 2:
            kept = kept[:1]
        shares = [1.5, 1.15, 1.15][: len(kept)]
        unit = (width - 8 * (len(kept) - 1)) / sum(shares)
        for (kind, label), share in zip(kept, shares, strict=True):
            name = f"guest{index}/{kind}"
            box = Box(left, bar.bottom + 16, unit * share, 44)
            left += box.w + 8
            shape.node(
                name,
                kind,
                label if box.w > 84 else label.removeprefix("virtual ").removesuffix(" tables"),
                "",
                box,
                index,
            )
            shape.edge(
                "vmm",
                name,
                "assigned to" if kind == "devices" else "maps to",
                f"M{box.middle:g} {bar.bottom:g}V{box.y:g}",
            )


def _hardware(shape: _Shape, graph: nx.DiGraph, *, virtual: bool) -> None:
    """Place CPU, memory and devices, and what reaches them."""
    top = 264.0 if virtual else 244.0
    tall = HEIGHT - top - 8
    third = (RIGHT - LEFT - 2 * 14) / 3
    names = (("cpu", "CPU"), ("memory", "memory"), ("devices", "devices"))
    for number, (kind, label) in enumerate(names):
        sub = str(graph.nodes["hardware/memory"]["state"].get("size", "")) if kind == "memory" else ""
        box = Box(LEFT + number * (third + 14), top, third, tall)
        cpus = [node for node, data in graph.nodes(data=True) if data["kind"] == "cpu"] if kind == "cpu" else []
        if len(cpus) > 1:
            _processors(shape, cpus, box)
        else:
            shape.node(f"hardware/{kind}", kind, label, sub, box)
    above = "vmm" if virtual else "guest0/kernel"
    for node in [each for each in shape.boxes if each.startswith("hardware/")]:
        box = shape.boxes[node]
        start = shape.boxes[above].bottom
        middle = (
            box.middle
            if virtual
            else min(max(box.middle, shape.boxes[above].x + 8), shape.boxes[above].x + shape.boxes[above].w - 8)
        )
        shape.edge(
            above,
            node,
            "runs on" if node.startswith("hardware/cpu") else "assigned to",
            f"M{middle:g} {start:g}V{box.y:g}",
        )


def _processors(shape: _Shape, nodes: list[str], box: Box) -> None:
    """Place several processors side by side."""
    gap = 8 if len(nodes) <= 4 else 2
    width = (box.w + gap) / len(nodes) - gap
    for number, node in enumerate(nodes):
        label = f"CPU {number}" if width > 44 else str(number)
        shape.node(node, "cpu", label, "", Box(box.x + number * (width + gap), box.y, width, box.h))
