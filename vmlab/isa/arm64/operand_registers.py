"""Registers as operands: their names, and which field holds their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmlab.isa.arm64.operand_parts import NoMatchError, Parts, Values

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Row

__all__ = ["bits_of", "name_of", "parse", "register"]

LINK, FRAME = 30, 29
NAMES: dict[str, tuple[int, bool, bool]] = {
    **{f"{letter}{n}": (n, letter == "x", False) for letter in "xw" for n in range(31)},
    "xzr": (31, True, False), "wzr": (31, False, False), "sp": (31, True, True), "wsp": (31, False, True),
    "lr": (LINK, True, False), "fp": (FRAME, True, False),
}  # fmt: skip
"""Name to number, whether it has 64 bits, whether it is the stack pointer."""


def bits_of(values: Values) -> int:
    """Return the width that `sf` says."""
    return 64 if values.get("sf", 1) else 32


def name_of(number: int, *, wide: bool, stack: bool = False) -> str:
    """Return the name of a register.

    Examples
    --------
    >>> name_of(3, wide=True), name_of(31, wide=False), name_of(31, wide=True, stack=True)
    ('x3', 'wzr', 'sp')
    """
    if number < 31:
        return f"{'x' if wide else 'w'}{number}"
    return ("sp" if wide else "wsp") if stack else "xzr" if wide else "wzr"


def parse(text: str, *, stack: bool = False) -> tuple[int, bool]:
    """Return a register's number and whether it has 64 bits; `stack`: 31 is the stack pointer there, not zero."""
    found = NAMES.get(text.lower())
    if found is None:
        raise NoMatchError(f"{text!r} is no register")
    number, wide, is_stack = found
    if number == 31 and stack != is_stack:
        raise NoMatchError(f"{text} cannot stand here")
    return number, wide


def register(code: str) -> tuple[Callable[[Row, Values, int], str | None], Callable[[Row, Parts, Values], None]]:
    """Return how the operand with a code is shown and read."""
    optional, plain = code.startswith("{"), code.strip("{}")
    stack = plain.endswith("^")
    kind, field = plain[0], "r" + plain[1:].removesuffix("^")
    default = LINK if field == "rn" else 31

    def wide(values: Values) -> bool:
        if kind in "XW":
            return kind == "X"
        if kind == "B":
            return bool(values["b5"])
        return bool(values["sf"]) and (kind != "E" or values["option"] & 3 == 3)

    def show(row: Row, values: Values, at: int) -> str | None:
        number = values[field]
        if optional and number == default:
            return None
        return name_of(number, wide=wide(values), stack=stack)

    def read(row: Row, parts: Parts, values: Values) -> None:
        if optional and not parts:
            values[field] = default
            return
        values[field], is_wide = parse(parts.peek() or parts.take(), stack=stack)
        parts.take()
        if kind == "S":
            values["rm"] = values[field]
        if kind == "E":
            values["_wide"] = int(is_wide)
        elif kind == "B":
            if not is_wide:
                values["b5"] = 0
        elif kind in "XW":
            if is_wide != (kind == "X"):
                raise NoMatchError(f"{'an X' if kind == 'X' else 'a W'} register is needed")
        elif values.setdefault("sf", int(is_wide)) != is_wide:
            raise NoMatchError("the registers must be of one width")

    return show, read
