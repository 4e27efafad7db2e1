"""A fault of a page walk in words: its name, its code, and what each bit of that says.

Read more: Intel SDM vol. 3, 4.7 (error code), table 28-7 (exit qualification); AMD APM vol. 2, 15.25.6; Arm ARM, ESR_ELx;
RISC-V privileged architecture, scause; Intel VT-d, 7.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.faults import PF, Fault
from vmlab.machine.walk_faults import (
    DmaFault,
    EptMisconfiguration,
    EptViolation,
    GuestPageFault,
    HostFault,
    NestedPageFault,
    RiscvPageFault,
    Stage1Abort,
    Stage2Abort,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FaultWords", "fault_words"]


class FaultWords(NamedTuple):
    """A fault in words.

    Attributes
    ----------
    name : str
        The manual's name.
    owner : str
        Who gets it: `"guest"` or `"host"`.
    code : int or None
        Error code, qualification, syndrome.
    code_name : str
        What that is called.
    bits : tuple of str
        What it says, bit by bit.
    """

    name: str
    owner: str
    code: int | None
    code_name: str
    bits: tuple[str, ...]

    @property
    def text(self) -> str:
        """All in one line."""
        code = "" if self.code is None else f", {self.code_name} {self.code:#x}"
        bits = f" ({'; '.join(self.bits)})" if self.bits else ""
        return f"{self.name}{code}{bits}"


# Error code of #PF:  4 I/D | 3 RSVD | 2 U/S | 1 W/R | 0 P
PF_SAYS = (
    (0, "P=0: no entry maps it", "P=1: an entry maps it, and does not allow this"),
    (1, "W/R=0: not a write", "W/R=1: a write"),
    (2, "U/S=0: by the supervisor", "U/S=1: by a user"),
    (3, "", "RSVD=1: a reserved bit is set"),
    (4, "", "I/D=1: an instruction fetch"),
)
# Exit qualification of an EPT violation:  8 the address itself | 7 linear address valid | 5:3 X W R granted | 2:0 X W R
VIOLATION_SAYS = (
    (0, "", "bit 0: a read"),
    (1, "", "bit 1: a write"),
    (2, "", "bit 2: a fetch"),
    (3, "bit 3=0: not readable", "bit 3: readable"),
    (4, "bit 4=0: not writable", "bit 4: writable"),
    (5, "bit 5=0: not executable", "bit 5: executable"),
    (8, "bit 8=0: on the way, at a table of the guest", "bit 8: at the address itself"),
)
NPF_SAYS = (
    *PF_SAYS,
    (32, "", "bit 32: at the address itself"),
    (33, "", "bit 33: on the way, at a table of the guest"),
)
STATUS = ("address size fault", "translation fault", "access flag fault", "permission fault")
DMA_REASONS = {
    4: "the address is beyond the tables",
    5: "writing is not allowed",
    6: "reading is not allowed",
    0xC: "a reserved field is set",
}


def _said(code: int, rules: tuple[tuple[int, str, str], ...]) -> tuple[str, ...]:
    """Return what the bits of a code say; a clear bit of which nothing is to be said is left out."""
    texts = ((set_ if code >> bit & 1 else clear) for bit, clear, set_ in rules)
    return tuple(text for text in texts if text)


def _processor(fault: Fault) -> FaultWords:
    if fault.vector != PF:
        return FaultWords("general-protection fault, #GP(0)", "guest", None, "", ("the address is not canonical",))
    code = fault.error_code or 0
    return FaultWords("page fault, #PF", "guest", code, "error code", _said(code, PF_SAYS))


def _violation(fault: EptViolation) -> FaultWords:
    code = fault.qualification
    return FaultWords("EPT violation, VM exit 48", "host", code, "qualification", _said(code, VIOLATION_SAYS))


def _misconfiguration(_: EptMisconfiguration) -> FaultWords:
    said = ("an entry holds what no entry may hold",)
    return FaultWords("EPT misconfiguration, VM exit 49", "host", None, "", said)


def _nested(fault: NestedPageFault) -> FaultWords:
    code = fault.error_code
    return FaultWords("nested page fault, #VMEXIT 400h", "host", code, "EXITINFO1", _said(code, NPF_SAYS))


def _status(esr: int) -> tuple[str, ...]:
    kind, level = esr >> 2 & 0xF, esr & 3
    words = STATUS[kind] if kind < len(STATUS) else f"status {esr & 0x3F:#x}"
    table = ("S1PTW=1: at a table of stage 1",) if esr >> 7 & 1 else ()
    return (f"{words}, level {level}", "WnR=1: a write" if esr >> 6 & 1 else "WnR=0: not a write", *table)


def _stage1(fault: Stage1Abort) -> FaultWords:
    return FaultWords(f"{_abort(fault.esr)} to EL1", "guest", fault.esr, "ESR_EL1", _status(fault.esr))


def _stage2(fault: Stage2Abort) -> FaultWords:
    return FaultWords(f"{_abort(fault.esr)} to EL2", "host", fault.esr, "ESR_EL2", _status(fault.esr))


def _abort(esr: int) -> str:
    return "instruction abort" if esr >> 26 in (0x20, 0x21) else "data abort"


def _riscv(fault: RiscvPageFault | GuestPageFault) -> FaultWords:
    base = {0: "instruction", 1: "load", 3: "store"}[fault.cause & 3]
    guest = isinstance(fault, GuestPageFault)
    name = f"{base} {'guest-page' if guest else 'page'} fault"
    return FaultWords(name, "host" if guest else "guest", fault.cause, "scause", ())


def _dma(fault: DmaFault) -> FaultWords:
    return FaultWords("DMA fault", "host", fault.reason, "reason", (DMA_REASONS[fault.reason],))


RULES: dict[type[Exception], Callable[..., FaultWords]] = {
    Fault: _processor,
    EptViolation: _violation,
    EptMisconfiguration: _misconfiguration,
    NestedPageFault: _nested,
    Stage1Abort: _stage1,
    Stage2Abort: _stage2,
    RiscvPageFault: _riscv,
    GuestPageFault: _riscv,
    DmaFault: _dma,
}


def fault_words(fault: Exception) -> FaultWords:
    """Say in words what a fault of a walk is.

    Examples
    --------
    >>> fault_words(Fault(PF, 2)).text
    'page fault, #PF, error code 0x2 (P=0: no entry maps it; W/R=1: a write; U/S=0: by the supervisor)'
    """
    words = RULES[type(fault)](fault)
    if isinstance(fault, HostFault):
        where = f"guest-physical address {fault.guest_physical:#x}"
        return words._replace(bits=(where, *words.bits))
    return words
