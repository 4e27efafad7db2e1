"""Which instructions are translated: a table, filled by the modules `emit_arithmetic` and `emit_data`.

What an emitter writes may raise KeyError or `Unusual` in its first lines alone, before it changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Immediate, Memory, Register8, Register16, Register32
from vmlab.isa.x86.registers import CS, FS, GS

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.translator.writer import Writer

__all__ = ["EMITTERS", "always", "emits", "is_plain", "is_wide", "translatable"]

Emitter = Callable[["Writer", "Instruction"], None]
Test = Callable[["Instruction"], bool]

EMITTERS: dict[str, tuple[Emitter, Test]] = {}
"""Mnemonic → what writes it, and which of its forms."""

PLAIN = (Memory, Immediate, Register8, Register16, Register32)


def is_plain(i: Instruction) -> bool:
    """Say whether all operands are general registers, constants, and memory addressed with 32 bits."""
    for operand in i.operands:
        if type(operand) not in PLAIN:
            return False
        if isinstance(operand, Memory) and operand.address_size != 32:
            return False
    return i.size <= 32


def is_wide(i: Instruction) -> bool:
    """Say whether an instruction is one of 32 bits on plain operands."""
    return is_plain(i) and i.size == 32


def always(i: Instruction) -> bool:
    """Say yes."""
    return True


def emits(*mnemonics: str, when: Test = is_plain) -> Callable[[Emitter], Emitter]:
    """Enter a function into the table under its mnemonics, for the forms that `when` holds of."""

    def enter(function: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(mnemonics, (function, when)))
        return function

    return enter


def translatable(i: Instruction) -> bool:
    """Say whether an instruction is translated."""
    if i.lock or i.repeat or i.segment in (CS, FS, GS) or i.mnemonic not in EMITTERS:
        return False
    return EMITTERS[i.mnemonic][1](i)
