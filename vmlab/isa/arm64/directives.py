"""Directives of the assembler that put data into the code: how many bytes they take, and which.

The size is asked for before labels behind are known, so what decides it (`.space`, `.align`) may only name earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from vmlab.isa.arm64.expressions import ESCAPES, ExpressionError, evaluate

__all__ = ["DIRECTIVES", "Directive", "split_operands"]

Symbols = Mapping[str, int]
LARGEST = 1 << 24
"""Bytes that one directive may fill."""


class Directive(NamedTuple):
    """What a directive takes, and what it puts there: functions of its operands, its address and the symbols."""

    size: Callable[[str, int, Symbols], int]
    data: Callable[[str, int, Symbols], bytes]


def split_operands(text: str) -> list[str]:
    """Split operands at the commas outside brackets, parentheses and quotes.

    Examples
    --------
    >>> split_operands("x0, [x1, #8]!"), split_operands("")
    (['x0', '[x1, #8]!'], [])
    """
    parts, depth, quoted, start, escaped = [], 0, "", 0, False
    for place, letter in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = letter == "\\"
            quoted = "" if letter == quoted else quoted
        elif letter in "\"'":
            quoted = letter
        elif letter in "[(":
            depth += 1
        elif letter in "])":
            depth -= 1
        elif letter == "," and not depth:
            parts.append(text[start:place].strip())
            start = place + 1
    rest = text[start:].strip()
    return [*parts, rest] if rest or parts else []


def _integers(size: int) -> Directive:
    def data(text: str, at: int, symbols: Symbols) -> bytes:
        values = [evaluate(each, symbols, at + size * n) for n, each in enumerate(split_operands(text))]
        if any(not -(1 << 8 * size - 1) <= value < 1 << 8 * size for value in values):
            raise ExpressionError(f"a value does not fit into {size} bytes")
        return b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in values)

    return Directive(lambda text, at, symbols: size * len(split_operands(text)), data)


def _text(end: bytes) -> Directive:
    def data(text: str, at: int = 0, symbols: Symbols | None = None) -> bytes:
        result = b""
        for each in split_operands(text):
            if len(each) < 2 or each[0] != '"' or each[-1] != '"':
                raise ExpressionError(f"a text in double quotes is needed, not {each}")
            letters = iter(each[1:-1])
            decoded = (ESCAPES.get(code := next(letters, ""), code) if letter == "\\" else letter for letter in letters)
            result += "".join(decoded).encode() + end
        return result

    return Directive(lambda text, at, symbols: len(data(text)), data)


def _checked(size: int) -> int:
    if not 0 <= size <= LARGEST:
        raise ExpressionError(f"{size} bytes are not possible: 0 to {LARGEST}")
    return size


def _space(text: str, at: int, symbols: Symbols) -> int:
    return _checked(evaluate(split_operands(text)[0] if text else "", symbols, at))


def _filled(text: str, at: int, symbols: Symbols) -> bytes:
    parts = split_operands(text)
    value = evaluate(parts[1], symbols, at) if len(parts) > 1 else 0
    return bytes([value & 0xFF]) * _space(text, at, symbols)


def _align(*, power: bool) -> Directive:
    def size(text: str, at: int, symbols: Symbols) -> int:
        value = evaluate(text, symbols, at)
        if power and not 0 <= value <= 24:
            raise ExpressionError(f".align takes a power of two, 0 to 24, not {value}: .balign takes bytes")
        value = 1 << value if power else value
        if not 0 < value <= LARGEST:
            raise ExpressionError(f"an alignment of {value} bytes is not possible")
        return -at % value

    return Directive(size, lambda text, at, symbols: bytes(size(text, at, symbols)))


NOTHING = Directive(lambda text, at, symbols: 0, lambda text, at, symbols: b"")

DIRECTIVES: dict[str, Directive] = {
    ".byte": _integers(1), ".hword": _integers(2), ".word": _integers(4), ".quad": _integers(8), ".ascii": _text(b""),
    ".asciz": _text(b"\0"), ".space": Directive(_space, _filled), ".align": _align(power=True),
    ".balign": _align(power=False), ".equ": NOTHING, ".ltorg": NOTHING, ".global": NOTHING,
}  # fmt: skip
"""By name."""
