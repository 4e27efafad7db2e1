"""Exercises: the same seed gives the same problem, the right answer is accepted, a wrong one gets a hint alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.labs import EXERCISES, exercise

SEEDS = range(12)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_seed_is_a_problem(name):
    questions = [exercise(name, seed).question for seed in SEEDS]
    assert questions == [exercise(name, seed).question for seed in SEEDS]
    assert len(set(questions)) > len(SEEDS) // 2


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [None, "", [], {}, 3.5, {"ring": None}, -1, "start: jmp start", "%rep 99999999"])
def test_any_answer_gets_a_verdict(name, answer):
    verdict = exercise(name, 3).check(answer)
    assert not verdict.correct
    assert verdict.message
    assert repr(verdict).startswith("Not yet.")


@pytest.mark.parametrize("name", EXERCISES)
def test_a_question_fits_into_a_notebook(name):
    for seed in SEEDS:
        problem = exercise(name, seed)
        assert max(map(len, repr(problem).splitlines())) <= 120
        assert repr(problem).split() == problem.question.split()
        assert max(map(len, repr(problem.check(None)).splitlines())) <= 120


def test_unknown_names_and_seeds_are_refused():
    with pytest.raises(OptionError, match="did you mean 'count-the-traps'"):
        exercise("count-the-trap")
    with pytest.raises(OptionError, match="a seed is an int, not 'seven'"):
        exercise("count-the-traps", "seven")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_count_of_traps_is_found_by_counting(seed):
    problem = exercise("count-the-traps", seed)
    right = [answer for answer in range(14) if problem.check(answer).correct]
    assert len(right) == 1
    body = [line.split("        ")[1].split(";")[0].strip() for line in problem.source.splitlines()[1:]]
    names = [line.split()[0] for line in body]
    forms = [
        "mov (control register)" if "cr" in line and name == "mov" else name
        for name, line in zip(names, body, strict=True)
    ]
    privileged = [form for form in forms if vmlab.classify()[form].privilege.value == "privileged"]
    assert right == [len(privileged)]


def test_hints_say_more_after_a_wrong_answer_and_never_the_answer():
    problem = exercise("count-the-traps", 1)
    first, second = problem.check(99), problem.check(99)
    assert first.message != second.message
    right = next(answer for answer in range(14) if exercise("count-the-traps", 1).check(answer).correct)
    assert str(right) not in first.message + second.message


@pytest.mark.parametrize("seed", SEEDS)
def test_who_runs_where_is_read_from_the_system(seed):
    problem = exercise("who-runs-where", seed)
    system = problem.system
    code = system.machine.cpu.segments[1].selector
    believed = system.guest.vcpu.segments[1].selector & 3
    control = "vmm" if system.in_vmm else "user" if believed == 3 else "kernel"
    assert problem.check({"ring": code & 3, "virtual ring": believed, "in control": control}).correct
    wrong = problem.check({"ring": (code & 3) ^ 3, "virtual ring": believed, "in control": control})
    assert not wrong.correct
    assert "'ring'" in wrong.message


def test_every_kind_of_control_occurs():
    states = set()
    for seed in range(60):
        system = exercise("who-runs-where", seed).system
        states.add("vmm" if system.in_vmm else system.guest.mode)
    assert states == {"user", "kernel", "vmm"}


def program(word, code):
    letters = "".join(f"        mov al, '{letter}'\n        out dx, al\n" for letter in word)
    return f"start:  mov dx, 0x3F8\n{letters}        mov dx, 0xF4\n        mov al, {code}\n        out dx, al\n"


@pytest.mark.parametrize("seed", SEEDS)
def test_saying_it_yourself(seed):
    problem = exercise("say-it-yourself", seed)
    assert problem.check(program(problem.word, problem.code)).correct
    assert problem.check(vmlab.assemble(program(problem.word, problem.code))).correct
    assert "The status is" in problem.check(program(problem.word, problem.code + 1)).message
    assert "console" in problem.check(program(problem.word[:-1], problem.code)).message
    assert "does not assemble" in problem.check("start: fly").message
    assert "'halt'" in problem.check("start: hlt").message


def test_a_program_that_a_monitor_changes_is_not_accepted():
    problem = exercise("say-it-yourself", 1)
    looks = "        mov ax, cs\n        test ax, 3\n        jnz other\n        mov dx, 0xF4"
    tricky = program(problem.word, problem.code).replace("        mov dx, 0xF4", looks)
    verdict = problem.check(tricky + "other:  hlt\n")
    assert not verdict.correct
    assert "differently" in verdict.message


@pytest.mark.parametrize("seed", SEEDS)
def test_who_broke_it_is_found_by_going_backwards(seed):
    problem = exercise("who-broke-it", seed)
    debugger = vmlab.Debugger(problem.recording)
    debugger.goto(problem.recording.length)
    values = [debugger.memory("balance", 4)[0][1]]
    writes = []
    while debugger.who_wrote("balance").reason != "nowhere":
        step = debugger.position
        debugger.back()
        values.append(debugger.memory("balance", 4)[0][1])
        writes.append((step, debugger.instruction()))
    assert int.from_bytes(values[0], "little") != problem.right
    changes = [int.from_bytes(new, "little") - int.from_bytes(old, "little") for new, old in pairwise(values)]
    (odd,) = [n for n, change in enumerate(changes) if change != problem.sum]
    assert 0 < odd < len(changes) - 1, "deposits before and behind it"
    step, text = writes[odd]
    assert text == "mov [edi], eax"
    debugger.goto(step - 1)
    routine = debugger.place().split(".")[0]
    assert problem.check({"routine": routine, "step": step}).correct
    assert problem.recording.position == step - 1, "the check leaves the cursor alone"
    assert "which routine" in problem.check({"routine": "deposit", "step": step}).message.lower()
    assert "not there yet" in problem.check({"routine": routine, "step": step - 1}).message
    assert "there already" in problem.check({"routine": routine, "step": step + 1}).message
    hint = problem.check({"routine": routine, "step": 0}).message
    assert str(step) not in hint
    assert routine not in hint
    assert "number from 0 to" in problem.check({"routine": routine, "step": -5}).message
