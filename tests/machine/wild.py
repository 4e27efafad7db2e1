"""Whole machines that run noise: a small kernel brings the processor into a mode and jumps into random bytes.

What the noise does wrong, the kernel forgives: its handler scrambles the registers, with addresses at which there is
something to break (device registers, tables, the ends of memory), and goes on a few bytes further. So a run lasts.
"""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any

from tests.machine.chaos import noise
from tests.machine.wild_long import ENTER_LONG, LONG, LONG_DIRECTORY, PAE, PAE_DIRECTORY, long_tables
from vmlab.isa.x86.assembler import assemble
from vmlab.machine.disk import Disk
from vmlab.machine.image import Image, Segment, from_disk
from vmlab.machine.program import boot_sector
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    from vmlab.vmm.system import System

MEMORY = 2 << 20
KERNEL, NOISE, NOISE_SIZE, POOL, POOL_SIZE = 0x10_0000, 0x11_0000, 0x4000, 0x12_0000, 0x4000
DIRECTORY = 0x8_0000
OUTCOMES = {"exit", "halt", "triple-fault", "livelock", "limit", "reset"}

# Where pointers of the noise go, between random ones
PLACES = (
    0, 0x7C00, 0xA0000, 0xB8000, 0xBFFFE, 0xF0000, 0xFFFFF, KERNEL, NOISE, NOISE + 0x1000, MEMORY - 1, MEMORY, 0xFEC00000,
    0xFEC00010, 0xFEE00000, 0xFEE000B0, 0xFEE00300, 0xFEE00320, 0xFEE00380, 0xFFFFFFFC, 0x80000000, 0xC0000000, 0x400000,
)  # fmt: skip
PORTS = (
    0x20, 0x21, 0xA0, 0xA1, 0x40, 0x42, 0x43, 0x60, 0x64, 0x70, 0x71, 0x92, 0xB2, 0xF4, 0x1F0, 0x1F1, 0x1F2, 0x1F6, 0x1F7, 0x3F6,
    0x3D4, 0x3D5, 0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC, 0x3FD, 0xCF8, 0xCFC, 0x3FF, 0xFFFF,
)  # fmt: skip

REGISTERS = (
    0x10, 0x1B, 0x174, 0x175, 0x176, 0x277, 0x1A0, 0x1D9, 0xC0000080, 0xC0000081, 0xC0000082, 0xC0000084, 0xC0000100, 0xC0000101,
    0xC0000102, 0xC0000103, 0xC4500, 0xC4601, 0xC4604, 0xC00FE,
    0x11, 0x80000011, 0x80010033, 0xA0, 0x20, 0x306B0, 0xD01, 0x500, 0x901, 0x8_0000, 0x8_2000, 0x8_4000,
)  # fmt: skip
"""Numbers of MSRs, and values that control registers and the APIC's interrupt command register take."""
CANONICAL = (
    0x7FFF_FFFF_FFFF,
    0x8000_0000_0000,
    0xFFFF_7FFF_FFFF_FFFF,
    0xFFFF_8000_0000_0000,
    (1 << 64) - 1,
    (1 << 64) - 8,
)

SETUP = """
bits 32
org 0x100000
start:
    mov esp, 0x9F000
    lgdt [gdt_pointer]
    lidt [idt_pointer]
    jmp 0x08:.flat
.flat:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    ; 256 gates: 0-31 forgive, the others acknowledge
    mov edi, idt
    xor ecx, ecx
.gate:
    mov eax, forgive
    cmp ecx, 32
    jb .exception
    mov eax, acknowledge
    jmp .set
.exception:
    mov edx, ERROR_CODES
    bt edx, ecx
    jnc .set
    mov eax, forgive_with_code
.set:
    mov [edi], ax
    mov word [edi + 2], 0x08
    mov word [edi + 4], 0xEE00
    shr eax, 16
    mov [edi + 6], ax
    add edi, 8
    inc ecx
    cmp ecx, 256
    jb .gate
    mov eax, tss
    mov [gdt + 0x3A], ax
    shr eax, 16
    mov [gdt + 0x3C], al
    mov word [tss + 8], 0x10
    mov dword [tss + 4], 0x98000
    mov word [tss + 0x66], 0x68
    mov ax, 0x38
    ltr ax
    {timer}
    {paging}
    {enter}

ERROR_CODES equ 0x00027D00       ; 8, 10-14, 17

forgive_with_code:
    add esp, 4
forgive:
    push ds
    push es
    pushad
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    cld
    ; new registers from the pool, and with each third of them a new place
    mov esi, [cursor]
    add esi, 36
    and esi, POOL_SIZE - 1
    mov [cursor], esi
    add esi, POOL
    mov edi, esp
    mov ecx, 8
    rep movsd
    lodsd
    or byte [edi + 17], 2         ; IF
    mov edx, [edi + 8]
    inc edx
    test al, 3
    jnz .near
    shr eax, 8
    and eax, {size} - 1
    lea edx, [eax + {window}]
.near:
    mov [edi + 8], edx
    popad
    pop es
    pop ds
    iretd
acknowledge:
    push eax
    mov al, 0x20
    out 0x20, al
    pop eax
    jmp forgive                   ; whatever loops, loops no longer

    align 8
gdt:
    dq 0
    dq 0x00cf9b000000ffff, 0x00cf93000000ffff     ; 08, 10: ring 0, 32 bits
    dq 0x00cffb000000ffff, 0x00cff3000000ffff     ; 18, 20: ring 3
    dq 0x000f9b000000ffff, 0x000f93000000ffff     ; 28, 30: ring 0, 16 bits
    dq 0x0000890000000067                         ; 38: TSS
    dq 0x00affb000000ffff                         ; 40: ring 3, 64 bits, where there are any
gdt_pointer: dw 0x47
    dd gdt
idt_pointer: dw 0x7FF
    dd idt
cursor: dd 0
tss: times 0x6C db 0
idt: times 2048 db 0
"""

TIMER = """
    ; the timer, at vector 20h
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xFE
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov al, 12
    out 0x40, al
    mov al, 0
    out 0x40, al
    ; other processors, if there are any, run the noise at 0x1000 in real mode
    mov edi, 0xFEE00300
    mov dword [edi], 0xC4500
    mov dword [edi], 0xC4601
"""

PAGING = """
    mov eax, 0x10
    mov cr4, eax
    mov eax, DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
"""

REAL = """
    ; sectors: this one, 32 of noise for 0x8000, 32 of the pool for 0x10000
    mov ax, 0x0220
    mov cx, 2
    mov dx, 0x0080
    mov bx, 0x8000
    int 0x13
    mov si, packet
    mov ah, 0x42
    int 0x13
    ; exceptions and the timer forgive; the BIOS keeps the rest
    mov si, vectors
    mov cx, 10
.next:
    lodsb
    movzx bx, al
    shl bx, 2
    mov word [bx], forgive
    mov word [bx + 2], 0
    loop .next
    mov word [4 * 8], tick
    mov word [4 * 8 + 2], 0
    mov al, 120
    out 0x40, al
    mov al, 0
    out 0x40, al
    sti
    jmp 0x8000
tick:
    push ax
    mov al, 0x20
    out 0x20, al
    pop ax
forgive:
    pushad
    push ds
    push es
    mov bp, sp
    xor bx, bx
    mov ds, bx
    cld
    mov bx, [cs:cursor]
    add bx, 36
    and bx, 0x3FFC
    mov [cs:cursor], bx
    mov ax, 0x1000
    mov ds, ax
    push ss
    pop es
    lea di, [bp + 4]
    mov si, bx
    mov cx, 16
    rep movsw
    lodsd
    inc word [bp + 36]
    or byte [bp + 41], 2          ; IF
    test al, 3
    jnz .near
    shr eax, 8
    and ax, 0x3FFF
    add ax, 0x8000
    mov [bp + 36], ax
    mov word [bp + 38], 0
.near:
    pop es
    pop ds
    popad
    iret
packet: db 16, 0
    dw 32, 0, 0x1000
    dq 33
cursor: dw 0
vectors: db 0, 1, 3, 4, 5, 6, 7, 12, 13, 0x60
"""

PAGINGS = {"": "", "paging": PAGING, "PAE": PAE}

ENTER = {
    "ring 0": "sti\n jmp NOISE",
    "ring 3": "push dword 0x23\n push dword 0x70000\n push dword 0x3202\n push dword 0x1B\n push dword NOISE\n iretd",
    "16 bits": "mov ax, 0x30\n mov ss, ax\n mov esp, 0xF000\n sti\n jmp 0x28:0x1000",
    "virtual 8086": "push dword 0\n push dword 0\n push dword 0x100\n push dword 0x100\n push dword 0x500\n push dword 0xF000\n"
    "push dword 0x23202\n push dword 0x100\n push dword 0\n iretd",
}
MODES = (
    "boot sector", "real", *ENTER, *(f"{mode}, paging" for mode in ENTER), *(f"{mode}, PAE" for mode in ENTER), *ENTER_LONG,
)  # fmt: skip
LONG_MODES = tuple(ENTER_LONG)
MODELS = ("pentium-4", "umip", "core-2", "westmere", "broadwell", "ice-lake")
LONG_MODELS = MODELS[2:]


@cache
def _real() -> Image:
    return boot_sector(REAL)


@cache
def _kernel(mode: str) -> bytes:
    """Assemble the kernel of a mode once."""
    is_long = mode in ENTER_LONG
    base, _, paging = mode.partition(", ")
    if is_long:
        low = mode.endswith("16 bits")
        source, enter = LONG, ENTER_LONG[mode]
    else:
        low = base in ("16 bits", "virtual 8086")
        source, enter = SETUP, ENTER[base]
    window = (0 if base == "virtual 8086" else 0x1000) if low else NOISE
    values = {
        "paging": PAGINGS[paging] if not is_long else "",
        "timer": TIMER,
        "enter": enter,
        "window": window,
        "size": NOISE_SIZE,
    }
    for name, value in values.items():
        source = source.replace("{" + name + "}", str(value))
    names = {
        "NOISE": NOISE, "POOL": POOL, "POOL_SIZE": POOL_SIZE, "DIRECTORY": DIRECTORY, "LONG_DIRECTORY": LONG_DIRECTORY,
        "PAE_DIRECTORY": PAE_DIRECTORY,
    }  # fmt: skip
    return assemble("".join(f"{name} equ {value}\n" for name, value in names.items()) + source).code


def tables() -> bytes:
    """Return a page directory and a page table behind it that map every address to itself, and are open to all."""
    large = [n << 22 | 0x87 for n in range(1, 1024)]
    small = [n << 12 | 7 for n in range(1024)]
    return b"".join(entry.to_bytes(4, "little") for entry in (DIRECTORY + 0x1000 | 7, *large, *small))


def pool(rng: random.Random, width: int) -> bytes:
    """Return what registers are scrambled with: addresses of interest, ports, MSRs, small numbers, anything."""
    choices = (
        lambda: rng.choice(PLACES), lambda: rng.choice(PORTS), lambda: rng.choice(REGISTERS), lambda: rng.randrange(64),
        lambda: rng.getrandbits(8 * width), lambda: rng.choice(CANONICAL) & (1 << 8 * width) - 1,
    )  # fmt: skip
    return b"".join(rng.choice(choices)().to_bytes(width, "little") for _ in range(POOL_SIZE // width + 17))


def wild_image(mode: str, rng: random.Random) -> Image:
    """Return an image that runs noise in a mode."""
    if mode == "boot sector":
        sectors = bytearray(noise(rng, 0x4000))
        sectors[510:512] = b"\x55\xaa"
        return from_disk(Disk(bytes(sectors), name="noise"))
    if mode == "real":
        sector = _real().segments[0].data
        return from_disk(Disk(sector + noise(rng, NOISE_SIZE) + pool(rng, 4)[:POOL_SIZE] + bytes(0x4000), name="noise"))
    parts = (
        (0x1000, noise(rng, NOISE_SIZE).ljust(0x1_0000, b"\xcc")),
        (KERNEL, _kernel(mode)),
        (NOISE, noise(rng, NOISE_SIZE).ljust(POOL - NOISE, b"\xcc")),  # INT3: out of there
        (POOL, pool(rng, 8 if mode in ENTER_LONG else 4)),
        (DIRECTORY, tables() + long_tables()),
    )
    return Image(mode, KERNEL, tuple(Segment(address, data, len(data)) for address, data in parts))


def wild(
    seed: int, mode: str, under: str = "native", engine: str = "interpreter", limit: int = 20_000, **options: Any
) -> System:
    """Return a system that is about to run noise."""
    rng = random.Random(seed)
    image = wild_image(mode, rng)
    disks = [Disk(rng.randbytes(512 * 64))] if rng.random() < 0.5 else []
    models = LONG_MODELS if mode in ENTER_LONG else MODELS if under == "native" else MODELS[:2]
    cpus = rng.choice((1, 1, 2, 3)) if under == "native" else 1
    settings: dict[str, Any] = {
        "cpus": cpus,
        "cpu": rng.choice(models),
        "memory": MEMORY,
        "max_instructions": limit,
        "disks": disks,
    }
    return build(image, under, engine=engine, keys="wild", input=b"noise", **(settings | options))
