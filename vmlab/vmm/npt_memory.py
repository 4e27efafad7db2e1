"""Nested paging on AMD's processors: nested page tables in the host's own format, to which the VMCB points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import PF_WRITE
from vmlab.machine.page_formats_host import npt
from vmlab.vmm.assisted_memory import NestedMemory, Resolved
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.nested_paging import LEVELS, NestedPaging

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.host_frames import HostFrames
    from vmlab.vmm.vmcb_machine import VmcbMachine

__all__ = ["NptMemory"]


class NptMemory(NestedMemory):
    """Nested paging with AMD's nested page tables."""

    reason = ExitReason.NESTED_PAGE_FAULT

    def __init__(
        self, vcpu: Processor, window: MemoryWindow, host: HostFrames, model: CpuModel, largest_page: str
    ) -> None:
        format_ = npt(LEVELS, physical_bits=model.physical_bits, gigabyte_pages=model.has("pdpe1gb"))
        super().__init__(vcpu, NestedPaging(window, vcpu.bus, format_, host.allocate, largest_page))

    def ask(self, machine: VmcbMachine) -> None:
        machine.use_nested(self.paging.tables.root)

    def resolve(self, machine: VmcbMachine) -> Resolved:
        address, code = machine.page_fault()
        return self.fill(address, write=bool(code & PF_WRITE))
