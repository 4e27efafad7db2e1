"""VM exits: the guest's state goes into the VMCS, the host's comes from there (Intel SDM vol. 3, chapter 27).

What the host gets beside its own registers is why: the reason, its qualification, and what else belongs to it.

Simplified: a failure of loading the host's MSRs, a VMX abort, cannot be told; it is passed over.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import (
    CS,
    EFER_LMA,
    EFER_LME,
    ESP,
    FIXED,
    FS,
    GS,
    IF,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
)  # fmt: skip
from vmlab.machine.guest_exit import VALID
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.attempt import secondary_of
from vmlab.machine.vmx.guest_state import (
    ACTIVE,
    HALTED,
    MOV_SS_BLOCKING,
    NMI_BLOCKING,
    STI_BLOCKING,
    Key,
    fit_width,
    load_segments,
    store_state,
    swap_segments,
)
from vmlab.machine.vmx.reasons import ENTRY_FAILURE, BasicReason, VmExit
from vmlab.machine.vmx.timing import save_timer

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["fail_entry", "leave", "load_msrs"]

FLAT = 0xFFFF_FFFF
CODE, DATA, BUSY_TASK, TASK_LIMIT, TABLE_LIMIT = 0x9B, 0x93, 0x8B, 0x67, 0xFFFF
DR7_RESET = 0x400
PENDING = 0x500F  # pending debug exceptions: BS 14, an enabled breakpoint 12, B3 to B0
MSR_BYTES = 16  # of an entry in an MSR area: number, 4 bytes reserved, value
_segment_fields = itemgetter(*range(f.HOST_ES, f.HOST_TR + 2, 2), f.HOST_FS_BASE, f.HOST_GS_BASE, f.HOST_TR_BASE)
FORBIDDEN_MSRS = frozenset({0xC000_0100, 0xC000_0101, 0x8B})  # FS and GS base have fields; microcode


def leave(cpu: Processor, exit_: VmExit) -> None:
    """Take a VM exit."""
    fields = cpu.vmx.fields
    cpu.keep_translations()
    _save(cpu)
    save_timer(cpu)
    cpu.vmx.trap_pending, cpu.vmx.timer_end = False, None
    _record(fields, exit_)
    fields[f.ENTRY_INTERRUPTION] &= ~VALID
    _store_msrs(cpu, fields[f.EXIT_MSR_STORE_ADDRESS], fields[f.EXIT_MSR_STORE_COUNT])
    cpu.signals.block_nmi(blocked=cpu.vmx.root_blocks_nmi)
    swap_segments(cpu)
    _load_host(cpu)


def fail_entry(cpu: Processor, reason: BasicReason, qualification: int) -> None:
    """Give the host back the processor after a VM entry that has failed late: the guest-state area stays as it is."""
    fields = cpu.vmx.fields
    fields[f.EXIT_REASON], fields[f.EXIT_QUALIFICATION] = reason | ENTRY_FAILURE, qualification
    cpu.vmx.stored = None  # the registers that were loaded for the guest are the host's from now on
    if not secondary_of(fields) & c.ENABLE_VPID:  # as a VM exit does
        cpu.contexts.pop(0, None)
        cpu.tlb.flush("VM entry")
    _load_host(cpu)


def _record(fields: dict[int, int], exit_: VmExit) -> None:
    """Write the VM-exit information."""
    fields[f.EXIT_REASON], fields[f.EXIT_QUALIFICATION] = int(exit_.reason), exit_.qualification
    fields[f.EXIT_INSTRUCTION_LENGTH], fields[f.EXIT_INSTRUCTION_INFO] = exit_.length, exit_.info
    fields[f.EXIT_INTERRUPTION], fields[f.EXIT_ERROR_CODE] = exit_.interruption, exit_.code
    fields[f.IDT_VECTORING], fields[f.IDT_VECTORING_ERROR_CODE] = exit_.vectoring, exit_.vectoring_code
    if exit_.linear is not None:
        fields[f.GUEST_LINEAR_ADDRESS] = exit_.linear
    if exit_.physical is not None:
        fields[f.GUEST_PHYSICAL_ADDRESS] = exit_.physical


def _save(cpu: Processor) -> None:
    """Store the processor in the guest-state area."""
    fields = cpu.vmx.fields
    cpu.vmx.stored = store_state(cpu, fields, cpu.vmx.stored)
    fields[f.GUEST_CR0], fields[f.GUEST_CR3], fields[f.GUEST_CR4] = cpu.cr0, cpu.cr3, cpu.cr4
    if fields[f.EXIT_CONTROLS] & c.SAVE_EFER:
        fields[f.GUEST_EFER] = cpu.efer
    long = c.IA32E_MODE_GUEST if cpu.efer & EFER_LMA else 0
    fields[f.ENTRY_CONTROLS] = fields[f.ENTRY_CONTROLS] & ~c.IA32E_MODE_GUEST | long
    shadow = (STI_BLOCKING if cpu.flags & IF else MOV_SS_BLOCKING) if cpu.interrupt_shadow else 0
    fields[f.GUEST_INTERRUPTIBILITY] = shadow | (NMI_BLOCKING if cpu.signals.nmi_blocked else 0)
    fields[f.GUEST_ACTIVITY] = HALTED if cpu.halted else ACTIVE
    fields[f.GUEST_PENDING_DEBUG] = cpu.debug_causes & PENDING


def _load_host(cpu: Processor) -> None:
    """Load the processor from the host-state area (SDM vol. 3, 27.5)."""
    fields = cpu.vmx.fields
    long = bool(fields[f.EXIT_CONTROLS] & c.HOST_ADDRESS_SPACE_SIZE)
    load_segments(cpu, _host_segments(_segment_fields(fields), long=long))
    cpu.gdtr_base, cpu.idtr_base = fields[f.HOST_GDTR_BASE], fields[f.HOST_IDTR_BASE]
    cpu.gdtr_limit = cpu.idtr_limit = TABLE_LIMIT
    cpu.cr0, cpu.cr3, cpu.cr4 = fields[f.HOST_CR0], fields[f.HOST_CR3], fields[f.HOST_CR4]
    if fields[f.EXIT_CONTROLS] & c.LOAD_HOST_EFER:
        cpu.efer = fields[f.HOST_EFER]
    cpu.efer = cpu.efer & ~(EFER_LMA | EFER_LME) | (EFER_LMA | EFER_LME if long else 0)
    cpu.msrs[MSR_SYSENTER_CS] = fields[f.HOST_SYSENTER_CS]
    cpu.msrs[MSR_SYSENTER_ESP], cpu.msrs[MSR_SYSENTER_EIP] = fields[f.HOST_SYSENTER_ESP], fields[f.HOST_SYSENTER_EIP]
    cpu.debug[7] = DR7_RESET
    cpu.ip, cpu.registers[ESP], cpu.flags = fields[f.HOST_RIP], fields[f.HOST_RSP], FIXED
    fit_width(cpu)
    cpu.halted, cpu.debug_causes, cpu.shadow_at, cpu.injected = False, 0, -1, None
    load_msrs(cpu, fields[f.EXIT_MSR_LOAD_ADDRESS], fields[f.EXIT_MSR_LOAD_COUNT])
    cpu.choose_operation(non_root=False)


@lru_cache(maxsize=64)
def _host_segments(fields: tuple[int, ...], *, long: bool) -> list[Key]:
    """Return what the segment registers, LDTR and TR become: of FS, GS and TR the fields tell the base, too."""
    *selectors, task, fs_base, gs_base, task_base = fields
    bases = {FS: fs_base, GS: gs_base}
    keys = [
        (selector, 0, FLAT, CODE, not long, long)
        if index == CS
        else (selector, bases.get(index, 0), FLAT, DATA if selector else 0, True, False)
        for index, selector in enumerate(selectors)
    ]
    return [*keys, (0, 0, 0, 0, False, False), (task, task_base, TASK_LIMIT, BUSY_TASK, False, False)]


def load_msrs(cpu: Processor, area: int, count: int) -> int:
    """Load MSRs from an area in memory; return the number of the first entry that cannot be loaded, from 1, or 0."""
    for n in range(count):
        number, value = cpu.bus.read(area + n * MSR_BYTES, 4), cpu.bus.read(area + n * MSR_BYTES + 8, 8)
        try:
            if number in FORBIDDEN_MSRS:
                return n + 1
            cpu.write_msr(number, value)
        except Fault:
            return n + 1
    return 0


def _store_msrs(cpu: Processor, area: int, count: int) -> None:
    for n in range(count):
        try:
            value = cpu.read_msr(cpu.bus.read(area + n * MSR_BYTES, 4))
        except Fault:
            return
        cpu.bus.write(area + n * MSR_BYTES + 8, 8, value)
