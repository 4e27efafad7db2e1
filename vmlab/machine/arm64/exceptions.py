"""Taking exceptions and returning from them: which level, which vector, what is saved.

    VBAR_ELx + 000  from the same level on SP_EL0      + 000 synchronous
             + 200  from the same level on SP_ELx      + 080 IRQ
             + 400  from a lower level                 + 100 FIQ

A synchronous exception goes to EL1, from EL2 to EL2; what HCR_EL2 traps, HVC and aborts of stage 2 go to EL2, and so does
all that EL0 raises under HCR_EL2.TGE. IRQs go to EL2 under IMO or TGE, and are not masked below it then.

Read more: Arm ARM (DDI 0487), D1.3 (exceptions, table D1-6 for the vectors), D1.3.6 (asynchronous ones), D1.4.4 (return).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.isa.arm64.exceptions import CLASSES, EC_SHIFT, IL, ArmException, ExceptionClass
from vmlab.machine.arm64.mmu import Abort
from vmlab.machine.arm64.state import ALL_MASKED, IRQ_MASKED
from vmlab.machine.arm64.traps import HCR, Trapped

if TYPE_CHECKING:
    from vmlab.machine.arm64.gic import Gic
    from vmlab.machine.arm64.state import ArmState

__all__ = [
    "ExceptionReturn",
    "ExceptionTaken",
    "interrupt_target",
    "pending",
    "return_from",
    "take",
    "take_interrupt",
    "wakes",
]

SYNCHRONOUS, IRQ = 0x000, 0x080
SAME_LEVEL_HANDLER_STACK, LOWER_LEVEL = 0x200, 0x400
ABORTS = (ExceptionClass.INSTRUCTION_ABORT, ExceptionClass.DATA_ABORT)
ILLEGAL_M = 0b10010
"""Bits of SPSR_ELx.M that must be 0: AArch32, and a reserved one."""


@dataclass(frozen=True, slots=True)
class ExceptionTaken:
    """An exception was taken.

    Attributes
    ----------
    time : int
        Virtual time.
    kind : str
        Name of its exception class, or "IRQ".
    from_el, to_el : int
        Exception levels.
    pc : int
        Preferred return address.
    esr : int
        Syndrome; 0 for an interrupt.
    far : int
        Faulting address of an abort; otherwise 0.
    """

    time: int
    kind: str
    from_el: int
    to_el: int
    pc: int
    esr: int = 0
    far: int = 0


@dataclass(frozen=True, slots=True)
class ExceptionReturn:
    """ERET was executed: virtual time, levels, and where it goes on."""

    time: int
    from_el: int
    to_el: int
    pc: int


def _target(state: ArmState, fault: ArmException) -> int:
    if isinstance(fault, Trapped) and fault.to:
        return max(fault.to, state.el)
    if state.el == 0 and state.system["hcr_el2"] & HCR.TGE:
        return 2
    return max(state.el, 1)


def _enter(state: ArmState, to: int, pc: int, kind: int) -> None:
    lower = state.el < to
    saved = state.pstate
    offset = LOWER_LEVEL if lower else SAME_LEVEL_HANDLER_STACK if state.sp_sel else 0
    state.system[f"spsr_el{to}"], state.system[f"elr_el{to}"] = saved, pc
    state.switch(to, 1)
    state.daif, state.il = ALL_MASKED, 0
    state.pc = state.system[f"vbar_el{to}"] + offset + kind
    state.monitor = None


def take(state: ArmState, fault: ArmException, pc: int, time: int) -> ExceptionTaken:
    """Take a synchronous exception that the instruction at `pc` raised."""
    from_el, to = state.el, _target(state, fault)
    pc = pc + 4 & (1 << 64) - 1 if fault.after else pc
    ec = fault.ec | (fault.ec in ABORTS and to == from_el)
    esr = ec << EC_SHIFT | IL | fault.iss
    far = 0
    state.system[f"esr_el{to}"] = esr
    if isinstance(fault, Abort):
        far = state.system[f"far_el{to}"] = fault.far
        if fault.hpfar is not None:
            state.system["hpfar_el2"] = fault.hpfar
    elif fault.ec == ExceptionClass.PC_ALIGNMENT:
        far = state.system[f"far_el{to}"] = pc
    _enter(state, to, pc, SYNCHRONOUS)
    return ExceptionTaken(time, CLASSES[ec], from_el, to, pc, esr, far)


# -- interrupts --------------------------------------------------------------------------------------------------------


def interrupt_target(state: ArmState, gic: Gic) -> int:
    """Return the level to which an interrupt would be taken now; 0 for none."""
    hcr, el = state.system["hcr_el2"], state.el
    masked = bool(state.daif & IRQ_MASKED)
    to_el2 = bool(hcr & (HCR.IMO | HCR.TGE))
    if gic.irq and to_el2 and (el < 2 or not masked):
        return 2
    if el == 2 or masked:
        return 0
    if gic.irq and not to_el2:
        return 1
    return 1 if _virtual(hcr) else 0


def _virtual(hcr: int) -> bool:
    return hcr & (HCR.VI | HCR.IMO | HCR.TGE) == HCR.VI | HCR.IMO


def wakes(state: ArmState, gic: Gic) -> bool:
    """Say whether a WFI ends: an interrupt is pending, masked or not; a virtual one counts below EL2."""
    return gic.irq or (state.el < 2 and _virtual(state.system["hcr_el2"]))


def pending(state: ArmState, gic: Gic) -> bool:
    """Return ISR_EL1.I: at EL1 under HCR_EL2.IMO it tells of the virtual interrupt alone (D17.2.70)."""
    hcr = state.system["hcr_el2"]
    return _virtual(hcr) if state.el == 1 and hcr & HCR.IMO else gic.irq


def take_interrupt(state: ArmState, to: int, time: int) -> ExceptionTaken:
    """Take an IRQ to a level."""
    event = ExceptionTaken(time, "IRQ", state.el, to, state.pc)
    _enter(state, to, state.pc, IRQ)
    return event


# -- returning ---------------------------------------------------------------------------------------------------------


def return_from(state: ArmState, time: int) -> ExceptionReturn:
    """ERET: restore PSTATE and go on at ELR; an illegal state to return to sets PSTATE.IL instead of changing the level.

    Raises
    ------
    ArmException
        At EL0 it is undefined.
    """
    el = state.el
    if el == 0:
        raise ArmException
    saved, goal = state.system[f"spsr_el{el}"], state.system[f"elr_el{el}"]
    to, stack = saved >> 2 & 3, saved & 1
    state.monitor = None
    tge = to == 1 and state.system["hcr_el2"] & HCR.TGE
    if saved & ILLEGAL_M or to > el or (to == 0 and stack) or tge:
        state.pstate = saved & ~0x1F | state.pstate & 0x1F
        state.il = 1
    else:
        state.pstate = saved
    state.pc = goal
    return ExceptionReturn(time, el, state.el, goal)
