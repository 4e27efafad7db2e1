"""Directives: what `db`, `resb`, `align`, `equ`, `section` and `bits` do in a pass.

Where to read more: NASM manual, chapters 3.2 and 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler.expressions import Expression
from vmlab.isa.x86.assembler.limits import LARGEST_IMAGE, LARGEST_MEMORY
from vmlab.isa.x86.assembler.matching import encode_statement
from vmlab.isa.x86.assembler.mnemonics import resolve
from vmlab.isa.x86.assembler.syntax import DATA, RESERVE, Statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.assembler.program import Program

__all__ = ["HANDLERS"]

IGNORED_ATTRIBUTES = frozenset({"exec", "noexec", "write", "nowrite", "alloc", "noalloc", "code", "data", "bss"})


def data(program: Program, statement: Statement) -> None:
    """Place `db` and its like."""
    count = program.count(statement)
    if statement.code is not None:
        program.emit(statement, statement.code, count)
        return
    width = DATA[statement.name]
    code = bytearray()
    for item in statement.values:
        if isinstance(item, Expression):
            code += datum(program, item, width)
        else:
            assert isinstance(item, bytes)
            code += item + bytes(-len(item) % width)
    if all(isinstance(item, bytes) or (isinstance(item, Expression) and item.fixed) for item in statement.values):
        statement.code = bytes(code)
    program.emit(statement, bytes(code), count)


def datum(program: Program, item: Expression, width: int) -> bytes:
    """Return the bytes of one item."""
    number = item.evaluate(program).number
    limit = 1 << 8 * width
    if (program.final or item.fixed) and not -limit // 2 <= number < limit:
        raise item.line.error(f"{number} ({number:#x}) does not fit in {8 * width} bits", item.column)
    return (number & limit - 1).to_bytes(width, "little")


def space(program: Program, statement: Statement) -> None:
    """Leave out space for `resb` and its like."""
    count = program.known(statement.values[0], "the size of reserved space") * program.count(statement)
    if count < 0:
        raise statement.line.error(f"{count} is no size", statement.column)
    length = min(count, LARGEST_MEMORY) * RESERVE[statement.name]
    if program.current.nobits:
        program.reserve(statement, length)
    elif length > LARGEST_IMAGE:
        raise statement.line.error(f"the image exceeds {LARGEST_IMAGE} bytes", statement.column)
    else:
        program.emit(statement, b"\0", length)


def align(program: Program, statement: Statement) -> None:
    """Fill up to the next multiple of a power of two."""
    boundary = program.known(statement.values[0], "an alignment")
    if boundary < 1 or boundary & boundary - 1 or boundary > LARGEST_IMAGE:
        raise statement.line.error(f"an alignment is a power of two, not {boundary}", statement.column)
    section = program.current
    section.alignment = max(section.alignment, boundary)
    missing = -section.size % boundary
    if section.nobits:
        program.reserve(statement, missing)
        return
    fill = b"\x90" if statement.name == "align" else b"\0"
    if statement.fill is not None:
        fill = fill_byte(program, statement.fill)
    program.emit(statement, fill, missing)


def fill_byte(program: Program, statement: Statement) -> bytes:
    """Return the byte that an alignment is filled with."""
    item = statement.values[0] if statement.values else None
    if statement.name == "db" and len(statement.values) == 1 and isinstance(item, Expression):
        return datum(program, item, 1)
    code = encode_statement(statement, program) if resolve(statement.name) is not None else b"\0"
    if len(code) != 1 or (statement.name in DATA):
        raise statement.line.error("an alignment is filled with something of one byte", statement.column)
    return code


def equ(program: Program, statement: Statement) -> None:
    """Give a name a value."""
    expression = statement.values[0]
    assert isinstance(expression, Expression)
    program.define(statement.label, expression.evaluate(program))


def bits_directive(program: Program, statement: Statement) -> None:
    """Change the default size of code."""
    bits = program.known(statement.values[0], "bits")
    if bits not in (16, 32, 64):
        raise statement.line.error(f"bits are 16, 32 or 64, not {bits}", statement.column)
    program.bits = bits


def section_directive(program: Program, statement: Statement) -> None:
    """Go on in another section, with its attributes."""
    name, *attributes = (str(word) for word in statement.values)
    new = name not in program.sections
    section = program.sections.get(name)
    for attribute in attributes:
        word, _, value = attribute.lower().partition("=")
        if word == "align" and value.isdecimal() and int(value).bit_count() == 1 and int(value) <= LARGEST_IMAGE:
            section.alignment = max(section.alignment, int(value))
        elif word in ("nobits", "progbits"):
            if new or section.size == 0:
                section.nobits = word == "nobits"
        elif word not in IGNORED_ATTRIBUTES:
            raise statement.line.error(f"section attribute '{attribute}' is not supported", statement.column)
    program.current = section


def use_16(program: Program, statement: Statement) -> None:
    """Change to 16-bit code."""
    program.bits = 16


def use_32(program: Program, statement: Statement) -> None:
    """Change to 32-bit code."""
    program.bits = 32


def use_64(program: Program, statement: Statement) -> None:
    """Change to 64-bit code."""
    program.bits = 64


def default_directive(program: Program, statement: Statement) -> None:
    """Choose how 64-bit code addresses a label: relative to the instruction pointer, or absolute."""
    for word in statement.values:
        choice = str(word).lower()
        if choice in ("rel", "abs"):
            program.relative = choice == "rel"
        elif choice not in ("bnd", "nobnd"):
            raise statement.line.error(f"default is rel or abs, not {word!r}", statement.column)


def nothing(program: Program, statement: Statement) -> None:
    """Carry out nothing: the directive speaks to a linker, or was heeded already."""


HANDLERS: dict[str, Callable[[Program, Statement], None]] = {
    **dict.fromkeys(DATA, data),
    **dict.fromkeys(RESERVE, space),
    **dict.fromkeys(("global", "extern", "static", "cpu", "org"), nothing),
    **dict.fromkeys(("section", "segment"), section_directive),
    **dict.fromkeys(("align", "alignb"), align),
    "equ": equ,
    "bits": bits_directive,
    "use16": use_16,
    "use32": use_32,
    "use64": use_64,
    "default": default_directive,
}
