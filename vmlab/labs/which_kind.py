"""Exercise: say which kind of virtual machine a running system is, from its layers and from the way of a disk read.

The parts have letters for names. What there is to see is what the system shows of itself: modes, what carries what, who gets
control. Which kind it is, and which parts are the most privileged, `judge` reads off the running system.
"""

from __future__ import annotations

import difflib
import string
from typing import TYPE_CHECKING, Any

from vmlab.kinds.journey import DISK_READ
from vmlab.kinds.matrix import most_privileged
from vmlab.kinds.presets import PRESETS, preset
from vmlab.labs.exercise import Exercise, Verdict

if TYPE_CHECKING:
    import random

    from vmlab.kinds.part import Part

__all__ = ["WhichKind"]

SYSTEMS = (
    "IBM LPAR", "VMware ESX", "Citrix XenServer", "Red Hat KVM", "VMware Workstation", "Oracle Java", "AArch64 emulator", "BSD Jails",
)  # fmt: skip
"""One of each organization, of those that a student can tell apart."""
EARLIEST, LATEST = 40_000, 70_000
MOST_LEGS = 14

SIGNS = {
    "type 0": "each kernel has a processor and memory of its own, in ring 0 and with no VMM above it; firmware is what they ask",
    "type 1": "the VMM is right on the hardware, and no process is beside the guests",
    "type 1 in a general-purpose OS": "the kernel of the VMM's layer also has ordinary processes, and an exit goes to one without a world switch",
    "type 2": "the VMM rests on another kernel, and its way to the disk has world switches",
    "programming-environment virtualization": "there is no guest kernel, and what runs is checked by a runtime",
    "emulator": "the guest's modes are those of another processor",
    "application containment": "one kernel is below all",
}
"""What gives a kind away."""


class WhichKind(Exercise):
    """A seeded system, with letters for names."""

    name = "which-kind"

    def draw(self, chance: random.Random) -> None:
        """Draw the system, the instant, and the letters."""
        self._name = chance.choice(SYSTEMS)
        running = preset(self._name)
        running.advance(chance.randrange(EARLIEST, LATEST))
        parts = running.parts()
        letters = [*string.ascii_uppercase[: len(parts)]]
        chance.shuffle(letters)
        self._letters = {part.name: letter for part, letter in zip(parts, letters, strict=True)}
        self._top = {self._letters[part.name] for part in most_privileged(parts)}
        journey = running.follow(DISK_READ)
        way = [f"  {self._letter(leg.part)}: {self._what(leg.what)}" for leg in journey.legs[:MOST_LEGS]]
        if len(journey.legs) > MOST_LEGS:
            way.append(f"  … and {len(journey.legs) - MOST_LEGS} more")
        self.question = (
            "A system runs. Its parts, each with a letter for a name:\n"
            + "\n".join(self._line(part) for part in sorted(parts, key=lambda part: self._letters[part.name]))
            + f"\nIn control is {self._letters[running.in_control]}. A disk read of one of its programs goes this way ({journey.hops} hops):\n"
            + "\n".join(way)
            + f"\nWhich kind is it: {', '.join(SIGNS)}?\nAnd which part, but the hardware, is the most privileged? "
            'Give both, as ("type 1", "C").'
        )

    def _letter(self, name: str) -> str:
        return str(self._letters.get(name, "another part"))

    def _what(self, what: str) -> str:
        """Return what a leg says, without names of products."""
        return what.partition(" (")[0].partition(":")[0] or "(nothing of note)"

    def _line(self, part: Part) -> str:
        mode = part.privilege or "no mode of its own"
        facts = (
            ["hardware" + (f", now in {part.privilege}" if part.privilege else "")]
            if part.layer == "hardware"
            else [mode]
        )
        for words, names in (("rests on", part.runs_on), ("traps to", part.traps_to)):
            if names:
                facts.append(f"{words} {', '.join(map(self._letter, names))}")
        if part.assigned_to:
            facts.append(f"belongs to {self._letter(part.assigned_to)}")
        return f"  {self._letters[part.name]}: {'; '.join(facts)}"

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a pair
        """Compare with what the system is."""
        if (
            not isinstance(answer, (tuple, list))
            or len(answer) != 2
            or not all(isinstance(each, str) for each in answer)
        ):
            return Verdict(
                correct=False, message='Give two texts, as ("type 1", "C"): the kind, and the letter of a part.'
            )
        kind, letter = answer[0].strip().lower(), answer[1].strip().upper()
        kinds = {each.lower(): each for each in SIGNS}
        if kind not in kinds:
            close = difflib.get_close_matches(kind, kinds, 1)
            hint = f" Did you mean {kinds[close[0]]!r}?" if close else ""
            return Verdict(
                correct=False, message=f"There is no kind {answer[0]!r} here: choose one of {', '.join(SIGNS)}.{hint}"
            )
        if letter not in self._letters.values():
            return Verdict(
                correct=False,
                message=f"There is no part {answer[1]!r}: the letters are {', '.join(sorted(self._letters.values()))}.",
            )
        right = PRESETS[self._name].kind
        if kinds[kind] != right:
            return self.hint(
                "That kind it is not. Look at what rests right on the hardware, and whether anything else rests there too.",
                f"It is not of that kind, of which one would see: {SIGNS[kinds[kind]]}.",
            )
        if letter not in self._top:
            return self.hint(
                f"The kind is right. But {letter} is not the most privileged: who can take the processor away from whom?"
            )
        return Verdict(correct=True, message=f"It has the organization of {self._name}. The sign: {SIGNS[right]}.")
