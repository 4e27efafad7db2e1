"""Page tables as a graph, with a figure: those of a guest, beside them its shadow tables, or the host's nested ones.

Nodes are tables, and ranges of pages: neighbouring entries that map neighbouring frames with the same rights are one node.
Edges are entries. Under shadow paging a shadow table is tied to the table that it shadows; one which the guest may change
unseen is *out of step*, and an entry whose guest entry has changed since is *stale*.

Node attributes: `label`, `kind` (`table`, `pages`), `dimension` (`guest`, `shadow`, `host`), `level`, `address`, `entries`,
`out_of_step`, `role` and `of` (whose rights, and of which table), `stale` (slot, the guest's entry that it derives from, the
one that is there now); of pages `linear`, `span`, `rights`.
Edge attributes: `relation` (`points to`, `maps`, `shadows`), `slots`, `said`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx

from vmlab.errors import OptionError
from vmlab.machine.page_tables import TableEntry, table_entries
from vmlab.machine.paging import WRITABLE
from vmlab.views.entry_bits import decode_entry, short_name
from vmlab.vmm.page_walk import guest_space, host_space, reader, shadow_of
from vmlab.vmm.shadow_roles import shift_of
from vmlab.vmm.system import System, system_of
from vmlab.vmm.walk_lab import WalkLab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmlab.machine.nested_walk import AddressSpace
    from vmlab.machine.recording import Recording
    from vmlab.vmm.run import Run
    from vmlab.vmm.shadow_tables import ShadowEntry, ShadowTable

__all__ = ["describe_page_tables", "page_table_rows", "page_tables", "shadow_entries"]

WHICH = ("guest", "shadow", "host")
VIEWS = ("view of all rings", "view of all rings, WP 0", "kernel's view", "kernel's view, WP 0", "user's view")
"""Whose rights a shadow table grants, by `View`."""
NAMES = {1: "PT", 2: "PD", 3: "PDPT", 4: "PML4", 5: "PML5"}


def page_tables(of: System | Run | Recording | WalkLab, *, guest: int = 0, which: str = "guest") -> nx.DiGraph:
    """Return page tables as a graph.

    Parameters
    ----------
    of : System, Run, Recording or WalkLab
        Whose, as for `vmlab.walk`.
    guest : int
        Which guest.
    which : {"guest", "shadow", "host"}
        The guest's own, of its present address space; these and its shadow tables; or the host's that map its physical
        memory.

    Returns
    -------
    networkx.DiGraph
        Draw it by `vmlab.views.page_tables_figure`.

    Raises
    ------
    OptionError
        There are no such tables.
    """
    if which not in WHICH:
        raise OptionError(f"which tables: one of {', '.join(WHICH)}, not {which!r}")
    if isinstance(of, WalkLab):
        spaces = dict(zip(("guest", "host"), of.spaces, strict=True))
        memory = {"guest": of.read_guest, "host": of.memory.read}
        if spaces.get(which) is None:
            raise OptionError(f"this laboratory has no {which} tables")
        graph = nx.DiGraph(title=f"{which}'s tables")
        _add_tables(graph, which, spaces[which], memory[which])  # type: ignore[arg-type]  # it is not None
        return graph
    return _of_system(_system_of(of, guest), guest, which)


def _system_of(of: System | Run | Recording, guest: int) -> System:
    return system_of(of, guest, "page_tables takes a Run, a Recording, a System or a WalkLab")


def _of_system(system: System, guest: int, which: str) -> nx.DiGraph:
    graph = nx.DiGraph(title=f"{system.guests[guest].name} under {system.technique}: {which} tables")
    host, shadow = host_space(system, guest), shadow_of(system, guest)
    if which == "host":
        if host is None:
            raise OptionError(
                f"there are no nested page tables here: memory virtualization is {system.memory_virtualization!r} under {system.technique}"
            )
        _add_tables(graph, "host", host, reader(system.machine.cpu))
        return graph
    if which == "shadow" and shadow is None:
        raise OptionError(
            f"there are no shadow page tables here: memory virtualization is {system.memory_virtualization!r} under {system.technique}"
        )
    _, space = guest_space(system, guest)
    if space is not None:
        _add_tables(graph, "guest", space, reader(system.guests[guest].vcpu))
    elif which == "guest":
        raise OptionError("paging is off in this guest: it has no page tables")
    if which == "shadow" and shadow is not None:
        _add_shadow(graph, shadow.tables())
    return graph


# -- the guest's and the host's -------------------------------------------------------------------------------------------


class _Pages(NamedTuple):
    """Neighbouring entries that map neighbouring frames with the same rights."""

    first: TableEntry
    entries: int
    rights: str


def _rights(space: AddressSpace, entry: TableEntry) -> str:
    level = space.format.levels[entry.level]
    return " ".join(f"{bit.name}={bit.value}" for bit in decode_entry(space.format, level, entry.entry) if bit.right)


def _add_tables(graph: nx.DiGraph, dimension: str, space: AddressSpace, read: Callable[[int, int], int]) -> None:
    """Add the tables of an address space."""
    levels = space.format.levels
    _add_table(graph, dimension, space.top, short_name(levels[0]), 0)
    pages: dict[int, list[_Pages]] = {}
    for entry in table_entries(space, read):
        table = f"{dimension} table {entry.table:#x}"
        graph.nodes[table]["entries"] += 1
        rights = _rights(space, entry)
        if entry.is_leaf:
            _gather(pages.setdefault(entry.table, []), entry, rights)
            continue
        below = f"{dimension} table {entry.target:#x}"
        if below not in graph:
            _add_table(graph, dimension, entry.target, short_name(levels[entry.level + 1]), entry.level + 1)
        _add_edge(graph, table, below, "points to", entry.slot, rights)
    for found in pages.values():
        for each in found:
            _add_pages(graph, dimension, each)


def _add_table(
    graph: nx.DiGraph, dimension: str, address: int, label: str, level: int, state: dict[str, Any] | None = None
) -> None:
    node = f"{dimension} table {address:#x}"
    state = {"out_of_step": False, "stale": [], "role": "", "of": "", "entries": 0} | (state or {})
    graph.add_node(node, label=label, kind="table", dimension=dimension, level=level, address=address, **state)


def _add_edge(graph: nx.DiGraph, source: str, target: str, relation: str, slot: int, said: str) -> None:
    if graph.has_edge(source, target):
        graph.edges[source, target]["slots"].append(slot)
    else:
        graph.add_edge(source, target, relation=relation, slots=[slot], said=said)


def _gather(found: list[_Pages], entry: TableEntry, rights: str) -> None:
    """Add an entry to the range that it continues, or begin one."""
    last = found[-1] if found else None
    if last and last.rights == rights:
        first, count = last.first, last.entries
        follows = entry.address == first.address + count * first.span
        if follows and entry.target == first.target + count * first.span:
            found[-1] = last._replace(entries=count + 1)
            return
    found.append(_Pages(entry, 1, rights))


def _add_pages(graph: nx.DiGraph, dimension: str, pages: _Pages) -> None:
    first, count, rights = pages
    node = f"{dimension} pages {first.address:#x}"
    end = first.address + count * first.span - 1
    graph.add_node(
        node,
        label=f"{first.address:#x}–{end:#x}",
        kind="pages",
        dimension=dimension,
        level=first.level + 1,
        address=first.target,
        linear=first.address,
        span=count * first.span,
        rights=rights,
        entries=count,
        out_of_step=False,
        stale=[],
        role="",
        of="",
    )
    table = f"{dimension} table {first.table:#x}"
    graph.add_edge(table, node, relation="maps", slots=list(range(first.slot, first.slot + count)), said=rights)


# -- shadow tables --------------------------------------------------------------------------------------------------------


def _add_shadow(graph: nx.DiGraph, tables: Iterable[ShadowTable]) -> None:
    """Add shadow tables, each tied to the one that it shadows."""
    tables = list(tables)
    for table in tables:
        role = table.role
        stale = [(entry.slot, entry.source, entry.now) for entry in table.entries if entry.source != entry.now]
        of = "of no table" if role.direct else f"of {role.table:#x}"
        if not role.direct and f"guest table {role.table:#x}" not in graph:
            of += ", which is another address space's"
        state = {"out_of_step": table.out_of_step, "stale": stale, "role": VIEWS[table.view], "of": of}
        state["entries"] = len(table.entries)
        _add_table(graph, "shadow", table.address, NAMES[role.level], role.shape - role.level, state)
    for table in tables:
        node = f"shadow table {table.address:#x}"
        for address, slot in table.parents:
            _add_edge(graph, f"shadow table {address:#x}", node, "points to", slot, "")
        own = f"guest table {table.role.table:#x}"
        if not table.role.direct and own in graph:
            graph.add_edge(node, own, relation="shadows", slots=[], said="out of step" if table.out_of_step else "")
        leaves = [entry for entry in table.entries if entry.leaf]
        if leaves:
            _add_shadow_pages(graph, node, table, leaves)


def _add_shadow_pages(graph: nx.DiGraph, node: str, table: ShadowTable, leaves: list[Any]) -> None:
    """Add what a shadow table of the last level maps, as one node."""
    writable = sum(entry.writable for entry in leaves)
    size = 1 << shift_of(table.role.shape, 1)
    pages = f"shadow pages {table.address:#x}"
    graph.add_node(
        pages,
        label=f"{len(leaves)} page{'' if len(leaves) == 1 else 's'}, {writable} writable",
        kind="pages",
        dimension="shadow",
        level=table.role.shape,
        address=None,
        linear=None,
        span=len(leaves) * size,
        rights=f"{writable} of {len(leaves)} writable",
        entries=len(leaves),
        out_of_step=table.out_of_step,
        stale=[],
        role="",
        of="",
    )
    graph.add_edge(node, pages, relation="maps", slots=[entry.slot for entry in leaves], said="")


def shadow_entries(of: System | Run | Recording, *, guest: int = 0) -> list[dict[str, Any]]:
    """Return the entries of a guest's shadow tables beside the entries that they derive from, as rows of a table.

    Parameters
    ----------
    of : System, Run or Recording
        What runs.
    guest : int
        Which guest.

    Returns
    -------
    list of dict
        `shadow` (table and slot), `view`, `shadow entry`, `guest table`, `guest entry` (as it is now), `state`: `= in step`,
        `≠ stale` (with the guest's entry of then), or `= write-protected` where the guest's entry allows writing and the
        shadow does not, for the dirty bit is clear or the page holds a table whose changes are traced.

    Raises
    ------
    OptionError
        There are no shadow page tables.
    """
    system = _system_of(of, guest)
    shadow = shadow_of(system, guest)
    if shadow is None:
        raise OptionError(
            f"there are no shadow page tables here: memory virtualization is {system.memory_virtualization!r} under {system.technique}"
        )
    return [
        {
            "shadow": f"{NAMES[table.role.level]} {table.address:#x}[{entry.slot}]",
            "view": VIEWS[table.view],
            "shadow entry": f"{entry.entry:#x}",
            "guest table": "" if table.role.direct else f"{table.role.table:#x}",
            "guest entry": "" if table.role.direct else f"{entry.now:#x}",
            "state": _state(table, entry),
        }
        for table in shadow.tables()
        for entry in table.entries
    ]


def _state(table: ShadowTable, entry: ShadowEntry) -> str:
    if entry.source != entry.now:
        return f"≠ stale: from {entry.source:#x}"
    protected = entry.leaf and not entry.writable and entry.now & WRITABLE
    return "= write-protected" if protected and not table.role.direct else "= in step"


# -- as a table and in words ----------------------------------------------------------------------------------------------


def page_table_rows(graph: nx.DiGraph) -> list[dict[str, Any]]:
    """Return the nodes as rows of a table."""
    table = []
    for node, data in graph.nodes(data=True):
        shadows = [target for _, target, edge in graph.out_edges(node, data=True) if edge["relation"] == "shadows"]
        state = [f"{data['role']} {data['of']}"] if data["role"] else []
        state += ["out of step"] if data["out_of_step"] and data["kind"] == "table" else []
        state += [f"entry {slot} is stale: from {source:#x}, by now {now:#x}" for slot, source, now in data["stale"]]
        table.append(
            {
                "node": node,
                "what": data["label"],
                "at": "" if data["address"] is None else f"{data['address']:#x}",
                "entries": data["entries"],
                "rights": data.get("rights", ""),
                "shadows": ", ".join(shadows),
                "state": "; ".join(state),
            }
        )
    return table


def describe_page_tables(graph: nx.DiGraph) -> str:
    """Say in words what the graph holds."""
    lines = [str(graph.graph["title"])]
    for row in page_table_rows(graph):
        facts = [f"{row['entries']} entries" if row["entries"] != 1 else "1 entry", row["rights"], row["state"]]
        facts += [f"shadows {row['shadows']}"] if row["shadows"] else []
        indent = "  " * (graph.nodes[row["node"]]["level"] + 1)
        lines.append(f"{indent}{row['node']} ({row['what']}): " + "; ".join(fact for fact in facts if fact))
    return "\n".join(lines)
