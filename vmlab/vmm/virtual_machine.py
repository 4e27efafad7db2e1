"""A guest's VMCS, as the hypervisor keeps it: what it asks the processor for, and how a VCPU gets in and out.

The VCPU is what the guest believes; the VMCS is what the processor runs. Most of the two is the same, and goes from one to
the other by VMREAD and VMWRITE. What differs:

- CR0 and CR4 are the host's, all bits of them: the guest reads the read shadows, which are the VCPU's, and writing them is a
  VM exit. What the real ones are is a matter of how memory is virtualized (`vmlab.vmm.assisted_memory`).
- A VCPU whose TR has never been loaded has an unusable one, which no VM entry takes: it gets a task of no length.

The registers that a VMCS has no field for (general registers, CR2, DR0 to DR6, the MSRs of SYSCALL and SWAPGS) the
hypervisor loads and saves itself.

Read more: Intel SDM vol. 3, 24.4 to 24.9, 31.7 (what a VMM keeps for its guest).
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import PF, PF_PRESENT, PF_RESERVED
from vmlab.isa.x86.registers import (
    CR0_NE,
    CR0_PG,
    CR4_PAE,
    CR4_VMXE,
    CS,
    EFER_LMA,
    EFER_LME,
    IF,
    MSR_CSTAR,
    MSR_FMASK,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_STAR,
    MSR_TSC,
    MSR_TSC_AUX,
)  # fmt: skip
from vmlab.machine.guest_exit import VALID, WITH_CODE
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.guest_state import MOV_SS_BLOCKING, NMI_BLOCKING, STI_BLOCKING, Stored, load_state, store_state
from vmlab.machine.vmx.intercepts import IO_IMMEDIATE, IO_IN, IO_PORT_SHIFT, IO_SIZE, IO_STRING
from vmlab.machine.vmx.reasons import ENTRY_FAILURE, BasicReason
from vmlab.vmm.assisted_machine import AssistedMachine
from vmlab.vmm.host_frames import HOST_CODE, HOST_DATA, HOST_TASK
from vmlab.vmm.port_exits import port_instruction
from vmlab.vmm.task_priority import TaskPriority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.processor import Decoded, Processor
    from vmlab.vmm.assisted_memory import AssistedMemory
    from vmlab.vmm.host_frames import HostFrames

__all__ = ["VirtualMachine", "make_vmcs"]

ALL_ONES = (1 << 64) - 1
REASON = 0xFFFF
ONE_ADDRESS, ONE_VPID = 0, 1  # types of INVVPID
NO_TASK = 0x8B, 0  # access byte and limit of the task that a VCPU without one gets
SWAPPED = (MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK, MSR_KERNEL_GS_BASE, MSR_TSC_AUX)
CR8_EXITING = c.CR8_LOAD_EXITING | c.CR8_STORE_EXITING

PIN = c.EXTERNAL_INTERRUPT_EXITING | c.NMI_EXITING | c.VIRTUAL_NMIS
PRIMARY = (
    c.USE_TSC_OFFSETTING | c.HLT_EXITING | c.RDPMC_EXITING | c.UNCONDITIONAL_IO_EXITING | c.ACTIVATE_SECONDARY
)  # fmt: skip
EXIT = c.HOST_ADDRESS_SPACE_SIZE | c.ACKNOWLEDGE_INTERRUPT | c.SAVE_EFER | c.LOAD_HOST_EFER


def make_vmcs(cpu: Processor, host: HostFrames, region: int) -> None:
    """Make a frame a VMCS and the current one (VMCLEAR, VMPTRLD), with the host's state in it."""
    cpu.memory.write(region, 4, c.REVISION)
    state = {
        f.HOST_CR0: cpu.cr0, f.HOST_CR3: cpu.cr3, f.HOST_CR4: cpu.cr4, f.HOST_EFER: cpu.efer,
        f.HOST_CS: HOST_CODE, f.HOST_SS: HOST_DATA, f.HOST_DS: HOST_DATA, f.HOST_ES: HOST_DATA, f.HOST_TR: HOST_TASK,
        f.HOST_TR_BASE: host.tss, f.HOST_GDTR_BASE: host.gdt, f.HOST_IDTR_BASE: host.idt,
        f.HOST_RSP: host.stack_top, f.HOST_RIP: host.entry, f.VMCS_LINK_POINTER: ALL_ONES,
    }  # fmt: skip
    errors = [cpu.vmx.clear(region), cpu.vmx.load_pointer(region)]
    errors += [cpu.vmx.write_field(field, value) for field, value in state.items()]
    assert not any(errors), f"VM-instruction errors {errors}"


class VirtualMachine(AssistedMachine):
    """The VMCS of one guest.

    Parameters
    ----------
    cpu : Processor
        The real processor, in VMX root operation.
    vcpu : Processor
        The guest's.
    host : HostFrames
        Gives the region, and the host's state.
    number : int
        Its own, from 1.

    Attributes
    ----------
    region : int
        Host-physical address of the VMCS.
    vpid : int
        The guest's virtual-processor identifier, 0 where the processor has none.
    exceptions : int
        Exceptions that the hypervisor wants, by vector.
    """

    memory_reasons = {  # noqa: RUF012 - a constant, as the base declares
        "nested": frozenset(
            {
                BasicReason.EPT_VIOLATION,
                BasicReason.PML_FULL,
                BasicReason.APIC_WRITE,
            }
        ),
        "shadow": frozenset({BasicReason.EXCEPTION_OR_NMI}),
    }
    runs_real_mode = False

    def __init__(self, cpu: Processor, vcpu: Processor, host: HostFrames, number: int) -> None:
        super().__init__(cpu, vcpu)
        self._vmx = cpu.vmx
        self.region = host.allocate()
        self.vpid = number if cpu.has("vpid") else 0
        self.exceptions = self._primary = self._secondary = 0
        self._stored: Stored | None = None
        self._priority = TaskPriority(cpu.memory, host.allocate(), vcpu.interrupts) if cpu.has("tpr-shadow") else None
        make_vmcs(cpu, host, self.region)
        self.write(f.CR0_MASK, ALL_ONES)
        self.write(f.CR4_MASK, ALL_ONES)

    @staticmethod
    def _succeed(error: int) -> None:
        assert not error, f"VM-instruction error {error}"

    def write(self, field: int, value: int) -> None:
        """VMWRITE."""
        self._succeed(self._vmx.write_field(field, value))

    def read(self, field: int) -> int:
        """VMREAD."""
        error, value = self._vmx.read_field(field)
        self._succeed(error)
        return value

    def select(self) -> None:
        """VMPTRLD, unless it is the current one already."""
        if self._vmx.pointer() != self.region:
            self._succeed(self._vmx.load_pointer(self.region))

    def control(self, *, primary: int = 0, secondary: int = 0, exceptions: int = 0) -> None:
        """Ask the processor for what every guest needs, and for these bits."""
        model = self._cpu.model
        if primary & c.USE_TPR_SHADOW:
            self._priority = None  # the whole local APIC is virtualized
        elif self._priority:
            primary |= c.USE_TPR_SHADOW
            self.write(f.VIRTUAL_APIC_ADDRESS, self._priority.page)
        else:
            primary |= CR8_EXITING
        values = {
            f.PIN_BASED_CONTROLS: PIN | c.PIN_DEFAULT,
            f.EXIT_CONTROLS: EXIT | c.EXIT_DEFAULT,
            f.ENTRY_CONTROLS: c.LOAD_GUEST_EFER | c.ENTRY_DEFAULT,
        }
        self.exceptions = exceptions
        self._primary = PRIMARY | primary | c.PRIMARY_TRUE_DEFAULT
        if not self._vcpu.is_alone:  # one that waits for another passes its turn on
            self._primary |= c.PAUSE_EXITING
        self._secondary = secondary | (c.ENABLE_VPID if self.vpid else 0)
        for feature, bit in (("rdtscp", c.ENABLE_RDTSCP), ("invpcid", c.ENABLE_INVPCID)):
            if self._vcpu.has(feature) and model.has(feature):
                self._secondary |= bit
        for field, value in values.items():
            self.write(field, value)

    def use_shadow(self) -> None:
        self.control(primary=c.CR3_LOAD_EXITING | c.CR3_STORE_EXITING | c.INVLPG_EXITING, exceptions=1 << PF)

    def real_registers(self, cr0: int, cr4: int) -> tuple[int, int]:
        return cr0 | CR0_NE, cr4 | CR4_VMXE

    def page_fault(self) -> tuple[int, int]:
        return self.read(f.EXIT_QUALIFICATION), self.read(f.EXIT_ERROR_CODE)

    @property
    def root(self) -> int:
        return self.read(f.GUEST_CR3)

    def tables(self) -> tuple[int, Sequence[int]]:
        cpu, fields = self._cpu, self._vmx.fields
        if cpu.non_root:
            return cpu.cr3, cpu.pdptes
        return fields[f.GUEST_CR3], [fields[f.GUEST_PDPTE0 + 2 * n] for n in range(4)]

    # -- in ------------------------------------------------------------------------------------------------------------------

    def enter(self, memory: AssistedMemory) -> None:
        """Load the VCPU into VMCS and processor, and enter the guest; or find out by a VM exit that it cannot be."""
        cpu, vcpu = self._cpu, self._vcpu
        self.select()
        fields = self._vmx.fields
        self._stored = store_state(vcpu, fields, self._stored)
        if not vcpu.tr.access:
            fields[f.GUEST_TR_ACCESS], fields[f.GUEST_TR_LIMIT] = NO_TASK
        fields[f.CR0_SHADOW], fields[f.CR4_SHADOW] = vcpu.cr0, vcpu.cr4
        cr0, cr3, cr4, efer = memory.registers(self)
        fields[f.GUEST_CR0], fields[f.GUEST_CR3], fields[f.GUEST_CR4], fields[f.GUEST_EFER] = cr0, cr3, cr4, efer
        entry = fields[f.ENTRY_CONTROLS] & ~c.IA32E_MODE_GUEST
        fields[f.ENTRY_CONTROLS] = entry | (c.IA32E_MODE_GUEST if efer & EFER_LMA else 0)
        shadow = (STI_BLOCKING if vcpu.flags & IF else MOV_SS_BLOCKING) if vcpu.interrupt_shadow else 0
        fields[f.GUEST_INTERRUPTIBILITY] = shadow | (NMI_BLOCKING if vcpu.signals.nmi_blocked else 0)
        fields[f.GUEST_PENDING_DEBUG] = vcpu.debug_causes
        offset = vcpu.ticks + vcpu.msrs.get(MSR_TSC, 0) - cpu.ticks - cpu.msrs.get(MSR_TSC, 0)
        fields[f.TSC_OFFSET] = offset & ALL_ONES
        fields[f.PRIMARY_CONTROLS], fields[f.SECONDARY_CONTROLS] = self._primary | self._windows(), self._secondary
        fields[f.VPID] = self.vpid
        self._want_exceptions()
        if self.event:
            fields[f.ENTRY_INTERRUPTION], fields[f.ENTRY_ERROR_CODE] = self.event
        if self._priority:
            self._priority.show(fields)
        cpu.registers[:] = vcpu.registers
        cpu.cr2, cpu.debug[:7] = vcpu.cr2, vcpu.debug[:7]
        if vcpu.efer & EFER_LME:
            for number in SWAPPED:
                cpu.msrs[number] = vcpu.msrs.get(number, 0)
        cpu.user_spaces = vcpu.user_spaces if cr3 == vcpu.cr3 else {}
        memory.invalidate(self)
        self._succeed(self._vmx.enter(launch=not self._vmx.launched))

    def invalidate(self, linear: int | None = None, *, vpid: int | None = None) -> None:
        """Drop what the processor has cached for the guest, of one address or all: INVVPID. Without VPIDs nothing is."""
        if self.vpid:
            kind = ONE_VPID if linear is None else ONE_ADDRESS
            self._succeed(self._vmx.invalidate("invvpid", kind, vpid or self.vpid, linear or 0))

    @property
    def event_length(self) -> int:
        return self.read(f.ENTRY_INSTRUCTION_LENGTH)

    @property
    def fields(self) -> dict[int, int]:
        """The fields, of the current VMCS."""
        return self._vmx.fields

    def _want_exceptions(self) -> None:
        """Ask for exceptions: where the guest's physical addresses are narrower than the host's, for some of #PF, too.

        What is a reserved bit to the guest is none to the host: a page fault for another reason must be looked at again.
        """
        vcpu, fields = self._vcpu, self._vmx.fields
        narrower = vcpu.model.physical_bits < self._cpu.model.physical_bits
        again = narrower and vcpu.cr0 & CR0_PG and vcpu.cr4 & CR4_PAE and not self.exceptions >> PF & 1
        fields[f.EXCEPTION_BITMAP] = self.exceptions | (1 << PF if again else 0)
        fields[f.PAGE_FAULT_MASK] = PF_PRESENT | PF_RESERVED if again else 0
        fields[f.PAGE_FAULT_MATCH] = PF_PRESENT if again else 0

    def _windows(self) -> int:
        """Return the controls that give the CPU back as soon as the guest can take what waits for it."""
        vcpu = self._vcpu
        waits = c.NMI_WINDOW_EXITING if vcpu.signals.nmi else 0
        return waits | (c.INTERRUPT_WINDOW_EXITING if vcpu.interrupts.output else 0)

    # -- out -----------------------------------------------------------------------------------------------------------------

    def reason(self) -> tuple[int, bool]:
        reason = self.fields[f.EXIT_REASON]
        return BasicReason(reason & REASON), not reason & ENTRY_FAILURE

    def port_access(self) -> Decoded | None:
        fields = self._vmx.fields
        qualification, length = fields[f.EXIT_QUALIFICATION], fields[f.EXIT_INSTRUCTION_LENGTH]
        if qualification & IO_STRING:
            return None
        width, port = (qualification & IO_SIZE) + 1, qualification >> IO_PORT_SHIFT
        immediate = port if qualification & IO_IMMEDIATE else None
        return port_instruction(self._vcpu, width, immediate, length, is_in=bool(qualification & IO_IN))

    def leave(self, memory: AssistedMemory) -> None:
        """Save VMCS and processor into the VCPU after a VM exit."""
        cpu, vcpu = self._cpu, self._vcpu
        fields = self._vmx.fields
        tasks, pdptes = vcpu.tr.access, list(vcpu.pdptes)
        vcpu.registers[:] = cpu.registers
        load_state(vcpu, fields, self._stored)  # since the entry the VCPU is as it was
        vcpu.pdptes[:] = pdptes
        memory.keep(self)
        if not tasks and (vcpu.tr.access, vcpu.tr.limit) == NO_TASK:
            vcpu.tr.set(vcpu.tr.selector, vcpu.tr.base, vcpu.tr.limit, 0, big=vcpu.tr.big)
        if self._priority:
            self._priority.keep()
        blocking = fields[f.GUEST_INTERRUPTIBILITY]
        vcpu.shadow_at = vcpu.retired if blocking & (STI_BLOCKING | MOV_SS_BLOCKING) else -1
        vcpu.signals.block_nmi(blocked=bool(blocking & NMI_BLOCKING))
        vcpu.debug_causes = fields[f.GUEST_PENDING_DEBUG]
        vcpu.cr2, vcpu.debug[:7] = cpu.cr2, cpu.debug[:7]
        if vcpu.efer & EFER_LME:
            for number in SWAPPED:
                if cpu.msrs[number] or number in vcpu.msrs:
                    vcpu.msrs[number] = cpu.msrs[number]
        cpu.user_spaces = {}
        vectoring = fields[f.IDT_VECTORING]
        self.event = None
        if vectoring & VALID:
            self.event = vectoring & ~(1 << 12), fields[f.IDT_VECTORING_ERROR_CODE] if vectoring & WITH_CODE else 0
            fields[f.ENTRY_INSTRUCTION_LENGTH] = fields[f.EXIT_INSTRUCTION_LENGTH]

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self._stored = None

    def look(self, memory: AssistedMemory) -> Processor:
        """Return a copy of the VCPU as it is in processor and VMCS, while the guest runs or right after its VM exit."""
        cpu, seen = self._cpu, copy(self._vcpu)
        seen.registers, seen.debug, seen.pdptes = list(cpu.registers), list(seen.debug), list(seen.pdptes)
        seen.segments, seen.ldtr, seen.tr = [copy(each) for each in seen.segments], copy(seen.ldtr), copy(seen.tr)
        seen.msrs = dict(seen.msrs)
        fields = dict(self._vmx.fields)
        if cpu.non_root:
            store_state(cpu, fields)
            fields[f.GUEST_CR3] = cpu.cr3
        load_state(seen, fields)
        seen.cr2 = cpu.cr2
        if memory.is_the_guests:
            seen.cr3 = fields[f.GUEST_CR3]
        seen.code_64 = seen.long_mode and seen.segments[CS].long
        return seen
