"""Exit codes of #VMEXIT, and the value that ends an instruction of a guest (AMD APM vol. 2, appendix C).

The intercept words of a VMCB, put together, are one vector of bits in the order of the codes: reads and writes of control
registers (00H, 10H), of debug registers (20H, 30H), exceptions (40H), then the two words of events and instructions. What
leads out with code c is asked for by bit c.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import vector_name
from vmlab.machine.guest_exit import GuestExit

if TYPE_CHECKING:
    from vmlab.machine.svm.vmcb import Control

__all__ = ["ExitCode", "SvmExit", "code_name", "intercepts"]

CR_READ, CR_WRITE, DR_READ, DR_WRITE, EXCEPTION = 0x00, 0x10, 0x20, 0x30, 0x40
INVALID = (1 << 64) - 1
"""VMEXIT_INVALID: the state in the VMCB is none that a guest can have."""


class ExitCode(IntEnum):
    """Exit codes but for control registers, debug registers and exceptions."""

    INTR = 0x60
    NMI = 0x61
    SMI = 0x62
    INIT = 0x63
    VINTR = 0x64
    CR0_SEL_WRITE = 0x65
    IDTR_READ = 0x66
    GDTR_READ = 0x67
    LDTR_READ = 0x68
    TR_READ = 0x69
    IDTR_WRITE = 0x6A
    GDTR_WRITE = 0x6B
    LDTR_WRITE = 0x6C
    TR_WRITE = 0x6D
    RDTSC = 0x6E
    RDPMC = 0x6F
    PUSHF = 0x70
    POPF = 0x71
    CPUID = 0x72
    RSM = 0x73
    IRET = 0x74
    SWINT = 0x75
    INVD = 0x76
    PAUSE = 0x77
    HLT = 0x78
    INVLPG = 0x79
    INVLPGA = 0x7A
    IOIO = 0x7B
    MSR = 0x7C
    TASK_SWITCH = 0x7D
    FERR_FREEZE = 0x7E
    SHUTDOWN = 0x7F
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    RDTSCP = 0x87
    ICEBP = 0x88
    WBINVD = 0x89
    MONITOR = 0x8A
    MWAIT = 0x8B
    MWAIT_CONDITIONAL = 0x8C
    XSETBV = 0x8D
    NPF = 0x400


WATCHED = {"pushf": ExitCode.PUSHF, "popf": ExitCode.POPF, "iret": ExitCode.IRET, "int": ExitCode.SWINT}
"""Instructions too frequent for a look at each: while a VMM asks for one of them, all are executed one by one."""


def code_name(code: int) -> str:
    """Return the name of an exit code.

    >>> code_name(0x10), code_name(0x4E), code_name(0x78)
    ('CR0_WRITE', 'EXCP #PF', 'HLT')
    """
    if code == INVALID:
        return "INVALID"
    for base, kind in (
        (CR_READ, "CR{}_READ"),
        (CR_WRITE, "CR{}_WRITE"),
        (DR_READ, "DR{}_READ"),
        (DR_WRITE, "DR{}_WRITE"),
    ):
        if base <= code < base + 16:
            return kind.format(code - base)
    if EXCEPTION <= code < ExitCode.INTR:
        return f"EXCP {vector_name(code - EXCEPTION)}"
    return ExitCode(code).name


def intercepts(control: Control) -> int:
    """Return the intercept words of a VMCB as one vector of bits."""
    return control.cr | control.dr << 32 | control.exceptions << 64 | control.instructions << 96 | control.svm << 128


class SvmExit(GuestExit):
    """A #VMEXIT, on its way to the host; EXITINFO1 is its `qualification`.

    Attributes
    ----------
    code : int
        The exit code.
    info2 : int
        EXITINFO2.
    fetched : bytes
        The instruction, after a page fault, where the processor has decode assists.
    """

    def __init__(self, code: int, info1: int = 0, info2: int = 0, *, length: int = 0) -> None:
        super().__init__(info1, length=length)
        self.code = code
        self.info2 = info2
        self.fetched = b""

    @property
    def name(self) -> str:
        return code_name(self.code)
