"""Decoder: from bytes to an `Instruction`; here for 16-bit and 32-bit code, in `decoder_64` for 64-bit code.

Prefixes first, then the opcode, which `vmlab.isa.x86.opcode_maps` turns into a row and the list of what to read
for each operand.

Simplified: the prefixes 66, 67, F2, F3, LOCK and the segment overrides are taken in any order and number, the last
of a kind rules, as processors do. Where to read more: Intel SDM vol. 2, chapter 2 (formats, ModRM and SIB tables
2-1 to 2-3).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.instruction import Instruction
from vmlab.isa.x86.opcode_maps import CONSTANT, FAR, IMMEDIATE, LOW, MAPS, OFFSET, REG, RELATIVE, RM, SIGNED, Part
from vmlab.isa.x86.operands import MASKS, FarPointer, Immediate, Memory, Operand, Relative
from vmlab.isa.x86.registers import DS, EBP, EBX, EDI, ESI, ESP, SS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.opcode_maps import Form, Maps

__all__ = [
    "MAXIMUM_LENGTH",
    "DecodeError",
    "InvalidOpcode",
    "TooLong",
    "Truncated",
    "decode",
    "is_coprocessor",
    "modrm_after_third_byte",
]

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


SEGMENT_PREFIXES = {0x26: 0, 0x2E: 1, 0x36: 2, 0x3E: 3, 0x64: 4, 0x65: 5}
_PREFIXES = frozenset({*SEGMENT_PREFIXES, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
LOCK = 0xF0
_REPEATS = {0: "", 0xF2: "repne", 0xF3: "rep"}

# Base and index of 16-bit addressing by ModRM.rm (SDM vol. 2, table 2-1), and the default segment.
BASES_16 = (
    (EBX, ESI, DS), (EBX, EDI, DS), (EBP, ESI, SS), (EBP, EDI, SS),
    (ESI, -1, DS), (EDI, -1, DS), (EBP, -1, SS), (EBX, -1, DS),
)  # fmt: skip


def is_coprocessor(code: bytes, bits: int) -> bool:
    """Say whether an undefined instruction is one of the x87 unit: opcodes D8 to DF, without LOCK.

    >>> is_coprocessor(bytes.fromhex("dbe3"), 32), is_coprocessor(bytes.fromhex("48dbe3"), 64)
    (True, True)
    """
    prefixes = _PREFIXES - {LOCK} | (set(range(0x40, 0x50)) if bits == 64 else set())
    return next((0xD8 <= byte <= 0xDF for byte in code if byte not in prefixes), False)


def decode(code: bytes, bits: int = 32) -> Instruction:
    """Decode the instruction at the start of `code`.

    Parameters
    ----------
    code : bytes
        At least the instruction; more may follow, 15 bytes are always enough.
    bits : int
        16 or 32, the default operand and address size of the code segment (its D bit), or 64 (its L bit).

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
        return _decoder_64()(code) if bits == 64 else _decode(code, bits)
    except IndexError:
        if len(code) >= MAXIMUM_LENGTH:
            raise TooLong(f"more than {MAXIMUM_LENGTH} bytes") from None
        raise Truncated(f"{len(code)} bytes are not enough") from None


@cache
def _decoder_64() -> Callable[[bytes], Instruction]:
    """Return the decoder of 64-bit code, imported when there is some, so that `import vmlab` stays quick."""
    decoder: Callable[[bytes], Instruction] = import_module("vmlab.isa.x86.decoder_64").decode_64
    return decoder


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
    repeat_name = ""
    if special:
        if row.bare and (repeat or operand_size_prefix):
            row, form_size, parts, _ = with_prefix(maps, code, position, repeat or 0x66)
        elif row.repeat:
            repeat_name = _REPEATS[repeat]
        elif not row.bare:
            modrm = modrm_after_third_byte(code, position, repeat, operand_size_prefix)
            position += 1
    operands, position = _operands(code, position, modrm, parts, size, address_size, segment)
    if position > MAXIMUM_LENGTH:
        raise TooLong(f"more than {MAXIMUM_LENGTH} bytes")
    if position > len(code):
        raise Truncated(f"{len(code)} bytes of {position}")
    if lock and not (row.lockable and type(operands[0]) is Memory):
        raise InvalidOpcode(f"LOCK is not allowed with {code[:position].hex(' ')}")
    return Instruction(
        row, tuple(operands), form_size, address_size, position, repeat_name, lock, segment, code[:position]
    )


def with_prefix(maps: Maps, code: bytes, position: int, prefix: int) -> Form:
    """Return what a prefix makes of an opcode, of which `position` is the end, that allows none itself.

    Raises
    ------
    InvalidOpcode
        Nothing.
    """
    form = maps.prefixed.get((prefix, code[position - 2], code[position - 1]))
    if form is None:
        raise InvalidOpcode(f"no such prefix is allowed with {code[:position].hex(' ')}")
    return form


def modrm_after_third_byte(code: bytes, position: int, repeat: int, operand_size_prefix: bool) -> int:
    """Return the ModRM byte after an opcode of the map 0F 38, whose instructions here need 66 and an operand in memory.

    Raises
    ------
    InvalidOpcode
        If the prefixes or ModRM make it another, undefined instruction.
    """
    if repeat or not operand_size_prefix or code[position] >= 0xC0:
        raise InvalidOpcode(f"undefined opcode {code[:position].hex(' ')}")
    return code[position]


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
