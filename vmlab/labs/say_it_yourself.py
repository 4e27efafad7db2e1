"""Exercise: write a guest that says something and exits, the same natively and in a virtual machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import AssemblyError, VmlabError
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.image import Image
from vmlab.machine.program import assemble
from vmlab.vmm.run import run

if TYPE_CHECKING:
    import random

__all__ = ["SayItYourself"]

WORDS = ("fidelity", "performance", "safety", "isolation", "guest", "host", "hypervisor", "snapshot", "trap", "world")
LIMIT = 200_000


class SayItYourself(Exercise):
    """A seeded word to print, and a status to exit with."""

    name = "say-it-yourself"

    def draw(self, chance: random.Random) -> None:
        """Draw word and status."""
        self.word = chance.choice(WORDS)
        self.code = chance.randrange(2, 60)
        self.question = (
            f"Write a guest that sends {self.word!r} to the serial port (0x3F8) and ends the machine by writing "
            f"{self.code} to port 0xF4. Give its source to check()."
        )

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - source or Image
        """Run the guest natively and under trap-and-emulate."""
        if not isinstance(answer, (str, Image)):
            return Verdict(correct=False, message="Give the assembly source, as a string.")
        try:
            image = assemble(answer) if isinstance(answer, str) else answer
            runs = [run(image, under, max_instructions=LIMIT) for under in ("native", "trap-and-emulate")]
        except AssemblyError as error:
            return Verdict(correct=False, message=f"It does not assemble: {error}")
        except VmlabError as error:
            return Verdict(correct=False, message=f"It cannot be run: {error}")
        first = runs[0]
        if first.outcome != "exit":
            return self.hint(
                f"The machine ended by {first.outcome!r}, not by 'exit'.",
                f"The machine ended by {first.outcome!r}: the last thing to do is 'out dx, al' with DX = 0xF4.",
            )
        if first.console.strip() != self.word:
            return self.hint(
                f"The console shows {first.console!r}.",
                f"The console shows {first.console!r}: look at guest 'hello', which sends one byte at a time.",
            )
        if first.status != self.code << 1 | 1:
            return self.hint(
                f"The status is {first.status}. A write of v ends the machine with status (v << 1) | 1.",
            )
        if runs[1].console != first.console or runs[1].status != first.status:
            return Verdict(correct=False, message="Natively it is right, but the virtual machine behaves differently.")
        return Verdict(
            correct=True,
            message=f"{first.instructions} instructions natively and virtually; "
            f"{runs[1].exits.total()} of them, and of the page faults behind them, needed the hypervisor.",
        )
