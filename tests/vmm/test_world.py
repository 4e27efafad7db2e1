"""The world switch: flags, single-stepping, modes, and ways into the hypervisor that a guest might try."""

from __future__ import annotations

import pytest

from tests.vmm.harness import finish, kernel, log, same, twins, vectors

STEPPED = "mov dword [hooks + 1 * 4], stepped"


def stepping(limit: int) -> str:
    """Return a hook for #DB that clears TF after a number of steps."""
    return f"""
stepped: inc dword [steps]
        cmp dword [steps], {limit}
        jb .on
        and dword [ebx + F_FLAGS], 0xFFFFFEFF
.on:    ret
steps:  dd 0
"""


def set_tf(target: str) -> str:
    """Return code that goes on at `target` in ring 0 with TF set, without POPF."""
    return f"push dword 0x102\n push dword KERNEL_CODE\n push dword {target}\n iret\n"


def test_a_kernel_steps_itself():
    native, _ = same(
        f"""
main:   {STEPPED}
        call pic_on
        {set_tf("traced")}
traced: inc eax
        mov ecx, 3
.loop:  loop .loop
        cli
        mov edi, FREE
        mov ecx, 4
        rep stosb
        out 0x80, al
        int 0x30                        ; the handler is not stepped, unless the test says so
        mov ebx, cr0
        mov cr0, ebx
        mov eax, KERNEL_DATA
        mov es, eax
        mov ss, eax                     ; holds the trap back for one instruction
        nop
        nop
        sti
        nop
        cli
        try ud2
        try div dword [zero]
        call .sub
        jmp .on
.sub:   ret
.on:    wbinvd
        mov ecx, 200
.end:   loop .end
        call quit
zero:   dd 0
        {stepping(60)}
"""
    )
    assert vectors(native).count(1) == 60


def test_a_process_is_stepped():
    native, _ = same(
        f"""
main:   {STEPPED}
        mov dword [hooks + 0x80 * 4], call_80
        call paging_on
        mov dword [user_flags], 0x302
        to_user user
user:   mov ecx, 5
.loop:  loop .loop
        mov eax, USER_DATA
        mov ss, eax
        nop
        mov [FREE], eax
        int 0x80
        mov eax, [FREE]
        push eax
        pop es
        int 0x80
        mov ecx, 1000
.end:   loop .end
call_80: inc dword [calls]
        cmp dword [calls], 2
        je quit
        ret
calls:  dd 0
        {stepping(1000)}
"""
    )
    assert 10 < vectors(native).count(1) < 40


def test_stepping_and_a_timer_at_once():
    native, _ = same(
        f"""
main:   {STEPPED}
        mov dword [hooks + 0x20 * 4], acknowledge
        mov ah, 0xFE
        call pic_on
        mov ecx, 7
        call timer_on
        push dword 0x302
        push dword KERNEL_CODE
        push dword traced
        iret
traced: inc eax
        add edx, eax
        hlt
        cmp dword [steps], 50
        jb traced
        cli
        call quit
        {stepping(50)}
"""
    )
    assert {1, 0x20} == set(vectors(native))


def test_a_step_that_ends_at_the_limit_is_not_delivered():
    for limit in range(1_850, 1_900, 7):
        twins(
            kernel(f"main: {STEPPED}\n {set_tf('traced')}\ntraced: cli\n nop\n wbinvd\n jmp traced\n {stepping(100)}"),
            max_instructions=limit,
        )


@pytest.mark.parametrize("kind", ["db 0xF1", "db 0x66, 0xF1"])
def test_int1_does_not_lead_into_the_hypervisor(kind):
    """INT1 looks at no DPL: it enters by the real gate, and must come out in the guest's own handler."""
    native, virtual = same(
        f"""
main:   mov dword [hooks + 0x80 * 4], quit
        mov eax, 0xFFC00000
        mov ecx, 2000
        {kind}
        loop .over
.over:  call paging_on
        to_user user
user:   mov eax, 0xFFC03000
        mov ecx, 5
.again: {kind}
        loop .again
        int 0x80
"""
    )
    assert vectors(native) == [1] * 6 + [0x80]
    assert [entry[3] for entry in log(virtual)] == [8] + [0x1B] * 6


def test_int1_without_a_gate_is_the_guests_fault():
    native, _ = same("main: mov byte [idt + 8 + 5], 0x0E\n try db 0xF1\n call quit")
    assert [entry[:2] for entry in log(native)] == [(11, 0x0B)]


def test_every_software_interrupt_from_ring_3():
    body = "\n".join(f"int {vector}" for vector in range(256) if vector != 0x81)
    native, _ = same(
        f"""
main:   mov dword [hooks + 13 * 4], skip
        mov dword [hooks + 0x81 * 4], quit
        mov byte [idt + 0x81 * 8 + 5], 0xEE
        call paging_on
        to_user user
skip:   add dword [ebx + F_EIP], 2
        ret
user:   {body}
        int 0x81
"""
    )
    found = [entry[1] >> 3 for entry in log(native) if entry[0] == 13]
    assert found == [vector for vector in range(256) if vector not in (3, 0x80, 0x81)]


def test_real_mode_and_back():
    """PE cleared: segments are plain numbers, interrupts go through the vector table; then protected mode again."""
    native, _ = same(
        """
main:   lidt [real_idt]
        mov dword [0x60 * 4], 0x00003000        ; INT 60h: 0000:3000
        mov dword [0x3000], 0xCFCF40            ; inc eax; iret
        mov esi, real
        mov edi, 0x2000
        mov ecx, real_end - real
        rep movsb
        mov dword [gdt + SPARE], 0x0000FFFF     ; 16-bit code and data
        mov dword [gdt + SPARE + 4], 0x00009A00
        mov dword [gdt + SPARE + 8], 0x0000FFFF
        mov dword [gdt + SPARE + 12], 0x00009200
        jmp SPARE:0x2000
bits 16
real:   mov ax, SPARE + 8
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7000
        mov eax, cr0
        and al, 0xFE
        mov cr0, eax
        jmp 0x0000:0x2000 + .in - real
.in:    xor ax, ax
        mov ds, ax
        mov ss, ax
        mov fs, ax
        mov ax, 0x1234
        mov es, ax
        mov word [es:5], 0xBEEF
        mov ax, 3
        mov gs, ax
        mov word [gs:0x5000], 0xCAFE
        mov ax, 0xFFFF
        mov fs, ax
        mov bx, [fs:0x10]               ; beyond 1 MiB: no A20 gate here
        xor ax, ax
        int 0x60
        int 0x60
        mov [0x5100], ax
        sti
        nop
        cli
        mov dx, 0x3F8
        mov al, 'R'
        out dx, al
        call far [0x2000 + .pointer - real]
        jmp .on
.pointer: dw 0x2000 + .sub - real - 0x100, 0x10
.sub:   retf
.on:    mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword KERNEL_CODE:protected
real_end:
bits 32
protected:
        mov eax, KERNEL_DATA
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        mov ss, eax
        mov esp, STACK
        lidt [idt_pointer]
        call quit
real_idt: dw 0x3FF
        dd 0
"""
    )
    memory = native.guests[0].memory
    assert native.guests[0].console.startswith("R")
    assert memory.read(0x12345, 2) == 0xBEEF
    assert memory.read(0x5030, 2) == 0xCAFE
    assert memory.read(0x5100, 2) == 2


def test_flags_of_the_guest_come_back_whole():
    same(
        """
main:   push dword 0x00247AD7           ; ID AC OF DF IOPL 3 ... IF: by IRET in ring 0 all change
        push dword KERNEL_CODE
        push dword .on
        iret
.on:    nop
        wbinvd
        cld
        stc
        cli
        int 0x30
        push dword 0x2
        push dword KERNEL_CODE
        push dword .off
        iret
.off:   call quit
""".replace("0x00247AD7", "0x00243AD7")
    )


def test_a_nested_task_return_is_a_fault():
    native, _ = same(
        """
main:   mov dword [hooks + 10 * 4], clear_nt
        mov dword [resume], .no
        push dword 0x4002
        push dword KERNEL_CODE
        push dword .nt
        iret
.nt:    push dword 2
        push dword KERNEL_CODE
        push dword .no
        iret
.no:    call quit
clear_nt: and dword [ebx + F_FLAGS], 0xFFFFBFFF
        mov eax, [resume]
        mov [ebx + F_EIP], eax
        ret
"""
    )
    assert vectors(native) == [10]


def test_the_hypervisors_own_structures_never_change():
    system = finish(kernel("main: call paging_on\n int 0x30\n call quit"), "trap-and-emulate")
    fresh = finish(kernel("main: hlt"), "trap-and-emulate")
    for linear in (system.switcher.host.idt, system.switcher.host.tss, system.switcher.host.entry):
        place = system.switcher.host.host_address(linear)
        assert system.machine.memory.read_bytes(place, 4096) == fresh.machine.memory.read_bytes(place, 4096)
