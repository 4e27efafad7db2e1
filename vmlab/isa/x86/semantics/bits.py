"""Bit test and scan, byte swap (SDM vol. 2).

A bit number in a register reaches beyond a memory operand: the string of bits starts at the operand and runs
2 GiB to either side (with 64 bits, all the way). Flags that the manual leaves undefined stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import MASKS, Immediate, Memory
from vmlab.isa.x86.registers import CF, ZF
from vmlab.isa.x86.semantics.multiply import signed
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


def _bit_operation(cpu: Processor, i: Instruction, change: Callable[[int, int], int] | None) -> None:
    target, number = i.operands
    size = i.size
    bit = number.read(cpu)
    if isinstance(target, Memory) and not isinstance(number, Immediate):
        unit = size.bit_length() - 1
        step = signed(bit, size) >> unit << unit - 3  # bytes from the operand to the unit of the bit
        offset = target.offset(cpu) + step & MASKS[target.address_size]
        bit &= size - 1
        access = cpu.modify if change else cpu.read
        value = access(target.segment, offset, size // 8)
        if change:
            cpu.write(target.segment, offset, size // 8, change(value, 1 << bit))
    else:
        bit &= size - 1
        value = target.modify(cpu) if change else target.read(cpu)
        if change:
            target.write(cpu, change(value, 1 << bit))
    cpu.flags = cpu.flags & ~CF | value >> bit & 1


@semantic("bt")
def bt(cpu: Processor, i: Instruction) -> None:
    """BT: CF = the bit."""
    _bit_operation(cpu, i, None)


@semantic("bts")
def bts(cpu: Processor, i: Instruction) -> None:
    """BTS: CF = the bit, then set it."""
    _bit_operation(cpu, i, lambda value, bit: value | bit)


@semantic("btr")
def btr(cpu: Processor, i: Instruction) -> None:
    """BTR: CF = the bit, then clear it."""
    _bit_operation(cpu, i, lambda value, bit: value & ~bit)


@semantic("btc")
def btc(cpu: Processor, i: Instruction) -> None:
    """BTC: CF = the bit, then flip it."""
    _bit_operation(cpu, i, lambda value, bit: value ^ bit)


@semantic("bsf")
def bsf(cpu: Processor, i: Instruction) -> None:
    """BSF: number of the lowest set bit; of 0, ZF and the destination as it was (as AMD documents), zero-extended."""
    destination, source = i.operands
    value = source.read(cpu)
    if value:
        destination.write(cpu, (value & -value).bit_length() - 1)
        cpu.flags &= ~ZF
    else:
        destination.write(cpu, destination.read(cpu))
        cpu.flags |= ZF


@semantic("bsr")
def bsr(cpu: Processor, i: Instruction) -> None:
    """BSR: number of the highest set bit."""
    destination, source = i.operands
    value = source.read(cpu)
    if value:
        destination.write(cpu, value.bit_length() - 1)
        cpu.flags &= ~ZF
    else:
        destination.write(cpu, destination.read(cpu))
        cpu.flags |= ZF


@semantic("bswap")
def bswap(cpu: Processor, i: Instruction) -> None:
    """BSWAP: reverse the bytes; of 16 bits undefined, 0 as on current processors."""
    (target,) = i.operands
    if i.size == 16:
        target.write(cpu, 0)
    else:
        target.write(cpu, int.from_bytes(target.read(cpu).to_bytes(i.size // 8, "little"), "big"))
