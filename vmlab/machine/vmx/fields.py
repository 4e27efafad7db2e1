"""The fields of a VMCS and their encodings: the table of Intel SDM vol. 3, appendix B.

    encoding:  [ width 14:13 | type 11:10 | index 9:1 | high half 0 ]

The width is 0 for 16 bits, 1 for 64, 2 for 32, 3 for the natural width (64 bits where there is long mode); the type is
0 control, 1 read-only data (VM-exit information), 2 guest state, 3 host state. `FIELDS` is made from the constants below.

Left out are the fields of what is not modelled: virtual-interrupt delivery, posted interrupts, VM functions, #VE, SGX, tracing, SMM.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIELDS", "HIGH", "Field"]

# -- 16 bits -----------------------------------------------------------------------------------------------------------
VPID = 0x0000
GUEST_ES, GUEST_CS, GUEST_SS, GUEST_DS, GUEST_FS, GUEST_GS, GUEST_LDTR, GUEST_TR = range(0x0800, 0x0810, 2)
PML_INDEX = 0x0812
HOST_ES, HOST_CS, HOST_SS, HOST_DS, HOST_FS, HOST_GS, HOST_TR = range(0x0C00, 0x0C0E, 2)

# -- 64 bits -----------------------------------------------------------------------------------------------------------
IO_BITMAP_A, IO_BITMAP_B, MSR_BITMAP = range(0x2000, 0x2006, 2)
EXIT_MSR_STORE_ADDRESS, EXIT_MSR_LOAD_ADDRESS, ENTRY_MSR_LOAD_ADDRESS, EXECUTIVE_VMCS = range(0x2006, 0x200E, 2)
PML_ADDRESS, TSC_OFFSET, VIRTUAL_APIC_ADDRESS, APIC_ACCESS_ADDRESS = range(0x200E, 0x2016, 2)
EPT_POINTER = 0x201A
GUEST_PHYSICAL_ADDRESS = 0x2400
VMCS_LINK_POINTER, GUEST_DEBUGCTL, GUEST_PAT, GUEST_EFER = range(0x2800, 0x2808, 2)
GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3 = range(0x280A, 0x2812, 2)
HOST_PAT, HOST_EFER = 0x2C00, 0x2C02

# -- 32 bits -----------------------------------------------------------------------------------------------------------
PIN_BASED_CONTROLS, PRIMARY_CONTROLS, EXCEPTION_BITMAP = range(0x4000, 0x4006, 2)
PAGE_FAULT_MASK, PAGE_FAULT_MATCH, CR3_TARGET_COUNT = range(0x4006, 0x400C, 2)
EXIT_CONTROLS, EXIT_MSR_STORE_COUNT, EXIT_MSR_LOAD_COUNT = range(0x400C, 0x4012, 2)
ENTRY_CONTROLS, ENTRY_MSR_LOAD_COUNT = 0x4012, 0x4014
ENTRY_INTERRUPTION, ENTRY_ERROR_CODE, ENTRY_INSTRUCTION_LENGTH = range(0x4016, 0x401C, 2)
TPR_THRESHOLD, SECONDARY_CONTROLS = 0x401C, 0x401E
INSTRUCTION_ERROR, EXIT_REASON, EXIT_INTERRUPTION, EXIT_ERROR_CODE = range(0x4400, 0x4408, 2)
IDT_VECTORING, IDT_VECTORING_ERROR_CODE, EXIT_INSTRUCTION_LENGTH, EXIT_INSTRUCTION_INFO = range(0x4408, 0x4410, 2)
(
    GUEST_ES_LIMIT, GUEST_CS_LIMIT, GUEST_SS_LIMIT, GUEST_DS_LIMIT, GUEST_FS_LIMIT, GUEST_GS_LIMIT, GUEST_LDTR_LIMIT,
    GUEST_TR_LIMIT, GUEST_GDTR_LIMIT, GUEST_IDTR_LIMIT,
) = range(0x4800, 0x4814, 2)  # fmt: skip
(
    GUEST_ES_ACCESS, GUEST_CS_ACCESS, GUEST_SS_ACCESS, GUEST_DS_ACCESS, GUEST_FS_ACCESS, GUEST_GS_ACCESS,
    GUEST_LDTR_ACCESS, GUEST_TR_ACCESS,
) = range(0x4814, 0x4824, 2)  # fmt: skip
GUEST_INTERRUPTIBILITY, GUEST_ACTIVITY = 0x4824, 0x4826
GUEST_SYSENTER_CS, TIMER_VALUE, HOST_SYSENTER_CS = 0x482A, 0x482E, 0x4C00

# -- natural width -----------------------------------------------------------------------------------------------------
CR0_MASK, CR4_MASK, CR0_SHADOW, CR4_SHADOW = range(0x6000, 0x6008, 2)
CR3_TARGET0, CR3_TARGET1, CR3_TARGET2, CR3_TARGET3 = range(0x6008, 0x6010, 2)
EXIT_QUALIFICATION, IO_RCX, IO_RSI, IO_RDI, IO_RIP, GUEST_LINEAR_ADDRESS = range(0x6400, 0x640C, 2)
GUEST_CR0, GUEST_CR3, GUEST_CR4 = range(0x6800, 0x6806, 2)
(
    GUEST_ES_BASE, GUEST_CS_BASE, GUEST_SS_BASE, GUEST_DS_BASE, GUEST_FS_BASE, GUEST_GS_BASE, GUEST_LDTR_BASE,
    GUEST_TR_BASE, GUEST_GDTR_BASE, GUEST_IDTR_BASE,
) = range(0x6806, 0x681A, 2)  # fmt: skip
GUEST_DR7, GUEST_RSP, GUEST_RIP, GUEST_RFLAGS, GUEST_PENDING_DEBUG = range(0x681A, 0x6824, 2)
GUEST_SYSENTER_ESP, GUEST_SYSENTER_EIP = 0x6824, 0x6826
HOST_CR0, HOST_CR3, HOST_CR4, HOST_FS_BASE, HOST_GS_BASE, HOST_TR_BASE = range(0x6C00, 0x6C0C, 2)
HOST_GDTR_BASE, HOST_IDTR_BASE, HOST_SYSENTER_ESP, HOST_SYSENTER_EIP, HOST_RSP, HOST_RIP = range(0x6C0C, 0x6C18, 2)

WIDTHS = (16, 64, 32, 64)
GROUPS = ("control", "exit information", "guest state", "host state")
HIGH = 1
"""Added to the encoding of a field of 64 bits: its upper half alone."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes
    ----------
    name : str
        As in the manual, in capitals.
    encoding : int
        By which VMREAD and VMWRITE name it.
    """

    name: str
    encoding: int

    @property
    def width(self) -> int:
        """Bits."""
        return WIDTHS[self.encoding >> 13 & 3]

    @property
    def natural(self) -> bool:
        """True for a field of the processor's natural width."""
        return self.encoding >> 13 & 3 == 3

    @property
    def group(self) -> str:
        """`"control"`, `"exit information"`, `"guest state"` or `"host state"`."""
        return GROUPS[self.encoding >> 10 & 3]

    @property
    def read_only(self) -> bool:
        """True for VM-exit information, which VMWRITE cannot write."""
        return self.encoding >> 10 & 3 == 1


FIELDS: dict[int, Field] = {
    value: Field(name, value)
    for name, value in sorted(globals().items(), key=lambda each: str(each[1]))
    if name.isupper() and type(value) is int and name != "HIGH"
}
"""The fields by encoding."""
FIELDS = dict(sorted(FIELDS.items()))
