"""Wild code at each exception level: whatever a guest does, it is no exception of Python's, and the same each time."""

from __future__ import annotations

import random

import pytest

from tests.machine.arm64.physical import Physical
from tests.machine.nested import Frames
from vmlab.isa.arm64 import assemble
from vmlab.isa.arm64.system_names import REGISTERS
from vmlab.isa.arm64.table import ROWS
from vmlab.machine.arm64.board import LOAD, RAM
from vmlab.machine.arm64.machine import Arm64Machine
from vmlab.machine.page_formats_arm import aarch64_stage1, aarch64_stage1_el2, aarch64_stage2
from vmlab.machine.page_tables import PageTables

PLACES = (
    RAM,
    LOAD,
    RAM + (1 << 20) - 8,
    0x0800_0000,
    0x0801_0000,
    0x0900_0000,
    0x0A00_0000,
    0,
    0x1234,
    1 << 55,
    (1 << 64) - 8,
)
VALUES = (
    *PLACES,
    1,
    3,
    0x401,
    0x403,
    0x4C3,
    0x3C5,
    0x3C9,
    0x3C0,
    0x80000000,
    25 | 25 << 16 | 5 << 32,
    0x1040,
    (1 << 64) - 1,
)


DEADLY = (
    "vbar_el1",
    "vbar_el2",
    "ttbr0_el1",
    "tcr_el1",
    "ttbr0_el2",
    "tcr_el2",
    "vttbr_el2",
    "vtcr_el2",
    "hcr_el2",
    "sctlr_el1",
    "sctlr_el2",
)
"""After a wild value in one of these, hardly anything runs any more: seldom, then."""
HANDLERS = RAM + 0xF_0000
# Whatever happens goes on behind the instruction; after an interrupt they are masked. At EL1, then at EL2.
HANDLER = """
    .balign 128
    mrs x0, elr_el{0}
    add x0, x0, #4
    msr elr_el{0}, x0
    eret
    .balign 128
    mrs x0, spsr_el{0}
    orr x0, x0, #0x80
    msr spsr_el{0}, x0
    eret
    .space 368
"""
VECTORS = assemble("".join(HANDLER.format(el) * 4 for el in (1, 2)), HANDLERS).code


def wild_word(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.03:
        return rng.getrandbits(32)
    if kind < 0.2:  # a system register, to write or to read
        name = rng.choice(list(REGISTERS))
        read = rng.random() < 0.3 or (name in DEADLY and rng.random() < 0.97)
        op0, op1, crn, crm, op2 = REGISTERS[name]
        fields = (op0 - 2) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
        return 0xD510_0000 | read << 21 | fields | rng.randrange(31)
    row = rng.choice(ROWS)
    word = rng.getrandbits(32) & ~row.mask | row.value
    for name, shift, mask in row.fields:
        if name.startswith("imm") and mask >= 0x3FFF:  # branches stay near
            word = word & ~(mask << shift) | (rng.randrange(-8, 60) & mask) << shift
        if name == "rn" and rng.random() < 0.7:
            word = word & ~(mask << shift) | rng.randrange(20, 31) << shift
        if name in ("rd", "rt", "rt2"):
            word = word & ~(mask << shift) | rng.randrange(24) << shift
    return word


def add_tables(machine: Arm64Machine, rng: random.Random) -> None:
    """Map everything to where it is: stage 1 of EL1&0 and of EL2, and stage 2; switch some of them on."""
    system, frames = machine.state.system, Frames(RAM + 0x2_0000)
    roots = []
    for format_ in (aarch64_stage1(25), aarch64_stage1_el2(25), aarch64_stage2(25, 1)):
        tables = PageTables(format_, Physical(machine.board), frames)
        code = {LOAD, LOAD + 0x1000, HANDLERS}
        for page in (*range(RAM, RAM + (1 << 20), 0x1000), 0x0800_0000, 0x0801_0000, 0x0900_0000, 0x0A00_0000):
            if rng.random() < 0.97 or page in code:
                tables.map(page, page, writable=page not in code, executable=page in code)
        roots.append(tables.registers[0] if tables.registers else tables.root)
    system["ttbr0_el1"], system["ttbr0_el2"], system["vttbr_el2"] = (root & ~3 for root in roots)
    system["tcr_el1"] = 25 | 25 << 16 | 1 << 23 | 5 << 32
    system["tcr_el2"], system["vtcr_el2"] = 25 | 5 << 16, 25 | 1 << 6 | 5 << 16
    system["mair_el1"] = system["mair_el2"] = rng.choice((0xFF, 0))
    system["sctlr_el1"] |= rng.choice((0, 1, 1, 0x1F))
    system["sctlr_el2"] |= rng.choice((0, 1))
    system["hcr_el2"] |= rng.choice((0, 1, 1 << 4, 1 | 1 << 26 | 1 << 13))


def wild_machine(seed: int, el: int) -> Arm64Machine:
    rng = random.Random(seed)
    code = b"".join(wild_word(rng).to_bytes(4, "little") for _ in range(2047)) + assemble("b . - 0x1ffc").code
    top = 2 if el == 2 or seed % 2 else 1
    machine = Arm64Machine(code, memory=1 << 20, disk=bytes(4096), el=top, max_instructions=2000)
    machine.board.memory.write_bytes(HANDLERS - RAM, VECTORS)
    state = machine.state
    add_tables(machine, rng)
    if top == 1:
        state.system["hcr_el2"] &= 1 << 31
    state.system["vbar_el1"], state.system["vbar_el2"] = HANDLERS, HANDLERS + 0x800
    state.x[:31] = [rng.choice(VALUES) for _ in range(31)]
    state.x[20:31] = [rng.choice((*PLACES, RAM + rng.randrange(1 << 19))) & -16 for _ in range(11)]
    state.sp[:] = [rng.choice(PLACES) for _ in range(3)]
    state.daif = rng.choice((0, 15))
    state.pstate = state.pstate & ~0xF | (el << 2 | (el > 0))
    return machine


def run(seed: int, el: int, pieces: int = 1, *, moving: bool = False) -> dict:
    """Run, in so many pieces; `moving`: after each of them the state moves to another machine. Return the last state."""
    machine = wild_machine(seed, el)
    for _ in range(pieces):
        machine.advance(-(-machine.limit // pieces))
        if moving:
            other = Arm64Machine(
                bytes(4), memory=1 << 20, disk=bytes(4096), el=machine.el, max_instructions=machine.limit
            )
            other.load(machine.save())
            machine = other
    assert machine.outcome
    return machine.save()


@pytest.mark.parametrize("el", range(3))
@pytest.mark.parametrize("seed", range(8))
def test_wild_code(el, seed):
    """In one piece, and in many, from machine to machine: devices, timers and translations notice no difference."""
    whole = run(seed, el)
    assert whole == run(seed, el, pieces=29)
    assert whole == run(seed, el, pieces=7, moving=True)


@pytest.mark.long
@pytest.mark.parametrize("el", range(3))
@pytest.mark.parametrize("seed", range(50))
def test_much_wild_code(el, seed):
    for n in range(20):
        assert run(1000 + 20 * seed + n, el) == run(1000 + 20 * seed + n, el, pieces=13)


def test_wild_code_reaches_what_it_should():
    """The seeds above do more than fault at once: exceptions of many kinds, translation, devices."""
    kinds, executed, walks, accesses = set(), 0, 0, 0
    for seed in range(5):
        for el in range(3):
            machine = wild_machine(seed, el).run()
            kinds |= {kind for kind, _, _ in machine.cpu.exceptions}
            executed += machine.instructions
            walks += machine.cpu.mmu.walks
            accesses += machine.board.accesses
    assert kinds >= {
        "undefined instruction", "SVC", "data abort", "instruction abort", "system register",
    }  # fmt: skip
    assert executed > 15_000
    assert walks > 100
    assert accesses > 20


def test_a_store_over_the_next_instruction():
    """Code that changes itself is seen to be changed, even while its page is being executed."""
    code = assemble(
        "adr x1, 1f\n ldr w0, [x1, #8]\n mov x2, #0\n 2: str w0, [x1]\n1: mov x5, #1\n b 3f\n mov x5, #2\n"
        "3: add x2, x2, #1\n cmp x2, #2\n b.lo 2b\n ldr x0, =0x84000008\n hvc #0",
        LOAD,
    ).code
    machine = Arm64Machine(code).run()
    assert machine.outcome == "exit"
    assert machine.state.x[5] == 2
