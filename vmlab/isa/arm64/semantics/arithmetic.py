"""Addition and subtraction, with and without flags, carry, and conditional comparison.

Flags are one number, NZCV from bit 3 down. A subtraction is the addition of the complement with a carry of 1, so that C
is set where nothing was borrowed.

Read more: Arm ARM (DDI 0487), `AddWithCarry` in J1.1.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.semantics.conditions import HOLDS
from vmlab.isa.arm64.semantics.registry import Operation, Processor, ones, semantic, target, target_or_stack
from vmlab.isa.arm64.semantics.second_operand import Value, constant, second_register, shifted

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction

__all__ = ["flags_of_sum"]


def flags_of_sum(a: int, b: int, total: int, mask: int, top: int) -> int:
    """Return NZCV of a sum: `total` is a + b (+ carry) of two values within `mask`, `top` the shift to the sign bit."""
    result = total & mask
    return result >> top << 3 | (not result) << 2 | (total > mask) << 1 | ((a ^ result) & (b ^ result)) >> top & 1


def _operands(i: Instruction) -> tuple[int, int | None, int | None, Value | None]:
    """Return the first register, then the second operand: as a constant, as a plain register, or as a function."""
    stack = "imm12" in i.fields or "option" in i.fields
    first = target_or_stack(i["rn"]) if stack else i["rn"]
    value = constant(i)
    if value is not None:
        return first, value, None, None
    plain = second_register(i)
    return first, None, plain, None if plain is not None else shifted(i)


@semantic("add")
def add(i: Instruction) -> Operation:
    """ADD."""
    mask = ones(i)
    stack = "imm12" in i.fields or "option" in i.fields
    d = target_or_stack(i["rd"]) if stack else target(i)
    n, value, m, second = _operands(i)
    if value is not None:

        def add_constant(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = x[n] + value & mask

        return add_constant
    if m is not None:

        def add_register(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = x[n] + x[m] & mask

        return add_register
    assert second is not None

    def add_shifted(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = x[n] + second(x) & mask

    return add_shifted


@semantic("sub")
def subtract(i: Instruction) -> Operation:
    """SUB."""
    mask = ones(i)
    stack = "imm12" in i.fields or "option" in i.fields
    d = target_or_stack(i["rd"]) if stack else target(i)
    n, value, m, second = _operands(i)
    if value is not None:

        def subtract_constant(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = x[n] - value & mask

        return subtract_constant
    if m is not None:

        def subtract_register(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = x[n] - x[m] & mask

        return subtract_register
    assert second is not None

    def subtract_shifted(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = x[n] - second(x) & mask

    return subtract_shifted


@semantic("adds", "subs")
def with_flags(i: Instruction) -> Operation:
    """ADDS and SUBS (CMN and CMP)."""
    mask, top, d = ones(i), i.bits - 1, target(i)
    flip = mask if i.mnemonic == "subs" else 0
    carry = int(bool(flip))
    n, value, m, second = _operands(i)
    if value is not None:
        other = value ^ flip

        def constant_flags(cpu: Processor, pc: int) -> None:
            x = cpu.x
            a = x[n] & mask
            total = a + other + carry
            result = total & mask
            cpu.nzcv = (
                result >> top << 3
                | (not result) << 2
                | (total > mask) << 1
                | ((a ^ result) & (other ^ result)) >> top & 1
            )
            x[d] = result

        return constant_flags

    if m is not None:

        def register_flags(cpu: Processor, pc: int) -> None:
            x = cpu.x
            a, b = x[n] & mask, x[m] & mask ^ flip
            total = a + b + carry
            cpu.nzcv = flags_of_sum(a, b, total, mask, top)
            x[d] = total & mask

        return register_flags
    assert second is not None

    def shifted_flags(cpu: Processor, pc: int) -> None:
        x = cpu.x
        a, b = x[n] & mask, second(x) & mask ^ flip
        total = a + b + carry
        cpu.nzcv = flags_of_sum(a, b, total, mask, top)
        x[d] = total & mask

    return shifted_flags


@semantic("adc", "adcs", "sbc", "sbcs")
def with_carry(i: Instruction) -> Operation:
    """ADC and SBC, with and without flags."""
    mask, top, d, n, m = ones(i), i.bits - 1, target(i), i["rn"], i["rm"]
    flip = mask if i.mnemonic.startswith("sbc") else 0
    sets = i.mnemonic.endswith("s")

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        a, b = x[n] & mask, x[m] & mask ^ flip
        total = a + b + (cpu.nzcv >> 1 & 1)
        if sets:
            cpu.nzcv = flags_of_sum(a, b, total, mask, top)
        x[d] = total & mask

    return run


@semantic("ccmp", "ccmn")
def conditional_compare(i: Instruction) -> Operation:
    """CCMP and CCMN: compare, or set the flags given, as the condition says."""
    mask, top, n = ones(i), i.bits - 1, i["rn"]
    holds, otherwise = HOLDS[i["cond"]], i["nzcv"]
    flip = mask if i.mnemonic == "ccmp" else 0
    carry = int(bool(flip))
    m, value = i.fields.get("rm"), i.fields.get("imm5", 0)

    def run(cpu: Processor, pc: int) -> None:
        if not holds[cpu.nzcv]:
            cpu.nzcv = otherwise
            return
        x = cpu.x
        a, b = x[n] & mask, (value if m is None else x[m] & mask) ^ flip
        cpu.nzcv = flags_of_sum(a, b, a + b + carry, mask, top)

    return run
