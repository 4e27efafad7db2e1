"""Ported kernels for tests: a prelude, and an independent audit of what the processor walks.

The prelude sets handlers for all exceptions and for events. A kernel's `main` comes after it. `try` runs the instruction
behind it; an exception there is logged, and the kernel goes on after it.
"""

from __future__ import annotations

import struct
from functools import cache

from vmlab.machine.image import flat
from vmlab.machine.program import assemble
from vmlab.vmm.techniques import build

MEMORY = 4 << 20
LIMIT = 200_000

PRELUDE = """
bits 32
org 0x100000
KERNEL_CODE equ 0xE019
KERNEL_DATA equ 0xE021
USER_CODE equ 0xE02B
USER_DATA equ 0xE033
SELF    equ 0x7FF0
M2P     equ 0xFF800000
%macro note 2
        dd 4, 4, %1
        db "Xen", 0
        dd %2
%endmacro
        note 1, start
        dd 4, 8, 5
        db "Xen", 0, "xen-3.0", 0
%macro hypercall 1-6 0, 0, 0, 0, 0
        mov ebx, %2
        mov ecx, %3
        mov edx, %4
        mov esi, %5
        mov edi, %6
        mov eax, %1
        int 0x82
%endmacro
%macro try 1+                           ; an instruction that may fault
        mov dword [resume], %%after
        %1
%%after: mov dword [resume], 0
%endmacro

start:  mov [info], esi
        mov [stack], esp
        mov eax, [esi + 68]
        mov [p2m], eax
        mov eax, [esi + 52]
        mov eax, [M2P + eax * 4]
        shl eax, 12
        mov [ring], eax
        mov eax, [esi + 56]
        mov [console_port], eax
        mov edi, [esi + 36]
        or edi, 3
        hypercall 14, shared, edi
        hypercall 0, trap_table
        hypercall 4, KERNEL_CODE, upcall, KERNEL_CODE, upcall
        jmp main
quit:   hypercall 29, 2, reason
crash:  hypercall 29, 2, reason_crash
machine: shr eax, 12                    ; the machine address of the page EAX
        shl eax, 2
        add eax, [p2m]
        mov eax, [eax]
        shl eax, 12
        ret
align 16
stubs:
%assign vector 0
%rep 32
align 16
%if vector != 8 && (vector < 10 || vector > 14) && vector != 17
        push dword 0
%endif
        push dword vector
        jmp trap
%assign vector vector + 1
%endrep
trap:   push eax                        ; then vector, error code, EIP, CS, EFLAGS, ESP and SS from user mode
        push ecx
        mov ecx, [ss:events]
        inc dword [ss:events]
        and ecx, 63
        shl ecx, 5
        mov eax, [esp + 8]
        mov [ss:log + ecx], eax
        mov eax, [esp + 12]
        mov [ss:log + ecx + 4], eax
        mov eax, [esp + 16]
        mov [ss:log + ecx + 8], eax
        mov eax, [esp + 20]
        mov [ss:log + ecx + 12], eax
        mov eax, [esp + 24]
        mov [ss:log + ecx + 16], eax
        mov eax, [ss:shared + 8]
        mov [ss:log + ecx + 20], eax
        cmp dword [ss:resume], 0
        je crash
        mov eax, [ss:resume]
        mov [esp + 16], eax
        pop ecx
        pop eax
        add esp, 8
        push eax
        mov eax, 23
        int 0x82
upcall: push eax
        inc dword [ss:upcalls]
        mov byte [ss:shared], 0
        mov dword [ss:shared + 4], 0
        xor eax, eax
        xchg eax, [ss:shared + 0x800]
        or [ss:pending], eax
        mov eax, 23
        int 0x82
align 8
trap_table:
%assign vector 0
%rep 32
        db vector, 3
        dw KERNEL_CODE
        dd stubs + vector * 16
%assign vector vector + 1
%endrep
        dd 0, 0
info:   dd 0
stack:  dd 0
p2m:    dd 0
ring:   dd 0
console_port: dd 0
reason: dd 0
reason_crash: dd 3
resume: dd 0
events: dd 0
upcalls: dd 0
pending: dd 0
log:    times 64 * 8 dd 0
"""
PAGES = """
align 4096
shared: times 4096 db 0
page_1: times 4096 db 0
page_2: times 4096 db 0
page_3: times 4096 db 0
page_4: times 4096 db 0
"""
SHUT = ("exit", 1)
CRASHED = ("exit", 3)


@cache
def kernel(source: str, name: str = "ported"):
    """Return the image of a ported kernel: the prelude, `source`, which holds `main`, and five pages of data."""
    return assemble(PRELUDE + source + PAGES, name)


def started(source: str, count: int = 1, **options):
    """Return a system with so many guests of a kernel, not run yet."""
    options.setdefault("memory", MEMORY)
    options.setdefault("max_instructions", LIMIT)
    return build([kernel(source)] * count, "paravirtualization", **options)


def finish(source: str, **options):
    """Run a kernel to its end; return the system and its guest."""
    system = started(source, **options)
    system.run()
    return system, system.guests[0]


def word(guest, name: str, offset: int = 0) -> int:
    """Return a word of a guest's memory at a symbol."""
    return guest.memory.read(guest.image.symbols[name] + offset, 4)


def log(guest) -> list[tuple[int, ...]]:
    """Return the exceptions that a kernel took: vector, error code, EIP, CS, EFLAGS, CR2."""
    return [
        struct.unpack("<6I", guest.memory.read_bytes(guest.image.symbols["log"] + 32 * n, 24))
        for n in range(word(guest, "events"))
    ]


def frame_of(guest, name: str) -> int:
    """Return the frame behind the page of a symbol."""
    return guest.memory.frames[guest.image.symbols[name] >> 12]


# -- the audit -----------------------------------------------------------------------------------------------------------

WINDOW_SLOTS = range(1022, 1024)


def entries(memory, frame: int):
    """Return the entries of a page table."""
    return struct.unpack("<1024I", memory.read_bytes(frame << 12, 4096))


def audit(system) -> None:
    """Walk everything from the roots, and assert that no guest can write to a table or reach what is not its own."""
    memory, frames = system.machine.memory, system.frames
    owners = {}
    for number, domain in enumerate(system.domains):
        owners |= dict.fromkeys(domain.memory.frames, number)
        owners[domain.shared >> 12] = number
    directories, tables, uses, writable = set(), set(), {}, {}
    for number, domain in enumerate(system.domains):
        roots = [domain.base >> 12, *(frame for frame in frames.pinned if owners[frame] == number)]
        for frame in roots:
            uses[frame] = uses.get(frame, 0) + 1
            (directories if frame == domain.base >> 12 or frames.types[frame] == 3 else tables).add(frame)
        writable |= dict.fromkeys(domain.held, 1)
    for directory in sorted(directories):
        found = entries(memory, directory)
        assert [found[slot] & ~0x60 for slot in WINDOW_SLOTS] == [each & ~0x60 for each in system.switcher.reserved]
        for entry in found[:1022]:
            if entry & 1:
                assert not entry & 0x180
                assert owners.get(entry >> 12) == owners[directory], "a directory leads to a frame of somebody else"
                tables.add(entry >> 12)
                uses[entry >> 12] = uses.get(entry >> 12, 0) + 1
    for table in sorted(tables):
        for entry in entries(memory, table):
            if entry & 1:
                assert not entry & 0x180
                assert owners.get(entry >> 12) == owners[table], "a page of somebody else is mapped"
                if entry & 2:
                    writable[entry >> 12] = writable.get(entry >> 12, 0) + 1
    assert not directories & tables
    assert not (directories | tables) & set(writable), "a page table is mapped writable"
    expected = {frame: (3 if frame in directories else 2, count) for frame, count in uses.items()}
    expected |= {frame: (1, count) for frame, count in writable.items()}
    counted = {frame: (int(frames.types[frame]), count) for frame, count in enumerate(frames.counts) if count}
    assert counted == expected
    _audit_tlb(system, owners, directories | tables)


def _audit_tlb(system, owners, tables) -> None:
    """Assert the same of what the processor holds of the guest that runs, right or stale."""
    cpu = system.machine.cpu
    current = {number for number, domain in enumerate(system.domains) if domain.base == cpu.cr3}
    for first, _, entry in cpu.tlb.pages():
        frame = entry.frame >> 12
        if first << 12 >= 0xFF800000:
            assert not entry.user
            assert first << 12 >= 0xFFC00000 or not entry.writable
            continue
        assert owners.get(frame) in current, "the TLB leads to a frame of somebody else"
        assert not (entry.writable and frame in tables), "the TLB lets a page table be written to"


def image_of(data: bytes):
    """Return a flat image, which is not ported unless its bytes say so."""
    return flat(data, 0x100000)
