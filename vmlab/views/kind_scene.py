"""A running system as a pane of the layer explorer: the picture's boxes with their places, what each part has to say, a journey.

Everything is plain data that can be sent to a browser. Places are those of `vmlab.views.kind_layout`, so that the static picture
and the live one are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.views.kind_graph import kind_graph
from vmlab.views.kind_layout import ROLES, place_parts, row_names, small_words

if TYPE_CHECKING:
    from vmlab.kinds.journey import Journey
    from vmlab.kinds.running import Running

__all__ = ["journey_scene", "kind_scene"]


def kind_scene(running: Running) -> dict[str, Any]:
    """Return a running system as it is now.

    Parameters
    ----------
    running : Running
        Of `vmlab.preset`.

    Returns
    -------
    dict
        `name`, `kind`; `width`, `height`, `rows`, `boxes`; `control`, the part in control; `details`, rows of a table for each part;
        `facts`, what is documented; `results`, the workload's line of each that has it; `cycles`; `finished`; `text`.
    """
    graph = kind_graph(running)
    boxes, layers, width, height = place_parts(graph)
    known = running.preset.particulars
    return {
        "name": running.preset.name,
        "kind": running.preset.kind,
        "width": width,
        "height": height,
        "rows": [{"label": label, "y": top} for label, top in row_names(layers)],
        "boxes": [
            {
                "name": box.name, "label": graph.nodes[box.name]["label"], "small": small_words(graph, box.name),
                "role": ROLES[graph.nodes[box.name]["layer"]], "x": box.x, "y": box.y, "w": box.w, "h": box.h,
            }
            for box in boxes
        ],
        "control": running.in_control,
        "details": {node: _details(graph, node) for node in graph},
        "facts": [] if known is None else [*known.facts, f"Here: {known.runs}.", f"Not here: {known.not_here}.", f"Source: {known.source}."],
        "results": dict(running.results),
        "cycles": running.cycles,
        "finished": running.finished,
        "events": list(running.events),
        "text": running.describe(),
    }  # fmt: skip


def _details(graph: Any, node: str) -> list[list[str]]:  # noqa: ANN401 - networkx has no types
    """Return what there is to say of a part, as rows of a table."""
    data = graph.nodes[node]
    rows = [["layer", data["layer"]]]
    if data["privilege"]:
        rows.append(["mode", data["privilege"]])
    rows += [[str(key), str(value)] for key, value in data["state"].items()]
    rows += [[edge["relation"], graph.nodes[target]["label"]] for _, target, edge in graph.out_edges(node, data=True)]
    return rows + [[str(key), f"{value:,}"] for key, value in data["counters"].items()]


def journey_scene(journey: Journey) -> dict[str, Any]:
    """Return a journey: its legs with the cycles so far."""
    total, legs = 0, []
    for leg in journey.legs:
        total += leg.cycles * leg.times
        legs.append({"part": leg.part, "what": leg.what, "cycles": leg.cycles, "times": leg.times, "total": total})
    return {"event": journey.event, "hops": journey.hops, "cycles": journey.cycles, "legs": legs}
