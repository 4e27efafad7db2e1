"""The hypervisor `amd-v`: AMD's extensions run the guest of a VMCB.

With nested paging the guest changes CR0.TS and CR3 itself (the latter not with PAE paging, whose PDPTEs are the
hypervisor's); with shadow paging all accesses to CR0, CR3 and CR4 lead out. A guest in real mode runs in either: without
nested paging in paged real mode, which only these processors have.

Read more: AMD APM vol. 2, chapter 15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import DB
from vmlab.isa.x86.registers import DR7_GD, EFER_SVME, ESP, MSR_EFER, MSR_VM_HSAVE_PA
from vmlab.machine.guest_exit import HARDWARE_EXCEPTION, TYPE_SHIFT
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.svm.checks import IOPM_BYTES, MSRPM_BYTES
from vmlab.machine.svm.codes import ExitCode
from vmlab.vmm.exits import BY_EXIT_CODE, ExitReason
from vmlab.vmm.hardware_assist import HardwareAssist
from vmlab.vmm.npt_memory import NptMemory
from vmlab.vmm.vmcb_machine import VmcbMachine

if TYPE_CHECKING:
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest

__all__ = ["AmdV"]

NEEDED = (("svm", "AMD-V"), ("npt", "nested page tables"))


class AmdV(HardwareAssist):
    """Hardware assistance on AMD-V."""

    technique = "amd-v"
    name = "AMD-V VMM"
    needed = {"nested": NEEDED, "shadow": NEEDED[:1]}  # noqa: RUF012 - a constant, as the base declares
    exit_names = BY_EXIT_CODE

    def switch_on(self) -> None:
        """Set EFER.SVME, and hold interrupts back but in guests; make permission maps that refuse all."""
        cpu, host = self.machine.cpu, self.host
        cpu.write_msr(MSR_EFER, cpu.efer | EFER_SVME)
        cpu.write_msr(MSR_VM_HSAVE_PA, host.allocate())
        cpu.svm.set_global(on=False)
        cpu.ip, cpu.registers[ESP] = host.entry, host.stack_top  # where an exit leads to is where VMRUN is
        iopm, msrpm = host.allocate_run(IOPM_BYTES // PAGE_SIZE), host.allocate_run(MSRPM_BYTES // PAGE_SIZE)
        for address, size in ((iopm, IOPM_BYTES), (msrpm, MSRPM_BYTES)):
            self.machine.memory.write_bytes(address, b"\xff" * size)
        self.maps = iopm, msrpm

    def new_machine(self, vcpu: Processor, number: int) -> VmcbMachine:
        return VmcbMachine(self.machine.cpu, vcpu, self.host, number, self.maps)

    def new_nested_memory(self, vcpu: Processor, window: MemoryWindow) -> NptMemory:
        return NptMemory(vcpu, window, self.host, self.machine.cpu.model, self.largest_page)

    # -- exits -----------------------------------------------------------------------------------------------------------

    def take_interrupt(self, guest: Guest, reason: int) -> None:
        """Take the interrupt that waits. Where none does, the guest has taken exceptions and nothing else for long."""
        machine, cpu = self.machine, self.machine.cpu
        due = machine.counter_limit is not None and cpu.retired >= machine.counter_limit
        if not due and not cpu.interrupts.output:
            self.stuck(guest, reason)
            return
        if due:
            machine.counter_limit = None
        if cpu.interrupts.output:
            cpu.interrupts.acknowledge()
        self.go_on(guest, reason)

    def access_msr(self, guest: Guest, reason: int) -> None:
        """Execute RDMSR or WRMSR, which EXITINFO1 tells apart."""
        machine = self.machines[self.slot]
        assert isinstance(machine, VmcbMachine)
        self.emulate(guest, reason, ExitReason.WRMSR if machine.vmcb.read("EXITINFO1") else ExitReason.RDMSR)

    handlers = {  # noqa: RUF012 - a constant, as the base declares
        ExitCode.INTR: take_interrupt,
        ExitCode.NMI: HardwareAssist.go_on,
        ExitCode.VINTR: HardwareAssist.go_on,
        ExitCode.SHUTDOWN: HardwareAssist.shut_down,
        ExitCode.MSR: access_msr,
        ExitCode.IOIO: HardwareAssist.access_port,
    }

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def pend_debug(self, guest: Guest) -> None:
        """Inject the trap: a VMCB holds none that is pending."""
        vcpu = guest.vcpu
        vcpu.debug[6] |= vcpu.debug_causes
        vcpu.debug[7] &= ~DR7_GD
        vcpu.debug_causes = 0
        self.inject(HARDWARE_EXCEPTION << TYPE_SHIFT | DB)

    def inject_nmi(self, guest: Guest) -> None:
        """Note that others are blocked, too: a VMCB does not tell."""
        super().inject_nmi(guest)
        guest.vcpu.signals.block_nmi(blocked=True)

    def enter(self, guest: Guest, instructions: int) -> None:
        """Enter a guest; where an NMI waits for the end of an interrupt shadow or of a delivery, for just so long."""
        if guest.vcpu.signals.has_nmi:
            instructions = 0 if self.machines[self.slot].event else 1
        super().enter(guest, instructions)
