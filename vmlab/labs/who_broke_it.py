"""Exercise: a variable is wrong at the end of a run; go backwards to the instruction that spoilt it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.program import assemble
from vmlab.vmm.debugger import Debugger
from vmlab.vmm.run import record

if TYPE_CHECKING:
    import random

    from vmlab.machine.recording import Recording

__all__ = ["WhoBrokeIt"]

NAMES = ("clear", "fill", "mark", "paint", "stamp", "tile", "wipe")
HONEST = "deposit"
PARTS = ("routine", "step")

# A bank with one account. Each routine fills a buffer of its own; the account lies behind one of them.
FRAME = """
        bits 32
        org 0x100000
start:  mov esp, 0x90000
{calls}
        mov eax, [balance]              ; the status tells the balance
        out 0xf4, al
{routines}
deposit:
        add dword [balance], {sum}
        ret
align 16
{buffers}
"""
ROUTINE = """
{name}:
        mov edi, {name}_buffer
        mov ecx, {count}
        mov eax, {value}
.loop:  mov [edi], eax
        add edi, 4
        dec ecx
        jnz .loop
        ret
"""


class WhoBrokeIt(Exercise):
    """Seeded routines, one of which writes one element too many."""

    name = "who-broke-it"

    def draw(self, chance: random.Random) -> None:
        """Draw the routines, their order, the guilty one; run it."""
        names = chance.sample(NAMES, 4)
        guilty = chance.choice(names)
        sizes = {name: chance.randrange(4, 9) for name in names}
        self.sum = chance.randrange(2, 12)
        calls = [*names, *[HONEST] * chance.randrange(4, 7)]
        chance.shuffle(calls)
        while (
            guilty in (calls[0], calls[-1])
            or HONEST not in calls[calls.index(guilty) :]
            or HONEST not in calls[: calls.index(guilty)]
        ):
            chance.shuffle(calls)
        self.right = self.sum * calls.count(HONEST)
        routines = "".join(
            ROUTINE.format(name=name, count=sizes[name] + (name == guilty), value=chance.randrange(100, 200))
            for name in sorted(names)
        )
        buffers = ""
        for name in chance.sample(names, 4):
            buffers += f"{name}_buffer: times {sizes[name]} dd 0\n" + ("balance: dd 0\n" if name == guilty else "")
        self.source = FRAME.format(
            calls="\n".join(f"        call {name}" for name in calls), routines=routines, sum=self.sum, buffers=buffers
        )
        self.recording: Recording = record(assemble(self.source, "bank"), memory=2 << 20)
        found = self._balance(self.recording.length)
        self.question = (
            f"A bank's kernel was paid {self.sum} coins {calls.count(HONEST)} times, yet in the end [balance] is {found}, not "
            f"{self.right}.\nexercise.recording is its run, exercise.source its source. Answer with a dict:\n"
            "  'routine': the name of the routine that did the damage,\n"
            "  'step': the step of the recording after which the damage is in memory.\n"
            "vmlab.debug(exercise.recording) goes backwards: goto, who_wrote('balance'), back."
        )

    def _balance(self, step: int) -> int:
        """Return the balance at a step."""
        debugger = Debugger(self.recording)
        debugger.goto(step)
        return int.from_bytes(debugger.memory("balance", 4)[0][1], "little")

    def _damage(self) -> tuple[str, int]:
        """Find the write that no deposit did."""
        position = self.recording.position
        debugger = Debugger(self.recording)
        debugger.goto(self.recording.length)
        while debugger.who_wrote("balance").reason != "nowhere":
            step = debugger.position
            debugger.back()
            routine = debugger.place().split("+")[0].split(".")[0]
            if routine != HONEST:
                debugger.goto(position)
                return routine, step
        raise AssertionError("someone has done the damage")

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a dict
        """Compare with the run."""
        if not isinstance(answer, dict) or set(answer) != set(PARTS):
            return Verdict(correct=False, message=f"Give a dict with the keys {', '.join(map(repr, PARTS))}.")
        routine, step = self._damage()
        if answer == {"routine": routine, "step": step}:
            return Verdict(
                correct=True,
                message="A write behind the end of a buffer is seen long after it was done: going backwards, it is one question.",
            )
        given = answer["step"]
        if type(given) is not int or not 0 <= given <= self.recording.length:
            return self.hint(f"The step is a number from 0 to {self.recording.length}.")
        if given == step:
            return self.hint("The step is right. Which routine is the instruction just before it in?")
        when = "there already" if given > step else "not there yet"
        return self.hint(
            f"At step {given} the damage is {when}. Go to the end of the recording and ask who wrote last: was that a deposit?",
            f"At step {given} the damage is {when}. Ask who wrote before, again and again: a deposit adds {self.sum}, and what "
            "is no deposit changes the balance by something else.",
        )
