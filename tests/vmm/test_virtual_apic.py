"""The hypervisor vt-x on a host that virtualizes the local APIC's registers: the same to the guest, with fewer exits."""

from __future__ import annotations

import random

import pytest

from tests.vmm.harness import LIMIT, MEMORY, differences, dirty_pages, finish, goes_on_elsewhere, kernel, seen
from vmlab import guests
from vmlab.vmm.techniques import build

HOST = {"host_cpu": "broadwell-ep"}
REGISTERS = (0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0, 0x100, 0x140, 0x200, 0x240, 0x280, 0x300, 0x310, 0x320, 0x350, 0x370,
             0x380, 0x390, 0x3E0, 0x40, 0x3F0)  # fmt: skip
PAGING = """
        call paging_on
        mov dword [DIRECTORY + 0xFEC], 0xFEC00083       ; the local APIC, in a page of 4 MiB
        mov eax, 0x10
        mov cr4, eax
"""
FRAME = """
APIC equ 0xFEE00000
main:   mov ecx, 0x30                   ; every vector from 0x30 on ends itself
.hook:  mov dword [hooks + ecx * 4], ended
        inc ecx
        cmp ecx, 0x80
        jb .hook
        mov ah, 0xFF
        call pic_on
        mov dword [APIC + 0xF0], 0x1FF
        mov edi, FREE
        {paging}
        {body}
        cli
        mov dword [APIC + 0x320], 0x10000
        call quit
ended:  mov ecx, [APIC + 0x100 + 0x20]
        add [FREE + 0x8000], ecx
        mov dword [APIC + 0xB0], 0
        ret
"""


def operations(rng: random.Random) -> str:
    """Return code that reads registers into memory, writes some, sends itself interrupts, waits."""
    lines = []
    for _ in range(60):
        register, vector = rng.choice(REGISTERS), rng.choice((0x31, 0x42, 0x53, 0x64, 0x75))
        lines += rng.choice((
            [f"mov eax, [APIC + {register:#x}]", "stosd"],
            [f"movzx eax, byte [APIC + {register + rng.randrange(4):#x}]", "stosd"],
            [f"mov dword [APIC + 0x80], {rng.choice((0, 0x30, 0x40, 0x50, 0x6F, 0xFF)):#x}"],
            [f"mov dword [APIC + 0x300], {0x40000 | vector:#x}"],
            [f"mov dword [APIC + 0x320], {rng.choice((0, 0x20000)) | vector:#x}", f"mov dword [APIC + 0x380], {rng.randrange(1, 4000)}"],
            [f"mov dword [APIC + {rng.choice(REGISTERS):#x}], {rng.choice((0, 1, 0xB, 0x100FF, 0x1FF)):#x}", "mov dword [APIC + 0xF0], 0x1FF"],
            [f"add dword [APIC + 0x80], {rng.choice((0x10, 0xF0)):#x}"],
            ["sti"], ["cli"], ["sti", "nop", "cli"],
            [f"mov ecx, {rng.randrange(1, 300)}", "loop $"],
            [f"mov word [APIC + {register:#x}], 0x30"],
        ))  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(12))
def test_any_use_of_a_local_apic(seed):
    rng = random.Random(seed)
    image = kernel(FRAME.format(body=operations(rng), paging=PAGING if seed % 2 else ""))
    native = finish(image, "native")
    for engine in ("interpreter", "auto"):
        virtual = finish(image, "vt-x", engine=engine, **HOST)
        found = differences(seen(native.guests[0]), seen(virtual.guests[0]))
        assert not found, (engine, found)
        assert virtual.guests[0].exits["APIC write"]


def test_a_read_is_no_exit():
    image = kernel("main: mov ecx, 1000\n.next: mov eax, [0xFEE00020]\n loop .next\n call quit")
    old, new = (finish(image, "vt-x", host_cpu=host).guests[0] for host in ("broadwell", "broadwell-ep"))
    assert differences(seen(old), seen(new)) == []
    assert old.exits.total() - new.exits.total() >= 1000


def test_a_local_apic_that_is_switched_off_and_on():
    code = """
main:   mov ecx, 0x1B
        mov esi, 2
.again: mov eax, [0xFEE00030]
        mov [FREE + esi * 4], eax
        rdmsr
        xor eax, 0x800
        wrmsr
        mov eax, [0xFEE00030]
        mov [FREE + 32 + esi * 4], eax
        dec esi
        jnz .again
        call quit
"""
    native, virtual = finish(kernel(code), "native"), finish(kernel(code), "vt-x", **HOST)
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []
    memory = native.guests[0].memory
    assert {memory.read(0x280000 + 4 * n, 4) for n in (1, 2, 9, 10)} == {0x50014, 0xFFFFFFFF}


def test_saved_in_the_middle():
    image = kernel(FRAME.format(body=operations(random.Random(99)), paging=""))
    options = {"memory": MEMORY, "max_instructions": LIMIT, **HOST}
    goes_on_elsewhere(
        lambda: build(image, "vt-x", **options), lambda system: seen(system.guests[0]), start=5, places=40
    )


@pytest.mark.parametrize("name", ["minios", "timer", "page_churn", "echo"])
def test_guests_of_the_library(name):
    options = {"input": "abc\n"} if name == "echo" else {}
    native, virtual = (
        finish(guests.load(name), under, **options, **more) for under, more in (("native", {}), ("vt-x", HOST))
    )
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []


def test_the_local_apics_page_is_no_dirty_page():
    image = kernel(FRAME.format(body=operations(random.Random(3)), paging=""))
    system = build(image, "vt-x", memory=MEMORY, **HOST)
    pages = dirty_pages(system, 200)
    assert pages
    assert max(pages) < MEMORY >> 12
