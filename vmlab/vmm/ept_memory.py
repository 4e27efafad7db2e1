"""Nested paging on Intel's processors: extended page tables that the VMCS points to, the log of modified pages, the local APIC's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import PF_WRITE
from vmlab.machine.page_formats_host import EPT_ACCESS_DIRTY, WRITE_BACK, ept
from vmlab.machine.state import check_state
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason
from vmlab.machine.vmx.virtual_apic import APIC_CONTROLS
from vmlab.vmm.assisted_memory import NestedMemory, Resolved
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.nested_paging import LEVELS, NestedPaging
from vmlab.vmm.nested_vmx import NestedVmx
from vmlab.vmm.virtual_apic import VirtualApic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.costs import CostModel
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.assisted_machine import AssistedMachine
    from vmlab.vmm.host_frames import HostFrames
    from vmlab.vmm.virtual_machine import VirtualMachine

__all__ = ["EptMemory"]

LOG_ENTRIES = 512


class EptMemory(NestedMemory):
    """Nested paging with extended page tables.

    Attributes
    ----------
    apic : VirtualApic or None
        The guest's local APIC, where the processor answers for it.
    nested : NestedVmx or None
        What is kept for the guest's own guest, where the guest has VT-x.
    """

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
        self.nested = NestedVmx(vcpu, window, host) if vcpu.has("vmx") else None
        self.apic = VirtualApic(vcpu, host, self.paging.tables) if model.has("apic-registers") else None

    @property
    def lent(self) -> frozenset[int]:
        return frozenset((self.apic.access_page,)) if self.apic else frozenset()

    @property
    def pointer(self) -> int:
        """The EPT pointer: what goes into the VMCS."""
        paging = self.paging
        marks = EPT_ACCESS_DIRTY if paging.logging and paging.by_processor else 0
        return paging.tables.root | LEVELS - 1 << 3 | WRITE_BACK | marks

    def ask(self, machine: VirtualMachine) -> None:
        logs = c.ENABLE_PML if self.paging.logging and self.paging.by_processor else 0
        shadow, registers = (c.USE_TPR_SHADOW, APIC_CONTROLS) if self.apic else (0, 0)
        machine.control(primary=shadow, secondary=c.ENABLE_EPT | c.UNRESTRICTED_GUEST | logs | registers)
        if self.apic:
            self.apic.ask(machine)
        machine.write(f.EPT_POINTER, self.pointer)
        machine.write(f.PML_ADDRESS, self._log)
        machine.write(f.PML_INDEX, LOG_ENTRIES - 1)

    def keep(self, machine: AssistedMachine) -> None:
        super().keep(machine)
        if self.apic:
            self.apic.keep()

    def invalidate(self, machine: VirtualMachine) -> None:  # type: ignore[override]  # it asks for a VMCS, and gets one
        if self.apic:
            self.apic.prepare(machine)
        super().invalidate(machine)
        if self.nested:
            machine.fields[f.EPT_POINTER] = self.pointer
            if self.vcpu.non_root:
                self.nested.merge(machine)

    def follow(self, instruction: Instruction) -> None:
        if self.nested and instruction.mnemonic in ("invept", "invvpid"):
            self.nested.flush()

    def collect(self, machine: VirtualMachine) -> set[int]:  # type: ignore[override]  # as above
        self._drain(machine)
        if self.nested:
            self.nested.flush()
        return super().collect(machine)

    def _drain(self, machine: VirtualMachine) -> None:
        """Take what the processor has logged."""
        memory = self._memory
        for n in range(machine.read(f.PML_INDEX) + 1 & 0xFFFF, LOG_ENTRIES):
            page = memory.read(self._log + 8 * n, 8)
            if self.vcpu.bus.is_ram(page):  # the local APIC's is no page of the guest's memory
                self.paging.dirty.add(page >> 12)
        machine.write(f.PML_INDEX, LOG_ENTRIES - 1)

    def resolve(self, machine: VirtualMachine) -> Resolved:
        reason = machine.read(f.EXIT_REASON)
        if reason == BasicReason.PML_FULL:
            self._drain(machine)
            return Resolved(True, ExitReason.PML_FULL, "")
        if self.apic and reason == BasicReason.APIC_WRITE:
            detail = self.apic.written(machine.read(f.EXIT_QUALIFICATION))
            return Resolved(True, ExitReason.APIC_WRITE, detail)
        write = bool(machine.read(f.EXIT_QUALIFICATION) & PF_WRITE)
        return self.fill(machine.read(f.GUEST_PHYSICAL_ADDRESS), write=write)

    def cycles(self, costs: CostModel) -> int:
        own = self.nested.fills * costs.vmm_nested_fill if self.nested else 0
        return super().cycles(costs) + own

    def save(self) -> dict[str, Any]:
        return {
            "version": 1,
            "paging": super().save(),
            "apic": self.apic.save() if self.apic else None,
            "nested": self.nested.save() if self.nested else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        none = type(None)
        parts = {"apic": dict if self.apic else none, "nested": dict if self.nested else none}
        check_state(state, self.name, {"paging": dict, **parts})
        super().load(state["paging"])
        if self.apic:
            self.apic.load(state["apic"])
        if self.nested:
            self.nested.load(state["nested"])
