"""A page walk as a self-contained SVG: what a viewer without a kernel or without scripts sees of the walk theatre.

It is the walk at its end: the grid with the numbers of the references, the addresses, the verdict. It uses the light theme
and no style sheet, since saved notebooks strip those.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from vmlab.views.svg import _text
from vmlab.views.theme import LIGHT, PLAIN_SANS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["cell_states", "counted", "walk_svg"]

WIDTH = 720
CELL, TALL, LEFT, TOP = 62, 34, 84, 66
QUOTED = {'"': "&quot;"}
WRAP = 98


def cell_states(script: Mapping[str, Any], scene: int) -> dict[tuple[int, int, int], tuple[str, str, str]]:
    """Return what each cell of the grids shows at a scene: its owner, its state, its text.

    The state is `read`, `saved` (from a cache or a register), `ok`, `bad`, or `unread`; which one the text says, too.
    """
    states: dict[tuple[int, int, int], tuple[str, str, str]] = {}
    for number, grid in enumerate(script["grids"]):
        for row, column in grid["cells"]:
            owner = "host"
            if column == len(grid["columns"]) - 1 and script["kind"] != "host":
                owner = "shadow" if script["kind"] == "shadow" and number == 1 else "guest"
            if row == len(grid["rows"]) - 1 and column == len(grid["columns"]) - 1:
                owner = "byte"
            states[number, row, column] = owner, "unread", ""
    for past in script["scenes"][: scene + 1]:
        if past["cell"] is None:
            continue
        place = tuple(past["cell"])
        owner = states[place][0]
        if past["kind"] == "end":
            states[place] = owner, "ok" if past["ok"] else "bad", "✓" if past["ok"] else "✕"
        elif past["served"] == "memory":
            states[place] = owner, "read", str(past["references"])
        else:
            states[place] = owner, "saved", {"cache": "hit", "nested TLB": "nTLB", "register": "reg"}[past["served"]]
    return states


ROLES = {"guest": "user", "host": "vmm", "shadow": "shadow", "byte": "kernel"}


def counted(references: int) -> str:
    """Say how many references.

    >>> counted(1)
    '1 memory reference'
    """
    return f"{references} memory reference{'' if references == 1 else 's'}"


def walk_svg(script: Mapping[str, Any]) -> str:
    """Draw a walk at its end.

    Parameters
    ----------
    script : mapping
        From `walk_script`.

    Returns
    -------
    str
        An SVG document.
    """
    states = cell_states(script, len(script["scenes"]) - 1)
    parts, bottom, left = [], TOP, 0
    for number, grid in enumerate(script["grids"]):
        drawn, width, height = _grid(grid, number, states, left)
        parts.append(drawn)
        left += width
        bottom = max(bottom, TOP + height)
    lines = textwrap.wrap(script["verdict"], WRAP)
    height = bottom + 34 + 18 * len(lines)
    width = max(WIDTH, left + 20)
    words = f"{script['access']} at {script['address']}: {counted(script['references'])}"
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f'<g role="img" font-family="{escape(PLAIN_SANS, QUOTED)}" font-size="12" fill="{LIGHT.text}">',
            f"<title>{escape(script['title'])}</title><desc>{escape(script['text'])}</desc>",
            f'<rect width="{width}" height="{height}" rx="8" fill="{LIGHT.page}" stroke="{LIGHT.rule}"/>',
            _text(14, 23, script["title"], size=14, weight=650),
            _text(14, 42, words, fill=LIGHT.muted),
            *parts,
            *(_text(14, bottom + 26 + 18 * n, line, size=13) for n, line in enumerate(lines)),
            "</g></svg>",
        ]
    )


def _grid(
    grid: Mapping[str, Any], number: int, states: Mapping[tuple[int, int, int], tuple[str, str, str]], left: int
) -> tuple[str, int, int]:
    """Draw a grid; return it with its width and height."""
    parts = []
    top = TOP + 16
    if any(grid["columns"]):
        for column, name in enumerate(grid["columns"]):
            ink = LIGHT.ink["user" if column == len(grid["columns"]) - 1 else "vmm"]
            x = left + LEFT + (column + 0.5) * CELL
            parts.append(_text(x, TOP + 10, name, size=10.5, anchor="middle", fill=ink))
    else:
        parts.append(_text(left + 14, TOP + 6, grid["title"], size=11, fill=LIGHT.muted))
    for row, name in enumerate(grid["rows"]):
        parts.append(_text(left + 14, top + row * TALL + 20, name, size=11.5, fill=LIGHT.ink["user"]))
    for (of, row, column), (owner, state, text) in states.items():
        if of != number:
            continue
        role = "trap" if state == "bad" else ROLES[owner]
        x, y = left + LEFT + column * CELL + 4, top + row * TALL + 3
        seen = state in ("read", "ok", "bad")
        fill = LIGHT.tint(role) if seen else LIGHT.page
        stroke = LIGHT.line[role if state != "unread" else "neutral"]
        dash = {"saved": "2 2", "unread": "4 3"}.get(state, "none")
        round_ = 13 if owner == "guest" else 3
        parts.append(
            f'<rect x="{x}" y="{y}" width="{CELL - 8}" height="{TALL - 8}" rx="{round_}" fill="{fill}" stroke="{stroke}" stroke-dasharray="{dash}"/>'
        )
        parts.append(_text(x + CELL / 2 - 4, y + 17, text or "–", anchor="middle", weight=600, fill=LIGHT.ink[role]))
    width = max(
        LEFT + CELL * len(grid["columns"]) + 16, 0 if any(grid["columns"]) else 14 + 6 * len(grid["title"]) + 20
    )
    return "".join(parts), width, 22 + TALL * len(grid["rows"])
