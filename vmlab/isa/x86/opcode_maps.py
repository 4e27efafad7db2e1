"""Opcode maps: the table unfolded, so that the decoder finds an instruction by looking up its bytes.

There is one set of maps for each pair of operand size and address size in use, and for 64-bit code another, with
and without REX. A byte selects an entry; an entry with a ModRM byte is itself a list by that byte's value, so that
opcode extensions, memory-only and register-only forms and reserved register numbers are all one lookup: an empty
place is an undefined opcode. After 0F 38 the third opcode byte is looked up where otherwise ModRM is.

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
    general_register_64,
)
from vmlab.isa.x86.registers import CS, EAX, ECX, EDX, SEGMENT_NAMES
from vmlab.isa.x86.table import ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DEFINED_CONTROLS", "MAPS", "MAPS_64", "Form", "Maps", "Part", "operand_width"]

LEGACY, LONG, REX = "legacy", "long", "rex"
"""Kinds of encoding: outside of 64-bit mode, in it without a REX prefix, and with one."""

REGISTERS: Mapping[int, Sequence[Operand]] = {
    8: tuple(map(Register8, range(8))),
    16: tuple(map(Register16, range(8))),
    32: tuple(map(Register32, range(8))),
}
SEGMENTS: Sequence[Operand] = tuple([SegmentOperand(index & 7) for index in range(16)])  # REX.R is ignored
CONTROLS: Sequence[Operand] = tuple(map(ControlRegister, range(9)))
DEBUGS: Sequence[Operand] = tuple(map(DebugRegister, range(8)))
DEFINED_CONTROLS = (0, 2, 3, 4, 8)
MANDATORY = frozenset({0x66, 0xF3})
"""Prefixes that belong to an opcode."""

# What is to be done for one operand: a kind and its argument, resolved for one operand size.
CONSTANT, RM, REG, LOW, IMMEDIATE, SIGNED, RELATIVE, OFFSET, FAR, PLUS = range(10)

Part: TypeAlias = "tuple[int, Sequence[Operand], int]"


class Form(NamedTuple):
    """A row resolved for one operand size: a leaf of the opcode maps."""

    row: Row
    size: int
    parts: tuple[Part, ...]
    special: bool  # its prefixes matter, or it has a third opcode byte


Group: TypeAlias = "list[Form | None]"
Entry: TypeAlias = "Form | Group | None"
Map: TypeAlias = "list[Entry]"

_WIDTHS = {"b": 8, "w": 16, "q": 64, "dq": 128}


@cache
def operand_width(code: str, size: int) -> int:
    """Return the width in bits of an operand with this code under an operand size of `size`."""
    letter = code[1:]
    if letter in _WIDTHS:
        return _WIDTHS[letter]
    if letter in ("v", "x", "r"):
        return size
    if letter == "z":
        return min(size, 32)
    if letter == "y":
        return max(size, 32)
    return {"p": 16 + size, "a": 2 * size, "s": 0, "": 0}[letter]


@cache
def _part(code: str, size: int, low: int, encoding: str) -> Part:
    """Resolve one operand code; `low` is the register number in the opcode's low bits."""
    registers_of = _registers_of(encoding)
    if code in FIXED:
        return CONSTANT, (_fixed(code, size, registers_of),), 0
    letter, width = code[0], operand_width(code, size)
    registers = registers_of.get(width, ())
    if letter == "Z":
        return (PLUS, registers, low) if encoding == REX else (CONSTANT, (registers[low],), 0)
    if letter in "EM":
        return RM, registers, 16 if code == "Er" else width
    if letter == "I":
        if code == "Ix":
            return SIGNED, (), 8
        return IMMEDIATE if code != "Iz" or size < 64 else SIGNED, (), width
    kind, registers = {
        "A": (FAR, ()),
        "C": (REG, CONTROLS),
        "D": (REG, DEBUGS),
        "G": (REG, registers),
        "J": (RELATIVE, ()),
        "O": (OFFSET, ()),
        "R": (LOW, registers),
        "S": (REG, SEGMENTS),
    }[letter]
    return kind, registers, size if letter == "A" else width


@cache
def _registers_of(encoding: str) -> Mapping[int, Sequence[Operand]]:
    """Return the general registers by width. Without REX, byte registers 4 to 7 are `ah ch dh bh`."""
    if encoding == LEGACY:
        return REGISTERS
    registers = {size: tuple([general_register_64(index, size) for index in range(16)]) for size in (8, 16, 32, 64)}
    return registers if encoding == REX else {**registers, 8: REGISTERS[8]}


def _fixed(code: str, size: int, registers_of: Mapping[int, Sequence[Operand]]) -> Operand:
    """Return the operand that a fixed code names."""
    if code in SEGMENT_NAMES_UPPER:
        return SEGMENTS[SEGMENT_NAMES_UPPER[code]]
    return {
        "AL": registers_of[8][EAX],
        "CL": registers_of[8][ECX],
        "DX": registers_of[16][EDX],
        "eAX": registers_of[size][EAX],
        "1": Immediate(1, 8),
    }[code]


SEGMENT_NAMES_UPPER = {name.upper(): n for n, name in enumerate(SEGMENT_NAMES)}


def _allowed_modrm(row: Row) -> list[range]:
    """Return the ranges of ModRM values that select this row."""
    letters = {code[0] for code in row.operands if code not in FIXED}
    mods = range(3) if "M" in letters else range(4)
    if row.extension >= 0:
        registers: Sequence[int] = (row.extension,)
    elif "C" in letters:
        registers = DEFINED_CONTROLS[:-1]  # CR8 is CR0 with REX.R
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
    extended : dict
        Entries of one-byte opcodes that are another instruction with REX.B.
    prefixed : dict
        What a mandatory prefix makes of an opcode after 0F that is an instruction without it, too: by prefix, opcode byte
        and ModRM.
    """

    __slots__ = ("encoding", "extended", "one", "prefixed", "repeated", "size", "two")

    def __init__(self, size: int, address_size: int, encoding: str = LEGACY) -> None:
        self.size = size
        self.encoding = encoding
        self.one: Map = [None] * 256
        self.two: Map = [None] * 256
        self.repeated: dict[int, Form] = {}
        self.extended: dict[int, Form] = {}
        self.prefixed: dict[tuple[int, int, int], Form] = {}
        bits = size if encoding == LEGACY else 64
        for row in ROWS:
            if row.size in (0, 8, size) and row.address_size in (0, address_size) and row.operand_sizes(bits):
                self.add(row)

    def add(self, row: Row) -> None:
        """Enter a row; places already taken stay as they are."""
        opcode = row.opcode[row.opcode[0] == 0x66 :]
        opcode_map = self.one
        if len(row.opcode) == 3 and row.opcode[0] in MANDATORY:
            form = self._form(row, 0)
            for values in _allowed_modrm(row):
                self.prefixed |= {(row.opcode[0], row.opcode[2], modrm): form for modrm in values}
            return
        if opcode[0] == 0x0F:
            opcode, opcode_map = opcode[1:], self.two
        first = opcode[0]
        if first == 0xF3:
            self.repeated[opcode[1]] = self._form(row, 0)
        elif row.has_modrm or len(opcode) == 2:
            group = opcode_map[first]
            if not isinstance(group, list):
                group = opcode_map[first] = [None] * 256
            form = self._form(row, 0)
            for values in [range(opcode[1], opcode[1] + 1)] if len(opcode) == 2 else _allowed_modrm(row):
                places = slice(values.start, values.stop)
                group[places] = [taken or form for taken in group[places]]
        elif any(code[0] == "Z" for code in row.operands):
            for low in range(8):
                form = self._form(row, low)
                if opcode_map[first + low]:
                    self.extended[first + low] = form
                else:
                    opcode_map[first + low] = form
        else:
            opcode_map[first] = self._form(row, 0)

    def _form(self, row: Row, low: int) -> Form:
        size = self.size
        if self.encoding != LEGACY:
            sizes = row.operand_sizes(64)
            size = size if size in sizes else sizes[0]
        elif row.operands and row.operands[0][1:] == "y":
            size = 32
        parts = tuple([_part(code, size, low, self.encoding) for code in row.operands])
        special = row.bare or bool(row.repeat) or (row.opcode[0] == 0x66 and len(row.opcode) > 3)
        return Form(row, 8 if row.size == 8 else size, parts, special)


class _MapsOnDemand(dict[tuple[int, int], Maps]):
    """Opcode maps by operand size and address size, unfolded when code first needs them."""

    def __missing__(self, key: tuple[int, int]) -> Maps:
        size, address_size = key
        maps = self[key] = Maps(size, address_size)
        return maps


class _LongMapsOnDemand(dict[tuple[int, int, bool], Maps]):
    """Opcode maps of 64-bit code by operand size, address size and whether there is a REX prefix."""

    def __missing__(self, key: tuple[int, int, bool]) -> Maps:
        size, address_size, rex = key
        maps = self[key] = Maps(size, address_size, REX if rex else LONG)
        return maps


MAPS = _MapsOnDemand()
MAPS_64 = _LongMapsOnDemand()
