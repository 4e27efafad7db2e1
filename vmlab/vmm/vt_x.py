"""The hypervisor `vt-x`: Intel's extensions run the guest in VMX non-root operation.

CR0 and CR4 are the host's in every guest; all ports, all MSRs, CPUID and HLT lead out. A state that no VM entry takes (real
mode, without unrestricted guest) is emulated, instruction by instruction.

Read more: Intel SDM vol. 3, chapters 23 to 28 and 31.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import CR4_PAE, CR4_VMXE, MSR_FEATURE_CONTROL
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx.reasons import BasicReason
from vmlab.vmm.ept_memory import EptMemory
from vmlab.vmm.exits import BY_BASIC_REASON
from vmlab.vmm.hardware_assist import HardwareAssist
from vmlab.vmm.virtual_machine import VirtualMachine

if TYPE_CHECKING:
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor

__all__ = ["VtX"]

NEEDED = (("vmx", "VT-x"), ("ept", "extended page tables"), ("unrestricted-guest", "unrestricted guests"))
ENABLED = 5  # IA32_FEATURE_CONTROL: locked, VMXON allowed


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
    }

    def switch_on(self) -> None:
        """Enter VMX operation."""
        cpu, host = self.machine.cpu, self.host
        cpu.set_cr4(CR4_PAE | CR4_VMXE)
        cpu.write_msr(MSR_FEATURE_CONTROL, ENABLED)
        region = host.allocate()
        self.machine.memory.write(region, 4, c.REVISION)
        failed = cpu.vmx.turn_on(region)
        assert not failed, "VMXON has failed"

    def new_machine(self, vcpu: Processor, number: int) -> VirtualMachine:
        return VirtualMachine(self.machine.cpu, vcpu, self.host, number)

    def new_nested_memory(self, vcpu: Processor, window: MemoryWindow) -> EptMemory:
        return EptMemory(vcpu, window, self.host, self.machine.cpu.model, self.largest_page)
