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
    DESCRIPTORS,
    LANDING,
    LOW_SIZE,
    MODES,
    SLOT,
    WEIGHTS,
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
SLOTS = (LANDING - CODE) // SLOT - 16
FREE_FLAGS = 0x0024_0ED5  # ID AC OF DF IF SF ZF AF PF CF
BASES_16 = ((EBX, ESI), (EBX, EDI), (EBP, ESI), (EBP, EDI), (ESI,), (EDI,), (EBP,), (EBX,))
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)

TRANSFERS = frozenset(
    {"jmp", "call", "ret", "jmpf", "callf", "retf", "iret", "loop", "loope", "loopne", "jcxz", "jecxz"}
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
NOT_COMPARED = frozenset({"int", "int1", "int3", "into", "sysenter", "sysexit", "rdtsc", "rdpmc", "cpuid"})
NOT_COMPARED |= {"syscall", "sysret", "rdtscp", "invpcid", "monitor", "mwait", "clac", "stac", "xgetbv", "xsetbv"}
"""Rows for which Unicorn stops, or whose result is the processor model's own: tests of their own."""


def is_transfer(row: Row) -> bool:
    """Say whether an instruction may go on elsewhere than behind itself."""
    return row.mnemonic in TRANSFERS or row.operands[:1] in (("Jb",), ("Jz",))


def is_compared(row: Row) -> bool:
    """Say whether Unicorn can try this row. TEST by F6 /1 and F7 /1, and some hints, are undefined to it."""
    if row.mnemonic in NOT_COMPARED or not row.operand_sizes(32):
        return False
    return not (row.mnemonic in ("test", "nop") and row.alias)


def modes_of(row: Row) -> list[Mode]:
    """Return the modes in which a row can be compared."""
    if row.mnemonic in RING_3_ONLY or any(code in ("Cy", "Dy") for code in row.operands):
        return [MODES[1]]
    if row.mnemonic in PORTS:
        return [mode for mode in MODES if not mode.code & 3]
    if row.mnemonic == "enter":
        return list(MODES[:3])  # ENTER on a stack of 16 bits: Unicorn loads BP where the manual has EBP
    return list(MODES)


def number(rng: random.Random, bits: int = 32) -> int:
    """Return a number: an edge of some width, a small one, or any."""
    kind = rng.random()
    value = rng.choice(EDGES) if kind < 0.35 else rng.getrandbits(5) if kind < 0.5 else rng.getrandbits(32)
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

    def target(self) -> int:
        """Return an address in the window, aligned or not."""
        value = self.rng.randrange(WINDOW + MARGIN, WINDOW_END - MARGIN)
        return value & ~3 if self.rng.random() < 0.6 else value

    def aim(self, register: int, value: int, *, bits: int = 32) -> None:
        """Set the low bits of a register, and keep them."""
        keep = (1 << 32) - (1 << bits)
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
            return self.rng.choice(CODE_SELECTORS)
        index = self.rng.randrange(len(DESCRIPTORS) + 2)
        if index in TASKS and is_transfer(self.row):  # we have no task switches yet
            index = 1
        return index << 3 | self.rng.choice((0, 0, 3, 3, 1, 2)) | (4 if self.rng.random() < 0.05 else 0)

    # -- ModRM -------------------------------------------------------------------------------------------------------

    def memory(self, reg: int) -> tuple[bytes, int]:
        """Return ModRM, SIB and displacement of a memory operand, and where it lies."""
        target = self.target()
        return (self._memory_16 if self.address_size == 16 else self._memory_32)(reg, target), target

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

    def _memory_32(self, reg: int, target: int) -> bytes:
        rng, registers = self.rng, self.registers
        mod, rm = rng.randrange(3), rng.randrange(8)
        sib, index_part, base = b"", 0, rm
        if rm == 4:
            scale, index, base = rng.randrange(4), rng.randrange(8), rng.randrange(8)
            sib = bytes([scale << 6 | index << 3 | base])
            if index != 4:
                index_part = registers[index] << scale
                if index == base:
                    mod = 2
        if base == 5 and mod == 0:  # no base
            base = -1
        elif base in self.fixed:
            mod = 2
        width = (4 if base < 0 else 0, 1, 4)[mod]
        displacement = rng.randrange(-128, 128) if mod == 1 else 0
        if width == 4:
            displacement = target - index_part - (registers[base] if base >= 0 else 0)
        else:
            self.aim(base, target - index_part - displacement & 0xFFFF_FFFF)
        modrm = bytes([mod << 6 | reg << 3 | rm])
        return modrm + sib + (displacement & (1 << 8 * width) - 1).to_bytes(width, "little")

    # -- what the instruction uses without saying so -------------------------------------------------------------------

    def implicit(self) -> None:
        """Aim the registers that the instruction takes for addresses and counts."""
        mnemonic, row, rng = self.row.mnemonic, self.row, self.rng
        if mnemonic in STACK:
            self.aim(ESP, self.target(), bits=16 if self.mode.stack == 0x30 else 32)
        if mnemonic in ("enter", "leave"):
            self.aim(EBP, self.target(), bits=16 if self.mode.stack == 0x30 else 32)
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
                self.registers[EAX] = byte[0] * 0x0101_0101
        if mnemonic in PORTS:
            self.aim(EDX, rng.randrange(0x1000, 0xFFFF), bits=16)
        if "CL" in row.operands and rng.random() < 0.8:
            self.aim(ECX, rng.randrange(40), bits=8)
        if mnemonic in ("div", "idiv") and rng.random() < 0.6:
            self.registers[EDX] = rng.choice((0, 0, 1, 0xFFFF_FFFF, rng.getrandbits(8)))

    def stack_contents(self) -> None:
        """Put a return address, a far one, flags or a selector on the stack, where the instruction pops one."""
        mnemonic, width = self.row.mnemonic, self.size // 8
        top = self.registers[ESP] & (0xFFFF if self.mode.stack == 0x30 else 0xFFFF_FFFF)
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
                self.poke(top + 2 * width, *[self.target(), outer] * 8, width=width)
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
    elif mnemonic in ("lar", "lsl", "verr", "verw", "arpl") or draft.row.operands[0] == "Sw":
        draft.poke(target, draft.selector(), width=2)
    elif mnemonic == "bound" and draft.rng.random() < 0.7:
        draft.poke(target, 0, -1 & (1 << draft.size - 1) - 1, width=draft.size // 8)
    elif draft.rng.random() < 0.5:
        draft.poke(target, number(draft.rng), number(draft.rng), width=4)


def _modrm(draft: Draft) -> bytes:
    """Return the ModRM byte of the row with what belongs to it."""
    row, rng, registers = draft.row, draft.rng, draft.registers
    letters = {code[0]: code for code in row.operands if code not in FIXED}
    reg = row.extension if row.extension >= 0 else rng.randrange(8)
    if "S" in letters:
        reg = rng.randrange(6)  # CS as a destination is undefined
    elif "C" in letters:
        reg = rng.choice((0, 2, 3, 4))
    operand = letters.get("E") or letters.get("M")
    # Of SMSW r32 the manual leaves the upper half undefined.
    both = "E" in letters and not (row.mnemonic == "smsw" and draft.size == 32)
    if operand is None or (both and rng.random() < 0.35):
        rm = rng.randrange(8)
        if row.mnemonic in ("jmp", "call"):
            draft.aim(rm, draft.landing())
        elif row.mnemonic in ("lar", "lsl", "verr", "verw", "arpl") or letters.get("S") == "Sw":
            draft.aim(rm, draft.selector(), bits=16)
        return bytes([0xC0 | reg << 3 | rm])
    if row.mnemonic in ("bt", "bts", "btr", "btc") and row.operands[1] == "Gv":
        if reg in draft.fixed:
            reg = EAX
        draft.aim(reg, rng.randrange(-4000, 4000) & (1 << draft.size) - 1, bits=draft.size)
    code, target = draft.memory(reg)
    _prepare_operand(draft, operand, target)
    if row.mnemonic == "cmpxchg8b" and rng.random() < 0.5:
        draft.poke(target, registers[EAX], registers[EDX], width=4)
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
            width = 1 if code == "Jb" else size // 8
            displacement = rng.randrange(-0x80, 0x80) if width == 1 else rng.randrange(-0x8000, 0x8000)
            if (draft.address + so_far + width + displacement) % SLOT == 0:
                displacement ^= 1  # Unicorn looks at the target, and would keep what stands there: no slot's start
            result += (displacement & (1 << 8 * width) - 1).to_bytes(width, "little")
        else:
            width = {"b": 1, "x": 1, "w": 2}.get(code[1], size // 8)
            value = number(rng, 8 * width)
            if row.mnemonic == "enter":
                value = rng.randrange(0x200) if width == 2 else rng.choice((0, 0, 1, 2, 5, 31, 32))
            elif row.mnemonic in ("in", "out"):
                value = rng.randrange(0xC0, 0xF0)
            elif row.mnemonic in ("ret", "retf"):
                value = rng.randrange(0x200)
            elif row.mnemonic in ("aam", "aad") and rng.random() < 0.5:
                value = 10
            result += value.to_bytes(width, "little")
    return result


def _prefixes(rng: random.Random, row: Row, mode: Mode) -> tuple[bytes, int, int]:
    """Return prefixes in any order, the operand size and the address size that they make."""
    prefixes = []
    size = row.size if row.size > 8 else 16 if rng.random() < 0.35 else 32
    if row.bare:
        size = mode.bits
    if size != mode.bits:
        prefixes.append(0x66)
    address_size = row.address_size or (16 if rng.random() < 0.2 else 32)
    if address_size != mode.bits:
        prefixes.append(0x67)
    if rng.random() < 0.1:
        prefixes.append(rng.choice(b"\x26\x36\x3e\x64\x65"))
    if row.repeat and rng.random() < 0.6:
        prefixes.append(rng.choice(b"\xf2\xf3"))
    rng.shuffle(prefixes)
    return bytes(prefixes), size, address_size


def make_trial(rng: random.Random, row: Row, slot: int) -> Trial:
    """Return a random trial of a row, with its code in the arena's slot `slot`."""
    modes = modes_of(row)
    mode = rng.choices(modes, [WEIGHTS[MODES.index(mode)] for mode in modes])[0]
    prefixes, size, address_size = _prefixes(rng, row, mode)
    registers = [number(rng) for _ in range(8)]
    draft = Draft(rng, row, mode, CODE + slot * SLOT, size, address_size, registers)
    flags = rng.getrandbits(32) & FREE_FLAGS | 2 | (rng.getrandbits(32) & IOPL)
    draft.implicit()
    draft.stack_contents()
    opcode = row.opcode
    rest = _modrm(draft) if row.has_modrm else b""
    if any(code[0] == "Z" for code in row.operands):
        opcode = opcode[:-1] + bytes([opcode[-1] + rng.randrange(8)])
    # Unicorn gives LOCK NEG the flags of its operand (mended in later versions of QEMU).
    if row.lockable and row.mnemonic != "neg" and rest[0] < 0xC0 and rng.random() < 0.1:
        prefixes += b"\xf0"
    if opcode[0] == 0xF3:
        prefixes, opcode = prefixes + b"\xf3", opcode[1:]
    code = prefixes + opcode + rest
    code += _immediates(draft, len(code))
    assert all(0 <= where < LOW_SIZE for where, _ in draft.pokes)
    return Trial(mode, draft.address, code, tuple(draft.registers), flags, tuple(draft.pokes))
