"""The real-time clock, rule by rule from the MC146818A data sheet; its calendar is compared with Python's."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.clock import NOMINAL_HZ as HZ
from vmlab.machine.clock import Clock
from vmlab.machine.devices.rtc import Rtc
from vmlab.machine.devices.rtc_calendar import add_seconds, seconds_to_alarm
from vmlab.machine.memory import PhysicalMemory

MIB = 1 << 20
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D = range(14)
CENTURY = 0x32
SET, PIE, AIE, UIE, BINARY, H24 = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02


class Rig:
    """A clock chip on a bus; `edges` are the changes of IRQ 8 as (clock time, level)."""

    def __init__(self, memory_size=64 * MIB):
        self.clock = Clock()
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.edges = []
        self.rtc = Rtc(self.clock, lambda level: self.edges.append((self.clock.now, level)), memory_size)
        self.rtc.attach(self.bus)

    def read(self, register):
        self.bus.port_write(0x70, 1, register)
        return self.bus.port_read(0x71, 1)

    def write(self, register, value):
        self.bus.port_write(0x70, 1, register)
        self.bus.port_write(0x71, 1, value)

    def word(self, register):
        return self.read(register) | self.read(register + 1) << 8

    def run(self, now):
        while self.clock.deadline is not None and self.clock.deadline <= now:
            assert self.clock.deadline > self.clock.now
            self.clock.now = self.clock.deadline
            self.clock.service()
        self.clock.now = now

    def set_time(self, *values):
        """Set year to second, as bytes."""
        self.write(B, self.read(B) | SET)
        for register, value in zip((YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS), values, strict=True):
            self.write(register, value)
        self.write(B, self.read(B) & ~SET)

    def time(self):
        return tuple(self.read(register) for register in (YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS))


@pytest.fixture
def rig():
    return Rig()


def test_it_is_new_year_when_a_machine_starts(rig):
    assert rig.time() == (0x26, 1, 1, 0, 0, 0)
    assert rig.read(WEEKDAY) == dt.date(2026, 1, 1).isoweekday() % 7 + 1
    assert rig.read(CENTURY) == 0x20
    assert (rig.read(A), rig.read(B), rig.read(C), rig.read(D)) == (0x26, 0x02, 0, 0x80)


def test_time_is_virtual(rig):
    rig.run(HZ - 1)
    assert rig.read(SECONDS) == 0
    rig.run(HZ)
    assert rig.read(SECONDS) == 1
    rig.run(86_399 * HZ)
    assert rig.time() == (0x26, 1, 1, 0x23, 0x59, 0x59)
    rig.run(86_400 * HZ)
    assert rig.time() == (0x26, 1, 2, 0, 0, 0)
    assert rig.read(WEEKDAY) == 6


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        (H24, (0x99, 0x12, 0x31, 0x23, 0x59, 0x59), (0, 1, 1, 0, 0, 0)),
        (H24 | BINARY, (99, 12, 31, 23, 59, 59), (0, 1, 1, 0, 0, 0)),
        (H24 | BINARY, (24, 2, 28, 23, 59, 59), (24, 2, 29, 0, 0, 0)),
        (H24 | BINARY, (25, 2, 28, 23, 59, 59), (25, 3, 1, 0, 0, 0)),
        (0, (0x26, 1, 1, 0x11, 0x59, 0x59), (0x26, 1, 1, 0x92, 0, 0)),
        (0, (0x26, 1, 1, 0x92, 0x59, 0x59), (0x26, 1, 1, 0x81, 0, 0)),
        (BINARY, (26, 1, 1, 0x80 | 11, 59, 59), (26, 1, 2, 12, 0, 0)),
        (BINARY, (26, 1, 1, 12, 59, 59), (26, 1, 1, 1, 0, 0)),
    ],
)
def test_counting_on_in_each_format(rig, mode, before, after):
    rig.write(B, mode)
    rig.set_time(*before)
    rig.run(HZ)
    assert rig.time() == after


def test_the_century_counts_on(rig):
    rig.set_time(0x99, 0x12, 0x31, 0x23, 0x59, 0x59)
    rig.run(HZ)
    assert (rig.read(CENTURY), rig.read(YEAR)) == (0x21, 0)


def test_set_holds_the_time_and_gives_back_what_was_written(rig):
    rig.write(B, SET | H24)
    rig.write(SECONDS, 0x7F)
    rig.run(5 * HZ)
    assert rig.read(SECONDS) == 0x7F
    assert rig.read(C) == PIE, "the divider goes on"
    rig.write(SECONDS, 0x10)
    rig.write(B, H24)
    rig.run(6 * HZ)
    assert rig.read(SECONDS) == 0x11


def test_setting_set_clears_the_update_interrupt(rig):
    rig.write(B, UIE | H24)
    rig.write(B, SET | UIE | PIE | H24)
    assert rig.read(B) == SET | PIE | H24


def test_update_in_progress_warns_before_the_update(rig):
    rig.run(HZ - HZ * 3 // 1000)
    assert rig.read(A) == 0x26
    rig.run(HZ - HZ * 2 // 1000)
    assert rig.read(A) == 0xA6
    assert rig.read(SECONDS) == 0
    rig.write(B, SET | H24)
    assert rig.read(A) == 0x26
    rig.write(B, H24)
    rig.run(HZ)
    assert rig.read(A) == 0x26
    assert rig.read(SECONDS) == 1


def test_the_divider_reset_holds_the_clock_and_starts_it_half_a_second_before_an_update(rig):
    rig.write(A, 0x66)
    rig.run(10 * HZ)
    assert rig.read(SECONDS) == 0
    rig.write(A, 0x26)
    rig.run(10 * HZ + HZ // 2 - 1)
    assert rig.read(SECONDS) == 0
    rig.run(10 * HZ + HZ // 2)
    assert rig.read(SECONDS) == 1


@pytest.mark.parametrize(
    ("rate", "frequency"), [(1, 256), (2, 128), *((rate, 1 << (16 - rate)) for rate in range(3, 16))]
)
def test_periodic_rates(rig, rate, frequency):
    rig.write(A, 0x20 | rate)
    rig.write(B, PIE | H24)
    times = []
    for _ in range(4):
        rig.run(rig.clock.deadline)
        times.append(rig.clock.now)
        assert rig.read(C) & 0xC0 == 0xC0
    assert times == [-(-count * HZ // frequency) for count in range(1, 5)]
    assert [level for _, level in rig.edges] == [True, False] * 4


def test_a_new_rate_counts_from_when_it_is_set(rig):
    rig.write(A, 0x2F)
    rig.write(B, PIE | H24)
    rig.run(HZ // 4)
    rig.write(A, 0x26)
    assert rig.read(C) == 0, "the ticks that the new rate would have had are not owed"
    assert HZ // 4 < rig.clock.deadline <= HZ // 4 + HZ // 1024 + 1


def test_rate_zero_makes_no_periodic_interrupt(rig):
    rig.write(A, 0x20)
    rig.write(B, PIE | H24)
    assert rig.clock.deadline is None
    rig.run(HZ)
    assert rig.read(C) == UIE


def test_flags_are_set_without_their_interrupts(rig):
    rig.run(2 * HZ)
    assert rig.read(C) == PIE | UIE
    assert rig.read(C) == 0
    assert rig.edges == []


def test_enabling_an_interrupt_whose_flag_is_set_raises_it(rig):
    rig.run(HZ)
    rig.write(B, UIE | H24)
    assert rig.edges == [(HZ, True)]
    rig.write(B, H24)
    assert rig.edges == [(HZ, True), (HZ, False)]


def test_the_update_interrupt_comes_each_second_if_c_is_read(rig):
    rig.write(B, UIE | H24)
    rig.run(3 * HZ)
    assert rig.edges == [(HZ, True)], "the line stays high until C is read"
    rig.read(C)
    rig.run(4 * HZ)
    assert rig.edges[1:] == [(3 * HZ, False), (4 * HZ, True)]


@pytest.mark.parametrize(
    ("alarm", "when"),
    [
        ((0x00, 0x01, 0x30), 90),
        ((0xFF, 0xFF, 0xFF), 1),
        ((0xC0, 0xC0, 0x05), 5),
        ((0xFF, 0x02, 0xFF), 120),
        ((0x01, 0x00, 0xFF), 3600),
        ((0x00, 0x00, 0x00), 86_400),
    ],
)
def test_alarms(rig, alarm, when):
    for register, value in zip((HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM), alarm, strict=True):
        rig.write(register, value)
    rig.write(B, AIE | H24)
    assert rig.clock.deadline == when * HZ
    rig.run(when * HZ)
    assert rig.edges == [(when * HZ, True)]
    assert rig.read(C) & AIE


def test_an_alarm_that_is_no_time_never_comes(rig):
    rig.write(SECONDS_ALARM, 0x6A)
    rig.write(B, AIE | H24)
    assert rig.clock.deadline is None
    rig.run(200_000 * HZ)
    assert not rig.read(C) & AIE


def test_the_alarm_flag_is_set_by_a_match_on_the_way(rig):
    rig.write(SECONDS_ALARM, 0x30)
    rig.write(MINUTES_ALARM, 0xFF)
    rig.write(HOURS_ALARM, 0xFF)
    rig.run(29 * HZ)
    assert not rig.read(C) & AIE
    rig.run(100 * HZ)
    assert rig.read(C) & AIE


def test_index_and_nmi_mask(rig):
    rig.bus.port_write(0x70, 1, 0x80 | MONTH)
    assert rig.rtc.nmi_masked
    assert rig.bus.port_read(0x71, 1) == 1
    assert rig.bus.port_read(0x70, 1) == 0xFF
    rig.bus.port_write(0x70, 1, MONTH)
    assert not rig.rtc.nmi_masked


def test_memory_and_read_only_registers(rig):
    for register in (0x0F, 0x40, 0x7F):
        rig.write(register, 0xA5)
        assert rig.read(register) == 0xA5
    for register in (C, D):
        rig.write(register, 0xFF)
    assert (rig.read(C), rig.read(D)) == (0, 0x80)
    rig.write(A, 0xFF)
    assert rig.read(A) == 0x7F


@pytest.mark.parametrize(
    ("size", "base", "extended", "above"),
    [
        (512 << 10, 512, 0, 0),
        (MIB, 640, 0, 0),
        (16 * MIB, 640, 15 << 10, 0),
        (64 * MIB, 640, 63 << 10, 48 * 16),
        (224 * MIB, 640, 0xFFFF, 208 * 16),
        (3072 * MIB, 640, 0xFFFF, 3056 * 16),
    ],
)
def test_memory_sizes(size, base, extended, above):
    rig = Rig(size)
    assert [rig.word(register) for register in (0x15, 0x17, 0x30, 0x34)] == [base, extended, extended, above]
    assert sum(rig.read(register) for register in range(0x10, 0x2E)) == rig.read(0x2E) << 8 | rig.read(0x2F)


# -- the calendar ------------------------------------------------------------------------------------------------------


@given(
    start=st.datetimes().filter(lambda moment: moment.year < 9000),
    seconds=st.integers(1, 1 << 34),
)
def test_the_calendar_is_the_gregorian_one(start, seconds):
    def encode(value):
        return value // 10 << 4 | value % 10

    def encoded(moment):
        hour = encode(moment.hour % 12 or 12) | (0x80 if moment.hour >= 12 else 0)
        values = encode(moment.second), encode(moment.minute), hour, encode(moment.day), encode(moment.month)
        return (*values, encode(moment.year % 100), encode(moment.year // 100), moment.isoweekday() % 7 + 1)

    cmos = bytearray(128)
    places = (SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY, WEEKDAY)
    for place, value in zip(places, encoded(start), strict=True):
        cmos[place] = value
    add_seconds(cmos, seconds, 0)
    assert tuple(cmos[place] for place in places) == encoded(start + dt.timedelta(seconds=seconds))


_bytes = st.integers(0, 255)


@given(
    time=st.binary(min_size=10, max_size=10),
    century=_bytes,
    mode=st.sampled_from([0, 2, 4, 6]),
    count=st.integers(1, 1 << 40),
)
def test_no_bytes_are_too_strange_to_count_on(time, century, mode, count):
    cmos = bytearray(time) + bytes(118)
    cmos[CENTURY] = century
    once = bytearray(cmos)
    add_seconds(once, 1, mode)
    add_seconds(once, count, mode)
    add_seconds(cmos, count + 1, mode)
    assert [cmos[place] for place in (SECONDS, MINUTES, HOURS)] == [once[place] for place in (SECONDS, MINUTES, HOURS)]


@given(
    hour=st.integers(0, 23), minute=st.integers(0, 59), second=st.integers(0, 59),
    alarm=st.tuples(*[st.one_of(st.integers(0, 59), st.just(0xFF))] * 3), mode=st.sampled_from([4, 6]),
)  # fmt: skip
def test_the_alarm_is_the_first_match(hour, minute, second, alarm, mode):
    cmos = bytearray(128)
    cmos[DAY] = cmos[MONTH] = cmos[WEEKDAY] = 1
    cmos[SECONDS], cmos[MINUTES] = second, minute
    cmos[HOURS] = hour if mode == 6 else (hour % 12 or 12) | (0x80 if hour >= 12 else 0)
    cmos[HOURS_ALARM], cmos[MINUTES_ALARM], cmos[SECONDS_ALARM] = alarm
    found = seconds_to_alarm(cmos, mode)

    def matches():
        return all(cmos[place + 1] in (cmos[place], 0xFF) for place in (SECONDS, MINUTES, HOURS))

    if found is None:
        assert any(value < 0xC0 for value in alarm)
        return
    step = max(found - 5, 1)
    add_seconds(cmos, step, mode)
    for _ in range(step, found):
        assert not matches()
        add_seconds(cmos, 1, mode)
    assert matches()


# -- saving ------------------------------------------------------------------------------------------------------------

_actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 0x7F), _bytes),
        st.tuples(st.just("write"), st.just(A), st.sampled_from([0x26, 0x2F, 0x66, 0x20, 0x2C])),
        st.tuples(st.just("write"), st.just(B), st.sampled_from([0x42, 0x12, 0x22, 0x72, 0x82, 0x02, 0x06])),
        st.tuples(st.just("write"), st.sampled_from([1, 3, 5]), st.sampled_from([0xFF, 0, 1, 2])),
        st.tuples(st.just("read"), st.integers(0, 0x7F)),
        st.tuples(st.just("read"), st.just(C)),
        st.tuples(st.just("run"), st.integers(1, 3 * HZ)),
        st.tuples(st.just("run"), st.integers(1, HZ // 100)),
    ),
    max_size=20,
)


def act(rig, actions):
    results = []
    for name, *values in actions:
        if name == "write":
            rig.write(*values)
        elif name == "read":
            results.append(rig.read(*values))
        else:
            rig.run(rig.clock.now + values[0])
    return results


@given(before=_actions, after=_actions)
def test_a_loaded_clock_goes_on_as_the_saved_one(before, after):
    rig, other = Rig(), Rig()
    act(rig, before)
    other.clock.load(rig.clock.save())
    other.rtc.load(rig.rtc.save())
    rig.edges.clear()
    assert act(other, after) == act(rig, after)
    assert other.edges == rig.edges
    assert other.rtc.save() == rig.rtc.save()


@given(actions=_actions)
def test_the_line_follows_the_flags(actions):
    rig = Rig()
    level = False
    for action in actions:
        act(rig, [action])
        level = rig.edges[-1][1] if rig.edges else False
        assert level == bool(rig.rtc.flags & rig.rtc.cmos[B] & 0x70)


def test_damaged_states_are_refused_and_change_nothing(rig):
    rig.write(0x40, 7)
    good = rig.rtc.save()
    for change in ({"version": 0}, {"cmos": bytes(64)}, {"index": 128}, {"seconds": -1}, {"nmi_masked": 0}, {"z": 1}):
        with pytest.raises(StateError, match="rtc"):
            rig.rtc.load(good | change)
    assert rig.rtc.save() == good
