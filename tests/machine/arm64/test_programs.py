"""Random programs in the machine, with translation on, and in Unicorn: registers, flags and memory after them.

`tests/isa/arm64` compares instructions one at a time; here the processor runs them: from its kept operations, through its
TLB, over pages, loops included.
"""

from __future__ import annotations

import random

import pytest
import unicorn
from unicorn import arm64_const as arm

from tests.isa.arm64.trials import ALL, ASKING, EDGES, X, overlaps
from tests.machine.arm64.physical import Physical
from tests.machine.nested import Frames
from vmlab.isa.arm64 import assemble, decode
from vmlab.isa.arm64.table import ROWS
from vmlab.machine.arm64.board import LOAD, RAM
from vmlab.machine.arm64.machine import Arm64Machine
from vmlab.machine.page_formats_arm import aarch64_stage1
from vmlab.machine.page_tables import PageTables

DATA, PAGES, TABLES = RAM + 0x1_0000, 16, RAM + 0x4_0000
BASES = range(20, 29)
"""Registers that point into the data; nothing else writes them."""
LENGTH = 60
BRANCHING = {"br", "blr", "ret", "bl", "b", "adr", "adrp", "tbz", "tbnz", "cbz", "cbnz"}


def plain_rows():
    """Rows without branches, literals, exclusives, and without an index or a base that is written back."""
    for row in ROWS:
        address = next((code for code in row.operands if code.startswith("[")), "")
        if row.mnemonic in ASKING | BRANCHING or row.mnemonic.startswith("b.") or "label19" in row.operands:
            continue
        if address and address not in ("[Xn,imm12]", "[Xn,imm9]", "[Xn,imm7]"):
            continue
        yield row


PLAIN = list(plain_rows())


def instruction(rng: random.Random) -> int:
    while True:
        row = rng.choice(PLAIN)
        word = rng.getrandbits(32) & ~row.mask | row.value
        memory = any(code.startswith("[") for code in row.operands)
        for name, shift, mask in row.fields:
            if name in ("rd", "rt", "rt2"):
                word = word & ~(mask << shift) | rng.randrange(20) << shift
            elif name == "rn" and memory:
                word = word & ~(mask << shift) | rng.choice(BASES) << shift
            elif name == "imm12" and memory:
                word = word & ~(mask << shift) | rng.randrange(0x200) << shift
        decoded = decode(word)
        if decoded and decoded.row is row and not overlaps(decoded):
            return word


def program(rng: random.Random) -> bytes:
    """A loop of random instructions, with branches forward in it, done five times."""
    words = [instruction(rng) for _ in range(LENGTH)]
    for place in range(0, LENGTH - 12, 7):
        if rng.random() < 0.6:
            condition, distance = rng.randrange(14), rng.randrange(2, 8)
            words[place] = 0x5400_0000 | distance << 5 | condition
    end = assemble(f"sub x29, x29, #1\n cbnz x29, . - {4 * (LENGTH + 1)}\n b .").code
    return b"".join(word.to_bytes(4, "little") for word in words) + end


def compare(seed: int) -> int:
    rng = random.Random(seed)
    code = program(rng)
    data = rng.randbytes(PAGES << 12)
    registers = [rng.choice(EDGES) if rng.random() < 0.4 else rng.getrandbits(64) for _ in range(31)]
    for number in BASES:
        registers[number] = DATA + 0x4000 + rng.randrange(0x4000)
    registers[29] = 5
    # ours
    machine = Arm64Machine(code, memory=1 << 20)
    machine.board.memory.write_bytes(DATA - RAM, data)
    tables = PageTables(aarch64_stage1(25), Physical(machine.board), Frames(TABLES))
    for page in range(DATA, DATA + len(data), 0x1000):
        tables.map(page, page)
    tables.map(LOAD, LOAD, writable=False)
    system, state = machine.state.system, machine.state
    system["ttbr0_el1"], system["tcr_el1"], system["mair_el1"] = tables.registers[0] & ~3, 25 | 25 << 16 | 5 << 32, 0xFF
    system["sctlr_el1"] |= 1
    state.x[:31], state.x[32] = registers, 0x1230
    end = LOAD + len(code) - 4
    while state.pc != end:
        machine.advance(50)
        assert not machine.cpu.exceptions, machine.describe()
    # theirs
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    uc.mem_map(RAM, 1 << 20)
    uc.mem_write(LOAD, code)
    uc.mem_write(DATA, data)
    uc.reg_write_batch([*zip(X, registers, strict=True), (ALL[31], 0x1230), (arm.UC_ARM64_REG_NZCV, 0)])
    uc.emu_start(LOAD, end)
    *x, sp, nzcv, pc = uc.reg_read_batch(ALL)
    assert (state.x[:31], state.x[32], state.nzcv, state.pc) == (x, sp, nzcv >> 28, pc), f"seed {seed}"
    assert machine.board.memory.read_bytes(DATA - RAM, len(data)) == bytes(uc.mem_read(DATA, len(data))), f"seed {seed}"
    return machine.instructions


def test_random_programs():
    assert sum(compare(seed) for seed in range(25)) > 3000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_many_random_programs(seed):
    for n in range(200):
        compare(1000 + 200 * seed + n)
