"""Why a guest lost the CPU to its hypervisor: the reasons that are counted.

Names are those of the VMX exit reasons where there is one (Intel SDM vol. 3, appendix C). *Hidden* and *true* page
faults are the terms of Adams and Agesen (ASPLOS 2006): a hidden one comes from the shadow table alone, and the guest
never learns of it.
"""

from __future__ import annotations

from enum import StrEnum

from vmlab.isa.x86.instruction import Instruction, Privilege
from vmlab.isa.x86.operands import ControlRegister
from vmlab.machine.svm.codes import CR_READ, DR_READ, EXCEPTION, INVALID, ExitCode
from vmlab.machine.vmx.reasons import BasicReason

__all__ = ["BY_BASIC_REASON", "BY_EXIT_CODE", "ExitReason", "reason_of"]


class ExitReason(StrEnum):
    """Reason of an exit; the value is its key in `Run.exits`."""

    APIC_ACCESS = "APIC access"
    APIC_WRITE = "APIC write"
    CONTROL_REGISTER = "control-register access"
    CPUID = "CPUID"
    DEBUG_REGISTER = "debug-register access"
    DESCRIPTOR_TABLE = "descriptor-table access"
    EPT_MISCONFIGURATION = "EPT misconfiguration"
    EPT_VIOLATION = "EPT violation"
    ENTRY_FAILURE = "VM-entry failure"
    EXTERNAL_INTERRUPT = "external interrupt"
    FLAGS = "PUSHF or POPF"
    GUEST_EXCEPTION = "guest exception"
    HALT = "HLT"
    HIDDEN_PAGE_FAULT = "hidden page fault"
    HYPERCALL = "hypercall"
    INTERRUPT_WINDOW = "interrupt window"
    INTERRUPT_FLAG = "CLI or STI"
    INTERRUPT_RETURN = "IRET"
    INVLPG = "INVLPG"
    IO = "I/O instruction"
    MONITOR_TRAP_FLAG = "monitor trap flag"
    MMIO = "memory-mapped I/O"
    NESTED_PAGE_FAULT = "nested page fault"
    NMI_WINDOW = "NMI window"
    NOTIFY = "notify"
    PML_FULL = "page-modification log full"
    PAUSE = "PAUSE"
    PRIVILEGED = "other privileged instruction"
    RDMSR = "RDMSR"
    RETRANSLATED = "retranslated instruction"
    RDTSC = "RDTSC"
    SEGMENT_LOAD = "segment load"
    SOFTWARE_INTERRUPT = "software interrupt"
    SVM_INSTRUCTION = "SVM instruction"
    TASK_SWITCH = "task switch"
    TPR_BELOW_THRESHOLD = "TPR below threshold"
    TRACED_WRITE = "traced write"
    TRANSLATION = "translation-cache miss"
    TRIPLE_FAULT = "triple fault"
    TRUE_PAGE_FAULT = "true page fault"
    VMX_INSTRUCTION = "VMX instruction"
    WINDOW = "access behind the hypervisor's window"
    WRMSR = "WRMSR"


_BY_MNEMONIC = {
    "cli": ExitReason.INTERRUPT_FLAG, "sti": ExitReason.INTERRUPT_FLAG,
    "pushf": ExitReason.FLAGS, "popf": ExitReason.FLAGS, "cpuid": ExitReason.CPUID,
    "hlt": ExitReason.HALT, "iret": ExitReason.INTERRUPT_RETURN, "invlpg": ExitReason.INVLPG,
    "in": ExitReason.IO, "out": ExitReason.IO, "ins": ExitReason.IO, "outs": ExitReason.IO,
    "int": ExitReason.SOFTWARE_INTERRUPT, "int3": ExitReason.SOFTWARE_INTERRUPT, "into": ExitReason.SOFTWARE_INTERRUPT,
    "lgdt": ExitReason.DESCRIPTOR_TABLE, "lidt": ExitReason.DESCRIPTOR_TABLE, "lldt": ExitReason.DESCRIPTOR_TABLE,
    "ltr": ExitReason.DESCRIPTOR_TABLE, "sgdt": ExitReason.DESCRIPTOR_TABLE, "sidt": ExitReason.DESCRIPTOR_TABLE,
    "sldt": ExitReason.DESCRIPTOR_TABLE, "str": ExitReason.DESCRIPTOR_TABLE,
    "pause": ExitReason.PAUSE, "rdtsc": ExitReason.RDTSC, "rdpmc": ExitReason.PRIVILEGED,
    "lmsw": ExitReason.CONTROL_REGISTER, "smsw": ExitReason.CONTROL_REGISTER, "clts": ExitReason.CONTROL_REGISTER,
}  # fmt: skip


def reason_of(instruction: Instruction) -> ExitReason:
    """Return the reason for an instruction that trapped and was emulated."""
    if instruction.mnemonic in _BY_MNEMONIC:
        return _BY_MNEMONIC[instruction.mnemonic]
    if any(isinstance(operand, ControlRegister) for operand in instruction.operands):
        return ExitReason.CONTROL_REGISTER
    if instruction.privilege is Privilege.PRIVILEGED:
        return ExitReason.PRIVILEGED
    return ExitReason.SEGMENT_LOAD


_VMX = [
    "VMCALL",
    "VMCLEAR",
    "VMLAUNCH",
    "VMPTRLD",
    "VMPTRST",
    "VMREAD",
    "VMRESUME",
    "VMWRITE",
    "VMXOFF",
    "VMXON",
    "INVEPT",
    "INVVPID",
]

BY_BASIC_REASON: dict[BasicReason, ExitReason] = dict.fromkeys(BasicReason, ExitReason.PRIVILEGED) | {
    BasicReason.EXCEPTION_OR_NMI: ExitReason.GUEST_EXCEPTION,
    BasicReason.EXTERNAL_INTERRUPT: ExitReason.EXTERNAL_INTERRUPT,
    BasicReason.TRIPLE_FAULT: ExitReason.TRIPLE_FAULT,
    BasicReason.INTERRUPT_WINDOW: ExitReason.INTERRUPT_WINDOW,
    BasicReason.NMI_WINDOW: ExitReason.NMI_WINDOW,
    BasicReason.MONITOR_TRAP_FLAG: ExitReason.MONITOR_TRAP_FLAG,
    BasicReason.TASK_SWITCH: ExitReason.TASK_SWITCH,
    BasicReason.CPUID: ExitReason.CPUID,
    BasicReason.HLT: ExitReason.HALT,
    BasicReason.INVLPG: ExitReason.INVLPG,
    BasicReason.INVPCID: ExitReason.INVLPG,
    BasicReason.PAUSE: ExitReason.PAUSE,
    BasicReason.RDTSC: ExitReason.RDTSC,
    BasicReason.RDTSCP: ExitReason.RDTSC,
    BasicReason.CR_ACCESS: ExitReason.CONTROL_REGISTER,
    BasicReason.MOV_DR: ExitReason.DEBUG_REGISTER,
    BasicReason.IO_INSTRUCTION: ExitReason.IO,
    BasicReason.RDMSR: ExitReason.RDMSR,
    BasicReason.WRMSR: ExitReason.WRMSR,
    BasicReason.ENTRY_FAILURE_GUEST_STATE: ExitReason.ENTRY_FAILURE,
    BasicReason.ENTRY_FAILURE_MSR_LOADING: ExitReason.ENTRY_FAILURE,
    BasicReason.GDTR_IDTR_ACCESS: ExitReason.DESCRIPTOR_TABLE,
    BasicReason.LDTR_TR_ACCESS: ExitReason.DESCRIPTOR_TABLE,
    BasicReason.EPT_VIOLATION: ExitReason.EPT_VIOLATION,
    BasicReason.EPT_MISCONFIGURATION: ExitReason.EPT_MISCONFIGURATION,
    BasicReason.NOTIFY: ExitReason.NOTIFY,
    BasicReason.APIC_ACCESS: ExitReason.APIC_ACCESS,
    BasicReason.PML_FULL: ExitReason.PML_FULL,
    BasicReason.TPR_BELOW_THRESHOLD: ExitReason.TPR_BELOW_THRESHOLD,
    **{BasicReason[name]: ExitReason.VMX_INSTRUCTION for name in _VMX},
}
"""What a basic exit reason of VMX is counted as."""

_SVM = ("VMRUN", "VMMCALL", "VMLOAD", "VMSAVE", "STGI", "CLGI", "SKINIT", "INVLPGA")

BY_EXIT_CODE: dict[int, ExitReason] = {
    **dict.fromkeys(range(CR_READ, DR_READ), ExitReason.CONTROL_REGISTER),
    **dict.fromkeys(range(DR_READ, EXCEPTION), ExitReason.DEBUG_REGISTER),
    **dict.fromkeys(range(EXCEPTION, ExitCode.INTR), ExitReason.GUEST_EXCEPTION),
    **dict.fromkeys(ExitCode, ExitReason.PRIVILEGED),
    **dict.fromkeys(range(ExitCode.IDTR_READ, ExitCode.RDTSC), ExitReason.DESCRIPTOR_TABLE),
    ExitCode.INTR: ExitReason.EXTERNAL_INTERRUPT,
    ExitCode.NMI: ExitReason.EXTERNAL_INTERRUPT,
    ExitCode.VINTR: ExitReason.INTERRUPT_WINDOW,
    ExitCode.CR0_SEL_WRITE: ExitReason.CONTROL_REGISTER,
    ExitCode.PAUSE: ExitReason.PAUSE,
    ExitCode.RDTSC: ExitReason.RDTSC,
    ExitCode.RDTSCP: ExitReason.RDTSC,
    ExitCode.CPUID: ExitReason.CPUID,
    ExitCode.IRET: ExitReason.INTERRUPT_RETURN,
    ExitCode.SWINT: ExitReason.SOFTWARE_INTERRUPT,
    ExitCode.HLT: ExitReason.HALT,
    ExitCode.INVLPG: ExitReason.INVLPG,
    ExitCode.IOIO: ExitReason.IO,
    ExitCode.MSR: ExitReason.RDMSR,
    ExitCode.TASK_SWITCH: ExitReason.TASK_SWITCH,
    ExitCode.SHUTDOWN: ExitReason.TRIPLE_FAULT,
    ExitCode.NPF: ExitReason.NESTED_PAGE_FAULT,
    INVALID: ExitReason.ENTRY_FAILURE,
    **{ExitCode[name]: ExitReason.SVM_INSTRUCTION for name in _SVM},
}
"""What an exit code of SVM is counted as."""
