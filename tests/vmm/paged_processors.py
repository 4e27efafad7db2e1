"""Random kernels on several processors with paging: each changes page tables that all share, while the others use them.

    0x02000   IDT, stacks, code: see `tests.machine.several`
    0x100000  two sets of tables, which share all but the topmost: the first 2 MiB, the window, the local APIC
    0x110000  frames that the window maps, the first four of them with code
    0x400000  the window; at 0x600000, in the second set alone, it is there once more

A processor has slots of the window of its own, which nobody else uses: it maps, unmaps and looks at accessed and dirty bits
as it likes, and invalidates what only its own TLB can hold. Slots for all are changed by a shootdown: the others wait in an
interrupt handler until it is done, and invalidate the page there. So no translation is used that may be stale, and each
technique must give the same, bit for bit.
"""

from __future__ import annotations

import random
from functools import cache

import vmlab
from tests.machine.several import APIC, CODE, IDT, PRELUDE, STACKS
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate
from vmlab.isa.x86.registers import EDI, ESP
from vmlab.vmm.techniques import build

ITEMS = 16
TOPS, LOW, TABLE, HIGH, DIRECTORIES, LAST = (
    (0x100000, 0x101000),
    0x102000,
    0x103000,
    0x104000,
    (0x105000, 0x106000),
    0x107000,
)
FRAMES, FUNCTIONS, POOL = 0x110000, 4, 48
WINDOW, AGAIN = 0x400000, 0x600000
OWN, SHARED = 16, range(64, 72)
HANDLERS = {2: "nmi", 14: "page_fault", 0x40: "tell", 0x41: "shot", 0x42: "tell"}
ALL = 7


def _frame(choose: random.Random) -> int:
    return FRAMES + (choose.randrange(FUNCTIONS, POOL) << 12)


def operation(choose: random.Random, number: int, cpu: int, width: int, tops: list[int]) -> str:
    """One piece of work in the loop of a processor: EBP counts down."""
    slot = OWN * cpu + choose.randrange(1, OWN)
    base = WINDOW  # where its slots are used from: the second window is in the second set of tables alone
    page, entry = base + (slot << 12), TABLE + width * slot
    place = f"[{page + 4 * choose.randrange(1024)}]"
    common = choose.choice(SHARED)
    shared = f"[{WINDOW + (common << 12) + 4 * choose.randrange(1024)}]"
    word = f"[data + {4 * choose.randrange(32)}]"
    register = choose.choice(("eax", "ebx", "ecx", "edx"))
    code, most = OWN * cpu, 1024 if slot % OWN == OWN - 1 else 1500  # words, of its own pages
    function = FRAMES + (choose.randrange(FUNCTIONS) << 12)
    rights = choose.choice((1, 3, 3, 5, 7, 7))
    return choose.choice((
        f"mov {register}, {place}\n add {word}, {register}",
        f"add {place}, ebp",
        f"mov {place}, {register}\n mov {register}, {place}",
        f"mov dword [{entry}], {_frame(choose) | rights}\n invlpg [{page}]",
        f"mov dword [{entry}], 0\n invlpg [{page}]",
        f"mov dword [{entry}], 0\n mov eax, cr3\n mov cr3, eax",
        f"and dword [{entry}], ~0x60\n invlpg [{page}]",
        f"mov eax, [{entry}]\n and eax, 0x60\n add {word}, eax",
        f"mov eax, {choose.choice(tops)}\n mov cr3, eax",
        "mov eax, cr0\n xor eax, 0x10000\n mov cr0, eax\n mov eax, cr3\n mov cr3, eax",
        f"mov eax, {common}\n mov ebx, {choose.choice((0, _frame(choose) | 7, _frame(choose) | 5))}\n call shoot",
        f"mov {register}, {shared}\n add {word}, {register}",
        f"add {shared}, ebp",
        f"mov dword [{TABLE + width * code}], {function | 1}\n invlpg [{base + (code << 12)}]\n call {base + (code << 12)}",
        f"mov dword [{function + 1}], ebp\n call {function}",
        f"push edi\n mov edi, {page}\n mov ecx, {choose.randrange(1, most)}\n rep stosd\n pop edi",
        f"mov dword [edi + ICR_HIGH], {choose.randrange(4)} << 24\n mov dword [edi + ICR], {choose.choice((0x4040, 0x4400))}",
        f"lock xadd {word}, {register}",
        f"push ecx\n mov ecx, {choose.randrange(1, 60)}\n .here{number}: inc dword {word}\n loop .here{number}\n pop ecx",
        "pause" if choose.random() < 0.7 else "hlt",
    ))  # fmt: skip


def program(seed: int, width: int) -> tuple[str, int]:
    """A source for tables with entries of 4 or 8 bytes, and for how many processors."""
    choose = random.Random(seed)
    processors = choose.randrange(2, 5)
    parts = []
    for cpu in range(processors):
        tops = [choose.choice(TOPS), choose.choice(TOPS)]
        work = "\n".join(operation(choose, number, cpu, width, tops) for number in range(ITEMS))
        parts.append(
            f"""
    work{cpu}: mov eax, {0x20 if width == 8 else 0x10}
            mov cr4, eax
            mov eax, {tops[0]}
            mov cr3, eax
            mov eax, cr0
            or eax, {choose.choice((0x80000000, 0x80010000))}
            mov cr0, eax
            mov dword [edi + 0x320], 0x20042         ; a periodic timer, so that all that halt go on
            mov dword [edi + 0x3E0], 0xB
            mov dword [edi + 0x380], {choose.randrange(9_000, 30_000)}
            mov ebp, {choose.randrange(20, 60)}
            sti
    .again: {work}
            dec ebp
            jnz .again
            lock inc dword [done]
            jmp finish
    """
        )
    table = ", ".join(f"work{cpu}" for cpu in range(processors))
    source = f"""
    first:  mov eax, {processors - 1}
            call start_all
            xor ebx, ebx
    others: lock inc dword [here]
    .wait:  pause                                   ; nobody can be shot at before he is there
            cmp dword [here], {processors}
            jb .wait
            jmp [works + 4 * ebx]
    finish: pause
            cmp dword [done], {processors}
            jb finish
            mov al, 0
            out 0xF4, al
    {"".join(parts)}
    tell:   inc dword [told]
            mov dword [{APIC} + EOI], 0
            iret
    nmi:    inc dword [told + 4]
            iret

    page_fault:                                     ; map the page, or let it be written to
            push eax
            push ebx
            mov eax, cr2
            lock add [faults + 4], eax
            mov ebx, eax
            shr ebx, 12
            and ebx, 0x1FF
            lock inc dword [faults]
            lock add dword [faults + 8], ebx
            shl ebx, 12
            and ebx, 0xF000                         ; frames of the pool
            add ebx, {FRAMES + (FUNCTIONS << 12) | ALL}
            push ecx
            mov ecx, eax
            shr ecx, 12
            and ecx, 0x1FF
            mov [{TABLE} + {width} * ecx], ebx
            invlpg [eax]
            pop ecx
            pop ebx
            pop eax
            add esp, 4
            iret

    ; Change slot EAX of the window, for all, to EBX.
    shoot:  mov ecx, 1
            xchg ecx, [lock_word]
            test ecx, ecx
            jz .mine
            pause
            jmp shoot
    .mine:  mov [slot], eax
            mov dword [arrived], 0
            mov dword [go], 0
            mov dword [left], 0
            mov dword [edi + ICR], 3 << 18 | 0x4041
    .wait:  pause
            cmp dword [arrived], {processors - 1}
            jb .wait
            mov [{TABLE} + {width} * eax], ebx
            shl eax, 12
            invlpg [{WINDOW} + eax]
            mov dword [go], 1
    .more:  pause
            cmp dword [left], {processors - 1}
            jb .more
            mov dword [lock_word], 0
            ret
    shot:   push eax
            lock inc dword [arrived]
    .wait:  pause
            cmp dword [go], 1
            jne .wait
            mov eax, [slot]
            shl eax, 12
            invlpg [{WINDOW} + eax]
            lock inc dword [left]
            mov dword [{APIC} + EOI], 0
            pop eax
            iret
    align 4096
    works   dd {table}
    done    dd 0
    told    dd 0, 0
    faults  dd 0, 0, 0
    lock_word dd 0
    slot    dd 0
    arrived dd 0
    go      dd 0
    left    dd 0
    align 256
    data    times 32 dd 0
    """
    return source, processors


@cache
def assembled(seed: int, width: int, pauses: bool = True):
    """Return the kernel of a seed, and for how many processors it is."""
    source, processors = program(seed, width)
    source = PRELUDE + source
    return assemble(source if pauses else source.replace("pause", "nop"), CODE), processors


def write_tables(memory, width: int) -> None:
    """Write both sets of tables: the topmost is a directory, or, for PAE, four pointers."""

    def entry(table: int, slot: int, value: int) -> None:
        memory.write(table + width * slot, width, value)

    low, window, again, high = (address >> (22 if width == 4 else 21) for address in (0, WINDOW, AGAIN, APIC))
    for number, (top, directory) in enumerate(zip(TOPS, DIRECTORIES, strict=True)):
        uppermost, last = (top, top) if width == 4 else (directory, LAST)
        if width == 8:
            entry(top, 0, directory | 1)
            entry(top, 3, LAST | 1)
        entry(uppermost, low, LOW | ALL)
        entry(uppermost, window, TABLE | ALL)
        if number and again != window:
            entry(uppermost, again, TABLE | ALL)
        entry(last, high & 0x1FF if width == 8 else high, HIGH | ALL)
    for page in range(512):
        entry(LOW, page, page << 12 | ALL)
    entry(HIGH, APIC >> 12 & (0x3FF if width == 4 else 0x1FF), APIC | 0x1B)
    for number in range(FUNCTIONS):  # MOV EDX, n; ADD [EBP * 4 + frame of its own], EDX; RET
        code = assemble(f"mov edx, {number + 1}\nlock add [{FRAMES + (FUNCTIONS + number << 12)}], edx\nret").code
        memory.write_bytes(FRAMES + (number << 12), code)


def paged_system(seed: int, under: str, width: int = 4, *, pauses: bool = True, **options):
    """Return a system whose guest is the random kernel of a seed, ready at its first instruction."""
    code, processors = assembled(seed, width, pauses)
    assert CODE + len(code.code) < 0xA0000
    limit = {"max_instructions": 60_000} | options
    system = build(vmlab.guests.load("hello"), under, cpus=processors, memory=2 << 20, **limit)
    guest = system.guests[0]
    guest.memory.write_bytes(CODE, code.code)
    write_tables(guest.memory, width)
    for vector, label in HANDLERS.items():
        guest.memory.write(IDT + 8 * vector, 8, encode_gate(8, code.symbols[label], INTERRUPT_GATE32))
    cpu = guest.vcpu
    cpu.gdtr_base, cpu.gdtr_limit, cpu.idtr_base, cpu.idtr_limit = code.symbols["gdt"], 0x17, IDT, 0x7FF
    cpu.ip = code.symbols["first"]
    cpu.registers[ESP], cpu.registers[EDI] = STACKS + 0x400, APIC
    return system
