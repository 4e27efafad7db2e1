"""Recordings: any step can be reached again, from anywhere, and is the same."""

from __future__ import annotations

import random

import pytest

from tests.vmm.harness import kernel
from tests.vmm.hostile import neighbour
from tests.vmm.test_saving import BUSY
from vmlab.errors import OptionError
from vmlab.machine import recording as module
from vmlab.machine.recording import Recording
from vmlab.machine.translator import Engine
from vmlab.vmm.techniques import build

OPTIONS = {"memory": 8 << 20, "max_instructions": 60_000, "input": "text"}


def system(kind):
    if kind == "two guests":
        return build([kernel(BUSY), neighbour()], "trap-and-emulate", **OPTIONS)
    return build(kernel(BUSY), kind, **OPTIONS)


def digest(of):
    """Return everything that an instant consists of."""
    return of.save(), of.machine.memory.digest()


@pytest.fixture(scope="module", params=["native", "trap-and-emulate", "two guests"])
def straight(request):
    """A run without a recording, and what it looked like here and there."""
    running = system(request.param)
    instants = {0: digest(running)}
    generator = random.Random(3)
    while not running.finished:
        running.advance(generator.randrange(1, 1_200))
        instants[running.steps] = digest(running)
    return request.param, instants


@pytest.fixture(scope="module")
def short():
    """A small recording, to move around in."""
    return Recording(
        build(
            kernel("main: cli\n sti\n try ud2\n int 0x30\n mov eax, cr0\n mov cr0, eax\n call quit"),
            "trap-and-emulate",
            **OPTIONS,
        )
    )


def check(recording, instants, generator, visits):
    assert recording.length == max(instants)
    assert recording.position == 0
    places = list(instants)
    for place in [0, recording.length, *generator.choices(places, k=visits)]:
        recording.seek(place)
        assert recording.position == place
        assert digest(recording.system) == instants[place]
        if place:
            assert recording.back() == place - 1
            assert recording.step() == place
            assert digest(recording.system) == instants[place]


def test_any_instant_is_that_of_the_straight_run(straight):
    kind, instants = straight
    check(Recording(system(kind)), instants, random.Random(5), 8)


def test_the_block_translator_comes_to_the_same_instants(straight):
    kind, instants = straight
    translated = system(kind)
    translated.machine.engine = Engine()
    check(Recording(translated), instants, random.Random(8), 4)


def test_few_checkpoints_with_more_around_the_cursor(straight, monkeypatch):
    kind, instants = straight
    monkeypatch.setattr(module, "SPACING", 150)
    monkeypatch.setattr(module, "MOST_CHECKPOINTS", 8)
    recording = Recording(system(kind))
    assert len(recording._checkpoints) <= 9
    assert recording._spacing >= recording.length // 9
    check(recording, instants, random.Random(6), 8)


def test_a_step_back_is_near_even_in_a_long_run(monkeypatch):
    monkeypatch.setattr(module, "SPACING", 100)
    monkeypatch.setattr(module, "MOST_CHECKPOINTS", 4)
    recording = Recording(build(kernel("main: mov ecx, 6000\n.l: loop .l\n call quit"), **OPTIONS))
    recording.seek(recording.length)
    recording.back()
    done = []
    advance = recording.system.advance
    monkeypatch.setattr(recording.system, "advance", lambda steps: (done.append(steps), advance(steps)))
    for _ in range(20):
        done.clear()
        recording.back()
        assert sum(done) <= 100


def test_checkpoints_share_pages_that_did_not_change(short):
    pages = [checkpoint.pages for checkpoint in short._checkpoints]
    code = 0x100 + (short.system.guests[0].memory.frames[0])
    assert len({id(each[code]) for each in pages}) == 1


def test_next_and_previous(short):
    short.seek(0)
    traps = []
    while event := short.next("trap"):
        assert event.step == short.position
        assert event in short.events_at(short.position)
        traps.append(event)
    assert traps == [event for event in short.events if event.kind == "trap"]
    assert short.position == traps[-1].step
    assert short.next("trap") is None
    assert short.position == traps[-1].step
    backwards = [traps[-1]]
    while event := short.previous("trap"):
        backwards.append(event)
    assert backwards[::-1] == traps
    short.seek(short.length)
    assert short.next() is None
    assert short.previous().step < short.length
    short.seek(0)
    assert short.previous() is None
    assert short.next().step == short.events[0].step
    assert short.next("switch") is None


def test_a_trap_is_three_steps(short):
    """The trap, the hypervisor's handling, its resuming."""
    short.seek(0)
    trap = short.next("trap")
    while trap.step < 3:
        trap = short.next("trap")
    kinds = [{event.kind for event in short.events_at(trap.step + n)} for n in range(3)]
    assert kinds[0] == {"trap"}
    assert "exit" in kinds[1]
    assert "resume" in kinds[2]


def test_steps_and_ends(short):
    short.seek(0)
    assert short.back() == 0
    assert short.step(0) == 0
    assert short.step(7) == 7
    assert short.back(3) == 4
    assert short.step(1 << 40) == short.length
    assert short.system.finished
    assert short.back(1 << 40) == 0
    assert not short.system.finished


def test_frames_are_the_steps_one_after_the_other(short):
    short.seek(5)
    seen = [(step, [event.kind for event in events], system.steps) for step, events, system in short.frames(100, 160)]
    assert [step for step, _, _ in seen] == list(range(100, 161)) == [position for _, _, position in seen]
    assert short.position == 160
    assert all(kinds == [event.kind for event in short.events if event.step == step] for step, kinds, _ in seen)
    assert [step for step, _, _ in short.frames(short.length - 1, short.length + 50)] == [
        short.length - 1,
        short.length,
    ]
    assert [step for step, _, _ in short.frames(0, 0)] == [0]
    steps = []
    for step, _, _ in short.frames(10, 14):
        steps.append(step)
        short.seek(0)  # whoever looks elsewhere meanwhile does not disturb it
    assert steps == [10, 11, 12, 13, 14]


def test_events_come_in_order(short):
    steps = [event.step for event in short.events]
    assert steps == sorted(steps)
    assert all(1 <= step <= short.length for step in steps)
    assert short.events[-1].kind == "end"
    assert short.events_at(-1) == short.events_at(short.length + 1) == []
    assert "instruction" not in {event.kind for event in short.events}


@pytest.mark.parametrize("step", [-1, 1 << 40, None, 1.5, "3", True])
def test_steps_that_do_not_exist(short, step):
    with pytest.raises(OptionError, match=f"give an int from 0 to {short.length}"):
        short.seek(step)


@pytest.mark.parametrize("count", [-1, 0.5, None, "1", True])
def test_counts_that_do_not_exist(short, count):
    for move in (short.step, short.back):
        with pytest.raises(OptionError, match="number of steps"):
            move(count)


@pytest.mark.parametrize(("start", "stop"), [(5, 4), (0.5, 4), (0, None), (-1, 4), (1 << 40, 1 << 41)])
def test_frames_that_do_not_exist(short, start, stop):
    with pytest.raises(OptionError):
        short.frames(start, stop)


def test_kinds_that_do_not_exist(short):
    for move in (short.next, short.previous):
        with pytest.raises(OptionError, match="choose one of trap, signal, exit"):
            move("tarp")
        with pytest.raises(OptionError, match="step\\(\\) goes on by one instruction"):
            move("instruction")


def test_how_much_is_recorded():
    recording = Recording(build(kernel("main: jmp main"), **OPTIONS), max_steps=5_000)
    assert recording.length == 5_000
    assert not recording.system.finished
    for wrong in (0, -1, 1.5, None, True):
        with pytest.raises(OptionError, match="number of steps to record"):
            Recording(build(kernel("main: hlt"), **OPTIONS), max_steps=wrong)


def test_a_system_that_has_run_already():
    used = build(kernel("main: cli\n hlt"), **OPTIONS)
    used.advance(1)
    with pytest.raises(OptionError, match="build the system anew"):
        Recording(used)


def test_the_users_observers_see_the_run_once():
    watched = build(kernel("main: int 0x30\n call quit"), "trap-and-emulate", **OPTIONS)
    seen = []
    watched.trace.observers.append(seen.append)
    recording = Recording(watched)
    assert seen == recording.events
    recording.seek(recording.length)
    assert len(seen) == len(recording.events)
    assert watched.trace.observers == [seen.append]
