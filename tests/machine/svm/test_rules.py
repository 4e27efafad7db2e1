"""The rules of VMRUN: each broken by itself, named, and refused by VMEXIT_INVALID (AMD APM vol. 2, 15.5.1, 15.20, 15.25)."""

from __future__ import annotations

import pytest

from tests.machine.svm.arena import VMCB, Arena
from vmlab.isa.x86.registers import CR0_ET, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SVME
from vmlab.machine.entry_rules import broken
from vmlab.machine.svm.checks import VMRUN_RULES, VmrunAttempt, is_bad
from vmlab.machine.svm.codes import INVALID, ExitCode
from vmlab.machine.svm.guest_state import AREA, AREA_BYTES, read_checked, read_system
from vmlab.machine.svm.run import can_nest
from vmlab.machine.svm.vmcb import CONTROL, Control

EVENT, WIDE = 1 << 31, 1 << 50
LONG = {"CR0": CR0_PE | CR0_PG | CR0_ET | CR0_NE, "CR4": CR4_PAE, "EFER": EFER_SVME | EFER_LME, "CS_ATTRIBUTES": 0xA9B}
CASES = {
    "SVME": {"EFER": 0},
    "where NW": {"CR0": CR0_PE | CR0_NW},
    "bits 63:32 of CR0": {"CR0": CR0_PE | 1 << 32},
    "no bit of CR3": {"CR3": WIDE},
    "no bit of CR4": {"CR4": 1 << 30},
    "bits 63:32 of DR6": {"DR6": 1 << 32},
    "bits 63:32 of DR7": {"DR7": 1 << 40},
    "no bit of EFER": {"EFER": EFER_SVME | 1 << 20},
    "where LME of EFER and PG of CR0 are 1, PAE": LONG | {"CR4": 0},
    "where LME of EFER and PG of CR0 are 1, PE": LONG | {"CR0": CR0_PG},
    "in a guest in long mode": LONG | {"CS_ATTRIBUTES": 0xE9B},
    "the intercept of VMRUN": {"SVM_INTERCEPTS": 2},
    "where ports": {"INTERCEPTS": 1 << ExitCode.IOIO - 0x60, "IOPM_BASE": (1 << 48) - 0x2000},
    "where MSRs": {"INTERCEPTS": 1 << ExitCode.MSR - 0x60, "MSRPM_BASE": (1 << 48) - 0x1000},
    "the ASID": {"ASID": 0},
    "an event's type": {"EVENTINJ": EVENT | 5 << 8 | 6},
    "an exception": {"EVENTINJ": EVENT | 3 << 8 | 2},
    "with nested paging, nCR3": {"NESTED_CR3": WIDE},
}
"""How the text of a rule begins, and what breaks it in a VMCB that can be run."""


def attempt(arena, *, nests=True):
    """Return what VMRUN would find in the VMCB."""
    control = Control(*CONTROL.unpack(arena.memory.read_bytes(VMCB, CONTROL.size)))
    area = arena.memory.read_bytes(VMCB + AREA, AREA_BYTES)
    return VmrunAttempt(arena.cpu.model, nests, control, *read_system(area), *read_checked(area)), area


@pytest.mark.parametrize("guest", [{}, LONG])
def test_guests_that_keep_all_rules_are_run(guest):
    arena = Arena()
    arena.write(**guest)
    assert broken(VMRUN_RULES, attempt(arena)[0]) == ()
    arena.enter()
    assert arena.cpu.non_root


@pytest.mark.parametrize("text", CASES)
def test_each_rule_is_broken_by_itself(text):
    arena = Arena()
    arena.enter()  # what is right is remembered, and does not hide what is wrong
    arena = Arena()
    arena.write(**CASES[text])
    (rule,) = broken(VMRUN_RULES, attempt(arena)[0])
    assert rule.text.startswith(text)
    arena.enter()
    assert arena.read("EXITCODE") == (INVALID,)
    assert not arena.cpu.non_root


def test_nested_paging_needs_its_feature_and_long_mode():
    arena = Arena()
    (rule,) = broken(VMRUN_RULES, attempt(arena, nests=False)[0])
    assert rule.text.startswith("with nested paging, the processor has it")
    assert can_nest(arena.cpu, in_long_mode=True)
    assert not can_nest(arena.cpu, in_long_mode=False)
    assert not can_nest(Arena(model="opteron").cpu, in_long_mode=True)
    found, area = attempt(arena)
    assert not is_bad(found.model, found.control, area, can_nest=True)
    assert is_bad(found.model, found.control, area, can_nest=False)


def test_no_rule_is_left_out():
    texts = [*CASES, "with nested paging, the processor has it"]
    assert len(texts) == len(VMRUN_RULES)
    for rule in VMRUN_RULES:
        assert sum(rule.text.startswith(text) for text in texts) == 1, rule.text
