"""VM exits: their basic reasons, and the value that ends an instruction of a guest (Intel SDM vol. 3, appendix C)."""

from __future__ import annotations

from enum import IntEnum

from vmlab.machine.guest_exit import GuestExit

__all__ = ["ENTRY_FAILURE", "BasicReason", "VmExit"]

ENTRY_FAILURE = 1 << 31
"""Bit of the exit reason: the VM entry has failed."""


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
    MONITOR_TRAP_FLAG = 37
    PAUSE = 40
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    GDTR_IDTR_ACCESS = 46
    LDTR_TR_ACCESS = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    INVEPT = 50
    RDTSCP = 51
    PREEMPTION_TIMER = 52
    INVVPID = 53
    WBINVD = 54
    XSETBV = 55
    APIC_WRITE = 56
    INVPCID = 58
    PML_FULL = 62
    NOTIFY = 75


class VmExit(GuestExit):
    """A VM exit, on its way to the host.

    Attributes
    ----------
    reason : BasicReason
        Why.
    info : int
        VM-exit instruction information.
    interruption, code : int
        VM-exit interruption information, and error code.
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
        super().__init__(qualification, length=length)
        self.reason = reason
        self.info = info
        self.interruption, self.code = interruption, code
        self.linear, self.physical = linear, physical

    @property
    def name(self) -> str:
        return self.reason.name

    @property
    def acknowledges(self) -> bool:
        return self.reason == BasicReason.EXTERNAL_INTERRUPT and self.interruption != 0
