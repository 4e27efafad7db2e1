"""The hypervisor `vt-x`: Intel's extensions run the guest in VMX non-root operation.

CR0 and CR4 are the host's in every guest; all ports, all MSRs, CPUID and HLT lead out. A state that no VM entry takes (real
mode, without unrestricted guest) is emulated, instruction by instruction.

Read more: Intel SDM vol. 3, chapters 23 to 28 and 31.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmlab.isa.x86.registers import CR4_PAE, CR4_VMXE, MSR_FEATURE_CONTROL, RF
from vmlab.machine.machine import LIVELOCK
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason, VmExit
from vmlab.vmm.ept_memory import EptMemory
from vmlab.vmm.exits import BY_BASIC_REASON, ExitReason
from vmlab.vmm.hardware_assist import HardwareAssist
from vmlab.vmm.nested_vmx import FRAMES, HIDDEN, NestedVmx
from vmlab.vmm.virtual_machine import VirtualMachine

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.guest_exit import GuestExit
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.host_frames import HostFrames

__all__ = ["VtX", "switch_on"]

NEEDED = (("vmx", "VT-x"), ("ept", "extended page tables"), ("unrestricted-guest", "unrestricted guests"))
ENABLED = 5  # IA32_FEATURE_CONTROL: locked, VMXON allowed


def switch_on(cpu: Processor, host: HostFrames) -> None:
    """Enter VMX operation, as a kernel does once: VMXON."""
    cpu.set_cr4(CR4_PAE | CR4_VMXE)
    cpu.write_msr(MSR_FEATURE_CONTROL, ENABLED)
    region = host.allocate()
    cpu.memory.write(region, 4, c.REVISION)
    failed = cpu.vmx.turn_on(region)
    assert not failed, "VMXON has failed"


class VtX(HardwareAssist):
    """Hardware assistance on VT-x."""

    technique = "vt-x"
    name = "VT-x VMM"
    needed = {"nested": NEEDED, "shadow": NEEDED[:1]}  # noqa: RUF012 - a constant, as the base declares
    exit_names = BY_BASIC_REASON
    handlers = {  # noqa: RUF012 - as above
        BasicReason.EXTERNAL_INTERRUPT: HardwareAssist.go_on,
        BasicReason.INTERRUPT_WINDOW: HardwareAssist.go_on,
        BasicReason.NMI_WINDOW: HardwareAssist.go_on,
        BasicReason.TPR_BELOW_THRESHOLD: HardwareAssist.go_on,
        BasicReason.TRIPLE_FAULT: HardwareAssist.shut_down,
        BasicReason.NOTIFY: HardwareAssist.stuck,
        BasicReason.IO_INSTRUCTION: HardwareAssist.access_port,
    }

    def switch_on(self) -> None:
        """Enter VMX operation."""
        switch_on(self.machine.cpu, self.host)

    def new_machine(self, vcpu: Processor, number: int) -> VirtualMachine:
        return VirtualMachine(self.machine.cpu, vcpu, self.host, number)

    def new_nested_memory(self, vcpu: Processor, window: MemoryWindow) -> EptMemory:
        return EptMemory(vcpu, window, self.host, self.machine.cpu.model, self.largest_page)

    # -- guests that are hypervisors: see `vmlab.vmm.nested_vmx` -----------------------------------------------------------

    def guest_model(self, model: CpuModel) -> CpuModel:
        """With nested paging a guest has VT-x, too, if its model has, but for some features of it."""
        return model.without(*HIDDEN) if self.memory_virtualization == "nested" else super().guest_model(model)

    def frames_of(self, model: CpuModel) -> int:
        return FRAMES if model.has("vmx") else 0

    def _nested(self) -> tuple[VirtualMachine, EptMemory, NestedVmx]:
        memory = cast("EptMemory", self.memories[self.slot])
        assert memory.nested is not None, "the guest has no VT-x"
        return cast("VirtualMachine", self.machines[self.slot]), memory, memory.nested

    def answer(self, guest: Guest, reason: int) -> None:
        if not guest.vcpu.non_root:
            super().answer(guest, reason)
            return
        machine, memory, nested = self._nested()
        exit_ = None
        if reason == BasicReason.EPT_VIOLATION and guest.vcpu.host_space is not None:
            gpa = machine.read(f.GUEST_PHYSICAL_ADDRESS)
            if nested.fill(gpa, machine.read(f.EXIT_QUALIFICATION), memory):
                self.count_exit(ExitReason.EPT_VIOLATION, f"{gpa:#x} of its own guest")
            else:
                self.emulate(guest, reason)
            return
        if reason == BasicReason.EXCEPTION_OR_NMI:
            exit_ = nested.exception(machine)
        elif reason == BasicReason.MONITOR_TRAP_FLAG:
            exit_ = VmExit(BasicReason(reason))
        elif reason in (BasicReason.TRIPLE_FAULT, BasicReason.NOTIFY):
            guest.vcpu.flags &= ~RF  # of what would have been pushed
            exit_ = VmExit(BasicReason(reason))
        if exit_ is None:
            super().answer(guest, reason)
        else:
            self.count_exit(self.exit_names[BasicReason(reason)], "of its own guest")
            self.hand_on(guest, exit_)

    def hand_on(self, guest: Guest, exit_: GuestExit) -> None:
        machine, _, nested = self._nested()
        nested.reflect(machine, cast("VmExit", exit_))

    def enter(self, guest: Guest, instructions: int) -> None:
        """Enter a guest; where its own guest takes an event now and is to be left then, before the next instruction."""
        vcpu, event = guest.vcpu, self.machines[self.slot].event
        if vcpu.non_root and event and vcpu.is_exit_waiting:
            instructions = 0
        super().enter(guest, max(0, min(instructions, vcpu.timer_limit - vcpu.retired)))

    def own_guest(self, guest: Guest) -> None:
        """Let the event that the guest injects come first; see whether it is due to get its processor back."""
        vcpu, (machine, *_) = guest.vcpu, self._nested()
        if vcpu.injected is not None:
            information, code, length = vcpu.injected
            vcpu.injected, machine.event = None, (information, code)
            machine.write(f.ENTRY_INSTRUCTION_LENGTH, length)
            return
        stuck = vcpu.barren >= LIVELOCK
        exit_ = vcpu.pending_exit(None, stuck=stuck)
        if exit_ is None and vcpu.halted and not vcpu.debug_pending:
            self.sleep(guest)
            exit_ = vcpu.pending_exit(None, stuck=stuck)
        if exit_ is not None:
            self.hand_on(guest, exit_)
