"""Paging: each rule of the manual as a model of its own, and the same tables walked by Unicorn.

The rules (Intel SDM vol. 3, 4.3, 4.6 to 4.8) are written down once more in `rules()`, without the walker's loop; on
random tables processor, rules and Unicorn must agree: fault and CR2, error code, data, accessed and dirty bits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import unicorn
from unicorn import x86_const as x86

from tests.machine.computer import CODE, CODE_OF_RING, DATA_OF_RING, Computer
from vmlab.isa.x86.faults import PF, Fault
from vmlab.isa.x86.registers import CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PSE, EAX

P, RW, US, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
DIRECTORY, FIRST_TABLE = 0x4_0000, 0x4_1000
TABLES = 4  # after the first, which maps the low memory to itself
FRAMES, FRAMES_END = 0x6_0000, 0xA_0000  # what is mapped
MEMORY = 0x10_0000
ACCESSES = {
    "mov al, [ebx]": (1, False, b"\x8a\x03"),
    "mov eax, [ebx]": (4, False, b"\x8b\x03"),
    "mov ax, [ebx]": (2, False, b"\x66\x8b\x03"),
    "mov [ebx], al": (1, True, b"\x88\x03"),
    "mov [ebx], eax": (4, True, b"\x89\x03"),
    "mov [ebx], ax": (2, True, b"\x66\x89\x03"),
    "add [ebx], eax": (4, True, b"\x01\x03"),
}


@dataclass
class Tables:
    """Random tables and one access."""

    entries: dict[int, int]  # physical address to entry
    linear: int
    size: int
    write: bool
    code: bytes
    ring: int
    write_protect: bool
    large: bool


def entry(rng: random.Random, frame: int, present: float = 0.9) -> int:
    """Return an entry with random rights, most of them generous."""
    flags = P if rng.random() < present else 0
    for bit, chance in ((RW, 0.7), (US, 0.75), (A, 0.3), (D, 0.3), (G, 0.2), (8, 0.1), (16, 0.1), (0xE00, 0.1)):
        flags |= bit if rng.random() < chance else 0
    return frame | flags


def make(rng: random.Random) -> Tables:
    """Return random tables for an access that mostly hits what is mapped."""
    large = rng.random() < 0.5
    entries = {DIRECTORY + 4 * n: 0 for n in range(1024)}
    entries[DIRECTORY] = FIRST_TABLE | P | RW | US | A
    for page in range(256):
        entries[FIRST_TABLE + 4 * page] = page << 12 | P | RW | US | A | D
    slots = rng.sample(range(1, 1024), 3)
    for slot in slots:
        table = FIRST_TABLE + 0x1000 * rng.randrange(1, TABLES + 1)
        raw = entry(rng, table)
        if rng.random() < 0.3:  # PS: means something only with CR4.PSE
            raw |= PS
            if large:
                raw = raw & 0xFFF | (0x20_0000 if rng.random() < 0.15 else 0)  # 4 MiB from 0; bit 21 is reserved
        entries[DIRECTORY + 4 * slot] = raw
    for n in range(1, TABLES + 1):
        for page in range(1024):
            frame = FRAMES + 0x1000 * (page * 37 % 64)
            entries[FIRST_TABLE + 0x1000 * n + 4 * page] = frame | P | RW | US
        for page in rng.sample(range(1024), 600):
            frame = FRAMES + 0x1000 * rng.randrange(64)
            entries[FIRST_TABLE + 0x1000 * n + 4 * page] = entry(rng, frame) | (PS if rng.random() < 0.1 else 0)
    source = rng.choice(list(ACCESSES))
    size, write, code = ACCESSES[source]
    offset = 0x1000 - rng.randrange(1, 4) if rng.random() < 0.2 else rng.randrange(0xFFC)
    page = rng.choice(slots) << 10 | rng.randrange(FRAMES >> 12, FRAMES + 0x3_0000 >> 12)
    ring = rng.choice((0, 0, 3, 3, 1))
    return Tables(entries, page << 12 | offset, size, write, code, ring, rng.random() < 0.6, large)


# -- the rules, once more ---------------------------------------------------------------------------------------------------


def rules(t: Tables, linear: int) -> tuple[int | None, dict[int, int], int]:
    """Return the error code of a page fault or None, the entries after the access, and the physical address."""
    user = t.ring == 3
    code = 2 * t.write + 4 * user
    after: dict[int, int] = {}
    pde_at = DIRECTORY + 4 * (linear >> 22)
    pde = t.entries[pde_at]
    if not pde & P:
        return code, after, 0
    if pde & PS and t.large:
        if pde >> 13 & 0x1FF:
            return code | 1 | 8, after, 0
        rights, leaf_at, leaf, physical = pde, pde_at, pde, pde & 0xFFC0_0000 | linear & 0x3F_FFFF
    else:
        after[pde_at] = pde | A
        leaf_at = (pde & ~0xFFF) + 4 * (linear >> 12 & 0x3FF)
        leaf = t.entries[leaf_at]
        if not leaf & P:
            return code, after, 0
        rights, physical = pde & leaf, leaf & ~0xFFF | linear & 0xFFF
    if user and not rights & US:
        return code | 1, after, 0
    if t.write and not rights & RW and (user or t.write_protect):
        return code | 1, after, 0
    after[leaf_at] = leaf | A | (D if t.write else 0)
    return None, after, physical


def expected(t: Tables) -> tuple[tuple[int, int] | None, dict[int, int], list[int]]:
    """Return error code and CR2 of a fault or None, all entries after the access, and where its bytes lie."""
    entries, places = dict(t.entries), []
    for linear in sorted(
        {t.linear, (t.linear + t.size - 1) & ~0xFFF if t.linear >> 12 != t.linear + t.size - 1 >> 12 else t.linear}
    ):
        error, after, physical = rules(t, linear)
        entries.update(after)
        t.entries.update(after)
        if error is not None:
            return (error, linear), entries, []
        room = min(t.size - len(places), 0x1000 - (linear & 0xFFF))
        places += [physical + n for n in range(room)]
    return None, entries, places


# -- the processor -------------------------------------------------------------------------------------------------------------


def contents(rng: random.Random) -> bytes:
    return rng.randbytes(FRAMES_END - FRAMES)


def load_tables(t: Tables, data: bytes) -> Computer:
    computer = Computer()
    computer.enter(t.ring)
    computer.memory.write_bytes(FRAMES, data)
    computer.memory.write_bytes(CODE, t.code + b"\xeb\xfe")
    for address, raw in t.entries.items():
        if raw:
            computer.memory.write(address, 4, raw)
    cpu = computer.cpu
    cpu.registers[:8] = [0x8765_4321, 0, 0, t.linear, 0x8000, 0, 0, 0]
    cpu.ip = CODE
    cpu.set_cr3(DIRECTORY)
    cpu.set_cr4(CR4_PSE if t.large else 0)
    cpu.set_cr0(CR0_PE | CR0_ET | CR0_PG | (CR0_WP if t.write_protect else 0))
    return computer


def image(entries: dict[int, int]) -> bytes:
    """Return the tables as they lie in memory."""
    end = FIRST_TABLE + 0x1000 * (TABLES + 1)
    return b"".join(entries.get(address, 0).to_bytes(4, "little") for address in range(DIRECTORY, end, 4))


class PagingOracle:
    """Unicorn with paging on."""

    def __init__(self) -> None:
        self.uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self.uc.mem_map(0, MEMORY)
        self.vectors: list[int] = []
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        gdt = Computer().memory.read_bytes(0x1000, 0x80)
        self.uc.mem_write(0x1000, gdt)
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, 0x1000, 0x7F, 0))
        for name in ("DS", "ES", "SS", "CS"):
            self.uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), 0x08 if name == "CS" else 0x10)
        clean = self.uc.context_save()
        self.contexts = {}
        for ring in (0, 1, 3):
            self.uc.context_restore(clean)
            frame = [CODE, CODE_OF_RING[ring], 0x8000, DATA_OF_RING[ring]]
            self.uc.mem_write(0x8000, b"".join(value.to_bytes(4, "little") for value in frame))
            self.uc.mem_write(CODE - 16, b"\xcb")
            self.uc.reg_write(x86.UC_X86_REG_ESP, 0x8000)
            self.uc.emu_start(CODE - 16, 0xFFFF_FFFF, count=1)
            for name in ("DS", "ES"):
                self.uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), DATA_OF_RING[ring])
            self.contexts[ring] = self.uc.context_save()

    def _interrupt(self, uc: Any, vector: int, _data: object) -> None:
        self.vectors.append(vector)
        uc.emu_stop()

    def run(self, t: Tables, data: bytes) -> tuple[int | None, int, bytes, bytes]:
        """Return EAX (None after a page fault), CR2, the tables and the data after the access."""
        uc = self.uc
        uc.context_restore(self.contexts[t.ring])
        uc.mem_write(DIRECTORY, image(t.entries))
        uc.mem_write(FRAMES, data)
        uc.mem_write(CODE, t.code + b"\xeb\xfe")
        uc.reg_write(x86.UC_X86_REG_EAX, 0x8765_4321)
        uc.reg_write(x86.UC_X86_REG_EBX, t.linear)
        uc.reg_write(x86.UC_X86_REG_CR3, DIRECTORY)
        uc.reg_write(x86.UC_X86_REG_CR4, CR4_PSE if t.large else 0)
        uc.reg_write(x86.UC_X86_REG_CR0, CR0_PE | CR0_ET | CR0_PG | (CR0_WP if t.write_protect else 0))
        uc.ctl_flush_tb()
        self.vectors.clear()
        uc.emu_start(CODE, CODE + len(t.code))
        eax = uc.reg_read(x86.UC_X86_REG_EAX)
        tables = bytes(uc.mem_read(DIRECTORY, 0x1000 * (TABLES + 2)))
        after = bytes(uc.mem_read(FRAMES, len(data)))
        cr2 = uc.reg_read(x86.UC_X86_REG_CR2)
        assert self.vectors in ([], [PF])
        return None if self.vectors else eax, cr2, tables, after


@pytest.fixture(scope="module")
def oracle() -> PagingOracle:
    return PagingOracle()


def compare(oracle: PagingOracle, seed: int) -> str:
    rng = random.Random(seed)
    t = make(rng)
    data = contents(rng)
    theirs = oracle.run(t, data)
    computer = load_tables(t, data)
    fault, entries, places = expected(t)
    raised = None
    try:
        computer.cpu.execute()
    except Fault as failure:
        raised = failure
    if fault is None:
        assert raised is None, (seed, raised)
        # (A read or a write; what is added is checked against Unicorn.)
        if not t.write:
            value = b"".join(computer.memory.read_bytes(place, 1) for place in places)
            assert computer.cpu.registers[EAX] & (1 << 8 * t.size) - 1 == int.from_bytes(value, "little"), seed
    else:
        assert raised is not None, seed
        assert (raised.vector, raised.error_code, computer.cpu.cr2) == (PF, *fault), seed
    tables = computer.memory.read_bytes(DIRECTORY, 0x1000 * (TABLES + 2))
    assert tables == image(entries), seed
    eax, cr2, their_tables, their_data = theirs
    assert (eax is None) == (fault is not None), seed
    assert eax in (None, computer.cpu.registers[EAX]), seed
    assert computer.memory.read_bytes(FRAMES, len(data)) == their_data, seed
    # What modifies is read first by Unicorn: the accessed bit stays set, and a second page may fault before the first.
    if not (fault and t.code == ACCESSES["add [ebx], eax"][2]):
        assert their_tables == tables, seed
        assert fault is None or cr2 == fault[1], seed
    return "none" if fault is None else f"{fault[0]:#x}"


def test_random_tables(oracle: PagingOracle) -> None:
    outcomes = [compare(oracle, seed) for seed in range(250)]
    # Every kind of fault occurred.
    assert {"none", "0x0", "0x2", "0x4", "0x6", "0x3", "0x5", "0x7"} <= set(outcomes)
    assert {"0x9", "0xb", "0xd", "0xf"} & set(outcomes)


@pytest.mark.long
def test_many_random_tables(oracle: PagingOracle) -> None:
    for seed in range(1000, 9000):
        compare(oracle, seed)
