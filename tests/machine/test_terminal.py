"""The terminal: what each control does to the screen. `tests/widgets/test_terminal_xterm.py` compares it with xterm.js."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError
from vmlab.machine.terminal import HISTORY, Terminal
from vmlab.machine.terminal_keys import encode_key, encode_paste
from vmlab.machine.terminal_style import BOLD, INVERSE, RGB, UNDERLINE, Style


def shown(data, columns=10, rows=4):
    terminal = Terminal(columns, rows)
    terminal.feed(data)
    return terminal


@pytest.mark.parametrize(
    ("data", "text", "cursor"),
    [
        (b"ab\ncd", "ab\ncd", (1, 2)),
        (b"ab\r\ncd\rX", "ab\nXd", (1, 1)),
        (b"ab\b \b", "a", (0, 1)),  # how a kernel takes a character back
        (b"0123456789", "0123456789", (0, 10)),  # the cursor waits behind the last column
        (b"0123456789ab", "0123456789\nab", (1, 2)),
        (b"0123456789\b!", "01234567!9", (0, 9)),
        (b"0123456789\nx", "0123456789\nx", (1, 1)),  # no empty line between
        (b"\x1b[?7l0123456789ab", "012345678b", (0, 10)),
        (b"a\tb", "a       b", (0, 9)),
        (b"a\x1b[1;5Hb\x1b[3;2Hc", "a   b\n\n c", (2, 2)),
        (b"abc\x1b[2D\x1b[4hXY", "aXYbc", (0, 3)),
        (b"abc\x1b[H\x1b[K", "", (0, 0)),
        (b"abc\x1b[2D\x1b[1K", "  c", (0, 1)),
        (b"a\nb\nc\x1b[2;1H\x1b[J", "a", (1, 0)),
        (b"a\nb\nc\x1b[2;2H\x1b[1J", "\n\nc", (1, 1)),
        (b"a\nb\x1b[2J", "", (1, 1)),
        (b"abcdef\x1b[3G\x1b[2P", "abef", (0, 2)),
        (b"abcdef\x1b[3G\x1b[2@", "ab  cdef", (0, 2)),
        (b"abcdef\x1b[3G\x1b[2X", "ab  ef", (0, 2)),
        (b"a\nb\nc\x1b[2H\x1b[L", "a\n\nb\nc", (1, 0)),
        (b"a\nb\nc\x1b[2H\x1b[M", "a\nc", (1, 0)),
        (b"a\nb\nc\x1b[H\x1bM", "\na\nb\nc", (0, 0)),
        (b"a\nb\nc\nd\x1b[2;3r\x1b[3H\n", "a\nc\n\nd", (2, 0)),  # only the region scrolls
        (b"\x1b[2;3r\x1b[?6h\x1b[1;1Ha", "\na", (1, 1)),
        (b"ab\x1b7\x1b[3;3Hc\x1b8d", "abd\n\n  c", (0, 3)),
        (b"ab\x1b[?1049hzzz\x1b[?1049l!", "ab!", (0, 3)),
        (b"\x1b(0lqk\x1b(B.", "┌─┐.", (0, 4)),
        (b"a\x1b[3b", "aaaa", (0, 4)),
        (b"\x1b]0;a title\x07x\x1bP1$q\x1b\\y", "xy", (0, 2)),
        (b"\x1b[>c\x1b[?9999h\x1b[7~\x1b%Gok", "ok", (0, 2)),  # known to nobody: no effect
        ("é€漢x".encode(), "é€漢x", (0, 5)),
        (b"\xff\xfeA", "��A", (0, 3)),
        (b"abc\x1bcX", "X", (0, 1)),
    ],
)
def test_what_a_control_does(data, text, cursor):
    terminal = shown(data)
    assert terminal.text == text
    assert (terminal.row, terminal.column) == cursor


def test_bytes_may_come_in_any_pieces():
    data = "one\x1b[1;31mtwo\x1b[0m ü漢\x1b]2;name\x07\x1b[2;3H\x1b(0q\x1b(B!".encode()
    whole = shown(data)
    for cut in range(len(data)):
        pieces = Terminal(10, 4)
        pieces.feed(data[:cut])
        pieces.feed(data[cut:])
        assert pieces.describe() == whole.describe()
        assert [line.runs() for line in pieces.lines] == [line.runs() for line in whole.lines]


def test_lines_that_leave_the_top_are_kept():
    terminal = shown(b"\n".join(b"%d" % n for n in range(10)))
    assert terminal.text == "6\n7\n8\n9"
    assert [line.text for line in terminal.history] == ["0", "1", "2", "3", "4", "5"]
    assert terminal.scrolled == 6
    assert terminal.transcript.split() == [str(n) for n in range(10)]
    terminal.feed(b"\n" * 2 * HISTORY)
    assert len(terminal.history) == HISTORY
    assert terminal.scrolled == 6 + 2 * HISTORY


def test_a_region_below_the_top_keeps_no_history():
    assert shown(b"\x1b[2;3r\x1b[3H\n\n\n").scrolled == 0
    assert shown(b"\x1b[?1049h\n\n\n\n\n").scrolled == 0


def test_colours():
    terminal = shown(b"a\x1b[1;31;42mb\x1b[22;39mc\x1b[mde\x1b[38;5;200;48;2;1;2;3;4;7mf\x1b[90;107mg\x1b[38:5:9mh")
    assert terminal.lines[0].runs() == [
        ("a", Style()),
        ("b", Style(1, 2, BOLD)),
        ("c", Style(-1, 2, 0)),
        ("de", Style()),
        ("f", Style(200, RGB | 0x010203, UNDERLINE | INVERSE)),
        ("g", Style(8, 15, UNDERLINE | INVERSE)),
        ("h", Style(9, 15, UNDERLINE | INVERSE)),
    ]


def test_erased_cells_keep_the_background():
    line = shown(b"\x1b[44mab\x1b[H\x1b[K").lines[0]
    assert line.runs() == [(" " * 10, Style(-1, 4, 0))]


def test_questions_are_answered():
    terminal = Terminal(10, 4)
    assert terminal.feed(b"\x1b[5n") == b"\x1b[0n"
    assert terminal.feed(b"ab\n\x1b[6n\x1b[c") == b"\x1b[2;1R\x1b[?1;2c"


def test_showing_an_earlier_instant():
    output = b"one\ntwo\n\x1b[6nthree"
    terminal = Terminal(10, 4)
    assert terminal.show(output) == b"\x1b[3;1R"
    assert terminal.text == "one\ntwo\nthree"
    assert terminal.show(output[:7]) == b""
    assert terminal.text == "one\ntwo"
    assert terminal.show(b"other") == b""
    assert terminal.text == "other"
    terminal.show(output)
    assert terminal.show(output + b"!") == b""
    assert terminal.text == "one\ntwo\nthree!"


def test_the_text_twin():
    assert shown(b"$ ls\nREADME").describe() == "terminal of 10 × 4, cursor at row 2, column 7\n$ ls\nREADME"
    assert "cursor hidden, 2 lines above" in shown(b"\n" * 5 + b"\x1b[?25l").describe()


@pytest.mark.parametrize("size", [(0, 4), (80, -1), (501, 4), (80, "24"), (True, 4)])
def test_impossible_sizes(size):
    with pytest.raises(OptionError, match="a terminal has 1 to 500"):
        Terminal(*size)


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from([b"\x1b[", b"\x1b", b"\x1b]", b";", b"?", b"999999999999999", b"\n", b"\x1b[?1049h"]),
        st.builds(lambda n, m, f: b"\x1b[%d;%d%c" % (n, m, f), st.integers(0, 30), st.integers(0, 12), st.integers(0x40, 0x7E)),
    ),
    max_size=40,
)  # fmt: skip


@given(PIECES, st.integers(1, 9), st.integers(1, 5))
def test_no_bytes_break_it(pieces, columns, rows):
    terminal = Terminal(columns, rows)
    for piece in pieces:
        terminal.feed(piece)
    assert len(terminal.lines) == rows
    assert all(len(line.characters) == len(line.styles) == columns for line in terminal.lines)
    assert 0 <= terminal.row < rows
    assert 0 <= terminal.column <= columns
    again = Terminal(columns, rows)
    again.feed(b"".join(pieces))
    assert again.describe() == terminal.describe()


@pytest.mark.parametrize(
    ("key", "modifiers", "data"),
    [
        ("a", {}, b"a"),
        ("A", {"shift": True}, b"A"),
        ("é", {}, "é".encode()),
        ("c", {"ctrl": True}, b"\x03"),
        ("D", {"ctrl": True, "shift": True}, b"\x04"),
        ("[", {"ctrl": True}, b"\x1b"),
        (" ", {"ctrl": True}, b"\0"),
        ("x", {"alt": True}, b"\x1bx"),
        ("Enter", {}, b"\r"),
        ("Backspace", {}, b"\x7f"),
        ("Backspace", {"ctrl": True}, b"\b"),
        ("Tab", {}, b"\t"),
        ("Tab", {"shift": True}, b"\x1b[Z"),
        ("Escape", {}, b"\x1b"),
        ("ArrowUp", {}, b"\x1b[A"),
        ("ArrowLeft", {"application": True}, b"\x1bOD"),
        ("ArrowRight", {"ctrl": True, "application": True}, b"\x1b[1;5C"),
        ("Home", {}, b"\x1b[H"),
        ("Delete", {}, b"\x1b[3~"),
        ("PageUp", {"shift": True}, b"\x1b[5;2~"),
        ("F1", {}, b"\x1bOP"),
        ("F12", {}, b"\x1b[24~"),
    ],
)
def test_keys(key, modifiers, data):
    assert encode_key(key, **modifiers) == data


@pytest.mark.parametrize("key", ["Enter!", "", "ab"])
def test_unknown_keys(key):
    with pytest.raises(OptionError, match="no key is named"):
        encode_key(key)


def test_pasting():
    assert encode_paste("ls\r\ncat x\n") == b"ls\rcat x\r"
    assert encode_paste("a\x1b[201~b", bracketed=True) == b"\x1b[200~a[201~b\x1b[201~"
