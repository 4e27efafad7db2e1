"""Repeated INS and OUTS: one exit does many elements, and nobody can tell, wherever interrupts and limits fall."""

from __future__ import annotations

from functools import cache

import pytest

from tests.vmm.harness import differences, finish, kernel, log, seen, vectors
from vmlab.machine.disk import Disk

TECHNIQUES = {
    "trap-and-emulate": ("trap-and-emulate", {}),
    "binary-translation": ("binary-translation", {}),
    "nested": ("vt-x", {"memory_virtualization": "nested"}),
    "shadow": ("vt-x", {"memory_virtualization": "shadow"}),
    "amd-v": ("amd-v", {}),
}
SECTORS = Disk(bytes(n * 7 & 0xFF for n in range(8 * 512)))
# A disk is read, its bytes go to the screen's controller and to memory, downwards too, while a timer interrupts all the time.
SOURCE = """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov ah, 0xFE
        call pic_on
        mov ecx, 2                      ; 168 instructions
        call timer_on
        sti
        mov dx, 0x1F6
        mov al, 0xE0
        out dx, al
        mov dx, 0x1F2
        mov al, 2
        out dx, al
        inc dx
        mov al, 1
        out dx, al
        xor al, al
        inc dx
        out dx, al
        inc dx
        out dx, al
        mov dx, 0x1F7
        mov al, 0x20
        out dx, al
.read:  mov dx, 0x1F7
.wait:  in al, dx
        test al, 0x80
        jnz .wait
        test al, 8
        jz .done
        mov dx, 0x1F0
        mov edi, FREE + 0xF40           ; across pages
        mov ecx, 128
        rep insd
        mov esi, FREE + 0x1000
        mov dx, 0x3F8
        mov ecx, 40
        rep outsb
        std
        mov dx, 0x40
        mov ecx, 30
        mov edi, FREE + 0x2F
        rep insb
        mov esi, FREE + 0xF80
        mov dx, 0x3F8
        mov ecx, 9
        rep outsb
        cld
        xor ecx, ecx
        rep insd
        jmp .read
.done:  cli
        call quit
"""


@cache
def guest():
    return kernel(SOURCE)


def run(under, **options):
    technique, more = TECHNIQUES.get(under, (under, {}))
    return finish(guest(), technique, disks=[SECTORS], **more, **options)


@pytest.mark.parametrize("under", TECHNIQUES)
def test_interrupts_come_between_the_same_elements(under):
    native, virtual = run("native"), run(under)
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))
    assert log(native) == log(virtual)
    assert native.guests[0].outcome == "exit"
    assert vectors(native).count(0x20) > 8
    emulated = virtual.guests[0].emulated
    assert 0 < emulated["ins"] < 2 * (128 + 30) // 4
    assert 0 < emulated["outs"] < 2 * (40 + 9) // 4


@pytest.mark.parametrize("under", TECHNIQUES)
def test_a_limit_falls_between_any_two_elements(under):
    whole = run("native")
    end = whole.guests[0].instructions
    for limit in range(end - 330, end - 20, 79):
        native, virtual = run("native", max_instructions=limit), run(under, max_instructions=limit)
        assert virtual.guests[0].instructions == limit
        assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))
