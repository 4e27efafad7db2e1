"""The layers of a running system as a graph: hardware, monitor, guest kernels, guest processes.

This is Figure 18.1 of Silberschatz, Galvin and Gagne, *Operating System Concepts* (10th ed.), drawn from the machine:
natively its left half (processes, kernel, hardware), under a hypervisor its right half, with as many guests as run.
Nothing is kept here: each call reads the system and returns a new graph.

Node attributes: `label`, `kind` (`processes`, `kernel`, `vcpu`, `shadow`, `vmm`, `cpu`, `memory`, `device`), `layer`
(`processes`, `kernel`, `vmm`, `hardware`), `guest` (index or None), `privilege`, `counters`, `state`.
Edge attribute: `relation`, one of `runs on`, `traps to`, `maps to`, `assigned to`.

With several processors, each is a node (`hardware/cpu0` and so on), and the kernel runs on all of them.

Simplified: hardware and monitor know no processes, only address spaces: each in which user mode has run is a node (at
most three a guest).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import networkx as nx

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import EFER_SVME
from vmlab.kinds.running import Running
from vmlab.views.kind_graph import kind_graph
from vmlab.vmm.page_walk import shadows_of
from vmlab.vmm.system import System

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmlab.machine.machine import Machine
    from vmlab.machine.processor import Processor
    from vmlab.machine.recording import Recording
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.run import Run

__all__ = ["describe", "guest_names", "layers", "monitor", "processor_nodes", "processor_state", "rows", "user_spaces"]

MOST_PROCESSES = 3


def layers(of: System | Run | Recording | Running) -> nx.DiGraph:
    """Return the layer graph of a running system.

    Parameters
    ----------
    of : System, Run, Recording or Running
        A system of any kind, from `vmlab.preset`, whose graph `vmlab.views.kind_graph` describes; or a system, or what holds one: a finished run, or a recording at its cursor. A process is an address space in
        which code has run in user mode: so far, or in a recording at any time.

    Returns
    -------
    networkx.DiGraph
        Nodes from the top layer to the bottom one; graph attributes `technique` and `guests` (their number).

    Raises
    ------
    OptionError
        It is none of these.
    """
    if isinstance(of, Running):
        return kind_graph(of)
    holder: Any = of
    system: System = getattr(holder, "system", holder)
    if not isinstance(system, System):
        raise OptionError(f"layers takes a Run, a Recording or a System, not {type(of).__name__}")
    spaces = user_spaces(of)
    graph = nx.DiGraph(technique=system.technique, guests=len(system.guests))
    virtual = monitor(system) is not None
    names = guest_names(system)
    for index, guest in enumerate(system.guests):
        _add_processes(graph, index, spaces[index], virtual=virtual and not system.assisted)
        _add_kernel(graph, system, index, guest, names[index])
    if virtual:
        _add_vmm(graph, system)
    _add_hardware(graph, system)
    for index in range(len(system.guests)):
        kernel = f"guest{index}/kernel"
        below = ["vmm"] if virtual else processor_nodes(system)
        users = [node for node, data in graph.nodes(data=True) if (data["kind"], data["guest"]) == ("processes", index)]
        for process in users:
            graph.add_edge(process, kernel, relation="runs on")
            if virtual:
                graph.add_edge(process, "vmm", relation="traps to")
        if virtual:
            graph.add_edge(f"guest{index}/vcpu", "vmm", relation="runs on")
            graph.add_edge(f"guest{index}/shadow", "hardware/memory", relation="maps to")
        for node in below:
            graph.add_edge(kernel, node, relation="traps to" if virtual else "runs on")
    return graph


def monitor(system: System) -> Any:  # noqa: ANN401 - each technique has its own
    """Return the virtual-machine monitor of a system, None natively."""
    return getattr(system, "vmm", None)


def memory_name(system: System, index: int) -> str:
    """Name what a monitor translates a guest's addresses by."""
    if system.memory_virtualization == "direct":
        return "checked page tables"
    memories = getattr(system, "memories", None)
    return memories[index].name if memories else "shadow page tables"


def processor_nodes(system: System) -> list[str]:
    """Name the nodes of the processors: one has no number."""
    count = len(system.machine.cpus)
    return [f"hardware/cpu{n}" for n in range(count)] if count > 1 else ["hardware/cpu"]


def processor_state(cpu: Processor) -> str:
    """Say what one of several processors does: its ring, or that it waits."""
    if cpu.signals.waiting:
        return "waits for STARTUP"
    return "halted" if cpu.halted else f"ring {cpu.cpl}"


def user_spaces(of: System | Run | Recording) -> list[list[int]]:
    """Return for each guest the CR3 values under which its user mode ran, in order of their appearance.

    Of a recording, at any time in it, so that a picture keeps its shape; its cursor is where it was afterwards.
    """
    holder: Any = of
    system: System = getattr(holder, "system", holder)
    if not hasattr(holder, "seek"):
        found = [dict.fromkeys(space for vcpu in guest.vcpus for space in vcpu.user_spaces) for guest in system.guests]
        return [list(each)[:MOST_PROCESSES] for each in found]
    position = holder.position
    holder.seek(holder.length)
    spaces = user_spaces(system)
    holder.seek(position)
    return spaces


def guest_names(system: System) -> list[str]:
    """Name the guests; guests of the same name get a number."""
    names = [str(guest.name) for guest in system.guests]
    return [f"{name} {names[:n].count(name) + 1}" if names.count(name) > 1 else name for n, name in enumerate(names)]


def _add_processes(graph: nx.DiGraph, index: int, spaces: list[int], *, virtual: bool) -> None:
    """Add what a guest runs in user mode: a node for each address space."""
    for number, space in enumerate(spaces):
        graph.add_node(
            f"guest{index}/user{number}",
            label=f"process {number + 1}" if len(spaces) > 1 else "process",
            kind="processes",
            layer="processes",
            guest=index,
            privilege="virtual user mode" if virtual else "user mode, ring 3",
            counters={},
            state={"CR3": f"{space:#010x}"},
        )


def _add_kernel(graph: nx.DiGraph, system: System, index: int, guest: Guest, name: str) -> None:
    graph.add_node(
        f"guest{index}/kernel",
        label=f"{name} kernel",
        kind="kernel",
        layer="kernel",
        guest=index,
        privilege=_kernel_privilege(system),
        counters={"instructions": guest.instructions},
        state={"guest": _guest_state(system, index, guest), "mode": guest.mode},
    )


def _kernel_privilege(system: System) -> str:
    """Say in which mode and ring guest kernels run."""
    if monitor(system) is None:
        return "kernel mode, ring 0"
    if system.assisted:
        return f"kernel mode, ring 0, {operation(system.machine.cpu, in_guest=True)}"
    return "kernel mode, ring 1" if system.memory_virtualization == "direct" else "virtual kernel mode"


def _guest_state(system: System, index: int, guest: Guest) -> str:
    if guest.outcome is not None:
        return f"ended: {guest.outcome}"
    return "running" if index == system.current else "ready"


def _add_vmm(graph: nx.DiGraph, system: System) -> None:
    """Add the monitor, and for each guest its VCPU and shadow page tables."""
    vmm = monitor(system)
    graph.add_node(
        "vmm",
        label=vmm.name,
        kind="vmm",
        layer="vmm",
        guest=None,
        privilege="host kernel mode, ring 0"
        + (f", {operation(system.machine.cpu, in_guest=False)}" if system.assisted else ""),
        counters=dict(sorted(vmm.counters.items())),
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
            state={
                "EIP": f"{guest.vcpu.ip:#010x}",
                "EFLAGS": f"{guest.vcpu.flags:#010x}",
                "CR3": f"{guest.vcpu.cr3:#010x}",
            },
        )
        shadows = shadows_of(system, index)  # of each of its VCPUs
        graph.add_node(
            f"guest{index}/shadow",
            label=memory_name(system, index),
            kind="shadow",
            layer="vmm",
            guest=index,
            privilege="held by the VMM",
            counters=dict(sorted(sum((shadow.counters for shadow in shadows), Counter[str]()).items())),
            state={
                "policy": shadows[0].policy,
                "shadow pages": sum(len(shadow.pages.pages) for shadow in shadows),
                "out of step": sum(len(shadow.traces.out_of_step) for shadow in shadows),
            }
            if shadows
            else {},
        )


def _add_hardware(graph: nx.DiGraph, system: System) -> None:
    """Add CPU, memory and devices, and what rests on them."""
    machine = system.machine
    host = {"layer": "hardware", "guest": None}
    several = len(machine.cpus) > 1
    for number, (node, cpu) in enumerate(zip(processor_nodes(system), machine.cpus, strict=True)):
        graph.add_node(
            node,
            label=f"CPU {number}" if several else "CPU",
            kind="cpu",
            privilege=processor_state(cpu) if several else _ring(cpu),
            counters={"instructions": cpu.retired} if several else {},
            state={"EIP": f"{cpu.ip:#010x}", "EFLAGS": f"{cpu.flags:#010x}", "CR3": f"{cpu.cr3:#010x}"},
            **host,
        )
    graph.add_node(
        "hardware/memory",
        label="memory",
        kind="memory",
        privilege="",
        counters={},
        state=_memory_state(machine),
        **host,
    )
    owner = None if monitor(system) is None else "vmm"
    for name, guest in _devices(system):
        node = f"hardware/{name}" if guest is None else f"guest{guest}/device/{name}"
        if node in graph:
            continue
        graph.add_node(
            node,
            label=name,
            kind="device",
            privilege="",
            counters={},
            state={},
            **(host if guest is None else {"layer": "vmm", "guest": guest}),
        )
        graph.add_edge(node, owner if guest is None and owner else f"guest{guest or 0}/kernel", relation="assigned to")
    if owner:
        graph.add_edge(owner, "hardware/cpu", relation="runs on")


def operation(cpu: Processor, *, in_guest: bool) -> str:
    """Name the operation in which a processor runs a guest, or its host; nothing without extensions switched on."""
    if cpu.vmx.on:
        return "non-root" if in_guest else "root"
    if cpu.efer & EFER_SVME:
        return "guest mode" if in_guest else "host mode"
    return ""


def _ring(cpu: Processor) -> str:
    """Say in which ring a processor is, and in which operation."""
    return ", ".join(filter(None, (f"ring {cpu.cpl}", operation(cpu, in_guest=cpu.non_root))))


def _devices(system: System) -> Iterable[tuple[str, int | None]]:
    """Yield the devices: the real ones, and under a monitor each guest's virtual ones."""
    for name in system.machine.platform.devices:
        yield name, None
    if monitor(system) is not None:
        for index, guest in enumerate(system.guests):
            for name in guest.device_names:
                yield name, index


def _memory_state(machine: Machine) -> dict[str, str]:
    size = machine.memory.size
    return {"size": f"{size >> 20} MiB" if size % (1 << 20) == 0 else f"{size >> 10} KiB"}


def rows(graph: nx.DiGraph) -> list[dict[str, Any]]:
    """Return the nodes as rows of a table: layer, node, privilege, state, counters, what it rests on."""
    table = []
    for node, data in graph.nodes(data=True):
        edges = [
            f"{edge['relation']} {graph.nodes[target]['label']}" for _, target, edge in graph.out_edges(node, data=True)
        ]
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
