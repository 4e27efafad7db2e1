"""Decoder of 64-bit code: what REX, RIP-relative addresses and the prefixes without effect there change.

A REX prefix counts only directly before the opcode. It gives a fourth bit to each register number, makes `spl bpl
sil dil` of `ah ch dh bh`, and REX.W rules over 66. Of the segment overrides those of FS and GS alone have an effect.
An operand size of 64 bits reads constants of 32 bits, sign-extended, save where `mov` loads a register.

Where to read more: Intel SDM vol. 2, 2.2.1 (REX prefixes) and appendix A (superscripts i64, o64, d64, f64).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.decoder import (
    MAXIMUM_LENGTH,
    InvalidOpcode,
    TooLong,
    Truncated,
    modrm_after_third_byte,
    with_prefix,
)
from vmlab.isa.x86.instruction import Instruction
from vmlab.isa.x86.opcode_maps import (
    CONSTANT,
    IMMEDIATE,
    LOW,
    MAPS_64,
    OFFSET,
    PLUS,
    REG,
    RELATIVE,
    RM,
    SIGNED,
    Form,
    Part,
)
from vmlab.isa.x86.operands import Immediate, Memory, Operand, Relative, RelativeMemory
from vmlab.isa.x86.registers import DS, EBP, ESP, FS, GS, SS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["decode_64"]

_SEGMENTS = {0x64: FS, 0x65: GS}
_IGNORED = frozenset({0x26, 0x2E, 0x36, 0x3E})
_PREFIXES = frozenset({*range(0x40, 0x50), *_SEGMENTS, *_IGNORED, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
_REPEATS = {0: "", 0xF2: "repne", 0xF3: "rep"}


class Prefixes(NamedTuple):
    """What the prefixes of an instruction say, and the first opcode byte with the position after it."""

    operand_size_prefix: bool
    address_size: int
    segment: int
    repeat: int
    lock: bool
    rex: int
    opcode: int
    position: int


def _prefixes(code: bytes) -> Prefixes:
    address_size, segment = 64, -1
    repeat = rex = 0
    lock = operand_size_prefix = False
    for position, byte in enumerate(code):
        if byte not in _PREFIXES:
            return Prefixes(operand_size_prefix, address_size, segment, repeat, lock, rex, byte, position + 1)
        if position == MAXIMUM_LENGTH - 1:
            break
        rex = 0
        if byte & 0xF0 == 0x40:
            rex = byte
        elif byte == 0x66:
            operand_size_prefix = True
        elif byte == 0x67:
            address_size = 32
        elif byte == 0xF0:
            lock = True
        elif byte >= 0xF2:
            repeat = byte
        elif byte in _SEGMENTS:
            segment = _SEGMENTS[byte]
    raise IndexError


def decode_64(code: bytes) -> Instruction:
    """Decode an instruction of 64-bit code, as `vmlab.isa.x86.decoder.decode` does; an IndexError where bytes lack."""
    operand_size_prefix, address_size, segment, repeat, lock, rex, opcode, position = _prefixes(code)
    size = 64 if rex & 8 else 16 if operand_size_prefix else 32
    maps = MAPS_64[size, address_size, rex != 0]
    if opcode == 0x0F:
        entry = maps.two[code[position]]
        position += 1
    elif repeat == 0xF3 and opcode in maps.repeated:  # PAUSE also with REX.B, as processors have it
        entry = maps.repeated[opcode]
    elif rex & 1 and opcode in maps.extended:
        entry = maps.extended[opcode]
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
    repeat_name = ""
    if form.special:
        if form.row.bare and (repeat or operand_size_prefix):
            form = with_prefix(maps, code, position, repeat or 0x66)
        elif form.row.repeat:
            repeat_name = _REPEATS[repeat]
        elif not form.row.bare:
            modrm = modrm_after_third_byte(code, position, repeat, operand_size_prefix)
            position += 1
    operands, position = _operands(code, position, modrm, form, address_size, segment, rex)
    if position > MAXIMUM_LENGTH:
        raise TooLong(f"more than {MAXIMUM_LENGTH} bytes")
    if position > len(code):
        raise Truncated(f"{len(code)} bytes of {position}")
    if lock and not (form.row.lockable and isinstance(operands[0], Memory)):
        raise InvalidOpcode(f"LOCK is not allowed with {code[:position].hex(' ')}")
    return Instruction(
        form.row, tuple(operands), form.size, address_size, position, repeat_name, lock, segment, code[:position]
    )


def _operands(
    code: bytes, position: int, modrm: int, form: Form, address_size: int, segment: int, rex: int
) -> tuple[list[Operand], int]:
    """Build the operands and return them with the position after their bytes."""
    operands: list[Operand] = []
    for part in form.parts:
        kind, registers, width = part
        if kind == CONSTANT:
            operands.append(registers[0])
        elif kind == REG:
            operands.append(_register(registers, modrm >> 3 & 7 | (rex & 4) << 1))
        elif kind == LOW or (kind == RM and modrm >= 0xC0):
            operands.append(registers[modrm & 7 | (rex & 1) << 3])
        elif kind == RM:
            memory, position = _memory(code, position, modrm, width, address_size, segment, rex)
            operands.append(memory)
        elif kind == PLUS:
            operands.append(registers[width | (rex & 1) << 3])
        else:
            operand, position = _constant(code, position, part, form, address_size, segment)
            operands.append(operand)
    return operands, position


def _register(registers: Sequence[Operand], index: int) -> Operand:
    """Return a register by ModRM.reg and REX.R, which may lead beyond the control and debug registers there are."""
    if index >= len(registers):
        raise InvalidOpcode(f"there is no register of number {index} of this kind")
    return registers[index]


def _constant(
    code: bytes, position: int, part: Part, form: Form, address_size: int, segment: int
) -> tuple[Operand, int]:
    """Decode an immediate, displacement or offset at `position`."""
    kind, _, width = part
    if kind == OFFSET:
        end = position + (address_size >> 3)
        offset = int.from_bytes(code[position:end], "little")
        return Memory(DS if segment < 0 else segment, -1, -1, 1, offset, width, address_size), end
    end = position + (width >> 3)
    value = int.from_bytes(code[position:end], "little", signed=kind != IMMEDIATE)
    if kind == RELATIVE:
        return Relative(value, form.size), end
    return Immediate(value, form.size if kind == SIGNED else width), end


def _memory(
    code: bytes, position: int, modrm: int, width: int, address_size: int, segment: int, rex: int
) -> tuple[Memory, int]:
    """Decode the ModRM memory operand whose SIB byte or displacement is at `position`."""
    mod = modrm >> 6
    low = modrm & 7
    index, scale = -1, 1
    if low == 4:
        sib = code[position]
        position += 1
        low = sib & 7
        index = sib >> 3 & 7 | (rex & 2) << 2
        if index == ESP:
            index = -1
        else:
            scale = 1 << (sib >> 6)
    base = low | (rex & 1) << 3
    relative = False
    if low == EBP and mod == 0:
        relative = modrm & 7 == EBP
        base = -1
        mod = 2
    if segment < 0:
        segment = SS if base in (ESP, EBP) else DS
    displacement = 0
    if mod:
        end = position + (1 if mod == 1 else 4)
        displacement = int.from_bytes(code[position:end], "little", signed=True)
        if end > len(code):
            raise IndexError
        position = end
    if relative:
        return RelativeMemory(segment, displacement, width, address_size), position
    return Memory(segment, base, index, scale, displacement, width, address_size), position
