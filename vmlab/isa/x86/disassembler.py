"""Disassembler: decoded instructions as text, in NASM's syntax, so that the assembler reads them back.

What the operands do not show is said in words: `o16 ret` has another operand size than its code segment, `a16`
another address size, `fs` before a string instruction another segment. Prefixes without effect are not shown. An address
relative to RIP is shown where it leads; without a name for it NASM would read `[rel 0x1000]` as an absolute one.
Where to read more: NASM manual, chapter 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.errors import OptionError
from vmlab.isa.x86.decoder import MAXIMUM_LENGTH, DecodeError, decode
from vmlab.isa.x86.encoder import default_segment
from vmlab.isa.x86.operands import (
    MASKS,
    FarPointer,
    Immediate,
    Memory,
    Operand,
    Register8,
    Register16,
    Register32,
    Register64,
    Relative,
    RelativeMemory,
    SegmentOperand,
)
from vmlab.isa.x86.registers import DS, GENERAL_NAMES, SEGMENT_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.isa.x86.instruction import Instruction

__all__ = ["Line", "disassemble", "format_instruction"]

_WIDTH_WORDS = {8: "byte", 16: "word", 32: "dword", 64: "qword"}
_WIDTH_LETTERS = {8: "b", 16: "w", 32: "d", 64: "q"}
_STRINGS = frozenset({"movs", "cmps", "stos", "lods", "scas", "ins", "outs"})
_SIZED = frozenset({"pusha", "popa", "pushf", "popf", "iret"})  # `pushfw` only where it is not the default
_RENAMED = {"callf": "call", "jmpf": "jmp", "xlat": "xlatb"}

# Without a register of their own width beside them, a memory operand's width is written, except in these, where
# only the address matters or the width follows from the mnemonic.
_WIDTH_IMPLIED = frozenset({"M", "Ms", "Mp", "Ma", "Mq", "Mdq", "Mb"})
_EXTENDING = frozenset({"movzx", "movsx", "movsxd"})
# Codes of registers that say nothing about the width of another operand.
_UNRELATED = frozenset({"CL", "DX", "1"})

# Instructions whose operand size shows in no operand, and those whose address size shows in none.
_HIDDEN_SIZE = frozenset({"ret", "retf", "enter", "leave"})
_HIDDEN_WIDE = frozenset({"sysret", "sysexit"})  # where 64 bits differ from fewer
_HIDDEN_ADDRESS_SIZE = _STRINGS | {"xlat", "loop", "loope", "loopne", "monitor", "vmrun", "vmload", "vmsave", "invlpga"}
_SOURCE_SEGMENT = frozenset({"movs", "cmps", "lods", "outs", "xlat", "monitor"})

_LOWEST_NAMED = 0x400  # constants below are more likely numbers than addresses


class Line(NamedTuple):
    """One line of a disassembly.

    Attributes
    ----------
    address : int
        Of its first byte.
    raw : bytes
        Its bytes.
    text : str
        The instruction, or `db` with one byte that begins none.
    instruction : Instruction or None
        What was decoded.
    """

    address: int
    raw: bytes
    text: str
    instruction: Instruction | None


def disassemble(code: bytes, address: int = 0, bits: int = 32, symbols: Mapping[int, str] | None = None) -> list[Line]:
    """Disassemble bytes from the first to the last.

    Parameters
    ----------
    code : bytes
        Machine code; a byte that begins no instruction becomes a `db`.
    address : int
        Of the first byte.
    bits : int
        16, 32 or 64.
    symbols : mapping of int to str, optional
        Names of addresses, for jump targets and operands.

    Raises
    ------
    OptionError
        The code is no bytes, the address negative, or `bits` none of the three.

    Examples
    --------
    >>> [line.text for line in disassemble(bytes.fromhex("55 89e5 83ec10 ebfe"), 0x1000)]
    ['push ebp', 'mov ebp, esp', 'sub esp, 0x10', 'jmp 0x1006']
    """
    if not isinstance(code, (bytes, bytearray)):
        raise OptionError(f"machine code is bytes, not {type(code).__name__}")
    if type(address) is not int or address < 0:
        raise OptionError(f"an address is an int, not negative, and not {address!r}")
    if bits not in (16, 32, 64):
        raise OptionError(f"bits={bits!r}: code is for 16, 32 or 64 bits")
    code = bytes(code)
    lines: list[Line] = []
    position = 0
    while position < len(code):
        window = code[position : position + MAXIMUM_LENGTH]
        here = address + position
        try:
            instruction = decode(window, bits)
        except DecodeError:
            lines.append(Line(here, window[:1], f"db {window[0]:#04x}", None))
            position += 1
        else:
            text = format_instruction(instruction, here, symbols, bits=bits)
            lines.append(Line(here, instruction.raw, text, instruction))
            position += instruction.length
    return lines


def format_instruction(
    instruction: Instruction, address: int, symbols: Mapping[int, str] | None = None, *, bits: int = 32
) -> str:
    """Return an instruction at `address` as text.

    Parameters
    ----------
    instruction : Instruction
        Decoded for code of `bits` bits.
    address : int
        Of its first byte.
    symbols : mapping of int to str, optional
        Names of addresses.
    bits : int
        16, 32 or 64: the kind of code.

    Examples
    --------
    >>> format_instruction(decode(bytes.fromhex("e8fbffffff")), 0x1000, {0x1000: "again"})
    'call again'
    """
    names = symbols or {}
    row = instruction.row
    words = _prefixes(instruction, bits)
    mnemonic = _RENAMED.get(row.mnemonic, row.mnemonic)
    if row.mnemonic in _STRINGS or (row.mnemonic in _SIZED and instruction.size != _default_size(instruction, bits)):
        mnemonic += _WIDTH_LETTERS[instruction.size]
    words.append(mnemonic)
    operands = [
        _operand(instruction, code, operand, address, names, bits)
        for code, operand in zip(row.operands, instruction.operands, strict=True)
    ]
    if row.mnemonic in ("aam", "aad") and instruction.operands[0] == Immediate(10, 8):
        operands = []
    text = " ".join(words)
    return f"{text} {', '.join(operands)}" if operands else text


def _prefixes(instruction: Instruction, bits: int) -> list[str]:
    """Return the words before the mnemonic."""
    row = instruction.row
    words: list[str] = []
    if instruction.size not in (8, _default_size(instruction, bits)) and _size_is_hidden(instruction):
        words.append(f"o{instruction.size}")
    if instruction.address_size != bits and _address_size_is_hidden(instruction, bits):
        words.append(f"a{instruction.address_size}")
    if instruction.lock:
        words.append("lock")
    if row.mnemonic in _SOURCE_SEGMENT and instruction.segment not in (-1, DS):
        words.append(SEGMENT_NAMES[instruction.segment])
    if instruction.repeat:
        words.append("repe" if (instruction.repeat, row.repeat) == ("rep", "repz") else instruction.repeat)
    return words


def _default_size(instruction: Instruction, bits: int) -> int:
    """Return the operand size that the instruction has without a prefix."""
    return (instruction.row.operand_sizes(bits) or (bits,))[0]


def _address_size_is_hidden(instruction: Instruction, bits: int) -> bool:
    """Tell whether the address size matters but no register shows it."""
    if instruction.row.mnemonic in _HIDDEN_ADDRESS_SIZE:
        return True
    return bits == 64 and any(
        isinstance(operand, Memory) and (operand.base < 0 or isinstance(operand, RelativeMemory)) and operand.index < 0
        for operand in instruction.operands
    )


def _size_is_hidden(instruction: Instruction) -> bool:
    """Tell whether the operand size matters but shows in no operand."""
    row = instruction.row
    operand = instruction.operands[0] if instruction.operands else None
    if isinstance(operand, Relative) or row.operands == ("Ms",):
        return True
    if row.mnemonic in ("push", "pop"):
        return isinstance(operand, SegmentOperand)
    return row.mnemonic in _HIDDEN_SIZE or (row.mnemonic in _HIDDEN_WIDE and instruction.size == 64)


def _operand(
    instruction: Instruction, code: str, operand: Operand, address: int, names: Mapping[int, str], bits: int
) -> str:
    if isinstance(operand, Memory):
        if isinstance(operand, RelativeMemory):
            target = (address + instruction.length + operand.displacement) & MASKS[operand.address_size]
            text = _relative(operand, names.get(target) or f"{target:#x}")
        else:
            text = _memory(operand, names, "qword " if code[0] == "O" and bits == 64 else "", bits)
        return _width(instruction, code, operand, bits) + text
    if isinstance(operand, Immediate):
        return _immediate(instruction, code, operand, names, bits)
    if isinstance(operand, Relative):
        target = (address + instruction.length + operand.displacement) & MASKS[operand.size]
        return names.get(target) or f"{target:#x}"
    if isinstance(operand, FarPointer):
        width = "" if operand.size == bits else _WIDTH_WORDS[operand.size] + " "
        return f"{width}{operand.selector:#x}:{names.get(operand.offset) or hex(operand.offset)}"
    name = getattr(operand, "name", "")
    assert isinstance(name, str)
    return name


def _width(instruction: Instruction, code: str, memory: Memory, bits: int) -> str:
    """Return the words before a memory operand's brackets."""
    row = instruction.row
    if row.mnemonic in ("callf", "jmpf"):
        return "far " if instruction.size == bits < 64 else f"{_WIDTH_WORDS[instruction.size]} far "
    if code in _WIDTH_IMPLIED:
        return ""
    if row.mnemonic in _EXTENDING:
        return f"{_WIDTH_WORDS[memory.size]} "
    for other_code, other in zip(row.operands, instruction.operands, strict=True):
        known = isinstance(other, Register8 | Register16 | Register32 | Register64) and other.size == memory.size
        if known and other_code not in _UNRELATED:
            return ""
    return f"{_WIDTH_WORDS[memory.size]} "


def _relative(memory: RelativeMemory, target: str) -> str:
    return f"[rel {_override(memory)}{target}]"


def _override(memory: Memory) -> str:
    return "" if memory.segment == default_segment(memory) else SEGMENT_NAMES[memory.segment] + ":"


def _memory(memory: Memory, names: Mapping[int, str], width: str, bits: int) -> str:
    registers = GENERAL_NAMES[memory.address_size]
    terms: list[str] = []
    if memory.base >= 0:
        terms.append(registers[memory.base])
    if memory.index >= 0:
        factor = f"*{memory.scale}" if memory.scale > 1 or memory.base < 0 else ""
        terms.append(registers[memory.index] + factor)
    displacement = memory.displacement
    if not terms:
        if memory.address_size != bits:
            width = "" if bits == 64 else _WIDTH_WORDS[memory.address_size] + " "
        text = width + (names.get(displacement) or f"{displacement:#x}")
    elif displacement >= _LOWEST_NAMED and displacement in names:
        text = "+".join([names[displacement], *terms])
    else:
        signed = displacement - (displacement >> memory.address_size - 1 << memory.address_size)
        text = "+".join(terms) + (("-" if signed < 0 else "+") + _number(abs(signed)) if signed else "")
    return f"[{_override(memory)}{text}]"


def _immediate(instruction: Instruction, code: str, operand: Immediate, names: Mapping[int, str], bits: int) -> str:
    value = operand.value
    mnemonic = instruction.mnemonic
    width = ""
    if mnemonic == "push" and operand.size != _default_size(instruction, bits):
        width = _WIDTH_WORDS[operand.size] + " "
    if (code == "Ix" or (code == "Iz" and operand.size == 64)) and value >> operand.size - 1:
        return f"{width}-{_number((1 << operand.size) - value)}"
    if mnemonic in ("mov", "push") and operand.size >= 32 and value >= _LOWEST_NAMED and value in names:
        return width + names[value]
    return width + _number(value)


def _number(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"
