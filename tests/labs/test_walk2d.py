"""The exercise `walk2d`: a right walker passes on all tables, each mistake is found, nothing that a function does escapes."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys

import pytest

from vmlab.errors import OptionError
from vmlab.labs import exercise
from vmlab.labs.random_tables import RandomTables
from vmlab.labs.walk2d import PAIRS

# As a student would write them down: bytes of an entry, shifts of the levels, shifts at which bit 7 makes a page, bits
# one of which says that something is there.
TABLES = {
    "32-bit paging": (4, (22, 12), (), 1),
    "4-level paging": (8, (39, 30, 21, 12), (30, 21), 1),
    "5-level paging": (8, (48, 39, 30, 21, 12), (30, 21), 1),
    "EPT of 4 levels": (8, (39, 30, 21, 12), (30, 21), 7),
    "EPT of 5 levels": (8, (48, 39, 30, 21, 12), (30, 21), 7),
    "NPT of 4 levels": (8, (39, 30, 21, 12), (30, 21), 1),
}
FRAME = 0xF_FFFF_FFFF_F000


class Refused(Exception):  # noqa: N818 - a result, as the processor's faults
    """A walk found nothing, or no right."""


def walker(problem, mistake=""):
    """Return what a student writes, with a mistake."""
    line = problem.question.splitlines()[0]
    guest, host = (name for name in TABLES if name in line)
    if line.index(host) < line.index(guest):
        guest, host = host, guest
    fault = "EPT violation" if "EPT" in host else "nested page fault"

    def one_dimension(read, name, root, address, is_write):
        """Return the physical address; raise Refused(whether it was there)."""
        size, shifts, large, present = TABLES[name]
        table, writable = root, True
        for shift in shifts:
            slot = address >> shift & ((1 << 10) - 1 if size == 4 else 511)
            entry = read(table + slot * size, size)
            if mistake == "twice":
                read(table + slot * size, size)
            if not entry & present:
                raise Refused(False)
            writable = entry & 2 and (writable or mistake == "last right alone")
            if mistake == "right too early" and is_write and not writable:
                raise Refused(True)
            if shift == 12 or (shift in large and entry & 0x80 and mistake != "no large pages"):
                if is_write and not writable and mistake != "no rights":
                    raise Refused(True)
                return entry & FRAME & -(1 << shift) | address & (1 << shift) - 1
            table = entry & FRAME
        raise AssertionError

    def walk2d(memory, guest_root, host_root, address, is_write):
        def through(physical, writing):
            try:
                return one_dimension(memory.read, host, host_root, physical, writing)
            except Refused:
                raise LookupError(fault, physical & -4096 if mistake == "page alone" else physical) from None

        def read(physical, size):
            return memory.read(physical if mistake == "one dimension" else through(physical, False), size)

        try:
            if mistake == "no final walk":
                return one_dimension(read, guest, guest_root, address, is_write)
            return through(one_dimension(read, guest, guest_root, address, is_write), is_write)
        except Refused as refused:
            there = refused.args[0] and mistake != "present bit"
            return "page fault", is_write << 1 | there
        except LookupError as refused:
            return refused.args

    return walk2d


@pytest.mark.parametrize("seed", range(12))
def test_a_right_walker_passes(seed):
    problem = exercise("walk2d", seed)
    verdict = problem.check(walker(problem))
    assert verdict.correct, verdict
    assert "40 accesses" in verdict.message
    assert problem.check(walker(problem)).correct, "as often as one likes"


def test_all_pairs_of_formats_are_drawn():
    lines = {exercise("walk2d", seed).question.splitlines()[0] for seed in range(30)}
    assert len(lines) == len(PAIRS)


@pytest.mark.parametrize(
    "mistake",
    [
        "twice", "last right alone", "right too early", "no large pages", "no rights", "one dimension", "no final walk",
        "present bit", "page alone",
    ],
)  # fmt: skip
def test_each_mistake_is_found_and_hinted_at(mistake):
    found = 0
    for seed in range(6):
        problem = exercise("walk2d", seed)
        first, second = problem.check(walker(problem, mistake)), problem.check(walker(problem, mistake))
        found += not first.correct
        if first.correct:
            continue
        assert first.message.startswith("Access ")
        assert first.message != second.message, "the second hint says more"
        number = int(first.message.split()[1].rstrip(","))
        arguments = problem.arguments(number)
        right = walker(problem)(*arguments)
        result = right if type(right) is int else right[1]
        hidden = [result] + [address for address, _ in arguments[0].references]
        shown = walker(problem, mistake)(*problem.arguments(number))
        for message in (first.message, second.message):
            said = message.replace(hex(arguments[3]), "")
            for value in hidden:
                assert hex(value) not in said.split() or hex(value) in str(shown) or value < 16, (
                    "the answer is not given away"
                )
    # Some mistakes do not show with each pair of formats, as that of large pages where neither has met one.
    assert found >= 4


@pytest.mark.parametrize(
    ("guest", "host"), sorted(set(itertools.product(("ia32", "4-level", "5-level"), ("ept", "npt"))))
)
def test_tables_are_varied(guest, host):
    tables = RandomTables(guest, host, random.Random(5))
    assert tables.is_varied
    assert len(tables.accesses) == 40
    assert len({access.address for access in tables.accesses}) > 25
    first = tables.accesses[0]
    assert isinstance(first.result, int)
    assert not first.is_write
    lengths = {len(access.steps) for access in tables.accesses}
    assert len(lengths) > 3, "large pages, and faults on the way, make walks short"
    full = (tables.guest.format.references + 1) * (tables.host.format.references + 1) - 1
    assert full - 6 <= max(lengths) <= full


# -- what else a function may do -----------------------------------------------------------------------------------------


def endless(memory, guest_root, host_root, address, is_write):
    while True:
        pass


def endless_reads(memory, guest_root, host_root, address, is_write):
    while True:
        with contextlib.suppress(Exception):
            memory.read(host_root, 8)


def endless_generator(memory, guest_root, host_root, address, is_write):
    for _ in itertools.count():
        pass


def calls_itself(*arguments):
    return calls_itself(*arguments)


def changes_the_memory(memory, guest_root, host_root, address, is_write):
    memory._memory.data[host_root] ^= 0xFF
    return 0


def leaves(*_):
    sys.exit(3)


class Nasty:
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __repr__(self):
        raise ValueError("no")


class NastyError(Exception):
    def __str__(self):
        raise ValueError("no")


def raises_nastily(*_):
    raise NastyError


HOSTILE = [
    (endless, "does not come to an end"),
    (endless_reads, "does not come to an end"),
    (endless_generator, "does not come to an end"),
    (calls_itself, "calls itself without end"),
    (changes_the_memory, "it changes the memory"),
    (leaves, "raises SystemExit: 3"),
    (raises_nastily, "raises NastyError"),
    (lambda *_: 1 / 0, "raises ZeroDivisionError: division by zero"),
    (lambda: 0, "raises TypeError"),
    (lambda memory, *_: memory.read(-8, 8), "there is no entry at -0x8"),
    (lambda memory, *_: memory.read(1 << 70, 8), "an int of more than 64 bits"),
    (lambda memory, *_: memory.read(0, 3), "4 or 8 bytes, not 0x3"),
    (lambda memory, *_: memory.read("0", 8), "there is no entry at '0'"),
    (lambda memory, *_: memory.write(0, 8, 1), "no attribute 'write'"),
    (lambda *_: None, "returns None. Return an int, or a pair"),
    (lambda *_: Nasty(), "returns a Nasty"),
    (lambda *_: True, "returns True"),
    (lambda *_: 1.5, "returns 1.5"),
    (lambda *_: [1, 2], "returns [1, 2]"),
    (lambda *_: ("page fault", Nasty()), "returns ('page fault', a Nasty)"),
    (lambda *_: ("page fault", 1, 2), "returns ('page fault', 0x1, 0x2)"),
    (lambda *_: "x" * 10_000, "returns 'xxxx"),
    (lambda *_: -(1 << 100_000), "you stop after reference 0"),
    (print, "returns None"),
    (int, "raises TypeError"),
]


@pytest.mark.parametrize(("function", "message"), HOSTILE)
def test_whatever_a_function_does_gets_one_clear_message(function, message, capsys):
    problem = exercise("walk2d", 5)
    tracer = sys.gettrace()
    verdict = problem.check(function)
    assert not verdict.correct
    assert message in verdict.message
    assert len(verdict.message) < 400
    assert sys.gettrace() is tracer
    assert problem.check(walker(problem)).correct, "the tables are unharmed"


def test_ctrl_c_comes_through():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercise("walk2d", 5).check(interrupted)


def test_the_skeleton_is_a_function_that_is_not_yet_right():
    problem = exercise("walk2d", 5)
    names = {}
    exec(problem.skeleton, names)
    verdict = problem.check(names["walk2d"])
    assert "returns Ellipsis" in verdict.message


def test_arguments_can_be_had_one_by_one():
    problem = exercise("walk2d", 5)
    memory, guest_root, host_root, address, is_write = problem.arguments(0)
    assert f"{address:#x}" in problem.question
    assert f"{guest_root:#x}" in problem.question
    assert memory.references == []
    result = walker(problem)(memory, guest_root, host_root, address, is_write)
    assert isinstance(result, int)
    assert str(len(memory.references)) in repr(memory)
    for wrong in (40, -1, "0", None, True):
        with pytest.raises(OptionError, match="from 0 to 39"):
            problem.arguments(wrong)
