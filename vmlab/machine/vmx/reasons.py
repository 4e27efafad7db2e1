"""VM exits: their basic reasons, and the value that ends an instruction of a guest (Intel SDM vol. 3, appendix C).

`VmExit` is raised before an instruction has changed anything, as a fault is, and is one to whoever undoes an instruction
half done; the machine takes it at one place.
"""

from __future__ import annotations

from enum import IntEnum

from vmlab.isa.x86.faults import Fault

__all__ = ["ENTRY_FAILURE", "BasicReason", "VmExit"]

ENTRY_FAILURE = 1 << 31
"""Bit of the exit reason: the VM entry has failed."""

# Interruption information, VM-entry, VM-exit and IDT-vectoring alike (SDM vol. 3, 24.8.3, 24.9.2, 24.9.3):
#   [ valid 31 | error code 11 | type 10:8 | vector 7:0 ]
VALID, WITH_CODE, TYPE_SHIFT = 1 << 31, 1 << 11, 8
EXTERNAL, _, NMI_TYPE, HARDWARE_EXCEPTION, SOFTWARE_INTERRUPT, PRIVILEGED_EXCEPTION, SOFTWARE_EXCEPTION = range(7)
SOFTWARE_TYPES = frozenset({SOFTWARE_INTERRUPT, PRIVILEGED_EXCEPTION, SOFTWARE_EXCEPTION})


class BasicReason(IntEnum):
    """Basic exit reasons."""

    EXCEPTION_OR_NMI = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    INIT_SIGNAL = 3
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    TASK_SWITCH = 9
    CPUID = 10
    HLT = 12
    INVD = 13
    INVLPG = 14
    RDPMC = 15
    RDTSC = 16
    VMCALL = 18
    VMCLEAR = 19
    VMLAUNCH = 20
    VMPTRLD = 21
    VMPTRST = 22
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    VMXOFF = 26
    VMXON = 27
    CR_ACCESS = 28
    MOV_DR = 29
    IO_INSTRUCTION = 30
    RDMSR = 31
    WRMSR = 32
    ENTRY_FAILURE_GUEST_STATE = 33
    ENTRY_FAILURE_MSR_LOADING = 34
    PAUSE = 40
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    GDTR_IDTR_ACCESS = 46
    LDTR_TR_ACCESS = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    INVEPT = 50
    RDTSCP = 51
    INVVPID = 53
    WBINVD = 54
    XSETBV = 55
    APIC_WRITE = 56
    INVPCID = 58
    PML_FULL = 62
    NOTIFY = 75


class VmExit(Fault):
    """A VM exit, on its way to the host.

    Attributes
    ----------
    reason : BasicReason
        Why.
    qualification : int
        The exit qualification.
    length : int
        Bytes of the instruction, for an exit by one.
    info : int
        VM-exit instruction information.
    interruption, code : int
        VM-exit interruption information, and error code.
    vectoring, vectoring_code : int
        IDT-vectoring information: the event that was being delivered, and its error code.
    linear, physical : int or None
        Guest-linear and guest-physical address.
    """

    def __init__(
        self,
        reason: BasicReason,
        qualification: int = 0,
        *,
        length: int = 0,
        info: int = 0,
        interruption: int = 0,
        code: int = 0,
        linear: int | None = None,
        physical: int | None = None,
    ) -> None:
        super().__init__(-1)
        self.reason = reason
        self.qualification = qualification
        self.length = length
        self.info = info
        self.interruption, self.code = interruption, code
        self.vectoring = self.vectoring_code = 0
        self.linear, self.physical = linear, physical

    def while_delivering(self, information: int, error_code: int | None) -> None:
        """Note the event in whose delivery this has happened."""
        self.vectoring = information | VALID | (WITH_CODE if error_code is not None else 0)
        self.vectoring_code = error_code or 0
