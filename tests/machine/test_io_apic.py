"""The I/O APIC, rule by rule from the 82093AA data sheet, alone and with local APICs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError, StateError
from vmlab.machine.bus import Bus
from vmlab.machine.clock import Clock
from vmlab.machine.devices.apic_bus import ApicBus, Delivery, Message
from vmlab.machine.devices.io_apic import IoApic
from vmlab.machine.devices.local_apic import LocalApic
from vmlab.machine.memory import PhysicalMemory

BASE = 0xFEC00000
MASK, LEVEL, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11


class Rig:
    """An I/O APIC on a bus; `sent` are its messages, `accept` says whether a local APIC takes them."""

    def __init__(self):
        self.sent = []
        self.accept = True
        self.io_apic = IoApic(self.send, 2)
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.io_apic.attach(self.bus)

    def send(self, message):
        self.sent.append(message)
        return self.accept

    def read(self, register):
        self.bus.write(BASE, 4, register)
        return self.bus.read(BASE + 0x10, 4)

    def write(self, register, value):
        self.bus.write(BASE, 4, register)
        self.bus.write(BASE + 0x10, 4, value)

    def entry(self, pin, value=None):
        if value is not None:
            self.write(0x11 + 2 * pin, value >> 32)
            self.write(0x10 + 2 * pin, value & 0xFFFFFFFF)
        return self.read(0x10 + 2 * pin) | self.read(0x11 + 2 * pin) << 32

    def pulse(self, pin):
        self.io_apic.set_pin(pin, True)
        self.io_apic.set_pin(pin, False)


@pytest.fixture
def rig():
    return Rig()


def test_registers_after_reset(rig):
    assert rig.read(0) == 2 << 24
    assert rig.read(1) == 0x00170011
    assert rig.read(2) == 2 << 24
    assert [rig.entry(pin) for pin in range(24)] == [MASK] * 24
    assert rig.read(0x40) == 0, "beyond the last entry"
    assert rig.read(3) == 0


def test_what_can_be_written(rig):
    rig.write(0, 0xFFFFFFFF)
    assert rig.read(0) == 0x0F000000
    rig.write(1, 0)
    assert rig.read(1) == 0x00170011
    assert rig.entry(23, (1 << 64) - 1) == 0xFF00000000000000 | 0x1AFFF
    rig.write(0x40, 5)
    assert rig.read(0x40) == 0


def test_the_window_is_written_as_a_whole(rig):
    rig.bus.write(BASE, 1, 0x10)
    rig.bus.write(BASE + 0x10, 4, 0x12345)
    for size in (1, 2):
        rig.bus.write(BASE + 0x10, size, 0)
    assert rig.entry(0) == 0x12345 & 0x1AFFF
    assert rig.bus.read(BASE + 0x20, 4) == 0
    assert rig.bus.read(BASE, 1) == 0x11


def test_an_edge_sends_one_message(rig):
    rig.entry(4, 3 << 56 | 0x24)
    for level in (True, True, False, False, True):
        rig.io_apic.set_pin(4, level)
    assert rig.sent == [Message(Delivery.FIXED, 0x24, 3)] * 2


def test_mode_and_destination_are_the_entry_s(rig):
    rig.entry(5, 0x0F << 56 | LOGICAL | Delivery.LOWEST_PRIORITY << 8 | 0x55)
    rig.pulse(5)
    assert rig.sent == [Message(Delivery.LOWEST_PRIORITY, 0x55, 0x0F, logical=True)]


def test_an_edge_on_a_masked_pin_is_lost(rig):
    rig.entry(4, MASK | 0x24)
    rig.io_apic.set_pin(4, True)
    rig.entry(4, 0x24)
    assert rig.sent == []


def test_startup_is_not_for_an_i_o_apic(rig):
    rig.entry(4, Delivery.STARTUP << 8 | 0x24)
    rig.pulse(4)
    assert rig.sent == []


def test_a_level_is_sent_until_its_end(rig):
    rig.entry(9, LEVEL | 0x29)
    rig.io_apic.set_pin(9, True)
    assert rig.sent == [Message(Delivery.FIXED, 0x29, 0, level=True)]
    assert rig.entry(9) == LEVEL | REMOTE_IRR | 0x29
    rig.io_apic.set_pin(9, False)
    rig.io_apic.set_pin(9, True)
    assert len(rig.sent) == 1, "one is under way"
    rig.io_apic.end_of_interrupt(0x28)
    assert len(rig.sent) == 1
    rig.io_apic.end_of_interrupt(0x29)
    assert len(rig.sent) == 2, "still asserted"
    rig.io_apic.set_pin(9, False)
    rig.io_apic.end_of_interrupt(0x29)
    assert len(rig.sent) == 2
    assert rig.entry(9) == LEVEL | 0x29


def test_unmasking_an_asserted_level_sends_it(rig):
    rig.entry(9, MASK | LEVEL | 0x29)
    rig.io_apic.set_pin(9, True)
    assert rig.sent == []
    rig.entry(9, LEVEL | 0x29)
    assert len(rig.sent) == 1


def test_a_level_that_nobody_accepts_is_tried_again(rig):
    rig.accept = False
    rig.entry(9, LEVEL | 0x29)
    rig.io_apic.set_pin(9, True)
    assert rig.entry(9) == LEVEL | 0x29
    rig.accept = True
    rig.entry(9, 1 << 56 | LEVEL | 0x29)
    assert rig.sent[-1].destination == 1
    assert rig.entry(9) & REMOTE_IRR


def test_changing_to_edge_ends_what_is_under_way(rig):
    rig.entry(9, LEVEL | 0x29)
    rig.io_apic.set_pin(9, True)
    rig.entry(9, MASK | 0x29)
    assert rig.entry(9) == MASK | 0x29


def test_isa_lines_and_pins(rig):
    rig.entry(2, 0x22)
    rig.entry(14, 0x2E)
    rig.io_apic.line(0)(True)
    rig.io_apic.line(14)(True)
    assert [message.vector for message in rig.sent] == [0x22, 0x2E]
    for bad in (2, 16, -1, "0"):
        with pytest.raises(OptionError, match="interrupt line"):
            rig.io_apic.line(bad)
    for bad in (24, -1, None):
        with pytest.raises(OptionError, match="pin"):
            rig.io_apic.pin(bad)
    with pytest.raises(OptionError, match="0 to 15"):
        IoApic(rig.send, 16)


def test_level_interrupts_through_a_local_apic():
    clock, messages = Clock(), ApicBus()
    apics = [LocalApic(clock, messages, n) for n in range(2)]
    for apic in apics:
        apic.write(0xF0, 4, 0x1FF)
    io_apic = IoApic(messages.send)
    messages.on_end.append(io_apic.end_of_interrupt)
    io_apic.entries[10] = 1 << 56 | LEVEL | 0x4A
    io_apic.set_pin(10, True)
    for _ in range(3):
        assert not apics[0].output
        assert apics[1].acknowledge() == 0x4A
        assert not apics[1].output
        apics[1].write(0xB0, 4, 0)
    io_apic.set_pin(10, False)
    assert apics[1].acknowledge() == 0x4A
    apics[1].write(0xB0, 4, 0)
    assert not apics[1].output
    assert io_apic.entries[10] == 1 << 56 | LEVEL | 0x4A


_actions = st.lists(
    st.one_of(
        st.tuples(st.just("pin"), st.integers(0, 3), st.booleans()),
        st.tuples(
            st.just("write"), st.sampled_from([0, 1, 0x10, 0x11, 0x12, 0x13, 0x14, 0x16]), st.integers(0, 0xFFFFFFFF)
        ),
        st.tuples(st.just("write"), st.sampled_from([0x10, 0x12]), st.sampled_from([0x30, LEVEL | 0x31, MASK])),
        st.tuples(st.just("end"), st.sampled_from([0x30, 0x31])),
        st.tuples(st.just("accept"), st.booleans()),
    ),
    max_size=30,
)


def act(rig, actions):
    start = len(rig.sent)
    for name, *values in actions:
        if name == "pin":
            rig.io_apic.set_pin(*values)
        elif name == "write":
            rig.write(*values)
        elif name == "end":
            rig.io_apic.end_of_interrupt(*values)
        else:
            rig.accept = values[0]
    return rig.sent[start:]


@given(before=_actions, after=_actions)
def test_a_loaded_i_o_apic_goes_on_as_the_saved_one(before, after):
    rig, other = Rig(), Rig()
    act(rig, before)
    other.io_apic.load(rig.io_apic.save())
    other.accept = rig.accept
    assert act(other, after) == act(rig, after)
    assert other.io_apic.save() == rig.io_apic.save()


def test_damaged_states_are_refused_and_change_nothing(rig):
    rig.entry(3, 0x33)
    good = rig.io_apic.save()
    for change in (
        {"version": 2},
        {"identifier": 16},
        {"pins": 1 << 24},
        {"entries": [0] * 23},
        {"entries": [-1] * 24},
        {"y": 0},
    ):
        with pytest.raises(StateError, match="io-apic"):
            rig.io_apic.load(good | change)
    assert rig.io_apic.save() == good
