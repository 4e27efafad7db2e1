"""The layered graph of a running system of any kind: who runs on whom, in which mode, and who is in control.

Node attributes: `label`, `layer` (one of `vmlab.kinds.part.LAYERS`), `privilege`, `counters`, `state`, `in_control`. Edge attribute
`relation`: `runs on`, `traps to`, `assigned to`. Graph attributes: `name`, `kind`, `control`.

Nothing is kept: each call reads the running system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx

from vmlab.errors import OptionError
from vmlab.kinds.running import Running

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_running", "kind_graph", "kind_rows"]


def check_running(running: object) -> Running:
    """Return a running system, or refuse what is none."""
    if not isinstance(running, Running):
        raise OptionError(f"that is no running system, as vmlab.preset('VMware ESX') gives: {running!r:.80}")
    return running


def kind_graph(running: Running) -> nx.DiGraph:
    """Return the layered graph of a running system.

    Parameters
    ----------
    running : Running
        Of `vmlab.preset`.

    Raises
    ------
    OptionError
        It is none.
    """
    running = check_running(running)
    control = running.in_control
    graph = nx.DiGraph(name=running.preset.name, kind=running.preset.kind, control=control)
    parts = running.parts()
    for part in parts:
        graph.add_node(
            part.name,
            label=part.label,
            layer=part.layer,
            privilege=part.privilege,
            counters=dict(part.counters),
            state=dict(part.state),
            in_control=part.name == control,
        )
    for part in parts:
        relations = (("traps to", part.traps_to), ("runs on", part.runs_on), ("assigned to", _one(part.assigned_to)))
        for relation, targets in relations:
            for target in filter(graph.has_node, targets):
                graph.add_edge(part.name, target, relation=relation)
    return graph


def _one(name: str | None) -> Iterable[str]:
    return () if name is None else (name,)


def kind_rows(graph: nx.DiGraph) -> list[dict[str, Any]]:
    """Return the nodes as rows of a table."""
    return [
        {
            "layer": data["layer"],
            "node": node,
            "label": data["label"],
            "privilege": data["privilege"],
            "in control": data["in_control"],
            "state": ", ".join(f"{key} {value}" for key, value in data["state"].items()),
            "counters": ", ".join(f"{key} {value:,}" for key, value in data["counters"].items()),
            "edges": "; ".join(
                f"{edge['relation']} {graph.nodes[target]['label']}"
                for _, target, edge in graph.out_edges(node, data=True)
            ),
        }
        for node, data in graph.nodes(data=True)
    ]
