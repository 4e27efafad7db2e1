"""The serial port, rule by rule from the PC16550D data sheet."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError, StateError
from vmlab.machine.bus import Bus
from vmlab.machine.devices.uart import Uart
from vmlab.machine.memory import PhysicalMemory

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7
NO_INTERRUPT, MODEM, EMPTY, DATA, LINE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
LOOP = 0x10


class Rig:
    def __init__(self):
        self.levels = []
        self.uart = Uart(self.levels.append)
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.uart.attach(self.bus)

    def write(self, register, *values):
        for value in values:
            self.bus.port_write(0x3F8 + register, 1, value)

    def read(self, register):
        return self.bus.port_read(0x3F8 + register, 1)

    @property
    def line(self):
        return bool(self.levels) and self.levels[-1]


@pytest.fixture
def rig():
    return Rig()


def test_what_is_sent_is_kept(rig):
    rig.write(THR, *b"Hello, \xc3\xa4\xff")
    assert rig.uart.output == b"Hello, \xc3\xa4\xff"
    assert rig.uart.text == "Hello, ä\N{REPLACEMENT CHARACTER}"


def test_the_transmitter_is_always_ready(rig):
    assert rig.read(LSR) == 0x60
    rig.write(THR, 65)
    assert rig.read(LSR) == 0x60


def test_without_interrupts_enabled_the_line_stays_low(rig):
    rig.write(THR, 65)
    rig.uart.feed(b"x")
    assert rig.levels == []
    assert rig.read(IIR) == NO_INTERRUPT


def test_received_characters_come_in_order_and_none_is_lost(rig):
    text = bytes(range(100))
    rig.uart.feed(text)
    got = bytearray()
    while rig.read(LSR) & 1:
        got.append(rig.read(RBR))
    assert got == text
    assert rig.read(RBR) == 99, "an empty receiver shows the last character"


def test_feed_takes_bytes(rig):
    with pytest.raises(OptionError, match="bytes, not str"):
        rig.uart.feed("text")


def test_dlab_shows_the_divisor(rig):
    rig.write(IER, 0x05)
    rig.write(LCR, 0x83)
    rig.write(DLL, 0x34)
    rig.write(DLM, 0x12)
    assert (rig.read(DLL), rig.read(DLM), rig.read(LCR)) == (0x34, 0x12, 0x83)
    assert rig.uart.divisor == 0x1234
    rig.write(LCR, 0x03)
    assert rig.read(IER) == 0x05
    assert rig.uart.output == b""


def test_scratch_and_unused_bits(rig):
    rig.write(SCR, 0xA5)
    assert rig.read(SCR) == 0xA5
    rig.write(IER, 0xF0)
    rig.write(MCR, 0xE3)
    assert (rig.read(IER), rig.read(MCR)) == (0, 0x03)
    rig.write(LSR, 0xFF)
    rig.write(MSR, 0xFF)
    assert (rig.read(LSR), rig.read(MSR)) == (0x60, 0xB0)


# -- interrupts --------------------------------------------------------------------------------------------------------


def test_received_data_raises_the_line_until_read(rig):
    rig.write(IER, 1)
    rig.uart.feed(b"a")
    assert rig.line
    assert rig.read(IIR) == DATA
    assert rig.line, "reading IIR does not end it"
    rig.read(RBR)
    assert not rig.line
    assert rig.read(IIR) == NO_INTERRUPT


def test_each_character_is_an_edge_of_its_own(rig):
    rig.write(IER, 1)
    rig.uart.feed(b"ab")
    rig.read(RBR)
    assert rig.levels == [True, False, True]


def test_enabling_the_transmitter_interrupt_raises_it_at_once(rig):
    rig.write(IER, 2)
    assert rig.line
    assert rig.read(IIR) == EMPTY
    assert not rig.line, "reading IIR ends it"
    assert rig.read(IIR) == NO_INTERRUPT
    rig.write(IER, 2)
    assert not rig.line, "enabled already"
    rig.write(IER, 0)
    rig.write(IER, 2)
    assert rig.line


def test_each_sent_character_raises_the_transmitter_interrupt(rig):
    rig.write(IER, 2)
    rig.read(IIR)
    rig.levels.clear()
    rig.write(THR, 65)
    assert rig.levels == [True]
    rig.write(THR, 66)
    assert rig.levels == [True, False, True], "writing THR ends it, sending raises it again"


def test_priority_of_the_causes(rig):
    rig.write(IER, 0x0F)
    rig.write(MCR, LOOP)  # modem lines fall: modem status changes
    rig.write(THR, 1, 2)  # received, and overrun
    seen = [rig.read(IIR)]
    rig.read(LSR)
    seen.append(rig.read(IIR))
    rig.read(RBR)
    seen.append(rig.read(IIR))
    seen.append(rig.read(IIR))
    rig.read(MSR)
    seen.append(rig.read(IIR))
    assert seen == [LINE, DATA, EMPTY, MODEM, NO_INTERRUPT]
    assert not rig.line


def test_iir_is_the_transmitters_only_when_it_is_the_cause(rig):
    rig.write(IER, 3)
    rig.uart.feed(b"a")
    assert rig.read(IIR) == DATA
    rig.read(RBR)
    assert rig.read(IIR) == EMPTY, "reading IIR for a higher cause did not end it"


# -- FIFOs ----------------------------------------------------------------------------------------------------------------


def test_fifo_bits_of_iir(rig):
    rig.write(FCR, 0x01)
    assert rig.read(IIR) == 0xC1
    rig.write(FCR, 0x00)
    assert rig.read(IIR) == 0x01


@pytest.mark.parametrize(("bits", "trigger"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_fifo_trigger_levels(rig, bits, trigger):
    rig.write(FCR, 0x01 | bits)
    rig.write(IER, 1)
    rig.uart.feed(b"x" * (trigger - 1))
    assert rig.read(IIR) & 0x0F == (TIMEOUT if trigger > 1 else NO_INTERRUPT)
    rig.uart.feed(b"x")
    assert rig.read(IIR) & 0x0F == DATA
    for _ in range(trigger):
        assert rig.line
        rig.read(RBR)
    assert not rig.line


def test_the_fifo_holds_sixteen_and_the_wire_the_rest(rig):
    rig.write(FCR, 0x01)
    rig.uart.feed(bytes(range(20)))
    rig.write(FCR, 0x03)  # clears what has been received
    assert rig.read(RBR) == 16


def test_switching_the_fifos_clears_them(rig):
    rig.uart.feed(b"ab")
    rig.write(FCR, 0x01)
    assert rig.read(RBR) == ord("b")
    assert not rig.read(LSR) & 1


def test_clear_bits_need_the_enable_bit(rig):
    rig.uart.feed(b"a")
    rig.write(FCR, 0x02)
    assert rig.read(LSR) & 1


# -- modem and loopback -------------------------------------------------------------------------------------------------------


def test_a_terminal_is_connected(rig):
    assert rig.read(MSR) == 0xB0


def test_loopback_returns_characters_and_cuts_the_wire(rig):
    rig.write(MCR, LOOP)
    rig.uart.feed(b"z")
    assert not rig.read(LSR) & 1
    rig.write(THR, 0xAE)
    assert rig.uart.output == b""
    assert rig.read(RBR) == 0xAE
    rig.write(MCR, 0)
    assert rig.read(RBR) == ord("z")


def test_loopback_overruns(rig):
    rig.write(MCR, LOOP)
    rig.write(THR, 1, 2)
    assert rig.read(LSR) == 0x63
    assert rig.read(LSR) == 0x61, "reading ends the error"
    assert rig.read(RBR) == 2, "a register is overwritten"
    rig.write(FCR, 1)
    rig.write(THR, *range(17))
    assert rig.read(LSR) & 2
    assert [rig.read(RBR) for _ in range(16)] == list(range(16)), "a FIFO keeps what it has"


@pytest.mark.parametrize(("control", "status"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)])
def test_loopback_connects_the_modem_lines(rig, control, status):
    rig.write(MCR, LOOP)
    rig.read(MSR)
    rig.write(MCR, LOOP | control)
    delta = 0 if status == 0x40 else status >> 4
    assert rig.read(MSR) == status | delta
    assert rig.read(MSR) == status, "reading clears the changes"
    rig.write(MCR, LOOP)
    assert rig.read(MSR) == status >> 4, "the end of ringing counts as a change too"


def test_modem_status_interrupt(rig):
    rig.write(IER, 8)
    rig.write(MCR, LOOP)
    assert rig.line
    assert rig.read(IIR) == MODEM
    rig.read(MSR)
    assert not rig.line


# -- state -------------------------------------------------------------------------------------------------------------------

_actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
        st.tuples(st.just("read"), st.integers(0, 7), st.none()),
        st.tuples(st.just("feed"), st.binary(max_size=20), st.none()),
    ),
    max_size=30,
)


def act(uart, actions):
    seen = []
    for kind, what, value in actions:
        if kind == "write":
            uart.write(what, 1, value)
        elif kind == "read":
            seen.append(uart.read(what, 1))
        else:
            uart.feed(what)
    return seen


@given(before=_actions, after=_actions)
def test_a_loaded_port_goes_on_as_the_saved_one(before, after):
    first, second = [], []
    uart = Uart(first.append)
    act(uart, before)
    other = Uart(second.append)
    other.load(uart.save())
    first.clear()
    assert act(other, after) == act(uart, after)
    assert second == first
    assert other.save() == uart.save()


@given(actions=_actions)
def test_the_line_follows_iir(actions):
    level = [False]
    uart = Uart(level.append)
    for action in actions:
        act(uart, [action])
        assert level[-1] == (not uart._cause() & 1)
    assert all(first != second for first, second in itertools.pairwise(level)), "only changes are driven"


def test_damaged_states_are_refused_and_change_nothing(rig):
    rig.write(THR, 65)
    good = rig.uart.save()
    for change in ({"version": 2}, {"ier": 16}, {"output": "text"}, {"received": None}, {"thre_pending": 1}, {"x": 1}):
        with pytest.raises(StateError, match="uart"):
            rig.uart.load(good | change)
    assert rig.uart.save() == good
