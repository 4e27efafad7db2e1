"""A guest's local APIC without VM exits: the virtual-APIC page (Intel SDM vol. 3, chapter 29).

A guest whose extended page tables lead its local APIC to the *APIC-access page* does not reach that page: the processor
answers reads from another, the *virtual-APIC page*, which the VMM has filled with what each register reads as. Writes go
there too, and the VMM is told afterwards what was written (a trap-like VM exit, "APIC write"), but for the task priority,
of which it hears only where that falls below a threshold; so it is with CR8, which needs no more than the virtual-APIC page
(29.3). What has no register of its own there, or counts while nobody
writes, is an "APIC access" VM exit before anything has happened.

    register offset:  [ register 11:4 | byte 3:0 ]

Simplified: no virtual-interrupt delivery, no posted interrupts, no x2APIC; a table of the guest's that lies in the page is
read from the frame itself; an access of which another part lies in another page may have written that part. A write of less
than a register, which a local APIC need not understand, is an "APIC access" exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason, VmExit

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = [
    "APIC_CONTROLS",
    "READABLE",
    "TPR",
    "WRITABLE",
    "look_at_apic",
    "read_apic",
    "read_priority",
    "refuse_fetch",
    "write_apic",
    "write_priority",
    "written_exit",
]

APIC_CONTROLS = c.VIRTUALIZE_APIC_ACCESSES | c.APIC_REGISTERS
READ, WRITE, FETCH = range(3)  # access types of the exit qualification, bits 15:12 (table 27-6)
TYPE_SHIFT = 12
TPR = 0x80

READABLE = frozenset({
    0x20, 0x30, TPR, 0xB0, 0xD0, 0xE0, 0xF0, *range(0x100, 0x280, 0x10), 0x280, 0x300, 0x310, 0x320, *range(0x330, 0x380, 0x10),
    0x380, 0x3E0,
})  # fmt: skip
"""Offsets of the registers that a guest reads without an exit (29.4.2): not the current count, and not the PPR."""
WRITABLE = frozenset({0x20, TPR, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, *range(0x320, 0x380, 0x10), 0x380, 0x3E0})
"""Offsets of those that it writes with an exit afterwards (29.4.3)."""


def _access(offset: int, kind: int) -> VmExit:
    return VmExit(BasicReason.APIC_ACCESS, offset | kind << TYPE_SHIFT)


def _answers(cpu: Processor, offset: int, size: int, registers: frozenset[int]) -> bool:
    """Say whether an access lies within the 32 bits of a virtualized register; without register virtualization the TPR alone is."""
    if size > 4 or (offset & 0xF) + size > 4:
        return False
    if cpu.vmx.secondary & c.APIC_REGISTERS:
        return offset & 0xFF0 in registers
    return bool(cpu.vmx.primary & c.USE_TPR_SHADOW) and offset & 0xFF0 == TPR


def look_at_apic(cpu: Processor, offset: int, size: int) -> int | None:
    """Read a register of the virtual-APIC page; None where that is a VM exit."""
    if not _answers(cpu, offset, size, READABLE):
        return None
    return cpu.memory.read(cpu.vmx.fields[f.VIRTUAL_APIC_ADDRESS] + offset, size)


def read_apic(cpu: Processor, offset: int, size: int) -> int:
    """Read a register for an instruction of the guest; VmExit where the VMM must answer."""
    value = look_at_apic(cpu, offset, size)
    if value is None:
        raise _access(offset, READ)
    return value


def write_apic(cpu: Processor, offset: int, size: int, value: int) -> None:
    """Write a register for an instruction of the guest; VmExit where the VMM must do it."""
    vmx = cpu.vmx
    if size != 4 or not _answers(cpu, offset, size, WRITABLE):
        raise _access(offset, WRITE)
    page = vmx.fields[f.VIRTUAL_APIC_ADDRESS]
    cpu.memory.write(page + offset, size, value)
    if offset & 0xFF0 != TPR:
        vmx.apic_write = offset & 0xFF0
    else:
        cpu.memory.write(page + TPR + 1, 3, 0)
        if not _falls_below(cpu):
            return
        vmx.apic_write = TPR
    cpu.flags_changed()


def _falls_below(cpu: Processor) -> bool:
    """Say whether the virtual task priority is below the threshold."""
    return read_priority(cpu) < cpu.vmx.fields[f.TPR_THRESHOLD] & 0xF


def read_priority(cpu: Processor) -> int:
    """Read CR8: bits 7:4 of the virtual task priority."""
    return cpu.memory.read(cpu.vmx.fields[f.VIRTUAL_APIC_ADDRESS] + TPR, 1) >> 4


def write_priority(cpu: Processor, value: int) -> None:
    """Write CR8."""
    cpu.priority_loads += 1
    cpu.memory.write(cpu.vmx.fields[f.VIRTUAL_APIC_ADDRESS] + TPR, 4, value << 4)
    if _falls_below(cpu):
        cpu.vmx.apic_write = TPR
        cpu.flags_changed()


def written_exit(cpu: Processor) -> VmExit:
    """Return the VM exit that follows an instruction which has written a register."""
    offset, cpu.vmx.apic_write = cpu.vmx.apic_write, None
    assert offset is not None
    if offset == TPR:
        return VmExit(BasicReason.TPR_BELOW_THRESHOLD)
    return VmExit(BasicReason.APIC_WRITE, offset)


def refuse_fetch(linear: int) -> VmExit:
    """Return the VM exit that an instruction fetched from the APIC-access page is."""
    return _access(linear & 0xFFF, FETCH)
