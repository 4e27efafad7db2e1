"""Why a guest lost the CPU to its hypervisor: the reasons that are counted.

Names are those of the VMX exit reasons where there is one (Intel SDM vol. 3, appendix C). *Hidden* and *true* page
faults are the terms of Adams and Agesen (ASPLOS 2006): a hidden one comes from the shadow table alone, and the guest
never learns of it.
"""

from __future__ import annotations

from enum import StrEnum

from vmlab.isa.x86.instruction import Instruction, Privilege
from vmlab.isa.x86.operands import ControlRegister

__all__ = ["ExitReason", "reason_of"]


class ExitReason(StrEnum):
    """Reason of an exit; the value is its key in `Run.exits`."""

    CONTROL_REGISTER = "control-register access"
    DESCRIPTOR_TABLE = "descriptor-table access"
    EXTERNAL_INTERRUPT = "external interrupt"
    GUEST_EXCEPTION = "guest exception"
    HALT = "HLT"
    HIDDEN_PAGE_FAULT = "hidden page fault"
    INTERRUPT_FLAG = "CLI or STI"
    INTERRUPT_RETURN = "IRET"
    INVLPG = "INVLPG"
    IO = "I/O instruction"
    MMIO = "memory-mapped I/O"
    PRIVILEGED = "other privileged instruction"
    RDTSC = "RDTSC"
    SEGMENT_LOAD = "segment load"
    SOFTWARE_INTERRUPT = "software interrupt"
    TRACED_WRITE = "traced write"
    TRUE_PAGE_FAULT = "true page fault"
    WINDOW = "access behind the hypervisor's window"


_BY_MNEMONIC = {
    "cli": ExitReason.INTERRUPT_FLAG, "sti": ExitReason.INTERRUPT_FLAG,
    "hlt": ExitReason.HALT, "iret": ExitReason.INTERRUPT_RETURN, "invlpg": ExitReason.INVLPG,
    "in": ExitReason.IO, "out": ExitReason.IO, "ins": ExitReason.IO, "outs": ExitReason.IO,
    "int": ExitReason.SOFTWARE_INTERRUPT, "int3": ExitReason.SOFTWARE_INTERRUPT, "into": ExitReason.SOFTWARE_INTERRUPT,
    "lgdt": ExitReason.DESCRIPTOR_TABLE, "lidt": ExitReason.DESCRIPTOR_TABLE, "lldt": ExitReason.DESCRIPTOR_TABLE,
    "ltr": ExitReason.DESCRIPTOR_TABLE, "sgdt": ExitReason.DESCRIPTOR_TABLE, "sidt": ExitReason.DESCRIPTOR_TABLE,
    "sldt": ExitReason.DESCRIPTOR_TABLE, "str": ExitReason.DESCRIPTOR_TABLE,
    "rdtsc": ExitReason.RDTSC, "rdpmc": ExitReason.PRIVILEGED,
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
