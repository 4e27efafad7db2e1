"""A guest's VMCB, as the hypervisor keeps it: what it asks the processor for, and how a VCPU gets in and out.

The VCPU is what the guest believes; the VMCB is what the processor runs. Most of the two is the same. Of the control registers
the guest has CR3 with nested paging (but for PAE, see `vmlab.vmm.npt_memory`), and TS and MP of CR0; what else changes them leads out, and what the real ones are is a
matter of how memory is virtualized (`vmlab.vmm.assisted_memory`).

What no VMCB has a field for the hypervisor does itself, as others do: general registers, DR0 to DR3, IA32_TSC_AUX; that NMIs
are blocked, whose end it learns by an intercept of IRET; a pending debug trap, which it injects.

Interrupts of the host lead out whatever the guest's IF is (V_INTR_MASKING). An interrupt for the guest that it cannot take
yet is shown to the processor as a virtual one, which leads out as soon as it could be taken. CR8 is the virtual task priority:
writing it leads out where an interrupt waits that it holds back.

Read more: AMD APM vol. 2, 15.5 (VMRUN), 15.13 (interrupts), 15.16 (ASIDs), 15.20 (injection), 15.21 (virtual interrupts).
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import PF
from vmlab.isa.x86.registers import CR0_PG, CR4_PAE, CS, EFER_SVME, ESP, IF, MSR_TSC, MSR_TSC_AUX
from vmlab.machine.guest_exit import VALID, WITH_CODE
from vmlab.machine.state import check_state
from vmlab.machine.svm.codes import CR_READ, CR_WRITE, EXCEPTION, INVALID, ExitCode
from vmlab.machine.svm.guest_state import (
    AREA,
    AREA_BYTES,
    load_guest,
    load_more,
    read_system,
    store_guest,
    store_more,
    write_system,
)
from vmlab.machine.svm.operation import V_IGN_TPR, V_INTR_MASKING, V_IRQ
from vmlab.machine.svm.run import FLUSH_ALL, FLUSH_GUEST
from vmlab.machine.svm.vmcb import CONTROL, FIELDS, Control, Vmcb
from vmlab.vmm.assisted_machine import AssistedMachine
from vmlab.vmm.port_exits import port_instruction
from vmlab.vmm.task_priority import threshold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmlab.machine.processor import Decoded, Processor
    from vmlab.vmm.assisted_memory import AssistedMemory
    from vmlab.vmm.host_frames import HostFrames

__all__ = ["VmcbMachine"]

ALL_ONES = (1 << 64) - 1
EXITCODE = FIELDS["EXITCODE"].offset
IO_IN, IO_STRING, IO_SIZE_SHIFT = 1, 4, 4  # EXITINFO1 of an I/O instruction: bits 6:4 are its bytes
V_CR8 = 0xF  # of the virtual task priority
E = ExitCode
ALWAYS = (
    E.INTR, E.NMI, E.INIT, E.CR0_SEL_WRITE, E.RDPMC, E.CPUID, E.INVD, E.HLT, E.INVLPGA, E.IOIO, E.MSR, E.SHUTDOWN,
    E.VMRUN, E.VMMCALL, E.VMLOAD, E.VMSAVE, E.STGI, E.CLGI, E.SKINIT, E.WBINVD, E.MONITOR, E.MWAIT, E.XSETBV,
    CR_WRITE + 4,
)  # fmt: skip
SHADOWED = (
    CR_READ, CR_WRITE, CR_READ + 3, CR_WRITE + 3, CR_READ + 4, E.INVLPG, E.TASK_SWITCH, EXCEPTION + PF,
)  # fmt: skip
"""What shadow paging wants beside: the guest's own control registers are nowhere but in the VCPU."""


def bits(codes: Iterable[int]) -> int:
    """Return intercepts by exit codes, as one vector."""
    return sum(1 << code for code in codes)


HOLDING_CR3 = bits((CR_READ + 3, CR_WRITE + 3, E.TASK_SWITCH))
"""What is wanted where the real CR3 is not the guest's."""


class VmcbMachine(AssistedMachine):
    """The VMCB of one guest.

    Parameters
    ----------
    cpu : Processor
        The real processor.
    vcpu : Processor
        The guest's.
    host : HostFrames
        Gives the frame.
    number : int
        Its own, from 1.
    maps : tuple of int
        Addresses of the permission maps of ports and MSRs, which refuse all.

    Attributes
    ----------
    vmcb : Vmcb
        Its fields.
    asid : int
        The guest's address-space identifier.
    """

    memory_reasons = {"nested": frozenset({E.NPF}), "shadow": frozenset({EXCEPTION + PF})}  # noqa: RUF012 - a constant
    runs_real_mode = True

    def __init__(self, cpu: Processor, vcpu: Processor, host: HostFrames, number: int, maps: tuple[int, int]) -> None:
        super().__init__(cpu, vcpu)
        self._svm, self._memory = cpu.svm, cpu.memory
        self.vmcb = Vmcb(cpu.memory, host.allocate())
        last = cpu.model.asids - 1
        self.asid = min(number, last)
        self._shares = number >= last  # with all further guests: what is cached for it is dropped at each entry
        self._maps = maps
        self._wanted = self._flush = 0
        self._holds_cr3 = False

    def select(self) -> None:
        """Nothing to do: VMRUN names the VMCB."""

    def use_nested(self, root: int) -> None:
        """Ask for nested paging."""
        self._ask(bits(ALWAYS), root)

    def use_shadow(self) -> None:
        self._ask(bits(ALWAYS + SHADOWED), None)

    def _ask(self, wanted: int, root: int | None) -> None:
        if not self._vcpu.has("rdtscp"):
            wanted |= 1 << E.RDTSCP
        self._wanted = wanted | (0 if self._vcpu.is_alone else bits((E.PAUSE,)))  # one that waits passes its turn on
        for name, value in (
            ("ASID", self.asid), ("IOPM_BASE", self._maps[0]), ("MSRPM_BASE", self._maps[1]),
            ("NESTED_CONTROL", int(root is not None)), ("NESTED_CR3", root or 0),
        ):  # fmt: skip
            self.vmcb.write(name, value)

    # -- memory ------------------------------------------------------------------------------------------------------------

    def real_registers(self, cr0: int, cr4: int) -> tuple[int, int]:
        return cr0, cr4

    def page_fault(self) -> tuple[int, int]:
        return self.vmcb.read("EXITINFO2"), self.vmcb.read("EXITINFO1")

    @property
    def root(self) -> int:
        return self.vmcb.read("CR3")

    def tables(self) -> tuple[int, Sequence[int]]:
        """PDPTEs, where there are any, are the VCPU's, and CR3 with them."""
        cpu, vcpu = self._cpu, self._vcpu
        if self._holds_cr3:
            return vcpu.cr3, vcpu.pdptes
        return cpu.cr3 if cpu.non_root else self.root, vcpu.pdptes

    def invalidate(self, linear: int | None = None) -> None:
        """By INVLPGA, or with the next VMRUN: without flushes by ASID, what is cached for all of them."""
        if linear is not None:
            self._svm.invalidate(linear, self.asid)
        else:
            self._flush = FLUSH_GUEST if self._cpu.has("flush-by-asid") else FLUSH_ALL

    # -- in ------------------------------------------------------------------------------------------------------------------

    def enter(self, memory: AssistedMemory) -> None:
        """Load the VCPU into VMCB and processor, and enter the guest: VMLOAD and VMRUN."""
        cpu, vcpu, vmcb = self._cpu, self._vcpu, self.vmcb
        cr0, cr3, cr4, efer = memory.registers(self)
        area = bytearray(self._memory.read_bytes(vmcb.address + AREA, AREA_BYTES))
        store_guest(vcpu, area)
        store_more(vcpu, area)
        write_system(area, cr0, cr3, cr4, efer | EFER_SVME)
        self._holds_cr3 = cr3 != vcpu.cr3
        self._memory.write_bytes(vmcb.address + AREA, bytes(area))
        memory.invalidate(self)
        self._control()
        host_stack = cpu.registers[ESP]
        cpu.registers[:] = vcpu.registers
        cpu.registers[ESP] = host_stack
        cpu.debug[:4] = vcpu.debug[:4]
        if vcpu.has("rdtscp"):
            cpu.msrs[MSR_TSC_AUX] = vcpu.msrs.get(MSR_TSC_AUX, 0)
        cpu.user_spaces = vcpu.user_spaces if cr3 == vcpu.cr3 else {}
        cpu.flags |= IF  # of the host, for its interrupts
        self._svm.load_more(vmcb.address)
        self._svm.run(vmcb.address)
        self._flush = 0

    def _control(self) -> None:
        """Write the control area: intercepts, the time stamp's offset, flushes, the event to inject."""
        cpu, vcpu = self._cpu, self._vcpu
        address = self.vmcb.address
        old = Control(*CONTROL.unpack(self._memory.read_bytes(address, CONTROL.size)))
        wanted, waits = self._wanted, vcpu.interrupts.output
        if waits:
            wanted |= 1 << E.VINTR
        if vcpu.signals.nmi_blocked:
            wanted |= 1 << E.IRET
        if threshold(vcpu.interrupts):
            wanted |= 1 << CR_WRITE + 8  # one that lets an interrupt in
        if self._holds_cr3:
            wanted |= HOLDING_CR3
        if self._looks_again():
            wanted |= 1 << EXCEPTION + PF
        offset = vcpu.ticks + vcpu.msrs.get(MSR_TSC, 0) - cpu.ticks - cpu.msrs.get(MSR_TSC, 0)
        information, code = self.event or (0, 0)
        new = old._replace(
            cr=wanted & 0xFFFF_FFFF,
            dr=wanted >> 32 & 0xFFFF_FFFF,
            exceptions=wanted >> 64 & 0xFFFF_FFFF,
            instructions=wanted >> 96 & 0xFFFF_FFFF,
            svm=wanted >> 128,
            tsc_offset=offset & ALL_ONES,
            tlb_control=FLUSH_ALL if self._shares else self._flush,
            virtual_interrupt=V_INTR_MASKING | (V_IRQ | V_IGN_TPR if waits else 0) | vcpu.cr8,
            shadow=int(vcpu.interrupt_shadow),
            event=information | code << 32,
        )
        self._memory.write_bytes(address, CONTROL.pack(*new)[:EXITCODE])  # what the last exit told stays to be read
        self.vmcb.write("EVENTINJ", new.event)

    def _looks_again(self) -> bool:
        """Say whether page faults must be looked at again: a bit that is reserved to the guest may be none to the host."""
        vcpu = self._vcpu
        narrower = vcpu.model.physical_bits < self._cpu.model.physical_bits
        return narrower and bool(vcpu.cr0 & CR0_PG and vcpu.cr4 & CR4_PAE)

    # -- out -----------------------------------------------------------------------------------------------------------------

    def reason(self) -> tuple[int, bool]:
        code = self.vmcb.read("EXITCODE")
        return code, code != INVALID

    def port_access(self) -> Decoded | None:
        """Of IN and OUT with the port behind the opcode a VMCB does not tell that it is there: their length gives them away."""
        information = self.vmcb.read("EXITINFO1")
        if information & IO_STRING:
            return None
        length = self.vmcb.read("EXITINFO2") - self._vcpu.ip
        width = information >> IO_SIZE_SHIFT & 7
        return port_instruction(self._vcpu, width, None, length, is_in=bool(information & IO_IN))

    def leave(self, memory: AssistedMemory) -> None:
        """Save VMCB and processor into the VCPU: VMSAVE first."""
        cpu, vcpu, address = self._cpu, self._vcpu, self.vmcb.address
        self._svm.save_more(address)
        area = self._memory.read_bytes(address + AREA, AREA_BYTES)
        vcpu.registers[:] = cpu.registers
        load_guest(vcpu, area)
        load_more(vcpu, area)
        if memory.is_the_guests:
            vcpu.cr0 = read_system(area)[0]
        memory.keep(self)
        vcpu.shadow_at = vcpu.retired if self.vmcb.read("INTERRUPT_SHADOW") else -1
        vcpu.debug[:4] = cpu.debug[:4]
        priority = self.vmcb.read("VIRTUAL_INTERRUPT") & V_CR8
        if priority != vcpu.cr8:
            vcpu.interrupts.set_tpr(priority << 4)
        if vcpu.has("rdtscp") and (cpu.msrs.get(MSR_TSC_AUX) or MSR_TSC_AUX in vcpu.msrs):
            vcpu.msrs[MSR_TSC_AUX] = cpu.msrs[MSR_TSC_AUX]
        cpu.user_spaces = {}
        delivering = self.vmcb.read("EXITINTINFO")
        self.event = None
        if delivering & VALID:
            self.event = delivering & 0xFFFF_FFFF, delivering >> 32 if delivering & WITH_CODE else 0

    def look(self, memory: AssistedMemory) -> Processor:
        cpu, seen = self._cpu, copy(self._vcpu)
        seen.registers, seen.debug, seen.pdptes = list(cpu.registers), list(seen.debug), list(seen.pdptes)
        seen.segments, seen.ldtr, seen.tr = [copy(each) for each in seen.segments], copy(seen.ldtr), copy(seen.tr)
        seen.msrs = dict(seen.msrs)
        area = bytearray(self._memory.read_bytes(self.vmcb.address + AREA, AREA_BYTES))
        if cpu.non_root:
            store_guest(cpu, area)
            write_system(area, cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer)
        store_more(cpu, area)  # VMSAVE is still to come
        load_guest(seen, area)
        load_more(seen, area)
        if memory.is_the_guests:
            seen.cr0 = read_system(area)[0]
            seen.cr3 = self.tables()[0]
        seen.code_64 = seen.long_mode and seen.segments[CS].long
        return seen

    def save(self) -> dict[str, Any]:
        return super().save() | {"flush": self._flush, "holds_cr3": self._holds_cr3}

    def load(self, state: dict[str, Any]) -> None:
        check_state(state, "virtual machine", {"event": object, "flush": range(8), "holds_cr3": bool})
        super().load({"version": 1, "event": state["event"]})
        self._flush, self._holds_cr3 = state["flush"], state["holds_cr3"]
