"""Guests that mean harm, or are noise; a neighbour that must not notice; and what a hypervisor must not lose."""

from __future__ import annotations

import random

from tests.vmm.harness import kernel, prelude
from vmlab.machine.image import flat

NEIGHBOUR = """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov dword [hooks + 0x80 * 4], spoken
        mov ah, 0xFE
        call pic_on
        mov ecx, 19
        call timer_on
        call paging_on
        mov dword [user_flags], 0x202
        to_user user
spoken: inc dword [said]
        mov esi, text
        call print
        cmp dword [said], 3
        je quit
        ret
said:   dd 0
text:   db "still here", 10, 0
user:   mov ecx, 150
.work:  add [0x500000 + ecx * 4], ecx
        xor [0x600000 + ecx * 4], esi
        add esi, 12345
        loop .work
        int 0x80
        jmp user
"""

SYSTEM_BYTES = bytes.fromhex("0F01 0F00 0F20 0F22 0F21 0F23 FA FB F4 CF CD80 CC F1 CE E6 E7 EC ED EE EF 6C 6E 9C 9D 8ED8 8EC0 8ED0 8CC8 1F 07 17 0FA1 0FA9 CB CA EA 9A C4 C5 0FB2 0FB4 0F30 0F32 0F31 0F06 0F08 0F09 A4 A5 AA AB F3 F2 66 67 2E 65 F0 FF 8F C8 C9 60 61 62 63")  # fmt: skip


UNDER = {
    "trap-and-emulate": {"under": "trap-and-emulate"},
    "binary-translation": {"under": "binary-translation"},
    "nested": {"under": "vt-x", "memory_virtualization": "nested"},
    "shadow": {"under": "vt-x", "memory_virtualization": "shadow"},
    "amd-v, nested": {"under": "amd-v", "memory_virtualization": "nested"},
    "amd-v, shadow": {"under": "amd-v", "memory_virtualization": "shadow"},
}
"""Every hypervisor that runs unchanged kernels, with every kind of memory."""


def neighbour():
    """Return an innocent guest with a timer, paging, processes and output."""
    return kernel(NEIGHBOUR, "neighbour")


def noise(seed: int):
    """Return a guest of random bytes: from its first instruction on, or behind a kernel that survives its faults."""
    generator = random.Random(seed)
    length = 3000
    kind = seed % 3
    if kind == 0:
        code = bytes(generator.randrange(256) for _ in range(length))
    else:
        # More of what concerns a hypervisor, with small operands.
        pieces = [SYSTEM_BYTES[n : n + 2] for n in range(0, len(SYSTEM_BYTES), 1)]
        code = b"".join(
            generator.choice(pieces)
            if generator.random() < 0.6
            else bytes(
                [
                    generator.choice(
                        (0, 1, 4, 5, 0x10, 0x18, 0x20, 0x30, 0x40, 0xC0, 0xD8, 0xE0, 0xFF, generator.randrange(256))
                    )
                ]
            )
            for _ in range(length // 2)
        )
    if kind != 2:
        return flat(code, 0x100000, 0x100000, f"noise {seed}")
    first = prelude()
    start = kernel(
        f"""
main:   mov dword [hooks + 6 * 4], on
        mov dword [hooks + 13 * 4], on
        mov dword [hooks + 14 * 4], on
        mov dword [hooks + 0], on
        mov dword [hooks + 11 * 4], on
        mov dword [hooks + 12 * 4], on
        mov dword [hooks + 10 * 4], on
        {"call paging_on" if seed % 2 else "nop"}
        mov eax, {generator.choice((0, 0x10, 0x23, 0xFFC00000, 0xFFD8, 0x80000011, 0x210000))}
        mov ebx, {generator.choice((0x280000, 0x103000, 0xB8000, 0xFFC01000))}
        mov ecx, {generator.randrange(100)}
        mov edx, {generator.choice((0x20, 0x40, 0x3F8, 0x3FD, 0xFFFF))}
        mov esi, 0x280000
        mov edi, 0x281000
        jmp noise
on:     inc dword [ebx + F_EIP]
        ret
noise:
"""
    )
    code = start.segments[0].data + code
    return flat(code, first.origin, first.symbols["start"], f"noise {seed}")


def own_frames(system) -> list[bytes]:
    """Return the hypervisor's IDT or GDT, TSS and entry points."""
    if system.assisted:
        host = system.host
        return [system.machine.memory.read_bytes(place, 4096) for place in (host.gdt, host.tss, host.entry)]
    host = system.switcher.host
    return [
        system.machine.memory.read_bytes(host.host_address(place), 4096) for place in (host.idt, host.tss, host.entry)
    ]
