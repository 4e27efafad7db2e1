"""Pictures of a computer with several processors: a node for each, and each step where it happened."""

from __future__ import annotations

from itertools import pairwise

import pytest

import vmlab
from vmlab.views.instant import REGISTERS
from vmlab.views.layers import describe, layers
from vmlab.views.layout import RIGHT, stage_shape
from vmlab.views.scene import SceneWriter, expand
from vmlab.vmm.techniques import build


@pytest.fixture(scope="module")
def recording():
    return vmlab.record(vmlab.guests.load("two_cpus"), cpus=2)


def test_each_processor_is_a_node_on_which_the_kernel_runs(recording):
    recording.seek(recording.length)
    graph = layers(recording)
    assert "hardware/cpu" not in graph
    for number, cpu in enumerate(recording.system.machine.cpus):
        node = f"hardware/cpu{number}"
        assert graph.nodes[node]["label"] == f"CPU {number}"
        assert graph.nodes[node]["counters"] == {"instructions": cpu.retired}
        assert graph.edges["guest0/kernel", node]["relation"] == "runs on"
    assert "hardware/cpu1 (CPU 1): halted" in describe(graph)
    recording.seek(0)
    assert layers(recording).nodes["hardware/cpu1"]["privilege"] == "waits for STARTUP"


@pytest.mark.parametrize("count", [2, 4, 16])
def test_processors_stand_side_by_side(count):
    shape = stage_shape(layers(build(vmlab.guests.load("two_cpus"), cpus=count)))
    boxes = [node for node in shape["nodes"] if node["kind"] == "cpu"]
    assert [box["id"] for box in boxes] == [f"hardware/cpu{n}" for n in range(count)]
    assert all(left["x"] + left["w"] < right["x"] for left, right in pairwise(boxes))
    memory = next(node for node in shape["nodes"] if node["id"] == "hardware/memory")
    assert boxes[-1]["x"] + boxes[-1]["w"] < memory["x"] < RIGHT
    assert sum(edge["target"].startswith("hardware/cpu") for edge in shape["edges"]) == count


def test_a_scene_shows_the_processor_that_ran(recording):
    """Its registers, before and after, whoever had the turn before."""
    writer = SceneWriter(recording)
    starts = [event.step for event in recording.events if event.kind == "signal"]
    scenes = expand(writer.window(starts[0] - 20, 1500))
    straight = build(vmlab.guests.load("two_cpus"), cpus=2)
    straight.advance(scenes[0]["step"] - 1)
    ran = []
    for scene in scenes:
        old = [list(cpu.registers) for cpu in straight.machine.cpus]
        straight.advance(1)
        place = straight.machine.ran
        ran.append(place)
        cpu = straight.machine.cpus[place]
        assert scene["step"] == straight.steps
        assert f"hardware/cpu{place}" in scene["lit"]
        assert f"hardware/cpu{1 - place}" not in scene["lit"]
        assert scene["cpu"][REGISTERS.index("EIP")] == cpu.ip
        assert scene["caption"].startswith(f"CPU {place}: ")
        if "EAX 0" in scene["caption"] and "ENDS" not in scene["caption"]:
            assert f"EAX {old[place][0]:08x} → {cpu.registers[0]:08x}" in scene["caption"]
    assert set(ran) == {0, 1}
    assert sum(one != other for one, other in pairwise(ran)) > 3
    by_step = {scene["step"]: scene for scene in scenes}
    assert by_step[starts[0]]["caption"] == "CPU 1: INIT resets the processor."
    assert by_step[starts[1]]["caption"] == "CPU 1: STARTUP lets the processor begin in real mode at 0x8000."
    assert by_step[starts[1]]["sub:hardware/cpu1"] == "ring 0"
    after = by_step[starts[1] + 1]["caption"], by_step[starts[1] + 4]["caption"]  # real mode: code of 16 bits
    assert after[0].startswith("CPU 1: CLI runs")
    assert after[1].startswith("CPU 1: O32 lgdt [0x")
