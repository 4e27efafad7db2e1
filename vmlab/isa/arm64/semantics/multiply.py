"""Multiplication, division, and shifts by a register.

A division by zero gives 0, and the one signed division that overflows gives its dividend: neither is an exception.

Read more: Arm ARM (DDI 0487), C3.5.5 (multiply and divide), C3.5.8 (shift register).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.semantics.registry import Operation, Processor, ones, semantic, target

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction

WORD = 0xFFFF_FFFF
LONG = (1 << 64) - 1
SIGN = 1 << 63


@semantic("madd", "msub")
def multiply_add(i: Instruction) -> Operation:
    """MADD and MSUB."""
    mask, d, n, m, a = ones(i), target(i), i["rn"], i["rm"], i["ra"]
    if i.mnemonic == "madd":

        def plus(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = x[a] + x[n] * x[m] & mask

        return plus

    def minus(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = x[a] - x[n] * x[m] & mask

    return minus


@semantic("smaddl", "smsubl", "umaddl", "umsubl")
def multiply_long(i: Instruction) -> Operation:
    """Products of 32-bit registers, added to or taken from a 64-bit one."""
    d, n, m, a = target(i), i["rn"], i["rm"], i["ra"]
    sign = 1 << 31 if i.mnemonic.startswith("s") else 0
    minus = i.mnemonic.endswith("subl")

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        product = ((x[n] & WORD ^ sign) - sign) * ((x[m] & WORD ^ sign) - sign)
        x[d] = (x[a] - product if minus else x[a] + product) & LONG

    return run


@semantic("smulh", "umulh")
def multiply_high(i: Instruction) -> Operation:
    """The high half of a product of 128 bits."""
    d, n, m = target(i), i["rn"], i["rm"]
    sign = SIGN if i.mnemonic == "smulh" else 0

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = ((x[n] ^ sign) - sign) * ((x[m] ^ sign) - sign) >> 64 & LONG

    return run


@semantic("udiv")
def divide(i: Instruction) -> Operation:
    """UDIV."""
    mask, d, n, m = ones(i), target(i), i["rn"], i["rm"]

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        divisor = x[m] & mask
        x[d] = (x[n] & mask) // divisor if divisor else 0

    return run


@semantic("sdiv")
def divide_signed(i: Instruction) -> Operation:
    """SDIV: rounds towards zero."""
    mask, d, n, m = ones(i), target(i), i["rn"], i["rm"]
    sign = 1 << i.bits - 1

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        a, b = (x[n] & mask ^ sign) - sign, (x[m] & mask ^ sign) - sign
        quotient = abs(a) // abs(b) if b else 0
        x[d] = (quotient if (a < 0) == (b < 0) else -quotient) & mask

    return run


@semantic("lslv", "lsrv", "asrv", "rorv")
def shift(i: Instruction) -> Operation:
    """Shifts and rotations by a register, modulo its width."""
    mask, bits, d, n, m = ones(i), i.bits, target(i), i["rn"], i["rm"]
    last, sign, kind = bits - 1, 1 << bits - 1, i.mnemonic

    def left(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = x[n] << (x[m] & last) & mask

    def right(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = (x[n] & mask) >> (x[m] & last)

    def arithmetic(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = ((x[n] & mask ^ sign) - sign) >> (x[m] & last) & mask

    def rotate(cpu: Processor, pc: int) -> None:
        x = cpu.x
        value, amount = x[n] & mask, x[m] & last
        x[d] = (value >> amount | value << bits - amount) & mask

    return {"lslv": left, "lsrv": right, "asrv": arithmetic, "rorv": rotate}[kind]
