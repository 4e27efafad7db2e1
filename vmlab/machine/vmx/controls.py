"""The bits of the VMX controls, and which of them a processor has: what its capability MSRs say.

A capability MSR says of a control's 32 bits which must be 1 (its low half) and which may be 1 (its high half). The bits
that must be 1 and have no name are the *default1* class (SDM vol. 3, appendix A.2).

Read more: Intel SDM vol. 3, 24.6 to 24.8 (controls), appendix A (capability MSRs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import CR0_NE, CR0_PE, CR0_PG, CR4_VMXE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.cpu_model import CpuModel

__all__ = ["CAPABILITIES", "EPT_CAPABILITIES", "REVISION", "allowed", "fixed_cr0"]

# Pin-based VM-execution controls (SDM vol. 3, table 24-5)
EXTERNAL_INTERRUPT_EXITING, NMI_EXITING, VIRTUAL_NMIS, PREEMPTION_TIMER = 1 << 0, 1 << 3, 1 << 5, 1 << 6

# Primary processor-based VM-execution controls (table 24-6)
INTERRUPT_WINDOW_EXITING, USE_TSC_OFFSETTING, HLT_EXITING, INVLPG_EXITING = 1 << 2, 1 << 3, 1 << 7, 1 << 9
MWAIT_EXITING, RDPMC_EXITING, RDTSC_EXITING = 1 << 10, 1 << 11, 1 << 12
CR3_LOAD_EXITING, CR3_STORE_EXITING, CR8_LOAD_EXITING, CR8_STORE_EXITING = 1 << 15, 1 << 16, 1 << 19, 1 << 20
USE_TPR_SHADOW, NMI_WINDOW_EXITING, MOV_DR_EXITING = 1 << 21, 1 << 22, 1 << 23
UNCONDITIONAL_IO_EXITING, USE_IO_BITMAPS, MONITOR_TRAP_FLAG = 1 << 24, 1 << 25, 1 << 27
USE_MSR_BITMAPS, MONITOR_EXITING, PAUSE_EXITING, ACTIVATE_SECONDARY = 1 << 28, 1 << 29, 1 << 30, 1 << 31

# Secondary processor-based VM-execution controls (table 24-7)
VIRTUALIZE_APIC_ACCESSES, ENABLE_EPT, DESCRIPTOR_TABLE_EXITING, ENABLE_RDTSCP = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ENABLE_VPID, WBINVD_EXITING, UNRESTRICTED_GUEST, APIC_REGISTERS = 1 << 5, 1 << 6, 1 << 7, 1 << 8
ENABLE_INVPCID, ENABLE_PML = 1 << 12, 1 << 17

# VM-exit controls (table 24-10) and VM-entry controls (table 24-12)
HOST_ADDRESS_SPACE_SIZE, ACKNOWLEDGE_INTERRUPT, SAVE_EFER, LOAD_HOST_EFER = 1 << 9, 1 << 15, 1 << 20, 1 << 21
SAVE_PREEMPTION_TIMER = 1 << 22
IA32E_MODE_GUEST, LOAD_GUEST_EFER = 1 << 9, 1 << 15

# Numbers of the capability MSRs (SDM vol. 3, appendix A)
VMX_BASIC, PINBASED, PROCBASED, EXIT_CTLS, ENTRY_CTLS, VMX_MISC = range(0x480, 0x486)
CR0_FIXED0, CR0_FIXED1, CR4_FIXED0, CR4_FIXED1, VMCS_ENUM, PROCBASED2, EPT_VPID_CAP = range(0x486, 0x48D)
TRUE_PINBASED, TRUE_PROCBASED, TRUE_EXIT, TRUE_ENTRY = range(0x48D, 0x491)

REVISION = 0x564D4C42
"""VMCS revision identifier of every model here: they all lay a VMCS out in the same way."""
REGION_BYTES, WRITE_BACK = 0x1000, 6
MOST_CR3_TARGETS = 4
TIMER_RATE = 5
"""The VMX-preemption timer counts each change of this bit of the time-stamp counter, as on processors from Nehalem on."""

# Bits that must be 1 and have no name (SDM vol. 3, 24.6.1, 24.6.2, 24.7.1, 24.8.1); of the primary controls CR3-load and
# CR3-store exiting are in this class, too, but for the "true" MSRs.
PIN_DEFAULT, PRIMARY_DEFAULT, EXIT_DEFAULT, ENTRY_DEFAULT = 0x16, 0x0401_E172, 0x3_6DFF, 0x11FF
PRIMARY_TRUE_DEFAULT = PRIMARY_DEFAULT & ~(CR3_LOAD_EXITING | CR3_STORE_EXITING)

_PIN = EXTERNAL_INTERRUPT_EXITING | NMI_EXITING | VIRTUAL_NMIS
_PRIMARY = (
    INTERRUPT_WINDOW_EXITING | USE_TSC_OFFSETTING | HLT_EXITING | INVLPG_EXITING | RDPMC_EXITING | RDTSC_EXITING
    | CR3_LOAD_EXITING | CR3_STORE_EXITING | CR8_LOAD_EXITING | CR8_STORE_EXITING | NMI_WINDOW_EXITING | MOV_DR_EXITING
    | UNCONDITIONAL_IO_EXITING | USE_IO_BITMAPS | USE_MSR_BITMAPS | PAUSE_EXITING
)  # fmt: skip
_SECONDARY = {
    "ept": ENABLE_EPT, "vpid": ENABLE_VPID, "unrestricted-guest": UNRESTRICTED_GUEST, "rdtscp": ENABLE_RDTSCP,
    "invpcid": ENABLE_INVPCID, "pml": ENABLE_PML, "virtual-apic": VIRTUALIZE_APIC_ACCESSES, "apic-registers": APIC_REGISTERS,
}  # fmt: skip
_ALWAYS_SECONDARY = DESCRIPTOR_TABLE_EXITING | WBINVD_EXITING

# IA32_VMX_EPT_VPID_CAP:  [ INVVPID types 43:40, INVVPID 32 | INVEPT types 26:25 | A and D bits 21 | INVEPT 20 |
#                           pages of 1 GiB 17 | of 2 MiB 16 | write-back 14 | 4 levels 6 | execute-only 0 ]
EPT_CAPABILITIES = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 20 | 3 << 25
EPT_ACCESSED_DIRTY = 1 << 21
VPID_CAPABILITIES = 1 << 32 | 0xF << 40


def allowed(model: CpuModel, number: int) -> tuple[int, int]:
    """Return which bits of a control must be 1, and which may be, by the number of its capability MSR."""
    key = model.name, model.features, number
    found = _ALLOWED.get(key)
    if found is None:
        found = _ALLOWED[key] = _allowed(model, number)
    return found


_ALLOWED: dict[tuple[str, frozenset[str], int], tuple[int, int]] = {}


def _allowed(model: CpuModel, number: int) -> tuple[int, int]:
    secondary = _ALWAYS_SECONDARY
    for feature, bit in _SECONDARY.items():
        if model.has(feature):
            secondary |= bit
    long = model.has("lm")
    primary = _PRIMARY | ACTIVATE_SECONDARY | (USE_TPR_SHADOW if model.has("tpr-shadow") else 0)
    primary |= MONITOR_TRAP_FLAG if model.has("monitor-trap-flag") else 0
    timer, saved = (PREEMPTION_TIMER, SAVE_PREEMPTION_TIMER) if model.has("preemption-timer") else (0, 0)
    ending = ACKNOWLEDGE_INTERRUPT | SAVE_EFER | LOAD_HOST_EFER | saved
    must, may = {
        PINBASED: (PIN_DEFAULT, _PIN | timer),
        TRUE_PINBASED: (PIN_DEFAULT, _PIN | timer),
        PROCBASED: (PRIMARY_DEFAULT, primary),
        TRUE_PROCBASED: (PRIMARY_TRUE_DEFAULT, primary),
        PROCBASED2: (0, secondary),
        EXIT_CTLS: (EXIT_DEFAULT, (HOST_ADDRESS_SPACE_SIZE if long else 0) | ending),
        ENTRY_CTLS: (ENTRY_DEFAULT, (IA32E_MODE_GUEST if long else 0) | LOAD_GUEST_EFER),
    }[{TRUE_EXIT: EXIT_CTLS, TRUE_ENTRY: ENTRY_CTLS}.get(number, number)]  # fmt: skip
    return must, must | may


def fixed_cr0(*, unrestricted: bool) -> int:
    """Return the bits of CR0 that must be 1 in VMX operation; an unrestricted guest is free of two of them."""
    return CR0_NE if unrestricted else CR0_NE | CR0_PE | CR0_PG


def _basic(model: CpuModel) -> int:
    """Revision, size of a region, memory type, and that the controls' true MSRs exist (bit 55)."""
    return REVISION | REGION_BYTES << 32 | WRITE_BACK << 50 | 1 << 55


def _miscellaneous(model: CpuModel) -> int:
    """CR3 targets, the activity state HLT, the rate of the VMX-preemption timer."""
    return MOST_CR3_TARGETS << 16 | 1 << 6 | (TIMER_RATE if model.has("preemption-timer") else 0)


def _ept_vpid(model: CpuModel) -> int:
    pages = EPT_CAPABILITIES if model.has("pdpe1gb") else EPT_CAPABILITIES & ~(1 << 17)
    dirty = EPT_ACCESSED_DIRTY if model.has("ept-dirty") else 0
    return (pages | dirty if model.has("ept") else 0) | (VPID_CAPABILITIES if model.has("vpid") else 0)


def _control(number: int) -> Callable[[CpuModel], int]:
    def read(model: CpuModel) -> int:
        must, may = allowed(model, number)
        return must | may << 32

    return read


_CONTROLS = (
    PINBASED, PROCBASED, EXIT_CTLS, ENTRY_CTLS, PROCBASED2, TRUE_PINBASED, TRUE_PROCBASED, TRUE_EXIT, TRUE_ENTRY,
)  # fmt: skip

CAPABILITIES: dict[int, Callable[[CpuModel], int]] = {
    VMX_BASIC: _basic,
    VMX_MISC: _miscellaneous,
    CR0_FIXED0: lambda _: CR0_NE | CR0_PE | CR0_PG,
    CR0_FIXED1: lambda _: 0xFFFF_FFFF,
    CR4_FIXED0: lambda _: CR4_VMXE,
    CR4_FIXED1: lambda model: model.cr4_mask,
    VMCS_ENUM: lambda _: 0x2E,  # greatest index of a field, in bits 9:1
    EPT_VPID_CAP: _ept_vpid,
    **{number: _control(number) for number in _CONTROLS},
}
"""What each capability MSR reads as on a model."""
