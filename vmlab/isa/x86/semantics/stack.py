"""The stack as instructions use it: RSP in 64-bit mode, else SS:ESP, or SS:SP where the stack segment is a 16-bit one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import MASKS
from vmlab.isa.x86.registers import ESP, SS

if TYPE_CHECKING:
    from vmlab.isa.x86.semantics.processor import Processor


def stack_mask(cpu: Processor) -> int:
    """Return the mask of the stack pointer's width."""
    return cpu.segments[SS].mask


def set_stack_pointer(cpu: Processor, value: int) -> None:
    """Store RSP or ESP, or SP alone on a 16-bit stack."""
    mask = cpu.segments[SS].mask
    if mask != 0xFFFF:
        cpu.registers[ESP] = value & mask
    else:
        cpu.registers[ESP] = cpu.registers[ESP] & ~0xFFFF | value & 0xFFFF


def push(cpu: Processor, value: int, size: int) -> None:
    """Push `size` bits; ESP moves only when the store went well."""
    width = size >> 3
    mask = cpu.segments[SS].mask
    top = cpu.registers[ESP] - width & mask
    cpu.write(SS, top, width, value & MASKS[size])
    if mask != 0xFFFF:
        cpu.registers[ESP] = top
    else:
        set_stack_pointer(cpu, top)


def peek(cpu: Processor, index: int, size: int) -> int:
    """Read the entry `index` places above the top, without popping."""
    width = size >> 3
    return cpu.read(SS, cpu.registers[ESP] + index * width & stack_mask(cpu), width)


def drop(cpu: Processor, count: int, size: int) -> None:
    """Pop `count` entries without looking."""
    set_stack_pointer(cpu, cpu.registers[ESP] + count * (size >> 3))


def pop(cpu: Processor, size: int) -> int:
    """Pop `size` bits."""
    mask = cpu.segments[SS].mask
    if mask != 0xFFFF:
        top = cpu.registers[ESP]
        width = size >> 3
        value = cpu.read(SS, top, width)
        cpu.registers[ESP] = top + width & mask
        return value
    value = peek(cpu, 0, size)
    drop(cpu, 1, size)
    return value
