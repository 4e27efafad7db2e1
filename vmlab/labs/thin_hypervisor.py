"""Exercise: write a thin hypervisor, the loop that runs a guest and answers its VM exits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vmlab.errors import VmlabError
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.labs.student_code import Endless, call, shown
from vmlab.machine.program import assemble
from vmlab.vmm.thin_vm import ThinExit, ThinVm

if TYPE_CHECKING:
    import random

__all__ = ["ThinHypervisor"]

ENTRY, CONSOLE, KEYS, PAGE = 0x1000, 0xE9, 0x60, 0x1000
LINES = 2_000_000
NAMES = ("SeaCucumber1", "RedPandaCPU1", "OwlProcessor", "TinyHexagon7", "QuietMachine")
WORDS = ("hello", "exit", "guest", "ring", "page", "trap", "world", "root")

QUESTION = """\
Write a hypervisor. hypervise(vm, keys) gets a virtual machine whose memory holds one page of 16-bit code at {entry:#x};
EIP is there. Run it to its end and return, as a str, what it has written to its console.

    why = vm.run()          enters the guest, and returns why it was left: why.reason is one of
        'I/O instruction'   why.port, why.size, why.is_in. OUT to port {console:#x} writes the character in AL to the
                            console; IN from port {keys_port:#x} puts the next of keys (a list of int) into AL, 0 when
                            there is none left, and leaves the rest of EAX alone. There is nothing else.
        'CPUID'             for EAX = 0 the processor's name is {name!r}: four characters each in EBX, EDX, ECX
                            (the first in the lowest byte), and EAX = 0; for any other EAX all four are 0
        'EPT violation'     the guest touches why.gpa for the first time: give it memory there, vm.map(why.gpa)
        'HLT'               the guest has come to its end
    vm.registers['eax']     and the others can be read and written
    vm.skip()               goes on behind the instruction that has exited

Your keys are {keys}. Two things are judged: the text, and the trace of exits.
print(exercise.skeleton) is a beginning; try it with exercise.machine() and exercise.keys; vm.describe() lists
the exits so far. exercise.check(hypervise) judges.
"""

SKELETON = """\
def hypervise(vm, keys):
    console = ""
    keys = list(keys)
    while True:
        why = vm.run()
        if why.reason == "HLT":
            return console
        # I/O instruction, CPUID, EPT violation: which of them need vm.skip()?
        print(why.describe())
        return console
"""


class WatchedVm(ThinVm):
    """A virtual machine whose exits come to an end."""

    most = 400

    def run(self) -> ThinExit:
        """Run, without counting the simulator's own lines as the student's."""
        if len(self.exits) >= self.most:
            raise Endless
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return super().run()
        finally:
            sys.settrace(tracer)


class ThinHypervisor(Exercise):
    """A seeded guest to be run."""

    name = "thin-hypervisor"

    def draw(self, chance: random.Random) -> None:
        """Draw the guest, its keys, the processor's name."""
        self.processor = chance.choice(NAMES)
        self.keys = [chance.randrange(33, 127) for _ in range(chance.randrange(2, 5))]
        self.source = _guest(chance, len(self.keys))
        self._code = assemble(self.source, "guest").segments[0].data
        self.question = QUESTION.format(
            entry=ENTRY, console=CONSOLE, keys_port=KEYS, name=self.processor, keys=self.keys
        )
        self.skeleton = SKELETON

    def machine(self) -> ThinVm:
        """Return a virtual machine with the guest in it, which has not run yet."""
        return self._load(ThinVm())

    def _load(self, vm: ThinVm) -> ThinVm:
        vm.map(ENTRY)
        vm.write(ENTRY, self._code)
        vm.registers["eip"] = ENTRY
        return vm

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a function
        """Let the student's loop and ours run the guest, and compare what came out."""
        if not callable(answer):
            return Verdict(correct=False, message=f"Give the function itself, not {shown(answer)}.")
        vm, right = self._load(WatchedVm()), self._load(ThinVm())
        expected = hypervise(right, self.keys, self.processor)
        returned, complaint = call(answer, vm, list(self.keys), lines=LINES)
        wrong = next((n for n, pair in enumerate(zip(vm.exits, right.exits, strict=False)) if pair[0] != pair[1]), None)
        if wrong is not None:
            return self._after(right.exits[wrong - 1], right.exits[wrong], vm.exits[wrong], wrong)
        if complaint:
            return Verdict(correct=False, message=f"After {len(vm.exits)} exits: {complaint}")
        if len(vm.exits) < len(right.exits):
            last = vm.exits[-1].describe() if vm.exits else "none"
            return Verdict(
                correct=False,
                message=f"You stop after exit {len(vm.exits)} ({last}); the guest has not come to its HLT yet.",
            )
        if returned != expected:
            return self.hint(
                f"The trace of exits is right, but the console is not {shown(returned)}.",
                f"The trace of exits is right, but the console is not {shown(returned)}: it has {len(expected)} characters, of "
                "AL at each OUT to the console's port alone.",
            )
        return Verdict(
            correct=True,
            message=f"{len(right.exits)} VM exits, each answered as a processor and its devices would have: that is a hypervisor.",
        )

    def _after(self, cause: ThinExit, expected: ThinExit, found: ThinExit, number: int) -> Verdict:
        """Return a hint for what was done wrong after an exit."""
        what = f"Exit {number} was {cause.what}. After what you did, the next is {found.describe()}"
        if found == cause:
            return self.hint(
                f"{what}: the same once more. Is it done?",
                f"{what}: the same once more. An instruction that you have done must be skipped; an access to a page must be "
                "made possible, and not skipped.",
            )
        return self.hint(
            f"{what}; it should be another.",
            f"{what}; with the right answer it is {expected.describe()}. Is what the guest got the right value, in the right "
            "register, and all others left alone?",
        )


def hypervise(vm: ThinVm, keys: list[int], name: str) -> str:
    """Run a guest as the question says."""
    console, left, registers = "", list(keys), vm.registers
    while True:
        found = vm.run()
        if found.reason == "HLT":
            return console
        if found.reason == "EPT violation":
            assert found.gpa is not None
            vm.map(found.gpa)
            continue
        if found.reason == "CPUID":
            parts = [name[n : n + 4] if registers["eax"] == 0 else "\0" * 4 for n in (0, 4, 8)]
            registers["eax"] = 0
            for register, part in zip(("ebx", "edx", "ecx"), parts, strict=True):
                registers[register] = int.from_bytes(part.encode(), "little")
        elif found.is_in:
            registers["eax"] = registers["eax"] & 0xFFFFFF00 | (left.pop(0) if left else 0)
        elif found.port == CONSOLE:
            console += chr(registers["eax"] & 0xFF)
        else:
            raise VmlabError(f"the exercise's guest must not do this: {found.describe()}")
        vm.skip()


def _guest(chance: random.Random, keys: int) -> str:
    """Return the source of a guest: what it does goes by what its hypervisor has answered."""
    name, typed, rest, edge = (number * PAGE for number in chance.sample(range(2, 9), 4))
    says = [f"mov al, {ord(letter)}\nout {CONSOLE:#x}, al" for letter in chance.choice(WORDS)]
    parts = [
        PROCESSOR.format(leaf=chance.choice((2, 0x80000000)), page=name, console=CONSOLE),
        TYPED.format(eax=chance.getrandbits(32), keys=KEYS, page=typed, rest=rest, count=keys, console=CONSOLE),
        EDGE.format(
            eax=int.from_bytes(chance.choice((b"abcd", b"pq79", b"wxyz")), "little"), page=edge, console=CONSOLE
        ),
    ]
    chance.shuffle(parts)
    return "\n".join(("bits 16", f"org {ENTRY:#x}", *says, *parts, "hlt\n"))


# The processor's name, through memory that is not there yet.
PROCESSOR = """\
mov eax, {leaf:#x}
cpuid
xor eax, eax
cpuid
mov [{page:#x}], ebx
mov [{page:#x} + 4], edx
mov [{page:#x} + 8], ecx
mov si, {page:#x}
mov cx, 12
name: lodsb
out {console:#x}, al
loop name"""
# The keys, and one more than there are; EAX must have kept its upper bytes.
TYPED = """\
mov di, {page:#x}
mov eax, {eax:#x}
key: in al, {keys:#x}
test al, al
jz typed
stosb
jmp key
typed: mov [{rest:#x}], eax
mov cx, {count}
mov si, {page:#x}
echo: lodsb
out {console:#x}, al
loop echo
mov al, [{rest:#x} + 1]
and al, 0x3F
add al, 0x30
out {console:#x}, al"""
# A word that lies in two pages, the second of which is not there either.
EDGE = """\
mov eax, {eax:#x}
mov [{page:#x} + 0xFFE], eax
mov al, [{page:#x} + 0x1001]
out {console:#x}, al"""
