"""A page walk as a graph: tables and pages are nodes, the entries that were used are edges.

Node attributes: `label`, `kind` (`register`, `table`, `page`), `dimension` (`guest`, `host`, `shadow`), `address` (as the
dimension sees it: guest-physical in a guest's tables under nested paging), `row` (guest level).
Edge attributes: `slots`, `entries`, `steps` (numbers of the references; of one that cost none, `None`), `served`, `said`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from vmlab.views.page_walk import PageWalk
    from vmlab.views.walk_references import Reference

__all__ = ["walk_graph"]


def walk_graph(walk: PageWalk) -> nx.DiGraph:
    """Return the graph of a walk.

    Examples
    --------
    >>> from vmlab.vmm.walk_lab import WalkLab
    >>> from vmlab.views.page_walk import walk
    >>> lab = WalkLab("4-level", None)
    >>> list(walk_graph(walk(lab, lab.address)))[:2]
    ['guest root', 'guest table 0x100000']
    """
    graph = nx.DiGraph(title=walk.title, address=walk.address, kind=walk.kind, references=walk.references)
    for steps in (walk.steps, walk.shadow_steps):
        sources: dict[str, str] = {}
        for step in steps:
            dimension = step.dimension
            if dimension == "host" and step.column == 0:
                sources.pop("host", None)  # each row begins at the host's root
            source = sources.get(dimension)
            if source is None:
                source = f"{dimension} root"
                if source not in graph:
                    graph.add_node(source, label="root", kind="register", dimension=dimension, address=None, row=0)
                source = _enter(graph, source, step, _base(walk, step), step.short)
            sources[dimension] = _follow(graph, source, step)
    return graph


def _base(walk: PageWalk, step: Reference) -> int:
    """Return where the first table of a walk lies, as its dimension sees it."""
    space = walk.sight.guest.guest if step.dimension == "guest" else walk.sight.guest.host
    if step.dimension == "shadow" and walk.sight.shadow:
        space = walk.sight.shadow.guest
    if space is None or not space.format.root_mask:
        return step.table
    return space.top


def _enter(graph: nx.DiGraph, source: str, step: Reference, base: int, label: str) -> str:
    """Add the first table, to which a register points."""
    node = f"{step.dimension} table {base:#x}"
    if node not in graph:
        graph.add_node(node, label=label, kind="table", dimension=step.dimension, address=base, row=step.row)
    if not graph.has_edge(source, node):
        graph.add_edge(source, node, slots=[], entries=[], steps=[], served=[], said="")
    return node


def _follow(graph: nx.DiGraph, source: str, step: Reference) -> str:
    """Add what an entry points to, and the entry."""
    if step.target is None:
        node = f"{step.dimension} nothing"
        graph.add_node(node, label="not present", kind="nothing", dimension=step.dimension, address=None, row=step.row)
    else:
        kind = "page" if step.leaf else "table"
        node = f"{step.dimension} {kind} {step.target:#x}"
        if node not in graph:
            below = step.row if step.dimension == "host" else step.row + 1
            graph.add_node(node, label=kind, kind=kind, dimension=step.dimension, address=step.target, row=below)
    if not graph.has_edge(source, node):
        graph.add_edge(source, node, slots=[], entries=[], steps=[], served=[], said=step.said)
    graph.nodes[source]["label"] = step.short
    edge = graph.edges[source, node]
    edge["slots"].append(step.slot)
    edge["entries"].append(step.entry)
    edge["steps"].append(step.number if step.served == "memory" else None)
    edge["served"].append(step.served)
    return node
