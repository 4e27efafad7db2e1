"""Random programs for a computer with tables: loops, calls, every kind of operand, faults that a handler repairs or skips.

0x10000  code      0x20000  data, two pages      0x30000  a page that is not present (or read-only) at times
0x40000  page directory    0x41000  page table: the first 4 (or 2) MiB one to one    0x42000  its pointer, for PAE
0x100000 the same page as 0x20000, by another linear address
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.machine.computer import CODE, DATA, HANDLERS, Computer
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.registers import CR0_PG, CR0_WP, CR4_PAE, IF

if TYPE_CHECKING:
    import random

DIRECTORY, TABLE, POINTERS, ABSENT, ALIAS = 0x4_0000, 0x4_1000, 0x4_2000, 0x3_0000, 0x10_0000
MEMORY = 1 << 20
WIDE = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi")
HALF = ("ax", "cx", "dx", "bx", "bp", "si", "di")
BYTE = ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh")
SETS = {32: WIDE, 16: HALF, 8: BYTE}
WORDS = {32: "dword", 16: "word", 8: "byte"}
CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
NUMBERS = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)


class Author:
    """Writes one program."""

    def __init__(self, rng: random.Random, entry: int = 4) -> None:
        self.rng = rng
        self.entry = entry  # bytes of a page-table entry
        self.labels = 0

    def label(self) -> str:
        self.labels += 1
        return f"l{self.labels}"

    def number(self, size: int) -> int:
        rng = self.rng
        value = rng.choice(NUMBERS) if rng.random() < 0.6 else rng.getrandbits(32)
        return value & (1 << size) - 1

    def register(self, size: int) -> str:
        return self.rng.choice(SETS[size])

    def memory(self, size: int) -> str:
        """Return an operand in the data page: ESI and EDI point there, EBX is a small index at times."""
        rng = self.rng
        offset = rng.randrange(0, 0x800) & (-1 if rng.random() < 0.25 else -4)
        kind = rng.random()
        if kind < 0.35:
            place = f"{rng.choice(('esi', 'edi'))} + {offset}"
        elif kind < 0.45:
            place = f"{rng.choice(('esi', 'edi'))} - {offset & 0xFF}"
        elif kind < 0.7:
            place = f"{DATA + offset}"
        elif kind < 0.78:
            place = f"{DATA + 0xFFE - rng.randrange(3)}"
        elif kind < 0.88:
            place = f"{ALIAS + offset}"
        elif kind < 0.92:
            place = f"esi + edi - {DATA - offset}"
        elif kind < 0.95:
            place = f"{rng.choice((ABSENT, 0xB8000, CODE)) + offset}"
        elif kind < 0.97:
            return f"{WORDS[size]} [esp + {offset & 0x3C}]"
        else:
            place = f"{rng.choice(WIDE)} + {rng.choice(WIDE)} * 4 + {offset}"
        segment = rng.choice(("es:", "ss:", "fs:", "cs:")) if rng.random() < 0.05 else ""
        return f"{WORDS[size]} [{segment}{place}]"

    def either(self, size: int, chance: float = 0.4) -> str:
        return self.memory(size) if self.rng.random() < chance else self.register(size)

    def instruction(self) -> str:  # noqa: PLR0911 - a table of cases
        rng = self.rng
        size = rng.choice((32, 32, 32, 16, 8))
        kind = rng.randrange(20)
        if kind < 5:
            name = rng.choice(("add", "sub", "adc", "sbb", "and", "or", "xor", "cmp", "test", "mov"))
            left = self.either(size)
            right = self.register(size) if "[" in left or rng.random() < 0.3 else self.either(size, 0.6)
            if rng.random() < 0.3 or (name == "test" and "[" in right):
                right = str(self.number(size))
            return f"{name} {left}, {right}"
        if kind < 7:
            return f"{rng.choice(('inc', 'dec', 'neg', 'not', 'inc', 'dec'))} {self.either(size)}"
        if kind < 9:
            amount = "cl" if rng.random() < 0.4 else str(rng.randrange(34))
            return f"{rng.choice(('shl', 'shr', 'sar', 'rol', 'ror', 'rcl', 'rcr'))} {self.either(size)}, {amount}"
        if kind == 9:
            amount = "cl" if rng.random() < 0.5 else str(rng.randrange(34))
            return f"{rng.choice(('shld', 'shrd'))} {self.either(32)}, {self.register(32)}, {amount}"
        if kind == 10:
            return rng.choice(
                (
                    f"imul {self.register(32)}, {self.either(32)}",
                    f"imul {self.register(32)}, {self.either(32)}, {self.number(32)}",
                    f"imul {self.either(size)}",
                    f"mul {self.either(size)}",
                    f"div {self.either(size)}",
                    f"idiv {self.either(size)}",
                )
            )
        if kind == 11:
            suffix = rng.choice(CONDITIONS)
            return rng.choice((f"set{suffix} {self.either(8)}", f"cmov{suffix} {self.register(32)}, {self.either(32)}"))
        if kind == 12:
            name = rng.choice(("bt", "bts", "btr", "btc"))
            return rng.choice(
                (f"{name} {self.either(32)}, {rng.randrange(40)}", f"{name} {self.register(32)}, {self.register(32)}")
            )
        if kind == 13:
            return rng.choice(
                (
                    f"bsf {self.register(32)}, {self.either(32)}",
                    f"bsr {self.register(32)}, {self.either(32)}",
                    f"bswap {self.register(32)}",
                    f"movzx {self.register(32)}, {self.either(rng.choice((8, 16)))}",
                    f"movsx {self.register(32)}, {self.either(rng.choice((8, 16)))}",
                    f"lea {self.register(32)}, [{rng.choice(WIDE)} + {rng.choice(WIDE)} * 2 - 3]",
                    f"xchg {self.either(size)}, {self.register(size)}",
                    f"xadd {self.either(size)}, {self.register(size)}",
                    f"cmpxchg {self.either(size)}, {self.register(size)}",
                )
            )
        if kind == 14:
            return rng.choice(("clc", "stc", "cmc", "cld", "std", "cdq", "cwde", "cbw", "sahf", "lahf", "nop", "xlat"))
        if kind == 15:
            register = self.register(32)
            return rng.choice(
                (f"push {register}\n pop {self.register(32)}", f"push {self.memory(32)}\n pop {self.memory(32)}")
            )
        if kind == 16:
            return rng.choice(
                ("pushad\n popad", "push ebp\n mov ebp, esp\n leave", "pushfd\n pop eax", "push 7\n pop ecx")
            )
        if kind == 17:
            return rng.choice(("lodsd", "lodsb", "stosd", "stosw", "movsd", "movsb", "scasd", "cmpsb"))
        if kind == 18:
            width = rng.choice("bwd")
            return f"mov ecx, {rng.randrange(60)}\n rep {rng.choice(('movs', 'stos', 'lods'))}{width}"
        skip = self.label()
        return f"j{rng.choice(CONDITIONS)} {skip}\n {self.instruction()}\n {skip}:"

    def special(self) -> str:
        """Return what changes more than registers and data; each finds the computer as it was or as it can go on."""
        rng = self.rng
        place = self.label()
        return rng.choice(
            (
                "mov eax, cr3\n mov cr3, eax",
                f"invlpg [{DATA}]",
                f"xor dword [{TABLE + (DATA >> 12) * self.entry}], 2",
                f"xor dword [{TABLE + (ABSENT >> 12) * self.entry}], 1\n invlpg [{ABSENT}]",
                f"{place}: mov eax, {self.number(32)}\n mov [{place} + 1], ebx",
                f"mov byte [{place} + 1], {rng.randrange(256)}\n {place}: mov eax, {self.number(32)}",
                "in al, 0x61\n nop",
                "cli\n sti",
                f"mov esi, {DATA + 0x400}\n mov edi, {DATA + 0xC00}",
                f"mov esi, {ALIAS + 0x400}\n mov edi, {DATA + 0x800}",
                "int3",
                "call function",
                "mov eax, function\n call eax",
                f"mov eax, {place}\n jmp eax\n {place}:",
                "pushfd\n or dword [esp], 0x100\n popfd\n inc eax\n add ebx, 3",
                f"push cs\n push {place}\n retf\n {place}:",
                f"pushfd\n push cs\n push {place}\n iret\n {place}:",
                f"mov eax, {rng.choice(('ds', 'es', 'fs', 'ss'))}\n mov {rng.choice(('ds', 'es', 'fs'))}, eax",
                "push es\n pop fs",
                "pushfd\n cli\n popfd",
                f"lock {rng.choice(('inc', 'not', 'neg'))} dword [{DATA + 0x40}]",
                f"lock xadd [{DATA + 0x40}], ecx",
                "out 0x80, al",
                "cpuid",
                "rdtsc",
                "clts",
                f"mov ecx, [{DATA + 0xFF0}]\n mov [{CODE + 0xFF0}], ecx",
            )
        )

    def program(self) -> str:
        """Return a program: a few loops around and behind each other, for ever."""
        rng = self.rng
        lines = ["start:", f"mov esi, {DATA + 0x400}", f"mov edi, {DATA + 0xC00}"]
        for _ in range(rng.randrange(1, 4)):
            head, counter = self.label(), DATA + 0x1800 + 4 * rng.randrange(64)
            lines += [f"mov dword [{counter}], {rng.randrange(3, 40)}", f"{head}:"]
            for _ in range(rng.randrange(2, 14)):
                lines.append(self.instruction() if rng.random() < 0.9 else self.special())
            lines += [f"sub dword [{counter}], 1", f"jnz near {head}"]
        lines += ["jmp near start", "function:"]
        lines += [self.instruction() for _ in range(rng.randrange(1, 4))]
        lines.append("ret")
        return "\n".join(lines)


HANDLER = """
        push eax
        mov eax, [esp + {ip}]           ; skip: the faulting instruction is as long as the program says in its table
        movzx eax, byte [eax - {code} + {lengths}]
        add [esp + {ip}], eax
        mov dword [{table}], 7          ; and every page is there again
        mov eax, cr3
        mov cr3, eax
        pop eax
        {drop}
        iret
"""
LENGTHS = 0x5_0000


def computer(rng: random.Random, *, pae: bool = False) -> Computer:
    """Return a computer with a random program; mostly with paging, of 32 bits or PAE."""
    entry = 8 if pae else 4
    while True:
        source = Author(rng, entry).program()
        try:
            program = assemble(source, CODE, 32)
        except Exception:  # noqa: BLE001 - a combination that has no encoding
            continue
        if len(program.code) < 0xFF0:
            break
    ring = 3 if rng.random() < 0.2 else 0
    found = Computer(memory=MEMORY)
    memory = found.memory
    lengths = bytearray(b"\1" * 0x1000)
    for address, length, _ in program.lines:
        if length:
            lengths[address - CODE] = length
    memory.write_bytes(LENGTHS, bytes(lengths))
    for vector in range(33):
        with_error = vector in (8, 10, 11, 12, 13, 14)
        text = HANDLER.format(
            ip=8 if with_error else 4,
            code=CODE,
            lengths=LENGTHS,
            table=TABLE + (ABSENT >> 12) * entry,
            drop="add esp, 4" if with_error else "",
        )
        if vector == 1:
            text = "and dword [esp + 8], 0xFFFFFEFF\n iret"  # one step was enough
        if vector in (3, 32):
            text = "push eax\n mov al, 0x20\n out 0x20, al\n pop eax\n iret" if vector == 32 else "iret"
        place = 0x6_0000 + 0x80 * vector
        memory.write_bytes(place, assemble(text, place, 32).code)
        jump = place - (HANDLERS + 16 * vector) - 5
        memory.write_bytes(HANDLERS + 16 * vector, b"\xe9" + (jump & 0xFFFF_FFFF).to_bytes(4, "little"))
    for page in range(0x1000 // entry):
        memory.write(TABLE + entry * page, entry, page % (MEMORY >> 12) << 12 | 7)
    memory.write(TABLE + (ALIAS >> 12) * entry, entry, DATA | 7)
    memory.write(TABLE + (ABSENT >> 12) * entry, entry, ABSENT | rng.choice((0, 5, 7)))
    memory.write(DIRECTORY, entry, TABLE | 7)
    memory.write(POINTERS, 8, DIRECTORY | 1)
    memory.write_bytes(DATA, rng.randbytes(0x2000))
    found.load(source, ring, flags=2 | IF | (3 << 12))
    for index in range(8):
        if index != 4:
            found.cpu.registers[index] = rng.choice(NUMBERS)
    if rng.random() < 0.9:
        found.cpu.set_cr4(CR4_PAE if pae else 0)
        found.cpu.set_cr3(POINTERS if pae else DIRECTORY)
        found.cpu.set_cr0(found.cpu.cr0 | CR0_PG | CR0_WP)
    if rng.random() < 0.5:
        bus = found.machine.bus
        for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3), (0x21, 0xFE), (0x43, 0x34)):
            bus.port_write(port, 1, value)
        bus.port_write(0x40, 1, rng.randrange(8, 200))
        bus.port_write(0x40, 1, 0)
    return found
