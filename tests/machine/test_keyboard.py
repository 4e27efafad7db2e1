"""The keyboard and its controller, rule by rule from IBM's technical reference."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError, StateError
from vmlab.machine.bus import Bus
from vmlab.machine.clock import Clock
from vmlab.machine.devices.keyboard import PACE, Keyboard
from vmlab.machine.devices.keyboard_codes import KEYS
from vmlab.machine.memory import PhysicalMemory

ACK = 0xFA
# Scan code set 1 as PC kernels have it in their tables: characters without and with Shift, by code from 0x02 on.
PLAIN = "1234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 "
SHIFT = '!@#$%^&*()_+\b\tQWERTYUIOP{}\n\0ASDFGHJKL:"~\0|ZXCVBNM<>?\0*\0 '


class Rig:
    def __init__(self):
        self.lines, self.mouse_lines, self.signals = [False], [False], []
        self.keyboard = Keyboard(self.lines.append, self.mouse_lines.append)
        self.keyboard.on_reset = lambda: self.signals.append("reset")
        self.keyboard.on_a20 = self.signals.append
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.keyboard.attach(self.bus)

    def status(self):
        return self.bus.port_read(0x64, 1)

    def data(self):
        return self.bus.port_read(0x60, 1)

    def command(self, value, *arguments):
        self.bus.port_write(0x64, 1, value)
        for argument in arguments:
            self.bus.port_write(0x60, 1, argument)

    def send(self, *values):
        """Send to the keyboard and return its answers."""
        answers = []
        for value in values:
            self.bus.port_write(0x60, 1, value)
            answers += self.all()
        return answers

    def all(self):
        values = []
        while self.status() & 1:
            values.append(self.data())
        return values


@pytest.fixture
def rig():
    return Rig()


def decode(codes):
    """What a kernel with tables of scan code set 1 makes of the codes."""
    text, shift, control = "", False, False
    for code in codes:
        if code & 0x7F in (0x2A, 0x36):
            shift = code < 0x80
        elif code & 0x7F == 0x1D:
            control = code < 0x80
        elif code == 0x01:
            text += "\x1b"
        elif code < 0x80:
            character = (SHIFT if shift else PLAIN)[code - 2]
            text += chr(ord(character) & 0x1F) if control else character
    return text


def test_typed_text_is_what_kernels_read(rig):
    text = string.ascii_letters + string.digits + string.punctuation + " \t\n\b\x1b\x03\x04\x10"
    rig.keyboard.type_text(text)
    assert decode(rig.all()) == text


def test_scan_codes_of_a_word(rig):
    rig.keyboard.type_text("Ls\n")
    assert rig.all() == [0x2A, 0x26, 0xA6, 0xAA, 0x1F, 0x9F, 0x1C, 0x9C]


def test_text_that_cannot_be_typed_types_nothing(rig):
    for text in ("abcé", "☺", "\0"):
        with pytest.raises(OptionError, match="no key of a US keyboard"):
            rig.keyboard.type_text(text)
    with pytest.raises(OptionError, match="types a str"):
        rig.keyboard.type_text(b"a")
    assert rig.all() == []


def test_keys(rig):
    for key, codes in {
        "up": [0xE0, 0x48],
        "f1": [0x3B],
        "f7": [0x41],
        "f12": [0x58],
        "ctrl": [0x1D],
        "delete": [0xE0, 0x53],
    }.items():
        rig.keyboard.press(key)
        assert rig.all() == codes
        rig.keyboard.press(key, down=False)
        assert rig.all() == [*codes[:-1], codes[-1] | 0x80]
    with pytest.raises(OptionError, match=r"no key 'any'.*f12"):
        rig.keyboard.press("any")
    assert len({code for key, code in KEYS.items() if len(key) > 1}) == len([key for key in KEYS if len(key) > 1])


def test_each_byte_makes_an_edge(rig):
    rig.keyboard.type_text("a")
    assert rig.lines[-1]
    assert rig.status() == 0x15
    assert rig.data() == 0x1E
    edges = [level for before, level in zip(rig.lines, rig.lines[1:], strict=False) if level != before]
    assert edges == [True, False, True]
    assert rig.data() == 0x9E
    assert not rig.lines[-1]
    assert rig.status() == 0x14
    assert rig.data() == 0x9E, "the last byte stays"


def test_configuration(rig):
    rig.command(0x20)
    assert rig.data() == 0x65
    rig.command(0x60, 0x64)
    rig.keyboard.type_text("a")
    assert not rig.lines[-1], "without its interrupt"
    assert rig.data() == 0x1E
    rig.command(0x60, 0x25)
    assert rig.all() == [0x9E & 0x7F | 0x80]


def test_without_translation_the_keyboard_s_own_codes_come_through(rig):
    rig.command(0x60, 0x25)
    rig.keyboard.type_text("a")
    assert rig.all() == [0x1C, 0xF0, 0x1C]


def test_controller_ram(rig):
    rig.command(0x7F, 0x5A)
    rig.command(0x3F)
    assert rig.data() == 0x5A


def test_tests(rig):
    for command, answer in ((0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00), (0xC0, 0x80)):
        rig.command(command)
        assert rig.all() == [answer]
    assert rig.status() == 0x1C, "the last write was a command"


def test_a_disabled_keyboard_waits(rig):
    rig.command(0xAD)
    rig.keyboard.type_text("a")
    assert rig.all() == []
    rig.command(0x20)
    assert rig.all() == [0x75]
    rig.command(0xAE)
    assert rig.all() == [0x1E, 0x9E]


def test_sending_to_the_keyboard_enables_it(rig):
    rig.command(0xAD)
    assert rig.send(0xF4) == [ACK]


def test_the_mouse_is_absent(rig):
    rig.command(0xA8)
    rig.command(0x20)
    assert rig.data() == 0x45
    rig.command(0xD4, 0xFF)
    assert rig.status() & 0x61 == 0x61, "timeout"
    assert rig.data() == 0xFE
    assert not any(rig.mouse_lines), "its interrupt is off"
    rig.command(0x60, 0x47)
    rig.command(0xD3, 0x12)
    assert rig.mouse_lines[-1]
    assert not rig.lines[-1]
    assert rig.status() & 0x61 == 0x21
    assert rig.data() == 0x12
    assert not rig.mouse_lines[-1]
    rig.command(0xA7)
    rig.command(0x20)
    assert rig.all() == [0x67]


def test_bytes_can_be_put_as_if_typed(rig):
    rig.command(0xD2, 0x1C)
    assert rig.lines[-1]
    assert rig.all() == [0x1C], "not translated"


def test_a20_and_reset_lines(rig):
    rig.command(0xD0)
    assert rig.data() == 0xCF
    rig.command(0xD1, 0xCD)
    rig.command(0xD1, 0xDF)
    rig.command(0xDD)
    rig.command(0xDF)
    rig.command(0xDF)
    assert rig.signals == [False, True, False, True]
    rig.command(0xFE)
    rig.command(0xFF)
    rig.command(0xD1, 0xDE)
    assert rig.signals[4:] == ["reset", "reset"]


def test_lines_that_are_not_wired():
    keyboard = Keyboard(lambda level: None)
    keyboard.write(1, 1, 0xFE)
    keyboard.write(1, 1, 0xDD)
    keyboard.write(1, 1, 0xD3)
    keyboard.write(0, 1, 5)
    assert keyboard.read(0, 1) == 5


def test_keyboard_commands(rig):
    assert rig.send(0xEE) == [0xEE]
    assert rig.send(0xF2) == [ACK, 0xAB, 0x41]
    assert rig.send(0xED, 7) == [ACK, ACK]
    assert rig.send(0xF3, 0x20) == [ACK, ACK]
    assert rig.send(0xF0, 0) == [ACK, ACK, 0x41]
    assert rig.send(0xF0, 3) == [ACK, 0xFE]
    assert rig.send(0xFF) == [ACK, 0xAA]
    assert rig.send(0xFE) == [0xAA], "once more"
    assert rig.send(0x05) == [0xFE]
    assert rig.send(0xED, 0xEE) == [ACK, 0xEE], "a command instead of the argument"


def test_scan_code_set_1_of_the_keyboard(rig):
    rig.command(0x60, 0x05)
    assert rig.send(0xF0, 1) == [ACK, ACK]
    rig.keyboard.type_text("a")
    assert rig.all() == [0x1E, 0x9E]
    assert rig.send(0xF0, 0) == [ACK, ACK, 1]


def test_scanning_is_off_after_f5(rig):
    assert rig.send(0xF5) == [ACK]
    rig.keyboard.type_text("a")
    assert rig.all() == []
    assert rig.send(0xF4) == [ACK]
    rig.keyboard.type_text("a")
    assert rig.all() == [0x1E, 0x9E]


def test_answers_come_before_what_was_typed(rig):
    rig.keyboard.type_text("ab")
    assert rig.data() == 0x1E
    rig.bus.port_write(0x60, 1, 0xF4)
    assert rig.all() == [0x9E, ACK, 0x30, 0xB0]


_actions = st.lists(
    st.one_of(
        st.tuples(st.just("command"), st.integers(0, 255)),
        st.tuples(st.just("send"), st.integers(0, 255)),
        st.tuples(st.just("type"), st.sampled_from(["a", "Hi\n", "\x03"])),
        st.tuples(st.just("status")),
        st.tuples(st.just("data")),
    ),
    max_size=30,
)


def act(rig, actions):
    results = []
    for name, *values in actions:
        if name == "command":
            rig.command(*values)
        elif name == "send":
            rig.bus.port_write(0x60, 1, values[0])
        elif name == "type":
            rig.keyboard.type_text(*values)
        else:
            results.append(getattr(rig, name)())
    return results, rig.signals


@given(before=_actions, after=_actions)
def test_a_loaded_keyboard_goes_on_as_the_saved_one(before, after):
    rig, other = Rig(), Rig()
    act(rig, before)
    other.keyboard.load(rig.keyboard.save())
    rig.signals.clear()
    assert act(other, after) == act(rig, after)
    assert other.keyboard.save() == rig.keyboard.save()


@given(actions=_actions)
def test_the_lines_follow_the_output_buffer(actions):
    rig = Rig()
    for action in actions:
        act(rig, [action])
        configuration = rig.keyboard.configuration
        status = rig.status()
        assert rig.lines[-1] == (status & 0x21 == 0x01 and bool(configuration & 1))
        assert rig.mouse_lines[-1] == (status & 0x21 == 0x21 and bool(configuration & 2))


def test_damaged_states_are_refused_and_change_nothing(rig):
    rig.keyboard.type_text("xyz")
    good = rig.keyboard.save()
    for change in (
        {"version": 3}, {"ram": [0] * 31}, {"ram": [256] * 32}, {"full": 1}, {"scan_code_set": 3}, {"replies": [512]},
        {"from_keyboard": "a"}, {"q": 1},
    ):  # fmt: skip
        with pytest.raises(StateError, match="keyboard"):
            rig.keyboard.load(good | change)
    assert rig.keyboard.save() == good


# -- typing later ------------------------------------------------------------------------------------------------------


def timed():
    clock = Clock()
    keyboard = Keyboard(lambda high: None, clock=clock)
    bus = Bus(PhysicalMemory(1 << 16))
    keyboard.attach(bus)
    return clock, keyboard, bus


def taken(clock, bus, until):
    """Read bytes as soon as they are there; return (time, byte) of each."""
    found = []
    while clock.deadline is not None and clock.deadline <= until:
        clock.now = clock.deadline
        clock.service()
        while bus.port_read(0x64, 1) & 1:
            found.append((clock.now, bus.port_read(0x60, 1)))
    return found


def test_a_character_comes_at_its_time_and_no_faster_than_the_pace():
    clock, keyboard, bus = timed()
    keyboard.type_at(5 * PACE, "ab")
    keyboard.type_at(20 * PACE, "c")
    assert taken(clock, bus, 100 * PACE) == [
        (5 * PACE, 0x1E), (5 * PACE, 0x9E), (6 * PACE, 0x30), (6 * PACE, 0xB0), (20 * PACE, 0x2E), (20 * PACE, 0xAE),
    ]  # fmt: skip
    assert clock.deadline is None


def test_the_next_character_waits_until_the_one_before_has_been_read():
    clock, keyboard, bus = timed()
    keyboard.type_at(0, "ab")
    clock.now = 50 * PACE
    clock.service()
    clock.now = 70 * PACE
    clock.service()
    assert clock.deadline is None
    assert [bus.port_read(0x60, 1) for _ in range(2)] == [0x1E, 0x9E]
    assert clock.deadline == 71 * PACE


def test_a_silenced_keyboard_swallows_what_is_typed():
    clock, keyboard, bus = timed()
    bus.port_write(0x60, 1, 0xF5)
    bus.port_read(0x60, 1)
    keyboard.type_at(0, "abc")
    assert taken(clock, bus, 100 * PACE) == []
    assert clock.deadline is None


def test_what_is_to_be_typed_is_saved():
    clock, keyboard, bus = timed()
    keyboard.type_at(PACE, "Xy")
    taken(clock, bus, PACE)
    state = keyboard.save()
    expected = taken(clock, bus, 9 * PACE)
    assert expected
    other_clock, other, other_bus = timed()
    other_clock.now = PACE
    other.load(state)
    assert taken(other_clock, other_bus, 9 * PACE) == expected
    for damage in (
        {"later": [[0]]},
        {"later": [[-1, [3]]]},
        {"later": [[[1], [3]]]},
        {"due": -1},
        {"later": [[1, [256]]]},
    ):
        with pytest.raises(StateError, match="keyboard"):
            other.load(state | damage)


def test_typing_later_needs_a_clock(rig):
    with pytest.raises(OptionError, match="no clock"):
        rig.keyboard.type_at(0, "a")
    with pytest.raises(OptionError, match="US keyboard"):
        timed()[1].type_at(0, "é")
