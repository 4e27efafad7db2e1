"""Addition, subtraction, comparison, negation, exchange-and-add, decimal adjust (SDM vol. 2).

Flags are computed at once: CF and OF from the operands and the result, ZF, SF, PF from the result, AF from bit 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import general_protection, undefined
from vmlab.isa.x86.operands import KEPT, MASKS, Memory
from vmlab.isa.x86.registers import AF, CF, EAX, EBX, ECX, EDX, OF, PF, SF, ZF
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

PARITY = tuple(0 if value.bit_count() & 1 else PF for value in range(256))
"""PF for each low byte of a result."""

KEEP = ~(CF | PF | AF | ZF | SF | OF)
KEEP_WITH_CARRY = ~(PF | AF | ZF | SF | OF)


def status(result: int, size: int) -> int:
    """Return ZF, SF and PF of a masked result of `size` bits."""
    return PARITY[result & 0xFF] | result >> (size - 8) & SF | (0 if result else ZF)


def add_values(cpu: Processor, a: int, b: int, carry: int, size: int) -> int:
    """Return the flags after `a + b + carry`; the caller stores the sum first."""
    total = a + b + carry
    r = total & MASKS[size]
    return (
        cpu.flags & KEEP
        | PARITY[r & 0xFF]
        | r >> (size - 8) & SF
        | (0 if r else ZF)
        | (a ^ b ^ r) & AF
        | total >> size
        | ((a ^ r) & (b ^ r)) << 4 >> (size - 8) & OF
    )


def subtract_values(cpu: Processor, a: int, b: int, borrow: int, size: int) -> int:
    """Return the flags after `a - b - borrow`."""
    total = a - b - borrow
    r = total & MASKS[size]
    return (
        cpu.flags & KEEP
        | PARITY[r & 0xFF]
        | r >> (size - 8) & SF
        | (0 if r else ZF)
        | (a ^ b ^ r) & AF
        | (total < 0)
        | ((a ^ b) & (a ^ r)) << 4 >> (size - 8) & OF
    )


@semantic("add")
def add(cpu: Processor, i: Instruction) -> None:
    """ADD: destination += source."""
    destination, source = i.operands
    a, b, size = destination.modify(cpu), source.read(cpu), i.size
    destination.write(cpu, a + b & MASKS[size])
    cpu.flags = add_values(cpu, a, b, 0, size)


@semantic("adc")
def adc(cpu: Processor, i: Instruction) -> None:
    """ADC: destination += source + CF."""
    destination, source = i.operands
    a, b, carry, size = destination.modify(cpu), source.read(cpu), cpu.flags & CF, i.size
    destination.write(cpu, a + b + carry & MASKS[size])
    cpu.flags = add_values(cpu, a, b, carry, size)


@semantic("sub")
def sub(cpu: Processor, i: Instruction) -> None:
    """SUB: destination -= source."""
    destination, source = i.operands
    a, b, size = destination.modify(cpu), source.read(cpu), i.size
    destination.write(cpu, a - b & MASKS[size])
    cpu.flags = subtract_values(cpu, a, b, 0, size)


@semantic("sbb")
def sbb(cpu: Processor, i: Instruction) -> None:
    """SBB: destination -= source + CF."""
    destination, source = i.operands
    a, b, borrow, size = destination.modify(cpu), source.read(cpu), cpu.flags & CF, i.size
    destination.write(cpu, a - b - borrow & MASKS[size])
    cpu.flags = subtract_values(cpu, a, b, borrow, size)


@semantic("cmp")
def cmp(cpu: Processor, i: Instruction) -> None:
    """CMP: flags of destination - source."""
    left, right = i.operands
    cpu.flags = subtract_values(cpu, left.read(cpu), right.read(cpu), 0, i.size)


@semantic("inc")
def inc(cpu: Processor, i: Instruction) -> None:
    """INC: destination += 1; CF stays."""
    (destination,) = i.operands
    a, size = destination.modify(cpu), i.size
    r = a + 1 & MASKS[size]
    destination.write(cpu, r)
    overflow = OF if r == 1 << (size - 1) else 0
    cpu.flags = cpu.flags & KEEP_WITH_CARRY | status(r, size) | (a ^ 1 ^ r) & AF | overflow


@semantic("dec")
def dec(cpu: Processor, i: Instruction) -> None:
    """DEC: destination -= 1; CF stays."""
    (destination,) = i.operands
    a, size = destination.modify(cpu), i.size
    r = a - 1 & MASKS[size]
    destination.write(cpu, r)
    overflow = OF if a == 1 << (size - 1) else 0
    cpu.flags = cpu.flags & KEEP_WITH_CARRY | status(r, size) | (a ^ 1 ^ r) & AF | overflow


@semantic("neg")
def neg(cpu: Processor, i: Instruction) -> None:
    """NEG: destination = 0 - destination."""
    (destination,) = i.operands
    a, size = destination.modify(cpu), i.size
    destination.write(cpu, -a & MASKS[size])
    cpu.flags = subtract_values(cpu, 0, a, 0, size)


@semantic("xadd")
def xadd(cpu: Processor, i: Instruction) -> None:
    """XADD: exchange, then add."""
    destination, source = i.operands
    a, b, size = destination.modify(cpu), source.read(cpu), i.size
    total = a + b & MASKS[size]
    flags = add_values(cpu, a, b, 0, size)
    # The sum is stored last, so that it wins where both operands are one register; memory first, so that a
    # fault leaves the register.
    if destination.writes_memory:
        destination.write(cpu, total)
        source.write(cpu, a)
    else:
        source.write(cpu, a)
        destination.write(cpu, total)
    cpu.flags = flags


@semantic("cmpxchg")
def cmpxchg(cpu: Processor, i: Instruction) -> None:
    """CMPXCHG: if accumulator = destination then destination = source else accumulator = destination."""
    destination, source = i.operands
    size = i.size
    old = destination.modify(cpu)
    accumulator = cpu.registers[EAX] & MASKS[size]
    flags = subtract_values(cpu, accumulator, old, 0, size)
    if accumulator == old:
        destination.write(cpu, source.read(cpu))
    else:
        if destination.writes_memory:
            destination.write(cpu, old)  # memory is written in either case; of a register not even the upper half is
        cpu.registers[EAX] = cpu.registers[EAX] & KEPT[size] | old
    cpu.flags = flags


@semantic("cmpxchg8b")
def cmpxchg8b(cpu: Processor, i: Instruction) -> None:
    """CMPXCHG8B: the same on 64 bits, with EDX:EAX and ECX:EBX."""
    (destination,) = i.operands
    registers = cpu.registers
    old = destination.modify(cpu)
    if (registers[EDX] & 0xFFFFFFFF) << 32 | registers[EAX] & 0xFFFFFFFF == old:
        destination.write(cpu, (registers[ECX] & 0xFFFFFFFF) << 32 | registers[EBX] & 0xFFFFFFFF)
        cpu.flags |= ZF
    else:
        destination.write(cpu, old)
        registers[EDX], registers[EAX] = old >> 32, old & 0xFFFFFFFF
        cpu.flags &= ~ZF


@semantic("cmpxchg16b")
def cmpxchg16b(cpu: Processor, i: Instruction) -> None:
    """CMPXCHG16B: the same on 128 bits, with RDX:RAX and RCX:RBX; #GP(0) where the operand is not aligned."""
    destination = i.operands[0]
    if not isinstance(destination, Memory):
        raise undefined()
    registers, segment, offset = cpu.registers, destination.segment, destination.offset(cpu)
    if cpu.linear_address(segment, offset) & 15:
        raise general_protection()
    old = (cpu.modify(segment, offset, 8), cpu.modify(segment, offset + 8, 8))
    equal = old == (registers[EAX], registers[EDX])
    new = (registers[EBX], registers[ECX]) if equal else old
    cpu.write(segment, offset, 8, new[0])
    cpu.write(segment, offset + 8, 8, new[1])
    if not equal:
        registers[EAX], registers[EDX] = old
    cpu.flags = cpu.flags | ZF if equal else cpu.flags & ~ZF


def _set_al(cpu: Processor, al: int, flags: int) -> None:
    cpu.registers[EAX] = cpu.registers[EAX] & ~0xFF | al
    cpu.flags = cpu.flags & KEEP | status(al, 8) | flags


@semantic("daa")
def daa(cpu: Processor, i: Instruction) -> None:
    """DAA: decimal adjust AL after addition."""
    old = al = cpu.registers[EAX] & 0xFF
    flags = 0
    if al & 0xF > 9 or cpu.flags & AF:
        al += 6
        flags = AF
    if old > 0x99 or cpu.flags & CF:
        al += 0x60
        flags |= CF
    _set_al(cpu, al & 0xFF, flags)


@semantic("das")
def das(cpu: Processor, i: Instruction) -> None:
    """DAS: decimal adjust AL after subtraction."""
    old = al = cpu.registers[EAX] & 0xFF
    flags = 0
    if al & 0xF > 9 or cpu.flags & AF:
        flags = AF | (CF if al < 6 or cpu.flags & CF else 0)
        al -= 6
    if old > 0x99 or cpu.flags & CF:
        al -= 0x60
        flags |= CF
    _set_al(cpu, al & 0xFF, flags)


def _ascii_adjust(cpu: Processor, sign: int) -> None:
    ax = cpu.registers[EAX] & 0xFFFF
    adjust = (ax & 0xF) > 9 or bool(cpu.flags & AF)
    if adjust:
        ax = ax + sign * 0x106 & 0xFFFF
    ax &= 0xFF0F
    cpu.registers[EAX] = cpu.registers[EAX] & ~0xFFFF | ax
    cpu.flags = cpu.flags & KEEP | status(ax & 0xFF, 8) | (AF | CF if adjust else 0)


@semantic("aaa")
def aaa(cpu: Processor, i: Instruction) -> None:
    """AAA: ASCII adjust AL after addition."""
    _ascii_adjust(cpu, 1)


@semantic("aas")
def aas(cpu: Processor, i: Instruction) -> None:
    """AAS: ASCII adjust AL after subtraction."""
    _ascii_adjust(cpu, -1)
