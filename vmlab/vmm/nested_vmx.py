"""A guest that is itself a hypervisor: VT-x for it, and its own guest on the processor (nested virtualization).

In the field's words the host is L0, the guest that is a hypervisor L1, and its guest L2. An instruction of VMX that L1
executes is a VM exit, and is executed on the VCPU, whose VMCS it works on: the VCPU enters non-root operation where L1
launches L2. L2 then runs directly, on a VMCS that asks for all that L0 or L1 wants, and on extended page tables that lead
from L2's physical addresses to the host's: what L1's tables and L0's say together, filled page by page.

A VM exit of L2 is L0's where L0's tables had not been filled or its timer came; otherwise what has exited is done on the
VCPU, in non-root operation: the VCPU knows from its own VMCS whether L1 wants to see it. Then it is a VM exit of the VCPU,
which goes on in L1, at L1's entry point. L1's VMX-preemption timer is the VCPU's, on its virtual time: L0 gives L2 the
processor for no longer than that.

Simplified: L2's tables follow L1's when L1 says INVEPT, and not before; one set of them is kept, for the last root. L1 sees no
dirty bits in extended page tables, no log of modified pages, no virtual APIC.

Read more: Ben-Yehuda et al., "The Turtles Project", OSDI 2010; Intel SDM vol. 3, 25.1.2, 28.3.3.4 (INVEPT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import PF
from vmlab.machine.cpu_features import VIRTUALIZATION
from vmlab.machine.guest_exit import VALID, WITH_CODE
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.page_formats_host import WRITE_BACK, ept
from vmlab.machine.page_tables import PageTables
from vmlab.machine.state import COUNT, QUAD, WORD, check_state
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.intercepts import shown
from vmlab.machine.vmx.reasons import BasicReason, VmExit
from vmlab.machine.vmx.virtual_apic import APIC_CONTROLS
from vmlab.vmm.nested_paging import LEVELS

if TYPE_CHECKING:
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.ept_memory import EptMemory
    from vmlab.vmm.host_frames import HostFrames
    from vmlab.vmm.virtual_machine import VirtualMachine

__all__ = ["FRAMES", "HIDDEN", "NestedVmx"]

FRAMES = 48
"""Frames for the tables of an L2: when they are used up, all are dropped and filled anew; more than one instruction can need."""
MOST_AT_ONCE = LEVELS - 1
HIDDEN = frozenset(VIRTUALIZATION) - {
    "vmx", "ept", "vpid", "unrestricted-guest", "tpr-shadow", "monitor-trap-flag", "preemption-timer",
}  # fmt: skip
"""Features for virtualization that an L1 does not get."""
L2_VPIDS = 0x8000
"""Added to a guest's VPID: that of its own guest."""
# Controls that make exits: L2 has those that L1 asks for, beside L0's.
WANTED_PRIMARY = (
    c.INVLPG_EXITING | c.RDTSC_EXITING | c.CR3_LOAD_EXITING | c.CR3_STORE_EXITING | c.MOV_DR_EXITING | c.PAUSE_EXITING
    | c.INTERRUPT_WINDOW_EXITING | c.NMI_WINDOW_EXITING | c.MONITOR_TRAP_FLAG
)  # fmt: skip
WANTED_SECONDARY = c.DESCRIPTOR_TABLE_EXITING | c.WBINVD_EXITING
ALLOWED_SECONDARY = c.ENABLE_RDTSCP | c.ENABLE_INVPCID
"""Controls that let a guest execute an instruction: L2 has those that L0 and L1 both give."""
WRITE, FETCH = 2, 4  # access types, of an EPT violation's exit qualification
ALL_ONES = (1 << 64) - 1


class NestedVmx:
    """What L0 keeps for the guest of one guest.

    Parameters
    ----------
    vcpu : Processor
        L1's, whose model has VT-x.
    window : MemoryWindow
        L1's memory.
    host : HostFrames
        Gives the frames for L2's tables.

    Attributes
    ----------
    fills : int
        Entries of L2's tables filled so far.
    reflected : int
        VM exits handed on to L1.
    """

    def __init__(self, vcpu: Processor, window: MemoryWindow, host: HostFrames) -> None:
        self._vcpu, self._window, self._memory = vcpu, window, host.memory
        self._pool = [host.allocate() for _ in range(FRAMES)]
        self._format = ept(LEVELS, physical_bits=vcpu.model.physical_bits, execute_only=False, largest_page="4 KiB")
        self.fills = self.reflected = 0
        self._tag = (0, 0)
        self._stale = False
        self.flush()

    # -- L2's tables -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Begin L2's tables anew: L1 has executed INVEPT or INVVPID, or has other tables, or no frame is left."""
        self._free = list(reversed(self._pool))
        self._tables = PageTables(self._format, self._memory, self._take)
        self._stale = True

    def _take(self, size: int) -> int:
        address = self._free.pop()
        self._memory.write_bytes(address, bytes(size))
        return address

    def fill(self, gpa: int, qualification: int, memory: EptMemory) -> bool:
        """Map a page of L2's, if L1's extended page tables and L0's allow the access; False where they do not, or there is no RAM."""
        vcpu, write, fetch = self._vcpu, bool(qualification & WRITE), bool(qualification & FETCH)
        try:
            found = vcpu.walk_host(gpa, write=write, fetch=fetch)
        except VmExit:
            return False
        if not vcpu.bus.is_ram(found.frame):
            return False
        if len(self._free) < MOST_AT_ONCE:
            self.flush()
        logs = memory.paging.logging
        if logs and write:
            memory.paging.dirty.add(found.frame >> PAGE_SHIFT)
        self._tables.map(
            gpa & -PAGE_SIZE,
            self._window.host_address(found.frame),
            writable=found.writable and (write or not logs),
            executable=found.executable,
        )
        self.fills += 1
        return True

    # -- in ----------------------------------------------------------------------------------------------------------------

    def merge(self, machine: VirtualMachine) -> None:
        """Make the VMCS, which is ready for the VCPU as a guest of L0's, one for L2: with what L1 asks for, too."""
        vcpu, fields = self._vcpu, machine.fields
        wanted = vcpu.vmx.fields
        primary, secondary = vcpu.vmx.primary, vcpu.vmx.secondary
        fields[f.CR0_SHADOW] = shown(vcpu.cr0, wanted[f.CR0_MASK], wanted[f.CR0_SHADOW])
        fields[f.CR4_SHADOW] = shown(vcpu.cr4, wanted[f.CR4_MASK], wanted[f.CR4_SHADOW])
        if primary & c.USE_TSC_OFFSETTING:
            fields[f.TSC_OFFSET] = fields[f.TSC_OFFSET] + wanted[f.TSC_OFFSET] & ALL_ONES
        own = fields[f.PRIMARY_CONTROLS] & ~c.USE_TPR_SHADOW  # L1's local APIC is not L2's
        fields[f.PRIMARY_CONTROLS] = own | c.CR8_LOAD_EXITING | c.CR8_STORE_EXITING | primary & WANTED_PRIMARY
        own = fields[f.SECONDARY_CONTROLS] & ~(c.ENABLE_PML | APIC_CONTROLS | ALLOWED_SECONDARY & ~secondary)
        fields[f.SECONDARY_CONTROLS] = own | secondary & WANTED_SECONDARY
        fields[f.EXCEPTION_BITMAP] |= wanted[f.EXCEPTION_BITMAP]
        if wanted[f.EXCEPTION_BITMAP] >> PF & 1 or wanted[f.PAGE_FAULT_MASK] or wanted[f.PAGE_FAULT_MATCH]:
            fields[f.EXCEPTION_BITMAP] |= 1 << PF  # all of them: the VCPU knows which L1 wants
            fields[f.PAGE_FAULT_MASK] = fields[f.PAGE_FAULT_MATCH] = 0
        tag = wanted[f.VPID] if secondary & c.ENABLE_VPID else 0, 0
        if vcpu.host_space is not None:
            tag = tag[0], vcpu.host_space.root
            if tag[1] != self._tag[1]:
                self.flush()
            fields[f.EPT_POINTER] = self._tables.root | LEVELS - 1 << 3 | WRITE_BACK
        if self._stale or tag != self._tag or not tag[0]:
            machine.invalidate(vpid=machine.vpid + L2_VPIDS)
        self._tag, self._stale = tag, False
        if machine.vpid:
            fields[f.VPID] = machine.vpid + L2_VPIDS

    # -- out ---------------------------------------------------------------------------------------------------------------

    def reflect(self, machine: VirtualMachine, exit_: VmExit) -> None:
        """Hand a VM exit on to L1: the VCPU leaves L2."""
        vcpu = self._vcpu
        tagged = vcpu.vmx.secondary & c.ENABLE_VPID
        vcpu.leave(exit_)
        self.reflected += 1
        if not tagged:  # VPID 0 is shared by L1 and L2: a VM exit drops what is cached for it
            machine.invalidate()

    def exception(self, machine: VirtualMachine) -> VmExit | None:
        """Return the VM exit for L1 that an exception of L2 is; None where L1 does not want it."""
        read = machine.read
        information, code = read(f.EXIT_INTERRUPTION), read(f.EXIT_ERROR_CODE)
        if not self._vcpu.wants_exception(information & 0xFF, code if information & WITH_CODE else None):
            return None
        found = VmExit(
            BasicReason.EXCEPTION_OR_NMI, read(f.EXIT_QUALIFICATION), length=read(f.EXIT_INSTRUCTION_LENGTH),
            interruption=information, code=code,
        )  # fmt: skip
        if read(f.IDT_VECTORING) & VALID:
            found.vectoring, found.vectoring_code = read(f.IDT_VECTORING), read(f.IDT_VECTORING_ERROR_CODE)
        machine.event = None
        return found

    # -- saving ------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the bookkeeping; the tables are in memory."""
        return {
            "version": 1,
            "tables": len(self._tables.tables),
            "fills": self.fills,
            "reflected": self.reflected,
            "vpid": self._tag[0],
            "root": self._tag[1],
            "stale": self._stale,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        rules = {
            "tables": range(1, FRAMES + 1),
            "fills": COUNT,
            "reflected": COUNT,
            "vpid": WORD,
            "root": QUAD,
            "stale": bool,
        }
        check_state(state, "nested VMX", rules)
        used = state["tables"]
        self._tables.tables[:] = self._pool[:used]
        self._free = list(reversed(self._pool[used:]))
        self.fills, self.reflected = state["fills"], state["reflected"]
        self._tag, self._stale = (state["vpid"], state["root"]), state["stale"]
