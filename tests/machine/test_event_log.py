"""The log of events answers as a list of them would, and is small."""

from __future__ import annotations

import random

import pytest

from vmlab.machine.event_log import CHUNK, EventLog
from vmlab.machine.trace import ControlWrite, End, Input, PortAccess, Resume, Trap


def events(count):
    generator = random.Random(6)
    step = 0
    for time in range(count):
        step += generator.choice((0, 0, 1, 1, 7, 300))
        yield generator.choice(
            (
                PortAccess(step, time, 0, 0x3F8, 1, 65 + time % 20, True, "uart", cpu=1),
                PortAccess(step, time, 1, 0x1F0, 4, generator.randrange(1 << 32), False, None),
                Trap(step, time, 0, 14, "#PF", 5, 0xC0000000, 3, 0, 0x1234),
                Resume(step, time, 0, "user"),
                Input(step, time, 0, "serial", b"ls\n"),
            )
            if time % 1_000
            else (ControlWrite(step, time, 0, "cr3", 0, 1 << 40),)
        )


@pytest.fixture(scope="module")
def both():
    plain = [*events(3 * CHUNK + 500)]
    log = EventLog()
    for event in plain:
        log.append(event)
    return plain, log


def test_it_is_the_sequence_of_its_events(both):
    plain, log = both
    assert (len(log), log, [*log]) == (len(plain), plain, plain)
    for place in (0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5, len(plain) - 1, -1, -len(plain)):
        assert log[place] == plain[place]
    assert log[CHUNK - 3 : CHUNK + 3] == plain[CHUNK - 3 : CHUNK + 3]
    for place in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            log[place]
    kinds = log.count()
    assert sum(kinds.values()) == len(plain)
    assert kinds["control"] == sum(event.kind == "control" for event in plain)
    assert f"{len(plain):,} events" in repr(log)


def test_it_finds_by_step_and_kind(both):
    plain, log = both
    generator = random.Random(1)
    last = plain[-1].step
    for step in [0, last, *(generator.randrange(last) for _ in range(60)), *(each.step for each in plain[::400])]:
        assert log.at(step) == [event for event in plain if event.step == step]
        for kind in (None, "control", "end", "trap"):
            right = [event for event in plain if kind in (None, event.kind)]
            assert log.after(step, kind) == next((event for event in right if event.step > step), None)
            assert log.before(step, kind) == next((event for event in reversed(right) if event.step < step), None)
    odd = [event for event in plain if event.time % 2]
    assert log.after(5, None, lambda event: event.time % 2) == next(event for event in odd if event.step > 5)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.999, 1.0])
def test_what_lies_behind_a_step_can_be_dropped(both, share):
    plain, _ = both
    log = EventLog()
    for event in plain:
        log.append(event)
    step = int(plain[-1].step * share)
    log.truncate(step)
    kept = [event for event in plain if event.step <= step]
    assert log == kept
    log.append(End(step, 9, 0, "halt", None))
    log.append(End(step, 9, 1, "halt", None))
    log.truncate(step, woken=0)
    assert log == [*kept, End(step, 9, 1, "halt", None)]


def test_steps_are_counted_from_the_origin():
    log = EventLog(1_000)
    for event in events(CHUNK + 10):
        log.append(event)
        log.note(Resume, (event.step, 1, 2, 3, "user"))
    assert log[-1] == Resume(event.step - 1_000, 1, 2, "user", cpu=3)
    log.truncate(log[-1].step - 1)
    assert log[0].step == next(events(1)).step - 1_000


def test_a_million_events_take_some_megabytes():
    log = EventLog()
    for event in events(10 * CHUNK):
        log.append(event)
    assert sum(len(chunk.data) for chunk in log._chunks) < 20 * len(log)
