"""A screen as data and as a picture: the same text, the same colours."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from vmlab.machine.devices import Cga
from vmlab.machine.terminal import Terminal
from vmlab.views.console import cga_display, colour_of, console_svg, history_lines, terminal_display
from vmlab.views.theme import ANSI


def shown(data, columns=20, rows=4):
    terminal = Terminal(columns, rows)
    terminal.feed(data)
    return terminal


def test_a_terminal():
    display = terminal_display(shown(b"a\x1b[31mb\x1b[m\nc"))
    assert display["lines"] == [[["a", -1, -1, 0], ["b", 1, -1, 0]], [["c", -1, -1, 0]], [], []]
    assert display["cursor"] == [1, 1]
    assert terminal_display(shown(b"\x1b[?25l"))["cursor"] is None
    assert terminal_display(shown(b"x" * 20))["cursor"] == [0, 19], "behind the last column, it is drawn in it"


def test_lines_above():
    terminal = shown(b"\n".join(b"%d" % n for n in range(9)))
    assert history_lines(terminal)["lines"] == [[[str(n), -1, -1, 0]] for n in range(5)]
    assert history_lines(terminal, 4) == {"start": 4, "lines": [[["4", -1, -1, 0]]]}
    assert history_lines(terminal, 5) == {"start": 5, "lines": []}
    terminal.feed(b"\x1b[3J")
    assert history_lines(terminal) == {"start": 5, "lines": []}


def test_the_pcs_colours_are_in_another_order():
    cga = Cga()
    for place, byte in enumerate((ord("A"), 0x1C, ord("B"), 0x1C, ord("C"), 0x4E)):
        cga.write(place, 1, byte)
    assert cga_display(cga)["lines"][0][:2] == [["AB", 9, 4, 0], ["C", 11, 1, 0]]  # light red on blue, yellow on red


@pytest.mark.parametrize(
    ("number", "colour"),
    [(1, ANSI[1]), (16, "#000000"), (231, "#ffffff"), (232, "#080808"), (255, "#eeeeee"), (-1, "x")],
)
def test_colours(number, colour):
    assert colour_of(number, "x") == colour


def test_the_picture_says_what_the_screen_says():
    svg = console_svg(terminal_display(shown(b"1 < 2 & \x1b[1;4;7mbold\x1b[0m \x1b[44mblue")), 'a "title"', "note")
    root = ET.fromstring(svg)
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
    assert texts == ['a "title"', "note", "1 < 2 & ", "bold", "blue"]
    assert 'font-weight="700" text-decoration="underline"' in svg
    assert ANSI[4] in svg
