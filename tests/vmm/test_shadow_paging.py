"""Shadow paging: a guest's own page tables, faults and stale translations are those of the bare machine."""

from __future__ import annotations

import pytest

from tests.vmm.harness import kernel, log, same, twins, vectors

PAGE_FAULT, REPAIR = 14, "mov dword [hooks + 14 * 4], repair"


def test_page_faults_are_repaired_and_told_apart():
    native, virtual = same(
        f"""
main:   {REPAIR}
        call paging_on
        mov esi, 0x00600000
        mov ecx, 20
.unmap: mov edi, esi
        shr edi, 10
        mov dword [TABLE_0 + edi], 0    ; not present
        add esi, 0x1000
        loop .unmap
        mov eax, cr3
        mov cr3, eax
        mov esi, 0x00600000
        mov ecx, 20
.touch: mov [esi], ecx
        add eax, [esi + 0xFFC]
        add esi, 0x1000
        loop .touch
        call quit
repair: mov eax, cr2
        mov ecx, eax
        and ecx, 0xFFFFF000
        or ecx, 3
        shr eax, 12
        mov [TABLE_0 + eax * 4], ecx
        ret
"""
    )
    assert [entry[1] for entry in log(native)] == [2] * 20
    exits = virtual.guests[0].exits
    assert exits["true page fault"] == 20
    assert exits["hidden page fault"] >= 20


@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize("user", [0, 4])
@pytest.mark.parametrize("writable", [0, 2])
def test_rights_of_kernel_and_user_with_and_without_wp(protect, user, writable):
    native, _ = same(
        f"""
main:   mov dword [hooks + 0x80 * 4], quit
        call paging_on
        mov dword [TABLE_1 + 0x100 * 4], 0x500000 + 1 + {writable + user}
        mov dword [TABLE_1 + 0x101 * 4], 0x501000 + 1 + {writable + user}
        mov eax, cr3
        mov cr3, eax
        mov eax, cr0
        {"or eax, 0x10000" if protect else "and eax, 0xFFFEFFFF"}
        mov cr0, eax
        try mov eax, [0x500000]
        try mov [0x500000], eax
        try inc dword [0x500004]
        try mov dword [0x500FFE], 0x12345678    ; crosses into the next page
        try mov eax, [0x501000]
        mov eax, cr0
        xor eax, 0x10000
        mov cr0, eax
        try mov [0x500008], eax
        mov eax, cr0
        xor eax, 0x10000
        mov cr0, eax
        mov dword [resume], user_2
        to_user user
user:   mov eax, [0x500000]
user_2: mov dword [resume], user_3
        mov [0x500010], eax
user_3: mov dword [resume], user_4
        or dword [0x500FFE], 1
user_4: int 0x80
"""
    )
    expected = {
        (True, 0, 0): [3, 3, 3, 5, 7, 7], (True, 0, 2): [5, 7, 7], (True, 4, 0): [3, 3, 3, 7, 7], (True, 4, 2): [],
        (False, 0, 0): [3, 5, 7, 7], (False, 0, 2): [5, 7, 7], (False, 4, 0): [3, 7, 7], (False, 4, 2): [],
    }  # fmt: skip
    assert [entry[1] for entry in log(native) if entry[0] == PAGE_FAULT] == expected[protect, user, writable]


def test_accessed_and_dirty_bits_are_set_as_on_the_bare_machine():
    same(
        """
main:   call paging_on
        mov ecx, 1024
        mov edi, TABLE_1
.clear: and dword [edi], 0xFFFFFF9F     ; A and D
        add edi, 4
        loop .clear
        and dword [DIRECTORY + 4], 0xFFFFFF9F
        mov eax, cr3
        mov cr3, eax
        mov eax, [0x400000]
        mov [0x401000], eax
        mov eax, [0x402000]
        mov [0x402000], eax
        add eax, [0x403FFE]
        mov [0x405FFE], eax
        mov eax, [TABLE_1]
        mov ebx, [TABLE_1 + 4]
        mov edx, [TABLE_1 + 8]
        and dword [TABLE_1 + 8], 0xFFFFFFBF     ; D off again, and flushed
        invlpg [0x402000]
        mov eax, [0x402000]
        mov esi, [TABLE_1 + 8]
        mov [0x402004], eax
        mov edi, [TABLE_1 + 8]
        call quit
"""
    )


def test_a_stale_translation_stays_until_it_is_flushed():
    native, _ = same(
        """
main:   call paging_on
        mov dword [0x500000], 'old '
        mov dword [0x501000], 'new '
        mov dword [TABLE_1 + 0x110 * 4], 0x500007
        mov eax, [0x510000]
        mov dword [TABLE_1 + 0x110 * 4], 0x501007
        mov ebx, [0x510000]             ; stale
        mov [FREE], ebx
        invlpg [0x510123]
        mov ebx, [0x510000]
        mov [FREE + 4], ebx
        mov dword [TABLE_1 + 0x110 * 4], 0
        mov ebx, [0x510000]             ; stale, though it is gone
        mov [FREE + 8], ebx
        mov eax, cr3
        mov cr3, eax
        try mov ebx, [0x510000]
        mov dword [TABLE_1 + 0x110 * 4], 0x500007
        mov ebx, [0x510000]             ; what is not present is never kept
        mov [FREE + 12], ebx
        call quit
"""
    )
    assert native.guests[0].memory.read_bytes(0x280000, 16) == b"old new new old "
    assert vectors(native) == [PAGE_FAULT]


def test_a_page_fault_drops_the_translation_of_its_page():
    native, _ = same(
        """
main:   mov dword [hooks + 14 * 4], other_frame
        call paging_on
        mov dword [0x500000], 'old '
        mov dword [0x501000], 'new '
        mov dword [TABLE_1 + 0x110 * 4], 0x500005       ; read-only
        mov eax, [0x510000]
        mov dword [resume], .behind
        mov [0x510000], eax             ; faults; the handler maps another frame, flushes nothing, and goes on behind it
.behind: mov ebx, [0x510000]
        mov [FREE], ebx
        call quit
other_frame:
        mov dword [TABLE_1 + 0x110 * 4], 0x501005
        mov eax, [resume]
        mov [ebx + F_EIP], eax
        ret
"""
    )
    assert native.guests[0].memory.read_bytes(0x280000, 4) == b"new "


def test_large_pages_and_invlpg_of_all_their_parts():
    native, virtual = same(
        """
main:   call paging_on
        mov eax, 0x10                   ; PSE
        mov cr4, eax
        mov dword [DIRECTORY + 2 * 4], 0x00400087       ; 8 MiB: a window on 4 MiB
        mov dword [0x400000], 'old '
        mov dword [0x600000], 'far '
        mov eax, [0x800000]
        mov ebx, [0xA00000]
        mov [FREE], eax
        mov [FREE + 4], ebx
        mov dword [DIRECTORY + 2 * 4], 0x00000087
        mov dword [FREE], 'new '
        mov dword [FREE + 0x40000], 'end '
        invlpg [0x800000]               ; any address of it
        mov eax, [0x800000 + FREE]
        mov ebx, [0x840000 + FREE]
        mov edx, [0xA00000]
        mov dword [DIRECTORY + 2 * 4], 0x00600087       ; reserved bit
        invlpg [0x900000]
        try mov eax, [0x800000]
        mov dword [DIRECTORY + 2 * 4], 0x00800087       ; beyond memory
        invlpg [0x900000]
        mov eax, [0x800000]
        mov [0x800000], ebx
        xor ecx, ecx
        mov cr4, ecx                    ; without PSE it is a table
        mov dword [DIRECTORY + 2 * 4], TABLE_1 + 0x87
        mov cr4, ecx
        mov eax, [0x800000]
        call print_number
        mov eax, [DIRECTORY + 8]
        call quit
"""
    )
    assert [entry[1] for entry in log(native)] == [9]
    assert native.guests[0].console.startswith("20646C6F\n")  # "old " read as a number
    assert virtual.guests[0].exits["memory-mapped I/O"] >= 2


def test_global_pages():
    same(
        """
main:   call paging_on
        mov eax, 0x80                   ; PGE
        mov cr4, eax
        mov dword [TABLE_1 + 0x110 * 4], 0x500107
        mov dword [0x510000], 'glob'
        mov dword [TABLE_1 + 0x111 * 4], 0x500007
        mov eax, cr3
        mov cr3, eax
        mov eax, [0x510000]
        mov ebx, [0x511000]
        mov dword [TABLE_1 + 0x110 * 4], 0x501107
        invlpg [0x510000]
        mov [0x510000], eax
        xor eax, eax
        mov cr4, eax
        mov eax, [0x510000]
        call quit
"""
    )


def test_two_address_spaces():
    native, _ = same(
        """
main:   call paging_on
        mov esi, DIRECTORY
        mov edi, 0x500000
        mov ecx, 1024
        rep movsd
        mov esi, TABLE_1
        mov edi, 0x501000
        mov ecx, 1024
        rep movsd
        mov dword [0x500004], 0x501007
        mov dword [0x501000 + 0x130 * 4], 0x540007
        mov dword [TABLE_1 + 0x130 * 4], 0x541007
        mov ecx, 30
.swap:  mov eax, 0x500000
        mov cr3, eax
        inc dword [0x530000]
        mov eax, DIRECTORY
        mov cr3, eax
        add dword [0x530000], 2
        loop .swap
        call quit
"""
    )
    memory = native.guests[0].memory
    assert (memory.read(0x540000, 4), memory.read(0x541000, 4)) == (30, 60)


def test_paging_switched_off_and_on_again_and_again():
    same(
        """
main:   call paging_on
        mov dword [TABLE_1 + 0x110 * 4], 0x500007
        mov ecx, 10
.again: mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        inc dword [0x510000]
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        inc dword [0x510004]
        loop .again
        mov eax, cr0
        and eax, 0xFFFFFFFE
        or eax, 0x80000000
        try mov cr0, eax                ; PG without PE
        call quit
"""
    )


def test_an_unmapped_stack_is_a_triple_fault():
    native, _ = twins(
        kernel(
            "main: call paging_on\n mov dword [TABLE_0 + 0x9E * 4], 0\n mov dword [TABLE_0 + 0x9F * 4], 0\n mov eax, cr3\n mov cr3, eax\n push eax\n hlt"
        )
    )
    assert native.guests[0].outcome == "triple-fault"


def test_the_stack_of_ring_0_is_missing_when_ring_3_traps():
    native, _ = twins(
        kernel(
            """
main:   call paging_on
        mov dword [TABLE_0 + 0x9D * 4], 0
        to_user user
user:   mov eax, 1
        int 0x80
"""
        )
    )
    assert native.guests[0].outcome == "triple-fault"


@pytest.mark.parametrize("root", [0xB8000, 0x1000000, 0xFFFFF000, 0x100000, 0x0])
def test_a_page_directory_on_the_screen_beyond_memory_or_in_code(root):
    twins(kernel(f"main: call paging_on\n mov eax, {root}\n mov cr3, eax\n mov eax, [0x500000]\n int 0x80\n call quit"))
