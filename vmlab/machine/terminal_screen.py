"""The screen of a terminal: rows of styled characters, a cursor, a scrolling region, tab stops.

What each control of the terminal does to them, by the names of ECMA-48. The cursor may stand behind the last column:
a character printed there has filled the line, and the next one begins a new one (VT100's deferred wrap).
"""

from __future__ import annotations

from itertools import groupby

from vmlab.machine.terminal_style import DEFAULT, PLAIN, Style

__all__ = ["Row", "Screen"]

TAB = 8

HOME = (0, 0, PLAIN, False)
"""What is restored where nothing was saved: row, column, style, origin mode."""


class Row:
    """One line: characters and their styles. The second half of a wide character is an empty string."""

    __slots__ = ("characters", "styles")

    def __init__(self, columns: int, style: Style = PLAIN) -> None:
        self.characters = [" "] * columns
        self.styles = [style] * columns

    @property
    def text(self) -> str:
        """The line without blanks at its end."""
        return "".join(self.characters).rstrip()

    def runs(self) -> list[tuple[str, Style]]:
        """Return pieces of one style each, without plain blanks at the end."""
        pairs = zip(self.characters, self.styles, strict=True)
        runs = [("".join(c for c, _ in part), style) for style, part in groupby(pairs, lambda pair: pair[1])]
        while runs and runs[-1][1] == PLAIN:
            text = runs.pop()[0].rstrip()
            if text:
                runs.append((text, PLAIN))
                break
        return runs


class Screen:
    """What a terminal shows, and what its controls do to it.

    Parameters
    ----------
    columns, rows : int
        Size.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.reset()

    def reset(self) -> None:
        """Clear everything and set every mode to its start."""
        self.style = PLAIN
        self.lines = self._blank_lines()
        self._other: list[Row] | None = None
        self.tabs = set(range(TAB, self.columns, TAB))
        self.new_line = True
        self.soft_reset()
        self.row = self.column = 0

    def soft_reset(self) -> None:
        """Set modes, region and style to their start, and leave the text (DECSTR)."""
        self.style = PLAIN
        self.top, self.bottom = 0, self.rows - 1
        self.insert = self.origin = False
        self.wrap = self.cursor_visible = True
        self._saved = self._other_saved = HOME

    def _blank_lines(self) -> list[Row]:
        return [Row(self.columns, self._blank()) for _ in range(self.rows)]

    def _blank(self) -> Style:
        """Return the style of a cell that was erased: the background stays (back-colour erase)."""
        return Style(DEFAULT, self.style.background, 0)

    # -- printing ----------------------------------------------------------------------------------------------------

    def write(self, text: str, width: int = 1) -> None:
        """Print characters, each one cell wide; or a single one of `width` cells."""
        if width > self.columns:
            return
        position = 0
        while position < len(text):
            if self.column + width > self.columns:
                if self.wrap:
                    self.index()
                    self.column = 0
                else:
                    self.column = self.columns - width
                    position = max(position, len(text) - 1)  # the last character stays in the last column
            count = min(len(text) - position, self.columns - self.column) if width == 1 else 1
            cells = list(text[position : position + count]) + [""] * (width - 1)
            self._put(cells)
            position += count

    def _put(self, cells: list[str]) -> None:
        line, start, count = self.lines[self.row], self.column, len(cells)
        if self.insert:
            self.insert_blanks(count)
        self._mend(start, start + count)
        line.characters[start : start + count] = cells
        line.styles[start : start + count] = [self.style] * count
        self.column = start + count

    def _mend(self, start: int, end: int) -> None:
        """Blank the other half of a wide character that is about to lose one."""
        characters = self.lines[self.row].characters
        if start < self.columns and characters[start] == "" and start:
            characters[start - 1] = " "
        if end < self.columns and characters[end] == "":
            characters[end] = " "

    def combine(self, mark: str) -> None:
        """Add an accent to the character before the cursor."""
        characters = self.lines[self.row].characters
        place = min(self.column, self.columns) - 1
        if place > 0 and characters[place] == "":
            place -= 1
        if place >= 0 and len(characters[place]) < 8:
            characters[place] += mark

    def fill(self, character: str) -> None:
        """Fill the screen with one character."""
        for line in self.lines:
            line.characters[:] = [character] * self.columns
            line.styles[:] = [PLAIN] * self.columns
        self.top, self.bottom = 0, self.rows - 1
        self.row = self.column = 0

    # -- the cursor --------------------------------------------------------------------------------------------------

    def move(self, row: int, column: int) -> None:
        """Set the cursor, as far as the screen reaches."""
        self.row = max(0, min(row, self.rows - 1))
        self.column = max(0, min(column, self.columns - 1))

    def go(self, row: int, column: int) -> None:
        """Set the cursor by an address; in origin mode it counts from the region's first line, and stays inside."""
        if self.origin:
            row = min(row + self.top, self.bottom)
        self.move(row, column)

    def up(self, count: int, column: int | None = None) -> None:
        """Move up, not out of the region; to another column if one is given."""
        first = self.top if self.row >= self.top else 0
        self.move(max(self.row - count, first), self.column if column is None else column)

    def down(self, count: int, column: int | None = None) -> None:
        """Move down, not out of the region; to another column if one is given."""
        last = self.bottom if self.row <= self.bottom else self.rows - 1
        self.move(min(self.row + count, last), self.column if column is None else column)

    def tab(self, count: int) -> None:
        """Go to a tab stop, forwards or backwards; not from behind the last column."""
        if self.column >= self.columns:
            return
        for _ in range(min(abs(count), self.columns)):
            if count > 0:
                stops = [stop for stop in self.tabs if stop > self.column]
                self.move(self.row, min(stops, default=self.columns - 1))
            else:
                stops = [stop for stop in self.tabs if stop < self.column]
                self.move(self.row, max(stops, default=0))

    def set_tab(self) -> None:
        """Set a tab stop here."""
        self.tabs.add(min(self.column, self.columns - 1))

    def clear_tab(self, what: int) -> None:
        """Clear the tab stop here (0) or all (3)."""
        if what == 0:
            self.tabs.discard(self.column)
        elif what == 3:
            self.tabs.clear()

    def save_cursor(self) -> None:
        """Remember cursor and style."""
        self._saved = (self.row, self.column, self.style, self.origin)

    def restore_cursor(self) -> None:
        """Set cursor and style to what was remembered."""
        row, column, self.style, self.origin = self._saved
        self.move(row, column)

    def line_feed(self) -> None:
        """Go to the next line, and in new-line mode to its start."""
        self.index()
        if self.new_line:
            self.column = 0

    def next_line(self) -> None:
        """Go to the start of the next line."""
        self.index()
        self.column = 0

    def index(self) -> None:
        """Go down one line; from the region's last line, scroll."""
        self.column = min(self.column, self.columns - 1)
        if self.row == self.bottom:
            if self.top == 0 and self._other is None:
                self.scrolled_off(self.lines[0])
            self.scroll(1)
        else:
            self.move(self.row + 1, self.column)

    def reverse_index(self) -> None:
        """Go up one line; from the region's first line, scroll back."""
        self.column = min(self.column, self.columns - 1)
        if self.row == self.top:
            self.scroll(-1)
        else:
            self.move(self.row - 1, self.column)

    # -- scrolling, inserting, deleting, erasing ---------------------------------------------------------------------

    def scrolled_off(self, row: Row) -> None:
        """Take a line that moved off the top of the screen."""

    def set_region(self, first: int, last: int) -> None:
        """Set the lines that scroll (from 1; absent ones are the screen's), and go home."""
        top, bottom = max(first, 1) - 1, (last if last > 0 else self.rows) - 1
        bottom = min(bottom, self.rows - 1)
        if top < bottom:
            self.top, self.bottom = top, bottom
            self.go(0, 0)

    def scroll(self, count: int) -> None:
        """Move the region's text up, or down where the count is negative."""
        for _ in range(min(abs(count), self.bottom - self.top + 1)):
            if count > 0:
                del self.lines[self.top]
                self.lines.insert(self.bottom, Row(self.columns, self._blank()))
            else:
                del self.lines[self.bottom]
                self.lines.insert(self.top, Row(self.columns, self._blank()))

    def insert_lines(self, count: int) -> None:
        """Insert blank lines at the cursor, inside the region."""
        self._shift_lines(-count)

    def delete_lines(self, count: int) -> None:
        """Delete lines at the cursor, inside the region."""
        self._shift_lines(count)

    def _shift_lines(self, count: int) -> None:
        if not self.top <= self.row <= self.bottom:
            return
        for _ in range(min(abs(count), self.bottom - self.row + 1)):
            del self.lines[self.row if count > 0 else self.bottom]
            self.lines.insert(self.bottom if count > 0 else self.row, Row(self.columns, self._blank()))
        self.column = 0

    def _here(self) -> tuple[Row, int]:
        """Return the cursor's line and column; it is on the last column now, if it was behind that."""
        self.column = min(self.column, self.columns - 1)
        return self.lines[self.row], self.column

    def insert_blanks(self, count: int) -> None:
        """Insert blanks at the cursor; what leaves the line is lost."""
        line, start = self._here()
        count = min(count, self.columns - start)
        line.characters[start:] = ([" "] * count + line.characters[start:])[: self.columns - start]
        line.styles[start:] = ([self._blank()] * count + line.styles[start:])[: self.columns - start]

    def delete_characters(self, count: int) -> None:
        """Delete characters at the cursor; the rest of the line moves up."""
        line, start = self._here()
        count = min(count, self.columns - start)
        line.characters[start:] = line.characters[start + count :] + [" "] * count
        line.styles[start:] = line.styles[start + count :] + [self._blank()] * count

    def erase_characters(self, count: int) -> None:
        """Blank characters from the cursor on."""
        _, start = self._here()
        self._erase(self.row, start, min(start + count, self.columns))

    def _erase(self, row: int, start: int, end: int) -> None:
        line = self.lines[row]
        line.characters[start:end] = [" "] * (end - start)
        line.styles[start:end] = [self._blank()] * (end - start)

    def erase_line(self, what: int) -> None:
        """Erase the line from the cursor (0), up to it (1), or all of it (2)."""
        here = min(self.column, self.columns - 1)
        if what in {0, 1, 2}:
            self._erase(self.row, here if what == 0 else 0, here + 1 if what == 1 else self.columns)

    def erase_screen(self, what: int) -> None:
        """Erase from the cursor (0), up to it (1), all (2), or the history (3)."""
        if what == 3:
            self.forget()
            return
        if what not in {0, 1, 2}:
            return
        if what < 2:
            self.erase_line(what)
        rows = {0: range(self.row + 1, self.rows), 1: range(self.row), 2: range(self.rows)}[what]
        for row in rows:
            self._erase(row, 0, self.columns)

    def forget(self) -> None:
        """Forget the lines that moved off the top."""

    def alternate(self, on: bool) -> None:
        """Switch to a second, blank screen (as a full-screen program does), or back."""
        if on:
            self.save_cursor()
            if self._other is None:
                self._other, self._other_saved = self.lines, self._saved
                self.lines, self._saved = self._blank_lines(), HOME
            return
        if self._other is not None:
            self.lines, self._saved, self._other = self._other, self._other_saved, None
        self.restore_cursor()
