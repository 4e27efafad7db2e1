"""A guest's screen as data that a widget draws, and as an SVG for viewers without a kernel.

A *display* is a plain dict: `columns, rows`, `lines` (each a list of `[text, foreground, background, flags]`), `cursor`
(`[row, column]` or None), `first` (number of the first line since the start: those before it have moved off the top).
Colours and flags are those of `vmlab.machine.terminal_style`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from vmlab.machine.devices.cga import COLUMNS, ROWS
from vmlab.machine.terminal_style import BOLD, DEFAULT, INVERSE, RGB, UNDERLINE
from vmlab.views.theme import ANSI, LIGHT, PLAIN_MONO, PLAIN_SANS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.machine.devices import Cga
    from vmlab.machine.terminal import Terminal
    from vmlab.machine.terminal_screen import Row
    from vmlab.vmm.session import Session

__all__ = ["cga_display", "console_svg", "history_lines", "session_display", "terminal_display"]

Runs = list[list[Any]]

# A PC's colours in the order of the palette of terminals: blue and red change places, cyan and brown do.
_PC_TO_ANSI = (0, 4, 2, 6, 1, 5, 3, 7, 8, 12, 10, 14, 9, 13, 11, 15)


def _runs(row: Row) -> Runs:
    return [[text, *style] for text, style in row.runs()]


def terminal_display(terminal: Terminal) -> dict[str, Any]:
    """Return what a terminal shows."""
    column = min(terminal.column, terminal.columns - 1)
    return {
        "columns": terminal.columns,
        "rows": terminal.rows,
        "lines": [_runs(line) for line in terminal.lines],
        "cursor": [terminal.row, column] if terminal.cursor_visible else None,
        "first": terminal.scrolled,
    }


def history_lines(terminal: Terminal, since: int = 0) -> dict[str, Any]:
    """Return the lines that have moved off the top of a terminal, from number `since` on, as far as they are kept."""
    kept = len(terminal.history)
    start = max(since, terminal.scrolled - kept)
    lines = list(terminal.history)[kept - (terminal.scrolled - start) :] if start < terminal.scrolled else []
    return {"start": start, "lines": [_runs(line) for line in lines]}


def cga_display(cga: Cga) -> dict[str, Any]:
    """Return what the CGA screen shows."""
    lines = []
    for row in cga.cells():
        runs: Runs = []
        for cell in row:
            style = [_PC_TO_ANSI[cell.attribute & 15], _PC_TO_ANSI[cell.attribute >> 4 & 7], 0]
            if runs and runs[-1][1:] == style:
                runs[-1][0] += cell.character
            else:
                runs.append([cell.character, *style])
        lines.append(runs)
    cursor = cga.cursor()
    return {"columns": COLUMNS, "rows": ROWS, "lines": lines, "cursor": list(cursor) if cursor else None, "first": 0}


def session_display(session: Session) -> dict[str, Any]:
    """Return what a session shows."""
    if session.screen == "cga":
        return cga_display(session.guest.platform.cga)
    return terminal_display(session.terminal)


# -- the picture -----------------------------------------------------------------------------------------------------

WIDTH, LINE, TOP = 7.23, 17.0, 34.0
LEVELS = (0, 95, 135, 175, 215, 255)


def colour_of(number: int, default: str) -> str:
    """Return a colour of xterm's palette as `#rrggbb`; `default` for -1.

    >>> colour_of(196, ""), colour_of(244, ""), colour_of(1 << 24 | 0x123456, "")
    ('#ff0000', '#808080', '#123456')
    """
    if number == DEFAULT:
        return default
    if number & RGB:
        return f"#{number & 0xFFFFFF:06x}"
    if number < 16:
        return ANSI[number]
    if number >= 232:
        return f"#{(number - 232) * 10 + 8:02x}" + f"{(number - 232) * 10 + 8:02x}" * 2
    red, green, blue = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
    return f"#{LEVELS[red]:02x}{LEVELS[green]:02x}{LEVELS[blue]:02x}"


def console_svg(display: Mapping[str, Any], title: str, note: str = "") -> str:
    """Draw a display, without empty lines at its end.

    Parameters
    ----------
    display : mapping
        From `session_display`.
    title, note : str
        Left and right of the head line.

    Returns
    -------
    str
        An SVG document.
    """
    used = max((n + 1 for n, runs in enumerate(display["lines"]) if runs), default=1)
    rows = max(used, (display["cursor"] or [0])[0] + 1, 4)
    width, height = display["columns"] * WIDTH + 24, TOP + rows * LINE + 14
    ground = LIGHT.panel if display["lines"] and not _painted(display) else ANSI[0]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">',
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{LIGHT.page}" stroke="{LIGHT.rule}"/>',
        f'<g font-family="{escape(PLAIN_SANS, QUOTED)}" font-size="13" fill="{LIGHT.text}">',
        f'<text x="12" y="22" font-weight="650">{escape(title)}</text>',
        f'<text x="{width - 12:g}" y="22" text-anchor="end" fill="{LIGHT.muted}">{escape(note)}</text></g>',
        f'<rect x="6" y="{TOP:g}" width="{width - 12:g}" height="{height - TOP - 6:g}" rx="5" fill="{ground}"/>',
        f'<g font-family="{escape(PLAIN_MONO, QUOTED)}" font-size="12" xml:space="preserve">',
    ]
    for row, runs in enumerate(display["lines"][:rows]):
        column = 0
        for text, *style in runs:
            parts.append(_run(text, row, column, style))
            column += len(text)
    if display["cursor"]:
        row, column = display["cursor"]
        parts.append(
            f'<rect x="{12 + column * WIDTH:g}" y="{TOP + 4 + row * LINE:g}" width="{WIDTH:g}" height="{LINE:g}" '
            f'fill="{LIGHT.line["kernel"]}" fill-opacity="0.45"/>'
        )
    return "".join([*parts, "</g></svg>"])


QUOTED = {'"': "&quot;"}


def _painted(display: Mapping[str, Any]) -> bool:
    """Say whether every character brings its own colours, as on a PC's screen."""
    return all(run[2] != DEFAULT for runs in display["lines"] for run in runs)


def _run(text: str, row: int, column: int, style: list[int]) -> str:
    foreground, background, flags = style
    front, back = colour_of(foreground, LIGHT.text), colour_of(background, "none")
    if flags & INVERSE:
        front, back = (LIGHT.panel if back == "none" else back), front
    x, y = 12 + column * WIDTH, TOP + 4 + row * LINE
    fill = (
        f'<rect x="{x:g}" y="{y:g}" width="{len(text) * WIDTH:g}" height="{LINE:g}" fill="{back}"/>'
        if back != "none"
        else ""
    )
    if not text.strip():
        return fill
    weight = ' font-weight="700"' if flags & BOLD else ""
    line = ' text-decoration="underline"' if flags & UNDERLINE else ""
    return f'{fill}<text x="{x:g}" y="{y + 13:g}" fill="{front}"{weight}{line}>{escape(text)}</text>'
