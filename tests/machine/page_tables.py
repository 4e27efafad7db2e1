"""Random page tables of each format: the rules of the manual written down once more, a processor, and Unicorn.

    0x10000  code     0x40000  root table, then the others     0x60000-0x9FFFF  what is mapped

The low memory maps to itself through the first slots. An access goes elsewhere, down one path of random entries; all
other entries are generous.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import unicorn
from unicorn import x86_const as x86

from tests.machine.computer import CODE, CODE_OF_RING, DATA_OF_RING, STACK, Computer
from vmlab.isa.x86.faults import PF
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    MSR_EFER,
)
from vmlab.machine.cpu_model import CPU_MODELS, CpuModel

if TYPE_CHECKING:
    import random

P, RW, US, A, D, PS, G, NX = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63
FULL = P | RW | US | A | D
ROOT, TABLES_END = 0x4_0000, 0x5_0000
FRAMES, FRAMES_END = 0x6_0000, 0xA_0000  # what is mapped
MEMORY = 0x10_0000
FRAME = 0x000F_FFFF_FFFF_F000
LOW_PAGES = 256
EAX, EBX = 0x8765_4321, 3
MODIFY = b"\x01\x03"
ACCESSES = {  # source: size, write, fetch, code
    "mov al, [ebx]": (1, False, False, b"\x8a\x03"),
    "mov eax, [ebx]": (4, False, False, b"\x8b\x03"),
    "mov ax, [ebx]": (2, False, False, b"\x66\x8b\x03"),
    "mov [ebx], al": (1, True, False, b"\x88\x03"),
    "mov [ebx], eax": (4, True, False, b"\x89\x03"),
    "mov [ebx], ax": (2, True, False, b"\x66\x89\x03"),
    "add [ebx], eax": (4, True, False, MODIFY),
    "jmp ebx": (1, False, True, b"\xff\xe3"),
}


@dataclass(frozen=True)
class Scheme:
    """A format, and how a test makes and runs its tables.

    `shifts` are those of the levels, root first; `large` the positions among them that may map pages; `physical` the
    width of physical addresses, Unicorn's; `model` a processor that has all that.
    """

    name: str
    model: CpuModel
    entry: int
    bits: int
    shifts: tuple[int, ...]
    large: tuple[int, ...]
    physical: int
    cr4: int
    mode: int
    pdptes: bool = False


MODERN = replace(CPU_MODELS["broadwell"], physical_bits=40)
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("32-bit", CPU_MODELS["pentium-4"], 4, 10, (22, 12), (0,), 36, 0, unicorn.UC_MODE_32),
        Scheme("PAE", MODERN, 8, 9, (30, 21, 12), (1,), 40, CR4_PAE, unicorn.UC_MODE_32, pdptes=True),
        Scheme("4-level", MODERN, 8, 9, (39, 30, 21, 12), (1, 2), 40, CR4_PAE, unicorn.UC_MODE_64),
    )
}


@dataclass
class Tables:
    """Random tables and one access."""

    scheme: Scheme
    linear: int
    size: int
    write: bool
    fetch: bool
    code: bytes
    ring: int
    write_protect: bool
    cr4: int
    efer: int
    memory: bytearray = field(default_factory=lambda: bytearray(TABLES_END - ROOT))

    def get(self, address: int) -> int:
        """Return an entry."""
        return int.from_bytes(self.memory[address - ROOT :][: self.scheme.entry], "little")

    def put(self, address: int, entry: int) -> None:
        """Set an entry."""
        self.memory[address - ROOT : address - ROOT + self.scheme.entry] = entry.to_bytes(self.scheme.entry, "little")

    def fill(self, table: int, entry: int) -> None:
        """Set all entries of a table."""
        count = 0x1000 // self.scheme.entry
        self.memory[table - ROOT : table - ROOT + 0x1000] = entry.to_bytes(self.scheme.entry, "little") * count

    def slot(self, level: int, linear: int) -> int:
        """Return the index into a table of a level."""
        top = 4 if self.scheme.pdptes and level == 0 else 1 << self.scheme.bits
        return linear >> self.scheme.shifts[level] & top - 1


def flags(rng: random.Random, *, wide: bool, physical: int) -> int:
    """Return random rights, most of them generous."""
    result = P if rng.random() < 0.92 else 0
    for bit, chance in ((RW, 0.7), (US, 0.75), (A, 0.3), (D, 0.3), (G, 0.2), (8, 0.1), (16, 0.1), (0xE00, 0.1)):
        result |= bit if rng.random() < chance else 0
    if wide:
        result |= NX if rng.random() < 0.2 else 0
        result |= 1 << rng.randrange(physical, 52) if rng.random() < 0.06 else 0
    return result


def make(rng: random.Random, scheme: Scheme) -> Tables:
    """Return random tables for an access that mostly hits what is mapped."""
    wide, depth = scheme.entry == 8, len(scheme.shifts)
    size, write, fetch, code = ACCESSES[rng.choice(list(ACCESSES))]
    pse = rng.random() < 0.5
    cr4 = scheme.cr4 | (CR4_PSE if pse else 0) | (CR4_SMEP if wide and rng.random() < 0.3 else 0)
    efer = (EFER_NXE if wide and rng.random() < 0.7 else 0) | (
        EFER_LME | EFER_LMA | EFER_SCE if scheme.mode == unicorn.UC_MODE_64 else 0
    )
    ring = rng.choice((0, 0, 3, 3, 1) if scheme.mode == unicorn.UC_MODE_32 else (0, 3))
    t = Tables(scheme, 0, size, write, fetch, code, ring, rng.random() < 0.6, cr4, efer)
    # The low memory, through the first slots; SMEP forbids the supervisor's code in users' pages.
    tables = iter(range(ROOT, TABLES_END, 0x1000))
    low = [next(tables) for _ in range(depth)]
    rights = FULL & ~(0 if ring == 3 else US)
    for level in range(depth - 1):
        t.put(low[level], low[level + 1] | (P if scheme.pdptes and level == 0 else FULL & ~D))
    for page in range(LOW_PAGES):
        t.put(low[-1] + page * scheme.entry, page << 12 | rights)
    # The path: `leaf` is the level that maps the page. Below a large page its offset selects; it begins at 0.
    leaf = rng.choice(scheme.large) if rng.random() < 0.3 and (wide or pse) else depth - 1
    offset = 0x1000 - rng.randrange(1, 4) if rng.random() < 0.2 and not fetch else rng.randrange(0xFFC)
    linear = FRAMES + rng.randrange(0x30) * 0x1000 + offset
    span = 1 << scheme.bits
    for level in range(min(leaf + 1, depth - 1)):
        top = 4 if scheme.pdptes and level == 0 else span
        linear |= rng.randrange(1 if level == 0 else 0, top) << scheme.shifts[level]
    if scheme.shifts[0] == 39 and linear >> 47:
        linear |= -1 << 48
    t.linear = linear & (1 << 64) - 1
    table = ROOT
    for level in range(leaf + 1):
        below = next(tables) if level < leaf else 0
        for address in {t.linear, t.linear + t.size - 1}:  # over a page's end both entries of the last table are random
            raw = flags(rng, wide=wide, physical=scheme.physical)
            if level < leaf:
                # Where no page can be large, PS is reserved (in a PML4E), or means nothing (without CR4.PSE).
                raw |= below | (PS if ((depth == 4 and level == 0) or not (wide or pse)) and rng.random() < 0.1 else 0)
            elif leaf < depth - 1:
                raw |= PS | (1 << rng.choice(_reserved_low(scheme, level)) if rng.random() < 0.15 else 0)
            else:
                frame = FRAMES + 0x1000 * rng.randrange(64)
                raw |= frame | (PS if rng.random() < 0.1 else 0)
            if scheme.pdptes and level == 0:
                raw = below | raw & P
            t.put(table + t.slot(level, address) * scheme.entry, raw)
            if level < leaf:
                break
        table = below
    return t


def _reserved_low(scheme: Scheme, level: int) -> tuple[int, ...]:
    """Return the low bits that are reserved in an entry that maps a large page, as Unicorn knows them too."""
    return (21,) if scheme.entry == 4 else (13, 16, 20)


# -- the rules, once more ---------------------------------------------------------------------------------------------


def path_of(t: Tables, linear: int) -> list[tuple[int, int, int]]:
    """Return address, entry and level of each entry on the way, up to the one that maps a page or nothing."""
    path, table = [], ROOT
    for level in range(len(t.scheme.shifts)):
        address = table + t.slot(level, linear) * t.scheme.entry
        entry = t.get(address)
        path.append((address, entry, level))
        if not entry & P or is_leaf(t, entry, level) or is_reserved(t, entry, level):
            break
        table = entry & FRAME
    return path


def is_leaf(t: Tables, entry: int, level: int) -> bool:
    """Say whether an entry maps a page."""
    if level == len(t.scheme.shifts) - 1:
        return True
    return bool(entry & PS) and level in t.scheme.large and (t.scheme.entry == 8 or bool(t.cr4 & CR4_PSE))


def is_reserved(t: Tables, entry: int, level: int) -> bool:
    """Say whether a reserved bit is set (SDM vol. 3, 4.3 to 4.5)."""
    leaf, last = is_leaf(t, entry, level), level == len(t.scheme.shifts) - 1
    if t.scheme.entry == 4:
        return leaf and not last and bool(entry >> 17 & 0x1F)  # 36 bits of physical address: 21:17
    if t.scheme.pdptes and level == 0:
        return False
    if entry & NX and not t.efer & EFER_NXE:
        return True
    if entry >> t.scheme.physical & (1 << 52 - t.scheme.physical) - 1:
        return True
    if leaf and not last:
        return bool(entry & FRAME & (1 << t.scheme.shifts[level]) - 1 & ~0x1000)
    return bool(entry & PS) and not last  # PML4E: bit 7


def rules(t: Tables, linear: int) -> tuple[int | None, int]:
    """Do an access to one page: return the error code of the page fault or None, and the physical address."""
    user = t.ring == 3
    tells_fetch = t.cr4 & CR4_SMEP or (t.cr4 & CR4_PAE and t.efer & EFER_NXE)
    code = 2 * t.write + 4 * user + 16 * bool(t.fetch and tells_fetch)
    path = path_of(t, linear)
    address, entry, level = path[-1]
    for where, above, depth in path[:-1]:
        if not (t.scheme.pdptes and depth == 0):
            t.put(where, above | A)
    if not entry & P:
        return code, 0
    if is_reserved(t, entry, level):
        return code | 9, 0
    entries = [raw for _, raw, depth in path if not (t.scheme.pdptes and depth == 0)]
    users = all(raw & US for raw in entries)
    writable = all(raw & RW for raw in entries)
    executable = t.scheme.entry == 4 or not any(raw & NX for raw in entries)
    if user and not users:
        return code | 1, 0
    if t.write and not writable and (user or t.write_protect):
        return code | 1, 0
    if t.fetch and (not executable or (users and not user and t.cr4 & CR4_SMEP)):
        return code | 1, 0
    t.put(address, entry | A | (D if t.write else 0))
    mask = (1 << t.scheme.shifts[level]) - 1
    high = entry >> 13 & 0xF if t.scheme.entry == 4 and level == 0 else 0
    return None, high << 32 | entry & FRAME & ~mask | linear & mask


def expected(t: Tables) -> tuple[tuple[int, int] | None, list[int]]:
    """Do the access: return error code and CR2 of a fault or None, and where its bytes lie. The tables change."""
    places: list[int] = []
    last = t.linear + t.size - 1
    for linear in (t.linear, last & ~0xFFF) if t.linear >> 12 != last >> 12 else (t.linear,):
        error, physical = rules(t, linear)
        if error is not None:
            return (error, linear), []
        room = min(t.size - len(places), 0x1000 - (linear & 0xFFF))
        places += [physical + n for n in range(room)]
    return None, places


# -- the processor ------------------------------------------------------------------------------------------------------


def contents(rng: random.Random, t: Tables) -> bytes:
    """Return what the mapped memory holds: noise, or for a fetch NOPs."""
    return b"\x90" * (FRAMES_END - FRAMES) if t.fetch else rng.randbytes(FRAMES_END - FRAMES)


def load_tables(t: Tables, data: bytes) -> Computer:
    """Return a computer about to do the access."""
    computer = Computer(t.scheme.model)
    computer.enter(t.ring)
    computer.memory.write_bytes(FRAMES, data)
    computer.memory.write_bytes(CODE, t.code + b"\xeb\xfe")
    computer.memory.write_bytes(ROOT, bytes(t.memory))
    cpu = computer.cpu
    cpu.registers[:8] = [EAX, 0, 0, t.linear, STACK, 0, 0, 0]
    cpu.ip = CODE
    cpu.set_cr3(ROOT)
    cpu.set_cr4(t.cr4)
    if t.efer:
        cpu.write_msr(MSR_EFER, t.efer & ~EFER_LMA & cpu.model.efer_mask)
    cpu.set_cr0(CR0_PE | CR0_ET | CR0_PG | (CR0_WP if t.write_protect else 0))
    if t.efer & EFER_LMA:
        cpu.segments[1].long = True
        cpu.code_changed()
        cpu.registers[3] = t.linear
    return computer


class PagingOracle:
    """Unicorn with paging on."""

    def __init__(self, mode: int) -> None:
        self.uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        letter = "R" if mode == unicorn.UC_MODE_64 else "E"
        self.stack, self.base = (getattr(x86, f"UC_X86_REG_{letter}{name}") for name in ("SP", "BX"))
        self.uc.mem_map(0, MEMORY)
        self.vectors: list[int] = []
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        gdt = bytearray(Computer().memory.read_bytes(0x1000, 0x80))
        if mode == unicorn.UC_MODE_64:
            for selector in CODE_OF_RING:
                gdt[(selector & 0xFFF8) + 6] ^= 0x60  # L in place of D
        self.uc.mem_write(0x1000, bytes(gdt))
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, 0x1000, 0x7F, 0))
        for name in ("DS", "ES", "SS", "CS"):
            self.uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), 0x08 if name == "CS" else 0x10)
        clean = self.uc.context_save()
        self.contexts = {}
        width = 8 if mode == unicorn.UC_MODE_64 else 4
        for ring in (0, 1, 3):
            self.uc.context_restore(clean)
            frame = [CODE, CODE_OF_RING[ring], STACK, DATA_OF_RING[ring]]
            self.uc.mem_write(STACK, b"".join(value.to_bytes(width, "little") for value in frame))
            self.uc.mem_write(CODE - 16, b"\x48\xcb" if width == 8 else b"\xcb")
            self.uc.reg_write(self.stack, STACK)
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
        uc.mem_write(ROOT, bytes(t.memory))
        uc.mem_write(FRAMES, data)
        uc.mem_write(CODE, t.code + b"\xeb\xfe")
        uc.reg_write(x86.UC_X86_REG_EAX, EAX)
        uc.reg_write(self.base, t.linear)
        uc.reg_write(x86.UC_X86_REG_CR3, ROOT)
        uc.reg_write(x86.UC_X86_REG_CR4, t.cr4)
        uc.msr_write(MSR_EFER, t.efer)
        uc.reg_write(x86.UC_X86_REG_CR0, CR0_PE | CR0_ET | CR0_PG | (CR0_WP if t.write_protect else 0))
        uc.ctl_flush_tb()
        self.vectors.clear()
        uc.emu_start(CODE, t.linear + 1 if t.fetch else CODE + len(t.code))
        eax = uc.reg_read(x86.UC_X86_REG_EAX)
        tables = bytes(uc.mem_read(ROOT, len(t.memory)))
        after = bytes(uc.mem_read(FRAMES, len(data)))
        cr2 = uc.reg_read(x86.UC_X86_REG_CR2)
        assert self.vectors in ([], [PF]), self.vectors
        return None if self.vectors else eax, cr2, tables, after
