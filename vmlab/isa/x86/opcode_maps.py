"""Opcode maps: the table unfolded, so that the decoder finds an instruction by looking up its bytes.

There is one set of maps for each pair of operand size and address size in use. A byte selects an entry; an entry
with a ModRM byte is itself a list by that byte's value, so that opcode extensions, memory-only and register-only
forms and reserved register numbers are all one lookup: an empty place is an undefined opcode.

Where to read more: Intel SDM vol. 2, appendix A (opcode maps).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from vmlab.isa.x86.instruction import FIXED, Row
from vmlab.isa.x86.operands import (
    ControlRegister,
    DebugRegister,
    Immediate,
    Operand,
    Register8,
    Register16,
    Register32,
    SegmentOperand,
)
from vmlab.isa.x86.registers import CS, EAX, ECX, EDX, SEGMENT_NAMES
from vmlab.isa.x86.table import ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DEFINED_CONTROLS", "MAPS", "Form", "Maps", "Part", "operand_width"]

REGISTERS: Mapping[int, Sequence[Operand]] = {
    8: tuple(map(Register8, range(8))),
    16: tuple(map(Register16, range(8))),
    32: tuple(map(Register32, range(8))),
}
SEGMENTS: Sequence[Operand] = tuple(map(SegmentOperand, range(6)))
CONTROLS: Sequence[Operand] = tuple(map(ControlRegister, range(8)))
DEBUGS: Sequence[Operand] = tuple(map(DebugRegister, range(8)))
DEFINED_CONTROLS = (0, 2, 3, 4)

# What is to be done for one operand: a kind and its argument, resolved for one operand size.
CONSTANT, RM, REG, LOW, IMMEDIATE, SIGNED, RELATIVE, OFFSET, FAR = range(9)

Part: TypeAlias = "tuple[int, Sequence[Operand], int]"


class Form(NamedTuple):
    """A row resolved for one operand size: a leaf of the opcode maps."""

    row: Row
    size: int
    parts: tuple[Part, ...]
    special: bool  # a `bare` or string row, whose prefixes matter


Group: TypeAlias = "list[Form | None]"
Entry: TypeAlias = "Form | Group | None"
Map: TypeAlias = "list[Entry]"

_WIDTHS = {"b": 8, "w": 16, "d": 32, "q": 64}


@cache
def operand_width(code: str, size: int) -> int:
    """Return the width in bits of an operand with this code under an operand size of `size`."""
    letter = code[1:]
    if letter in _WIDTHS:
        return _WIDTHS[letter]
    if letter in ("v", "z", "x", "r"):
        return size
    return {"p": 16 + size, "a": 2 * size, "s": 0, "": 0}[letter]


@cache
def _part(code: str, size: int, low: int) -> Part:
    """Resolve one operand code; `low` is the register number in the opcode's low bits."""
    if code in FIXED:
        return CONSTANT, (_fixed(code, size),), 0
    letter, width = code[0], operand_width(code, size)
    if letter == "Z":
        return CONSTANT, (REGISTERS[width][low],), 0
    if letter in "EM":
        return RM, REGISTERS.get(width, ()), 16 if code == "Er" else width
    kind, registers = {
        "A": (FAR, ()),
        "C": (REG, CONTROLS),
        "D": (REG, DEBUGS),
        "G": (REG, REGISTERS.get(width, ())),
        "I": (IMMEDIATE, ()),
        "J": (RELATIVE, ()),
        "O": (OFFSET, ()),
        "R": (LOW, REGISTERS.get(width, ())),
        "S": (REG, SEGMENTS),
    }[letter]
    return (SIGNED, (), 8) if code == "Ix" else (kind, registers, size if letter == "A" else width)


def _fixed(code: str, size: int) -> Operand:
    """Return the operand that a fixed code names."""
    if code in SEGMENT_NAMES_UPPER:
        return SEGMENTS[SEGMENT_NAMES_UPPER[code]]
    return {
        "AL": REGISTERS[8][EAX],
        "CL": REGISTERS[8][ECX],
        "DX": REGISTERS[16][EDX],
        "eAX": REGISTERS[size][EAX],
        "1": Immediate(1, 8),
    }[code]


SEGMENT_NAMES_UPPER = {name.upper(): n for n, name in enumerate(SEGMENT_NAMES)}


def _allowed_modrm(row: Row) -> list[range]:
    """Return the ranges of ModRM values that select this row."""
    if len(row.opcode) == 3:
        return [range(row.opcode[2], row.opcode[2] + 1)]
    letters = {code[0] for code in row.operands if code not in FIXED}
    mods = range(3) if "M" in letters else range(4)
    if row.extension >= 0:
        registers: Sequence[int] = (row.extension,)
    elif "C" in letters:
        registers = DEFINED_CONTROLS
    elif row.operands[0] == "Sw":
        registers = tuple(n for n in range(6) if n != CS)
    elif "S" in letters:
        registers = range(6)
    else:
        return [range(64 * len(mods))]
    return [range(64 * mod + 8 * reg, 64 * mod + 8 * reg + 8) for mod in mods for reg in registers]


class Maps:
    """The opcode maps of one operand size and address size.

    Attributes
    ----------
    one : list
        Entries by opcode byte.
    two : list
        Entries by the byte after 0F.
    repeated : dict
        Entries of one-byte opcodes that are another instruction after F3.
    """

    __slots__ = ("one", "repeated", "size", "two")

    def __init__(self, size: int, address_size: int) -> None:
        self.size = size
        self.one: Map = [None] * 256
        self.two: Map = [None] * 256
        self.repeated: dict[int, Form] = {}
        for row in ROWS:
            if row.size in (0, 8, size) and row.address_size in (0, address_size):
                self.add(row)

    def add(self, row: Row) -> None:
        """Enter a row; places already taken stay as they are."""
        opcode = row.opcode
        opcode_map = self.one
        if opcode[0] == 0x0F:
            opcode, opcode_map = opcode[1:], self.two
        first = opcode[0]
        if row.has_modrm or len(row.opcode) == 3:
            group = opcode_map[first]
            if not isinstance(group, list):
                group = opcode_map[first] = [None] * 256
            form = self._form(row, 0)
            for values in _allowed_modrm(row):
                places = slice(values.start, values.stop)
                group[places] = [taken or form for taken in group[places]]
        elif first == 0xF3:
            self.repeated[opcode[1]] = self._form(row, 0)
        elif any(code[0] == "Z" for code in row.operands):
            for low in range(8):
                opcode_map[first + low] = opcode_map[first + low] or self._form(row, low)
        else:
            opcode_map[first] = self._form(row, 0)

    def _form(self, row: Row, low: int) -> Form:
        size = 8 if row.size == 8 else 32 if row.operands and row.operands[0][1:] == "d" else self.size
        parts = tuple([_part(code, self.size, low) for code in row.operands])
        return Form(row, size, parts, row.bare or bool(row.repeat))


class _MapsOnDemand(dict[tuple[int, int], Maps]):
    """Opcode maps by operand size and address size, unfolded when code first needs them."""

    def __missing__(self, key: tuple[int, int]) -> Maps:
        size, address_size = key
        maps = self[key] = Maps(size, address_size)
        return maps


MAPS = _MapsOnDemand()
