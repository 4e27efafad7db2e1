"""What all operands share: the parts of a line that are still to be read, and how numbers look."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Row

__all__ = ["NoMatchError", "Operand", "Parts", "Values", "number", "signed"]

Values = dict[str, int]
"""Field name to value. A name with an underscore is one operand's message to the next."""


_REGISTER = re.compile(r"[xw]([12]?\d|30|zr)|w?sp|lr|fp", re.IGNORECASE)


class NoMatchError(Exception):
    """The operands are not those of this row; says why."""


def number(value: int) -> str:
    """Write an immediate: hexadecimal from 10 on."""
    return f"#{value}" if -10 < value < 10 else f"#{value:#x}"


def signed(value: int, bits: int) -> int:
    """Read the low bits of a value as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


class Parts:
    """The operands of a line, read from left to right.

    Parameters
    ----------
    texts : list of str
        Split at the commas outside brackets.
    at : int
        Address of the instruction.
    evaluate : callable
        Gives the value of an expression.
    """

    def __init__(self, texts: list[str], at: int, evaluate: Callable[[str], int]) -> None:
        self._texts = texts
        self._place = 0
        self.at = at
        self.evaluate = evaluate

    def __bool__(self) -> bool:
        return self._place < len(self._texts)

    @property
    def taken(self) -> int:
        """How many operands have been read."""
        return self._place

    def peek(self) -> str:
        """Return the next operand; empty where there is none."""
        return self._texts[self._place] if self else ""

    def take(self) -> str:
        """Return the next operand and go on to the one after it."""
        if not self:
            raise NoMatchError("an operand is missing")
        self._place += 1
        return self._texts[self._place - 1]

    def value(self, text: str) -> int:
        """Evaluate an immediate; `#` before it may be left out."""
        if _REGISTER.fullmatch(text):
            raise NoMatchError(f"a number is needed, not the register {text}")
        return self.evaluate(text.removeprefix("#"))

    def number(self, low: int, high: int) -> int:
        """Take an immediate of a range."""
        if self.peek().startswith("["):
            raise NoMatchError("a number is needed, not an address in memory")
        value = self.value(self.peek() or self.take())
        self.take()
        if not low <= value <= high:
            raise NoMatchError(f"a number from {low} to {high} is needed, not {value}")
        return value

    def target(self) -> int:
        """Take the address of a label."""
        if self.peek().startswith("["):
            raise NoMatchError("a label is needed, not an address in memory")
        return self.value(self.take())

    def shift(self, kinds: tuple[str, ...]) -> tuple[str, int] | None:
        """Take a shift or extend with its amount, where the next operand is one of these kinds."""
        kind, _, amount = self.peek().partition(" ")
        if kind.lower() not in kinds:
            return None
        self.take()
        return kind.lower(), self.value(amount.strip()) if amount.strip() else 0


Show = Callable[["Row", Values, int], "str | None"]
Read = Callable[["Row", Parts, Values], None]


class Operand(NamedTuple):
    """How an operand is shown (None: left out), given row, fields and address, and how it is read from assembly."""

    show: Show
    read: Read
