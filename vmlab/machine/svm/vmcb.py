"""The virtual machine control block: 4 KiB of physical memory that describe a guest (AMD APM vol. 2, appendix B).

The control area (tables B-1) says what leads out of the guest and why it has left; the state save area (table B-2), from
offset 400H on, holds its registers. A hypervisor reads and writes it as memory; a processor may keep what it likes of it in
itself between VMRUN and #VMEXIT, and here does so.

Left out is what is not modelled: nested and encrypted guests, AVIC, branch records, shadow stacks. Clean bits are never
needed, since everything is read anew.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmlab.machine.memory_parts import Memory

__all__ = ["CONTROL", "FIELDS", "Control", "Field", "Vmcb"]

# name, offset, bytes, group, what it is
TEXT = """
CR_INTERCEPTS          000 4 control   reads of CR0 to CR15 in bits 15:0, writes in 31:16
DR_INTERCEPTS          004 4 control   the same of debug registers
EXCEPTION_INTERCEPTS   008 4 control   by vector
INTERCEPTS             00C 4 control   see `vmlab.machine.svm.codes`
SVM_INTERCEPTS         010 4 control   the same
PAUSE_FILTER_THRESHOLD 03C 2 control   not modelled
PAUSE_FILTER_COUNT     03E 2 control   not modelled
IOPM_BASE              040 8 control   physical address of the I/O permission map
MSRPM_BASE             048 8 control   physical address of the MSR permission map
TSC_OFFSET             050 8 control   added to the time-stamp counter
ASID                   058 4 control   address-space identifier
TLB_CONTROL            05C 1 control   what to flush on VMRUN
VIRTUAL_INTERRUPT      060 8 control   V_TPR 7:0, V_IRQ 8, V_INTR_PRIO 19:16, V_IGN_TPR 20, V_INTR_MASKING 24, vector 39:32
INTERRUPT_SHADOW       068 8 control   bit 0: the guest is in an interrupt shadow
EXITCODE               070 8 exit      why the guest has left
EXITINFO1              078 8 exit      more about it
EXITINFO2              080 8 exit      more about it
EXITINTINFO            088 8 exit      the event that was being delivered
NESTED_CONTROL         090 8 control   bit 0: nested paging
EVENTINJ               0A8 8 control   the event to inject on VMRUN
NESTED_CR3             0B0 8 control   root of the nested page tables
VMCB_CLEAN             0C0 4 control   what has not changed: not needed
NRIP                   0C8 8 exit      where the next instruction is
FETCHED                0D0 1 exit      how many bytes of the instruction follow
INSTRUCTION_BYTES      0D1 15 exit     the instruction, after a page fault
CPL                    4CB 1 guest     privilege level
EFER                   4D0 8 guest     extended feature enable register
CR4                    548 8 guest     control register
CR3                    550 8 guest     control register
CR0                    558 8 guest     control register
DR7                    560 8 guest     debug register
DR6                    568 8 guest     debug register
RFLAGS                 570 8 guest     flags
RIP                    578 8 guest     instruction pointer
RSP                    5D8 8 guest     stack pointer
RAX                    5F8 8 guest     accumulator
STAR                   600 8 more      of SYSCALL
LSTAR                  608 8 more      of SYSCALL
CSTAR                  610 8 more      of SYSCALL
SFMASK                 618 8 more      of SYSCALL
KERNEL_GS_BASE         620 8 more      of SWAPGS
SYSENTER_CS            628 8 more      of SYSENTER
SYSENTER_ESP           630 8 more      of SYSENTER
SYSENTER_EIP           638 8 more      of SYSENTER
CR2                    640 8 guest     control register
G_PAT                  668 8 guest     page attribute table, with nested paging
"""
SEGMENTS = (
    ("ES", 0x400, "guest"), ("CS", 0x410, "guest"), ("SS", 0x420, "guest"), ("DS", 0x430, "guest"), ("FS", 0x440, "more"),
    ("GS", 0x450, "more"), ("GDTR", 0x460, "guest"), ("LDTR", 0x470, "more"), ("IDTR", 0x480, "guest"), ("TR", 0x490, "more"),
)  # fmt: skip
PARTS = (("SELECTOR", 0, 2), ("ATTRIBUTES", 2, 2), ("LIMIT", 4, 4), ("BASE", 8, 8))


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes
    ----------
    name : str
        As in the manual, in capitals.
    offset, size : int
        Where it lies in the VMCB, and how many bytes it has.
    group : str
        `"control"`, `"exit"` (what #VMEXIT tells), `"guest"` (what VMRUN loads) or `"more"` (what VMLOAD loads).
    meaning : str
        What it is.
    """

    name: str
    offset: int
    size: int
    group: str
    meaning: str


def _parse() -> dict[str, Field]:
    found = []
    for line in TEXT.split("\n"):
        if line:
            name, offset, size, group, meaning = line.split(maxsplit=4)
            found.append(Field(name, int(offset, 16), int(size), group, meaning))
    for name, place, group in SEGMENTS:
        found += [Field(f"{name}_{part}", place + at, size, group, "segment register") for part, at, size in PARTS]
    return {field.name: field for field in sorted(found, key=lambda each: each.offset)}


FIELDS: dict[str, Field] = _parse()
"""The fields by name, in the order of their offsets."""


class Vmcb:
    """A VMCB as software sees it: fields in memory.

    Parameters
    ----------
    memory : Memory
        Physical memory.
    address : int
        Where it lies.
    """

    def __init__(self, memory: Memory, address: int) -> None:
        self._memory = memory
        self.address = address

    def read(self, name: str) -> int:
        """Read a field."""
        field = FIELDS[name]
        return self._memory.read(self.address + field.offset, field.size)

    def write(self, name: str, value: int) -> None:
        """Write a field."""
        field = FIELDS[name]
        self._memory.write(self.address + field.offset, field.size, value)


class Control(NamedTuple):
    """The control area, as VMRUN reads it: all but what #VMEXIT writes."""

    cr: int
    dr: int
    exceptions: int
    instructions: int
    svm: int
    iopm: int
    msrpm: int
    tsc_offset: int
    asid: int
    tlb_control: int
    virtual_interrupt: int
    shadow: int
    nested: int
    event: int
    nested_cr3: int


CONTROL = struct.Struct("<IIIII44xQQQIB3xQQ32xQ16xQQ")
"""The control area up to offset 0B8H, as `Control` has it."""
