"""How a character on a terminal looks: colours and attributes, and how SGR changes them.

    SGR (CSI ... m): 0 plain; 1 bold, 2 dim, 3 italic, 4 underline, 7 inverse, 8 hidden, 9 struck; 22 to 29 not so;
    30-37 90-97 foreground, 40-47 100-107 background, 39 49 the default; 38 48 followed by 5;n or 2;r;g;b

Read more: ECMA-48 (5th ed.), 8.3.117; XTerm Control Sequences (invisible-island.net).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BOLD", "DEFAULT", "DIM", "HIDDEN", "INVERSE", "ITALIC", "PLAIN", "RGB", "STRUCK", "UNDERLINE", "Style"]

BOLD, DIM, ITALIC, UNDERLINE, INVERSE, HIDDEN, STRUCK = (1 << n for n in range(7))
DEFAULT = -1
RGB = 1 << 24

# SGR: what a number switches on, and what another switches off.
_ON = {1: BOLD, 2: DIM, 3: ITALIC, 4: UNDERLINE, 7: INVERSE, 8: HIDDEN, 9: STRUCK, 21: UNDERLINE}
_OFF = {22: BOLD | DIM, 23: ITALIC, 24: UNDERLINE, 27: INVERSE, 28: HIDDEN, 29: STRUCK}


class Style(NamedTuple):
    """How a character looks.

    Attributes
    ----------
    foreground, background : int
        -1 for the default, 0 to 255 of xterm's palette, or `1 << 24 | 0xRRGGBB`.
    flags : int
        `BOLD`, `DIM`, `ITALIC`, `UNDERLINE`, `INVERSE`, `HIDDEN`, `STRUCK`.
    """

    foreground: int = DEFAULT
    background: int = DEFAULT
    flags: int = 0

    def changed(self, parameters: str) -> Style:
        """Return the style after SGR with these parameters.

        >>> Style().changed("1;31").changed("22;48;5;200")
        Style(foreground=1, background=200, flags=0)
        """
        style = self
        numbers = [int(part) if part.isdigit() else 0 for part in parameters.replace(":", ";").split(";")]
        while numbers:
            number = numbers.pop(0)
            if number in {38, 48}:
                colour = _extended(numbers)
                if colour is not None:
                    style = _coloured(style, colour, front=number == 38)
            else:
                style = _switched(style, number)
        return style


PLAIN = Style()


def _switched(style: Style, number: int) -> Style:
    """Return a style after one parameter of SGR that is no extended colour."""
    if number == 0:
        return PLAIN
    if number in _ON:
        return style._replace(flags=style.flags | _ON[number])
    if number in _OFF:
        return style._replace(flags=style.flags & ~_OFF[number])
    tens, unit = divmod(number, 10)
    if tens in {3, 4, 9, 10} and (unit < 8 or (unit == 9 and tens < 9)):
        colour = DEFAULT if unit == 9 else unit + (8 if tens >= 9 else 0)
        return _coloured(style, colour, front=tens in {3, 9})
    return style


def _coloured(style: Style, colour: int, *, front: bool) -> Style:
    return style._replace(foreground=colour) if front else style._replace(background=colour)


def _extended(numbers: list[int]) -> int | None:
    """Take a colour of SGR 38 or 48: `5;n` or `2;r;g;b`; None for what is none."""
    kind = numbers.pop(0) if numbers else 0
    if kind == 5 and numbers:
        colour = numbers.pop(0)
        return colour if colour < 256 else None
    if kind == 2 and len(numbers) >= 3:
        red, green, blue = (min(numbers.pop(0), 255) for _ in range(3))
        return RGB | red << 16 | green << 8 | blue
    return None
