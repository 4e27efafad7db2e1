"""Decoder: from bytes to an `Instruction`, for 16-bit and 32-bit code.

The table is unfolded once into opcode maps, one for each pair of operand size and address size. A byte selects an
entry; an entry with a ModRM byte is itself a list by that byte's value, so that opcode extensions, memory-only
and register-only forms and reserved register numbers are all one lookup: an empty place is an undefined opcode.

Simplified: the prefixes 66, 67, F2, F3, LOCK and the segment overrides are taken in any order and number, the last
of a kind rules, as processors do. Where to read more: Intel SDM vol. 2, chapter 2 (formats, ModRM and SIB tables
2-1 to 2-3) and appendix A (opcode maps).
"""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from vmlab.isa.x86.instruction import FIXED, Instruction, Row
from vmlab.isa.x86.operands import (
    MASKS,
    ControlRegister,
    DebugRegister,
    FarPointer,
    Immediate,
    Memory,
    Operand,
    Register8,
    Register16,
    Register32,
    Relative,
    SegmentOperand,
)
from vmlab.isa.x86.registers import CS, DS, EAX, EBP, EBX, ECX, EDI, EDX, ESI, ESP, SEGMENT_NAMES, SS
from vmlab.isa.x86.table import ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MAXIMUM_LENGTH", "DecodeError", "InvalidOpcode", "TooLong", "Truncated", "decode"]

MAXIMUM_LENGTH = 15
"""Bytes an instruction may have, prefixes included (SDM vol. 2, 2.3.11)."""


class DecodeError(Exception):
    """Bytes that are no instruction; the processor, not the user, did something wrong."""


class InvalidOpcode(DecodeError):  # noqa: N818 - named after the exception
    """The encoding is undefined: the processor raises #UD."""


class Truncated(DecodeError):  # noqa: N818 - says what the bytes are
    """More bytes are needed than were given."""


class TooLong(DecodeError):  # noqa: N818 - says what the bytes are
    """The instruction exceeds 15 bytes: the processor raises #GP(0)."""


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

    def __init__(self, size: int) -> None:
        self.size = size
        self.one: Map = [None] * 256
        self.two: Map = [None] * 256
        self.repeated: dict[int, Form] = {}
        for row in ROWS:
            if row.size in (0, 8, size) and not row.address_size:
                self.add(row)

    def for_address_size(self, address_size: int) -> Maps:
        """Return these maps together with the rows that demand this address size."""
        maps = copy(self)
        maps.one = self.one.copy()
        for row in ROWS:
            if row.address_size == address_size:
                maps.add(row)
        return maps

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


MAPS = {
    (size, address_size): maps.for_address_size(address_size)
    for size, maps in ((16, Maps(16)), (32, Maps(32)))
    for address_size in (16, 32)
}

SEGMENT_PREFIXES = {0x26: 0, 0x2E: 1, 0x36: 2, 0x3E: 3, 0x64: 4, 0x65: 5}
_PREFIXES = frozenset({*SEGMENT_PREFIXES, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
_REPEATS = {0: "", 0xF2: "repne", 0xF3: "rep"}

# Base and index of 16-bit addressing by ModRM.rm (SDM vol. 2, table 2-1), and the default segment.
BASES_16 = (
    (EBX, ESI, DS), (EBX, EDI, DS), (EBP, ESI, SS), (EBP, EDI, SS),
    (ESI, -1, DS), (EDI, -1, DS), (EBP, -1, SS), (EBX, -1, DS),
)  # fmt: skip


def decode(code: bytes, bits: int = 32) -> Instruction:
    """Decode the instruction at the start of `code`.

    Parameters
    ----------
    code : bytes
        At least the instruction; more may follow, 15 bytes are always enough.
    bits : int
        16 or 32, the default operand and address size of the code segment (its D bit).

    Raises
    ------
    InvalidOpcode
        The bytes are no instruction whatever follows them.
    Truncated
        The bytes given are the beginning of an instruction.
    TooLong
        The instruction would have more than 15 bytes.

    Examples
    --------
    >>> decode(bytes.fromhex("83c005")).mnemonic
    'add'
    >>> decode(bytes.fromhex("83c005")).operands
    (Register32(0, 32), Immediate(5, 32))
    """
    try:
        return _decode(code, bits)
    except IndexError:
        if len(code) >= MAXIMUM_LENGTH:
            raise TooLong(f"more than {MAXIMUM_LENGTH} bytes") from None
        raise Truncated(f"{len(code)} bytes are not enough") from None


class Prefixes(NamedTuple):
    """What the prefixes of an instruction say, and the first opcode byte with the position after it."""

    size: int
    address_size: int
    segment: int
    repeat: int
    lock: bool
    operand_size_prefix: bool
    opcode: int
    position: int


def _prefixes(code: bytes, bits: int) -> Prefixes:
    size = address_size = bits
    segment = -1
    repeat = 0
    lock = operand_size_prefix = False
    for position, byte in enumerate(code):
        if byte not in _PREFIXES:
            return Prefixes(size, address_size, segment, repeat, lock, operand_size_prefix, byte, position + 1)
        if position == MAXIMUM_LENGTH - 1:
            break
        if byte == 0x66:
            size = 48 - bits
            operand_size_prefix = True
        elif byte == 0x67:
            address_size = 48 - bits
        elif byte == 0xF0:
            lock = True
        elif byte >= 0xF2:
            repeat = byte
        else:
            segment = SEGMENT_PREFIXES[byte]
    raise IndexError


def _decode(code: bytes, bits: int) -> Instruction:
    size = address_size = bits
    segment = -1
    repeat = 0
    lock = operand_size_prefix = False
    opcode = code[0]
    position = 1
    if opcode in _PREFIXES:
        size, address_size, segment, repeat, lock, operand_size_prefix, opcode, position = _prefixes(code, bits)
    maps = MAPS[size, address_size]
    if opcode == 0x0F:
        entry = maps.two[code[position]]
        position += 1
    elif repeat == 0xF3:
        entry = maps.repeated.get(opcode) or maps.one[opcode]
    else:
        entry = maps.one[opcode]
    modrm = 0
    if isinstance(entry, list):
        modrm = code[position]
        position += 1
        form = entry[modrm]
    else:
        form = entry
    if form is None:
        raise InvalidOpcode(f"undefined opcode {code[:position].hex(' ')}")
    row, form_size, parts, special = form
    operands, position = _operands(code, position, modrm, parts, size, address_size, segment)
    if position > MAXIMUM_LENGTH:
        raise TooLong(f"more than {MAXIMUM_LENGTH} bytes")
    if position > len(code):
        raise Truncated(f"{len(code)} bytes of {position}")
    if lock and not (row.lockable and type(operands[0]) is Memory):
        raise InvalidOpcode(f"LOCK is not allowed with {code[:position].hex(' ')}")
    repeat_name = ""
    if special:
        if row.bare and (repeat or operand_size_prefix):
            raise InvalidOpcode(f"no such prefix is allowed with {code[:position].hex(' ')}")
        if row.repeat:
            repeat_name = _REPEATS[repeat]
    return Instruction(
        row, tuple(operands), form_size, address_size, position, repeat_name, lock, segment, code[:position]
    )


def _operands(
    code: bytes, position: int, modrm: int, parts: tuple[Part, ...], size: int, address_size: int, segment: int
) -> tuple[list[Operand], int]:
    """Build the operands and return them with the position after their bytes."""
    operands: list[Operand] = []
    for kind, registers, width in parts:
        if kind == RM:
            if modrm >= 0xC0:
                operands.append(registers[modrm & 7])
            else:
                memory = _memory_16 if address_size == 16 else _memory_32
                operand, position = memory(code, position, modrm, width, segment)
                operands.append(operand)
        elif kind == REG:
            operands.append(registers[modrm >> 3 & 7])
        elif kind == CONSTANT:
            operands.append(registers[0])
        elif kind == LOW:
            operands.append(registers[modrm & 7])
        elif kind == OFFSET:
            end = position + (address_size >> 3)
            offset = int.from_bytes(code[position:end], "little")
            operands.append(Memory(DS if segment < 0 else segment, -1, -1, 1, offset, width, address_size))
            position = end
        else:
            end = position + (width >> 3)
            value = int.from_bytes(code[position:end], "little", signed=kind != IMMEDIATE)
            position = end
            if kind == RELATIVE:
                operands.append(Relative(value, size))
            elif kind == FAR:
                position += 2
                selector = int.from_bytes(code[end:position], "little")
                operands.append(FarPointer(selector, value & MASKS[width], width))
            else:
                operands.append(Immediate(value, size if kind == SIGNED else width))
    return operands, position


def _memory_32(code: bytes, position: int, modrm: int, width: int, segment: int) -> tuple[Memory, int]:
    """Decode the ModRM memory operand of 32-bit addressing whose SIB byte or displacement is at `position`."""
    mod = modrm >> 6
    base = modrm & 7
    index, scale = -1, 1
    if base == 4:
        sib = code[position]
        position += 1
        base = sib & 7
        if sib & 0x38 != 0x20:
            index = sib >> 3 & 7
            scale = 1 << (sib >> 6)
    if base == 5 and mod == 0:
        base = -1
        mod = 2
    if segment < 0:
        segment = SS if base in (ESP, EBP) else DS
    displacement = 0
    if mod == 1:
        displacement = code[position]
        position += 1
        if displacement >= 0x80:
            displacement -= 0x100
    elif mod == 2:
        displacement = int.from_bytes(code[position : position + 4], "little")
        position += 4
    return Memory(segment, base, index, scale, displacement, width, 32), position


def _memory_16(code: bytes, position: int, modrm: int, width: int, segment: int) -> tuple[Memory, int]:
    """Decode the ModRM memory operand of 16-bit addressing whose displacement is at `position`."""
    mod = modrm >> 6
    base, index, default_segment = BASES_16[modrm & 7]
    if modrm & 0xC7 == 6:
        base, default_segment = -1, DS
        mod = 2
    if segment < 0:
        segment = default_segment
    displacement = 0
    if mod == 1:
        displacement = code[position]
        position += 1
        if displacement >= 0x80:
            displacement -= 0x100
    elif mod == 2:
        displacement = int.from_bytes(code[position : position + 2], "little")
        position += 2
    return Memory(segment, base, index, 1, displacement, width, 16), position
