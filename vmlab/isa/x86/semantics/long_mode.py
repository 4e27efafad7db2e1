"""What transfers of control share in long mode: code segments of 64 bits, stacks named by the task-state segment.

    TSS of long mode (SDM vol. 3, figure 8-11), in bytes:
    04 RSP0 | 0C RSP1 | 14 RSP2 | 24 IST1 | 2C IST2 | ... | 54 IST7 | 66 I/O map base

An inner stack has no segment: SS is null there, with the new ring as its RPL. Read more: SDM vol. 3, 5.8.3.1 and 6.14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.faults import TS, Fault, general_protection
from vmlab.isa.x86.registers import SS

if TYPE_CHECKING:
    from vmlab.isa.x86.descriptors import Descriptor
    from vmlab.isa.x86.semantics.processor import Processor

RING_STACKS, INTERRUPT_STACKS = 0x04, 0x1C
"""Where the TSS has the stack of ring 0, and where it would have number 0 of the interrupt stacks, which start at 1."""


def is_64_bit(cpu: Processor, descriptor: Descriptor) -> bool:
    """Say whether this code segment is one of 64-bit mode."""
    return cpu.long_mode and descriptor.long


def check_width(cpu: Processor, descriptor: Descriptor, error: int) -> None:
    """Raise #GP with the selector for code that would have 64 and 32 bits at once."""
    if is_64_bit(cpu, descriptor) and descriptor.big:
        raise general_protection(error)


def require_64_bit(cpu: Processor, descriptor: Descriptor, error: int) -> None:
    """Raise #GP with the selector unless a gate of long mode leads to 64-bit code."""
    if not descriptor.long or descriptor.big:
        raise general_protection(error)


def check_target(cpu: Processor, descriptor: Descriptor, offset: int, error: int = 0) -> None:
    """Raise #GP where an offset lies beyond the limit of a code segment, or is not canonical in one of 64 bits."""
    if not is_canonical(offset) if is_64_bit(cpu, descriptor) else offset > descriptor.limit:
        raise general_protection(error)


def task_stack(cpu: Processor, place: int, external: int) -> int:
    """Return the stack pointer at a place in the task-state segment; #TS beyond its limit."""
    if place + 7 > cpu.tr.limit:
        raise Fault(TS, cpu.tr.selector & 0xFFFC | external)
    return cpu.read_system(cpu.tr.base + place, 8)


def push_frame(cpu: Processor, pointer: int, frame: list[int], level: int, external: int) -> int:
    """Store a frame below a stack pointer with the rights of a ring; return where it ends. #SS where not canonical."""
    top = pointer - 8 * len(frame) & 0xFFFF_FFFF_FFFF_FFFF
    if not is_canonical(top) or not is_canonical(pointer - 1 & 0xFFFF_FFFF_FFFF_FFFF):
        raise Fault(STACK_FAULT, external)
    for number, value in enumerate(frame, 1):
        cpu.write_linear(pointer - 8 * number & 0xFFFF_FFFF_FFFF_FFFF, 8, value, user=level == 3)
    return top


def enter_inner_stack(cpu: Processor, level: int) -> None:
    """Load SS as a change to an inner ring does."""
    cpu.segments[SS].set(level, 0, 0, 0, big=False)
