"""The layers of a running system as a graph: hardware, monitor, guest kernels, guest processes.

This is Figure 18.1 of Silberschatz, Galvin and Gagne, *Operating System Concepts* (10th ed.), drawn from the machine:
natively its left half (processes, kernel, hardware), under a hypervisor its right half, with as many guests as run.
Nothing is kept here: each call reads the system and returns a new graph.

Node attributes: `label`, `kind` (`processes`, `kernel`, `vcpu`, `shadow`, `vmm`, `cpu`, `memory`, `device`), `layer`
(`processes`, `kernel`, `vmm`, `hardware`), `guest` (index or None), `privilege`, `counters`, `state`.
Edge attribute: `relation`, one of `runs on`, `traps to`, `maps to`, `assigned to`.

Simplified: all user-mode code of a guest is one node, whatever number of processes its kernel schedules, unless the
system tells its address spaces apart (`guest.user_spaces`, CR3 values under which user mode ran).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["describe", "guest_names", "layers", "rows"]


def layers(system: Any) -> nx.DiGraph:
    """Return the layer graph of a running system.

    Parameters
    ----------
    system : System
        What a recording replays, or a run holds.

    Returns
    -------
    networkx.DiGraph
        Nodes from the top layer to the bottom one; graph attributes `technique` and `guests` (their number).
    """
    graph = nx.DiGraph(technique=system.technique, guests=len(system.guests))
    virtual = getattr(system, "vmm", None) is not None
    for index, (guest, name) in enumerate(zip(system.guests, guest_names(system), strict=True)):
        _add_guest(graph, system, index, guest, name)
    if virtual:
        _add_vmm(graph, system)
    _add_hardware(graph, system)
    for index in range(len(system.guests)):
        kernel = f"guest{index}/kernel"
        below = "vmm" if virtual else "hardware/cpu"
        users = [node for node, data in graph.nodes(data=True) if (data["kind"], data["guest"]) == ("processes", index)]
        for process in users:
            graph.add_edge(process, kernel, relation="runs on")
            if virtual:
                graph.add_edge(process, below, relation="traps to")
        if virtual:
            graph.add_edge(f"guest{index}/vcpu", "vmm", relation="runs on")
            graph.add_edge(f"guest{index}/shadow", "hardware/memory", relation="maps to")
        graph.add_edge(kernel, below, relation="traps to" if virtual else "runs on")
    return graph


def guest_names(system: Any) -> list[str]:
    """Name the guests; guests of the same name get a number."""
    names = [str(guest.name) for guest in system.guests]
    return [f"{name} {names[:n].count(name) + 1}" if names.count(name) > 1 else name for n, name in enumerate(names)]


def _add_guest(graph: nx.DiGraph, system: Any, index: int, guest: Any, name: str) -> None:
    """Add a guest's processes and kernel."""
    virtual = getattr(system, "vmm", None) is not None
    state = _guest_state(system, index, guest)
    spaces = list(getattr(guest, "user_spaces", ()) or ())
    for number, space in enumerate(spaces or [None]):
        label = "processes" if space is None else f"process {number + 1}"
        graph.add_node(
            f"guest{index}/user{number}",
            label=label,
            kind="processes",
            layer="processes",
            guest=index,
            privilege="virtual user mode" if virtual else "user mode, ring 3",
            counters={},
            state={} if space is None else {"CR3": f"{space:#010x}"},
        )
    graph.add_node(
        f"guest{index}/kernel",
        label=f"{name} kernel",
        kind="kernel",
        layer="kernel",
        guest=index,
        privilege="virtual kernel mode" if virtual else "kernel mode, ring 0",
        counters={"instructions": guest.instructions},
        state={"guest": state, "mode": guest.mode},
    )


def _guest_state(system: Any, index: int, guest: Any) -> str:
    if guest.outcome is not None:
        return f"ended: {guest.outcome}"
    return "running" if index == system.current else "ready"


def _add_vmm(graph: nx.DiGraph, system: Any) -> None:
    """Add the monitor, and for each guest its VCPU and shadow page tables."""
    graph.add_node(
        "vmm",
        label=system.vmm.name,
        kind="vmm",
        layer="vmm",
        guest=None,
        privilege="host kernel mode, ring 0",
        counters=dict(sorted(system.vmm.counters.items())),
        state={"in VMM": bool(system.in_vmm), "running guest": system.guests[system.current].name},
    )
    for index, guest in enumerate(system.guests):
        graph.add_node(
            f"guest{index}/vcpu",
            label="VCPU",
            kind="vcpu",
            layer="vmm",
            guest=index,
            privilege=f"virtual {guest.mode} mode",
            counters=dict(sorted(guest.exits.items())),
            state={"EIP": f"{guest.vcpu.ip:#010x}", "EFLAGS": f"{guest.vcpu.flags:#010x}", "CR3": f"{guest.vcpu.cr3:#010x}"},
        )
        graph.add_node(
            f"guest{index}/shadow",
            label="shadow page tables",
            kind="shadow",
            layer="vmm",
            guest=index,
            privilege="held by the VMM",
            counters={},
            state={},
        )


def _add_hardware(graph: nx.DiGraph, system: Any) -> None:
    """Add CPU, memory and devices, and what rests on them."""
    machine = system.machine
    cpu = machine.cpu
    host = {"layer": "hardware", "guest": None}
    graph.add_node(
        "hardware/cpu", label="CPU", kind="cpu", privilege=f"ring {cpu.cpl}", counters={},
        state={"EIP": f"{cpu.ip:#010x}", "EFLAGS": f"{cpu.flags:#010x}", "CR3": f"{cpu.cr3:#010x}"}, **host,
    )  # fmt: skip
    graph.add_node("hardware/memory", label="memory", kind="memory", privilege="", counters={}, state=_memory_state(machine), **host)
    owner = "vmm" if getattr(system, "vmm", None) is not None else None
    for name, guest in _devices(system):
        node = f"hardware/{name}" if guest is None else f"guest{guest}/device/{name}"
        if node in graph:
            continue
        graph.add_node(node, label=name, kind="device", privilege="", counters={}, state={}, **(host if guest is None else {"layer": "vmm", "guest": guest}))
        graph.add_edge(node, owner if guest is None and owner else f"guest{guest or 0}/kernel", relation="assigned to")
    if owner:
        graph.add_edge(owner, "hardware/cpu", relation="runs on")


def _devices(system: Any) -> Iterable[tuple[str, int | None]]:
    """Yield the devices: the real ones, and under a monitor each guest's virtual ones."""
    for name in system.machine.platform.devices:
        yield name, None
    if getattr(system, "vmm", None) is not None:
        for index, guest in enumerate(system.guests):
            for name in guest.platform.devices:
                yield name, index


def _memory_state(machine: Any) -> dict[str, str]:
    size = getattr(machine.memory, "size", None)
    return {} if size is None else {"size": f"{size // 1024} KiB"}


def rows(graph: nx.DiGraph) -> list[dict[str, Any]]:
    """Return the nodes as rows of a table: layer, node, privilege, state, counters, what it rests on."""
    table = []
    for node, data in graph.nodes(data=True):
        edges = [f"{edge['relation']} {graph.nodes[target]['label']}" for _, target, edge in graph.out_edges(node, data=True)]
        table.append(
            {
                "layer": data["layer"],
                "node": node,
                "label": data["label"],
                "privilege": data["privilege"],
                "state": ", ".join(f"{key} {value}" for key, value in data["state"].items()),
                "counters": ", ".join(f"{key} {value:,}" for key, value in data["counters"].items()),
                "edges": "; ".join(edges),
            }
        )
    return table


def describe(graph: nx.DiGraph) -> str:
    """Say in words what the picture of the graph shows, layer by layer from the top."""
    guests = graph.graph["guests"]
    lines = [f"{graph.graph['technique']}: {guests} {'guest' if guests == 1 else 'guests'}"]
    for layer in ("processes", "kernel", "vmm", "hardware"):
        members = [row for row in rows(graph) if row["layer"] == layer]
        if not members:
            continue
        lines.append(f"{layer}:")
        for row in members:
            facts = [fact for fact in (row["privilege"], row["state"], row["counters"], row["edges"]) if fact]
            lines.append(f"  {row['node']} ({row['label']}): " + "; ".join(facts))
    return "\n".join(lines)
