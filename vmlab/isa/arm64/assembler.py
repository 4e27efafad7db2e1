"""Assembler for the AArch64 subset, in the syntax of GNU as: one pass for the addresses, one for the words.

    label:   instruction   // comment, or  /* ... */ on a line        ldr x0, =value   a literal, kept in a pool
    .equ name, value    .byte .hword .word .quad value, ...    .ascii .asciz "text"    .space bytes    .align power of two
    .balign bytes    .ltorg (place the pool here; at the end otherwise)    .global (ignored)

`1:` with `1b` and `1f`, the nearest such label before or behind, are taken too.

Simplified: flat code, one section, no macros, no linker. Which row of the table an instruction is, its operands say: the
first row of that mnemonic that takes them all.

Read more: GNU as manual, "AArch64 Dependent Features"; Arm ARM (DDI 0487), C1.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.errors import AssemblyError, OptionError
from vmlab.isa.arm64.directives import DIRECTIVES, split_operands
from vmlab.isa.arm64.expressions import ExpressionError, evaluate
from vmlab.isa.arm64.operand_parts import NoMatchError, Parts
from vmlab.isa.arm64.operands import OPERANDS
from vmlab.isa.arm64.rules import RULES
from vmlab.isa.arm64.table import rows_of

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Row

__all__ = ["Assembly", "assemble", "encode"]

_LABEL = re.compile(r"\s*([.\w$]+):")
_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//.*|/\*.*?\*/')
_NEAR = re.compile(r"\b(\d+)([bf])\b")
POOL_LOADS = ("ldr", "ldrsw")


@dataclass(frozen=True, slots=True)
class Assembly:
    """Assembled code.

    Attributes
    ----------
    code : bytes
        From `origin` on.
    origin : int
        Address of the first byte.
    symbols : dict
        Labels and constants.
    lines : dict
        Address to line of the source, of the instructions.
    """

    code: bytes
    origin: int
    symbols: dict[str, int]
    lines: dict[int, int]


@dataclass(slots=True)
class _Statement:
    line: int
    text: str
    name: str
    operands: str
    address: int = 0
    size: int = 4
    literal: str = ""


def encode(mnemonic: str, operands: list[str], address: int, symbols: dict[str, int]) -> int:
    """Encode one instruction.

    Raises
    ------
    NoMatchError
        No row of the mnemonic takes these operands: the reason of the row that came farthest.
    ExpressionError
        An immediate cannot be evaluated.
    """
    rows = rows_of(mnemonic)
    if not rows:
        raise NoMatchError(f"there is no instruction {mnemonic!r} in this subset")
    best, reason = -1, ""
    for row in rows:
        parts = Parts(operands, address, lambda text: evaluate(text, symbols, address))
        try:
            return _encode_row(row, parts)
        except NoMatchError as error:
            if parts.taken > best:
                best, reason = parts.taken, str(error)
    raise NoMatchError(reason)


def _encode_row(row: Row, parts: Parts) -> int:
    values: dict[str, int] = {}
    for code in row.operands:
        OPERANDS[code].read(row, parts, values)
    if parts:
        raise NoMatchError(f"{parts.peek()!r} is one operand too many")
    for name, _, _ in row.fields:  # N says the width again; sf is missing where only SP or an immediate could tell it
        values.setdefault(name, values.get("sf", 1) if name in ("N", "sf") else 0)
    if row.rule and not RULES[row.rule](values):
        raise NoMatchError(f"{row.mnemonic} cannot encode these operands")
    return row.word(values)


class _Program:
    def __init__(self, source: str, origin: int) -> None:
        self.origin = origin
        self.symbols: dict[str, int] = {}
        self.near: dict[str, list[int]] = {}
        self.statements: list[_Statement] = []
        self.pool: dict[tuple[str, int], list[_Statement]] = {}
        self.literals: dict[int, tuple[int, str, _Statement]] = {}
        self.at = origin
        self.lines = source.split("\n")
        for number, text in enumerate(self.lines, 1):
            self._line(number, text)
        self._place_pool()

    def fail(self, line: int, message: str) -> AssemblyError:
        text = self.lines[line - 1]
        return AssemblyError(message, line, len(text) - len(text.lstrip()) + 1, text)

    # -- first pass: addresses -----------------------------------------------------------------------------------------

    def _line(self, number: int, text: str) -> None:
        rest = _COMMENT.sub(lambda found: found[1] or " ", text)
        while label := _LABEL.match(rest):
            self._define(number, label[1])
            rest = rest[label.end() :]
        name, _, operands = rest.strip().partition(" ")
        name, tab, more = name.partition("\t")
        operands = f"{more} {operands}" if tab else operands
        if not name:
            return
        statement = _Statement(number, text, name.lower(), operands.strip(), self.at)
        if statement.name.startswith("."):
            self._directive(statement)
        elif statement.name in POOL_LOADS and "=" in operands:
            register, _, statement.literal = (each.strip() for each in operands.partition("="))
            statement.operands = register.rstrip(", ")
            size = 4 if statement.operands[:1] in "wW" or statement.name == "ldrsw" else 8
            key = self._without_near(statement.literal, self.at), size
            self.pool.setdefault(key, []).append(statement)
        if statement.name != ".ltorg":
            self.statements.append(statement)
        self.at = statement.address + statement.size

    def _define(self, number: int, label: str) -> None:
        if label.isdecimal():
            self.near.setdefault(label, []).append(self.at)
            return
        if label in self.symbols:
            raise self.fail(number, f"{label!r} is defined twice")
        self.symbols[label] = self.at

    def _directive(self, statement: _Statement) -> None:
        name = statement.name
        directive = DIRECTIVES.get(name)
        if directive is None:
            raise self.fail(statement.line, f"there is no directive {name!r}: {', '.join(DIRECTIVES)}")
        if name == ".ltorg":
            self._place_pool()
            statement.address, statement.size = self.at, 0
            return
        try:
            statement.size = directive.size(statement.operands, self.at, self.symbols)
            if name == ".equ":
                symbol, _, value = statement.operands.partition(",")
                if symbol.strip() in self.symbols:
                    raise self.fail(statement.line, f"{symbol.strip()!r} is defined twice")
                self.symbols[symbol.strip()] = evaluate(value, self.symbols, self.at)
        except ExpressionError as error:
            raise self.fail(statement.line, str(error)) from None

    def _place_pool(self) -> None:
        for (text, size), users in sorted(self.pool.items(), key=lambda item: -item[0][1]):
            self.at += -self.at % size
            for user in users:
                self.literals[user.address] = (self.at, text, user)
            self.statements.append(_Statement(users[0].line, users[0].text, ".literal", text, self.at, size))
            self.at += size
        self.pool.clear()

    # -- second pass: words --------------------------------------------------------------------------------------------

    def _without_near(self, text: str, address: int) -> str:
        """Replace `1b` and `1f` by addresses."""

        def find(found: re.Match[str]) -> str:
            places = self.near.get(found[1], [])
            if found[2] == "b":
                before = [place for place in places if place <= address]
                return str(before[-1]) if before else found[0]
            behind = [place for place in places if place > address]
            return str(behind[0]) if behind else found[0]

        return _NEAR.sub(find, text) if self.near and "0x" not in text else text

    def assemble(self) -> Assembly:
        code = bytearray(self.at - self.origin)
        lines: dict[int, int] = {}
        for each in self.statements:
            place = each.address - self.origin
            try:
                code[place : place + each.size] = self._bytes(each)
            except (NoMatchError, ExpressionError) as error:
                raise self.fail(each.line, str(error)) from None
            if not each.name.startswith("."):
                lines[each.address] = each.line
        return Assembly(bytes(code), self.origin, self.symbols, lines)

    def _bytes(self, each: _Statement) -> bytes:
        if each.name == ".literal":
            value = evaluate(each.operands, self.symbols, each.address)
            return (value & (1 << 8 * each.size) - 1).to_bytes(each.size, "little")
        if each.name.startswith("."):
            return DIRECTIVES[each.name].data(each.operands, each.address, self.symbols)
        operands = split_operands(self._without_near(each.operands, each.address))
        if each.literal:
            operands.append(str(self.literals[each.address][0]))
        return encode(each.name, operands, each.address, self.symbols).to_bytes(4, "little")


def assemble(source: str, origin: int = 0) -> Assembly:
    r"""Assemble a program.

    Parameters
    ----------
    source : str
        Assembly in the syntax of GNU as.
    origin : int
        Address of the first byte, a multiple of 8.

    Raises
    ------
    AssemblyError
        The source is wrong; its message has line and column.
    OptionError
        Source or origin are none.

    Examples
    --------
    >>> assemble("start: mov x0, #1\n b start").code.hex(" ", 4)
    '200080d2 ffffff17'
    """
    if not isinstance(source, str):
        raise OptionError(f"assembly source is text (a str), not {type(source).__name__}")
    if type(origin) is not int or not 0 <= origin < 1 << 64 or origin % 8:
        raise OptionError(f"origin={origin!r}: the first address is a multiple of 8 below 2**64")
    return _Program(source, origin).assemble()
