"""The exercises about what shows a kernel its hypervisor: judged by running, and another way of running agrees."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.labs import exercise

SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_divergence_is_where_shorter_and_shorter_runs_become_faithful(seed):
    problem = exercise("first-divergence", seed)
    count = len(problem.lines)
    same = [
        vmlab.compare(problem.image, memory=2 << 20, max_instructions=1 + line).faithful for line in range(1, count + 1)
    ]
    right = same.index(False) + 1
    text = problem.lines[right - 1]
    mnemonic = text.split()[0]
    form = f"{mnemonic} (segment register)" if mnemonic in {"mov", "push"} else mnemonic
    table = vmlab.classify()
    assert problem.check({"line": right, "group": table[form].group}).correct
    assert "The line is right" in problem.check({"line": right, "group": "cpl0"}).message
    for line in set(range(1, count + 1)) - {right}:
        verdict = problem.check({"line": line, "group": table[form].group})
        assert not verdict.correct
        assert problem.lines[line - 1] in verdict.message
        assert text == problem.lines[line - 1] or text not in verdict.message, "the answer is not given away"


def test_what_is_no_line_is_said():
    problem = exercise("first-divergence", 1)
    for line in (0, 99, "3", True):
        assert "The line is a number from 1 to" in problem.check({"line": line, "group": "flags"}).message


def test_the_hint_says_why_a_line_is_not_it():
    messages = {
        exercise("first-divergence", seed).check({"line": line, "group": "flags"}).message.partition(" is ")[2][:12]
        for seed in range(6)
        for line in range(1, 9)
    }
    assert {"innocuous: i", "privileged: ", "sensitive an"} <= messages


# A way to tell for each group; `{v}` is what to say in a virtual machine.
PILLS = {
    "system-register": "str eax\n test eax, eax\n jz .on\n mov bl, '{v}'\n.on:",
    "flags": "cli\n pushfd\n pop eax\n test eax, 0x200\n jz .on\n mov bl, '{v}'\n.on:",
    "selector-check": "mov eax, 0x08\n lar ecx, eax\n test ecx, 0x6000\n jz .on\n mov bl, '{v}'\n.on:",
    "segment": "mov eax, cs\n test eax, 3\n jz .on\n mov bl, '{v}'\n.on:",
}


def pill(problem, group):
    return problem.source.replace("; yours", PILLS[group].format(v=problem.virtual) + "\n ; yours")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_red_pill_must_work_by_its_group(seed):
    problem = exercise("red-pill", seed)
    assert problem.alone != problem.virtual
    for group in PILLS:
        verdict = problem.check(pill(problem, group))
        assert verdict.correct == (group == problem.group), verdict
        if not verdict.correct:
            assert f"whose group is '{group}'" in verdict.message
    right = problem.check(vmlab.assemble(pill(problem, problem.group)))
    assert right.correct
    assert f"Under vt-x your kernel says {problem.alone!r}" in right.message


def test_every_group_is_drawn():
    assert {exercise("red-pill", seed).group for seed in range(40)} == set(PILLS)


def test_a_pill_that_does_not_work_is_told_what_it_does():
    problem = exercise("red-pill", 1)
    first, second = problem.check(problem.source), problem.check(problem.source)
    assert first.message == f"Under trap-and-emulate it says {problem.alone!r}, not {problem.virtual!r}."
    assert "finds no difference anywhere" in second.message
    looks = problem.source.replace("; yours", "mov ecx, cs\n ; yours")
    assert "It could know since 'mov ecx, cs'" in problem.check(looks).message
    always = problem.source.replace("; yours", f"mov bl, '{problem.virtual}'\n ; yours")
    assert problem.check(always).message.startswith("On the bare machine it says")
    assert "ended by 'halt'" in problem.check(problem.source.replace("; yours", "cli\n hlt\n ; yours")).message
    assert "does not assemble" in problem.check("start: fly").message
