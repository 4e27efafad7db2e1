"""Random states for single instructions, the subject with a flat memory, and Unicorn to compare with.

Both have the same 256 KiB, where base registers point into the middle; what a trial writes is put back after it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import unicorn
from unicorn import arm64_const as arm

from vmlab.isa.arm64.decoder import decode
from vmlab.isa.arm64.instruction import SINK, STACK, ZERO, Instruction, Row
from vmlab.isa.arm64.semantics import operation
from vmlab.isa.arm64.table import ROWS

SIZE = 0x4_0000
BASE, CODE, CODE_END, CLREX = 0x1_0000, 0x3_0000, 0x3_8000, 0x3_FFF0
LONG = (1 << 64) - 1
SPIN = (0x1400_0000).to_bytes(4, "little")
"""`b .`: Unicorn now and then goes on after the one instruction that was asked for."""
DATA = 0x2_8000
MEMORY = random.Random(4).randbytes(DATA) + SPIN * ((SIZE - DATA) // 4)

# What asks the processor itself is compared in tests of its own.
ASKING = {"hint", "svc", "hvc", "smc", "brk", "eret", "sys", "msr", "mrs", "clrex"}
TRIED = [row for row in ROWS if row.mnemonic not in ASKING]
EDGES = (
    0,
    1,
    2,
    LONG,
    LONG - 1,
    1 << 63,
    (1 << 63) - 1,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    0x80,
    0xFF80,
    63,
    64,
)


@dataclass(slots=True)
class State:
    """Registers x0 to x30, SP, NZCV and PC."""

    x: list[int]
    sp: int
    nzcv: int
    pc: int


class Subject:
    """A processor with flat memory, as the semantics need it."""

    def __init__(self) -> None:
        self.memory = bytearray(MEMORY)
        self.x = [0] * 34
        self.nzcv = 0
        self.writes: list[tuple[int, int]] = []
        self.monitor: tuple[int, int] | None = None

    def read(self, address: int, size: int) -> int:
        assert address + size <= SIZE, hex(address)
        return int.from_bytes(self.memory[address : address + size], "little")

    def write(self, address: int, size: int, value: int) -> None:
        assert address + size <= SIZE, hex(address)
        self.memory[address : address + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.writes.append((address, size))

    read_as_user, write_as_user = read, write

    def load_exclusive(self, address: int, size: int) -> int:
        self.monitor = address, size
        return self.read(address, size)

    def store_exclusive(self, address: int, size: int, value: int) -> bool:
        held, self.monitor = self.monitor == (address, size), None
        if held:
            self.write(address, size, value)
        return held

    def check_aligned(self, address: int, size: int, *, is_write: bool) -> None:
        assert address % size == 0

    def check_stack(self) -> None:
        """Unicorn does not check it."""

    def run(self, instruction: Instruction, state: State) -> State:
        self.writes.clear()
        self.x[:31], self.x[ZERO], self.x[STACK], self.nzcv = state.x, 0, state.sp, state.nzcv
        after = operation(instruction)(self, state.pc)
        assert self.x[ZERO] == 0
        assert len(self.x) == SINK + 1
        return State(self.x[:31], self.x[STACK], self.nzcv, state.pc + 4 if after is None else after)

    def restore(self) -> None:
        for address, size in self.writes:
            self.memory[address : address + size] = MEMORY[address : address + size]


X = [arm.UC_ARM64_REG_X0 + n for n in range(29)] + [arm.UC_ARM64_REG_X29, arm.UC_ARM64_REG_X30]
ALL = [*X, arm.UC_ARM64_REG_SP, arm.UC_ARM64_REG_NZCV, arm.UC_ARM64_REG_PC]


class Oracle:
    """Unicorn with the same memory, at EL1 with the MMU off."""

    def __init__(self) -> None:
        self.uc: Any = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self.uc.mem_map(0, SIZE)
        self.uc.mem_write(0, MEMORY)
        self.uc.mem_write(CLREX, (0xD503_3F5F).to_bytes(4, "little") + SPIN)

    def run(self, word: int, state: State) -> State:
        uc = self.uc
        uc.mem_write(state.pc, word.to_bytes(4, "little"))
        uc.reg_write_batch([*zip(X, state.x, strict=True), (ALL[31], state.sp), (ALL[32], state.nzcv << 28)])
        uc.emu_start(state.pc, LONG, count=1)
        uc.mem_write(state.pc, SPIN)
        *x, sp, nzcv, pc = uc.reg_read_batch(ALL)
        return State(x, sp, nzcv >> 28, pc)

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.uc.mem_read(address, size))

    def restore(self, address: int, size: int) -> None:
        self.uc.mem_write(address, MEMORY[address : address + size])

    def clear_exclusive(self) -> None:
        self.uc.emu_start(CLREX, LONG, count=1)

    def forget_code(self) -> None:
        self.uc.ctl_flush_tb()


def overlaps(i: Instruction) -> bool:
    """Say whether the architecture leaves open what an encoding does (constrained unpredictable)."""
    fields, last = i.fields, i.row.operands[-1]
    base, rt = fields.get("rn"), fields.get("rt")
    writes_back = "[" in last and "]" in last and (last.endswith("!") or "]," in last)
    if writes_back and base != 31 and base in (rt, fields.get("rt2")):
        return True
    if "rt2" in fields and i.mnemonic.startswith("ld") and rt == fields["rt2"]:
        return True
    return "rs" in fields and (fields["rs"] == rt or (fields["rs"] == base and base != 31))


def draw(rng: random.Random, row: Row) -> Instruction:
    """Draw an instruction of a row."""
    while True:
        word = rng.getrandbits(32) & ~row.mask | row.value
        for name, shift, mask in row.fields:
            if name[0] == "r" and rng.random() < 0.1:
                word |= mask << shift
            if name in ("imm26", "imm19", "imm14"):  # what is far away is no memory
                words = (
                    range(-0x4000, -0x2000) if row.mnemonic.startswith(("ldr", "prfm")) else range(-0x1FFF, 0x2000, 2)
                )
                word = word & ~(mask << shift) | (rng.choice(words) & mask) << shift
        instruction = decode(word)
        if instruction and instruction.row is row and not overlaps(instruction):
            return instruction


def draw_state(rng: random.Random, i: Instruction, slot: int) -> State:
    """Draw registers; those of an address so that it lies in memory."""
    x = [rng.choice(EDGES) if rng.random() < 0.6 else rng.getrandbits(64) for _ in range(31)]
    state = State(x, rng.getrandbits(64) & ~15, rng.getrandbits(4), slot)
    if i.mnemonic in ("br", "blr", "ret"):
        x[i["rn"] % 31] = rng.randrange(DATA + 4, CLREX, 8)
    if any(code.startswith("[") for code in i.row.operands):
        # LDAR and exclusives want an aligned address
        step = i.row.access if i.row.operands[-1] == "[Xn]" else 1
        base = BASE + rng.randrange(0x800) // step * step
        if "rm" in i.fields and i["rm"] != 31:
            index = rng.randrange(-0x400, 0x400) if i["option"] != 2 else rng.randrange(0x400)
            high = rng.getrandbits(32) << 32 if not i["option"] & 1 else 0
            x[i["rm"]] = index & (LONG if i["option"] & 1 else 0xFFFF_FFFF) | high
        if i["rn"] == 31:
            state.sp = base
        elif i["rn"] != i.fields.get("rm"):
            x[i["rn"]] = base
        else:
            x[i["rn"]] = 0x1000
    return state


def trials(count: int, seed: int) -> None:
    """Compare so many states, the rows in turn."""
    rng, subject, oracle = random.Random(seed), Subject(), Oracle()
    slot = CODE
    for number in range(count):
        instruction = draw(rng, TRIED[number % len(TRIED)])
        state = draw_state(rng, instruction, slot)
        if "rs" in instruction.fields:  # a mark of another trial, of another size, leaves open what happens
            subject.monitor = None
            oracle.clear_exclusive()
        ours = subject.run(instruction, state)
        theirs = oracle.run(instruction.word, state)
        told = f"{instruction.word:#010x} {instruction.mnemonic} from {state}"
        assert ours == theirs, told
        for address, size in subject.writes:
            assert oracle.read(address, size) == subject.memory[address : address + size], told
            oracle.restore(address, size)
        subject.restore()
        slot += 8  # branches go to odd words, so that no slot has been translated before its turn
        if slot == CODE_END:
            slot = CODE
            oracle.forget_code()
