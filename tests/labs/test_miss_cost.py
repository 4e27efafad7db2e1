"""The exercise `miss-cost`: the machine counts what reckoning by hand gives."""

from __future__ import annotations

import re

import pytest

from vmlab.labs import exercise

# Format in the question: where the bits that index each level begin, but for a table in registers; page sizes by shift.
LEVELS = {
    "32-bit paging with PSE": (22, 12),
    "32-bit paging": (22, 12),
    "PAE paging": (21, 12),
    "4-level paging": (39, 30, 21, 12),
    "5-level paging": (48, 39, 30, 21, 12),
    "EPT of 4 levels": (39, 30, 21, 12),
    "EPT of 5 levels": (48, 39, 30, 21, 12),
    "NPT of 4 levels": (39, 30, 21, 12),
    "AArch64 stage 1": (39, 30, 21, 12),
    "AArch64 stage 2": (30, 21, 12),
    "Sv39x4": (30, 21, 12),
    "Sv39": (30, 21, 12),
}
SHIFTS = {"4 KiB": 12, "2 MiB": 21, "4 MiB": 22, "1 GiB": 30}
NAMES = "|".join(LEVELS)


def tables(line):
    """Return the guest's levels and the host's, down to the page."""
    guest, host = (re.search(pattern, line) for pattern in (rf"({NAMES}), (?:where|on)", rf"over ({NAMES})"))
    sizes = re.findall(r"page has (\w+ \w+)", line), re.findall(r"pages of (\w+ \w+)", line)
    shadow = "shadow paging" in line
    down = SHIFTS["4 KiB" if shadow else (sizes[0] or sizes[1])[0]]
    inner = [shift for shift in LEVELS[guest[1]] if shift >= down] if guest else []
    outer = [shift for shift in LEVELS[host[1]] if shift >= SHIFTS[sizes[1][0]]] if host else []
    return inner, outer, down


def reckoned(question):
    """Count the references as one would by hand."""
    inner, outer, down = tables(" ".join(question.split("  - ")[1].split()))
    kinds = {
        kind
        for kind, words in (
            ("guest", "program's tables that point"), ("host", "host's tables that point"), ("nested", "nested TLB"),
        )
        if words in question
    }  # fmt: skip
    guest_reads = min(1, len(inner)) if "guest" in kinds else len(inner)
    if not outer:
        return guest_reads
    # A table of the guest: the walk before has asked for its page, or at least read all entries that point there.
    each = 0 if "nested" in kinds else 1 if "host" in kinds else len(outer)
    # The page itself: the walk before was for its neighbour, which may lie under another table of the host's.
    first = max(0x40_0000, 1 << down) if inner else 0x1234_5678
    second = first + (1 << down)
    last = 1 + sum(first >> above != second >> above for above in outer[:-1]) if "host" in kinds else len(outer)
    return guest_reads * (1 + each) + last


@pytest.mark.parametrize("seed", range(60))
def test_the_machine_counts_what_one_reckons_by_hand(seed):
    problem = exercise("miss-cost", seed)
    references = reckoned(problem.question)
    verdict = problem.check({"references": references, "cycles": 20 * references})
    assert verdict.correct, (problem, references, verdict)
    for other in (references - 1, references + 1):
        assert not problem.check({"references": other, "cycles": 20 * other}).correct


def test_questions_are_of_all_kinds():
    questions = [exercise("miss-cost", seed).question for seed in range(60)]
    for words in ("bare machine", "shadow paging", "over EPT", "over NPT", "paging is off", "no caches", "nested TLB"):
        assert any(words in question for question in questions), words
    assert len({reckoned(question) for question in questions}) > 8


def test_hints_say_where_to_look_and_not_what_it_is():
    for seed in range(30):
        problem = exercise("miss-cost", seed)
        right = reckoned(problem.question)
        low, high = {"references": 0, "cycles": 0}, {"references": 999, "cycles": 0}
        first, second = problem.check(low), problem.check(high)
        assert "There are more" in first.message
        assert "There are fewer" in second.message
        assert len(second.message) > len(first.message)
        assert not re.search(r"\d", first.message + second.message)
        assert "references are right" in problem.check({"references": right, "cycles": right}).message
        assert problem.check({"references": right, "cycles": 20 * right}).correct


@pytest.mark.parametrize(
    "answer", [24, {"references": 24}, {"references": "24", "cycles": 480}, {"references": True, "cycles": 1}]
)
def test_an_answer_of_another_form_is_told_the_form(answer):
    message = exercise("miss-cost", 1).check(answer).message
    assert "dict with the keys" in message or "is a number" in message
