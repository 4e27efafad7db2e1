"""Breakpoints and alignment checks that a guest asks for are its own, under a hypervisor too."""

from __future__ import annotations

from tests.vmm.harness import finish, kernel, log, same

DEBUG, ALIGNMENT = 1, 17

ARM = """
        mov eax, {address}
        mov dr{n}, eax
        mov eax, {control}
        mov dr7, eax
"""


def armed(n: int, address: str, kind: int, length: int = 3) -> str:
    return ARM.format(n=n, address=address, control=2 << 2 * n | kind << 16 + 4 * n | length << 18 + 4 * n)


def everywhere(source: str):
    """Run a kernel natively, with both engines, and under trap-and-emulate: all must see the same."""
    native, virtual = same(source)
    other = finish(kernel(source), "native", engine="translator")
    assert other.machine.save() == native.machine.save()
    return native, virtual


def test_data_breakpoints():
    native, virtual = everywhere(
        f"""
main:   mov dword [hooks + {DEBUG} * 4], note
        call paging_on
        {armed(1, "FREE + 0x100", 1)}
        mov [FREE + 0x0FC], eax
        mov [FREE + 0x0FE], eax         ; over its first bytes
        mov eax, [FREE + 0x100]
        mov edi, FREE + 0x80
        mov ecx, 40
        rep stosd
        {armed(2, "FREE + 0x200", 3, 0)}
        inc byte [FREE + 0x200]
        mov al, [FREE + 0x200]
        mov al, [FREE + 0x201]
        {armed(0, "0xB8004", 1, 1)}
        mov word [0xB8004], 0x0741      ; a device's memory
        mov esi, FREE
        mov edi, 0xB8000
        movsd
        movsd
        xor eax, eax
        mov dr7, eax
        mov [FREE + 0x100], eax
        call quit
note:   mov eax, dr6
        mov [FREE + 0x300], eax
        xor eax, eax
        mov dr6, eax
        ret
"""
    )
    assert [entry[0] for entry in log(native)] == [DEBUG] * 6
    assert virtual.guests[0].exits["guest exception"] >= 4


def test_instruction_breakpoints_and_rf():
    native, _ = everywhere(
        f"""
main:   mov dword [hooks + {DEBUG} * 4], note
        call paging_on
        {armed(3, "here", 0, 0)}
        mov ecx, 3
again:  inc edx
here:   add ebx, edx
        loop again
        {armed(3, "sensitive", 0, 0)}
        nop
sensitive: cli                          ; an instruction that the hypervisor executes
        {armed(0, "missing", 0, 0)}
        mov dword [TABLE_1 + 0x100 * 4], 0
        invlpg [0x500000]
        mov dword [resume], beyond
missing: mov eax, [0x500000]            ; a breakpoint, then a page fault
beyond: mov dword [resume], 0
        call quit
note:   or dword [ebx + F_FLAGS], 0x10000
        mov eax, [resume]
        mov [FREE], eax
        mov eax, dr6
        add [FREE + 4], eax
        pop eax                         ; go on at the instruction, whatever [resume] says
        mov esp, ebx
        popad
        add esp, 8
        iret
"""
    )
    assert [entry[0] for entry in log(native)] == [DEBUG] * 5 + [14]


def test_general_detect_and_ports():
    native, _ = everywhere(
        f"""
main:   mov dword [hooks + {DEBUG} * 4], note
        mov eax, 8                      ; DE
        mov cr4, eax
        {armed(0, "0x61", 2, 0)}
        in al, 0x61
        in al, 0x60
        mov eax, 0x2400
        mov dr7, eax                    ; GD
        mov dword [resume], .behind
        mov dr0, eax
.behind: mov dword [resume], 0
        mov eax, dr7
        mov [FREE + 8], eax
        call quit
note:   mov eax, dr6
        mov [FREE], eax
        mov eax, [resume]
        test eax, eax
        jz .trap
        mov [ebx + F_EIP], eax
.trap:  ret
"""
    )
    assert [entry[0] for entry in log(native)] == [DEBUG] * 2
    assert native.guests[0].memory.read(0x280008, 4) == 0x400


def test_alignment_checks_in_the_users_mode_alone():
    native, _ = everywhere(
        """
main:   mov dword [hooks + 0x80 * 4], kernel
        call paging_on
        mov eax, cr0
        or eax, 0x40000                 ; AM
        mov cr0, eax
        push dword 0x40002
        popfd
        mov eax, [FREE + 1]             ; ring 0 is not checked
        to_user user
user:   mov eax, [FREE + 1]
        push dword 0x40202
        popfd
        mov dword [resume], user_2
        mov eax, [FREE + 1]
user_2: mov dword [resume], user_3
        inc word [FREE + 3]
user_3: mov eax, [FREE + 4]
        mov al, [FREE + 5]
        int 0x80
        mov dword [resume], user_4
        mov [FREE + 2], eax
user_4: inc dword [FREE + 0x100]
        int 0x80
kernel: mov eax, [FREE + 9]
        cmp dword [FREE + 0x100], 0
        jne quit
        ret
"""
    )
    assert [entry[:2] for entry in log(native) if entry[0] == ALIGNMENT] == [(ALIGNMENT, 0)] * 3
