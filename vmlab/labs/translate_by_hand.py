"""Exercise: what does a binary translator make of this kernel code? Predict, then look at what it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.isa.x86.decoder import decode
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.program import assemble
from vmlab.vmm.binary_translation import BinaryTranslation
from vmlab.vmm.run import run
from vmlab.vmm.translation_code import CALL_OUT

if TYPE_CHECKING:
    import random

__all__ = ["TranslateByHand"]

# Text alone: what becomes of it is not written here, the translator decides.
PIECES = (
    "add eax, ebx", "push eax\n        pop ebx", "mov ecx, [0x7000]", "mov [0x7000], eax", "cli", "sti", "mov eax, cr0",
    "in al, 0x60", "pushf\n        pop eax", "push dword 2\n        popf", "smsw ax", "sgdt [0x7010]", "nop", "mov eax, cs",
    "out 0x80, al", "xor edx, edx", "str ax", "lea esi, [eax+4]", "inc dword [0x7000]", "rdtsc",
)  # fmt: skip
KINDS = ("copied", "rewritten", "called out")
HINTS = (
    "Innocuous instructions are copied, byte for byte. Which of these are sensitive, trapping or not?",
    "Of the sensitive ones, four are so frequent that a few instructions on the virtual interrupt flag do; the rest call.",
    "vmlab.classify() lists each instruction's class. The four are cli, sti, pushf and popf.",
)


class TranslateByHand(Exercise):
    """Some instructions in a row in kernel mode."""

    name = "translate-by-hand"

    def draw(self, chance: random.Random) -> None:
        """Draw the instructions."""
        body = "\n".join(f"        {chance.choice(PIECES)}" for _ in range(chance.randrange(6, 10)))
        self.source = f"start:  mov esp, 0x90000\nbody:\n{body}\nend:    mov dx, 0xf4\n        out dx, al        ; ends the machine\n"
        self.question = (
            "A binary translator reads this code. How many of the instructions between `body` and `end` are copied as they are,\n"
            "how many are rewritten into a few others, and how many become call-outs into the hypervisor? Answer with a dict,\n"
            'as {"copied": 3, "rewritten": 2, "called out": 1}.\n\n' + self.source
        )

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - three numbers
        """Run the guest and look at its translations."""
        if (
            not isinstance(answer, dict)
            or set(answer) != set(KINDS)
            or any(type(n) is not int for n in answer.values())
        ):
            return Verdict(
                correct=False, message=f"Give a dict with the keys {', '.join(KINDS)} and numbers, not {answer!r:.80}."
            )
        found = count(self.source)
        if answer == found:
            return Verdict(correct=True, message="All of it runs in ring 3, and no instruction of it can tell.")
        if sum(answer.values()) != sum(found.values()):
            return self.hint(f"That makes {sum(answer.values())} instructions, and there are {sum(found.values())}.")
        return self.hint(*HINTS)


def count(source: str) -> dict[str, int]:
    """Count what a translator has made of the code between `body` and `end`."""
    image = assemble(source)
    system = run(image, "binary-translation").system
    if not isinstance(system, BinaryTranslation):
        raise OptionError(f"that is {system.technique}, and no binary translation")
    kinds: dict[int, str] = {}
    inside = range(image.symbols["body"], image.symbols["end"])
    for unit in system.caches[0].units.values():
        for ip, offset in unit.starts.items():
            original = decode(unit.source[ip - unit.ip :][:15]).raw
            if ip not in inside:
                continue
            if unit.code[offset : offset + len(CALL_OUT)] == CALL_OUT:
                kinds[ip] = "called out"
            else:
                kinds[ip] = "copied" if unit.code.startswith(original, offset) else "rewritten"
    return {kind: sum(each == kind for each in kinds.values()) for kind in KINDS}
