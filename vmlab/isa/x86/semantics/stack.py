"""The stack as instructions use it: SS:ESP, or SS:SP where the stack segment is a 16-bit one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import MASKS
from vmlab.isa.x86.registers import ESP, SS

if TYPE_CHECKING:
    from vmlab.isa.x86.semantics.processor import Processor


def stack_mask(cpu: Processor) -> int:
    """Return the mask of the stack pointer's width."""
    return 0xFFFFFFFF if cpu.segments[SS].big else 0xFFFF


def set_stack_pointer(cpu: Processor, value: int) -> None:
    """Store ESP, or SP alone on a 16-bit stack."""
    if cpu.segments[SS].big:
        cpu.registers[ESP] = value & 0xFFFFFFFF
    else:
        cpu.registers[ESP] = cpu.registers[ESP] & ~0xFFFF | value & 0xFFFF


def push(cpu: Processor, value: int, size: int) -> None:
    """Push `size` bits; ESP moves only when the store went well."""
    width = size >> 3
    if cpu.segments[SS].big:
        top = cpu.registers[ESP] - width & 0xFFFFFFFF
        cpu.write(SS, top, width, value & MASKS[size])
        cpu.registers[ESP] = top
    else:
        top = cpu.registers[ESP] - width & 0xFFFF
        cpu.write(SS, top, width, value & MASKS[size])
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
    if cpu.segments[SS].big:
        top = cpu.registers[ESP]
        width = size >> 3
        value = cpu.read(SS, top, width)
        cpu.registers[ESP] = top + width & 0xFFFFFFFF
        return value
    value = peek(cpu, 0, size)
    drop(cpu, 1, size)
    return value
