"""Passes: labels, jumps and alignments are settled by assembling again until nothing moves.

The first pass takes every jump to a label not yet seen for a short one; each pass then has the addresses of the
one before. Most programs settle in three. One that would not (alignment can make two jumps alternate) is made to:
after some passes no instruction may become shorter again, and after some more each takes its longest form.
Where to read more: NASM manual, 2.1.24; Szymanski, "Assembling code for machines with span-dependent
instructions", CACM 21(4), 1978.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler.directives import HANDLERS
from vmlab.isa.x86.assembler.expressions import Expression, Value, wrap
from vmlab.isa.x86.assembler.limits import (
    FREE_PASSES,
    GROWING_PASSES,
    LARGEST_IMAGE,
    LARGEST_MEMORY,
    LAST_PASSES,
    MOST_JUMPS,
)
from vmlab.isa.x86.assembler.matching import encode_statement
from vmlab.isa.x86.assembler.mnemonics import resolve
from vmlab.isa.x86.assembler.sections import Section, Sections
from vmlab.isa.x86.assembler.syntax import Statement, parse_line
from vmlab.isa.x86.table import rows_of

if TYPE_CHECKING:
    from vmlab.errors import AssemblyError
    from vmlab.isa.x86.assembler.lexer import SourceLine

__all__ = ["Assembly", "Program"]

_LONGEST = 1 << 10
_LARGEST_ADDRESS = (1 << 64) - 1
_HEXADECIMAL = re.compile("[a-f][0-9a-f]*h", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Assembly:
    """An assembled program.

    Attributes
    ----------
    code : bytes
        The flat image: `.text`, then the other sections, without `.bss`.
    origin : int
        Address of its first byte.
    symbols : dict of str to int
        Address of each label; local labels under their whole name (`main.loop`).
    lines : list of tuple
        Address, length in bytes, and line in the source (counted from 1) of all that was assembled.
    constants : dict of str to int
        Value of each `equ`.
    size : int
        Bytes of memory that the program takes from the origin on, `.bss` included.
    """

    code: bytes
    origin: int
    symbols: dict[str, int]
    lines: list[tuple[int, int, int]]
    constants: dict[str, int]
    size: int


class Program:
    """Statements on their way through the passes; as `Place`, the point that the pass has come to."""

    def __init__(self, lines: list[SourceLine], origin: int | None, bits: int) -> None:
        self.initial_bits = self.bits = bits
        self.given_origin = origin
        self.relative = False
        self.defined: dict[str, Statement] = {}
        self.externals: set[str] = set()
        self.values: dict[str, Value] = {}
        self.statements = self.parse(lines)
        self.sections = Sections(self.find_origin())
        self.current: Section = self.sections.get(".text")
        self.line: SourceLine | None = None
        self.lines: list[tuple[int, int, int]] = []
        self.first = True
        self.final = False
        self.changed = False
        self.growing = self.longest = False
        self.moved = ""
        self.written = 0

    # Before the passes

    def parse(self, lines: list[SourceLine]) -> list[Statement]:
        parent = ""
        statements: list[Statement] = []
        for line in lines:
            statement = parse_line(line, parent)
            if statement is None:
                continue
            label = statement.label
            if statement.name == "equ" and not label:
                raise line.error("equ needs a name before it, as in: size equ 16", statement.column)
            if label:
                if label in self.defined:
                    first = self.defined[label].line.number
                    raise line.error(f"label '{label}' is defined twice, first in line {first}", statement.label_column)
                self.defined[label] = statement
                if statement.name != "equ" and line.text[statement.label_column - 1] != ".":
                    parent = label
            if statement.name == "extern":
                self.externals.update(str(word) for word in statement.values)
            statements.append(statement)
        return statements

    def find_origin(self) -> int:
        found: Statement | None = None
        value = self.given_origin
        for statement in self.statements:
            if statement.name != "org":
                continue
            expression = statement.values[0]
            assert isinstance(expression, Expression)
            if not expression.fixed:
                raise statement.line.error("org needs a plain number", expression.column)
            number = expression.evaluate(self).number
            if self.has_long_code():
                number &= _LARGEST_ADDRESS
            elif not 0 <= number < LARGEST_MEMORY:
                raise statement.line.error(f"origin {number:#x} is outside of 32 bits", expression.column)
            if value is not None and number != value:
                other = f"line {found.line.number}" if found else "the caller"
                raise statement.line.error(
                    f"org {number:#x} contradicts the origin {value:#x} from {other}", expression.column
                )
            found, value = statement, number
        return value or 0

    def has_long_code(self) -> bool:
        """Tell whether any of it is 64-bit code, whose addresses have as many bits."""
        for statement in self.statements:
            value = statement.values[0] if statement.name == "bits" else None
            if isinstance(value, Expression) and value.fixed and value.evaluate(self).number == 64:
                return True
        return self.initial_bits == 64 or any(statement.name == "use64" for statement in self.statements)

    # What expressions ask for

    @property
    def address(self) -> int:
        """Address of the current statement."""
        return self.current.base + self.current.size

    @property
    def section(self) -> str:
        """Name of the current section."""
        return self.current.name

    def here(self) -> Value:
        """Return `$`."""
        return Value(wrap(self.address), {self.current.name: 1}, {})

    def section_start(self) -> Value:
        """Return `$$`."""
        return Value(wrap(self.current.base), {self.current.name: 1}, {})

    def symbol(self, name: str, column: int) -> Value:
        """Return a label or constant as known so far."""
        value = self.values.get(name)
        if value is None or (value.unknown and self.final):
            if name not in self.defined:
                raise self.undefined(name, column)
            if self.final:
                assert self.line is not None
                raise self.line.error(f"'{name}' is defined by itself", column)
            return Value(0, {}, {}, unknown=1)
        return value

    def undefined(self, name: str, column: int) -> AssemblyError:
        assert self.line is not None
        if name in self.externals:
            return self.line.error(f"'{name}' is extern, but a flat image is not linked: define it here", column)
        close = get_close_matches(name[:64], list(self.defined)[:5000], n=1, cutoff=0.7)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        if _HEXADECIMAL.fullmatch(name):
            hint += f"; a number begins with a digit: 0{name}"
        return self.line.error(f"'{name}' is not defined{hint}", column)

    def known(self, expression: Expression | bytes | str, what: str) -> int:
        """Evaluate an expression on which the layout depends."""
        assert isinstance(expression, Expression)
        value = expression.evaluate(self)
        if value.unknown:
            raise expression.line.error(
                f"{what} must be known at this point: it uses what is defined below", expression.column
            )
        if value.sections:
            raise expression.line.error(f"{what} must be a number: this is an address", expression.column)
        return value.number

    # Passes

    def assemble(self) -> Assembly:
        """Carry out the passes and return the result."""
        for number in range(FREE_PASSES + GROWING_PASSES + LAST_PASSES):
            self.growing = number >= FREE_PASSES
            self.longest = number >= FREE_PASSES + GROWING_PASSES
            if not self.one_pass():
                break
        else:
            raise self.unsettled()
        self.final = True
        if self.one_pass():
            raise self.unsettled()
        labels = {
            name: value.number & _LARGEST_ADDRESS
            for name, value in self.values.items()
            if self.defined[name].name != "equ"
        }
        constants = {name: value.number for name, value in self.values.items() if self.defined[name].name == "equ"}
        sections = self.sections
        return Assembly(sections.image(), sections.origin, labels, self.lines, constants, sections.size)

    def unsettled(self) -> AssemblyError:
        """Blame the last label or constant that moved."""
        statement = self.defined[self.moved] if self.moved else self.statements[0]
        return statement.line.error(
            f"'{self.moved}' does not settle: its value depends on itself", statement.label_column
        )

    def one_pass(self) -> bool:
        """Assemble everything once; return whether any address or constant changed."""
        self.sections.begin_pass()
        self.current = self.sections.get(".text")
        self.bits = self.initial_bits
        self.relative = False
        self.changed = False
        self.written = 0
        for statement in self.statements:
            self.line = statement.line
            name = statement.name
            if statement.label and name != "equ":
                self.define(statement.label, self.here())
            if not name:
                continue
            handler = HANDLERS.get(name)
            if handler is None:
                self.instruction(statement)
            else:
                handler(self, statement)
        self.changed |= self.sections.place()
        changed = self.changed or self.first
        self.first = False
        return changed

    def define(self, name: str, value: Value) -> None:
        old = self.values.get(name)
        if old is None or old.number != value.number or old.sections != value.sections or old.unknown != value.unknown:
            self.values[name] = value
            self.changed = True
            self.moved = name

    def emit(self, statement: Statement, code: bytes, count: int = 1) -> None:
        """Place bytes `count` times at the current point."""
        length = len(code) * count
        if not length:
            return
        section = self.current
        if section.nobits:
            if code.strip(b"\0"):
                raise statement.line.error(
                    f"section {section.name} has no contents: only res and align", statement.column
                )
            self.reserve(statement, length)
            return
        self.written += length
        if self.written > LARGEST_IMAGE:
            raise statement.line.error(f"the image exceeds {LARGEST_IMAGE} bytes", statement.column)
        if self.final:
            section.chunks.append(code * count)
            self.lines.append((self.address, length, statement.line.number))
        section.size += length

    def reserve(self, statement: Statement, length: int) -> None:
        self.current.size += length
        if self.current.size > LARGEST_MEMORY:
            raise statement.line.error("this section exceeds 4 GiB", statement.column)

    def count(self, statement: Statement) -> int:
        """Return how often a statement is to be repeated."""
        if statement.repeat is None:
            return 1
        count = self.known(statement.repeat, "the count of times")
        if count < 0:
            raise statement.line.error(
                f"times {count}: the count is negative (too much before it?)", statement.repeat.column
            )
        return min(count, LARGEST_IMAGE + 1)

    # Statements

    def instruction(self, statement: Statement) -> None:
        count = self.count(statement)
        if statement.code is not None:
            self.emit(statement, statement.code, count)
            return
        if _is_fixed(statement):
            settled, self.final = self.final, True
            statement.code = encode_statement(statement, self)
            self.final = settled
            self.emit(statement, statement.code, count)
            return
        shortest = _LONGEST if self.longest else statement.length if self.growing else 0
        moves = count > 1 and (_is_relative(statement) or self.bits == 64)
        if moves and count > MOST_JUMPS:
            raise statement.line.error(f"a jump can be repeated {MOST_JUMPS} times at most", statement.column)
        for _ in range(count if moves else 1):
            code = encode_statement(statement, self, shortest)
            statement.length = len(code)
            self.emit(statement, code, 1 if moves else count)


def _is_fixed(statement: Statement) -> bool:
    """Tell whether an instruction is the same bytes wherever it stands."""
    if _is_relative(statement):
        return False
    return all(operand.expression is None or operand.expression.fixed for operand in statement.operands) and all(
        operand.selector is None or operand.selector.fixed for operand in statement.operands
    )


def _is_relative(statement: Statement) -> bool:
    """Tell whether an instruction contains a distance from itself."""
    mnemonic = resolve(statement.name)
    if mnemonic is None or not statement.operands or statement.operands[0].kind != "immediate":
        return False
    return any(code[0] == "J" for row in rows_of(mnemonic.name) for code in row.operands)
