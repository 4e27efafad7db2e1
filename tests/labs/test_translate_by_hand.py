"""The exercise on translation: judged by the translator; the instruction table's classes agree."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.labs import exercise
from vmlab.labs.translate_by_hand import count


@pytest.mark.parametrize("seed", range(12))
def test_the_classes_say_the_same(seed):
    problem = exercise("translate-by-hand", seed)
    image = vmlab.assemble(problem.source)
    first = image.segments[0]
    code = first.data[image.symbols["body"] - first.address : image.symbols["end"] - first.address]
    found = {"copied": 0, "rewritten": 0, "called out": 0}
    for line in vmlab.disassemble(code, image.symbols["body"]):
        if line.text in ("cli", "sti", "pushf", "popf"):
            found["rewritten"] += 1
        else:
            found["copied" if line.instruction.privilege.value == "innocuous" else "called out"] += 1
    assert count(problem.source) == found
    assert problem.check(found).correct
    other = found | {"copied": found["copied"] - 1, "called out": found["called out"] + 1}
    verdict = problem.check(other)
    assert not verdict.correct
    assert all(str(number) not in verdict.message for number in found.values() if number > 1), "not given away"


@pytest.mark.parametrize("answer", [None, 3, {}, {"copied": 1}, {"copied": "1", "rewritten": 0, "called out": 0}])
def test_what_is_no_answer_is_said(answer):
    assert "Give a dict" in exercise("translate-by-hand", 1).check(answer).message


def test_the_hints_say_more_and_more():
    problem = exercise("translate-by-hand", 2)
    right = count(problem.source)
    wrong = right | {"copied": right["copied"] + 1, "rewritten": right["rewritten"] - 1}
    messages = [problem.check(wrong).message for _ in range(4)]
    assert len(set(messages[:3])) == 3
    assert "cli, sti, pushf and popf" in messages[2] == messages[3]
    assert "instructions, and there are" in problem.check(right | {"copied": 99}).message
