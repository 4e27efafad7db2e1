"""Exercise: a malicious program and its neighbour, once in two containers of one kernel, once in two virtual machines.

The student says for each attack whether the neighbour still comes to its result. The answer is found by running both systems: the
kernel with containers on the bare machine, and the same kernel in a virtual machine beside another.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from vmlab import guests
from vmlab.kinds.presets import preset_of
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.vmm.run import run

if TYPE_CHECKING:
    import random

__all__ = ["Isolation"]

WORKLOAD = 1
ATTACKS = {
    2: "reads files that are not its own",
    3: "ends every process that it can",
    6: "takes all the memory that it gets",
    7: "forks as often as it can",
    9: "computes for ever",
    12: "makes itself the host by a bug of its kernel, and stops its neighbour",
    13: "brings its kernel down by a bug of it",
}
"""Programs of the guest `containers`, by their digit in a script."""
CONTAINERS, MACHINES = (
    "in a container, its neighbour in another of the same kernel",
    "in a virtual machine, its neighbour in another",
)
COUNT = 4
LINE = "primes "
MEMORY = 8 << 20


@cache
def survives(attack: int, place: str) -> bool:
    """Say whether the neighbour of an attack comes to its result."""
    kernel = guests.load("containers", BUG=1, SCRIPT_1=WORKLOAD, SCRIPT_2=attack)
    if place == CONTAINERS:
        return f"web: {LINE}" in run(kernel, memory=MEMORY, disks=[guests.workload_disk()]).console
    return "guest1" in preset_of("plain VM", [kernel, guests.load("workload")]).run().results


class Isolation(Exercise):
    """Seeded attacks, each in one of two places."""

    name = "isolation"

    def draw(self, chance: random.Random) -> None:
        """Draw attacks, one of them by the kernel's bug, in both places."""
        last = chance.choice((12, 13))
        drawn = chance.sample([each for each in ATTACKS if each < 12], COUNT - 2)
        cases = [(attack, chance.choice((CONTAINERS, MACHINES))) for attack in drawn] + [
            (last, CONTAINERS),
            (last, MACHINES),
        ]
        chance.shuffle(cases)
        self._cases = cases
        lines = [
            f"  {number + 1}. A program {ATTACKS[attack]}: {place}." for number, (attack, place) in enumerate(cases)
        ]
        self.question = (
            "In each case, does the neighbour still come to its result?\n"
            + "\n".join(lines)
            + f"\nGive {COUNT} truth values, as [{', '.join(['True'] * COUNT)}]. (The kernel has a bug: any program may write one word of its memory.)"
        )

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a list of bool
        """Run the systems, and compare."""
        if (
            not isinstance(answer, (list, tuple))
            or len(answer) != COUNT
            or not all(type(each) is bool for each in answer)
        ):
            return Verdict(
                correct=False, message=f"Give a list of {COUNT} truth values, one for each case, in their order."
            )
        right = [survives(attack, place) for attack, place in self._cases]
        wrong = [number + 1 for number, (given, found) in enumerate(zip(answer, right, strict=True)) if given != found]
        if wrong:
            return self.hint(
                f"{COUNT - len(wrong)} of {COUNT} are right. Ask of each case: what do the two share?",
                f"Look again at case {wrong[0]}: who enforces the limits there, and can the program write to its memory?",
            )
        return Verdict(
            correct=True,
            message="Limits hold as long as the kernel does that enforces them. Two containers share that kernel; two virtual machines share "
            "a hypervisor, which the guest's bug does not reach.",
        )
