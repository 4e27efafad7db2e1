"""Walks in two dimensions against Unicorn, which runs a guest of AMD's SVM on random guest's and nested tables.

Whose fault it is and at which address, the byte read or written, and the guest's accessed and dirty bits must be the same.
What Unicorn does not tell (error codes, marks in nested tables), `test_nested_walk.py` compares with the manual.
"""

from __future__ import annotations

import random

import pytest

from tests.machine.svm_oracle import EXIT_NPF, EXIT_PF, EXIT_VMMCALL, LEAVE, GuestState, SvmOracle
from vmlab.isa.x86.faults import PF, Fault
from vmlab.isa.x86.registers import CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PSE, EFER_LMA, EFER_LME, EFER_NXE
from vmlab.machine.memory import MemoryWindow, PhysicalMemory
from vmlab.machine.nested_walk import AddressSpace, walk_nested
from vmlab.machine.page_formats import IA32, four_level, ia32_pse, pae
from vmlab.machine.page_formats_host import npt
from vmlab.machine.page_tables import PageTables
from vmlab.machine.paging import NO_EXECUTE
from vmlab.machine.walk_faults import NestedPageFault

MIB_2 = 0x20_0000
MEMORY = 0x80_0000
HOST_TABLES = 0x10_0000
"""The host's tables lie below, all of the guest's memory above."""
GUEST_PAGES = 64
TABLES = range(0x10, 0x30)
"""Guest-physical pages of the guest's tables. Unicorn does not survive that one of them is not executable in the nested table."""
CODE, DATA = 0x1000, 0x2000  # guest-physical
P, RW, US, A, D = 1, 2, 4, 0x20, 0x40
AX = 0x8765_4321
WIDTH = 40  # bits of a physical address, Unicorn's

GUESTS = {  # format, CR4, EFER
    "ia32": (IA32, 0, 0),
    "ia32-pse": (ia32_pse(WIDTH), CR4_PSE, 0),
    "pae": (pae(WIDTH, no_execute=True), CR4_PAE, EFER_NXE),
    "4-level": (four_level(WIDTH, no_execute=True, gigabyte_pages=True), CR4_PAE, EFER_LME | EFER_LMA | EFER_NXE),
}
ACCESSES = {  # code, write, fetch
    "mov al, [ebx]": (b"\x8a\x03", False, False),
    "mov [ebx], al": (b"\x88\x03", True, False),
    "jmp ebx": (b"\xff\xe3", False, True),
}


class Trial:
    """Random tables of both dimensions, and one access."""

    def __init__(self, name: str, seed: int) -> None:
        self.rng = rng = random.Random(f"{name} {seed}")
        self.format, self.cr4, self.efer = GUESTS[name]
        self.memory = memory = PhysicalMemory(MEMORY)
        self.large_host = rng.random() < 0.3
        frames = list(range(0x400, 0x400 + GUEST_PAGES))
        if not self.large_host:
            rng.shuffle(frames)
        self.window = MemoryWindow(memory, frames)
        places = iter(range(0x1000, HOST_TABLES, 0x1000))
        self.host = PageTables(npt(4, physical_bits=WIDTH), memory, lambda size: next(places))
        if self.large_host:
            self.host.map(0, MIB_2 * 2, MIB_2)
        else:
            for number, frame in enumerate(frames):
                self.host.map(number << 12, frame << 12)
        inside = iter(range(0x10_000, GUEST_PAGES << 12, 0x1000))
        self.guest = PageTables(self.format, self.window, lambda size: next(inside))
        self.ring = rng.choice((0, 3))
        self.write_protect = rng.random() < 0.6
        self.code, self.is_write, self.is_fetch = ACCESSES[rng.choice(list(ACCESSES))]
        self.guest.map(CODE, CODE, user=self.ring == 3)
        size = rng.choice([size for size in self.guest.sizes if size <= MIB_2 * 2]) if rng.random() < 0.3 else 0x1000
        long = 47 if self.efer & EFER_LMA else 32
        self.address = rng.randrange(1 << long - 12) << 12 | DATA | len(LEAVE) * rng.randrange(0x330)
        if size == 0x1000:
            self.guest.map(self.address & -size, DATA)
        else:
            self.address = max(self.address & -size, size) | DATA | self.address & 0xFFF  # page 0 is in small ones
            self.guest.map(self.address & -size, 0, size)
        for page in range(GUEST_PAGES - 16):
            if page not in TABLES:
                self.window.write_bytes(page << 12, LEAVE * (0x1000 // len(LEAVE)))
        self.window.write_bytes(CODE, self.code + LEAVE)
        self.ran = True
        self.disturb(self.guest, self.window)
        self.disturb(self.host, memory)
        if name == "pae":
            self.guest.registers[:] = [self.window.read(self.guest.root + 8 * n, 8) for n in range(4)]

    def disturb(self, tables: PageTables, memory: MemoryWindow | PhysicalMemory) -> None:
        """Change rights, presence, marks and reserved bits of entries on the way, seldom enough that most accesses work."""
        rng, size = self.rng, tables.format.entry_bytes
        for entry in list(tables.entries()):
            value = entry.entry
            if tables.format.levels[entry.level].in_registers:
                continue
            pdptes = (
                tables is self.host and self.guest.registers and entry.address == self.guest.root
            )  # Unicorn reads them
            if rng.random() < 0.04 and not pdptes:
                value ^= rng.choice((P, RW, RW, US, US))
            tables_page = (
                tables is self.host and entry.is_leaf and entry.span == 0x1000 and entry.address >> 12 in TABLES
            )
            if size == 8 and rng.random() < 0.03 and not tables_page:
                value ^= NO_EXECUTE
            if size == 8 and rng.random() < 0.01 and not pdptes:
                value ^= 1 << rng.randrange(WIDTH, 52)
            for bit in (A, D):
                if rng.random() < 0.3 and (bit == A or entry.is_leaf):
                    value |= bit
            memory.write(entry.place, size, value)

    def state(self) -> GuestState:
        cr0 = CR0_PE | CR0_ET | CR0_PG | (CR0_WP if self.write_protect else 0)
        return GuestState(
            CODE, self.address, AX, 0, self.ring, cr0, self.guest.root, self.cr4, self.efer, self.host.root
        )  # fmt: skip

    def expected(self) -> tuple[int, int, int]:
        """Do by the walker what the processor does: fetch the instruction, then the access, then the next instruction."""
        accesses = [(CODE, False, True), (self.address, self.is_write, self.is_fetch)]
        ax = AX
        for address, is_write, is_fetch in accesses:
            try:
                found = walk_nested(
                    self.guest.space,
                    AddressSpace(self.host.format, self.host.root),
                    address,
                    self.memory.read,
                    self.memory.write,
                    is_write=is_write,
                    is_fetch=is_fetch,
                    is_user=self.ring == 3,
                    write_protect=self.write_protect,
                    reports_fetch=bool(self.efer & EFER_NXE),
                )
            except NestedPageFault as fault:
                self.ran = address != CODE
                return EXIT_NPF, fault.guest_physical, ax
            except Fault as fault:
                self.ran = address != CODE
                return EXIT_PF if fault.vector == PF else fault.vector, address, ax
            place = found.frame | address & 0xFFF
            if is_write:
                self.memory.write(place, 1, AX)
            elif not is_fetch:
                ax = AX & ~0xFF | self.memory.read(place, 1)
        return EXIT_VMMCALL, 0, ax


@pytest.fixture(scope="module")
def oracle() -> SvmOracle:
    return SvmOracle(MEMORY)


def compare(oracle: SvmOracle, name: str, seed: int) -> str:
    trial = Trial(name, seed)
    before = bytes(trial.memory.data)
    ours = trial.expected()
    if not trial.ran:
        return ""  # Unicorn does not survive a fault on the guest's first instruction
    oracle.uc.mem_write(0, before)
    theirs = oracle.run(trial.state())
    assert tuple(map(hex, ours)) == tuple(map(hex, theirs)), (name, seed)
    assert oracle.uc.mem_read(HOST_TABLES, MEMORY - HOST_TABLES) == trial.memory.data[HOST_TABLES:], (name, seed)
    return f"{ours[0]:x}"


@pytest.mark.parametrize("name", GUESTS)
def test_random_nested_tables(oracle: SvmOracle, name: str) -> None:
    outcomes = {compare(oracle, name, seed) for seed in range(150)}
    assert {"81", "4e", "400"} <= outcomes


@pytest.mark.long
@pytest.mark.parametrize("name", GUESTS)
def test_many_random_nested_tables(oracle: SvmOracle, name: str) -> None:
    for seed in range(1000, 4000):
        compare(oracle, name, seed)
