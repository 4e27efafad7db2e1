"""The flexible second operand: an immediate, or a register that is shifted or extended on its way.

Read more: Arm ARM (DDI 0487), `ShiftReg` and `ExtendReg` in J1.1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmlab.isa.arm64.bitmask import decode_bitmask
from vmlab.isa.arm64.semantics.registry import ones

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction

__all__ = ["Value", "constant", "extended", "second_register", "shifted"]

Value = Callable[[list[int]], int]
"""Gives a value from the registers; it may have bits above the register width."""


def constant(instruction: Instruction) -> int | None:
    """Return the second operand where it is an immediate."""
    fields = instruction.fields
    if "imm12" in fields:
        return fields["imm12"] << 12 * fields["sh"]
    if "immr" in fields:
        return decode_bitmask(fields["N"], fields["immr"], fields["imms"], instruction.bits)
    return None


def second_register(instruction: Instruction) -> int | None:
    """Return the number of the second register where it is taken as it is."""
    fields = instruction.fields
    if "option" in fields:
        plain = fields["option"] & 3 == 3 and instruction.bits == 64 and not fields["imm3"]
        return fields["rm"] if plain else None
    return None if fields.get("imm6") else fields["rm"]


def shifted(instruction: Instruction) -> Value:
    """Return the second operand of a shifted or extended form."""
    fields = instruction.fields
    if "option" in fields:
        return extended(fields["rm"], fields["option"], fields["imm3"])
    number, kind, amount, bits, mask = (
        fields["rm"],
        fields["shift"],
        fields["imm6"],
        instruction.bits,
        ones(instruction),
    )
    sign = 1 << bits - 1
    if kind == 0:
        return lambda x: x[number] << amount & mask
    if kind == 1:
        return lambda x: (x[number] & mask) >> amount
    if kind == 2:
        return lambda x: ((x[number] & mask ^ sign) - sign) >> amount & mask
    return lambda x: ((x[number] & mask) >> amount | x[number] << bits - amount) & mask


def extended(number: int, option: int, amount: int) -> Value:
    """Return a register's low bytes, made 64 bits long with zeros or with the sign, and shifted to the left."""
    low = (1 << (8 << (option & 3))) - 1
    if not option & 4:
        return lambda x: (x[number] & low) << amount
    sign = low + 1 >> 1
    return lambda x: ((x[number] & low ^ sign) - sign) << amount
