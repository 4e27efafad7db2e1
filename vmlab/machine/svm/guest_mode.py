"""The part of a processor that runs guests in AMD's way: what differs in a guest of a VMCB.

In the host, and on a processor of the other make, all is as in `vmlab.machine.vmx.non_root`, which has what both share: a
guest's address space in the TLB by its identifier (here the ASID), and walks in two dimensions (here through nested tables
in the host's own format).

With nested paging the PDPTEs of PAE paging are read as part of each walk, and not loaded with CR3 (AMD APM vol. 2, 15.25.10).

Read more: AMD APM vol. 2, 15.12 (exceptions), 15.16 (TLB), 15.21 (interrupts), 15.25 (nested paging).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, cast

from vmlab.isa.x86.faults import DB, GP, PF, Fault
from vmlab.isa.x86.registers import CR4_PAE, DR7_ENABLED, DR7_GD, EFER_LMA, EFER_SVME, MSR_VM_CR, RF
from vmlab.machine.nested_walk import AddressSpace
from vmlab.machine.page_formats_host import npt
from vmlab.machine.svm.boundary import pending_exit, virtual_vector
from vmlab.machine.svm.codes import EXCEPTION, ExitCode, SvmExit
from vmlab.machine.svm.intercepts import look_for
from vmlab.machine.svm.operation import Svm
from vmlab.machine.svm.run import leave
from vmlab.machine.vmx.non_root import NonRoot
from vmlab.machine.walk_faults import HostFault, NestedPageFault

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.guest_exit import GuestExit
    from vmlab.machine.paging import PageTableFormat
    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor
    from vmlab.machine.vmx.context import Context

__all__ = ["GuestMode"]

SVM_DISABLED = 1 << 4  # VM_CR
# EXITINFO2 of a task switch: [ RFLAGS.RF 48 | far jump 38 | IRET 36 ], by the source that the processor tells
BY_IRET, BY_JUMP, FLAG_RF = 1 << 36, 1 << 38, 48
TASK_SOURCES = {1: BY_IRET, 2: BY_JUMP}


@cache
def walked_pdptes(format_: PageTableFormat) -> PageTableFormat:
    """Return PAE paging whose PDPTEs are read from memory."""
    return replace(format_, levels=(replace(format_.levels[0], in_registers=False), *format_.levels[1:]))


class GuestMode(NonRoot):
    """The part of a processor that knows the guest of a VMCB from the host.

    Attributes
    ----------
    svm : Svm
        AMD's extensions for virtualization.
    """

    __slots__ = ("svm",)

    def __init__(self, platform: Platform, model: CpuModel, number: int = 0) -> None:
        self.svm = Svm(cast("Processor", self))
        super().__init__(platform, model, number)

    @property
    def in_guest(self) -> bool:
        """True in a guest of a VMCB."""
        return self.svm.vmcb is not None

    def choose_operation(self, *, non_root: bool) -> None:
        svm = self.svm
        self.watched = svm.watched
        if svm.vmcb is None:
            super().choose_operation(non_root=non_root)
            return
        self.non_root = True
        self.host_space = None if svm.nested is None else self.extended_tables(svm.nested)
        self.exits_io = svm.wants(ExitCode.IOIO)
        self.window = svm.waits
        self._take_translations(self.contexts.pop(self.vpid, None))

    # -- translations --------------------------------------------------------------------------------------------------------

    @property
    def vpid(self) -> int:
        """The ASID in use."""
        return super().vpid if self.svm.vmcb is None else self.svm.asid

    @property
    def is_tagged(self) -> bool:
        return self.in_guest or super().is_tagged

    @property
    def contexts(self) -> dict[int, Context]:
        return self.vmx.contexts if self.vmx.on else self.svm.contexts if self.model.has("svm") else super().contexts

    def extended_tables(self, pointer: int) -> AddressSpace:
        model = self.model
        if not model.has("svm"):
            return super().extended_tables(pointer)
        return AddressSpace(npt(physical_bits=model.physical_bits, gigabyte_pages=model.has("pdpe1gb")), pointer)

    @property
    def page_format(self) -> PageTableFormat:
        found = super().page_format
        nested = self.svm.nested is not None and self.cr4 & CR4_PAE and not self.efer & EFER_LMA
        return walked_pdptes(found) if nested else found

    def _load_pdptes(self, root: int) -> None:
        if self.svm.nested is None:
            super()._load_pdptes(root)

    # -- registers -----------------------------------------------------------------------------------------------------------

    def set_efer(self, value: int) -> None:
        """Load EFER: #GP(0) for SVME where VM_CR has it disabled, too."""
        if value & EFER_SVME and self.msrs.get(MSR_VM_CR, 0) & SVM_DISABLED:
            raise Fault(GP, 0)
        super().set_efer(value)

    @property
    def cr8(self) -> int:
        """The task priority register's bits 7:4; in a guest with V_INTR_MASKING the virtual one."""
        return self.svm.tpr & 0xF if self.svm.masks else super().cr8

    @cr8.setter
    def cr8(self, value: int) -> None:
        svm = self.svm
        self.priority_loads += 1
        if svm.masks:
            svm.tpr = svm.tpr & ~0xF | value
            self.window = svm.waits
            self.flags_changed()
        else:
            self.interrupts.set_tpr(value << 4)

    def time_stamp(self) -> int:
        """Return the time-stamp counter; in a guest with the VMCB's offset."""
        return super().time_stamp() + self.svm.tsc_offset & (1 << 64) - 1

    # -- events --------------------------------------------------------------------------------------------------------------

    @property
    def interruptible(self) -> bool:
        """True where an external interrupt would be taken, or lead out, at this boundary."""
        svm = self.svm
        if not svm.gif:
            return False
        return svm.host_takes_interrupts if svm.masks else super().interruptible

    def pending_exit(self, timer: int | None, *, stuck: bool) -> GuestExit | None:
        if not self.in_guest:
            return super().pending_exit(timer, stuck=stuck)
        return pending_exit(cast("Processor", self), timer=timer is not None, stuck=stuck)

    def virtual_vector(self) -> int | None:
        """Take a virtual interrupt that is due before the next instruction; return its vector."""
        return virtual_vector(cast("Processor", self)) if self.in_guest else None

    def stop_before(self) -> None:
        """Raise #DB where a breakpoint is on the next instruction, before it is even fetched; look whether a VMM wants it."""
        cpu = cast("Processor", self)
        if self.debug[7] & DR7_ENABLED and not self.flags & RF:
            self.look_at_code(cpu.linear_ip)
        if self.watched:
            look_for(cpu, cpu.fetch()[1])

    def leave(self, exit_: GuestExit) -> None:
        if isinstance(exit_, SvmExit):
            leave(cast("Processor", self), exit_)
        else:
            super().leave(exit_)

    def exit_for_shutdown(self) -> GuestExit | None:
        if not self.in_guest:
            return super().exit_for_shutdown()
        return SvmExit(ExitCode.SHUTDOWN) if self.svm.wants(ExitCode.SHUTDOWN) else None

    def before_task_switch(self, selector: int, source: int) -> None:
        if not self.in_guest:
            super().before_task_switch(selector, source)
        elif self.svm.wants(ExitCode.TASK_SWITCH):
            flag = bool(self.flags & RF) << FLAG_RF
            raise SvmExit(ExitCode.TASK_SWITCH, selector, TASK_SOURCES.get(source, 0) | flag)

    def wants_exception(self, vector: int, code: int | None) -> bool:
        if not self.in_guest:
            return super().wants_exception(vector, code)
        return self.svm.wants(EXCEPTION + vector)

    def exit_for_exception(self, vector: int, code: int | None, qualification: int = 0) -> GuestExit:
        """Return the exit that an exception is; #DB shows in DR6 and DR7 what its handler would find there (15.12.2)."""
        if not self.in_guest:
            return super().exit_for_exception(vector, code, qualification)
        if vector == DB:
            self.debug[6] |= qualification
            self.debug[7] &= ~DR7_GD
        return SvmExit(EXCEPTION + vector, code or 0, self.cr2 if vector == PF else 0)

    def page_fault(self, fault: Fault, linear: int) -> Fault:
        """Return what a #PF becomes: itself, with CR2, or an exit, which leaves CR2 alone."""
        if self.in_guest and self.wants_exception(PF, fault.error_code):
            return SvmExit(EXCEPTION + PF, fault.error_code or 0, linear)
        return super().page_fault(fault, linear)

    def _host_fault(self, fault: HostFault) -> GuestExit:
        if isinstance(fault, NestedPageFault):
            return SvmExit(ExitCode.NPF, fault.error_code, fault.guest_physical)
        return super()._host_fault(fault)
