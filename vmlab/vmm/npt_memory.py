"""Nested paging on AMD's processors: nested page tables in the host's own format, to which the VMCB points.

With PAE paging the four PDPTEs are in registers, which MOV CR3 loads; but these processors read them from memory with each
walk of a guest (AMD APM vol. 2, 15.25.10). So that a guest that changes them in memory sees what it sees on the bare machine,
its CR3 points to a page of the hypervisor's, where they lie as the VCPU has loaded them; its own CR3 leads out then.

That page has a guest-physical address where the guest has nothing; should it look there, it sees its PDPTEs.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import PF_WRITE
from vmlab.isa.x86.registers import CR0_PG, CR4_PAE, EFER_LMA
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.page_formats_host import npt
from vmlab.vmm.assisted_memory import NestedMemory, Resolved
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.nested_paging import LEVELS, NestedPaging

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.assisted_machine import AssistedMachine
    from vmlab.vmm.host_frames import HostFrames
    from vmlab.vmm.vmcb_machine import VmcbMachine

__all__ = ["NptMemory"]

POINTERS = 0xFEF0_0000
"""Guest-physical address of the page with the PDPTEs: between the local APIC and the ROM."""
FOUR = Struct("<4Q")


class NptMemory(NestedMemory):
    """Nested paging with AMD's nested page tables."""

    reason = ExitReason.NESTED_PAGE_FAULT

    def __init__(
        self, vcpu: Processor, window: MemoryWindow, host: HostFrames, model: CpuModel, largest_page: str
    ) -> None:
        format_ = npt(LEVELS, physical_bits=model.physical_bits, gigabyte_pages=model.has("pdpe1gb"))
        super().__init__(vcpu, NestedPaging(window, vcpu.bus, format_, host.allocate, largest_page))
        self._memory, self._pointers = host.memory, host.allocate()
        self._show_pointers()

    @property
    def lent(self) -> frozenset[int]:
        return frozenset((self._pointers,))

    def _show_pointers(self) -> None:
        """Map the page of the PDPTEs; the processor walks it as if it wrote there."""
        self.paging.tables.map(POINTERS, self._pointers)

    @property
    def holds_pointers(self) -> bool:
        """True where the guest has PAE paging, and the hypervisor its PDPTEs."""
        vcpu = self.vcpu
        return bool(vcpu.cr0 & CR0_PG and vcpu.cr4 & CR4_PAE and not vcpu.efer & EFER_LMA)

    def ask(self, machine: VmcbMachine) -> None:
        machine.use_nested(self.paging.tables.root)

    def registers(self, machine: AssistedMachine) -> tuple[int, int, int, int]:
        cr0, cr3, cr4, efer = super().registers(machine)
        if self.holds_pointers:
            cr3 = POINTERS
            self._memory.write_bytes(self._pointers, FOUR.pack(*self.vcpu.pdptes))
        return cr0, cr3, cr4, efer

    def keep(self, machine: AssistedMachine) -> None:
        if not self.holds_pointers:
            super().keep(machine)

    def resolve(self, machine: VmcbMachine) -> Resolved:
        address, code = machine.page_fault()
        if address & -PAGE_SIZE == POINTERS:  # dirty logging has protected it
            self._show_pointers()
            return Resolved(True, self.reason, "PDPTEs")
        return self.fill(address, write=bool(code & PF_WRITE))
