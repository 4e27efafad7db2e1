"""The thin-hypervisor exercise: a right loop passes for any seed, and each mistake gets a hint that does not give the answer."""

from __future__ import annotations

import re

import pytest

import vmlab
from vmlab.labs.thin_hypervisor import hypervise


def loop(exercise, mistake=""):
    """Return a student's loop, with a mistake in it."""

    def mine(vm, keys):
        console, keys, r = "", list(keys), vm.registers
        while True:
            exit_ = vm.run()
            if exit_.reason == "HLT":
                return console + "!" * (mistake == "text")
            if exit_.reason == "EPT violation":
                if mistake == "no map":
                    vm.skip()
                    continue
                vm.map(exit_.gpa)
                continue
            if exit_.reason == "CPUID":
                name = exercise.processor if r["eax"] == 0 or mistake == "any leaf" else "\0" * 12
                r["eax"] = 0
                order = ("ebx", "ecx", "edx") if mistake == "order" else ("ebx", "edx", "ecx")
                for n, register in enumerate(order):
                    r[register] = int.from_bytes(name[4 * n : 4 * n + 4].encode(), "little")
            elif exit_.is_in:
                value = keys.pop(0) if keys else 0
                r["eax"] = value if mistake == "whole eax" else r["eax"] & 0xFFFFFF00 | value
                if mistake == "first key":
                    keys.insert(0, value)
            else:
                console += chr(r["eax"] & 0xFF)
            if mistake == "halt early":
                return console
            if mistake != "no skip":
                vm.skip()

    return mine


@pytest.mark.parametrize("seed", range(12))
def test_a_right_loop(seed):
    exercise = vmlab.labs.exercise("thin-hypervisor", seed)
    verdict = exercise.check(loop(exercise))
    assert verdict.correct
    assert "VM exits" in verdict.message


def test_seeds_differ():
    found = {vmlab.labs.exercise("thin-hypervisor", seed).source for seed in range(10)}
    assert len(found) == 10


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        ("no skip", "the same once more"),
        ("no map", "After what you did"),
        ("order", "console is not"),
        ("whole eax", "console is not"),
        ("halt early", "has not come to its HLT"),
        ("text", "console is not"),
        ("first key", "the same once more|it should be another|does not come to an end"),
    ],
)
def test_a_mistake_gets_a_hint(mistake, hint):
    exercise = vmlab.labs.exercise("thin-hypervisor", 3)
    for _ in range(2):
        verdict = exercise.check(loop(exercise, mistake))
        assert not verdict.correct
        assert re.search(hint, verdict.message), verdict.message


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        "text",
        lambda: None,
        lambda vm, keys: 1 / 0,
        lambda vm, keys: [vm.run() for _ in iter(int, 1)],
        lambda vm, keys: vm.map("x"),
        lambda vm, keys: vm.registers.__setitem__("eax", -1),
        lambda vm, keys: vm.vmwrite("GUEST_RFLAGS", 0) or vm.run(),
        lambda vm, keys: vm.vmwrite("PRIMARY_CONTROLS", 0) or vm.run(),
    ],
)
def test_an_answer_of_another_kind(answer):
    verdict = vmlab.labs.exercise("thin-hypervisor", 1).check(answer)
    assert not verdict.correct
    assert verdict.message


def test_the_skeleton_runs():
    exercise = vmlab.labs.exercise("thin-hypervisor", 1)
    space: dict = {"print": lambda *_: None}
    exec(exercise.skeleton, space)
    assert not exercise.check(space["hypervise"]).correct


def test_our_own_loop_is_no_answer_to_another_seed():
    exercise = vmlab.labs.exercise("thin-hypervisor", 2)
    assert not exercise.check(lambda vm, keys: hypervise(vm, keys, "AnotherName0")).correct
