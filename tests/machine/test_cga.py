"""The text screen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.devices.cga import COLUMNS, ROWS, Cell, Cga
from vmlab.machine.memory import PhysicalMemory

BUFFER = 0xB8000


@pytest.fixture
def bus():
    bus = Bus(PhysicalMemory(1 << 20))
    Cga().attach(bus)
    return bus


def cga(bus):
    return bus.devices["cga"]


def crtc(bus, register, value):
    bus.port_write(0x3D4, 1, register)
    bus.port_write(0x3D5, 1, value)


def test_the_screen_is_blank_at_first(bus):
    assert cga(bus).text() == "\n" * (ROWS - 1)
    assert cga(bus).cells() == [[Cell(" ", 0x07)] * COLUMNS] * ROWS


def test_characters_and_attributes_alternate(bus):
    for column, character in enumerate(b"Hello"):
        bus.write(BUFFER + 2 * (COLUMNS + column), 2, 0x1F00 | character)
    assert cga(bus).text().split("\n")[1] == "Hello"
    assert cga(bus).cells()[1][0] == Cell("H", 0x1F)
    assert bus.read(BUFFER + 2 * COLUMNS, 4) == 0x1F651F48
    assert not any(bus.memory.data), "RAM under the adapter is untouched"


def test_every_code_has_a_glyph(bus):
    for code in range(256):
        bus.write(BUFFER + 2 * code, 1, code)
    glyphs = "".join(cell.character for row in cga(bus).cells() for cell in row)[:256]
    assert glyphs[1:4] == "☺☻♥"
    assert glyphs[30:34] == "▲▼ !"
    assert glyphs[0x7E:0x81] == "~⌂Ç"
    assert (glyphs[0xC4], glyphs[0xDB], glyphs[0xE1]) == ("─", "█", "ß")
    assert not any(glyph in "\n\r\t\b\x1b" for glyph in glyphs)


def test_the_cursor(bus):
    crtc(bus, 0x0E, 80 * 3 + 7 >> 8)
    crtc(bus, 0x0F, 80 * 3 + 7 & 0xFF)
    assert cga(bus).cursor() == (3, 7)
    crtc(bus, 0x0A, 0x20)
    assert cga(bus).cursor() is None
    crtc(bus, 0x0A, 0x0E)
    crtc(bus, 0x0E, 0x3F)
    assert cga(bus).cursor() is None, "outside the screen"


def test_crtc_registers_read_back(bus):
    crtc(bus, 0x0F, 0x42)
    assert bus.port_read(0x3D4, 1) == 0x0F
    assert bus.port_read(0x3D5, 1) == 0x42
    crtc(bus, 0xFE, 1)
    assert bus.port_read(0x3D5, 1) == 0, "no such register"
    bus.port_write(0x3D4, 2, 0x370F)  # index and data in one word, as many kernels do
    bus.port_write(0x3D4, 1, 0x0F)
    assert bus.port_read(0x3D5, 1) == 0x37


def test_the_start_address_scrolls_and_wraps(bus):
    bus.write(BUFFER + 2 * COLUMNS, 1, ord("B"))
    crtc(bus, 0x0D, COLUMNS)
    assert cga(bus).text().startswith("B\n")
    bus.write(BUFFER, 1, ord("A"))
    crtc(bus, 0x0C, 0x3F)
    crtc(bus, 0x0D, 0xFF)
    assert cga(bus).text().startswith(" A"), "the buffer is a ring"


@given(
    writes=st.lists(
        st.tuples(st.integers(0, 0x7FFC), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFF_FFFF)), max_size=10
    ),
    registers=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=5),
)
def test_a_loaded_screen_shows_what_the_saved_one_did(writes, registers):
    screen = Cga()
    for offset, size, value in writes:
        screen.write(offset, size, value)
    for register, value in registers:
        screen.write(0x8000, 1, register)
        screen.write(0x8001, 1, value)
    other = Cga()
    other.load(screen.save())
    assert (other.cells(), other.cursor(), other.save()) == (screen.cells(), screen.cursor(), screen.save())


def test_damaged_states_are_refused_and_change_nothing():
    screen = Cga()
    screen.write(0, 1, 0x41)
    good = screen.save()
    for change in ({"version": 0}, {"data": bytes(5)}, {"registers": b""}, {"index": 256}, {"data": None}, {"more": 1}):
        with pytest.raises(StateError, match="cga"):
            screen.load(good | change)
    assert screen.save() == good
