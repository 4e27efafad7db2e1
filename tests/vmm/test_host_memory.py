"""The hypervisor's memory: its window, which a guest may use as if it were not there, and its frames, which may run out."""

from __future__ import annotations

import pytest

from tests.vmm.harness import kernel, log, same
from vmlab.vmm.page_walk import shadow_of
from vmlab.vmm.techniques import build


@pytest.mark.parametrize("linear", [0xFFC00000, 0xFFC01000, 0xFFC05FFE, 0xFFFFFFFC, 0xFFFFF800])
def test_the_hypervisors_window_is_the_guests_to_use(linear):
    native, virtual = same(
        f"""
main:   call paging_on
        mov dword [DIRECTORY + 0xFFC], 0x502007
        mov edi, 0x502000
        mov eax, 0x00400007
        mov ecx, 1024
.fill:  mov [edi], eax
        add edi, 4
        add eax, 0x1000
        loop .fill
        mov eax, cr3
        mov cr3, eax
        mov dword [{linear}], 0x12345678
        add dword [{linear}], 5
        mov edi, {linear & ~0xFFF}
        mov esi, small
        mov ecx, small_end - small
        cld
        rep movsb
        mov ecx, 10
        mov eax, {linear & ~0xFFF}
        call eax                        ; code there
        mov esp, {(linear & ~0xFFF) + 0x400}
        push ecx
        pop edx
        call print_number
        mov esp, STACK
        call quit
small:  inc edx
        loop small
        ret
small_end:
"""
    )
    assert native.guests[0].outcome == "exit"
    assert virtual.guests[0].exits["access behind the hypervisor's window"] > 20
    assert virtual.guests[0].exits["memory-mapped I/O"] == 0


def test_the_window_is_not_there_for_a_guest_that_does_not_map_it():
    native, _ = same(
        """
main:   call paging_on
        try mov eax, [0xFFC00000]
        try mov [0xFFC01000], eax
        try jmp 0xFFC03000
        mov dword [hooks + 0x80 * 4], quit
        mov dword [resume], user_2
        to_user user
user:   mov eax, [0xFFC00000]
user_2: mov dword [resume], user_3
        mov [0xFFC02FF0], eax
user_3: int 0x80
"""
    )
    assert [entry[1] for entry in log(native)[:5]] == [0, 2, 0, 4, 6]
    assert log(native)[2][2] == 0xFFC03000


def test_without_paging_the_top_of_the_address_space_is_empty_bus():
    same(
        """
main:   mov eax, [0xFFC00000]
        mov [0xFFC01000], eax
        mov eax, [0xFFFFFFFE]           ; goes on at 0
        mov ebx, [0xFFFFFFFF]
        mov [0xFFFFFFFD], ebx
        mov eax, [8 << 20]              ; behind memory
        mov eax, [(8 << 20) - 2]
        mov dword [(8 << 20) - 2], 0x11223344
        mov dword [hooks + 6 * 4], escape
        mov dword [resume], .back
        jmp 0xFFD00000                  ; FF FF is no instruction
.back:  call quit
escape: mov eax, [resume]
        mov [ebx + F_EIP], eax
        ret
"""
    )


def test_tables_that_contain_themselves():
    same(
        """
main:   call paging_on
        mov dword [DIRECTORY + 0x3FF * 4], DIRECTORY + 3        ; the classic window on all tables: in ours
        mov dword [DIRECTORY + 0x3FE * 4], DIRECTORY + 3        ; and one below it
        mov eax, [0xFFFFF000]
        mov ebx, [0xFFC00000 + 0x100 * 4]
        mov dword [0xFFC00000 + 0x510 * 4], 0x500007
        mov dword [0x510000], 1
        mov ecx, [0xFFBFE000 + 0x3FE * 4]
        or dword [0xFFFFF000 + 4], 0x200
        call quit
"""
    )


def test_more_regions_than_there_are_shadow_tables():
    native, virtual = same(
        """
main:   call paging_on
        mov eax, 0x10
        mov cr4, eax
        mov ecx, 1000
.map:   mov dword [DIRECTORY + ecx * 4], 0x00000087
        dec ecx
        cmp ecx, 2
        jae .map
        mov esi, 0x00800000
        mov ecx, 998
.touch: inc dword [esi + FREE]
        add esi, 0x00400000
        loop .touch
        call quit
"""
    )
    assert native.guests[0].memory.read(0x280000, 4) == 998
    assert virtual.switcher.host.free


def test_one_instruction_that_touches_many_regions_just_before_the_tables_run_out(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.shadow_pages.MOST_PAGES", 6)
    _, virtual = same(
        """
main:   call paging_on
        mov eax, 0x10
        mov cr4, eax
        mov edi, 0x400000               ; 64 tables, each of which maps 4 MiB from 0
.fill:  mov eax, edi
        and eax, 0xFFC
        shl eax, 10
        or eax, 7
        stosd
        cmp edi, 0x440000
        jb .fill
        mov ecx, 1000
.map:   mov eax, ecx
        and eax, 63
        shl eax, 12
        add eax, 0x400007
        mov [DIRECTORY + ecx * 4], eax
        dec ecx
        cmp ecx, 2
        jae .map
        mov esi, 0x10000000 - 2
        mov edi, 0x20000000 - 2
        mov ecx, 20
        mov esp, 0x30000000 + STACK
.copy:  movsd
        push dword [esi - 4]
        pop dword [edi - 4]
        add esi, 0x00400000 - 4
        add edi, 0x00800000 - 4
        loop .copy
        call quit
""",
        max_instructions=1_000_000,
    )
    assert shadow_of(virtual, 0).pages.evictions > 30


def test_shadow_frames_show_the_guests_own_memory_alone():
    system = build(kernel("main: call paging_on\n mov eax, [0x500000]\n call quit"), "trap-and-emulate", memory=8 << 20)
    frames = set(system.guests[0].memory.frames)
    while not system.finished:
        system.advance(1)
        memory = system.machine.memory
        tables = {table.address: table.role for table in system.worlds[0].shadow.tables()}
        for address, role in tables.items():
            entries = [memory.read(address + 4 * n, 4) for n in range(1024)]
            if role.level == 1:
                assert all(entry >> 12 in frames for entry in entries if entry & 1)
            else:
                assert all(entry & ~0xFFF in tables for entry in entries[:1023] if entry & 1)
                assert entries[1023] & 7 == 3  # the window: for ring 0
        system.advance(20)
    assert len(tables) > 3
