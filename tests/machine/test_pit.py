"""The timer, mode by mode from the 82C54 data sheet; times are clock times (10 instructions a tick)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.clock import INSTRUCTIONS_PER_PIT_TICK as TICK
from vmlab.machine.clock import Clock
from vmlab.machine.devices.pit import Pit
from vmlab.machine.devices.pit_counter import PitCounter
from vmlab.machine.memory import PhysicalMemory

LATCH, LOW, HIGH, BOTH = 0x00, 0x10, 0x20, 0x30
PORT_B = 0x61


class Rig:
    """A timer on a bus; `edges` are the changes of IRQ 0 as (clock time, level)."""

    def __init__(self):
        self.clock = Clock()
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.edges = []
        self.pit = Pit(self.clock, lambda level: self.edges.append((self.clock.now, level)))
        self.pit.attach(self.bus)
        self.edges.clear()

    def write(self, port, *values):
        for value in values:
            self.bus.port_write(port, 1, value)

    def read(self, port):
        return self.bus.port_read(port, 1)

    def control(self, counter, access, mode, bcd=0):
        self.write(0x43, counter << 6 | access | mode << 1 | bcd)

    def program(self, counter, mode, count, bcd=0):
        self.control(counter, BOTH, mode, bcd)
        self.write(0x40 + counter, count & 0xFF, count >> 8)

    def run(self, now):
        """Let time pass as a processor does: service at each deadline."""
        while self.clock.deadline is not None and self.clock.deadline <= now:
            assert self.clock.deadline > self.clock.now
            self.clock.now = self.clock.deadline
            self.clock.service()
        self.clock.now = now

    def ticks(self, count):
        self.run((self.clock.now // TICK + count) * TICK)

    def count(self, counter):
        low = self.read(0x40 + counter)
        return low | self.read(0x40 + counter) << 8

    def status(self, counter):
        self.write(0x43, 0xE0 | 2 << counter)
        return self.read(0x40 + counter)

    def gate(self, level):
        self.write(PORT_B, int(level))

    def out2(self):
        return bool(self.read(PORT_B) & 0x20)

    def history(self, ticks):
        """OUT of counter 2 and its count after each of the next ticks."""
        result = []
        for _ in range(ticks):
            self.ticks(1)
            result.append((int(self.out2()), self.count(2)))
        return result


@pytest.fixture
def rig():
    return Rig()


# -- counter 0 and the interrupt line ----------------------------------------------------------------------------------


def test_the_line_is_high_at_power_on_and_nothing_runs():
    levels = []
    clock = Clock()
    Pit(clock, levels.append)
    assert levels == [True]
    assert clock.deadline is None


def test_mode_0_rises_one_tick_and_the_count_after_the_write(rig):
    rig.control(0, BOTH, 0)
    assert rig.edges == [(0, False)]
    rig.write(0x40, 100, 0)
    rig.run(10_000)
    assert rig.edges[1:] == [(101 * TICK, True)]
    assert rig.clock.deadline is None


def test_mode_2_is_low_for_one_tick_in_each_period(rig):
    rig.run(7)
    rig.program(0, 2, 5)
    rig.run(170)
    assert rig.edges == [(50, False), (60, True), (100, False), (110, True), (150, False), (160, True)]


def test_mode_3_is_high_for_the_larger_half(rig):
    rig.program(0, 3, 4)
    rig.run(100)
    assert rig.edges == [(30, False), (50, True), (70, False), (90, True)]
    odd = Rig()
    odd.program(0, 3, 5)
    odd.run(120)
    assert odd.edges == [(40, False), (60, True), (90, False), (110, True)]


def test_modes_6_and_7_are_2_and_3(rig):
    rig.program(0, 6, 5)
    assert rig.status(0) & 0x0E == 2 << 1
    rig.program(0, 7, 4)
    assert rig.status(0) & 0x0E == 3 << 1
    rig.run(50)
    assert rig.edges == [(30, False), (50, True)]


def test_mode_4_strobes_once(rig):
    rig.program(0, 4, 3)
    rig.run(500)
    assert rig.edges == [(40, False), (50, True)]


def test_modes_1_and_5_need_a_trigger_that_counter_0_never_gets(rig):
    for mode in (1, 5):
        rig.program(0, mode, 3)
        rig.run(rig.clock.now + 1000)
    assert rig.edges == []


@pytest.mark.parametrize("mode", [2, 3])
def test_a_count_of_0_is_65536(rig, mode):
    rig.program(0, mode, 0)
    rig.run(3 * 65536 * TICK)
    rises = [time for time, level in rig.edges if level]
    assert rises == [(65536 + 1) * TICK, (2 * 65536 + 1) * TICK]


def test_a_count_of_0_in_bcd_is_10000(rig):
    rig.program(0, 2, 0, bcd=1)
    rig.run(25_000 * TICK)
    assert [time for time, level in rig.edges if level] == [10_001 * TICK, 20_001 * TICK]


def test_the_largest_count_in_mode_0(rig):
    rig.program(0, 0, 0)
    rig.run(70_000 * TICK)
    assert rig.edges[-1] == (65_537 * TICK, True)


def test_bcd_counts_are_decimal(rig):
    rig.program(0, 0, 0x0123, bcd=1)
    rig.run(10_000)
    assert rig.edges[-1] == (124 * TICK, True)
    rig.program(2, 2, 0x1000, bcd=1)
    rig.gate(True)
    rig.ticks(2)
    assert rig.count(2) == 0x0999


@pytest.mark.parametrize("mode", [2, 3])
def test_the_illegal_count_of_1_stands_still(rig, mode):
    rig.program(0, mode, 1)
    rig.run(1000)
    assert rig.edges == []
    assert rig.clock.deadline is None
    rig.write(0x40, 5, 0)
    rig.control(0, BOTH, mode)
    rig.write(0x40, 5, 0)
    rig.run(2000)
    assert rig.edges


def test_a_hundred_hertz_tick_comes_on_time(rig):
    divisor = 1_193_182 // 100
    rig.program(0, 2, divisor)
    rig.run(10 * divisor * TICK + TICK)
    rises = [time for time, level in rig.edges if level]
    assert rises == [(n * divisor + 1) * TICK for n in range(1, 11)]


# -- writing counts ----------------------------------------------------------------------------------------------------


def test_mode_0_stops_at_the_first_byte_of_a_new_count(rig):
    rig.program(0, 0, 10)
    rig.run(50)
    rig.write(0x40, 3)
    rig.run(500)
    assert rig.edges == [(0, False)]
    rig.write(0x40, 0)
    rig.run(1000)
    assert rig.edges == [(0, False), (540, True)]


def test_mode_0_a_new_count_lowers_the_output_at_once(rig):
    rig.program(0, 0, 1)
    rig.run(100)
    rig.write(0x40, 1, 0)
    rig.run(300)
    assert rig.edges == [(0, False), (20, True), (100, False), (120, True)]


def test_mode_2_takes_a_new_count_at_the_end_of_the_period(rig):
    rig.program(0, 2, 5)
    rig.run(30)
    rig.write(0x40, 3, 0)
    rig.run(100)
    assert rig.edges == [(50, False), (60, True), (80, False), (90, True)]


def test_mode_3_takes_a_new_count_at_the_end_of_the_half(rig):
    rig.program(0, 3, 8)
    rig.run(20)
    rig.write(0x40, 4, 0)
    rig.run(100)
    assert rig.edges == [(50, False), (70, True), (90, False)]


def test_mode_4_starts_anew_with_a_new_count(rig):
    rig.program(0, 4, 5)
    rig.run(40)
    rig.write(0x40, 2, 0)
    rig.run(200)
    assert rig.edges == [(70, False), (80, True)]


def test_single_byte_access(rig):
    rig.control(0, LOW, 0)
    rig.write(0x40, 9)
    rig.run(200)
    assert rig.edges[-1] == (100, True)
    rig.control(0, HIGH, 0)
    rig.write(0x40, 1)
    rig.ticks(1)
    assert rig.read(0x40) == 1
    rig.ticks(1)
    assert rig.read(0x40) == 0
    rig.ticks(255)
    assert rig.edges[-1] == (200 + 257 * TICK, True)


def test_a_control_word_stops_the_counter(rig):
    rig.program(0, 2, 5)
    rig.run(70)
    rig.control(0, BOTH, 2)
    rig.run(500)
    assert rig.edges[-1] == (60, True)
    assert rig.clock.deadline is None


# -- counter 2, its gate and its output: figures 15 to 20 ----------------------------------------------------------------


def test_figure_15_mode_0(rig):
    rig.gate(True)
    rig.program(2, 0, 4)
    assert rig.history(7) == [(0, 4), (0, 3), (0, 2), (0, 1), (1, 0), (1, 0xFFFF), (1, 0xFFFE)]


def test_figure_15_mode_0_the_gate_holds_the_count(rig):
    rig.gate(True)
    rig.program(2, 0, 3)
    assert rig.history(2) == [(0, 3), (0, 2)]
    rig.gate(False)
    assert rig.history(2) == [(0, 2), (0, 2)]
    rig.gate(True)
    assert rig.history(3) == [(0, 1), (1, 0), (1, 0xFFFF)]


def test_mode_0_loads_with_the_gate_low(rig):
    rig.program(2, 0, 2)
    assert rig.history(2) == [(0, 2), (0, 2)]
    rig.gate(True)
    assert rig.history(2) == [(0, 1), (1, 0)], "no tick is spent on the load"


def test_figure_16_mode_1_retriggers(rig):
    rig.program(2, 1, 3)
    assert rig.history(2) == [(1, 0), (1, 0)]
    rig.gate(True)
    assert rig.out2()
    assert rig.history(5) == [(0, 3), (0, 2), (0, 1), (1, 0), (1, 0xFFFF)]
    rig.gate(False)
    rig.gate(True)
    assert rig.history(2) == [(0, 3), (0, 2)]
    rig.gate(False)
    assert rig.history(1) == [(0, 1)], "the level of the gate does not matter"
    rig.gate(True)
    assert rig.history(4) == [(0, 3), (0, 2), (0, 1), (1, 0)]


def test_mode_1_a_new_count_waits_for_the_trigger(rig):
    rig.program(2, 1, 2)
    rig.gate(True)
    rig.ticks(1)
    rig.write(0x42, 4, 0)
    assert rig.history(2) == [(0, 1), (1, 0)]
    rig.gate(False)
    rig.gate(True)
    assert rig.history(5) == [(0, 4), (0, 3), (0, 2), (0, 1), (1, 0)]


def test_figure_17_mode_2(rig):
    rig.gate(True)
    rig.program(2, 2, 3)
    assert rig.history(7) == [(1, 3), (1, 2), (0, 1), (1, 3), (1, 2), (0, 1), (1, 3)]


def test_figure_17_mode_2_the_gate_restarts(rig):
    rig.gate(True)
    rig.program(2, 2, 3)
    rig.ticks(3)
    assert not rig.out2()
    rig.gate(False)
    assert rig.out2(), "high at once"
    assert rig.history(2) == [(1, 1), (1, 1)]
    rig.gate(True)
    assert rig.history(4) == [(1, 3), (1, 2), (0, 1), (1, 3)]


def test_figure_18_mode_3_even(rig):
    rig.gate(True)
    rig.program(2, 3, 4)
    assert rig.history(7) == [(1, 4), (1, 2), (0, 4), (0, 2), (1, 4), (1, 2), (0, 4)]


def test_figure_18_mode_3_odd(rig):
    rig.gate(True)
    rig.program(2, 3, 5)
    assert rig.history(8) == [(1, 4), (1, 2), (1, 0), (0, 4), (0, 2), (1, 4), (1, 2), (1, 0)]


def test_figure_18_mode_3_the_gate_restarts(rig):
    rig.gate(True)
    rig.program(2, 3, 4)
    rig.ticks(3)
    assert not rig.out2()
    rig.gate(False)
    assert rig.out2()
    rig.ticks(3)
    rig.gate(True)
    assert rig.history(3) == [(1, 4), (1, 2), (0, 4)]


def test_figure_19_mode_4(rig):
    rig.gate(True)
    rig.program(2, 4, 3)
    assert rig.history(6) == [(1, 3), (1, 2), (1, 1), (0, 0), (1, 0xFFFF), (1, 0xFFFE)]


def test_figure_20_mode_5(rig):
    rig.program(2, 5, 3)
    rig.ticks(2)
    rig.gate(True)
    assert rig.history(5) == [(1, 3), (1, 2), (1, 1), (0, 0), (1, 0xFFFF)]
    rig.gate(False)
    rig.gate(True)
    rig.ticks(2)
    rig.gate(False)
    rig.gate(True)
    assert rig.history(4) == [(1, 3), (1, 2), (1, 1), (0, 0)]


def test_the_classic_delay_with_port_61(rig):
    """How kernels calibrate: gate on, mode 0, wait for OUT2."""
    rig.write(PORT_B, 0x01)
    rig.program(2, 0, 11_931)
    rig.ticks(11_931)
    assert not rig.out2()
    rig.ticks(1)
    assert rig.out2()


def test_port_61_stores_its_low_bits_and_toggles_refresh(rig):
    rig.write(PORT_B, 0xFE)
    assert rig.read(PORT_B) & 0xCF == 0x0E
    levels = []
    for _ in range(72):
        levels.append(rig.read(PORT_B) & 0x10)
        rig.ticks(1)
    assert levels == ([0] * 18 + [0x10] * 18) * 2


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_control_word_cannot_be_read(rig):
    assert rig.read(0x43) == 0xFF


def test_a_latched_count_stays_until_read(rig):
    rig.program(0, 2, 0x1234)
    rig.ticks(3)
    rig.write(0x43, LATCH)
    rig.ticks(5)
    rig.write(0x43, LATCH)
    assert rig.count(0) == 0x1232, "the second latch command was ignored"
    assert rig.count(0) == 0x122D


def test_read_back_latches_several_counts_and_status(rig):
    rig.gate(True)
    rig.program(0, 2, 100)
    rig.program(2, 3, 50, bcd=1)
    rig.ticks(2)
    rig.write(0x43, 0xC0 | 0x02 | 0x08)
    rig.ticks(2)
    assert rig.read(0x40) == 0x80 | BOTH | 2 << 1, "status first: OUT, no null count, both bytes, mode 2"
    assert rig.count(0) == 99
    assert rig.read(0x42) == 0x80 | BOTH | 3 << 1 | 1
    assert rig.count(2) == 0x30, "50 written in BCD is 32 hexadecimal: the digits are 3 and 2, less two"
    assert rig.count(0) == 97


def test_status_shows_null_count_until_the_load(rig):
    rig.control(0, BOTH, 2)
    assert rig.status(0) & 0x40
    rig.write(0x40, 5, 0)
    assert rig.status(0) & 0x40
    rig.ticks(1)
    assert not rig.status(0) & 0x40
    rig.write(0x40, 7, 0)
    assert rig.status(0) & 0x40
    rig.ticks(5)
    assert not rig.status(0) & 0x40


def test_status_shows_the_output(rig):
    rig.program(0, 0, 2)
    assert not rig.status(0) & 0x80
    rig.ticks(3)
    assert rig.status(0) & 0x80


# -- jumps in time and saved states ------------------------------------------------------------------------------------

_operations = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.one_of(st.integers(0, 12), st.integers(0, 3000))),
        st.tuples(st.just("control"), st.tuples(st.integers(1, 3), st.integers(0, 7), st.booleans())),
        st.tuples(st.just("write"), st.one_of(st.integers(0, 6), st.integers(0, 255))),
        st.tuples(st.just("gate"), st.booleans()),
        st.tuples(st.just("latch"), st.none()),
        st.tuples(st.just("status"), st.none()),
        st.tuples(st.just("read"), st.none()),
    ),
    max_size=25,
)


def operate(counter, operations, run):
    seen = []
    for kind, value in operations:
        if kind == "run":
            run(counter, value)
        elif kind == "control":
            counter.control(*value)
        elif kind == "write":
            counter.write(value)
        elif kind == "gate":
            counter.set_gate(value)
        elif kind == "latch":
            counter.latch_count()
        elif kind == "status":
            counter.latch_status()
        else:
            seen.append(counter.read())
        seen.append((counter.out, counter.value))
    return seen


def by_jump(counter, ticks):
    counter.run_to(counter.tick + ticks)


def by_tick(counter, ticks):
    for _ in range(ticks):
        counter.run_to(counter.tick + 1)


def by_event(counter, ticks):
    end = counter.tick + ticks
    while (event := counter.ticks_to_event()) is not None and counter.tick + event <= end:
        counter.run_to(counter.tick + event)
    counter.run_to(end)


@settings(max_examples=150, deadline=None)
@given(operations=_operations)
def test_a_jump_through_time_is_many_ticks(operations):
    counters = [PitCounter(), PitCounter(), PitCounter()]
    jumped, ticked, serviced = (
        operate(counter, operations, run) for counter, run in zip(counters, (by_jump, by_tick, by_event), strict=True)
    )
    assert jumped == ticked == serviced
    assert counters[0].save() == counters[1].save() == counters[2].save()


@given(operations=_operations)
def test_the_output_changes_at_announced_events_alone(operations):
    counter = PitCounter()
    changes = []
    counter.on_out = changes.append

    def run(counter, ticks):
        for _ in range(min(ticks, 200)):
            event = counter.ticks_to_event()
            before = len(changes)
            counter.run_to(counter.tick + 1)
            assert len(changes) == before or event == 1

    operate(counter, operations, run)
    assert all(first != second for first, second in itertools.pairwise(changes))


def test_a_long_sleep_costs_little_and_still_raises_the_line():
    counter = PitCounter()
    changes = []
    counter.control(3, 2, False)
    counter.write(2)
    counter.write(0)
    counter.on_out = changes.append
    counter.run_to(10**12)
    assert 2 <= len(changes) < 20
    assert changes[-1] is True or changes[-2] is True


@settings(deadline=None)
@given(before=_operations, after=_operations)
def test_a_loaded_counter_goes_on_as_the_saved_one(before, after):
    counter = PitCounter()
    operate(counter, before, by_jump)
    other = PitCounter()
    other.load(counter.save())
    assert operate(other, after, by_jump) == operate(counter, after, by_jump)
    assert other.save() == counter.save()


def test_a_loaded_timer_interrupts_when_the_saved_one_would(rig):
    rig.program(0, 3, 1000)
    rig.gate(True)
    rig.program(2, 2, 77)
    rig.run(12_345)
    other = Rig()
    other.clock.load(rig.clock.save())
    other.pit.load(rig.pit.save())
    assert other.clock.deadline == rig.clock.deadline
    rig.edges.clear()
    for each in (rig, other):
        each.run(50_000)
    assert rig.edges == other.edges != []
    assert rig.read(PORT_B) == other.read(PORT_B)
    assert rig.pit.save() == other.pit.save()


def test_damaged_states_are_refused_and_change_nothing(rig):
    rig.program(0, 2, 50)
    good = rig.pit.save()
    counters = good["counters"]
    for bad in (
        good | {"version": 2},
        good | {"port_b": 16},
        good | {"counters": counters[:2]},
        good | {"counters": [*counters[:2], counters[2] | {"mode": 6}]},
        good | {"counters": [*counters[:2], None]},
        good | {"counters": None},
        good | {"extra": 0},
    ):
        with pytest.raises(StateError):
            rig.pit.load(bad)
    assert rig.pit.save() == good
