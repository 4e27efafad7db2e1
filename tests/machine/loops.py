"""Random programs that loop and never fault: nested flags, memory, calls, and a timer that interrupts them anywhere."""

from __future__ import annotations

import random

from tests.machine.computer import Computer
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate

DATA, TICKS = 0x2_0000, 0x3_0000
WIDTHS = {8: "byte", 16: "word", 32: "dword"}
REGISTERS = {
    8: ("al", "bl", "dl", "ah", "bh", "dh"),
    16: ("ax", "bx", "dx", "si", "di", "bp"),
    32: ("eax", "ebx", "edx", "esi", "edi", "ebp"),
}
CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
PLAIN = (
    "cdq", "cwde", "cbw", "cwd", "clc", "stc", "cmc", "lahf", "sahf", "cld", "nop", "bswap eax", "bswap edx",
    "pushfd\n pop eax\n and eax, 0xcd5", "mov edi, 0x20000\n stosd",
)  # fmt: skip
TIMER = """
        mov al, 0x11
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, 0xFE
        out 0x21, al
        mov al, 0x34
        out 0x43, al
        mov al, {count}
        out 0x40, al
        mov al, 0
        out 0x40, al
        sti
again:
"""
TICK = f"""
tick:   inc dword [{TICKS}]
        push eax
        mov al, 0x20
        out 0x20, al
        pop eax
        iret
"""


class Writer:
    """Writes a program."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.labels = 0

    def label(self) -> str:
        self.labels += 1
        return f"L{self.labels}"

    def register(self, size: int) -> str:
        return self.rng.choice(REGISTERS[size])

    def memory(self, size: int) -> str:
        """Return an operand in the data, or below the stack; ECX counts the loops and is small."""
        rng = self.rng
        address = DATA + rng.randrange(0x1800)
        where = rng.choice((f"{address}", f"{address}+ecx*{rng.choice((1, 2, 4))}", f"esp-{rng.randrange(8, 64)}"))
        return f"{WIDTHS[size]} [{where}]"

    def either(self, size: int) -> str:
        return self.rng.choice((self.register(size), self.memory(size)))

    def number(self, size: int) -> int:
        return self.rng.choice((0, 1, 2, 5, 0x7F, 0x80, 0xFF, self.rng.getrandbits(size))) & (1 << size) - 1

    def amount(self) -> str:
        return self.rng.choice(("1", "cl", str(self.rng.randrange(34))))

    def arithmetic(self, size: int) -> str:
        mnemonic = self.rng.choice(("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test", "mov"))
        left, right = self.rng.choice(
            (
                (self.memory(size), self.register(size)),
                (self.register(size), self.either(size)),
                (self.either(size), self.number(size)),
            )
        )
        if mnemonic == "test" and "[" in str(right):
            left, right = right, left
        return f"{mnemonic} {left}, {right}"

    def instruction(self) -> str:
        """Return one instruction, or a few that belong together."""
        rng = self.rng
        size = rng.choice((8, 16, 32, 32, 32))
        condition = rng.choice(CONDITIONS)
        forms = (
            (35, lambda: self.arithmetic(size)),
            (10, lambda: f"{rng.choice(('inc', 'dec', 'neg', 'not'))} {self.either(size)}"),
            (12, lambda: f"{rng.choice(('shl', 'shr', 'sar', 'rol', 'ror', 'rcl', 'rcr'))} {self.either(size)}, {self.amount()}"),
            (5, lambda: f"{rng.choice(('shld', 'shrd'))} {self.either(32)}, {self.register(32)}, {self.amount()}"),
            (5, lambda: f"set{condition} {self.either(8)}"),
            (5, lambda: f"cmov{condition} {self.register(32)}, {self.either(32)}"),
            (4, lambda: f"{rng.choice(('movzx', 'movsx'))} {self.register(32)}, {self.either(rng.choice((8, 16)))}"),
            (3, lambda: f"lea {self.register(32)}, [{self.register(32)}+{self.register(32)}*{rng.choice((1, 2, 4, 8))}+{rng.randrange(300)}]"),
            (4, lambda: f"imul {self.register(32)}, {self.either(32)}"),
            (2, lambda: f"imul {self.register(32)}, {self.either(32)}, {rng.randrange(-200, 200)}"),
            (3, lambda: f"push {self.either(32)}\n pop {self.either(32)}"),
            (2, lambda: f"{rng.choice(('bt', 'bts', 'btr', 'btc'))} {self.register(32)}, {self.register(32)}"),
            (3, lambda: rng.choice(PLAIN)),
            (2, lambda: f"{rng.choice(('mul', 'imul'))} {self.either(size)}"),
            (1, lambda: f"{rng.choice(('xchg', 'xadd', 'cmpxchg'))} {self.memory(32)}, {self.register(32)}"),
            (3, lambda: self.skip(condition)),
        )  # fmt: skip
        return rng.choices([form for _, form in forms], [weight for weight, _ in forms])[0]()

    def skip(self, condition: str) -> str:
        label = self.label()
        return f"j{condition} {label}\n {self.instruction()}\n {label}:"

    def block(self, most: int) -> str:
        return "\n ".join(self.instruction() for _ in range(self.rng.randrange(1, most)))

    def loop(self) -> str:
        label = self.label()
        call = "call sub\n" if self.rng.random() < 0.3 else "out 0x80, al\n" if self.rng.random() < 0.1 else ""
        end = self.rng.choice(("dec ecx\n jnz near", "sub ecx, 1\n ja near"))
        return f" mov ecx, {self.rng.randrange(3, 40)}\n{label}: {self.block(14)}\n {call} {end} {label}\n"

    def program(self) -> str:
        loops = "".join(self.loop() for _ in range(self.rng.randrange(1, 5)))
        return f"{loops} jmp again\nsub: {self.block(5)}\n ret\n"


def looping(seed: int) -> Computer:
    """Return a computer before a random program."""
    rng = random.Random(seed)
    computer = Computer()
    computer.load(TIMER.format(count=rng.randrange(3, 60)) + Writer(rng).program() + TICK)
    computer.gate(0x20, encode_gate(0x08, computer.symbols["tick"], INTERRUPT_GATE32))
    computer.memory.write_bytes(DATA, rng.randbytes(0x2000))
    computer.cpu.registers[:8] = (
        [rng.getrandbits(32) for _ in range(4)] + [0x8000] + [rng.getrandbits(32) for _ in range(3)]
    )
    return computer
