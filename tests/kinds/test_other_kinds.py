"""Kinds that virtualize no x86 computer: a managed runtime, an emulator of another processor."""

from __future__ import annotations

import pytest

from vmlab.errors import OptionError
from vmlab.kinds.matrix import matrix
from vmlab.kinds.presets import preset


@pytest.mark.parametrize("name", ["Oracle Java", "Microsoft .NET", "AArch64 emulator"])
def test_an_event_costs_what_its_legs_cost(name):
    running = preset(name)
    for event in running.events:
        journey = running.follow(event)
        assert journey.event == event
        assert journey.legs[0].part == journey.legs[-1].part
        assert journey.cycles == sum(leg.cycles for leg in journey.legs) > 0
    with pytest.raises(OptionError, match="lunch"):
        running.follow("lunch")


def test_a_read_of_the_emulated_disk_is_longer_than_a_cheap_call():
    running = preset("AArch64 emulator")
    call, read = (running.follow(event) for event in ("system call", "disk read"))
    assert call.cycles < read.cycles
    assert "SVC" in call.legs[0].what
    assert "data abort" in running.follow("page fault").legs[0].what


def test_the_runtime_compiles_what_is_hot_and_the_other_all():
    java, net = preset("Oracle Java").run(), preset("Microsoft .NET").run()
    assert 0 < len(java.machine.compiled) < len(net.machine.compiled)
    assert java.machine.bytecodes > net.machine.bytecodes
    assert java.results == net.results


@pytest.mark.parametrize(("name", "part"), [("Oracle Java", "runtime"), ("AArch64 emulator", "guest0/kernel")])
def test_killing_removes_the_parts(name, part):
    running = preset(name)
    running.advance(5_000)
    with pytest.raises(OptionError, match="cannot be ended"):
        running.kill("hardware/cpu")
    running.kill(part)
    assert running.finished
    assert part not in {each.name for each in running.parts()}
    assert running.results == {}
    assert running.in_control in {each.name for each in running.parts()}


def test_in_the_matrix():
    rows = {row["name"]: row for row in matrix(["Oracle Java", "AArch64 emulator"]).rows()}
    assert rows["Oracle Java"]["modified"] == "the program"
    assert rows["Oracle Java"]["kernels"] == 0
    assert "processor" in rows["AArch64 emulator"]["modified"]
    assert rows["AArch64 emulator"]["without ports"] > 5
