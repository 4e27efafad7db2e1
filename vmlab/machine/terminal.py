"""The terminal at the other end of the serial line: bytes from the guest become a screen of characters.

A VT100 with the extensions that programs count on: cursor movement, erasing, insertion and deletion, a scrolling region,
tab stops, colours (16, 256 and 24-bit), the line-drawing character set, UTF-8. What moved off the top is kept. The
terminal is a function of the bytes it was fed: to show an earlier instant of a run, `show` it the shorter output.

    a byte         C0 control (BEL BS HT LF VT FF CR SO SI ESC), or text: UTF-8, printed at the cursor
    ESC x          escape sequence, with intermediates SP to / before a final 0 to ~
    ESC [ p ; q x  control sequence (CSI): parameters 0-9 : ; and a private mark < = > ?, final @ to ~
    ESC ] ... ST   string (OSC, and DCS, SOS, PM, APC): swallowed up to ST or BEL

Simplified: a line feed returns the carriage as well (new-line mode is on from the start, as a Unix line discipline does
it for a program): kernels send LF alone. No double-size lines, no blinking, no mouse, no resizing.

Read more: ECMA-48 (5th ed.); DEC VT100 User Guide, chapter 3; Paul Williams, "A parser for DEC's ANSI-compatible video
terminals" (vt100.net); XTerm Control Sequences (invisible-island.net).
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from typing import TYPE_CHECKING
from unicodedata import combining, east_asian_width

from vmlab.errors import OptionError
from vmlab.machine.terminal_screen import Row, Screen

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HISTORY", "Terminal"]

HISTORY = 2000
"""Lines kept that have moved off the top."""

LARGEST = 500
MOST_PARAMETERS = 32
LARGEST_PARAMETER = 16383

TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|\x1b\[(?P<mark>[<=>?]?)(?P<parameters>[0-9:;]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    r"|\x1b[\]PX^_](?P<string>[^\x07\x1b]*)(?:\x07|\x1b\\)"
    r"|\x1b(?P<middle>[ -/]*)(?P<escape>[0-OQ-WYZ\\`-~])"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f-\x9f])"
)
UNFINISHED = re.compile(r"\x1b(?:\[[<=>?]?[0-9:;]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z")
LONGEST_SEQUENCE = 4096

# What a DEC terminal draws for ` to ~ in its special graphics set.
GRAPHICS = str.maketrans(dict(zip(map(chr, range(0x5F, 0x7F)), " ◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·", strict=True)))
IDENTITY = b"\x1b[?1;2c"  # a VT100 with the advanced video option


class Terminal(Screen):
    r"""A terminal.

    Parameters
    ----------
    columns, rows : int
        Its size in characters: 1 to 500 each.

    Attributes
    ----------
    lines : list of Row
        The screen, from the top.
    history : deque of Row
        Lines that have moved off the top, the oldest first; at most `HISTORY`.
    scrolled : int
        How many lines have done so since the start.
    restarts : int
        How often it began anew, as to show an earlier instant.
    row, column : int
        The cursor, from 0.
    cursor_visible, application_keys, bracketed_paste : bool
        Modes that a program on the guest has set (DECTCEM, DECCKM, xterm's 2004).
    bells : int
        How often BEL was sent.
    title : str
        Given by a program (OSC 0 or 2).

    Raises
    ------
    OptionError
        The size is not possible.

    Examples
    --------
    >>> terminal = Terminal(20, 2)
    >>> terminal.feed(b"one\ntwo\x1b[1;31m!")
    b''
    >>> print(terminal.text)
    one
    two!
    """

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        for name, size in (("columns", columns), ("rows", rows)):
            if type(size) is not int or not 1 <= size <= LARGEST:
                raise OptionError(f"a terminal has 1 to {LARGEST} {name}, not {size!r}")
        self.fed = bytearray()
        self.restarts = -1
        self.history: deque[Row] = deque(maxlen=HISTORY)
        super().__init__(columns, rows)
        self.restart()

    def restart(self) -> None:
        """Do what switching it off and on does: everything is gone, the history too."""
        self.fed.clear()
        self.restarts += 1
        self.history.clear()
        self.scrolled = self.bells = 0
        self.title = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._replies = bytearray()
        self.reset()

    def reset(self) -> None:
        """Do what RIS does: clear the screen, set every mode to its start."""
        super().reset()
        self.application_keys = self.bracketed_paste = False
        self._sets = ["B", "B"]  # G0 and G1: B is ASCII, 0 the special graphics
        self._shift = 0
        self._saved_sets = ([*self._sets], 0)
        self._last = ""  # what was printed last, with nothing else since

    def feed(self, data: bytes) -> bytes:
        """Take what the guest has sent; return what the terminal answers (to status and identity requests)."""
        self.fed += data
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        self._replies.clear()
        position, end = 0, len(text)
        while position < end:
            found = TOKEN.match(text, position)
            if found is None:
                if UNFINISHED.match(text, position) and end - position < LONGEST_SEQUENCE:
                    self._rest = text[position:]
                    break
                position += 1  # an escape that begins nothing
                continue
            position = found.end()
            kind = found.lastgroup
            if kind == "text":
                self._print(found["text"])
                continue
            if kind == "control":
                action = CONTROLS.get(found["control"])
                if action:
                    action(self)
            elif kind == "final":
                self._sequence(found["mark"] + found["between"] + found["final"], found["parameters"])
            elif kind == "escape":
                self._escape(found["middle"], found["escape"])
            elif kind == "string" and found[0][1] == "]" and found["string"][:2] in {"0;", "2;"}:
                self.title = found["string"][2:]
            self._last = ""
        return bytes(self._replies)

    def show(self, output: bytes) -> bytes:
        """Show all that a guest has sent up to some instant: more than before, or less, or something else.

        Returns
        -------
        bytes
            What the terminal answers to bytes that it has not seen before; nothing after a step back.
        """
        if output.startswith(self.fed):
            return self.feed(output[len(self.fed) :])
        self.restart()
        self.feed(output)
        return b""

    # -- text --------------------------------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        if self._sets[self._shift] == "0":
            text = text.translate(GRAPHICS)
        self._last = text[-1]
        if text.isascii():
            self.write(text)
            return
        for character in text:
            if combining(character):
                self.combine(character)
            else:
                self.write(character, 2 if east_asian_width(character) in "WF" else 1)

    def repeat(self, count: int) -> None:
        """REP: print the last character again, if it is the last thing that was sent."""
        for _ in range(min(count, self.columns * self.rows) if self._last else 0):
            self._print(self._last)

    def save_cursor(self) -> None:
        """Remember cursor, style and character sets."""
        super().save_cursor()
        self._saved_sets = ([*self._sets], self._shift)

    def restore_cursor(self) -> None:
        """Set cursor, style and character sets to what was remembered."""
        super().restore_cursor()
        sets, self._shift = self._saved_sets
        self._sets = [*sets]

    # -- escape and control sequences --------------------------------------------------------------------------------

    def _escape(self, middle: str, final: str) -> None:
        if middle in {"(", ")"}:
            self._sets["()".index(middle)] = final
        elif middle == "#" and final == "8":
            self.fill("E")  # DECALN, the service technician's pattern
        elif not middle:
            action = ESCAPES.get(final)
            if action:
                action(self)

    def _sequence(self, name: str, parameters: str) -> None:
        """Do a control sequence; its parameters are numbers, absent ones are -1."""
        if name == "m":
            self.style = self.style.changed(parameters)
            return
        numbers = [
            min(int(part), LARGEST_PARAMETER) if part.isdigit() else -1
            for part in parameters.split(";")[:MOST_PARAMETERS]
        ]
        if name in {"h", "l", "?h", "?l"}:
            for number in numbers:
                self._mode(name[:-1] + str(number), name[-1] == "h")
        elif name in SEQUENCES:
            SEQUENCES[name](self, numbers)

    def _mode(self, name: str, on: bool) -> None:
        if name == "?3":  # DECCOLM clears the screen, whatever the width
            self.erase_screen(2)
            self.move(0, 0)
        elif name in {"?47", "?1047", "?1049"}:
            self.alternate(on)
        elif name in MODES:
            setattr(self, MODES[name], on)
            if name == "?6":
                self.go(0, 0)

    def answer(self, data: bytes) -> None:
        """Send something to the guest."""
        self._replies += data

    def status(self, request: int) -> None:
        """DSR: 5 asks whether all is well, 6 where the cursor is."""
        if request == 5:
            self.answer(b"\x1b[0n")
        elif request == 6:
            row = self.row - (self.top if self.origin else 0)
            self.answer(b"\x1b[%d;%dR" % (row + 1, self.column + 1))

    def bell(self) -> None:
        """Ring."""
        self.bells += 1

    def shift_to(self, number: int) -> None:
        """Print characters of set G0 or G1 from here on."""
        self._shift = number

    def scrolled_off(self, row: Row) -> None:
        """Keep a line that moved off the top."""
        self.history.append(row)
        self.scrolled += 1

    def forget(self) -> None:
        """Forget the lines that moved off the top (xterm's ED 3)."""
        self.history.clear()

    # -- as text -----------------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The screen as text: without blanks at the ends of lines, without empty lines at the end."""
        return "\n".join(line.text for line in self.lines).rstrip("\n")

    @property
    def transcript(self) -> str:
        """The history and the screen as text."""
        return "\n".join([*(line.text for line in self.history), self.text])

    def describe(self) -> str:
        """Say in words what the terminal shows."""
        cursor = f"cursor at row {self.row + 1}, column {self.column + 1}" if self.cursor_visible else "cursor hidden"
        above = f", {self.scrolled} lines above" if self.scrolled else ""
        return f"terminal of {self.columns} × {self.rows}, {cursor}{above}\n{self.text}"


# Modes: control sequences h and l set them, by number, DEC's own after a question mark.
MODES = {
    "4": "insert", "20": "new_line", "?1": "application_keys", "?6": "origin", "?7": "wrap", "?25": "cursor_visible",
    "?2004": "bracketed_paste",
}  # fmt: skip


CONTROLS: dict[str, Callable[[Terminal], None]] = {
    "\a": Terminal.bell,
    "\b": lambda at: at.move(at.row, min(at.column, at.columns - 1) - 1),
    "\t": lambda at: at.tab(1),
    "\n": Terminal.line_feed,
    "\v": Terminal.line_feed,
    "\f": Terminal.line_feed,
    "\r": lambda at: at.move(at.row, 0),
    "\x0e": lambda at: at.shift_to(1),
    "\x0f": lambda at: at.shift_to(0),
    "\x84": Terminal.index,
    "\x85": Terminal.next_line,
    "\x8d": Terminal.reverse_index,
}

ESCAPES: dict[str, Callable[[Terminal], None]] = {
    "7": Terminal.save_cursor,
    "8": Terminal.restore_cursor,
    "D": Terminal.index,
    "E": Terminal.next_line,
    "H": Terminal.set_tab,
    "M": Terminal.reverse_index,
    "Z": lambda at: at.answer(IDENTITY),
    "c": Terminal.reset,
}


def _count(numbers: list[int]) -> int:
    """Return a first parameter of which 0 and none mean 1."""
    return max(numbers[0], 1)


def _pair(numbers: list[int]) -> tuple[int, int]:
    """Return row and column, from 0."""
    second = numbers[1] if len(numbers) > 1 else 1
    return max(numbers[0], 1) - 1, max(second, 1) - 1


SEQUENCES: dict[str, Callable[[Terminal, list[int]], None]] = {
    "@": lambda at, n: at.insert_blanks(_count(n)),
    "A": lambda at, n: at.up(_count(n)),
    "B": lambda at, n: at.down(_count(n)),
    "C": lambda at, n: at.move(at.row, at.column + _count(n)),
    "D": lambda at, n: at.move(at.row, min(at.column, at.columns - 1) - _count(n)),
    "E": lambda at, n: at.down(_count(n), 0),
    "F": lambda at, n: at.up(_count(n), 0),
    "G": lambda at, n: at.move(at.row, _count(n) - 1),
    "H": lambda at, n: at.go(*_pair(n)),
    "I": lambda at, n: at.tab(_count(n)),
    "J": lambda at, n: at.erase_screen(max(n[0], 0)),
    "K": lambda at, n: at.erase_line(max(n[0], 0)),
    "L": lambda at, n: at.insert_lines(_count(n)),
    "M": lambda at, n: at.delete_lines(_count(n)),
    "P": lambda at, n: at.delete_characters(_count(n)),
    "S": lambda at, n: at.scroll(_count(n)),
    "T": lambda at, n: at.scroll(-_count(n)),
    "X": lambda at, n: at.erase_characters(_count(n)),
    "Z": lambda at, n: at.tab(-_count(n)),
    "`": lambda at, n: at.move(at.row, _count(n) - 1),
    "a": lambda at, n: at.move(at.row, at.column + _count(n)),
    "b": lambda at, n: at.repeat(_count(n)),
    "c": lambda at, n: at.answer(IDENTITY) if n[0] <= 0 else None,
    "d": lambda at, n: at.go(_count(n) - 1, at.column),
    "e": lambda at, n: at.move(at.row + _count(n), at.column),
    "f": lambda at, n: at.go(*_pair(n)),
    "g": lambda at, n: at.clear_tab(max(n[0], 0)),
    "n": lambda at, n: at.status(n[0]),
    "r": lambda at, n: at.set_region(n[0], n[1] if len(n) > 1 else -1),
    "s": lambda at, _: at.save_cursor(),
    "u": lambda at, _: at.restore_cursor(),
    "!p": lambda at, _: at.soft_reset(),
}
