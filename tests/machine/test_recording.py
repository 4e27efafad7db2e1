"""Recordings: any step can be reached again, from anywhere, and is the same."""

from __future__ import annotations

import random

import pytest

import vmlab
from tests.vmm.harness import kernel
from tests.vmm.hostile import neighbour
from tests.vmm.test_saving import BUSY
from vmlab.errors import OptionError
from vmlab.machine import checkpoints
from vmlab.machine import recording as module
from vmlab.machine.recording import Recording
from vmlab.machine.translator import Engine
from vmlab.vmm.techniques import build

OPTIONS = {"memory": 8 << 20, "max_instructions": 60_000, "input": "text"}
BRIEF = OPTIONS | {"max_instructions": 14_000}


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
    assert recording.position == 0
    check_instants(recording, instants, generator, visits)


def check_instants(recording, instants, generator, visits):
    assert recording.length == max(instants)
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
    monkeypatch.setattr(checkpoints, "SPACING", 150)
    monkeypatch.setattr(checkpoints, "MOST", 12)
    monkeypatch.setattr(checkpoints, "RECENT", 3)
    monkeypatch.setattr(checkpoints, "GAP", 20)
    recording = Recording(system(kind))
    assert len(recording._checkpoints.items) <= 13
    check(recording, instants, random.Random(6), 8)
    assert len(recording._checkpoints.items) <= 13 + checkpoints.MOST_NEAR


def test_a_step_back_is_near_even_in_a_long_run(monkeypatch):
    monkeypatch.setattr(checkpoints, "SPACING", 400)
    monkeypatch.setattr(checkpoints, "MOST", 6)
    monkeypatch.setattr(checkpoints, "RECENT", 2)
    monkeypatch.setattr(checkpoints, "GAP", 50)
    monkeypatch.setattr(module, "GAP", 50)
    recording = Recording(build(kernel("main: mov ecx, 30000\n.l: loop .l\n call quit"), **OPTIONS))
    assert recording._checkpoints.spacing > 4_000
    done = []
    advance = recording.system.advance
    monkeypatch.setattr(recording.system, "advance", lambda steps: (done.append(steps), advance(steps)))
    for place in (recording.length, 7_777, 20_000, 12_345):
        recording.seek(place)
        for _ in range(120):
            done.clear()
            recording.back()
            assert sum(done) <= 400


def test_a_checkpoint_keeps_the_pages_written_since_the_one_before(short):
    first, *others = [checkpoint.pages for checkpoint in short._checkpoints.items]
    code = 0x100 + (short.system.guests[0].memory.frames[0])
    assert code in first
    assert others
    assert all(code not in each and each for each in others)


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
        with pytest.raises(OptionError, match=r"choose one of .*trap, signal, exit"):
            move("tarp")
        with pytest.raises(OptionError, match="step\\(\\) goes on by one instruction"):
            move("instruction")


def test_how_much_is_recorded():
    recording = Recording(build(kernel("main: jmp main"), **OPTIONS), max_steps=5_000)
    assert recording.length == 5_000
    assert not recording.system.finished
    for wrong in (-1, 1.5, None, True):
        with pytest.raises(OptionError, match="number of steps to record"):
            Recording(build(kernel("main: hlt"), **OPTIONS), max_steps=wrong)


def test_a_recording_can_begin_in_the_middle(straight):
    kind, instants = straight
    used = system(kind)
    places = list(instants)
    start = places[len(places) // 2]
    used.advance(start)
    recording = Recording(used)
    assert (recording.position, recording.length) == (0, max(instants) - start)
    for place in (places[-1], places[len(places) // 2], places[len(places) * 3 // 4]):
        recording.seek(place - start)
        assert digest(used) == instants[place]
    assert all(1 <= event.step <= recording.length for event in recording.events)
    recording.seek(0)
    trap = recording.next("trap")
    assert (trap.step, used.steps) == (recording.position, trap.step + start)


def test_the_users_observers_see_the_run_once():
    watched = build(kernel("main: int 0x30\n call quit"), "trap-and-emulate", **OPTIONS)
    seen = []
    watched.trace.observers.append(seen.append)
    recording = Recording(watched)
    assert seen == recording.events
    recording.seek(recording.length)
    assert len(seen) == len(recording.events)
    assert watched.trace.observers == [seen.append]


# -- recordings that go on -------------------------------------------------------------------------------------------------


def live(under, **options):
    return Recording(build(vmlab.guests.load("echo"), under, memory=2 << 20, **options), max_steps=0)


@pytest.fixture(scope="module")
def brief():
    """A shorter run, and what it looked like here and there."""
    running = build(kernel(BUSY), "trap-and-emulate", **BRIEF)
    instants = {0: digest(running)}
    while not running.finished:
        running.advance(2_311)
        instants[running.steps] = digest(running)
    return instants


def test_an_open_recording_grows_to_the_whole_run(brief):
    growing = Recording(build(kernel(BUSY), "trap-and-emulate", **BRIEF), max_steps=0)
    assert (growing.length, growing.position, growing.ended) == (0, 0, False)
    generator = random.Random(9)
    while added := growing.extend(generator.randrange(1, 6_000)):
        assert growing.length == growing.position
        growing.seek(generator.randrange(growing.length + 1))
        assert added <= growing.length
    assert growing.ended
    assert growing.events == Recording(build(kernel(BUSY), "trap-and-emulate", **BRIEF)).events
    check_instants(growing, brief, generator, 6)


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
@pytest.mark.parametrize("under", ["native", "trap-and-emulate", "binary-translation"])
def test_what_is_typed_arrives_at_the_same_step_again(under, engine):
    recording = live(under, engine=engine)
    generator = random.Random(4)
    recording.extend(generator.randrange(40))
    instants = {}
    for text in ("one\n", "two", " and a half\n", b"\xff\xfe", "x" * 40 + "\n"):
        assert recording.send(text) == 0
        instants[recording.position] = digest(recording.system)
        recording.extend(generator.randrange(1, 300))
        instants[recording.position] = digest(recording.system)
    recording.extend(5_000)
    assert recording.system.guests[0].outcome == "halt"
    assert recording.system.guests[0].console.startswith("one\ntwo and a half\n")
    assert [event.data for event in recording.events if event.kind == "input"][1] == b"two"
    instants[recording.length] = digest(recording.system)
    for _ in range(25):
        place = generator.choice(list(instants))
        recording.seek(place)
        assert digest(recording.system) == instants[place]
        recording.seek(generator.randrange(recording.length + 1))


@pytest.mark.parametrize("under", ["native", "trap-and-emulate", "binary-translation"])
def test_typing_in_the_past_begins_another_history(under):
    recording = live(under)
    recording.extend(5_000)
    assert recording.ended
    first = recording.length
    assert recording.send("abc\n") == 0
    assert not recording.ended
    recording.extend(5_000)
    length, console = recording.length, recording.system.guests[0].console
    assert console == "abc\n"
    recording.seek(first + 20)
    assert recording.send("X") == length - first - 20
    assert recording.length == first + 20
    assert max(event.step for event in recording.events) == first + 20
    recording.extend(5_000)
    assert sorted(recording.system.guests[0].console) == sorted("abcX\n")
    end = digest(recording.system)
    recording.seek(3)
    recording.seek(recording.length)
    assert digest(recording.system) == end
    assert [event.outcome for event in recording.events if event.kind == "end"] == ["halt"]
    assert recording.send("\x04") == 0
    recording.extend(5_000)
    assert recording.system.guests[0].outcome == "exit"
    recording.back()
    assert recording.step() == recording.length
    with pytest.raises(OptionError, match=r"has ended \(exit\)"):
        recording.send("more")
    assert recording.extend(10) == 0


def test_a_guest_that_sleeps_for_good_is_not_woken():
    recording = Recording(build(kernel("main: cli\n hlt"), "native", **OPTIONS | {"input": ""}))
    before = digest(recording.system)
    recording.seek(recording.length)
    end = digest(recording.system)
    with pytest.raises(OptionError, match="seek"):
        recording.send("wake up")
    assert digest(recording.system) == end
    assert recording.length
    recording.seek(0)
    assert digest(recording.system) == before


def test_a_halt_with_a_masked_timer_is_the_same_after_waking():
    """The time that passes before a machine is taken to sleep for good is part of its history."""
    source = vmlab.guests.source("echo").replace(
        "call prompt\n        sti",
        "mov al, 0x34\n out 0x43, al\n mov al, 9\n out 0x40, al\n mov al, 0\n out 0x40, al\n sti",
    )
    recording = Recording(build(vmlab.assemble(source), "native", memory=2 << 20))
    recording.seek(recording.length)
    woken = recording.length
    for _ in range(3):
        recording.send("q")
        recording.extend(4_000)
    end = digest(recording.system)
    for place in (0, woken, woken - 1):
        recording.seek(place)
        recording.seek(recording.length)
        assert digest(recording.system) == end
        recording.seek(place)
        for _ in recording.frames(place, recording.length):
            pass
        assert digest(recording.system) == end


def test_keys_arrive_at_the_keyboard():
    recording = live("native")
    recording.extend(10)
    recording.send("a", device="keyboard")
    keyboard = recording.system.guests[0].platform.keyboard
    assert keyboard.full
    recording.extend(10)
    recording.seek(9)
    assert not keyboard.full
    recording.step()
    assert keyboard.full
    before = recording.length
    with pytest.raises(OptionError, match="no key"):
        recording.send("é", device="keyboard")
    assert recording.length == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": 5}, "str or bytes, not int"),
        ({"text": "a", "guest": 1}, "no guest 1"),
        ({"text": "a", "guest": True}, "no guest True"),
        ({"text": "a", "device": "mouse"}, "choose one of serial, keyboard"),
    ],
)
def test_typing_that_is_not_possible(wrong, message):
    recording = live("native")
    recording.extend(30)
    recording.seek(5)
    with pytest.raises(OptionError, match=message):
        recording.send(**wrong)
    assert recording.length == 30


def test_an_interrupted_recording_keeps_what_it_had(brief, monkeypatch):
    monkeypatch.setattr(checkpoints, "SPACING", 2_000)
    stopped = Recording(build(kernel(BUSY), "trap-and-emulate", **BRIEF), max_steps=0)
    stopped.extend(1_500)
    advance = stopped.system.advance
    calls = []

    def interrupted(steps):
        calls.append(steps)
        advance(steps if len(calls) < 3 else steps // 2)
        if len(calls) == 3:
            stopped.system.machine.cpu.registers[0] ^= 5  # in the middle of anything
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped.system, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.extend(30_000)
    assert 1_500 <= stopped.length < 30_000
    calls.clear()
    stopped.seek(7)
    stopped.seek(999)
    stopped.seek(0)
    with pytest.raises(KeyboardInterrupt):
        stopped.seek(1_400)
    monkeypatch.setattr(stopped.system, "advance", advance)
    stopped.extend(1 << 40)
    assert stopped.events == Recording(build(kernel(BUSY), "trap-and-emulate", **BRIEF)).events
    check_instants(stopped, brief, random.Random(1), 5)
