"""Scenes say what the machine did: each is compared with the system that the recording replays."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from vmlab.isa.x86.registers import IF
from vmlab.views.instant import REGISTERS
from vmlab.views.scene import SIZE, SceneWriter, expand


@pytest.fixture(scope="module")
def writer(trapped):
    return SceneWriter(trapped)


@pytest.fixture(scope="module")
def double(pair):
    return SceneWriter(pair)


def value(registers, name):
    return registers[REGISTERS.index(name)]


@pytest.mark.parametrize("start", [0, 1, 5, 2_390, 5_590])
def test_registers_and_modes_are_the_machines(writer, trapped, start):
    for scene in expand(writer.window(start, 40)):
        trapped.seek(scene["step"])
        system = trapped.system
        guest, cpu = system.guests[0], system.machine.cpu
        assert bool(value(scene["vcpu:0"], "EFLAGS") & IF) == bool(guest.vcpu.flags & IF)
        for name, registers, state in (("vcpu", scene["vcpu:0"], guest.vcpu), ("cpu", scene["cpu"], cpu)):
            visible = state.visible()
            assert {each: value(registers, each) for each in REGISTERS} == {
                each: visible[each.lower()] for each in REGISTERS
            }, name
        assert scene["mode:0"] == guest.mode
        assert scene["ring"] == cpu.cpl
        assert scene["zone"] == ("kernel" if cpu.cpl == 0 else "user")
        assert scene["in_vmm"] == system.in_vmm
        assert scene["console:0"] == len(guest.console)
        assert scene["guest"] == system.current


def test_a_window_does_not_depend_on_where_it_starts(writer):
    whole = expand(writer.window(2_100, 120))
    for start in (2_101, 2_117, 2_150):
        part = expand(writer.window(start, 20))
        for scene in part:
            other = dict(whole[scene["step"] - 2_100])
            for key in scene:
                if key.startswith("code:"):  # a listing's name tells only which listing
                    assert scene[key][1] == other[key][1]
                else:
                    assert scene[key] == other[key], key


def test_windows_cover_the_run_and_stop_at_its_ends(writer, trapped):
    first, last = writer.window(-50), writer.window(trapped.length + 50)
    assert first["start"] == 0
    assert len(first["scenes"]) == SIZE
    assert last["start"] == trapped.length
    assert len(last["scenes"]) == 1
    assert expand(writer.window(trapped.length - 3))[-1]["step"] == trapped.length


def test_windows_are_json_and_small(writer):
    window = writer.window(300)
    assert json.loads(json.dumps(window)) is not None
    assert len(json.dumps(window)) < 250_000


def test_the_code_line_is_the_next_instruction(writer, trapped):
    window = writer.window(2_380, 60)
    for scene in expand(window):
        name, address = scene["code:0"]
        lines = {line[0] for line in window["listings"][name]}
        assert address in lines
        trapped.seek(scene["step"])
        if not trapped.system.in_vmm:
            assert address == trapped.system.machine.cpu.linear_ip


def test_a_trap_is_three_scenes(writer, trapped):
    for event in [event for event in trapped.events if event.kind == "trap"][:30]:
        trap, handle, resume = expand(writer.window(event.step, 3))
        assert (trap["lane"], handle["lane"]) == ("hardware", "vmm")
        assert trap["ring"] == handle["ring"] == 0
        assert trap["in_vmm"]
        assert handle["in_vmm"]
        assert trap["motion"]["edge"].endswith(">vmm")
        assert not trap["motion"]["up"]
        assert {"hardware/cpu", "vmm"} <= set(trap["lit"])
        assert f"{event.address:#x}" in trap["caption"]
        if not resume["in_vmm"]:
            assert resume["ring"] == 3
            assert resume["motion"]["up"]


def test_emulation_lights_the_vcpu_and_says_what_changed(writer, trapped):
    emulations = [event for event in trapped.events if event.kind == "emulate" and event.text in {"sti", "cli"}]
    for event in emulations[:10]:
        before, after = expand(writer.window(event.step - 1, 2))
        assert "guest0/vcpu" in after["lit"]
        old, new = (int(bool(value(scene["vcpu:0"], "EFLAGS") & IF)) for scene in (before, after))
        assert new == (event.text == "sti")
        said = f"IF stays {new}" if old == new else f"IF {old} → {new}"
        assert after["caption"] == f"The VMM emulates {event.text.upper()} on the VCPU: {said}."


def test_shadow_fills_are_told_with_their_addresses(writer, trapped):
    event = next(event for event in trapped.events if event.kind == "shadow")
    scene = writer.scene(event.step)
    for address in (event.gva, event.gpa, event.hpa):
        assert f"{address:#x}" in scene["caption"]
    assert {"guest0/shadow", "hardware/memory"} <= set(scene["lit"])


def test_only_known_nodes_are_lit_and_only_known_edges_travelled(writer, double, native):
    for each in (writer, double, SceneWriter(native)):
        nodes = {node["id"] for node in each.shape["nodes"]}
        edges = {edge["id"] for edge in each.shape["edges"]}
        lanes = {lane["id"] for lane in each.script()["lanes"]}
        for start in (0, 3_400, 5_500):
            for scene in expand(each.window(start)):
                assert set(scene["lit"]) <= nodes
                assert scene["lane"] in lanes
                assert scene["motion"] is None or scene["motion"]["edge"] in edges
                assert scene["caption"].endswith(".")


def test_the_console_grows_only_as_it_was_printed(writer, trapped):
    trapped.seek(trapped.length)
    text = trapped.system.guests[0].console
    scenes = expand(writer.window(3_000))
    window = writer.window(3_000)
    base = window["consoles"][0]["base"]
    shown = [window["consoles"][0]["text"][: scene["console:0"] - base] for scene in scenes]
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    assert text[base:].startswith(shown[-1])
    assert shown[-1]


def test_the_process_that_runs_is_lit(writer, trapped):
    resumed = [event.step for event in trapped.events if event.kind == "resume" and event.mode == "user"]
    lit = {node for step in resumed for node in writer.scene(step)["lit"] if "/user" in node}
    assert lit == {"guest0/user0", "guest0/user1"}


def test_a_world_switch_names_both_guests(double, pair):
    event = next(event for event in pair.events if event.kind == "switch")
    scene = double.scene(event.step)
    for index in (event.previous, event.guest):
        assert double.names[index] in scene["caption"]
    assert scene["guest"] == event.guest
    assert scene["events"][0]["glyph"] == "⇄"


def test_places_are_fixed_during_a_run(trapped):
    trapped.seek(0)
    start = SceneWriter(trapped).shape
    trapped.seek(trapped.length)
    assert SceneWriter(trapped).shape == start


def test_two_guests_have_two_columns(double):
    shape = double.shape
    assert [frame["guest"] for frame in shape["frames"]] == [0, 1]
    first, second = shape["frames"]
    assert first["x"] + first["w"] < second["x"]
    vcpus = [node for node in shape["nodes"] if node["kind"] == "vcpu"]
    assert [node["guest"] for node in vcpus] == [0, 1]
    for node in shape["nodes"]:
        assert node["x"] >= 0
        assert node["x"] + node["w"] <= shape["width"]
        assert node["y"] + node["h"] <= shape["height"]


def test_the_overview_counts_every_trap(writer, trapped):
    traps = sum(event.kind == "trap" for event in trapped.events)
    assert sum(writer.overview()) == traps
    assert sum(writer.overview(7)) == traps


def test_natively_there_is_no_monitor(native):
    writer = SceneWriter(native)
    script = writer.script()
    assert not script["virtual"]
    assert [lane["id"] for lane in script["lanes"]] == ["guest0", "hardware"]
    trap = next(event for event in native.events if event.kind == "trap")
    scene = writer.scene(trap.step)
    assert scene["ring"] == trap.to_ring
    assert "VMM" not in scene["caption"]
