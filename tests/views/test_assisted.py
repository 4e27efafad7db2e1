"""What the stage and the layer graph show of a guest with hardware assistance."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.views.layers import layers
from vmlab.views.scene import SceneWriter, expand

MEMORY = 2 << 20


@pytest.fixture(scope="module", params=["vt-x/nested", "vt-x/shadow", "amd-v/nested"])
def recording(request):
    under, _, memory = request.param.partition("/")
    return vmlab.record(vmlab.guests.load("minios"), under, memory=MEMORY, memory_virtualization=memory)


WORDS = {"vt-x": ("root", "non-root", "VM exit"), "amd-v": ("host mode", "guest mode", "#VMEXIT")}
"""What the makers call the host's operation, the guest's, and the way from here to there."""


def words(recording):
    return WORDS[recording.system.technique]


def test_layers_tell_host_from_guest(recording):
    recording.seek(recording.length // 2)
    graph = layers(recording)
    memory = recording.system.memory_virtualization
    host, guest, _ = words(recording)
    assert graph.nodes["guest0/kernel"]["privilege"] == f"kernel mode, ring 0, {guest}"
    assert graph.nodes["guest0/user0"]["privilege"] == "user mode, ring 3"
    assert graph.nodes["vmm"]["privilege"] == f"host kernel mode, ring 0, {host}"
    assert graph.nodes["guest0/shadow"]["label"] == f"{memory} page tables"
    operation = host if recording.system.in_vmm else guest
    assert graph.nodes["hardware/cpu"]["privilege"].endswith(f", {operation}")


def test_scenes_follow_exits_and_entries(recording):
    writer = SceneWriter(recording)
    exits = [event for event in recording.events if event.kind == "vm-exit"]
    assert sum(writer.overview()) == len(exits) + sum(event.kind == "trap" for event in recording.events)
    start = exits[3].step
    before, scene, *_ = expand(writer.window(start - 1, 4))
    assert (before["lane"], scene["lane"], scene["in_vmm"]) == ("guest0", "hardware", True)
    assert scene["caption"].startswith(words(recording)[2])
    assert scene["motion"]["edge"].endswith(">vmm")
    assert "vmm" in scene["lit"]


def test_the_mode_that_lights_up_is_the_processors(recording):
    """The guest's kernel is in ring 0, as the host is: the ring does not say who has the processor."""
    writer = SceneWriter(recording)
    host, guest = {"vt-x": ("root mode", "non-root mode"), "amd-v": ("host mode", "guest mode")}[
        recording.system.technique
    ]
    labels = {zone["id"]: zone["label"] for zone in writer.script()["shape"]["zones"]}
    assert (labels["kernel"], labels["user"]) == (host, guest)
    exits = [event for event in recording.events if event.kind == "vm-exit"]
    before, scene, *_ = expand(writer.window(exits[3].step - 1, 4))
    assert [(each["ring"], each["zone"]) for each in (before, scene)] == [(0, "user"), (0, "kernel")]
    for scene in expand(writer.window(exits[3].step, 300)):
        recording.seek(scene["step"])
        assert scene["zone"] == ("user" if recording.system.machine.cpu.non_root else "kernel")


def test_registers_are_the_guests_wherever_they_lie(recording):
    """While the guest runs, right after its exit, and in the VCPU: the same, until an instruction changes them."""
    exits = [event.step for event in recording.events if event.kind == "vm-exit"]
    for step in exits[5:400:37]:
        recording.seek(step)
        after = recording.system.cpu_state().visible()
        recording.seek(step - 1)
        assert recording.system.cpu_state().visible() == after  # the exit itself changes nothing


def test_traps_inside_the_guest_do_not_reach_the_monitor(recording):
    writer = SceneWriter(recording)
    trap = next(event for event in recording.events if event.kind == "trap" and event.name == "interrupt 0x20")
    scene = writer.scene(trap.step)
    assert "the VMM does not notice" in scene["caption"]
    assert not scene["in_vmm"]
    assert "vmm" not in scene["lit"]
