"""Virtual time: deadlines and service."""

from __future__ import annotations

import pytest

from vmlab.errors import OptionError, StateError
from vmlab.machine.clock import INSTRUCTIONS_PER_PIT_TICK, NOMINAL_HZ, Clock


class Alarm:
    """Rings every `period`, writing to a shared log."""

    def __init__(self, log, name, period):
        self.log, self.name, self.period = log, name, period
        self.next = period

    def next_event(self):
        return self.next

    def advance(self, now):
        while self.next is not None and self.next <= now:
            self.log.append((self.name, self.next))
            self.next += self.period


def test_the_nominal_processor_has_ten_instructions_a_timer_tick():
    assert INSTRUCTIONS_PER_PIT_TICK == 10
    assert NOMINAL_HZ == 11_931_820


def test_a_clock_without_devices_waits_for_nothing():
    clock = Clock()
    assert (clock.now, clock.deadline) == (0, None)
    clock.service()
    assert clock.deadline is None


def test_service_advances_those_whose_time_has_come():
    log = []
    clock = Clock()
    slow, fast = Alarm(log, "slow", 30), Alarm(log, "fast", 20)
    clock.add(slow)
    clock.add(fast)
    assert clock.deadline == 20
    clock.now = 20
    clock.service()
    assert log == [("fast", 20)]
    assert clock.deadline == 30
    clock.now = 60
    clock.service()
    assert log == [("fast", 20), ("slow", 30), ("slow", 60), ("fast", 40), ("fast", 60)]
    assert clock.deadline == 80


def test_a_reprogrammed_device_moves_the_deadline():
    clock = Clock()
    alarm = Alarm([], "alarm", 50)
    clock.add(alarm)
    alarm.next = 7
    clock.refresh()
    assert clock.deadline == 7
    alarm.next = None
    clock.refresh()
    assert clock.deadline is None


def test_a_device_is_registered_once():
    clock = Clock()
    alarm = Alarm([], "alarm", 50)
    clock.add(alarm)
    with pytest.raises(OptionError, match="registered"):
        clock.add(alarm)


def test_time_is_saved():
    clock = Clock()
    clock.now = 1234
    other = Clock()
    other.load(clock.save())
    assert other.now == 1234
    for state in ({"version": 1}, {"version": 1, "now": -1}, {"version": 0, "now": 1}, {"version": 1, "now": 1.0}, []):
        with pytest.raises(StateError, match="clock"):
            other.load(state)
    assert other.now == 1234
