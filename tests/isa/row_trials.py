"""Trials made from a row of the instruction table: any ModRM, SIB, displacement, immediate and prefix that it allows.

The bytes are put together here, from the row alone, so that encoder and decoder are not taken at their word.
Memory operands point into the arena's window: by the displacement, or by a base register set to fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.isa.arena import (
    CODE,
    CODE_SELECTORS,
    CODE_SELECTORS_64,
    DESCRIPTORS,
    LANDING,
    LOW_SIZE,
    MODES,
    MODES_64,
    SLOT,
    WEIGHTS,
    WEIGHTS_64,
    WINDOW,
    WINDOW_END,
    Mode,
    Trial,
)
from vmlab.isa.x86.instruction import FIXED, Row
from vmlab.isa.x86.registers import EAX, EBP, EBX, ECX, EDI, EDX, ESI, ESP, IOPL, TF

if TYPE_CHECKING:
    import random

MARGIN = 0x400
TASKS = (0x68 >> 3, 0x90 >> 3)
SYSTEM = (0x60 >> 3, 0x68 >> 3, 0x70 >> 3, 0x90 >> 3, 0x98 >> 3)
"""Descriptors that have 16 bytes in long mode, where Unicorn takes those of 8 too: tests of their own."""
SLOTS = (LANDING - CODE) // SLOT - 16
FREE_FLAGS = 0x0024_0ED5  # ID AC OF DF IF SF ZF AF PF CF
BASES_16 = ((EBX, ESI), (EBX, EDI), (EBP, ESI), (EBP, EDI), (ESI,), (EDI,), (EBP,), (EBX,))
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
EDGES_64 = (*EDGES, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 0x8000_0000, (1 << 64) - 2, (1 << 64) - 1)

TRANSFERS = frozenset(
    {"jmp", "call", "ret", "jmpf", "callf", "retf", "iret", "loop", "loope", "loopne", "jcxz", "jecxz", "jrcxz"}
)
STACK = frozenset(
    {"push", "pop", "pusha", "popa", "pushf", "popf", "enter", "leave", "call", "ret", "callf", "retf", "iret"}
)
RING_3_ONLY = frozenset(
    {"hlt", "lgdt", "lidt", "lldt", "ltr", "lmsw", "clts", "invd", "wbinvd", "invlpg", "rdmsr", "wrmsr"}
)
"""Rows that change what Unicorn's user cannot see or set: there, that they fault; in ring 0, tests of their own."""
PORTS = frozenset({"in", "out", "ins", "outs"})
"""Rows that may always use their port in Unicorn: whether they may is tested in another place."""
CHECKED = frozenset({"lar", "lsl", "verr", "verw", "arpl"})
NOT_COMPARED = frozenset({"int", "int1", "int3", "into", "sysenter", "sysexit", "rdtsc", "rdpmc", "cpuid"})
NOT_COMPARED |= {
    "syscall",
    "sysret",
    "swapgs",
    "rdtscp",
    "invpcid",
    "monitor",
    "mwait",
    "clac",
    "stac",
    "xgetbv",
    "xsetbv",
}
"""Rows for which Unicorn stops, or whose result is the processor model's own: tests of their own."""


def is_transfer(row: Row) -> bool:
    """Say whether an instruction may go on elsewhere than behind itself."""
    return row.mnemonic in TRANSFERS or row.operands[:1] in (("Jb",), ("Jz",))


def is_compared(row: Row, *, long: bool = False) -> bool:
    """Say whether Unicorn can try this row. TEST by F6 /1 and F7 /1, and some hints, are undefined to it."""
    if row.mnemonic in NOT_COMPARED or not modes_of(row, long=long):
        return False
    return not (row.mnemonic in ("test", "nop") and row.alias)


def modes_of(row: Row, *, long: bool = False) -> list[Mode]:
    """Return the modes in which a row can be compared, of those of long mode or of the others."""
    modes = [mode for mode in (MODES_64 if long else MODES) if row.operand_sizes(mode.bits)]
    if row.mnemonic in ("lahf", "sahf"):  # Unicorn's processor has neither in 64-bit mode
        modes = [mode for mode in modes if mode.bits != 64]
    if row.mnemonic in RING_3_ONLY or any(code in ("Cy", "Dy") for code in row.operands):
        return [mode for mode in modes if mode.code & 3]
    if row.mnemonic in PORTS:
        return [mode for mode in modes if not mode.code & 3]
    if row.mnemonic == "enter":  # ENTER on a stack of 16 bits: Unicorn loads BP where the manual has EBP
        return [mode for mode in modes if mode.stack != 0x30]
    return modes


def number(rng: random.Random, bits: int = 32) -> int:
    """Return a number: an edge of some width, a small one, or any."""
    kind = rng.random()
    edges, width = (EDGES_64, 64) if bits == 64 else (EDGES, 32)
    value = rng.choice(edges) if kind < 0.35 else rng.getrandbits(5) if kind < 0.5 else rng.getrandbits(width)
    return value & (1 << bits) - 1


@dataclass
class Draft:
    """A trial in the making."""

    rng: random.Random
    row: Row
    mode: Mode
    address: int
    size: int
    address_size: int
    registers: list[int]
    fixed: set[int] = field(default_factory=set)  # registers that must stay as they are
    pokes: list[tuple[int, bytes]] = field(default_factory=list)
    rex: int = 0  # its bits R, X and B as they come up
    relative: int | None = None  # where an operand relative to the next instruction is to lie

    @property
    def width(self) -> int:
        """Bits of a general register."""
        return 64 if self.mode.bits == 64 else 32

    @property
    def stack_width(self) -> int:
        """Bits of the stack pointer."""
        return 16 if self.mode.stack == 0x30 else self.width

    def pick(self) -> int:
        """Return the number of a general register."""
        return self.rng.randrange(len(self.registers))

    def target(self) -> int:
        """Return an address in the window, aligned or not."""
        value = self.rng.randrange(WINDOW + MARGIN, WINDOW_END - MARGIN)
        return value & ~3 if self.rng.random() < 0.6 else value

    def aim(self, register: int, value: int, *, bits: int = 0) -> None:
        """Set the low bits of a register, all of them where 0, and keep them."""
        keep = (1 << self.width) - (1 << (bits or self.width))
        self.registers[register] = self.registers[register] & keep | value
        self.fixed.add(register)

    def poke(self, address: int, *values: int, width: int) -> None:
        """Put numbers of `width` bytes into memory."""
        data = b"".join((value & (1 << 8 * width) - 1).to_bytes(width, "little") for value in values)
        self.pokes.append((address, data))

    def landing(self) -> int:
        """Return an address to jump to: with 16 bits it lies in low memory."""
        return self.rng.randrange(LANDING, LANDING + 0x1000)

    def selector(self) -> int:
        """Return a selector: mostly of the table, with any RPL and sometimes the LDT's bit."""
        if is_transfer(self.row) and self.rng.random() < 0.6:
            return self.rng.choice(CODE_SELECTORS_64 if self.mode.long else CODE_SELECTORS)
        index = self.rng.randrange(len(DESCRIPTORS) + 2)
        if index in (SYSTEM if self.mode.long else TASKS if is_transfer(self.row) else ()):
            index = 1
        if self.mode.long and not index:  # of SS the manual wants RPL = CPL for it, which Unicorn does not
            return self.mode.code & 3
        return index << 3 | self.rng.choice((0, 0, 3, 3, 1, 2)) | (4 if self.rng.random() < 0.05 else 0)

    # -- ModRM -------------------------------------------------------------------------------------------------------

    def memory(self, reg: int) -> tuple[bytes, int]:
        """Return ModRM, SIB and displacement of a memory operand, and where it lies."""
        target = self.target()
        return (self._memory_16 if self.address_size == 16 else self._memory_sib)(reg, target), target

    def _memory_16(self, reg: int, target: int) -> bytes:
        rng, registers = self.rng, self.registers
        mod, rm = rng.randrange(3), rng.randrange(8)
        used = BASES_16[rm]
        if mod == 0 and rm == 6:
            return bytes([reg << 3 | rm]) + target.to_bytes(2, "little")
        if used[0] in self.fixed:
            mod = 2
        displacement = rng.randrange(-128, 128) if mod == 1 else 0
        rest = displacement + sum(registers[register] for register in used[1:])
        if mod == 2:
            displacement = target - rest - registers[used[0]]
        else:
            self.aim(used[0], target - rest & 0xFFFF, bits=16)
        modrm = bytes([mod << 6 | reg << 3 | rm])
        return modrm + (displacement & (1 << 8 * mod) - 1).to_bytes(mod, "little")

    def _memory_sib(self, reg: int, target: int) -> bytes:
        """Return an operand of 32-bit or 64-bit addressing: any base, index and displacement that lead to the target."""
        rng, registers, bits = self.rng, self.registers, self.address_size
        while True:
            mod, rm, index = rng.randrange(3), self.pick(), 4
            sib, index_part, base = b"", 0, rm
            if rm & 7 == 4:
                scale, index, base = rng.randrange(4), self.pick(), self.pick()
                rm = base & 8 | 4
                sib = bytes([scale << 6 | (index & 7) << 3 | base & 7])
                if index != 4:
                    index_part = registers[index] << scale
                    if index == base:
                        mod = 2
            free = base >= 0 and base not in self.fixed and (index == 4 or index != base)  # may be aimed
            if base & 7 == 5 and mod == 0:  # no base
                base, free = -1, False
            elif base in self.fixed:
                mod = 2
            width = (4 if base < 0 else 0, 1, 4)[mod]
            displacement = rng.randrange(-128, 128) if mod == 1 else 0
            if width == 4:
                displacement = target - index_part - (registers[base] if base >= 0 else 0) & (1 << bits) - 1
                displacement -= displacement >> (bits - 1) << bits
            if bits < 64 or -(1 << 31) <= displacement < 1 << 31:
                break
            if free:  # any displacement, and the base to fit
                displacement = rng.randrange(-(1 << 31), 1 << 31)
                break
        if free:
            self.aim(base, target - index_part - displacement & (1 << bits) - 1, bits=bits)
        if base < 0 and not sib and self.mode.bits == 64:
            if self.row.mnemonic in ("shld", "shrd"):  # Unicorn forgets that a constant follows
                return self._memory_sib(reg, target)
            self.relative = target
        self.rex |= (rm >> 3) | (index >> 3) << 1 if sib or rm >= 8 else 0
        modrm = bytes([mod << 6 | reg << 3 | rm & 7])
        return modrm + sib + (displacement & (1 << 8 * width) - 1).to_bytes(width, "little")

    # -- what the instruction uses without saying so -------------------------------------------------------------------

    def implicit(self) -> None:
        """Aim the registers that the instruction takes for addresses and counts."""
        mnemonic, row, rng = self.row.mnemonic, self.row, self.rng
        if mnemonic in STACK:
            self.aim(ESP, self.target(), bits=self.stack_width)
        if mnemonic in ("enter", "leave"):
            self.aim(EBP, self.target(), bits=self.stack_width)
        if mnemonic == "xlat":
            self.aim(EBX, self.target(), bits=self.address_size)
        if row.repeat:
            for register in (ESI, EDI):
                self.aim(register, self.target(), bits=self.address_size)
            self.aim(ECX, rng.randrange(7), bits=self.address_size)
        if row.repeat == "repz" and rng.random() < 0.7:  # equal elements, so that some repetitions go on
            byte = rng.choice((b"\0", b"\xff"))
            for register in (ESI, EDI):
                self.pokes.append(((self.registers[register] & 0xFFFF) - 16, byte * 32))
            if rng.random() < 0.7:
                self.registers[EAX] = int.from_bytes(byte * (self.width // 8), "little")
        if mnemonic in PORTS:
            self.aim(EDX, rng.randrange(0x1000, 0xFFFF), bits=16)
        if mnemonic == "cmpxchg" and self.width == 64 and self.size == 32:
            self.registers[EAX] &= 0xFFFF_FFFF  # Unicorn clears the upper half even of equal ones
        if "CL" in row.operands and rng.random() < 0.8:
            self.aim(ECX, rng.randrange(40), bits=8)
        if mnemonic in ("div", "idiv") and rng.random() < 0.6:
            self.registers[EDX] = rng.choice((0, 0, 1, 0xFFFF_FFFF, (1 << self.width) - 1, rng.getrandbits(8)))

    def stack_contents(self) -> None:
        """Put a return address, a far one, flags or a selector on the stack, where the instruction pops one."""
        mnemonic, width = self.row.mnemonic, self.size // 8
        top = self.registers[ESP] & (1 << self.stack_width) - 1
        if mnemonic == "ret":
            self.poke(top, self.landing(), width=width)
        elif mnemonic in ("retf", "iret"):
            frame = [self.landing(), self.selector()]
            if mnemonic == "iret":
                frame.append(self.rng.getrandbits(32) & ~TF & 0x24_FFFF)  # no single step, VM, VIF, VIP, RF
            # (Unicorn sets no accessed bit in the descriptor of an outer stack.)
            outer = self.rng.choice((0x23, 0x23, 0x89, self.selector() & ~0x58 | 0x20))
            self.poke(top, *frame, self.target(), outer, width=width)
            if self.row.operands:  # the outer stack lies above the bytes to be dropped
                self.poke(top + 2 * width, *[self.target(), outer] * (0x110 // width), width=width)
        elif mnemonic == "popf":
            self.poke(top, self.rng.getrandbits(32) & ~TF, width=width)
        elif mnemonic == "pop" and self.row.operands[0] in ("ES", "SS", "DS", "FS", "GS"):
            self.poke(top, self.selector(), width=width)


def _far_pointer(draft: Draft, address: int) -> None:
    """Put a far pointer into memory."""
    width = draft.size // 8
    draft.poke(address, draft.landing(), width=width)
    draft.poke(address + width, draft.selector(), width=2)


def _prepare_operand(draft: Draft, code: str, target: int) -> None:
    """Make a memory operand hold something that means something to the instruction."""
    mnemonic = draft.row.mnemonic
    if code == "Mp":
        _far_pointer(draft, target)
    elif mnemonic in ("jmp", "call"):
        draft.poke(target, draft.landing(), width=draft.size // 8)
    elif mnemonic in CHECKED or draft.row.operands[0] == "Sw":
        draft.poke(target, draft.selector(), width=2)
    elif mnemonic == "bound" and draft.rng.random() < 0.7:
        draft.poke(target, 0, -1 & (1 << draft.size - 1) - 1, width=draft.size // 8)
    elif draft.rng.random() < 0.5:
        draft.poke(target, number(draft.rng), number(draft.rng), width=4)


def _modrm(draft: Draft) -> bytes:
    """Return the ModRM byte of the row with what belongs to it."""
    row, rng, registers = draft.row, draft.rng, draft.registers
    letters = {code[0]: code for code in row.operands if code not in FIXED}
    reg = row.extension if row.extension >= 0 else draft.pick()
    if "S" in letters:
        reg = rng.randrange(6)  # CS as a destination is undefined
    elif "C" in letters:
        reg = rng.choice((0, 2, 3, 4, 8) if draft.mode.bits == 64 else (0, 2, 3, 4))
    elif "D" in letters:
        reg = rng.randrange(8)
    operand = letters.get("E") or letters.get("M")
    # Of SMSW r32 the manual leaves the upper half undefined.
    both = "E" in letters and not (row.mnemonic == "smsw" and draft.size >= 32)
    # CMPXCHG of registers leaves alone what it does not load; Unicorn clears the upper half (mended in later versions).
    both = both and not (row.mnemonic == "cmpxchg" and draft.width == 64 and draft.size == 32)
    if operand is None or (both and rng.random() < 0.35):
        rm = draft.pick()
        if row.mnemonic in ("jmp", "call"):
            draft.aim(rm, draft.landing())
        elif row.mnemonic in CHECKED or letters.get("S") == "Sw":
            draft.aim(rm, draft.selector(), bits=16)
        draft.rex |= reg >> 3 << 2 | rm >> 3
        return bytes([0xC0 | (reg & 7) << 3 | rm & 7])
    if row.mnemonic in ("bt", "bts", "btr", "btc") and row.operands[1] == "Gv":
        if reg in draft.fixed:
            reg = EAX
        draft.aim(reg, rng.randrange(-4000, 4000) & (1 << draft.size) - 1, bits=draft.size)
    draft.rex |= reg >> 3 << 2
    code, target = draft.memory(reg & 7)
    _prepare_operand(draft, operand, target)
    if row.mnemonic in ("cmpxchg8b", "cmpxchg16b") and rng.random() < 0.5:
        draft.poke(target, registers[EAX], registers[EDX], width=4 if row.mnemonic == "cmpxchg8b" else 8)
    return code


def _immediates(draft: Draft, so_far: int) -> bytes:
    """Return the immediate operands of the row, which stand behind `so_far` bytes."""
    rng, row, size = draft.rng, draft.row, draft.size
    result = b""
    for code in row.operands:
        if code in FIXED or code[0] not in "IJOA":
            continue
        if code[0] == "A":
            result += (draft.landing() & (1 << size) - 1).to_bytes(size // 8, "little")
            result += draft.selector().to_bytes(2, "little")
        elif code[0] == "O":
            result += draft.target().to_bytes(draft.address_size // 8, "little")
        elif code[0] == "J":
            width = 1 if code == "Jb" else min(size // 8, 4)
            displacement = rng.randrange(-0x80, 0x80) if width == 1 else rng.randrange(-0x8000, 0x8000)
            if (draft.address + so_far + width + displacement) % SLOT == 0:
                displacement ^= 1  # Unicorn looks at the target, and would keep what stands there: no slot's start
            result += (displacement & (1 << 8 * width) - 1).to_bytes(width, "little")
        else:
            width = {"b": 1, "x": 1, "w": 2, "z": min(size // 8, 4)}.get(code[1], size // 8)
            value = number(rng, 8 * width)
            if row.mnemonic == "enter":
                value = rng.randrange(0x200) if width == 2 else rng.choice((0, 0, 1, 2, 5, 31, 32))
            elif row.mnemonic in ("in", "out"):
                value = rng.randrange(0xC0, 0xF0)
            elif row.mnemonic in ("ret", "retf"):
                value = rng.randrange(0x200)
                if row.mnemonic == "retf" and draft.mode.long:
                    value &= -16  # to a stack's selector: a null one Unicorn takes for compatibility code too
            elif row.mnemonic in ("aam", "aad") and rng.random() < 0.5:
                value = 10
            result += value.to_bytes(width, "little")
    return result


def _prefixes(rng: random.Random, row: Row, mode: Mode) -> tuple[bytes, int, int]:
    """Return legacy prefixes in any order, the operand size and the address size that the instruction is to have."""
    prefixes = []
    sizes = row.operand_sizes(mode.bits)
    size = row.size if row.size > 8 else rng.choices(sizes, (65, 20 if len(sizes) > 2 else 35, 15)[: len(sizes)])[0]
    if row.bare:
        size = sizes[0]
    if row.mnemonic in ("lss", "lfs", "lgs") and size == 64:
        size = 32  # Unicorn knows no m16:64 here
    if size == 16 if mode.bits == 64 else size != mode.bits:
        prefixes.append(0x66)
    widths = (64, 32) if mode.bits == 64 else (32, 16)
    address_size = row.address_size or widths[rng.random() < 0.2]
    if address_size != mode.bits:
        prefixes.append(0x67)
    if rng.random() < 0.1:
        # With a base of its own, an operand that is prepared would not be where it is looked for.
        prepared = mode.long and (is_transfer(row) or row.mnemonic in CHECKED)
        prefixes.append(rng.choice(b"\x26\x36\x3e" if prepared else b"\x26\x36\x3e\x64\x65"))
    if row.repeat and rng.random() < 0.6:
        prefixes.append(rng.choice(b"\xf2\xf3"))
    rng.shuffle(prefixes)
    return bytes(prefixes), size, address_size


def _rex(draft: Draft) -> bytes:
    """Return the REX prefix that the operands need, or one that need not be."""
    sizes = draft.row.operand_sizes(64)
    wide = draft.size == 64 and (sizes[0] != 64 or draft.rng.random() < 0.1)
    if wide or draft.rex or draft.rng.random() < 0.2:
        return bytes([0x40 | wide << 3 | draft.rex])
    return b""


def make_trial(rng: random.Random, row: Row, slot: int, *, long: bool = False) -> Trial:
    """Return a random trial of a row, in long mode or not, with its code in the arena's slot `slot`."""
    modes = modes_of(row, long=long)
    weights = dict(zip(MODES_64 if long else MODES, WEIGHTS_64 if long else WEIGHTS, strict=True))
    mode = rng.choices(modes, [weights[mode] for mode in modes])[0]
    prefixes, size, address_size = _prefixes(rng, row, mode)
    registers = [number(rng, 64) for _ in range(16)] if mode.bits == 64 else [number(rng) for _ in range(8)]
    draft = Draft(rng, row, mode, CODE + slot * SLOT, size, address_size, registers)
    flags = rng.getrandbits(32) & FREE_FLAGS | 2 | (rng.getrandbits(32) & IOPL)
    draft.implicit()
    draft.stack_contents()
    opcode = row.opcode
    rest = _modrm(draft) if row.has_modrm else b""
    if any(code[0] == "Z" for code in row.operands):
        register = draft.pick()
        opcode = opcode[:-1] + bytes([opcode[-1] + (register & 7)])
        draft.rex |= register >> 3
    # Unicorn gives LOCK NEG the flags of its operand (mended in later versions of QEMU).
    if row.lockable and row.mnemonic != "neg" and rest[0] < 0xC0 and rng.random() < 0.1:
        prefixes += b"\xf0"
    if opcode[0] == 0xF3:
        prefixes, opcode = prefixes + b"\xf3", opcode[1:]
    if mode.bits == 64:
        prefixes += _rex(draft)
    code = prefixes + opcode + rest
    code += _immediates(draft, len(code))
    if draft.relative is not None:
        place = len(prefixes + opcode) + 1
        displacement = draft.relative - draft.address - len(code) & 0xFFFF_FFFF
        code = code[:place] + displacement.to_bytes(4, "little") + code[place + 4 :]
    assert all(0 <= where < LOW_SIZE for where, _ in draft.pokes)
    return Trial(mode, draft.address, code, tuple(draft.registers), flags, tuple(draft.pokes))
