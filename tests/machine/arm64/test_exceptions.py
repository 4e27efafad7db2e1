"""Exceptions by worked cases from the Arm ARM (DDI 0487): classes, syndromes, vectors, routing, traps, returns.

D1.3 (vectors, routing), D17.2.37 (ESR_ELx: classes and syndromes), D17.2.48 (HCR_EL2), D1.4.4 (illegal returns).
"""

from __future__ import annotations

import pytest

from vmlab.isa.arm64 import assemble, decode
from vmlab.machine.arm64.board import LOAD, RAM
from vmlab.machine.arm64.exceptions import ExceptionTaken
from vmlab.machine.arm64.machine import Arm64Machine

VBAR1, VBAR2 = 0x4002_0000, 0x4003_0000
RW = 1 << 31
IL = 1 << 25


def machine(source: str, el: int = 1, *, has_el2: bool = True, stack: int = 1, **system: int) -> Arm64Machine:
    """Return a machine that will execute a program at an exception level; x1 is 4000_0000."""
    made = Arm64Machine(assemble(source, LOAD).code, el=2 if has_el2 else 1, trace=True, memory=1 << 20)
    state = made.state
    state.system |= {"vbar_el1": VBAR1, "vbar_el2": VBAR2, "sctlr_el1": 0x30D0_0800} | system
    state.system["hcr_el2"] |= RW
    state.pstate = el << 2 | (stack if el else 0)
    state.x[1] = RAM
    return made


def first(source: str, el: int = 1, steps: int = 20, **how: int) -> tuple[ExceptionTaken, Arm64Machine]:
    """Run to the first exception."""
    made = machine(source, el, **how)
    for _ in range(steps):
        made.advance(1)
        taken = [event for event in made.trace if isinstance(event, ExceptionTaken)]
        if taken:
            return taken[0], made
    raise AssertionError(f"no exception: {made.state.describe()}")


def abort(ec: int, status: int) -> int:
    return ec << 26 | IL | status


# source, from, to, ESR, offset of the vector, how far the return address lies behind the start
CASES = [
    ("svc #0x123", 0, 1, 0x15 << 26 | IL | 0x123, 0x400, 4),
    ("svc #0x123", 1, 1, 0x15 << 26 | IL | 0x123, 0x200, 4),
    ("svc #7", 2, 2, 0x15 << 26 | IL | 7, 0x200, 4),
    ("hvc #5", 1, 2, 0x16 << 26 | IL | 5, 0x400, 4),
    ("hvc #5", 2, 2, 0x16 << 26 | IL | 5, 0x200, 4),
    ("hvc #5", 0, 1, IL, 0x400, 0),  # undefined there
    ("smc #5", 0, 1, IL, 0x400, 0),
    ("brk #0xbeef", 0, 1, 0x3C << 26 | IL | 0xBEEF, 0x400, 0),
    (".word 0", 1, 1, IL, 0x200, 0),
    ("eret", 0, 1, IL, 0x400, 0),
    ("mrs x0, sctlr_el1", 0, 1, IL, 0x400, 0),
    ("mrs x0, hcr_el2", 1, 1, IL, 0x200, 0),
    ("msr currentel, x0", 1, 1, IL, 0x200, 0),
    ("tlbi alle1", 1, 1, IL, 0x200, 0),
    ("msr spsel, #1", 0, 1, IL, 0x400, 0),
    # class 18h: op0 20, op2 17, op1 14, CRn 10, Rt 5, CRm 1, read 0
    ("mrs x3, daif", 0, 1, 0x18 << 26 | IL | 3 << 20 | 1 << 17 | 3 << 14 | 4 << 10 | 3 << 5 | 2 << 1 | 1, 0x400, 0),
    ("mrs x3, ctr_el0", 0, 1, 0x18 << 26 | IL | 3 << 20 | 1 << 17 | 3 << 14 | 3 << 5 | 1, 0x400, 0),
    ("mrs x3, cntvct_el0", 0, 1, 0x18 << 26 | IL | 3 << 20 | 2 << 17 | 3 << 14 | 14 << 10 | 3 << 5 | 1, 0x400, 0),
    ("dc zva, x4", 0, 1, 0x18 << 26 | IL | 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10 | 4 << 5 | 4 << 1, 0x400, 0),
    ("msr daifset, #2", 0, 1, 0x18 << 26 | IL | 6 << 17 | 3 << 14 | 4 << 10 | 31 << 5 | 2 << 1, 0x400, 0),
    ("wfi", 0, 1, 1 << 26 | IL | 1 << 24 | 14 << 20, 0x400, 0),
    ("wfe", 0, 1, 1 << 26 | IL | 1 << 24 | 14 << 20 | 1, 0x400, 0),
    # with the MMU off: nothing there (a synchronous external abort), Device memory and not aligned
    ("ldr x0, [xzr_]", 1, 1, abort(0x25, 0x10), 0x200, 0),
    ("str x0, [xzr_]", 0, 1, abort(0x24, 0x50), 0x400, 0),
    ("ldr x0, [x1, #1]", 1, 1, abort(0x25, 0x21), 0x200, 0),
    ("str x0, [x1, #1]", 1, 1, abort(0x25, 0x61), 0x200, 0),
    ("ldxr x0, [x2]", 1, 1, abort(0x25, 0x10), 0x200, 0),
]


@pytest.mark.parametrize(("source", "el", "to", "esr", "vector", "behind"), CASES)
def test_an_exception(source, el, to, esr, vector, behind):
    event, made = first(source.replace("xzr_", "x2"), el)
    assert (event.from_el, event.to_el) == (el, to)
    assert made.state.system[f"esr_el{to}"] == esr == event.esr
    assert made.state.system[f"elr_el{to}"] == LOAD + behind == event.pc
    assert made.state.pc == (VBAR2 if to == 2 else VBAR1) + vector
    assert made.state.system[f"spsr_el{to}"] == el << 2 | (el > 0)
    assert (made.state.daif, made.state.el, made.state.sp_sel) == (15, to, 1)


def test_the_vector_on_the_other_stack():
    """D1.3.1.3: from the same level with SP_EL0, offset 0."""
    event, made = first("svc #0", 1, stack=0)
    assert made.state.pc == VBAR1
    assert event.to_el == 1
    assert made.state.system["spsr_el1"] == 4


@pytest.mark.parametrize(
    ("target", "esr"), [(2, 0x22 << 26 | IL), (0x1000, abort(0x21, 0x10)), (1 << 48, abort(0x21, 0))]
)
def test_fetching(target, esr):
    """A PC that is not aligned; nothing there; an address that is no physical one (an address-size fault, level 0)."""
    event, made = first(f"ldr x0, =LABEL + {target}\n br x0\n .equ LABEL, {RAM if target == 2 else 0}")
    assert event.esr == esr
    assert event.far == made.state.system["far_el1"] == (RAM + 2 if target == 2 else target)


def test_the_stack_pointer_must_be_aligned():
    for el, bit in ((0, 1 << 4), (1, 1 << 3)):
        event, _ = first("add sp, sp, #8\n ldr x0, [sp]", el, sctlr_el1=0x30D0_0800 | bit)
        assert event.esr == 0x26 << 26 | IL
        event, _ = first("add sp, sp, #8\n ldr x0, [sp]", el)
        assert event.esr == abort(0x25 if el else 0x24, 0x10)


# -- what EL2 withholds ------------------------------------------------------------------------------------------------

TRAPS = [
    ("wfi", 1 << 13, 1, 1 << 26 | IL | 1 << 24 | 14 << 20),
    ("wfe", 1 << 14, 1, 1 << 26 | IL | 1 << 24 | 14 << 20 | 1),
    ("smc #3", 1 << 19, 1, 0x17 << 26 | IL | 3),
    ("msr sctlr_el1, x5", 1 << 26, 1, 0x18 << 26 | IL | 3 << 20 | 1 << 10 | 5 << 5),
    ("msr ttbr1_el1, x5", 1 << 26, 1, 0x18 << 26 | IL | 3 << 20 | 1 << 17 | 2 << 10 | 5 << 5),
    ("mrs x5, far_el1", 1 << 30, 1, 0x18 << 26 | IL | 3 << 20 | 6 << 10 | 5 << 5 | 1),
    ("mrs x5, id_aa64pfr0_el1", 1 << 18, 1, 0x18 << 26 | IL | 3 << 20 | 5 << 5 | 4 << 1 | 1),
    ("mrs x5, revidr_el1", 1 << 16, 1, 0x18 << 26 | IL | 3 << 20 | 6 << 17 | 5 << 5 | 1),
    ("mrs x5, clidr_el1", 1 << 17, 1, 0x18 << 26 | IL | 3 << 20 | 1 << 17 | 1 << 14 | 5 << 5 | 1),
    ("mrs x5, actlr_el1", 1 << 21, 1, 0x18 << 26 | IL | 3 << 20 | 1 << 17 | 1 << 10 | 5 << 5 | 1),
    ("tlbi vmalle1", 1 << 25, 1, 0x18 << 26 | IL | 1 << 20 | 8 << 10 | 31 << 5 | 7 << 1),
    ("dc civac, x5", 1 << 23, 1, 0x18 << 26 | IL | 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10 | 5 << 5 | 14 << 1),
    ("ic ivau, x5", 1 << 24, 1, 0x18 << 26 | IL | 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10 | 5 << 5 | 5 << 1),
    ("dc isw, x5", 1 << 22, 1, 0x18 << 26 | IL | 1 << 20 | 2 << 17 | 7 << 10 | 5 << 5 | 6 << 1),
    ("dc zva, x5", 1 << 28, 1, 0x18 << 26 | IL | 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10 | 5 << 5 | 4 << 1),
    ("svc #9", 1 << 27, 0, 0x15 << 26 | IL | 9),
    (".word 0", 1 << 27, 0, IL),
]


@pytest.mark.parametrize(("source", "hcr", "el", "esr"), TRAPS)
def test_a_trap_to_el2(source, hcr, el, esr):
    event, made = first(source, el, hcr_el2=RW | hcr)
    assert (event.from_el, event.to_el, event.esr) == (el, 2, esr)
    assert made.state.pc == VBAR2 + 0x400
    # not trapped: executed, or an exception of EL1's own
    untrapped = machine(source, el)
    untrapped.advance(1)
    assert not [event for event in untrapped.trace if event.to_el == 2]


def test_hcd_makes_hvc_undefined():
    event, _ = first("hvc #0", 1, hcr_el2=RW | 1 << 29)
    assert (event.esr, event.to_el) == (IL, 1)


def test_timer_traps():
    """CNTHCTL_EL2 withholds the physical counter and timer from EL1; the virtual ones it does not."""
    for source in ("mrs x5, cntpct_el0", "msr cntp_ctl_el0, x5"):
        event, _ = first(source, 1, cnthctl_el2=0)
        assert (event.to_el, event.esr >> 26) == (2, 0x18)
    made = machine("mrs x5, cntvct_el0\n msr cntv_ctl_el0, xzr\n b .", cnthctl_el2=0)
    made.advance(3)
    assert not made.trace


# -- returning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("el", "spsr", "hcr"),
    [(1, 0x9, 0), (1, 0x10, 0), (1, 0x1, 0), (1, 0x7, 0), (2, 0xC, 0), (2, 0x5, 1 << 27)],
    ids=("higher", "aarch32", "EL0h", "reserved", "EL3", "TGE"),
)
def test_an_illegal_return(el, spsr, hcr):
    """The level stays, PSTATE.IL is set, and the next instruction is an illegal-state exception."""
    made = machine("eret", el, hcr_el2=RW | hcr, **{f"spsr_el{el}": spsr | 0x2000_0000, f"elr_el{el}": LOAD + 64})
    made.advance(1)
    assert (made.state.el, made.state.il, made.state.pc, made.state.nzcv) == (el, 1, LOAD + 64, 2)
    made.advance(1)
    event = made.trace[-1]
    assert event.esr == 0x0E << 26 | IL
    assert made.state.system[f"spsr_el{el}"] >> 20 & 1
    assert made.state.il == 0


@pytest.mark.parametrize(("goal", "ec"), [(LOAD + 2, 0x22), (0x1000, 0x21)])
def test_fetching_comes_before_an_illegal_state(goal, ec):
    made = machine("eret", 1, spsr_el1=0x9, elr_el1=goal)
    made.advance(2)
    assert made.trace[-1].esr >> 26 == ec
    assert made.state.system["spsr_el1"] >> 20 & 1


def test_down_and_up_again():
    """ERET to EL0, SVC back: stack pointers are banked, flags and masks restored."""
    made = machine(
        "mov sp, x1\n ldr x0, =0x600000c0\n msr spsr_el1, x0\n adr x0, 1f\n msr elr_el1, x0\n mov x0, #0x80\n"
        "msr sp_el0, x0\n eret\n1: mov x2, sp\n svc #1",
        1,
    )
    made.advance(10)
    state = made.state
    assert state.x[2] == 0x80
    assert (state.el, state.read_sp(1), state.read_sp(0)) == (1, RAM, 0x80)
    assert state.system["spsr_el1"] == 0x6000_00C0
    assert [type(event).__name__ for event in made.trace] == ["ExceptionReturn", "ExceptionTaken"]


# -- interrupts --------------------------------------------------------------------------------------------------------


def interrupted(el: int, daif: int, hcr: int, *, virtual: bool = False) -> tuple[int, int] | None:
    """Return target and vector of an interrupt that is pending at a level; None where it is not taken."""
    made = machine("nop\n nop\n", el, hcr_el2=RW | hcr | (1 << 7 if virtual else 0))
    gic = made.board.gic
    gic.control = gic.interface_control = 1
    gic.mask = 0xFF
    gic.enabled |= 1 << 33
    gic.line(33, level=not virtual)
    made.state.daif = daif
    made.advance(1)
    if not made.trace:
        return None
    event = made.trace[0]
    return event.to_el, made.state.pc - (VBAR2 if event.to_el == 2 else VBAR1) - 4 * (made.instructions > 0)


IMO, TGE = 1 << 4, 1 << 27


@pytest.mark.parametrize(
    ("el", "daif", "hcr", "expected"),
    [
        (0, 0, 0, (1, 0x480)),
        (1, 0, 0, (1, 0x280)),
        (0, 2, 0, None),
        (1, 2, 0, None),
        (2, 0, 0, None),  # it waits for EL1
        (0, 0, IMO, (2, 0x480)),
        (1, 2, IMO, (2, 0x480)),  # a higher level's is not masked
        (2, 0, IMO, (2, 0x280)),
        (2, 2, IMO, None),
        (0, 2, TGE, (2, 0x480)),
    ],
)
def test_an_interrupt(el, daif, hcr, expected):
    assert interrupted(el, daif, hcr) == expected


@pytest.mark.parametrize(("hcr", "line", "isr"), [(0, 1, 0x80), (IMO, 1, 0), (IMO | 1 << 7, 0, 0x80), (0, 0, 0)])
def test_isr(hcr, line, isr):
    made = machine("mrs x0, isr_el1", hcr_el2=RW | hcr)
    gic = made.board.gic
    gic.control = gic.interface_control = 1
    gic.mask, gic.enabled = 0xFF, 1 << 33
    gic.line(33, bool(line))
    made.state.daif = 15
    instruction = decode(int.from_bytes(assemble("mrs x0, isr_el1").code, "little"))
    made.cpu._exact = True  # at once: the processor would take the interrupt first
    assert made.cpu.read_system(instruction) == isr


@pytest.mark.parametrize(
    ("el", "daif", "hcr", "expected"),
    [(1, 0, IMO, (1, 0x280)), (0, 0, IMO, (1, 0x480)), (1, 2, IMO, None), (1, 0, 0, None), (2, 0, IMO, None)],
)
def test_a_virtual_interrupt(el, daif, hcr, expected):
    """HCR_EL2.VI: an IRQ that EL2 makes EL1 take."""
    assert interrupted(el, daif, hcr, virtual=True) == expected
