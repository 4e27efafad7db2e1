"""What a VM entry checks of the host-state area (Intel SDM vol. 3, 26.2.2 to 26.2.4): what is broken there is error 8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.registers import CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME
from vmlab.machine.entry_rules import EntryRule
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f

if TYPE_CHECKING:
    from vmlab.machine.vmx.attempt import Attempt

__all__ = ["HOST_RULES"]

REGISTERS, SEGMENTS, SIZE = "26.2.2", "26.2.3", "26.2.4"
LONG_BITS = EFER_LMA | EFER_LME


def _canonical(section: str, name: str, *fields: int) -> EntryRule:
    return EntryRule(
        section, f"{name}: a canonical address", lambda a: any(not is_canonical(a[field]) for field in fields)
    )


def _bad_efer(a: Attempt) -> bool:
    bits = LONG_BITS if a.long_host else 0
    return bool(a[f.HOST_EFER] & ~a.model.efer_mask or a[f.HOST_EFER] & LONG_BITS != bits)


HOST_RULES: tuple[EntryRule, ...] = (
    EntryRule(
        REGISTERS,
        "CR0 has the bits set that are fixed to 1 in VMX operation: PE, NE, PG",
        lambda a: c.fixed_cr0(unrestricted=False) & ~a[f.HOST_CR0],
    ),
    EntryRule(REGISTERS, "bits 63:32 of CR0 are 0", lambda a: a[f.HOST_CR0] >> 32),
    EntryRule(
        REGISTERS,
        "CR4 has the bit set that is fixed to 1 in VMX operation: VMXE",
        lambda a: c.CAPABILITIES[c.CR4_FIXED0](a.model) & ~a[f.HOST_CR4],
    ),
    EntryRule(
        REGISTERS,
        "no bit of CR4 is set that the processor does not have",
        lambda a: a[f.HOST_CR4] & ~c.CAPABILITIES[c.CR4_FIXED1](a.model),
    ),
    EntryRule(REGISTERS, "CR3 is not wider than a physical address", lambda a: a[f.HOST_CR3] >> a.model.physical_bits),
    _canonical(REGISTERS, "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP", f.HOST_SYSENTER_ESP, f.HOST_SYSENTER_EIP),
    EntryRule(
        REGISTERS,
        "with load IA32_EFER, no reserved bit of it is set, and LMA and LME are as host address-space size",
        lambda a: a.exit & c.LOAD_HOST_EFER and _bad_efer(a),
    ),
    EntryRule(
        SEGMENTS,
        "in each selector RPL (bits 1:0) and TI (bit 2) are 0",
        lambda a: any(a[field] & 7 for field in range(f.HOST_ES, f.HOST_TR + 2, 2)),
    ),
    EntryRule(SEGMENTS, "the selectors of CS and TR are not 0", lambda a: not (a[f.HOST_CS] and a[f.HOST_TR])),
    EntryRule(
        SEGMENTS,
        "without host address-space size, the selector of SS is not 0",
        lambda a: not a.long_host and not a[f.HOST_SS],
    ),
    _canonical(
        SEGMENTS,
        "the bases of FS, GS, TR, GDTR and IDTR",
        f.HOST_FS_BASE, f.HOST_GS_BASE, f.HOST_TR_BASE, f.HOST_GDTR_BASE, f.HOST_IDTR_BASE,
    ),
    EntryRule(
        SIZE,
        "host address-space size is 1 exactly where the processor is in IA-32e mode at the entry",
        lambda a: a.long_host != a.long_mode,
    ),
    EntryRule(
        SIZE, "without host address-space size, IA-32e mode guest is 0", lambda a: a.long_guest and not a.long_host
    ),
    EntryRule(
        SIZE, "with host address-space size, PAE (bit 5) of CR4 is 1", lambda a: a.long_host and not a[f.HOST_CR4] & CR4_PAE
    ),
    EntryRule(
        SIZE,
        "without host address-space size, PCIDE (bit 17) of CR4 is 0",
        lambda a: not a.long_host and a[f.HOST_CR4] & CR4_PCIDE,
    ),
    EntryRule(
        SIZE,
        "without host address-space size, bits 63:32 of RIP are 0",
        lambda a: not a.long_host and a[f.HOST_RIP] >> 32,
    ),
    _canonical(SIZE, "RIP", f.HOST_RIP),
)  # fmt: skip
"""Each is what must be so."""
