"""Exercise: find the instruction of a small kernel that is the first to show it the hypervisor below, and its group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.decoder import decode
from vmlab.isa.x86.instruction import Privilege
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.program import assemble
from vmlab.vmm.divergence_finder import find_divergence
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    import random

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.vmm.divergence import Divergence

__all__ = ["FirstDivergence"]

PARTS = ("line", "group")
TECHNIQUES = ("native", "trap-and-emulate")
GROUPS = ("system-register", "flags", "segment")
HELP = "Write down what each instruction reads: is it the VCPU's, as the kernel believes, or the real processor's?"
OPTIONS: dict[str, Any] = {"memory": 2 << 20, "max_instructions": 1_000}

# What a kernel may do, and what a reader must know to judge it. What of it shows the hypervisor is not written here: the
# machine decides.
HARMLESS = (
    ("add ebx, 5",), ("mov ecx, [0x7000]",), ("cli",), ("sti",), ("in al, 0x21",), ("mov eax, cr0",), ("mov edx, cr3",), ("clts",),
    ("push ebx", "pop ecx"), ("lidt [0x7000]",), ("invlpg [0x7000]",), ("xor edx, edx", "mov fs, edx", "mov ecx, fs"),
    ("sti", "pushf", "pop eax"), ("sti", "push dword 0x202", "popf"), ("cli", "push dword 2", "popf"),
)  # fmt: skip
TELLING = (
    ("cli", "pushf"), ("cli", "push dword 0x202", "popf"), ("sti", "push dword 2", "popf"), ("push dword 0x3246", "popf"),
    ("smsw eax",), ("sgdt [0x7000]",), ("str ebx",), ("mov edx, cs",), ("push cs",), ("mov edx, ss",), ("push ds",),
)  # fmt: skip


class FirstDivergence(Exercise):
    """Seeded instructions of kernel mode, numbered."""

    name = "first-divergence"

    def draw(self, chance: random.Random) -> None:
        """Draw instructions, the last of a kind that tells."""
        pieces = [*chance.sample(HARMLESS, chance.randrange(4, 7)), chance.choice(TELLING)]
        pieces += [chance.choice(HARMLESS), chance.choice(TELLING)]
        self.lines = [line for piece in pieces for line in piece]
        body = "\n".join(f"line{number}: {line}" for number, line in enumerate(self.lines, 1))
        self.source = f"start: mov esp, 0x90000\n{body}\n mov al, 0\n out 0xF4, al\n"
        self.image = assemble(self.source, "numbered")
        listing = "\n".join(f"{number:>4}  {line}" for number, line in enumerate(self.lines, 1))
        self.question = (
            "These instructions run in kernel mode, natively and under trap-and-emulate (interrupts are off at the start). Which\n"
            "is the first after which the kernel finds something different? Answer with a dict:\n"
            "  'line': its number,\n"
            f"  'group': the group of vmlab.classify() that it is in, one of {', '.join(GROUPS)}.\n"
            "exercise.image is the kernel, if you want to run it.\n\n" + listing
        )

    def _found(self) -> Divergence:
        """Run the kernel in lockstep."""
        found = find_divergence([build(self.image, each, **OPTIONS) for each in TECHNIQUES], TECHNIQUES, every=1)
        assert found is not None, "one of the instructions tells"
        return found

    def _instruction(self, line: int) -> Instruction:
        (segment,) = self.image.segments
        return decode(segment.data[self.image.symbols[f"line{line}"] - segment.address :][:15])

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a dict
        """Compare with the lockstep."""
        if not isinstance(answer, dict) or set(answer) != set(PARTS):
            return Verdict(correct=False, message=f"Give a dict with the keys {', '.join(map(repr, PARTS))}.")
        line, group = answer["line"], answer["group"]
        if type(line) is not int or not 1 <= line <= len(self.lines):
            return Verdict(correct=False, message=f"The line is a number from 1 to {len(self.lines)}, not {line!r}.")
        found = self._found()
        if self.image.symbols[f"line{line}"] != found.address:
            why = self._why_not(line, found.address)
            return self.hint(why, f"{why} {HELP}")
        if group != self._instruction(line).row.group:
            return self.hint(
                f"The line is right. Its group is one of {', '.join(GROUPS)}: vmlab.classify() says which."
            )
        row = found.rows()[0]
        first, other = (row[name] for name in TECHNIQUES)
        return Verdict(correct=True, message=f"{row['what']} is {first} natively, and {other} in the virtual machine.")

    def _why_not(self, line: int, right: int) -> str:
        """Return what is wrong with a line."""
        text, privilege = self.lines[line - 1], self._instruction(line).privilege
        if privilege is Privilege.INNOCUOUS:
            return f"{text!r} is innocuous: it computes on what the kernel has already."
        if privilege is Privilege.PRIVILEGED:
            return f"{text!r} is privileged: it traps, and the hypervisor executes it on the VCPU."
        if self.image.symbols[f"line{line}"] > right:
            return f"Before {text!r} the kernel could tell already."
        return (
            f"{text!r} is sensitive and does not trap, yet what it shows here is what the kernel would find natively."
        )
