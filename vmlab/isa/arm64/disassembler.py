"""Disassembler: a word as assembly writes it, by the alias that the manual prefers.

Read more: Arm ARM (DDI 0487), C1.2 and the alias conditions in C6.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.decoder import decode
from vmlab.isa.arm64.operands import OPERANDS
from vmlab.isa.arm64.rules import RULES
from vmlab.isa.arm64.table import aliases_of

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction, Row

__all__ = ["disassemble", "format_instruction"]


def format_instruction(instruction: Instruction, address: int = 0) -> str:
    """Write an instruction.

    Parameters
    ----------
    instruction : Instruction
        A decoded one.
    address : int
        Where it stands, for what is relative to it.

    Examples
    --------
    >>> from vmlab.isa.arm64.decoder import decode
    >>> format_instruction(decode(0xAA0103E0)), format_instruction(decode(0x54000040), 0x1000)
    ('mov x0, x1', 'b.eq #0x1008')
    """
    word = instruction.word
    for alias in aliases_of(instruction.row):
        if word & alias.mask == alias.value:
            values = alias.values(word)
            if not alias.rule or RULES[alias.rule](values):
                return _text(alias, values, address)
    return _text(instruction.row, instruction.fields, address)


def _text(row: Row, values: dict[str, int], address: int) -> str:
    shown = (OPERANDS[code].show(row, values, address) for code in row.operands)
    return f"{row.mnemonic} {', '.join(each for each in shown if each)}".rstrip()


def disassemble(code: bytes, address: int = 0) -> list[str]:
    """Disassemble code: a line for each word, `.word` where it is no instruction of the subset.

    Examples
    --------
    >>> disassemble(bytes.fromhex("20 00 80 d2 c0 03 5f d6 ff ff ff ff"))
    ['mov x0, #1', 'ret', '.word 0xffffffff']
    """
    lines = []
    for place in range(0, len(code) & ~3, 4):
        word = int.from_bytes(code[place : place + 4], "little")
        instruction = decode(word)
        lines.append(format_instruction(instruction, address + place) if instruction else f".word {word:#010x}")
    return lines
