"""Exercise: write a kernel that finds out whether a hypervisor is below, by instructions of one group.

The name is Rutkowska's ("Red Pill", 2004), whose program did it with `sidt`. What is judged is not the source: the kernel
runs, and the divergence finder says which of its instructions told it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import AssemblyError, VmlabError
from vmlab.isa.x86.classification import classify
from vmlab.isa.x86.privilege import GROUPS
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.image import Image
from vmlab.machine.program import assemble
from vmlab.vmm.divergence_finder import find_divergence
from vmlab.vmm.run import run
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    import random

    from vmlab.vmm.divergence import Divergence
    from vmlab.vmm.run import Run

__all__ = ["RedPill"]

ALONE, VIRTUAL = "native", "trap-and-emulate"
ALLOWED = ("system-register", "flags", "selector-check", "segment")
LETTERS = ("BG", "FT", "HW", "KL", "NV", "PQ", "RS", "XY")
OPTIONS: dict[str, Any] = {"memory": 2 << 20, "max_instructions": 3_000}
FRAME = """
        bits 32
        org 0x100000
start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        jmp 0x08:.flat
.flat:  mov eax, 0x10
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov bl, '{alone}'
        ; yours: leave '{alone}' in BL on the bare machine, and '{virtual}' in a virtual one
        mov al, bl
        mov dx, 0x3F8
        out dx, al
        mov al, 0
        out 0xF4, al
gdt_pointer: dw 23, gdt - $$, 0x10
align 8
gdt:    dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF    ; null, 0x08: code, 0x10: data, of ring 0
"""


class RedPill(Exercise):
    """A seeded group of instructions, and what to say."""

    name = "red-pill"

    def draw(self, chance: random.Random) -> None:
        """Draw the group and the letters."""
        self.group = chance.choice(ALLOWED)
        self.alone, self.virtual = chance.sample(chance.choice(LETTERS), 2)
        self.source = FRAME.format(alone=self.alone, virtual=self.virtual)
        names = ", ".join(form.name for form in classify().values() if form.group == self.group)
        self.question = (
            f"Write a kernel that sends {self.alone!r} to its serial port where it runs on the bare machine, and {self.virtual!r} under "
            f"trap-and-emulate.\nOf its instructions, the first that shows it a difference must be of the group {self.group!r}:\n"
            f"  {names}\n  ({GROUPS[self.group].reason})\n"
            "Begin with exercise.source, and give the whole source to check()."
        )

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - source or Image
        """Run the kernel on the bare machine and in a virtual one, then in lockstep."""
        if not isinstance(answer, (str, Image)):
            return Verdict(correct=False, message="Give the assembly source, as a string.")
        try:
            image = assemble(answer, "red pill") if isinstance(answer, str) else answer
            runs = {under: run(image, under, **OPTIONS) for under in (ALONE, VIRTUAL, "vt-x")}
            systems = [build(image, under, **OPTIONS) for under in (ALONE, VIRTUAL)]
        except AssemblyError as error:
            return Verdict(correct=False, message=f"It does not assemble: {error}")
        except VmlabError as error:
            return Verdict(correct=False, message=f"It cannot be run: {error}")
        for under, letter in ((ALONE, self.alone), (VIRTUAL, self.virtual)):
            if complaint := _complaint(runs[under], letter):
                return self.hint(
                    complaint, f"{complaint} {self._help(find_divergence(systems, (ALONE, VIRTUAL), every=1))}"
                )
        found = find_divergence(systems, (ALONE, VIRTUAL), every=1)
        assert found is not None, "it has said two things"
        instruction = found.place.instruction
        group = "" if instruction is None else instruction.row.group
        if group != self.group:
            return self.hint(f"It can tell already by {found.text!r}, whose group is {group!r}, not {self.group!r}.")
        row = found.rows()[0]
        said = runs["vt-x"].console.strip()
        why = ": there the processor itself keeps up the illusion" if said == self.alone else ""
        return Verdict(
            correct=True,
            message=f"{found.text!r} gives it away: {row['what']} is {row[ALONE]}, or {row[VIRTUAL]}. "
            f"Under vt-x your kernel says {said!r}{why}.",
        )

    def _help(self, found: Divergence | None) -> str:
        if found is None:
            return (
                "So far it finds no difference anywhere: execute one of the group's instructions, where the VCPU and the real "
                "processor have different values, and compare what it gives. vmlab.sensitive() shows values."
            )
        return f"It could know since {found.text!r} at {found.symbol or hex(found.address)}: compare what that gives."


def _complaint(ran: Run, letter: str) -> str:
    """Return what is wrong with a run; empty where it said the letter."""
    where = "On the bare machine" if ran.under == ALONE else f"Under {ran.under}"
    if ran.outcome != "exit":
        return f"{where} it ended by {ran.outcome!r}, not by 'exit'."
    said = ran.console.strip()
    return "" if said == letter else f"{where} it says {said!r}, not {letter!r}."
