"""Expressions of the assembler: numbers, labels, `.` for the present address, and C's operators on integers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import add, and_, lshift, mul, or_, rshift, sub, xor

__all__ = ["ExpressionError", "evaluate"]

_TOKEN = re.compile(r"\s*(0x[0-9a-fA-F_]+|0b[01_]+|\d[\d_]*|'(?:\\.|[^'\\])'|[.\w$]+|<<|>>|[-+*/%&|^~()])")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\", "'": "'", '"': '"'}
LONGEST_SHIFT = 256


class ExpressionError(Exception):
    """An expression cannot be evaluated; says why."""


def _divide(a: int, b: int) -> int:
    if not b:
        raise ExpressionError("division by zero")
    return a // b


def _remainder(a: int, b: int) -> int:
    if not b:
        raise ExpressionError("division by zero")
    return a % b


def _shift(operator: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def shift(a: int, b: int) -> int:
        if not 0 <= b < LONGEST_SHIFT:
            raise ExpressionError(f"a shift by {b} is not possible")
        return operator(a, b)

    return shift


LEVELS: tuple[dict[str, Callable[[int, int], int]], ...] = (
    {"|": or_},
    {"^": xor},
    {"&": and_},
    {"<<": _shift(lshift), ">>": _shift(rshift)},
    {"+": add, "-": sub},
    {"*": mul, "/": _divide, "%": _remainder},
)
"""Binary operators, those that bind least first."""
UNARY: dict[str, Callable[[int], int]] = {"-": lambda a: -a, "+": lambda a: a, "~": lambda a: ~a}


class _Parser:
    def __init__(self, text: str, symbols: Mapping[str, int], here: int) -> None:
        self.tokens: list[str] = []
        self.symbols, self.here = symbols, here
        place = 0
        text = text.strip()
        while place < len(text):
            found = _TOKEN.match(text, place)
            if not found:
                raise ExpressionError(f"{text[place:]!r} is no expression")
            self.tokens.append(found[1])
            place = found.end()
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.place += 1
        return token

    def binary(self, level: int = 0) -> int:
        if level == len(LEVELS):
            return self.unary()
        value = self.binary(level + 1)
        while self.peek() in LEVELS[level]:
            operator = LEVELS[level][self.take()]
            value = operator(value, self.binary(level + 1))
        return value

    def unary(self) -> int:
        word = self.take()
        if word in UNARY:
            return UNARY[word](self.unary())
        if word == "(":
            value = self.binary()
            if self.take() != ")":
                raise ExpressionError("a closing parenthesis is missing")
            return value
        if word[:1].isdigit():
            return self.literal(word)
        if word[:1] == "'":
            letter = word[1:-1]
            return ord(ESCAPES.get(letter[1:], letter[1:]) if letter[0] == "\\" else letter)
        if word == ".":
            return self.here
        if word in self.symbols:
            return self.symbols[word]
        if not word or not (word[0].isalpha() or word[0] in "._$"):
            raise ExpressionError(f"a value is missing{f' before {word!r}' if word else ''}")
        raise ExpressionError(f"there is no symbol {word!r}")

    @staticmethod
    def literal(token: str) -> int:
        try:
            return int(token, 0)
        except ValueError:
            raise ExpressionError(f"{token!r} is no number") from None


def evaluate(text: str, symbols: Mapping[str, int], here: int = 0) -> int:
    """Evaluate an expression.

    Raises
    ------
    ExpressionError
        It is none, or names a symbol that is not there.

    Examples
    --------
    >>> evaluate("(page + 2) << 12 | 0x8", {"page": 1})
    12296
    """
    parser = _Parser(text, symbols, here)
    try:
        value = parser.binary()
    except RecursionError:
        raise ExpressionError("the expression is nested too deep") from None
    if parser.peek():
        raise ExpressionError(f"{parser.peek()!r} is not expected there")
    return value
