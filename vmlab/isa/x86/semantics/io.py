"""IN and OUT, and who may use a port: IOPL first, then the bitmap in the TSS (SDM vol. 1, 18.5).

In virtual-8086 mode the bitmap alone counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import TSS32_BUSY
from vmlab.isa.x86.faults import general_protection
from vmlab.isa.x86.registers import CR0_PE, VM
from vmlab.isa.x86.semantics.flags import iopl
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

TSS_BITMAP_BASE = 0x66


def check_port(cpu: Processor, port: int, width: int) -> None:
    """Raise #GP(0) where this ring may not use `width` ports from `port`."""
    if not cpu.cr0 & CR0_PE or (cpu.cpl <= iopl(cpu) and not cpu.flags & VM):
        return
    task = cpu.tr
    if task.access & 0x0F != TSS32_BUSY or task.limit < TSS_BITMAP_BASE + 1:
        raise general_protection()
    position = cpu.read_system(task.base + TSS_BITMAP_BASE, 2) + (port >> 3)
    if position + 1 > task.limit:  # the processor reads two bytes, always
        raise general_protection()
    bits = cpu.read_system(task.base + position, 2) >> (port & 7)
    if bits & (1 << width) - 1:
        raise general_protection()


@semantic("in")
def in_(cpu: Processor, i: Instruction) -> None:
    """IN: accumulator = port."""
    destination, port = i.operands
    number = port.read(cpu)
    check_port(cpu, number, i.size >> 3)
    destination.write(cpu, cpu.port_read(number, i.size >> 3))


@semantic("out")
def out(cpu: Processor, i: Instruction) -> None:
    """OUT: port = accumulator."""
    port, source = i.operands
    number = port.read(cpu)
    check_port(cpu, number, i.size >> 3)
    cpu.port_write(number, i.size >> 3, source.read(cpu))
