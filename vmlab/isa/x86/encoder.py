"""Encoder: from a row of the table and its operands to bytes, for 16-bit and 32-bit code.

It encodes the one row it is given; to choose among rows is the assembler's task. The order of prefixes is NASM's:
REP, LOCK, segment, operand size, address size.

Where to read more: Intel SDM vol. 2, chapter 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.decoder import BASES_16, SEGMENT_PREFIXES
from vmlab.isa.x86.instruction import FIXED, Instruction, Row
from vmlab.isa.x86.opcode_maps import operand_width
from vmlab.isa.x86.operands import FarPointer, Immediate, Memory, Operand, Relative
from vmlab.isa.x86.registers import DS, EBP, ESP, SS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["encode", "encode_instruction"]

_PREFIX_OF_SEGMENT = {segment: prefix for prefix, segment in SEGMENT_PREFIXES.items()}
_REPEAT_PREFIX = {"": b"", "rep": b"\xf3", "repne": b"\xf2"}
_RM_16 = {(base, index): rm for rm, (base, index, _) in enumerate(BASES_16)}
_SCALE_BITS = {1: 0, 2: 1, 4: 2, 8: 3}


def encode(  # noqa: PLR0913 - one keyword for each part of the format
    row: Row,
    operands: Sequence[Operand] = (),
    *,
    bits: int = 32,
    size: int = 0,
    address_size: int = 0,
    segment: int = -1,
    repeat: str = "",
    lock: bool = False,
    displacement_size: int = 0,
) -> bytes:
    """Encode one row of the table with these operands.

    Parameters
    ----------
    row : Row
        From `vmlab.isa.x86.table.ROWS`.
    operands : sequence of Operand
        One for each operand code of the row, of the kind it asks for.
    bits : int
        16 or 32, the default sizes of the code segment.
    size : int
        Operand size of 16 or 32 bits; 0 (or 8, for byte forms) for the default.
    address_size : int
        16 or 32; 0 for that of the memory operand, if any, or the default.
    segment : int
        Segment register of an override prefix, or -1 for one only where the memory operand needs it.
    repeat : str
        `""`, `"rep"` or `"repne"`.
    lock : bool
        Whether to place a LOCK prefix.
    displacement_size : int
        8, 16 or 32 to force the width of a displacement, 0 for the shortest.

    Raises
    ------
    OptionError
        If the operands do not fit the row.

    Examples
    --------
    >>> from vmlab.isa.x86.table import rows_of
    >>> from vmlab.isa.x86.operands import Register32
    >>> encode(rows_of("bswap")[0], [Register32(3)]).hex(" ")
    '0f cb'
    """
    if len(operands) != len(row.operands):
        raise OptionError(f"{row.mnemonic} takes {len(row.operands)} operands here, not {len(operands)}")
    memory = next((operand for operand in operands if isinstance(operand, Memory)), None)
    if not address_size:
        address_size = row.address_size or (memory.address_size if memory else bits)
    if segment < 0 and memory is not None and memory.segment != default_segment(memory):
        segment = memory.segment
    operand_size = row.size if row.size in (16, 32) else size
    fixed_size = row.size == 8 or bool(row.operands and row.operands[0][1:] == "d")

    prefixes = bytearray(_REPEAT_PREFIX[repeat])
    if lock:
        prefixes.append(0xF0)
    if segment >= 0:
        prefixes.append(_PREFIX_OF_SEGMENT[segment])
    if operand_size in (16, 32) and operand_size != bits and not fixed_size:
        prefixes.append(0x66)
    if address_size != bits:
        prefixes.append(0x67)

    opcode = bytearray(row.opcode)
    register = max(row.extension, 0)
    rm: Operand | None = None
    tail = b""
    for code, operand in zip(row.operands, operands, strict=True):
        if code in FIXED:
            continue
        letter = code[0]
        if letter in "EMR":
            rm = operand
        elif letter in "GSCD":
            register = _number(operand)
        elif letter == "Z":
            opcode[-1] |= _number(operand)
        else:
            tail += _constant(code, operand, operand_size or bits, address_size)
    modrm = b"" if rm is None else _modrm(register, rm, displacement_size)
    return bytes(prefixes + opcode) + modrm + tail


def encode_instruction(instruction: Instruction, bits: int = 32) -> bytes:
    """Encode a decoded instruction again: the same row and operands, each in its shortest form.

    >>> from vmlab.isa.x86.decoder import decode
    >>> encode_instruction(decode(bytes.fromhex("8b8304000000"))).hex(" ")
    '8b 43 04'
    """
    return encode(
        instruction.row,
        instruction.operands,
        bits=bits,
        size=instruction.size,
        address_size=instruction.address_size,
        segment=instruction.segment,
        repeat=instruction.repeat,
        lock=instruction.lock,
    )


def default_segment(memory: Memory) -> int:
    """Return the segment register that a memory operand uses without an override."""
    if memory.address_size == 16:
        return SS if memory.base == EBP else DS
    return SS if memory.base in (ESP, EBP) else DS


def _number(operand: Operand) -> int:
    index = getattr(operand, "index", None)
    if not isinstance(index, int) or isinstance(operand, Memory):
        raise OptionError(f"a register is needed here, not {operand!r}")
    return index


def _constant(code: str, operand: Operand, size: int, address_size: int) -> bytes:
    """Encode what stands behind ModRM: an immediate, displacement, offset or far pointer."""
    if isinstance(operand, Immediate):
        width = 8 if code == "Ix" else operand_width(code, size)
        return (operand.value & (1 << width) - 1).to_bytes(width // 8, "little")
    if isinstance(operand, Relative):
        width = 8 if code == "Jb" else size
        if not -(1 << width - 1) <= operand.displacement < 1 << width - 1:
            raise OptionError(f"a displacement of {operand.displacement} does not fit in {width} bits")
        return operand.displacement.to_bytes(width // 8, "little", signed=True)
    if isinstance(operand, FarPointer):
        return operand.offset.to_bytes(size // 8, "little") + operand.selector.to_bytes(2, "little")
    if isinstance(operand, Memory) and operand.base < 0 and operand.index < 0:
        return operand.displacement.to_bytes(address_size // 8, "little")
    raise OptionError(f"operand {operand!r} does not fit the code {code}")


def _modrm(register: int, rm: Operand, displacement_size: int) -> bytes:
    """Encode ModRM, SIB and displacement."""
    if not isinstance(rm, Memory):
        return bytes([0xC0 | register << 3 | _number(rm)])
    encoder = _modrm_16 if rm.address_size == 16 else _modrm_32
    return encoder(register << 3, rm, displacement_size)


def _displacement(memory: Memory, wanted: int, *, zero_allowed: bool) -> tuple[int, bytes]:
    """Return ModRM.mod and the bytes of the displacement: none, one or all."""
    full = memory.address_size
    signed = memory.displacement - (memory.displacement >> full - 1 << full)
    if wanted == 0 and signed == 0 and zero_allowed:
        return 0x00, b""
    if wanted == 8 or (wanted == 0 and -128 <= signed <= 127):
        if not -128 <= signed <= 127:
            raise OptionError(f"a displacement of {signed} does not fit in 8 bits")
        return 0x40, bytes([signed & 0xFF])
    return 0x80, memory.displacement.to_bytes(full // 8, "little")


def _modrm_32(register: int, memory: Memory, displacement_size: int) -> bytes:
    base, index = memory.base, memory.index
    if index == ESP or memory.scale not in _SCALE_BITS:
        raise OptionError(f"{memory!r} cannot be encoded: esp is no index, and a scale is 1, 2, 4 or 8")
    if base < 0 and index < 0:
        return bytes([register | 5]) + memory.displacement.to_bytes(4, "little")
    if base < 0:
        sib = _SCALE_BITS[memory.scale] << 6 | index << 3 | 5
        return bytes([register | 4, sib]) + memory.displacement.to_bytes(4, "little")
    mod, displacement = _displacement(memory, displacement_size, zero_allowed=base != EBP)
    if index < 0 and base != ESP:
        return bytes([mod | register | base]) + displacement
    sib = _SCALE_BITS[memory.scale] << 6 | (index if index >= 0 else 4) << 3 | base
    return bytes([mod | register | 4, sib]) + displacement


def _modrm_16(register: int, memory: Memory, displacement_size: int) -> bytes:
    if memory.base < 0 and memory.index < 0:
        return bytes([register | 6]) + memory.displacement.to_bytes(2, "little")
    rm = _RM_16.get((memory.base, memory.index))
    if rm is None or memory.scale != 1:
        raise OptionError(f"{memory!r} cannot be encoded: 16-bit addresses are [bx|bp] + [si|di] + displacement")
    mod, displacement = _displacement(memory, displacement_size, zero_allowed=rm != 6)
    return bytes([mod | register | rm]) + displacement
