"""Trap-and-emulate against the bare machine: interrupts, traps, halting, devices."""

from __future__ import annotations

import pytest

from tests.vmm.harness import kernel, log, same, twins, vectors

TIMER_HOOK = "mov dword [hooks + 0x20 * 4], acknowledge"


def test_exceptions_of_a_kernel_are_its_own():
    native, virtual = same(
        """
main:   try ud2
        try div dword [zero]
        try bound eax, [limits]
        int 3
        mov eax, 0x7FFFFFFF
        add eax, 1
        into
        mov eax, 5
        mov dword [resume], .here
        int 0x30
.here:  mov dword [resume], .no_cr5
        db 0x0F, 0x22, 0xE8             ; mov cr5, eax
.no_cr5:
                try mov dr4, eax
        try out 0x80, al
        call quit
zero:   dd 0
limits: dd 5, 6
"""
    )
    assert vectors(native) == [6, 0, 5, 3, 4, 0x30, 6]
    assert virtual.guests[0].exits["software interrupt"] == 3
    assert virtual.guests[0].exits["guest exception"] == 4


def test_fast_system_calls_from_ring_3():
    """SYSENTER faults on the real processor, whose IA32_SYSENTER_CS is 0; SYSEXIT and WRMSR are privileged."""
    native, virtual = same(
        """
main:   call paging_on
        mov ecx, 0x174
        mov eax, KERNEL_CODE
        xor edx, edx
        wrmsr
        inc ecx
        mov eax, STACK - 0x100
        wrmsr
        inc ecx
        mov eax, entry
        wrmsr
        to_user user
entry:  inc dword [calls]
        cmp dword [calls], 5
        je quit
        mov ecx, USER_STACK
        mov edx, user
        sysexit
calls:  dd 0
user:   mov ecx, 50
.more:  loop .more
        sysenter
        ud2
"""
    )
    assert vectors(native) == []
    assert virtual.guests[0].emulated["sysenter"] == 5
    assert virtual.guests[0].emulated["sysexit"] == 4


def test_system_calls_from_ring_3():
    native, virtual = same(
        """
main:   mov dword [hooks + 0x80 * 4], call_80
        call paging_on
        to_user user
call_80: inc dword [calls]
        cmp dword [calls], 5
        je quit
        ret
calls:  dd 0
user:   mov ecx, 100
.more:  loop .more
        int 0x80
        jmp user
"""
    )
    assert [entry[3] for entry in log(native)] == [0x1B] * 5
    assert virtual.guests[0].exits["software interrupt"] == 5


@pytest.mark.parametrize("end", ["cli\n hlt", "sti\n hlt"])
def test_a_halt_for_ever_ends_the_run(end):
    native, _ = twins(kernel(f"main: {end}\n call quit"))
    assert native.guests[0].outcome == "halt"


def test_hlt_in_ring_3_is_a_fault():
    native, _ = same("main: call paging_on\n mov dword [hooks+13*4], quit\n to_user user\nuser: hlt\n jmp user")
    assert vectors(native) == [13]


def test_string_instructions_on_the_screen_and_ports():
    native, _ = same(
        """
main:   cld
        mov edi, 0xB8000
        mov ax, 0x0741
        mov ecx, 80
        rep stosw
        mov esi, 0xB8000
        mov edi, 0xB80A0
        mov ecx, 40
        rep movsd
        mov esi, text
        mov dx, 0x3F8
        mov ecx, text_end - text
        rep outsb
        mov esi, 0xB8000
        mov edi, FREE
        mov ecx, 200
        rep movsb
        mov edi, 0xB8001
        mov al, 0x07
        mov ecx, 20
        repe scasb
        mov eax, [0xB7FFE]              ; half RAM, half screen
        mov dword [0xB7FFD], 0x42424242
        mov dx, 0x3FD
        mov edi, FREE + 0x1000
        mov ecx, 7
        rep insb
        call quit
text:   db "a text", 10
text_end:
"""
    )
    assert native.guests[0].console.startswith("a text\n")
    assert "AAAA" in native.guests[0].screen


def test_no_idt_at_all_is_a_triple_fault():
    for body in (
        "main: lidt [zeros]\n ud2",
        "main: lidt [zeros]\n int 0x80",
        "main: lidt [zeros]\n mov eax, [fs:0]\n hlt",
    ):
        native, _ = twins(kernel(body + "\nzeros: dd 0, 0"), max_instructions=20_000)
        assert native.guests[0].outcome in ("triple-fault", "halt")


def test_double_and_triple_faults():
    native, _ = same(
        """
main:   mov dword [hooks + 8 * 4], doubled
        mov byte [idt + 6 * 8 + 5], 0x0E        ; #UD not present: #NP
        try ud2
        mov byte [idt + 11 * 8 + 5], 0x0E       ; nor #NP: #GP... contributory: #DF
        try ud2
        call quit
doubled: mov eax, [resume]
        mov [ebx + F_EIP], eax
        ret
"""
    )
    assert vectors(native) == [11, 8]
    native, _ = twins(
        kernel("main: mov byte [idt + 6*8+5], 0xE\n mov byte [idt + 11*8+5], 0xE\n mov byte [idt + 8*8+5], 0xE\n ud2")
    )
    assert native.guests[0].outcome == "triple-fault"


def test_self_modifying_code():
    native, _ = same(
        """
main:   mov ecx, 50
        xor eax, eax
.again: inc byte [.change + 2]
.change: add eax, strict byte 0
        mov byte [.next], 0x40          ; inc eax
.next:  nop
        mov byte [.next], 0x48          ; dec eax
        loop .again
        call print_number
        call quit
"""
    )
    assert native.guests[0].console.splitlines()[0] == "0000052D"


def test_cpuid_rdtsc_and_msrs():
    same(
        """
main:   xor eax, eax
.leaf:  push eax
        xor ecx, ecx
        cpuid
        mov [FREE], ebx
        pop eax
        push eax
        shl eax, 4
        mov [FREE + eax], edx
        pop eax
        inc eax
        cmp eax, 9
        jb .leaf
        rdtsc
        mov [FREE + 0x100], eax
        mov ecx, 0x10
        mov eax, 0x1000
        mov edx, 5
        wrmsr
        rdtsc
        mov [FREE + 0x104], eax
        mov [FREE + 0x108], edx
        rdmsr
        mov [FREE + 0x10C], eax
        mov ecx, 0x1B
        try rdmsr
        try rdpmc
        mov eax, 4                      ; TSD
        mov cr4, eax
        rdtsc
        mov dword [hooks + 13 * 4], quit
        call paging_on
        to_user user
user:   rdtsc
        jmp user
"""
    )
