"""Nested paging on Intel's processors: extended page tables that the VMCS points to, and the log of modified pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import PF_WRITE
from vmlab.machine.page_formats_host import EPT_ACCESS_DIRTY, WRITE_BACK, ept
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason
from vmlab.vmm.assisted_memory import NestedMemory, Resolved
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.nested_paging import LEVELS, NestedPaging

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.host_frames import HostFrames
    from vmlab.vmm.virtual_machine import VirtualMachine

__all__ = ["EptMemory"]

LOG_ENTRIES = 512


class EptMemory(NestedMemory):
    """Nested paging with extended page tables."""

    reason = ExitReason.EPT_VIOLATION

    def __init__(
        self, vcpu: Processor, window: MemoryWindow, host: HostFrames, model: CpuModel, largest_page: str
    ) -> None:
        format_ = ept(LEVELS, physical_bits=model.physical_bits, execute_only=False, largest_page=largest_page)
        by_processor = model.has("pml")
        super().__init__(
            vcpu, NestedPaging(window, vcpu.bus, format_, host.allocate, largest_page, by_processor=by_processor)
        )
        self._log, self._memory = host.allocate(), host.memory

    @property
    def pointer(self) -> int:
        """The EPT pointer: what goes into the VMCS."""
        paging = self.paging
        marks = EPT_ACCESS_DIRTY if paging.logging and paging.by_processor else 0
        return paging.tables.root | LEVELS - 1 << 3 | WRITE_BACK | marks

    def ask(self, machine: VirtualMachine) -> None:
        logs = c.ENABLE_PML if self.paging.logging and self.paging.by_processor else 0
        machine.control(secondary=c.ENABLE_EPT | c.UNRESTRICTED_GUEST | logs)
        machine.write(f.EPT_POINTER, self.pointer)
        machine.write(f.PML_ADDRESS, self._log)
        machine.write(f.PML_INDEX, LOG_ENTRIES - 1)

    def collect(self, machine: VirtualMachine) -> set[int]:  # type: ignore[override]  # it asks for a VMCS, and gets one
        self._drain(machine)
        return super().collect(machine)

    def _drain(self, machine: VirtualMachine) -> None:
        """Take what the processor has logged."""
        memory = self._memory
        for n in range(machine.read(f.PML_INDEX) + 1 & 0xFFFF, LOG_ENTRIES):
            self.paging.dirty.add(memory.read(self._log + 8 * n, 8) >> 12)
        machine.write(f.PML_INDEX, LOG_ENTRIES - 1)

    def resolve(self, machine: VirtualMachine) -> Resolved:
        if machine.read(f.EXIT_REASON) == BasicReason.PML_FULL:
            self._drain(machine)
            return Resolved(True, ExitReason.PML_FULL, "")
        write = bool(machine.read(f.EXIT_QUALIFICATION) & PF_WRITE)
        return self.fill(machine.read(f.GUEST_PHYSICAL_ADDRESS), write=write)
