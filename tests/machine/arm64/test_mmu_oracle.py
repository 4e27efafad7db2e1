"""Stage 1 of EL1&0 against Unicorn: random page tables, random rights, at EL1 and EL0; loads, stores and fetches.

Each word of memory holds its own physical address, so that what is loaded says where it came from. Unicorn reports that an
access faults, and not which fault; the status codes are compared with the manual's tables in `test_page_formats_arm.py`.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import unicorn
from unicorn import arm64_const as arm

from tests.machine.arm64.physical import Physical
from tests.machine.nested import Frames
from vmlab.errors import OptionError
from vmlab.isa.arm64 import assemble
from vmlab.isa.arm64.system_names import REGISTERS
from vmlab.machine.arm64.board import RAM, Board
from vmlab.machine.arm64.mmu import FETCH, READ, WRITE, Abort, Mmu
from vmlab.machine.arm64.state import ArmState
from vmlab.machine.page_formats_arm import aarch64_stage1
from vmlab.machine.page_tables import PageTables

SIZE = 0x40_0000
CODE = RAM  # load, store, branch
PROGRAM = assemble("ldr x0, [x1]\n nop\n str x0, [x1]\n nop\n br x1\n nop\n eret\n nop\n").code
ERET = CODE + 24
PLACES = {READ: 0, WRITE: 8, FETCH: 16}
PREFETCH_ABORT, DATA_ABORT = 3, 4
RIGHTS = (1 << 6, 1 << 7, 1 << 10, 1 << 53, 1 << 54)
BELOW = (1 << 59, 1 << 60, 1 << 61, 1 << 62)
LONG = (1 << 64) - 1


class Oracle:
    """Unicorn with the same memory and the same registers of translation."""

    def __init__(self, board: Board, system: dict[str, int]) -> None:
        self.uc: Any = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self.uc.mem_map(RAM, SIZE)
        self.uc.mem_write(RAM, bytes(board.memory.data))
        # Without SCR_EL3.RW (and NS) and HCR_EL2.RW it walks as AArch32 would.
        self.uc.reg_write(arm.UC_ARM64_REG_CP_REG, (1, 1, 3, 6, 0, 0x401))
        self.uc.reg_write(arm.UC_ARM64_REG_CP_REG, (1, 1, 3, 4, 0, 1 << 31))
        for name in ("mair_el1", "tcr_el1", "ttbr0_el1", "ttbr1_el1", "sctlr_el1"):
            op0, op1, crn, crm, op2 = REGISTERS[name]
            self.uc.reg_write(arm.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2, system[name]))
        self.context = self.uc.context_save()
        self.numbers: list[int] = []
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)

    def _interrupt(self, uc: Any, number: int, _data: object) -> None:
        self.numbers.append(number)
        uc.emu_stop()

    def access(self, address: int, access: int, el: int) -> int | None:
        """Do an access; returns the physical address of a load, 1 for another one that succeeded, None for a fault."""
        uc = self.uc
        uc.context_restore(self.context)
        self.numbers.clear()
        uc.reg_write(arm.UC_ARM64_REG_X1, address)
        uc.reg_write(arm.UC_ARM64_REG_X0, 0)
        start, count = CODE + PLACES[access], 2 if access == FETCH else 1
        if el == 0:
            for name, value in (("elr_el1", start), ("spsr_el1", 0x3C0)):
                op0, op1, crn, crm, op2 = REGISTERS[name]
                uc.reg_write(arm.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2, value))
            start, count = ERET, count + 1
        outside = False
        try:
            uc.emu_start(start, LONG, count=count)
        except unicorn.UcError as error:
            outside = error.errno in (
                unicorn.UC_ERR_READ_UNMAPPED, unicorn.UC_ERR_WRITE_UNMAPPED, unicorn.UC_ERR_FETCH_UNMAPPED,
            )  # fmt: skip
            if not outside and error.errno not in (unicorn.UC_ERR_EXCEPTION, unicorn.UC_ERR_INSN_INVALID):
                raise
        if (PREFETCH_ABORT if access == FETCH else DATA_ABORT) in self.numbers:
            return None
        return uc.reg_read(arm.UC_ARM64_REG_X0) if access == READ and not outside else 1


def build(rng: random.Random) -> tuple[ArmState, Board, list[tuple[int, int]]]:
    """Return registers, memory with random tables, and what they map: address and size."""
    state = ArmState()
    board = Board(SIZE, state, None)
    board.memory.view64[:] = memoryview(b"".join((RAM + n).to_bytes(8, "little") for n in range(0, SIZE, 8))).cast("Q")
    board.memory.write_bytes(0, PROGRAM)
    t0sz = rng.choice((16, 25, 33))
    tables = PageTables(aarch64_stage1(t0sz), Physical(board), Frames(RAM + 0x20_0000))
    tables.map(CODE, CODE, writable=False)
    mapped = []
    for _ in range(12):
        size = rng.choice((0x1000, 0x1000, 0x1000, 0x20_0000, 0x4000_0000))
        top = rng.choice((0, LONG ^ ((1 << 64 - t0sz) - 1)))
        address = top | rng.getrandbits(64 - t0sz) & -size
        if address & -0x4000_0000 == CODE:
            continue  # the code stays where it is
        physical = RAM | (rng.randrange(0x20_0000) & -0x1000 if size == 0x1000 else 0)
        try:
            tables.map(address, physical, size)
        except OptionError:
            continue
        mapped.append((address, size))
    code = {entry.place for entry in tables.entries() if entry.address <= CODE < entry.address + entry.span}
    for entry in list(tables.entries()):
        if entry.place in code or entry.place < 0:
            continue
        value = entry.entry
        if entry.is_leaf:
            for bit in RIGHTS:
                value ^= bit if rng.random() < 0.25 else 0
        else:
            for bit in BELOW:
                value |= bit if rng.random() < 0.15 else 0
        if rng.random() < 0.06:
            value ^= rng.choice((1, 2))
        Physical(board).write(entry.place, 8, value)
    system = state.system
    system["mair_el1"] = 0xFF
    system["tcr_el1"] = t0sz | t0sz << 16 | 2 << 30 | 5 << 32 | rng.choice((0, 0, 0, 1 << 7, 1 << 23, 1 << 37, 1 << 38))
    if system["tcr_el1"] >> 7 & 1:
        system["tcr_el1"] ^= 1 << 7  # the code is there
    system["ttbr0_el1"], system["ttbr1_el1"] = (register & ~3 for register in tables.registers)
    system["sctlr_el1"] |= 1
    return state, board, mapped


def compare(seed: int, count: int) -> tuple[int, int]:
    """Compare random accesses in random tables; returns how many succeeded and faulted."""
    rng = random.Random(seed)
    state, board, mapped = build(rng)
    oracle, mmu = Oracle(board, state.system), Mmu(state, board)
    succeeded = faulted = 0
    for _ in range(count):
        base, size = rng.choice(mapped)
        address = base + (rng.randrange(min(size, SIZE)) & -8)
        if rng.random() < 0.1:
            address ^= 1 << rng.randrange(12, 64)
        if address & -0x4000_0000 == CODE & -0x4000_0000:
            continue
        el, access = rng.randrange(2), rng.randrange(3)
        theirs = oracle.access(address, access, el)
        try:
            found = mmu.translate(address, access, el)
            physical = found.frame | address & 0xFFF
            ours = physical if access == READ and RAM <= physical < RAM + SIZE else 1
            if ours > 1 and physical < CODE + len(PROGRAM):
                continue  # the program is not its own address
            if access == WRITE and theirs and RAM <= physical < RAM + SIZE:
                oracle.uc.mem_write(physical, board.memory.read_bytes(physical - RAM, 8))
            succeeded += 1
        except Abort:
            ours = None
            faulted += 1
        if ours and access == READ and RAM <= ours < RAM + SIZE:
            ours = board.memory.read(ours - RAM, 8)  # its own address, or an entry of a table
        assert ours == theirs, f"seed {seed}: {address:#x} access {access} at EL{el}, TCR {state.system['tcr_el1']:#x}"
    return succeeded, faulted


def test_random_tables():
    results = [compare(seed, 60) for seed in range(12)]
    assert sum(succeeded for succeeded, _ in results) > 120
    assert sum(faulted for _, faulted in results) > 120


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_many_random_tables(seed):
    for n in range(100):
        compare(1000 * seed + n, 200)
