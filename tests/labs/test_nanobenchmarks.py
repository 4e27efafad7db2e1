"""The nanobenchmarks of Adams and Agesen: within a factor of two of the published table, and in its order."""

from __future__ import annotations

from itertools import combinations

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.labs.nanobenchmarks import LOOPS, PUBLISHED, nanobenchmarks
from vmlab.machine.cpu_model import CPU_MODELS

CLOSE = 1.25
"""Figures of the paper that are no farther apart are taken for alike; there are these pairs of them within a technique."""


@pytest.fixture(scope="module")
def found():
    return nanobenchmarks()


def test_both_models_cost_the_same():
    assert CPU_MODELS["pentium-4"].costs == CPU_MODELS["prescott"].costs


def test_what_the_paper_has_and_there_is_is_measured(found):
    assert set(found.cycles) == {name for name in PUBLISHED if name.partition("/")[0] in vmlab.TECHNIQUES}
    assert set(found.cycles["native"]) == set(found.cycles["vt-x/shadow"]) == set(LOOPS)


def test_each_ratio_to_native_is_within_a_factor_of_two(found):
    for row in found.rows():
        if row["cycles"] is not None:
            assert 0.5 <= row["times native"] / row["published times native"] <= 2, row


def test_techniques_are_in_the_published_order(found):
    """Of each loop; of two techniques whose figures are close, neither is far ahead here."""
    for loop in LOOPS:
        able = [name for name in found.cycles if loop in found.cycles[name]]
        for pair in combinations(able, 2):
            _compare([(found.cycles[name][loop], PUBLISHED[name][loop]) for name in pair], (loop, *pair))


def test_loops_are_in_the_published_order(found):
    """Under each technique."""
    for name, cycles in found.cycles.items():
        for pair in combinations([loop for loop in LOOPS if loop in cycles], 2):
            _compare([(cycles[loop], PUBLISHED[name][loop]) for loop in pair], (name, *pair))


def _compare(figures, what):
    (here, there), (other_here, other_there) = sorted(figures, key=lambda each: each[1])
    if other_there / there > CLOSE:
        assert here < other_here, what
    else:
        assert other_here >= here / CLOSE, what


def test_the_loops_do_what_they_say():
    """Exits of a hundred rounds more, by reason."""
    reasons = {"in": "I/O instruction", "pgfault": "true page fault", "ptemod": "traced write"}
    for n, loop in enumerate(LOOPS):
        exits = []
        for rounds in (100, 200):
            image = vmlab.guests.load("nanobenchmarks", WHICH=n + 1, ROUNDS=rounds)
            run = vmlab.run(image, "vt-x", cpu="prescott", memory_virtualization="shadow", shadow_policy="traced")
            assert run.outcome == "exit"
            exits.append(run.exits)
        more = exits[1] - exits[0]
        assert more == ({reasons[loop]: 100} if loop in reasons else {}), loop


def test_the_text_says_what_the_rows_say(found):
    text = found.describe()
    assert str(found) == text
    for row in found.rows():
        if row["cycles"] is not None:
            assert f"{row['cycles']:,.0f}" in text
        assert row["published cycles"] is None or f"({row['published cycles']:,})" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 3}, "rounds is an int"),
        ({"rounds": True}, "rounds is an int"),
        ({"under": "vt-x"}, "a list of techniques"),
        ({"under": ["vt-y"]}, "unknown technique 'vt-y'"),
        ({"under": [], "max_instructions": 100}, "ended by limit"),
        ({"under": [], "colour": 1}, "there is no option 'colour'"),
    ],
)
def test_misuse(arguments, message):
    with pytest.raises(OptionError, match=message):
        nanobenchmarks(**arguments)
