"""Exercise: how often will this kernel code trap under trap-and-emulate? Predict, then let the machine count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.program import assemble
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.run import run

if TYPE_CHECKING:
    import random

__all__ = ["CountTheTraps"]

# Text, and what a reader must know to judge it. Whether it traps is not written here: the machine decides.
PIECES = (
    "add eax, ebx", "push eax", "pop ebx", "mov ecx, [0x7000]", "mov [0x7000], eax", "cli", "sti", "mov eax, cr0",
    "mov eax, cr3", "in al, 0x60", "pushf", "popf", "smsw ax", "sgdt [0x7010]", "lidt [0x7000]", "nop", "mov eax, cs",
    "out 0x80, al", "xor edx, edx", "clts", "invlpg [0x7000]", "str ax",
)  # fmt: skip
UNTOLD = frozenset({ExitReason.HIDDEN_PAGE_FAULT.value, ExitReason.EXTERNAL_INTERRUPT.value})


class CountTheTraps(Exercise):
    """Some instructions in a row in kernel mode."""

    name = "count-the-traps"

    def draw(self, chance: random.Random) -> None:
        """Draw the instructions."""
        body = "\n".join(f"        {chance.choice(PIECES)}" for _ in range(chance.randrange(6, 11)))
        self.source = (
            f"start:  mov esp, 0x90000\n{body}\n        mov dx, 0xf4\n        out dx, al        ; ends the machine\n"
        )
        self.question = (
            "This guest runs in its kernel mode, under trap-and-emulate on a processor without extensions. How many of\n"
            "its instructions trap and are emulated? (Hidden page faults do not count; the last OUT does.)\n\n"
            + self.source
        )

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a number
        """Run the guest and compare with the count of its exits."""
        if type(answer) is not int:
            return Verdict(correct=False, message=f"Give a number, not {answer!r}.")
        exits = run(assemble(self.source), "trap-and-emulate").exits
        count = sum(number for reason, number in exits.items() if reason not in UNTOLD)
        if answer == count:
            return Verdict(correct=True, message="Each one a round trip into the hypervisor; the rest ran directly.")
        direction = "fewer" if answer > count else "more"
        return self.hint(
            f"There are {direction}. Which of them are privileged, that is, fault outside ring 0?",
            f"There are {direction}. vmlab.classify() lists each instruction's class; a *sensitive but unprivileged* one "
            "does not trap, though it should.",
        )
