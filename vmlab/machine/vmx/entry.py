"""VM entries: what VMLAUNCH and VMRESUME do (Intel SDM vol. 3, chapter 26).

In the manual's order: the controls and the host-state area are checked (an error number, and the host goes on behind the
instruction); the guest-state area is checked and the MSRs are loaded (a VM exit with bit 31 of its reason set, and the
host goes on at its RIP); then the guest runs, beginning with the event that is injected.

Simplified: nothing is cached of an address space without a VPID, so that translations are dropped at each entry and exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import CR0_CD, CR0_ET, CR0_NW, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME
from vmlab.machine.guest_exit import OTHER_EVENT, TYPE_SHIFT, VALID
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.checks import bad_controls_or_host, bad_guest_state
from vmlab.machine.vmx.exit import fail_entry, load_msrs
from vmlab.machine.vmx.guest_state import (
    HALTED,
    MOV_SS_BLOCKING,
    NMI_BLOCKING,
    STI_BLOCKING,
    fit_width,
    load_state,
    swap_segments,
)
from vmlab.machine.vmx.reasons import BasicReason
from vmlab.machine.vmx.timing import start_timer

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["enter"]

# VM-instruction error numbers (SDM vol. 3, 30.4)
NOT_CLEAR, NOT_LAUNCHED, BLOCKED = 4, 5, 26
KEPT_CR0 = CR0_ET | CR0_NW | CR0_CD
PDPTES = 2  # exit qualification of a failed entry: the PDPTEs could not be loaded


def enter(cpu: Processor, *, launch: bool) -> int:
    """Enter the guest of the current VMCS.

    Returns
    -------
    int
        A VM-instruction error number; 0 where the guest runs now, or a VM exit has led back to the host.
    """
    vmx = cpu.vmx
    fields = vmx.fields
    if cpu.interrupt_shadow:
        return BLOCKED
    if launch == vmx.launched:
        return NOT_CLEAR if launch else NOT_LAUNCHED
    error = bad_controls_or_host(cpu, fields)
    if error:
        return error
    problem = bad_guest_state(cpu.model, fields)
    if problem is not None:
        fail_entry(cpu, BasicReason.ENTRY_FAILURE_GUEST_STATE, problem)
        return 0
    host_nmi = cpu.signals.nmi_blocked
    cpu.keep_translations()
    _load(cpu)
    if not fields_have_pdptes(cpu) and cpu.cr0 & CR0_PG and cpu.cr4 & CR4_PAE and not cpu.efer & EFER_LMA:
        try:
            cpu.load_pdptes()
        except Fault:
            fail_entry(cpu, BasicReason.ENTRY_FAILURE_GUEST_STATE, PDPTES)
            return 0
    failed = load_msrs(cpu, fields[f.ENTRY_MSR_LOAD_ADDRESS], fields[f.ENTRY_MSR_LOAD_COUNT])
    if failed:
        fail_entry(cpu, BasicReason.ENTRY_FAILURE_MSR_LOADING, failed)
        return 0
    vmx.launched, vmx.root_blocks_nmi = True, host_nmi
    blocking = fields[f.GUEST_INTERRUPTIBILITY]
    cpu.signals.block_nmi(blocked=bool(blocking & NMI_BLOCKING))
    cpu.interrupt_shadow = bool(blocking & (STI_BLOCKING | MOV_SS_BLOCKING))
    cpu.halted = fields[f.GUEST_ACTIVITY] == HALTED
    cpu.debug_causes = fields[f.GUEST_PENDING_DEBUG]
    information = fields[f.ENTRY_INTERRUPTION]
    cpu.injected = None
    if information & VALID and information >> TYPE_SHIFT & 7 == OTHER_EVENT:
        vmx.trap_pending = True
    elif information & VALID:
        cpu.injected = information, fields[f.ENTRY_ERROR_CODE], fields[f.ENTRY_INSTRUCTION_LENGTH]
        cpu.halted = False
    cpu.guest_entries += 1
    vmx.timer_end = start_timer(cpu)
    cpu.choose_operation(non_root=True)
    return 0


def fields_have_pdptes(cpu: Processor) -> bool:
    """Say whether the PDPTEs come from the VMCS: they do with EPT."""
    primary, secondary = cpu.vmx.fields[f.PRIMARY_CONTROLS], cpu.vmx.fields[f.SECONDARY_CONTROLS]
    return bool(primary & c.ACTIVATE_SECONDARY and secondary & c.ENABLE_EPT)


def _load(cpu: Processor) -> None:
    """Load the processor from the guest-state area."""
    fields = cpu.vmx.fields
    swap_segments(cpu)
    load_state(cpu, fields, cpu.vmx.stored)
    fit_width(cpu)
    cpu.cr0 = fields[f.GUEST_CR0] & ~KEPT_CR0 | cpu.cr0 & KEPT_CR0
    cpu.cr3, cpu.cr4 = fields[f.GUEST_CR3], fields[f.GUEST_CR4]
    entry = fields[f.ENTRY_CONTROLS]
    if entry & c.LOAD_GUEST_EFER:
        cpu.efer = fields[f.GUEST_EFER]
    else:
        long = bool(entry & c.IA32E_MODE_GUEST)
        kept = EFER_LME if not cpu.cr0 & CR0_PG else 0
        cpu.efer = cpu.efer & ~(EFER_LMA | EFER_LME & ~kept) | (EFER_LMA | EFER_LME if long else 0)
