"""Shadow paging of guests with PAE tables: the shadow has two levels, the guest's walk is its processor's."""

from __future__ import annotations

import pytest

import vmlab
from tests.vmm.harness import PAE, kernel, log, same, twins
from vmlab.errors import OptionError

PAGE_FAULT = 14


def test_faults_accessed_and_dirty_bits_and_stale_translations():
    native, virtual = same(
        f"""
main:   call pae_on
        mov dword [0x500000], 'old '
        mov dword [0x501000], 'new '
        mov dword [EXTRA], 0x500007
        mov eax, [WINDOW]
        mov dword [EXTRA], 0x501007
        mov ebx, [WINDOW]               ; stale
        mov [FREE], ebx
        invlpg [WINDOW + 5]
        mov ebx, [WINDOW]
        mov [FREE + 4], ebx
        mov [WINDOW + 4], ebx
        mov eax, [EXTRA]                ; accessed and dirty
        mov [FREE + 8], eax
        mov dword [EXTRA], 0x501005     ; read-only
        mov eax, cr3
        mov cr3, eax
        try mov [WINDOW], eax
        mov dword [EXTRA], 0
        invlpg [WINDOW]
        try mov eax, [WINDOW]
        try mov eax, [WINDOW + 0x200000]
        try mov eax, [0x80000000]       ; no pointer
        mov dword [EXTRA + 4], 0x80000000       ; NX, which this processor has not: reserved
        mov dword [EXTRA], 0x501007
        try mov eax, [WINDOW]
        mov dword [EXTRA + 4], 0x10     ; beyond the physical addresses
        try mov [WINDOW], eax
        mov dword [EXTRA + 4], 0x1      ; beyond memory
        mov eax, [WINDOW]
        mov [WINDOW], ebx
        mov [FREE + 12], eax
        mov dword [EXTRA + 4], 0
        invlpg [WINDOW]
        mov dword [resume], user_2
        to_user user
user:   mov eax, [WINDOW]
        mov dword [WINDOW + 0xFFE], eax ; over the page's end: not present
user_2: mov dword [hooks + 0x80 * 4], quit
        int 0x80
{PAE}
"""
    )
    assert [entry[1] for entry in log(native) if entry[0] == PAGE_FAULT] == [3, 0, 0, 0, 9, 0xB, 6]
    memory = native.guests[0].memory
    assert memory.read_bytes(0x280000, 8) == b"old new "
    assert memory.read(0x280008, 4) == 0x501067
    assert memory.read(0x28000C, 4) == 0xFFFF_FFFF
    assert virtual.guests[0].exits["hidden page fault"] > 5


def test_large_pages_of_2_mib():
    same(
        f"""
main:   call pae_on
        mov dword [HIGH], 0x00400087
        mov dword [HIGH + 8], 0x00200087
        mov dword [0x400000], 'one '
        mov dword [0x5FF000], 'two '
        mov eax, [WINDOW]
        mov ebx, [WINDOW + 0x1FF000]
        mov edx, [WINDOW + 0x200000 + FREE - 0x200000]
        mov [FREE], eax
        mov [FREE + 4], ebx
        mov dword [HIGH], 0x00200087
        mov dword [FREE + 0x7000], 'thre'
        invlpg [WINDOW + 0x5000]        ; any address of it
        mov eax, [WINDOW + FREE - 0x200000]
        mov ebx, [WINDOW + 0x7000 + FREE - 0x200000]
        mov [FREE + 8], eax
        mov [FREE + 12], ebx
        mov dword [HIGH], 0x00202087    ; reserved
        invlpg [WINDOW]
        try mov eax, [WINDOW]
        mov ecx, [HIGH + 8]
        call quit
{PAE}
"""
    )


def test_pointers_are_in_registers_and_checked():
    native, _ = same(
        f"""
main:   call pae_on
        mov dword [EXTRA], 0x500007
        mov dword [WINDOW], 'here'
        mov dword [POINTERS + 8], 0
        invlpg [WINDOW]
        mov eax, [WINDOW]               ; the register still says so
        mov [FREE], eax
        mov eax, cr3
        mov cr3, eax
        try mov eax, [WINDOW]
        mov dword [POINTERS + 16], 3    ; a reserved bit
        mov eax, cr3
        try mov cr3, eax
        mov eax, cr4
        or eax, 0x80
        try mov cr4, eax
        mov dword [POINTERS + 16], 0
        mov dword [POINTERS + 8], HIGH + 1
        mov eax, cr4
        xor eax, 0x80
        mov cr4, eax                    ; loads them too
        mov eax, [WINDOW]
        mov [FREE + 4], eax
        call quit
{PAE}
"""
    )
    assert [entry[:2] for entry in log(native)] == [(14, 0), (13, 0), (13, 0)]
    assert native.guests[0].memory.read_bytes(0x280000, 8) == b"herehere"


def test_from_two_levels_to_pae_and_back():
    same(
        f"""
main:   call paging_on
        mov dword [TABLE_1 + 0x110 * 4], 0x500007
        mov dword [0x510000], 'two '
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        call pae_on
        mov dword [EXTRA], 0x500007
        mov eax, [WINDOW]
        mov [FREE], eax
        mov dword [TABLES + 0x510 * 8], 0x501007
        invlpg [0x510000]
        mov dword [0x510000], 'pae '
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        xor eax, eax
        mov cr4, eax
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov eax, [0x510000]
        mov [FREE + 4], eax
        call quit
{PAE}
"""
    )


@pytest.mark.parametrize("root", [0xB8000, 0x1000000, 0xFFFFFFE0, 0x100000, 0x0])
def test_pointers_on_the_screen_beyond_memory_or_in_code(root):
    twins(
        kernel(
            f"main: call pae_on\n mov eax, {root}\n try mov cr3, eax\n mov eax, [0x500000]\n int 0x80\n call quit\n{PAE}"
        )
    )


@pytest.mark.parametrize("cpu", ["core-2", "westmere", "broadwell", "ice-lake"])
def test_processors_with_more_are_refused(cpu):
    with pytest.raises(OptionError, match="choose cpu= one of pentium-4, umip"):
        vmlab.run(kernel("main: call quit"), under="trap-and-emulate", cpu=cpu)
