"""Nanobenchmarks: one small thing over and over, natively and under a technique, beside what was measured in 2006.

Adams and Agesen compared VMware's binary translation with the first VT-x, which had no nested paging, by seven loops on a
Pentium 4 672. Here the guest `nanobenchmarks` runs the same loops, and its cycles are counted: events times what each
primitive costs (`vmlab.machine.costs`). No constant belongs to one of these loops; ratios are to be believed within a factor
of two, and orderings where the published figures are farther apart than a quarter.

    syscall  SYSENTER and SYSEXIT           pgfault  a page fault, and a handler that skips the instruction
    in       IN from port 0x80              divzero  the same with a division by zero
    cr8wr    a write of CR8 (64-bit mode)   ptemod   a write to an entry of a page table
    callret  a near call and its return

A loop is run twice with different counts: the difference is free of what comes before and after it, and the empty loop's
cost is taken off.

Read more: Adams and Agesen, "A Comparison of Software and Hardware Techniques for x86 Virtualization", ASPLOS 2006, 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab import guests
from vmlab.errors import OptionError
from vmlab.vmm.run import run
from vmlab.vmm.techniques import TECHNIQUES, find_technique

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LOOPS", "PUBLISHED", "Nanobenchmarks", "nanobenchmarks"]

LOOPS = ("syscall", "in", "cr8wr", "callret", "pgfault", "divzero", "ptemod")
"""In the order of the guest's constant WHICH, from 1 on."""

PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "native": dict(zip(LOOPS, (242, 3209, 4 * 35, 11, 1093, 889, 1), strict=True)),
    "binary-translation": dict(zip(LOOPS, (2308, 3209 // 15, 35, 51, 3927, 3223, 391), strict=True)),
    "vt-x/shadow": dict(zip(LOOPS, (242, 15826, 4 * 35, 11, 11242, 1014, 12733), strict=True)),
}
"""Cycles in [Adams and Agesen 2006]; where the text gives a proportion ("four times", "fifteen times") it is worked out."""

CLASSIC, FIRST = "pentium-4", "prescott"
"""Models of the guest's processor, with the same costs: for what runs 32-bit guests alone, and for the rest."""
MEMORY = 4 << 20
DESCRIPTION = "cycles each"


@dataclass(frozen=True, slots=True)
class Nanobenchmarks:
    """Cycles of each loop under each technique.

    Attributes
    ----------
    cycles : dict of str to dict of str to float
        By technique, then by loop; without those that a technique cannot run.
    """

    cycles: Mapping[str, Mapping[str, float]]

    def ratio(self, under: str, loop: str) -> float | None:
        """Return how many times the native cycles a loop takes; None where it did not run."""
        taken = self.cycles[under].get(loop)
        return None if taken is None else taken / self.cycles["native"][loop]

    @staticmethod
    def published_ratio(under: str, loop: str) -> float | None:
        """Return the same of the published figures; None where there are none."""
        figures = PUBLISHED.get(under)
        return None if figures is None else figures[loop] / PUBLISHED["native"][loop]

    def rows(self) -> list[dict[str, Any]]:
        """Return a table: one row each loop and technique."""
        return [
            {
                "loop": loop,
                "under": under,
                "cycles": self.cycles[under].get(loop),
                "times native": self.ratio(under, loop),
                "published cycles": PUBLISHED.get(under, {}).get(loop),
                "published times native": self.published_ratio(under, loop),
            }
            for loop in LOOPS
            for under in self.cycles
        ]

    def describe(self) -> str:
        """Return the table as text: cycles here, and in brackets those of the paper."""
        names = list(self.cycles)
        lines = [f"{DESCRIPTION:<12}" + "".join(f"{name:>24}" for name in names)]
        for loop in LOOPS:
            cells = [_cell(self.cycles[name].get(loop), PUBLISHED.get(name, {}).get(loop)) for name in names]
            lines.append(f"{loop:<12}" + "".join(f"{cell:>24}" for cell in cells))
        return "\n".join([*lines, "in brackets: Adams and Agesen, ASPLOS 2006, on a Pentium 4 672"])

    def __repr__(self) -> str:
        return self.describe()


def _cell(taken: float | None, published: int | None) -> str:
    here = "-" if taken is None else f"{taken:,.0f}"
    return here if published is None else f"{here} ({published:,})"


def nanobenchmarks(under: Sequence[str] | None = None, *, rounds: int = 100, **options: Any) -> Nanobenchmarks:  # noqa: ANN401 - as of build()
    """Measure the nanobenchmarks under some techniques.

    Parameters
    ----------
    under : sequence of str, optional
        Techniques, as of `vmlab.compare`; natively they are measured in any case. If not given, those of the paper that
        there are: `"binary-translation"` and `"vt-x/shadow"`.
    rounds : int
        How often each loop goes round, and then twice as often: 10 to 100,000.
    **options
        As of `vmlab.run`; `cpu` is the guest's processor, that of the paper if not given.

    Returns
    -------
    Nanobenchmarks

    Raises
    ------
    OptionError
        There is no such technique, or an option is not possible.

    Examples
    --------
    >>> found = nanobenchmarks(["vt-x/shadow"])
    >>> found.ratio("vt-x/shadow", "divzero"), found.ratio("vt-x/shadow", "ptemod") > 1000
    (1.0, True)
    """
    if type(rounds) is not int or not 10 <= rounds <= 100_000:
        raise OptionError(f"rounds is an int from 10 to 100,000, not {rounds!r}")
    if under is None:
        under = [name for name in PUBLISHED if name.partition("/")[0] in TECHNIQUES]
    if not isinstance(under, (list, tuple)):
        raise OptionError(f"under is a list of techniques, as ['vt-x/shadow'], not {under!r}")
    names = dict.fromkeys(["native", *map(str, under)])
    return Nanobenchmarks({name: _measure(name, rounds, options) for name in names})


def _measure(name: str, rounds: int, options: dict[str, Any]) -> dict[str, float]:
    """Return the cycles of each loop that runs under a technique."""
    technique, _, strategy = name.partition("/")
    kind = find_technique(technique)
    long = technique == "native" or kind.assisted
    own = {"cpu": FIRST if long else CLASSIC, "memory": MEMORY, **options}
    if strategy:
        own["memory_virtualization"] = strategy
    if "shadow" in (strategy, kind.memory_virtualizations[0]):
        own.setdefault("shadow_policy", "traced")  # as the VMMs of the paper: each write to a table is seen
    loops = [loop for loop in LOOPS if long or loop != "cr8wr"]
    empty = _cost(0, technique, rounds, own)
    return {loop: _cost(LOOPS.index(loop) + 1, technique, rounds, own) - empty for loop in loops}


def _cost(which: int, technique: str, rounds: int, options: dict[str, Any]) -> float:
    """Return the cycles of one round of a loop."""
    taken = []
    for count in (rounds, 2 * rounds):
        done = run(guests.load("nanobenchmarks", WHICH=which, ROUNDS=count), technique, **options)
        if done.outcome != "exit":
            raise OptionError(
                f"the guest of the nanobenchmarks ended by {done.outcome} under {technique}: the options leave it no way to "
                "its end, choose others"
            )
        taken.append(done.cycles)
    return (taken[1] - taken[0]) / rounds
