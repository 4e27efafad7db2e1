"""Multiplication and division (SDM vol. 2). MUL sets CF and OF where the high half counts; DIV leaves the flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import DE, Fault
from vmlab.isa.x86.operands import MASKS, general_register_64
from vmlab.isa.x86.registers import CF, EAX, EDX, OF
from vmlab.isa.x86.semantics.arithmetic import KEEP, status
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

ACCUMULATOR = {size: general_register_64(EAX, size) for size in (8, 16, 32, 64)}
HIGH = {size: general_register_64(EDX, size) for size in (16, 32, 64)}


def signed(value: int, size: int) -> int:
    """Read a masked value as two's complement.

    >>> signed(0xFF, 8)
    -1
    """
    return value - (value >> (size - 1) << size)


def _store_wide(cpu: Processor, value: int, size: int) -> None:
    """Store a double-width value in AX, DX:AX, EDX:EAX or RDX:RAX."""
    if size == 8:
        ACCUMULATOR[16].write(cpu, value & 0xFFFF)
    else:
        ACCUMULATOR[size].write(cpu, value & MASKS[size])
        HIGH[size].write(cpu, value >> size & MASKS[size])


def _load_wide(cpu: Processor, size: int) -> int:
    if size == 8:
        return ACCUMULATOR[16].read(cpu)
    return HIGH[size].read(cpu) << size | ACCUMULATOR[size].read(cpu)


def _flags(cpu: Processor, low: int, size: int, *, spills: bool) -> None:
    cpu.flags = cpu.flags & KEEP | status(low, size) | (CF | OF if spills else 0)


@semantic("mul")
def mul(cpu: Processor, i: Instruction) -> None:
    """MUL: unsigned, into the double-width accumulator."""
    size = i.size
    product = ACCUMULATOR[size].read(cpu) * i.operands[0].read(cpu)
    _store_wide(cpu, product, size)
    _flags(cpu, product & MASKS[size], size, spills=product >> size != 0)


@semantic("imul")
def imul(cpu: Processor, i: Instruction) -> None:
    """IMUL: signed; with one operand double-width, with two or three truncated."""
    size = i.size
    operands = i.operands
    if len(operands) == 1:
        product = signed(ACCUMULATOR[size].read(cpu), size) * signed(operands[0].read(cpu), size)
        _store_wide(cpu, product & MASKS[size] << size | product & MASKS[size], size)
    else:
        product = signed(operands[-2].read(cpu), size) * signed(operands[-1].read(cpu), size)
        operands[0].write(cpu, product & MASKS[size])
    low = product & MASKS[size]
    _flags(cpu, low, size, spills=signed(low, size) != product)


def _store_quotient(cpu: Processor, quotient: int, remainder: int, size: int) -> None:
    mask = MASKS[size]
    if size == 8:
        ACCUMULATOR[16].write(cpu, (remainder & mask) << 8 | quotient & mask)
    else:
        ACCUMULATOR[size].write(cpu, quotient & mask)
        HIGH[size].write(cpu, remainder & mask)


@semantic("div")
def div(cpu: Processor, i: Instruction) -> None:
    """DIV: unsigned; #DE where the divisor is 0 or the quotient too large."""
    size = i.size
    divisor = i.operands[0].read(cpu)
    if not divisor:
        raise Fault(DE)
    quotient, remainder = divmod(_load_wide(cpu, size), divisor)
    if quotient > MASKS[size]:
        raise Fault(DE)
    _store_quotient(cpu, quotient, remainder, size)


@semantic("idiv")
def idiv(cpu: Processor, i: Instruction) -> None:
    """IDIV: signed, truncating towards zero."""
    size = i.size
    divisor = signed(i.operands[0].read(cpu), size)
    if not divisor:
        raise Fault(DE)
    dividend = signed(_load_wide(cpu, size), 2 * size)
    quotient, remainder = divmod(abs(dividend), abs(divisor))
    if (dividend < 0) != (divisor < 0):
        quotient = -quotient
    if dividend < 0:
        remainder = -remainder
    if not -(1 << (size - 1)) <= quotient < 1 << (size - 1):
        raise Fault(DE)
    _store_quotient(cpu, quotient, remainder, size)


@semantic("aam")
def aam(cpu: Processor, i: Instruction) -> None:
    """AAM: split AL by the immediate (10 in the plain form)."""
    base = i.operands[0].read(cpu)
    if not base:
        raise Fault(DE)
    ah, al = divmod(cpu.registers[EAX] & 0xFF, base)
    ACCUMULATOR[16].write(cpu, ah << 8 | al)
    cpu.flags = cpu.flags & KEEP | status(al, 8)


@semantic("aad")
def aad(cpu: Processor, i: Instruction) -> None:
    """AAD: join AH and AL by the immediate."""
    ax = ACCUMULATOR[16].read(cpu)
    al = (ax & 0xFF) + (ax >> 8) * i.operands[0].read(cpu) & 0xFF
    ACCUMULATOR[16].write(cpu, al)
    cpu.flags = cpu.flags & KEEP | status(al, 8)
