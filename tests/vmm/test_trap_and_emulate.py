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


@pytest.mark.parametrize("period", [37, 100, 719])
def test_a_timer_interrupts_at_the_same_instruction(period):
    native, virtual = same(
        f"""
main:   {TIMER_HOOK}
        mov ah, 0xFE
        call pic_on
        mov ecx, {period}
        call timer_on
        sti
.spin:  add eax, 3
        imul ebx, eax, 7
        xor edx, ebx
        push edx
        pop ecx
        cmp dword [events], 20
        jb .spin
        cli
        call quit
"""
    )
    assert vectors(native) == [0x20] * 20
    assert virtual.guests[0].exits["external interrupt"] >= 20


def test_interrupts_wait_for_sti_and_for_the_instruction_after_it():
    native, _ = same(
        f"""
main:   {TIMER_HOOK}
        mov ah, 0xFE
        call pic_on
        mov ecx, 20
        call timer_on
        mov esi, 15
.again: cli
        mov ecx, 200
.wait:  loop .wait                      ; the interrupt waits
        sti
        inc dword [marks]               ; still not taken
        nop
        nop
        cli
        mov ecx, 200
.wait2: loop .wait2
        sti                             ; the shadow of STI, then CLI: no room for an interrupt
        cli
        mov ecx, 20
.wait3: loop .wait3
        sti
        sti                             ; a second STI makes no second shadow
        nop
        mov [events + 4], esi
        dec esi
        jnz .again
        cli
        call quit
marks:  dd 0
"""
    )
    places = {entry[2] for entry in log(native)}
    image = native.guests[0].image
    first = image.symbols["main.again"]
    assert len(log(native)) > 20
    assert all(place > first for place in places)


def test_sti_hlt_and_idle_time():
    native, virtual = same(
        f"""
main:   {TIMER_HOOK}
        mov ah, 0xFE
        call pic_on
        mov ecx, 5000
        call timer_on
.sleep: sti
        hlt
        cmp dword [events], 8
        jb .sleep
        rdtsc
        call print_number
        call quit
"""
    )
    assert native.guests[0].platform.idle > 300_000
    assert virtual.guests[0].exits["HLT"] == 8


@pytest.mark.parametrize("end", ["cli\n hlt", "sti\n hlt"])
def test_a_halt_for_ever_ends_the_run(end):
    native, _ = twins(kernel(f"main: {end}\n call quit"))
    assert native.guests[0].outcome == "halt"


def test_hlt_in_ring_3_is_a_fault():
    native, _ = same("main: call paging_on\n mov dword [hooks+13*4], quit\n to_user user\nuser: hlt\n jmp user")
    assert vectors(native) == [13]


def test_the_uart_interrupts_for_each_character():
    native, _ = same(
        """
main:   mov dword [hooks + 0x24 * 4], received
        mov ah, 0xEF
        call pic_on
        mov dx, 0x3F9
        mov al, 1
        out dx, al
.loop:  sti
        hlt
        cmp byte [last], '!'
        jne .loop
        call quit
received:
        mov dx, 0x3FD
        in al, dx
        test al, 1
        jz acknowledge
        mov dx, 0x3F8
        in al, dx
        mov [last], al
        out dx, al
        jmp received
last:   db 0
""",
        input="Hello, guest!",
    )
    assert native.guests[0].console.startswith("Hello, guest!")


def test_two_devices_interrupt_together_and_trap_gates_nest():
    native, _ = same(
        """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov dword [hooks + 0x24 * 4], received
        mov byte [idt + 0x20 * 8 + 5], 0x8F
        mov byte [idt + 0x24 * 8 + 5], 0x8F
        mov ah, 0xEE
        call pic_on
        mov ecx, 30
        call timer_on
        mov dx, 0x3F9
        mov al, 1
        out dx, al
        mov ecx, 1000
.wait:  loop .wait
        sti
.loop:  inc eax
        inc edx
        cmp byte [last], '!'
        jne .loop
        cli
        call quit
received:
        mov dx, 0x3F8
        in al, dx
        mov [last], al
        out dx, al
        jmp acknowledge
last:   db 0
""",
        input="abcdefghijk!",
    )
    assert {0x20, 0x24} <= set(vectors(native))


def test_automatic_end_of_interrupt_lets_interrupts_nest_at_once():
    native, _ = same(
        """
main:   mov dword [hooks + 0x24 * 4], received
        mov byte [idt + 0x20 * 8 + 5], 0x8F
        mov byte [idt + 0x24 * 8 + 5], 0x8F
        mov ah, 0xEE
        call pic_on
        mov al, 0x11
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 3                       ; AEOI
        out 0x21, al
        mov al, 0xEE
        out 0x21, al
        mov ecx, 30
        call timer_on
        mov dx, 0x3F9
        mov al, 1
        out dx, al
        mov ecx, 1000
.wait:  loop .wait
        sti
.loop:  inc eax
        cmp dword [count], 12
        jb .loop
        cli
        call quit
received:
        mov dx, 0x3F8
        in al, dx
        out dx, al
        inc dword [count]
        ret
count:  dd 0
""",
        input="abcdefghijk!",
    )
    assert sorted(native.guests[0].console[:12]) == sorted("abcdefghijk!")


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


def test_interrupts_between_the_elements_of_a_string_instruction():
    same(
        f"""
main:   {TIMER_HOOK}
        mov ah, 0xFE
        call pic_on
        mov ecx, 11
        call timer_on
        sti
        cld
        mov edi, FREE
        mov ecx, 3000
        mov eax, 0x55AA55AA
        rep stosd
        mov esi, FREE
        mov edi, FREE + 0x4001
        mov ecx, 5000
        rep movsb
        cli
        call quit
"""
    )


def test_no_idt_at_all_is_a_triple_fault():
    for body in ("main: lidt [zeros]\n ud2", "main: lidt [zeros]\n int 0x80", "main: lidt [zeros]\n mov eax, [fs:0]\n hlt"):
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
    native, _ = twins(kernel("main: mov byte [idt + 6*8+5], 0xE\n mov byte [idt + 11*8+5], 0xE\n mov byte [idt + 8*8+5], 0xE\n ud2"))
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
