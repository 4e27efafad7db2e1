"""Encoder: from a row of the table and its operands to bytes, for 16-bit, 32-bit and 64-bit code.

It encodes the one row it is given; to choose among rows is the assembler's task. The order of prefixes is NASM's:
REP, LOCK, segment, operand size, address size, those of the opcode, REX.

Where to read more: Intel SDM vol. 2, chapter 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.decoder import BASES_16, SEGMENT_PREFIXES
from vmlab.isa.x86.instruction import FIXED, Instruction, Row
from vmlab.isa.x86.opcode_maps import operand_width
from vmlab.isa.x86.operands import FarPointer, Immediate, Memory, Operand, Register8, Relative, RelativeMemory
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
        16, 32 or 64: the kind of code.
    size : int
        Operand size of 16, 32 or 64 bits; 0 (or 8, for byte forms) for the default.
    address_size : int
        16, 32 or 64; 0 for that of the memory operand, if any, or the default.
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
    operand_size, size_prefix, wide = _operand_size(row, size, bits)

    prefixes = bytearray(_REPEAT_PREFIX[repeat])
    if lock:
        prefixes.append(0xF0)
    if segment >= 0:
        prefixes.append(_PREFIX_OF_SEGMENT[segment])
    prefixes += size_prefix
    if address_size != bits:
        prefixes.append(0x67)

    opcode = bytearray(row.opcode)
    if opcode[0] in (0x66, 0xF3):
        prefixes.append(opcode.pop(0))
    register = max(row.extension, 0)
    plus = 0
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
            plus = _number(operand)
            opcode[-1] |= plus & 7
        else:
            tail += _constant(code, operand, operand_size, address_size)
    if bits == 64:
        prefixes += _rex(operands, wide=wide, register=register, rm=plus if rm is None else rm)
    modrm = b"" if rm is None else _modrm(register & 7, rm, bits, displacement_size)
    return bytes(prefixes + opcode) + modrm + tail


def _operand_size(row: Row, size: int, bits: int) -> tuple[int, bytes, bool]:
    """Return the operand size that a row has when `size` is wanted, the prefix that it needs, and whether REX.W."""
    sizes = row.operand_sizes(bits)
    if not sizes:
        raise OptionError(f"{row.mnemonic} {row.opcode.hex(' ')} is undefined in {bits}-bit code")
    operand_size = row.size if row.size in (16, 32, 64) else size if size in sizes else sizes[0]
    has_own = row.opcode[0] == 0x66 or (row.operands and row.operands[0][1:] == "y")
    if operand_size == sizes[0] or row.size == 8 or has_own:
        return operand_size, b"", False
    return (operand_size, b"", True) if operand_size == 64 else (operand_size, b"\x66", False)


def _rex(operands: Sequence[Operand], *, wide: bool, register: int, rm: Operand | int) -> bytes:
    """Return the REX prefix of 64-bit code if one is needed: W, then the fourth bits of reg, index, and base or rm."""
    index, base = (rm.index, rm.base) if isinstance(rm, Memory) else (0, rm if isinstance(rm, int) else _number(rm))
    if isinstance(rm, RelativeMemory):
        base = 0
    rex = wide << 3 | (register > 7) << 2 | (index > 7) << 1 | (base > 7)
    bytes_of_four = [operand for operand in operands if isinstance(operand, Register8) and operand.index >= 4]
    if any(operand.shift for operand in bytes_of_four) and (rex or not all(operand.shift for operand in bytes_of_four)):
        raise OptionError("ah, ch, dh and bh cannot be encoded beside what needs a REX prefix")
    return bytes([0x40 | rex]) if rex or any(not operand.shift for operand in bytes_of_four) else b""


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
        if width < operand.size == 64 and not -(1 << width - 1) <= _signed(operand.value, 64) < 1 << width - 1:
            raise OptionError(f"{operand.value:#x} is not what {width} bits become when they are sign-extended")
        return (operand.value & (1 << width) - 1).to_bytes(width // 8, "little")
    if isinstance(operand, Relative):
        width = 8 if code == "Jb" else operand_width(code, size)
        if not -(1 << width - 1) <= operand.displacement < 1 << width - 1:
            raise OptionError(f"a displacement of {operand.displacement} does not fit in {width} bits")
        return operand.displacement.to_bytes(width // 8, "little", signed=True)
    if isinstance(operand, FarPointer):
        return operand.offset.to_bytes(size // 8, "little") + operand.selector.to_bytes(2, "little")
    if isinstance(operand, Memory) and operand.base < 0 and operand.index < 0:
        return operand.displacement.to_bytes(address_size // 8, "little")
    raise OptionError(f"operand {operand!r} does not fit the code {code}")


def _signed(value: int, width: int) -> int:
    return value - (value >> width - 1 << width)


def _modrm(register: int, rm: Operand, bits: int, displacement_size: int) -> bytes:
    """Encode ModRM, SIB and displacement."""
    if not isinstance(rm, Memory):
        return bytes([0xC0 | register << 3 | _number(rm) & 7])
    if rm.address_size not in {16: (16, 32), 32: (16, 32), 64: (32, 64)}[bits]:
        raise OptionError(f"{rm!r} cannot be encoded: there are no {rm.address_size}-bit addresses in {bits}-bit code")
    if rm.address_size == 16:
        return _modrm_16(register << 3, rm, displacement_size)
    if isinstance(rm, RelativeMemory):
        return bytes([register << 3 | 5]) + _displacement_32(rm)
    if rm.base < 0 and rm.index < 0 and bits == 64:  # without SIB it would be relative
        return bytes([register << 3 | 4, 0x25]) + _displacement_32(rm)
    return _modrm_32(register << 3, rm, displacement_size)


def _displacement_32(memory: Memory) -> bytes:
    """Return the bytes of a whole displacement, which 64-bit addressing sign-extends."""
    signed = _signed(memory.displacement, memory.address_size)
    if not -(1 << 31) <= signed < 1 << 31:
        raise OptionError(f"a displacement of {signed:#x} does not fit in 32 bits")
    return (signed & 0xFFFFFFFF).to_bytes(4, "little")


def _displacement(memory: Memory, wanted: int, *, zero_allowed: bool) -> tuple[int, bytes]:
    """Return ModRM.mod and the bytes of the displacement: none, one or all."""
    signed = _signed(memory.displacement, memory.address_size)
    if wanted == 0 and signed == 0 and zero_allowed:
        return 0x00, b""
    if wanted == 8 or (wanted == 0 and -128 <= signed <= 127):
        if not -128 <= signed <= 127:
            raise OptionError(f"a displacement of {signed} does not fit in 8 bits")
        return 0x40, bytes([signed & 0xFF])
    if memory.address_size == 16:
        return 0x80, memory.displacement.to_bytes(2, "little")
    return 0x80, _displacement_32(memory)


def _modrm_32(register: int, memory: Memory, displacement_size: int) -> bytes:
    base, index = memory.base & 7, memory.index & 7
    if memory.index == ESP or memory.scale not in _SCALE_BITS:
        raise OptionError(f"{memory!r} cannot be encoded: esp is no index, and a scale is 1, 2, 4 or 8")
    if memory.base < 0 and memory.index < 0:
        return bytes([register | 5]) + _displacement_32(memory)
    if memory.base < 0:
        sib = _SCALE_BITS[memory.scale] << 6 | index << 3 | 5
        return bytes([register | 4, sib]) + _displacement_32(memory)
    mod, displacement = _displacement(memory, displacement_size, zero_allowed=base != EBP)
    if memory.index < 0 and base != ESP:
        return bytes([mod | register | base]) + displacement
    sib = _SCALE_BITS[memory.scale] << 6 | (index if memory.index >= 0 else 4) << 3 | base
    return bytes([mod | register | 4, sib]) + displacement


def _modrm_16(register: int, memory: Memory, displacement_size: int) -> bytes:
    if memory.base < 0 and memory.index < 0:
        return bytes([register | 6]) + memory.displacement.to_bytes(2, "little")
    rm = _RM_16.get((memory.base, memory.index))
    if rm is None or memory.scale != 1:
        raise OptionError(f"{memory!r} cannot be encoded: 16-bit addresses are [bx|bp] + [si|di] + displacement")
    mod, displacement = _displacement(memory, displacement_size, zero_allowed=rm != 6)
    return bytes([mod | register | rm]) + displacement
