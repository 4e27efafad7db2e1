"""Interrupts reach a guest at the same instruction as on the bare machine."""

from __future__ import annotations

import pytest

from tests.vmm.harness import log, same, vectors

TIMER_HOOK = "mov dword [hooks + 0x20 * 4], acknowledge"


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


@pytest.mark.parametrize("phase", range(4))
def test_a_load_of_ss_holds_interrupts_back_even_if_the_next_instruction_faults(phase):
    """In ring 3 SS is loaded without a trap; the hidden page fault behind it must not let an interrupt in."""
    same(
        f"""
main:   {TIMER_HOOK}
        mov dword [hooks + 0x80 * 4], quit
        call paging_on
        mov ah, 0xFE
        call pic_on
        mov ecx, 20
        call timer_on
        to_user user
user:   mov edx, USER_DATA
        times {phase} nop
        mov edi, 0x400000
        mov esi, 0x600000
.next:  mov ss, edx
        mov eax, [edi]
        mov ss, edx
        mov [esi], eax
        add edi, 0x1000
        add esi, 0x1000
        cmp edi, 0x4C0000
        jb .next
        int 0x80
"""
    )
