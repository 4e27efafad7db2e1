"""What a VM entry checks of the guest-state area (Intel SDM vol. 3, 26.3.1), but for segment registers.

What is broken there is a failed entry: a VM exit with bit 31 of its reason set and reason 33, whose qualification is 4 for the
VMCS link pointer and else 0.

Simplified: there is no VMCS to link to. The PDPTEs of the VMCS are taken as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, FIXED, IF, VM
from vmlab.machine import guest_exit as e
from vmlab.machine.entry_rules import EntryRule
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.guest_state import LONG, MOV_SS_BLOCKING, NMI_BLOCKING, STI_BLOCKING

if TYPE_CHECKING:
    from vmlab.machine.vmx.attempt import Attempt

__all__ = ["FLAGS_CHECKED", "GUEST_FIELDS", "GUEST_RULES", "LINK_RULE"]

ALL_ONES = (1 << 64) - 1
FLAGS_RESERVED = ALL_ONES & ~0x3F_7FD7
PENDING_RESERVED = ALL_ONES & ~0x1_500F
FLAGS_CHECKED = FLAGS_RESERVED | FIXED | VM | IF
"""The bits of RFLAGS on which a rule depends."""
SHADOWS = STI_BLOCKING | MOV_SS_BLOCKING
REGISTERS, TABLES, FLAGS, OTHER = "26.3.1.1", "26.3.1.3", "26.3.1.4", "26.3.1.5"

GUEST_FIELDS = (
    f.PRIMARY_CONTROLS, f.SECONDARY_CONTROLS, f.ENTRY_CONTROLS, f.ENTRY_INTERRUPTION, f.GUEST_CR0, f.GUEST_CR3, f.GUEST_CR4,
    f.GUEST_EFER, f.GUEST_DR7, f.GUEST_SYSENTER_ESP, f.GUEST_SYSENTER_EIP, f.GUEST_CS_ACCESS, f.GUEST_ACTIVITY,
    f.GUEST_INTERRUPTIBILITY, f.GUEST_PENDING_DEBUG, f.GUEST_GDTR_LIMIT, f.GUEST_IDTR_LIMIT, f.GUEST_GDTR_BASE,
    f.GUEST_IDTR_BASE,
)  # fmt: skip
"""What the rules read, beside RFLAGS (the bits of `FLAGS_CHECKED`) and RIP (its upper half)."""


def _canonical(section: str, name: str, *fields: int) -> EntryRule:
    return EntryRule(
        section, f"{name}: a canonical address", lambda a: any(not is_canonical(a[field]) for field in fields)
    )


def _bad_efer(a: Attempt) -> bool:
    efer, active = a[f.GUEST_EFER], bool(a[f.GUEST_EFER] & EFER_LMA)
    return bool(
        efer & ~a.model.efer_mask
        or active != a.long_guest
        or (a[f.GUEST_CR0] & CR0_PG and active != bool(efer & EFER_LME))
    )


def _code_64(a: Attempt) -> bool:
    return a.long_guest and bool(a[f.GUEST_CS_ACCESS] & LONG)


LINK_RULE = EntryRule(
    OTHER, "the VMCS link pointer is FFFFFFFF_FFFFFFFFH", lambda a: a[f.VMCS_LINK_POINTER] != ALL_ONES
)
"""It is checked first, and has an exit qualification of its own."""

GUEST_RULES: tuple[EntryRule, ...] = (
    EntryRule(
        REGISTERS,
        "CR0 has the bits set that are fixed to 1 in VMX operation: NE, and PE and PG where the guest is not unrestricted",
        lambda a: c.fixed_cr0(unrestricted=a.unrestricted) & ~a[f.GUEST_CR0],
    ),
    EntryRule(REGISTERS, "bits 63:32 of CR0 are 0", lambda a: a[f.GUEST_CR0] >> 32),
    EntryRule(
        REGISTERS,
        "where PG (bit 31) of CR0 is 1, PE (bit 0) is 1",
        lambda a: a[f.GUEST_CR0] & CR0_PG and not a[f.GUEST_CR0] & CR0_PE,
    ),
    EntryRule(
        REGISTERS,
        "CR4 has the bit set that is fixed to 1 in VMX operation: VMXE",
        lambda a: c.CAPABILITIES[c.CR4_FIXED0](a.model) & ~a[f.GUEST_CR4],
    ),
    EntryRule(
        REGISTERS,
        "no bit of CR4 is set that the processor does not have",
        lambda a: a[f.GUEST_CR4] & ~c.CAPABILITIES[c.CR4_FIXED1](a.model),
    ),
    EntryRule(
        REGISTERS,
        "in an IA-32e mode guest, PG of CR0 and PAE of CR4 are 1",
        lambda a: a.long_guest and not (a[f.GUEST_CR0] & CR0_PG and a[f.GUEST_CR4] & CR4_PAE),
    ),
    EntryRule(
        REGISTERS,
        "outside of IA-32e mode, PCIDE (bit 17) of CR4 is 0",
        lambda a: not a.long_guest and a[f.GUEST_CR4] & CR4_PCIDE,
    ),
    EntryRule(REGISTERS, "CR3 is not wider than a physical address", lambda a: a[f.GUEST_CR3] >> a.model.physical_bits),
    EntryRule(REGISTERS, "bits 63:32 of DR7 are 0", lambda a: a[f.GUEST_DR7] >> 32),
    _canonical(REGISTERS, "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP", f.GUEST_SYSENTER_ESP, f.GUEST_SYSENTER_EIP),
    EntryRule(
        REGISTERS,
        "with load IA32_EFER, no reserved bit of it is set, LMA is as IA-32e mode guest, and LME is as LMA where PG of CR0 is 1",
        lambda a: a.entry & c.LOAD_GUEST_EFER and _bad_efer(a),
    ),
    _canonical(TABLES, "the bases of GDTR and IDTR", f.GUEST_GDTR_BASE, f.GUEST_IDTR_BASE),
    EntryRule(
        TABLES,
        "bits 31:16 of the limits of GDTR and IDTR are 0",
        lambda a: a[f.GUEST_GDTR_LIMIT] > 0xFFFF or a[f.GUEST_IDTR_LIMIT] > 0xFFFF,
    ),
    EntryRule(FLAGS, "outside of 64-bit code, bits 63:32 of RIP are 0", lambda a: not _code_64(a) and a[f.GUEST_RIP] >> 32),
    EntryRule(FLAGS, "in 64-bit code, RIP is canonical", lambda a: _code_64(a) and not is_canonical(a[f.GUEST_RIP])),
    EntryRule(FLAGS, "the reserved bits 63:22, 15, 5 and 3 of RFLAGS are 0", lambda a: a[f.GUEST_RFLAGS] & FLAGS_RESERVED),
    EntryRule(FLAGS, "the reserved bit 1 of RFLAGS is 1", lambda a: not a[f.GUEST_RFLAGS] & FIXED),
    EntryRule(
        FLAGS,
        "VM (bit 17) of RFLAGS is 0 in an IA-32e mode guest, and where PE of CR0 is 0",
        lambda a: a.virtual_8086 and (a.long_guest or not a.protected),
    ),
    EntryRule(
        FLAGS,
        "where an external interrupt is injected, IF (bit 9) of RFLAGS is 1",
        lambda a: a.kind == e.EXTERNAL and not a[f.GUEST_RFLAGS] & IF,
    ),
    EntryRule(OTHER, "the activity state is one that IA32_VMX_MISC has: 0 (active) or 1 (HLT)", lambda a: a[f.GUEST_ACTIVITY] > 1),
    EntryRule(
        OTHER,
        "the activity state is active where the interruptibility state has blocking by STI or MOV SS",
        lambda a: a[f.GUEST_ACTIVITY] and a[f.GUEST_INTERRUPTIBILITY] & SHADOWS,
    ),
    EntryRule(
        OTHER,
        "the reserved bits of the interruptibility state are 0",
        lambda a: a[f.GUEST_INTERRUPTIBILITY] & ~(SHADOWS | NMI_BLOCKING),
    ),
    EntryRule(
        OTHER,
        "not both, blocking by STI and blocking by MOV SS",
        lambda a: a[f.GUEST_INTERRUPTIBILITY] & SHADOWS == SHADOWS,
    ),
    EntryRule(
        OTHER,
        "where IF of RFLAGS is 0, there is no blocking by STI",
        lambda a: a[f.GUEST_INTERRUPTIBILITY] & STI_BLOCKING and not a[f.GUEST_RFLAGS] & IF,
    ),
    EntryRule(
        OTHER,
        "where an external interrupt is injected, there is no blocking by STI or MOV SS",
        lambda a: a.kind == e.EXTERNAL and a[f.GUEST_INTERRUPTIBILITY] & SHADOWS,
    ),
    EntryRule(
        OTHER,
        "where an NMI is injected, there is no blocking by MOV SS",
        lambda a: a.kind == e.NMI_TYPE and a[f.GUEST_INTERRUPTIBILITY] & MOV_SS_BLOCKING,
    ),
    EntryRule(
        OTHER,
        "the reserved bits of the pending debug exceptions are 0",
        lambda a: a[f.GUEST_PENDING_DEBUG] & PENDING_RESERVED,
    ),
)  # fmt: skip
"""Each is what must be so."""
