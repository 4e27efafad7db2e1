"""What the manual calls the bits of a VMCS's fields, and the VM-instruction errors.

The bits themselves are in `vmlab.machine.vmx.controls` and `vmlab.isa.x86.registers`; here they are told apart by field.

Read more: Intel SDM vol. 3, 24.4 to 24.9 (fields), 30.4 (errors), appendix C (exit reasons).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86 import registers
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.guest_state import MOV_SS_BLOCKING, NMI_BLOCKING, STI_BLOCKING
from vmlab.machine.vmx.reasons import BasicReason

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["BITS", "EVENT_TYPES", "INSTRUCTION_ERRORS", "REASONS"]


def _controls(names: str) -> dict[str, int]:
    """Return controls by name."""
    return {name: getattr(c, name) for name in names.split()}


def _bits(module: ModuleType, prefix: str) -> dict[str, int]:
    """Return the bits whose names in a module begin so."""
    return {
        name.removeprefix(prefix): value
        for name, value in vars(module).items()
        if name.startswith(prefix) and type(value) is int and value.bit_count() == 1
    }


_CR0, _CR4, _EFER = (_bits(registers, prefix) for prefix in ("CR0_", "CR4_", "EFER_"))

BITS: dict[int, dict[str, int]] = {
    f.PIN_BASED_CONTROLS: _controls("EXTERNAL_INTERRUPT_EXITING NMI_EXITING VIRTUAL_NMIS PREEMPTION_TIMER"),
    f.PRIMARY_CONTROLS: _controls(
        "INTERRUPT_WINDOW_EXITING USE_TSC_OFFSETTING HLT_EXITING INVLPG_EXITING MWAIT_EXITING RDPMC_EXITING RDTSC_EXITING "
        "CR3_LOAD_EXITING CR3_STORE_EXITING CR8_LOAD_EXITING CR8_STORE_EXITING USE_TPR_SHADOW NMI_WINDOW_EXITING "
        "MOV_DR_EXITING UNCONDITIONAL_IO_EXITING USE_IO_BITMAPS MONITOR_TRAP_FLAG USE_MSR_BITMAPS MONITOR_EXITING PAUSE_EXITING "
        "ACTIVATE_SECONDARY"
    ),
    f.SECONDARY_CONTROLS: _controls(
        "VIRTUALIZE_APIC_ACCESSES ENABLE_EPT DESCRIPTOR_TABLE_EXITING ENABLE_RDTSCP ENABLE_VPID WBINVD_EXITING "
        "UNRESTRICTED_GUEST APIC_REGISTERS ENABLE_INVPCID ENABLE_PML"
    ),
    f.EXIT_CONTROLS: _controls(
        "HOST_ADDRESS_SPACE_SIZE ACKNOWLEDGE_INTERRUPT SAVE_EFER LOAD_HOST_EFER SAVE_PREEMPTION_TIMER"
    ),
    f.ENTRY_CONTROLS: _controls("IA32E_MODE_GUEST LOAD_GUEST_EFER"),
    **dict.fromkeys((f.GUEST_CR0, f.HOST_CR0, f.CR0_MASK, f.CR0_SHADOW), _CR0),
    **dict.fromkeys((f.GUEST_CR4, f.HOST_CR4, f.CR4_MASK, f.CR4_SHADOW), _CR4),
    **dict.fromkeys((f.GUEST_EFER, f.HOST_EFER), _EFER),
    f.GUEST_RFLAGS: registers.FLAG_BITS,
    f.GUEST_INTERRUPTIBILITY: {
        "blocking by STI": STI_BLOCKING,
        "blocking by MOV SS": MOV_SS_BLOCKING,
        "blocking by NMI": NMI_BLOCKING,
    },
    f.GUEST_PENDING_DEBUG: {"B0": 1, "B1": 2, "B2": 4, "B3": 8, "enabled breakpoint": 1 << 12, "BS": 1 << 14},
}
"""Single bits by field and name. Of the controls, bits without a name are the default1 class (appendix A.2)."""

EVENT_TYPES = (
    "external interrupt", "reserved", "NMI", "hardware exception", "software interrupt", "privileged software exception",
    "software exception", "other event",
)  # fmt: skip
"""Types of an interruption information (table 24-15)."""

INSTRUCTION_ERRORS = {
    1: "VMCALL executed in VMX root operation",
    2: "VMCLEAR with invalid physical address",
    3: "VMCLEAR with VMXON pointer",
    4: "VMLAUNCH with non-clear VMCS",
    5: "VMRESUME with non-launched VMCS",
    7: "VM entry with invalid control field(s)",
    8: "VM entry with invalid host-state field(s)",
    9: "VMPTRLD with invalid physical address",
    10: "VMPTRLD with VMXON pointer",
    11: "VMPTRLD with incorrect VMCS revision identifier",
    12: "VMREAD/VMWRITE from/to unsupported VMCS component",
    13: "VMWRITE to read-only VMCS component",
    15: "VMXON executed in VMX root operation",
    26: "VM entry with events blocked by MOV SS",
    28: "Invalid operand to INVEPT/INVVPID",
}
"""VM-instruction errors by number (30.4)."""

REASONS = {reason: reason.name for reason in BasicReason} | {
    BasicReason.EXCEPTION_OR_NMI: "exception or NMI",
    BasicReason.EXTERNAL_INTERRUPT: "external interrupt",
    BasicReason.TRIPLE_FAULT: "triple fault",
    BasicReason.INIT_SIGNAL: "INIT signal",
    BasicReason.INTERRUPT_WINDOW: "interrupt window",
    BasicReason.NMI_WINDOW: "NMI window",
    BasicReason.TASK_SWITCH: "task switch",
    BasicReason.CR_ACCESS: "control-register access",
    BasicReason.MOV_DR: "MOV DR",
    BasicReason.IO_INSTRUCTION: "I/O instruction",
    BasicReason.ENTRY_FAILURE_GUEST_STATE: "VM-entry failure due to invalid guest state",
    BasicReason.ENTRY_FAILURE_MSR_LOADING: "VM-entry failure due to MSR loading",
    BasicReason.MONITOR_TRAP_FLAG: "monitor trap flag",
    BasicReason.PREEMPTION_TIMER: "VMX-preemption timer expired",
    BasicReason.TPR_BELOW_THRESHOLD: "TPR below threshold",
    BasicReason.APIC_ACCESS: "APIC access",
    BasicReason.GDTR_IDTR_ACCESS: "access to GDTR or IDTR",
    BasicReason.LDTR_TR_ACCESS: "access to LDTR or TR",
    BasicReason.EPT_VIOLATION: "EPT violation",
    BasicReason.EPT_MISCONFIGURATION: "EPT misconfiguration",
    BasicReason.APIC_WRITE: "APIC write",
    BasicReason.PML_FULL: "page-modification log full",
    BasicReason.NOTIFY: "notify",
}
"""Basic exit reasons in the manual's words."""
