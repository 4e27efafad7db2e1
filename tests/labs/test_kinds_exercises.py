"""The exercises of the kinds: answered rightly from what the question shows, and hints that give nothing away."""

from __future__ import annotations

import re

import pytest

from vmlab.kinds.presets import PRESETS
from vmlab.labs import exercise
from vmlab.labs.isolation import ATTACKS, CONTAINERS, COUNT, MACHINES, survives
from vmlab.labs.which_kind import SIGNS, SYSTEMS

SEEDS = range(8)


def parts(question):
    """Return what a student reads: mode, what carries, what gets the traps, by letter."""
    lines = re.findall(r"^  ([A-Z]): (.*)$", question.partition("In control is")[0], re.MULTILINE)
    return dict(lines)


def reason(question):
    """Answer from the question alone, as a student would reason."""
    shown = parts(question)
    software = {letter: text for letter, text in shown.items() if not text.startswith("hardware")}

    def find(words):
        return [letter for letter, text in software.items() if text.startswith(words)]

    if find("EL1"):
        return "emulator", find("ring 3")[0]
    if find("checked"):
        return "programming-environment virtualization", find("ring 0")[0]
    if find("below ring 0"):
        return "type 0", find("below ring 0")[0]
    root = find("ring 0, root")
    if not root:
        return "application containment", find("ring 0")[0]
    if not find("ring 3, root"):
        return "type 1", root[0]
    return ("type 2" if "world switch" in question else "type 1 in a general-purpose OS"), root[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kind_can_be_found_out_from_what_is_shown(seed):
    problem = exercise("which-kind", seed)
    verdict = problem.check(reason(problem.question))
    assert verdict.correct, verdict
    assert repr(exercise("which-kind", seed)) == repr(problem)
    for name in SYSTEMS:
        assert name not in problem.question


def test_every_system_is_drawn_and_every_kind_has_a_sign():
    assert {PRESETS[name].kind for name in SYSTEMS} == set(SIGNS)
    drawn = {exercise("which-kind", seed)._name for seed in range(5)}
    assert len(drawn) > 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (7, "Give two texts"),
        (("type 1",), "Give two texts"),
        (("type one", "A"), "There is no kind"),
        (("type 1", "?"), "There is no part"),
        (("type 2", "A"), "That kind it is not"),
    ],
)
def test_wrong_answers_get_a_hint(answer, words):
    problem = next(
        each for each in (exercise("which-kind", seed) for seed in range(9)) if PRESETS[each._name].kind != "type 2"
    )
    verdict = problem.check(answer)
    assert not verdict.correct
    assert words in verdict.message
    assert PRESETS[problem._name].kind not in verdict.message or words.startswith("There is no kind")


def test_limits_hold_as_long_as_their_kernel_does():
    assert [survives(attack, CONTAINERS) for attack in ATTACKS] == [attack < 12 for attack in ATTACKS]
    assert all(survives(attack, MACHINES) for attack in ATTACKS)


@pytest.mark.parametrize("seed", range(3))
def test_isolation(seed):
    problem = exercise("isolation", seed)
    assert not problem.check([True] * COUNT).correct
    assert "case" in problem.check([True] * COUNT).message
    right = [survives(*case) for case in problem._cases]
    assert problem.check(right).correct
    for answer in (None, [True], ["yes"] * COUNT, [1] * COUNT):
        assert "truth values" in problem.check(answer).message
