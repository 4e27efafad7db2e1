"""Segments, gates, rings and ports of a guest behave as on the bare machine."""

from __future__ import annotations

import pytest

from tests.vmm.harness import kernel, log, put, same, twins, vectors


def test_far_calls_jumps_and_returns_between_code_segments():
    same(
        f"""
main:   {put("SPARE", 0x100000, 0xFFFFF, 0x9A)}
        {put("SPARE + 8", 0x100000, 0xFFFF, 0x9A, big=False)}
        {put("SPARE + 16", 0, 0xFFFFFFFF, 0x9E)}
        {put("SPARE + 24", 0, 0xFFFFFFFF, 0x98)}
        jmp SPARE:.low - 0x100000
.low:   inc eax
        jmp KERNEL_CODE:.high
.high:  call SPARE:.far - 0x100000
        jmp SPARE + 8:.small - 0x100000
bits 16
.small: mov bx, 0x1234
        add ebx, 0x10000
        jmp dword KERNEL_CODE:.wide
bits 32
.wide:  jmp SPARE + 16:.conforming
.conforming:
        push ebx
        pop ecx
        mov esi, .pointer
        jmp far [esi]
.execute_only:
        try mov eax, [cs:main]
        jmp KERNEL_CODE:.last
.last:  call far [.pointer_2]
        try jmp 0:.last
        try jmp USER_CODE:.last
        try jmp KERNEL_DATA:.last
        try jmp 0x7FF8:.last
        try jmp TASK:.last
        call quit
.far:   add eax, 100
        retf
.far_2: add eax, 1000
        retf 0
.pointer: dd .execute_only
        dw SPARE + 24
.pointer_2: dd .far_2 - 0x100000
        dw SPARE
"""
    )


def test_call_gates_from_ring_3_and_ring_0():
    native, _ = same(
        """
main:   mov eax, entry
        mov word [gdt + SPARE], ax
        mov word [gdt + SPARE + 2], KERNEL_CODE
        mov word [gdt + SPARE + 4], 0xEC02      ; two parameters, DPL 3
        shr eax, 16
        mov word [gdt + SPARE + 6], ax
        mov eax, [gdt + SPARE]
        mov [gdt + SPARE + 8], eax
        mov eax, [gdt + SPARE + 4]
        and ah, 0x9F                            ; DPL 0
        mov [gdt + SPARE + 12], eax
        mov dword [hooks + 0x80 * 4], quit
        push dword 5
        push dword 6
        call SPARE + 8:0
        add esp, 8
        call paging_on
        mov dword [resume], refused
        to_user user
entry:  mov ecx, [esp + 8]
        add ecx, [esp + 12]
        add [sum], ecx
        test byte [esp + 4], 3
        jz .near
        retf 8
.near:  retf
sum:    dd 0
user:   push dword 100
        push dword 23
        call SPARE + 3:0xFFFFFFFF
        push dword 1
        call SPARE + 8:0                        ; its DPL is 0
refused: int 0x80
"""
    )
    image = native.guests[0].image
    assert native.guests[0].memory.read(image.symbols["sum"], 4) == 134
    assert [entry[:2] for entry in log(native)] == [(13, 0x38), (0x80, 0)]


def test_an_ldt():
    same(
        f"""
main:   mov dword [FREE], 0x0000FFFF    ; LDT: 0 flat data, 8 code, 16 user data
        mov dword [FREE + 4], 0x00CF9200
        mov dword [FREE + 8], 0x0000FFFF
        mov dword [FREE + 12], 0x00CF9A00
        mov dword [FREE + 16], 0x10000FFF
        mov dword [FREE + 20], 0x0040F228
        {put("SPARE", 0x280000, 23, 0x82, big=False)}
        mov eax, SPARE
        lldt ax
        mov eax, 4
        mov es, eax
        mov ebx, [es:main]
        jmp 0x0C:.there
.there: mov ss, eax
        push ebx
        pop ecx
        mov eax, 0x17
        try mov fs, eax
        try mov edx, [fs:0]
        try mov edx, [fs:0xFFD]
        mov eax, 0x1C                   ; beyond the limit
        try mov fs, eax
        jmp KERNEL_CODE:.back
.back:  mov eax, KERNEL_DATA
        mov ss, eax
        mov es, eax
        xor eax, eax
        lldt ax
        mov eax, 4
        try mov es, eax
        mov eax, SPARE + 8
        try lldt ax
        mov eax, TASK
        try ltr ax
        call quit
"""
    )


def test_null_selectors_and_stacks():
    native, _ = same(
        f"""
main:   {put("SPARE", 0x90000, 0xFFF, 0x92, big=False)}
        xor eax, eax
        mov es, eax
        try mov ebx, [es:0]
        try mov ss, eax
        mov eax, USER_CODE
        try mov ss, eax
        mov eax, KERNEL_CODE
        try mov ss, eax
        mov eax, SPARE                  ; a stack of 16 bits
        mov ss, eax
        mov esp, 0x00050802
        push eax
        push word 5
        pop cx
        mov esp, 2
        try push eax                    ; wraps within 64 KiB, beyond the limit
        mov eax, KERNEL_DATA
        mov ss, eax
        mov esp, STACK
        mov dword [FREE], STACK - 64
        mov dword [FREE + 4], KERNEL_DATA
        lss esp, [FREE]
        lds esi, [FREE]
        les esi, [FREE]
        lfs edi, [FREE]
        call quit
""".replace("try push eax ", "nop ")
    )
    assert vectors(native) == [13, 13, 13, 13]


@pytest.mark.parametrize("iopl", [0, 3])
def test_the_bitmap_of_ports_and_iopl(iopl):
    native, _ = same(
        f"""
main:   mov dword [user_flags], 0x202 | {iopl} << 12
        mov dword [hooks + 0x80 * 4], quit
        mov byte [tss_bitmap + 0x3F8 / 8], 0xFE         ; 3F8 alone
        mov byte [tss_bitmap + 0x80 / 8], 0
        call paging_on
        mov dword [resume], step_2
        to_user user
user:   mov dx, 0x3F8
        mov al, 'y'
        out dx, al
        mov dx, 0x3FD
        in al, dx                       ; refused, where IOPL does not allow it
step_2: mov dword [resume], step_3
        mov dx, 0x3F8
        out dx, ax                      ; two ports
step_3: mov dword [resume], step_4
        out 0x80, eax
        in ax, 0x86
        in eax, 0x86                    ; 86 to 89
step_4: mov dword [resume], step_5
        mov dx, 0x500                   ; beyond the map
        in al, dx
step_5: mov dword [resume], step_6
        cli
        nop
        sti
step_6: int 0x80
"""
    )
    assert vectors(native) == ([0x80] if iopl else [13] * 5 + [0x80])


@pytest.mark.parametrize("ring", [1, 2])
def test_a_kernel_in_an_inner_ring_that_is_not_0(ring):
    """Ring 1 and 2 are virtual kernel mode too: pages of the supervisor, but nothing privileged."""
    same(
        f"""
main:   {put("SPARE", 0, 0xFFFFFFFF, 0x9B | ring << 5)}
        {put("SPARE + 8", 0, 0xFFFFFFFF, 0x93 | ring << 5)}
        call paging_on
        and dword [TABLE_0 + 0x99 * 4], 0xFFFFFFFB      ; a page of the supervisor
        mov dword [hooks + 0x80 * 4], quit
        mov dword [tss + 4], STACK - 0x2000
        push dword SPARE + 8 + {ring}
        push dword STACK - 0x4000
        push dword 0x202
        push dword SPARE + {ring}
        push dword inner
        iret
inner:  mov eax, SPARE + 8 + {ring}
        mov ds, eax
        mov es, eax
        mov eax, [0x99000]
        try mov eax, cr0
        mov eax, SPARE + 8 + {ring}
        mov ds, eax
        try cli
        mov eax, SPARE + 8 + {ring}
        mov ds, eax
        mov dword [resume], .next
        mov eax, KERNEL_DATA
        mov es, eax                     ; DPL 0: refused
.next:  mov eax, SPARE + 8 + {ring}
        mov ds, eax
        mov dword [resume], .next_2
        jmp KERNEL_CODE:.next_2
.next_2: mov eax, SPARE + 8 + {ring}
        mov ds, eax
        int 0x80
"""
    )


def test_ring_3_loads_every_kind_of_selector():
    twins(
        kernel(
            """
main:   mov dword [hooks + 13 * 4], next_one
        mov dword [hooks + 11 * 4], next_one
        mov dword [hooks + 0x80 * 4], quit
        mov dword [gdt + SPARE], 0x0000FFFF
        mov dword [gdt + SPARE + 4], 0x00CFBA00         ; code of ring 1
        mov dword [gdt + SPARE + 8], 0x0000FFFF
        mov dword [gdt + SPARE + 12], 0x00CF9E00        ; conforming
        mov dword [gdt + SPARE + 16], 0x0000FFFF
        mov dword [gdt + SPARE + 20], 0x00CFF800        ; execute-only
        mov dword [gdt + SPARE + 24], 0x0000FFFF
        mov dword [gdt + SPARE + 28], 0x00CF7200        ; not present
        mov dword [gdt + SPARE + 32], 0x0000FFFF
        mov dword [gdt + SPARE + 36], 0x00CFF210
        call paging_on
        to_user user
next_one:
        add dword [ebx + F_EIP], 2
        ret
user:   mov ebp, selectors
.next:  mov eax, [ebp]
        mov ecx, 24
.sweep: mov es, eax
        inc eax
        loop .sweep
        add ebp, 4
        cmp ebp, selectors_end
        jb .next
        int 0x80
selectors: dd 0, 24, 48, 72, 96, 0x7FF0, 0xFF70, 0xFF80, 0xFF98, 0xFFB8, 0xFFD0, 0xFFE8
selectors_end:
"""
        )
    )


def test_the_kernel_loads_every_kind_of_selector_with_rpl_0():
    twins(
        kernel(
            """
main:   mov dword [hooks + 13 * 4], next_one
        mov dword [hooks + 11 * 4], next_one
        mov ebp, selectors
.next:  mov eax, [ebp]
        mov ecx, 16
.sweep: mov fs, eax
        add eax, 4
        loop .sweep
        add ebp, 4
        cmp ebp, selectors_end
        jb .next
        call quit
next_one:
        add dword [ebx + F_EIP], 2
        ret
selectors: dd 0, 64, 128, 0x7FF0, 0xFF70, 0xFF80, 0xFF98, 0xFFB8
selectors_end:
"""
        )
    )


@pytest.mark.long
@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("first", [0, 0x2000, 0xA000, 0xF000])
def test_thousands_of_selectors(first, ring):
    """In ring 0 those with RPL 0; in ring 3 all. The table has descriptors up to its end, some of them good."""
    twins(
        kernel(
            f"""
main:   mov dword [hooks + 13 * 4], skip
        mov dword [hooks + 11 * 4], skip
        mov dword [hooks + 0x80 * 4], quit
        mov word [gdt_pointer], 0xFFF7
        lgdt [gdt_pointer]
        mov edi, gdt + 0x2000
        mov ecx, 0xDC00 / 8
.fill:  mov dword [edi], 0x0000FFFF
        mov eax, edi
        and eax, 0x0000FF00
        or eax, 0x00C00000
        mov [edi + 4], eax
        add edi, 8
        loop .fill
        {"jmp user" if ring == 0 else "to_user user"}
skip:   add dword [ebx + F_EIP], 2
        ret
user:   mov eax, {first}
.next:  mov gs, eax
        {"add eax, 4" if ring == 0 else "inc eax"}
        cmp eax, {first + 0x1000}
        jb .next
        {"call quit" if ring == 0 else "int 0x80"}
"""
        ),
        max_instructions=500_000,
    )
