"""Who may execute which system instruction, and who gets it instead.

What an exception level must not do at all is undefined there. What EL1 withholds from EL0 (SCTLR_EL1, CNTKCTL_EL1) goes to
EL1, with class 18h and the instruction in the syndrome; what EL2 withholds from EL1 and EL0 (HCR_EL2, CNTHCTL_EL2) goes to
EL2. EL1 comes first, then EL2.

    ISS of class 18h:  21:20 op0 | 19:17 op2 | 16:14 op1 | 13:10 CRn | 9:5 Rt | 4:1 CRm | 0 read

Read more: Arm ARM (DDI 0487), D1.3.5 (synchronous exception types), D17.2.48 (HCR_EL2), D17.2.37 (ESR_ELx).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.exceptions import ArmException, ExceptionClass
from vmlab.isa.arm64.system_names import OPERATIONS, REGISTER_NAMES
from vmlab.machine.arm64.system_registers import NO_VALUE, ROWS

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction
    from vmlab.machine.arm64.state import ArmState

__all__ = ["HCR", "SCTLR", "Trapped", "check_operation", "check_register", "check_wait", "syndrome"]


class HCR:
    """Bits of HCR_EL2."""

    VM, FMO, IMO, AMO, VF, VI, DC = (1 << n for n in (0, 3, 4, 5, 6, 7, 12))
    TWI, TWE, TID1, TID2, TID3, TSC, TACR = (1 << n for n in (13, 14, 16, 17, 18, 19, 21))
    TSW, TPC, TPU, TTLB, TVM, TGE, TDZ, HCD, TRVM = (1 << n for n in (22, 23, 24, 25, 26, 27, 28, 29, 30))


class SCTLR:
    """Bits of SCTLR_ELx."""

    M, A, SA, SA0, UMA, DZE, UCT, NTWI, NTWE, UCI = (1 << n for n in (0, 1, 3, 4, 9, 14, 15, 16, 18, 26))


class Trapped(ArmException):
    """An exception that goes to a level of its own, not to the one where such exceptions go otherwise."""

    def __init__(self, to: int, ec: int, iss: int) -> None:
        super().__init__(ec, iss)
        self.to = to


# CNTKCTL_EL1:  9 EL0PTEN | 8 EL0VTEN | 1 EL0VCTEN | 0 EL0PCTEN       CNTHCTL_EL2:  1 EL1PCEN | 0 EL1PCTEN
TIMER_AT_EL0 = {"cntpct": 1 << 0, "cntvct": 1 << 1, "cntv_": 1 << 8, "cntp_": 1 << 9, "cntfrq": 1 << 0 | 1 << 1}
TIMER_AT_EL1 = {"cntpct": 1 << 0, "cntp_": 1 << 1}

READ_ONLY, WRITE_ONLY = {"currentel", "isr_el1", "cntpct_el0", "cntvct_el0"}, {"oslar_el1"}
BY_MARK = {"tid1": HCR.TID1, "tid2": HCR.TID2, "tid3": HCR.TID3, "tacr": HCR.TACR}
TO_UNIFICATION, TO_COHERENCY = ("ivau", "cvau", "iallu", "ialluis"), ("ivac", "civac", "cvac")
AT_EL0 = {"ivau": SCTLR.UCI, "cvau": SCTLR.UCI, "cvac": SCTLR.UCI, "civac": SCTLR.UCI, "zva": SCTLR.DZE}
"""Cache operations that EL0 may do, and the bit of SCTLR_EL1 that lets it."""


def syndrome(i: Instruction, op0: int, *, is_read: bool) -> int:
    """Return the ISS of a trapped MSR, MRS or SYS."""
    fields = i.fields
    return (
        op0 << 20
        | fields["op2"] << 17
        | fields["op1"] << 14
        | fields["CRn"] << 10
        | fields["rt"] << 5
        | fields["CRm"] << 1
        | is_read
    )


def _by_prefix(name: str, bits: dict[str, int]) -> int:
    return next((bit for prefix, bit in bits.items() if name.startswith(prefix)), 0)


def _level_of(name: str) -> int:
    if name in ("nzcv", "daif"):
        return 0
    if name in ("spsel", "currentel", "sp_el0"):
        return 1
    return 2 if name == "sp_el1" else int(name[-1])


def check_register(state: ArmState, i: Instruction, *, is_read: bool) -> str:
    """Return the name of the register of an MRS or MSR, or raise what it raises."""
    key = (2 + i["o0"], i["op1"], i["CRn"], i["CRm"], i["op2"])
    name, el = REGISTER_NAMES.get(key, ""), state.el
    row = ROWS.get(name)
    marks = row.marks if row else frozenset[str]()
    if not name:
        if is_read and el and key[:3] == (3, 0, 0) and 2 <= key[3] <= 7:
            marks, name = frozenset({"tid3"}), "reserved"  # identification registers to come: they read as 0
        else:
            raise ArmException
    elif (
        el < _level_of(name)
        or (name in WRITE_ONLY if is_read else "ro" in marks or name in READ_ONLY or (el < 2 and name == "cntfrq_el0"))
        or (not is_read and el == 0 and name == "tpidrro_el0")
    ):
        raise ArmException
    if el < 2:
        to = _trap_of_register(state, name, marks, is_read=is_read)
        if to:
            raise Trapped(to, ExceptionClass.SYSTEM_REGISTER, syndrome(i, key[0], is_read=is_read))
    if name == "sp_el0" and not state.sp_sel:
        raise ArmException
    return name if name in NO_VALUE or row else ""


def _trap_of_register(state: ArmState, name: str, marks: frozenset[str], *, is_read: bool) -> int:
    """Return the level to which a register's access from EL0 or EL1 is trapped; 0 for none."""
    system, el = state.system, state.el
    hcr = system["hcr_el2"]
    if el == 0:
        to = 2 if hcr & HCR.TGE else 1
        sctlr = system["sctlr_el1"]
        if (name == "daif" and not sctlr & SCTLR.UMA) or (name == "ctr_el0" and not sctlr & SCTLR.UCT):
            return to
        bits = _by_prefix(name, TIMER_AT_EL0)
        if bits and not system["cntkctl_el1"] & bits:
            return to
    bits = _by_prefix(name, TIMER_AT_EL1)
    if bits and not system["cnthctl_el2"] & bits:
        return 2
    if "tvm" in marks and hcr & (HCR.TRVM if is_read else HCR.TVM):
        return 2
    return 2 if any(mark in marks and hcr & bit for mark, bit in BY_MARK.items()) else 0


MNEMONICS = {key: (mnemonic, name) for mnemonic, names in OPERATIONS.items() for name, key in names.items()}


def check_operation(state: ArmState, i: Instruction) -> tuple[str, str]:
    """Return mnemonic and name of a SYS, or raise what it raises."""
    found = MNEMONICS.get((i["op1"], i["CRn"], i["CRm"], i["op2"]))
    el, hcr = state.el, state.system["hcr_el2"]
    if found is None:
        raise ArmException
    mnemonic, name = found
    if el == 0 and name not in AT_EL0:
        raise ArmException
    if el < 2 and i["op1"] == 4:
        raise ArmException
    to = 0
    if el == 0 and not state.system["sctlr_el1"] & AT_EL0[name] and not hcr & HCR.TGE:
        to = 1
    elif el < 2:
        bit = {"tlbi": HCR.TTLB, "at": 0}.get(mnemonic)
        if bit is None:
            bit = (
                HCR.TPU if name in TO_UNIFICATION
                else HCR.TPC if name in TO_COHERENCY
                else HCR.TDZ if name == "zva"
                else HCR.TSW
            )  # fmt: skip
        to = 2 if hcr & bit else 0
    if to:
        raise Trapped(to, ExceptionClass.SYSTEM_REGISTER, syndrome(i, 1, is_read=False))
    return found


# ISS of class 1:  24 CV | 23:20 COND | 0 WFE
ALWAYS = 1 << 24 | 0b1110 << 20


def check_wait(state: ArmState, *, is_event: bool) -> None:
    """Raise what a WFI or WFE raises that a higher level traps."""
    sctlr, hcr = state.system["sctlr_el1"], state.system["hcr_el2"]
    if state.el == 0 and not hcr & HCR.TGE and not sctlr & (SCTLR.NTWE if is_event else SCTLR.NTWI):
        raise Trapped(1, ExceptionClass.WFX, ALWAYS | is_event)
    if state.el < 2 and hcr & (HCR.TWE if is_event else HCR.TWI):
        raise Trapped(2, ExceptionClass.WFX, ALWAYS | is_event)
