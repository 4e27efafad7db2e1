"""Which instructions are translated: a table, filled by the modules `emit_arithmetic`, `emit_bits` and `emit_data`.

What an emitter writes may raise KeyError or `Unusual` in its first lines alone, before it changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.operands import Immediate, Memory, Register8, Register16, Register32
from vmlab.isa.x86.registers import CS, FS, GS
from vmlab.machine.translator.region import COUNTED

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.translator.writer import Writer

__all__ = ["EMITTERS", "Special", "always", "emits", "is_plain", "is_wide", "transfers", "translatable"]

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


class Special(NamedTuple):
    """Instructions of a region, by EIP, that are written in another way than most.

    Attributes
    ----------
    careful : frozenset of int
        Their accesses may be unaligned, or wrap around at 4 GiB.
    outside : frozenset of int
        They are left to the interpreter's semantics: their accesses go to devices, or next to code.
    uncounted : set of int or None
        The processor does not count them as retired. Where this is not None the code is a hypervisor's, and all of its
        accesses through GS lead to memory of the hypervisor's own.
    """

    careful: frozenset[int] = frozenset()
    outside: frozenset[int] = frozenset()
    uncounted: AbstractSet[int] | None = None


def transfers(i: Instruction, *, own: bool = False) -> bool:
    """Say whether a near transfer of control is translated: one of 32 bits, through flat segments, or those of `own` code."""
    if (
        i.size != 32
        or i.lock
        or (i.segment >= 0 and not (own and i.segment == GS))
        or (i.mnemonic in COUNTED and i.address_size != 32)
    ):
        return False
    return not any(isinstance(o, Memory) and o.address_size != 32 for o in i.operands)


def translatable(i: Instruction, *, own: bool = False) -> bool:
    """Say whether an instruction is translated; in a hypervisor's `own` code with accesses through GS, too."""
    if (
        i.repeat or i.segment in (CS, FS) or (i.segment == GS and not own) or i.mnemonic not in EMITTERS
    ):  # LOCK: nothing comes between anyway
        return False
    return EMITTERS[i.mnemonic][1](i)
