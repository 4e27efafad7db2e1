"""Loading segment registers from the descriptor tables (SDM vol. 3, 5.6 to 5.8).

Each check of the manual stands in its order, with its fault: a selector beyond the table #GP, a wrong type or
privilege #GP, not present #NP (#SS for the stack). The accessed bit is set in the table.

In real mode a selector is a paragraph number: it sets the base alone, and the hidden limit and rights stay as protected
mode left them ("unreal mode"). In virtual-8086 mode limit and rights are fixed (SDM vol. 3, 20.1 and 20.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.descriptors import ACCESSED, PRESENT, TABLE_INDICATOR, Descriptor
from vmlab.isa.x86.faults import GP, NP, Fault, general_protection
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.registers import CR0_PE, SS, VM

if TYPE_CHECKING:
    from vmlab.isa.x86.descriptors import SegmentRegister
    from vmlab.isa.x86.semantics.processor import Processor


DATA_REAL = 0x93
"""Access byte of a segment in real mode after power-on: present, data, writable, accessed."""
ACCESS_VIRTUAL_8086 = 0xF3
"""The same with DPL 3: what every segment has in virtual-8086 mode."""


def has_real_segments(cpu: Processor) -> bool:
    """Say whether selectors are paragraph numbers: in real mode and in virtual-8086 mode."""
    return not cpu.cr0 & CR0_PE or bool(cpu.flags & VM)


def set_virtual_8086(register: SegmentRegister, selector: int) -> None:
    """Load a segment register as virtual-8086 mode does."""
    register.set(selector, selector << 4, 0xFFFF, ACCESS_VIRTUAL_8086, big=False)


def descriptor_address(cpu: Processor, selector: int, size: int = 8) -> int | None:
    """Return the linear address of the descriptor of `selector`, or None where the table does not hold all of it."""
    index = selector & 0xFFF8
    if selector & TABLE_INDICATOR:
        table = cpu.ldtr
        return table.base + index if table.access and index + size - 1 <= table.limit else None
    return cpu.gdtr_base + index if index + size - 1 <= cpu.gdtr_limit else None


def read_descriptor(
    cpu: Processor, selector: int, vector: int = GP, external: int = 0, *, wide: bool = False
) -> tuple[Descriptor, int]:
    """Return the descriptor and its linear address; raise `vector` with the selector where there is none.

    `wide`: a system descriptor of long mode, of 16 bytes.
    """
    size = 16 if wide else 8
    address = descriptor_address(cpu, selector, size)
    if address is None:
        raise Fault(vector, selector & 0xFFFC | external)
    return Descriptor(sum(cpu.read_system(address + n, 4) << 8 * n for n in range(0, size, 4))), address


def mark_accessed(cpu: Processor, descriptor: Descriptor, address: int) -> int:
    """Set the accessed bit in the table where it is clear; return the access byte."""
    access = descriptor.access
    if not access & ACCESSED:
        access |= ACCESSED
        cpu.write_system(address + 5, 1, access)
    return access


def fill(register: SegmentRegister, selector: int, descriptor: Descriptor, access: int) -> None:
    """Load a segment register with what its descriptor says."""
    register.set(selector, descriptor.base, descriptor.limit, access, big=descriptor.big, long=descriptor.long)


def load_segment(cpu: Processor, index: int, selector: int) -> None:
    """Load ES, SS, DS, FS or GS as MOV and POP do."""
    register = cpu.segments[index]
    if not cpu.cr0 & CR0_PE:
        if not register.access:  # a null selector of protected mode
            register.set(0, 0, 0xFFFF, DATA_REAL, big=False)
        register.set(selector, selector << 4, register.limit, register.access, big=register.big)
    elif cpu.flags & VM:
        set_virtual_8086(register, selector)
    elif index == SS:
        load_stack_segment(cpu, selector, cpu.cpl)
    else:
        load_data_segment(cpu, index, selector)
    cpu.segment_changed()


def load_data_segment(cpu: Processor, index: int, selector: int) -> None:
    """Load ES, DS, FS or GS. A null selector loads, and faults when used."""
    if not selector & 0xFFFC:
        cpu.segments[index].set(selector, 0, 0, 0, big=False)
        return
    descriptor, address = read_descriptor(cpu, selector)
    if not descriptor.is_readable:
        raise general_protection(selector & 0xFFFC)
    if not descriptor.is_conforming and descriptor.dpl < max(selector & 3, cpu.cpl):
        raise general_protection(selector & 0xFFFC)
    if not descriptor.present:
        raise Fault(NP, selector & 0xFFFC)
    fill(cpu.segments[index], selector, descriptor, mark_accessed(cpu, descriptor, address))


def checked_stack_segment(
    cpu: Processor, selector: int, level: int, vector: int = GP, external: int = 0
) -> tuple[Descriptor, int]:
    """Return the descriptor of a stack segment for privilege `level`, with every check.

    `vector` is the fault of a bad selector: #GP for software's loads, #TS for one from the TSS.
    """
    if not selector & 0xFFFC:
        raise Fault(vector, external)
    error = selector & 0xFFFC | external
    descriptor, address = read_descriptor(cpu, selector, vector, external)
    if selector & 3 != level or descriptor.dpl != level or not descriptor.is_writable:
        raise Fault(vector, error)
    if not descriptor.present:
        raise Fault(STACK_FAULT, error)
    return descriptor, address


def load_stack_segment(cpu: Processor, selector: int, level: int) -> None:
    """Load SS for privilege `level`."""
    if is_null_stack(selector, level, code_64=cpu.code_64):
        cpu.segments[SS].set(selector, 0, 0, 0, big=False)
        return
    descriptor, address = checked_stack_segment(cpu, selector, level)
    fill(cpu.segments[SS], selector, descriptor, mark_accessed(cpu, descriptor, address))


def is_null_stack(selector: int, level: int, *, code_64: bool) -> bool:
    """Say whether SS may hold this null selector: in 64-bit code of rings 0 to 2, where SS is not used."""
    return code_64 and not selector & 0xFFFC and selector & 3 == level < 3


def system_segment(cpu: Processor, selector: int, kinds: tuple[int, ...]) -> tuple[Descriptor, int]:
    """Return the GDT's system descriptor of `selector`, of one of the types `kinds` and present."""
    if not selector & 0xFFFC or selector & TABLE_INDICATOR:
        raise general_protection(selector & 0xFFFC)
    descriptor, address = read_descriptor(cpu, selector, wide=cpu.long_mode)
    if descriptor.is_segment or descriptor.type not in kinds:
        raise general_protection(selector & 0xFFFC)
    if descriptor.upper_type or not is_canonical(descriptor.base):
        raise general_protection(selector & 0xFFFC)
    if not descriptor.access & PRESENT:
        raise Fault(NP, selector & 0xFFFC)
    return descriptor, address
