"""The layer graph follows the running system."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.views import describe, layers, rows
from vmlab.views.theme import LAYERS, RELATIONS

MEMORY = 2 << 20


def kinds(graph, layer):
    return [data["kind"] for _, data in graph.nodes(data=True) if data["layer"] == layer]


def relations(graph):
    return {(source, target): data["relation"] for source, target, data in graph.edges(data=True)}


def test_natively_the_kernel_stands_on_the_hardware(native):
    graph = layers(native)
    assert "vmm" not in graph
    assert kinds(graph, "processes") == ["processes"] * 2, "minios has two"
    assert kinds(graph, "kernel") == ["kernel"]
    assert {"cpu", "memory", "device"} <= set(kinds(graph, "hardware"))
    assert relations(graph)["guest0/user0", "guest0/kernel"] == "runs on"
    assert relations(graph)["guest0/kernel", "hardware/cpu"] == "runs on"
    assert graph.nodes["guest0/kernel"]["privilege"] == "kernel mode, ring 0"


def test_under_a_monitor_kernel_and_processes_trap_to_it(trapped):
    graph = layers(trapped)
    edges = relations(graph)
    assert edges["guest0/kernel", "vmm"] == "traps to"
    assert edges["guest0/user0", "vmm"] == "traps to"
    assert edges["vmm", "hardware/cpu"] == "runs on"
    assert edges["guest0/shadow", "hardware/memory"] == "maps to"
    assert graph.nodes["guest0/kernel"]["privilege"] == "virtual kernel mode"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_guest_has_its_column(count):
    image = vmlab.guests.load("hello")
    recording = vmlab.record([image] * count, under="trap-and-emulate", memory=MEMORY)
    graph = layers(recording)
    assert graph.graph["guests"] == count
    assert kinds(graph, "processes") == [], "hello never enters user mode"
    for kind in ("kernel", "vcpu", "shadow"):
        guests = [data["guest"] for _, data in graph.nodes(data=True) if data["kind"] == kind]
        assert guests == list(range(count))


def test_a_recording_tells_the_two_processes_of_minios_apart(trapped, pair):
    graph = layers(trapped)
    processes = [data for _, data in graph.nodes(data=True) if data["kind"] == "processes"]
    assert [data["label"] for data in processes] == ["process 1", "process 2"]
    roots = {data["state"]["CR3"] for data in processes}
    assert len(roots) == 2
    assert len([1 for _, data in layers(pair).nodes(data=True) if data["kind"] == "processes"]) == 4


def test_state_and_counters_are_the_systems(trapped):
    trapped.seek(trapped.length // 2)
    system = trapped.system
    graph = layers(system)
    guest = system.guests[0]
    assert graph.nodes["guest0/vcpu"]["counters"] == dict(guest.exits)
    assert graph.nodes["guest0/vcpu"]["state"]["CR3"] == f"{guest.vcpu.cr3:#010x}"
    assert graph.nodes["hardware/cpu"]["privilege"] == f"ring {system.machine.cpu.cpl}"
    assert graph.nodes["vmm"]["state"]["in VMM"] is system.in_vmm


def test_the_graph_follows_the_cursor_and_keeps_nothing(trapped):
    trapped.seek(0)
    start = layers(trapped.system)
    trapped.seek(trapped.length)
    end = layers(trapped.system)
    assert start.nodes["guest0/vcpu"]["counters"] == {}
    assert sum(end.nodes["guest0/vcpu"]["counters"].values()) > 100
    assert set(end) - set(start) == {"guest0/user0", "guest0/user1"}, "processes appear when they first run"
    trapped.seek(0)
    assert layers(trapped.system).nodes(data=True) == start.nodes(data=True)


def test_a_finished_run_is_accepted():
    run = vmlab.run(vmlab.guests.load("hello"), under="trap-and-emulate", memory=MEMORY)
    assert "ended" in layers(run).nodes["guest0/kernel"]["state"]["guest"]


def test_every_node_and_edge_is_complete(pair):
    graph = layers(pair)
    for _, data in graph.nodes(data=True):
        assert set(data) == {"label", "kind", "layer", "guest", "privilege", "counters", "state"}
        assert data["layer"] in LAYERS
    assert set(relations(graph).values()) <= set(RELATIONS)


def test_text_and_table_name_every_node(pair):
    graph = layers(pair)
    text = describe(graph)
    assert text.startswith("trap-and-emulate: 2 guests")
    table = rows(graph)
    assert [row["node"] for row in table] == list(graph)
    for node in graph:
        assert node in text
