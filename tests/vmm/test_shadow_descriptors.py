"""Shadow descriptor tables: segments, gates and tables of a guest behave as on the bare machine."""

from __future__ import annotations

import pytest

from tests.vmm.harness import kernel, put, same, twins, vectors
from vmlab.isa.x86.descriptors import Descriptor, SegmentRegister, encode_descriptor
from vmlab.machine.memory import PhysicalMemory
from vmlab.vmm.host_memory import HostMemory, host_bytes
from vmlab.vmm.shadow_descriptors import CACHED_FIRST, HOST_FIRST, ShadowDescriptors, shadow


def test_descriptors_changed_at_run_time():
    _, virtual = same(
        f"""
main:   mov dword [FREE], 1111
        mov dword [FREE + 0x100], 2222
        mov dword [FREE + 0x200], 3333
        {put("SPARE", 0x280000, 0xFFF, 0x92)}
        mov eax, SPARE
        mov es, eax
        mov ebx, [es:0]
        {put("SPARE", 0x280100, 0xFFF, 0x92)}
        mov ecx, [es:0]                 ; still the old base: the hidden part
        mov dword [es:4], ecx
        mov es, eax
        mov edx, [es:0]
        mov fs, eax
        {put("SPARE", 0x280200, 0x3, 0x92)}
        mov gs, eax
        mov esi, [gs:0]
        try mov edi, [gs:1]
        mov [fs:8], edi
        and byte [gdt + SPARE + 5], 0x7F        ; not present
        try mov gs, eax
        mov edi, [gs:0]
        mov [FREE + 0x300], ebx
        mov [FREE + 0x304], ecx
        mov [FREE + 0x308], edx
        mov [FREE + 0x30C], esi
        mov eax, [gdt + SPARE + 4]
        call quit
"""
    )
    memory = virtual.guests[0].memory
    assert [memory.read(0x280300 + 4 * n, 4) for n in range(4)] == [1111, 1111, 2222, 3333]
    assert vectors(virtual) == [13, 11]
    assert virtual.guests[0].exits["traced write"] >= 7


@pytest.mark.parametrize(
    ("limit", "access", "offsets"),
    [
        (0x12344, 0x92, (0x12341, 0x12342, 0x12FFF)),  # bytes, above 64 KiB
        (0x12FFF, 0x92, (0x12FFC, 0x12FFD, 0x13000)),
        (0xFFFFF, 0x92, (0xFFFFC, 0xFFFFD)),
        (0x3FFFFF, 0x90, (0x3FFFFC, 0x3FFFFD)),  # pages, read-only
        (0xFFF, 0x96, (0xFFF, 0x1000, 0xFFFFFFFC, 0xFFFFFFFD)),  # expand-down
        (0, 0x92, (0, 1)),
    ],
)
def test_limits_and_types(limit, access, offsets):
    probes = "\n".join(
        f"try mov eax, [es:{n}]\n try mov [es:{n}], ebx\n try mov cl, [es:{n + 3 & 0xFFFFFFFF}]" for n in offsets
    )
    same(f"main: {put('SPARE', 0x400000, limit, access)} mov eax, SPARE\n mov es, eax\n {probes}\n call quit")


def test_the_accessed_bit_is_set_in_the_guests_table():
    _, virtual = same(
        f"""
main:   {put("SPARE", 0, 0xFFFFFFFF, 0x92)}
        {put("SPARE + 8", 0, 0xFFFFFFFF, 0x9A)}
        mov eax, SPARE
        mov es, eax
        mov es, eax
        jmp SPARE + 8:.there
.there: jmp KERNEL_CODE:.back
.back:  lar ebx, eax                    ; sensitive, but of an accessed segment of DPL 0 the type is right
        call quit
""".replace("lar ebx, eax ", "mov ebx, eax ")
    )
    memory, gdt = virtual.guests[0].memory, virtual.guests[0].image.symbols["gdt"]
    assert memory.read(gdt + 0x35, 1) == 0x93
    assert memory.read(gdt + 0x3D, 1) == 0x9B


@pytest.mark.parametrize("place", ["gdt", "FREE + 0xFE0", "0x4FFFF4", "FREE + 3"])
@pytest.mark.parametrize("paging", [False, True])
def test_a_table_elsewhere_across_pages_and_with_a_huge_limit(place, paging):
    same(
        f"""
main:   {"call paging_on" if paging else ""}
        mov esi, gdt
        mov edi, {place}
        mov ecx, gdt_end - gdt
        rep movsb
        mov dword [FREE + 0x20000 + 2], {place}
        mov word [FREE + 0x20000], 0xFFFF
        lgdt [FREE + 0x20000]
        mov eax, KERNEL_DATA
        mov es, eax
        mov dword [{place} + SPARE], 0x0000FFFF
        mov dword [{place} + SPARE + 4], 0x00CF9210
        mov eax, SPARE
        mov es, eax
        mov ebx, [es:0]
        mov dword [{place} + 0x7FF0], 0x0000FFFF
        mov dword [{place} + 0x7FF4], 0x00CF9220
        mov eax, 0x7FF0
        mov fs, eax
        mov ebx, [fs:0]
        mov dword [{place} + 0xFFD8], 0x0000FFFF        ; where the hypervisor keeps its own
        mov dword [{place} + 0xFFDC], 0x00CF9230
        mov dword [{place} + 0xFF80], 0x0000FFFF
        mov dword [{place} + 0xFF84], 0x00CF9240
        mov eax, 0xFFD8
        mov gs, eax
        mov ebx, [gs:0]
        mov eax, 0xFF80
        mov gs, eax
        mov ebx, [gs:0]
        mov word [FREE + 0x20000], 0x17
        lgdt [FREE + 0x20000]
        mov eax, SPARE
        try mov es, eax
        call quit
"""
    )


def test_code_and_the_table_in_one_page():
    _, virtual = same(
        """
main:   mov esi, gdt
        mov edi, table
        mov ecx, (gdt_end - gdt) / 4
        rep movsd
        mov dword [pointer + 2], table
        lgdt [pointer]
        mov ecx, 40
.loop:  mov eax, KERNEL_DATA
        mov es, eax
        inc dword [counter]
        mov [es:counter + 4], ecx
        call change
        loop .loop
        call quit
change: add byte [table + SPARE + 2], 1
        ret
pointer: dw gdt_end - gdt - 1
        dd 0
counter: dd 0, 0
table:  times 32 dd 0
"""
    )
    assert virtual.guests[0].exits["traced write"] >= 120


@pytest.mark.parametrize("flush", [False, True])
def test_the_table_is_unmapped(flush):
    """Not flushed, what is stale still works; flushed, not even the page fault can be delivered."""
    native, _ = twins(
        kernel(
            f"""
main:   call paging_on
        mov eax, KERNEL_DATA
        mov es, eax
        mov dword [TABLE_0 + (gdt >> 12) * 4], 0
        mov es, eax
        mov ecx, [es:main]
        mov fs, eax
        out 0x80, al
        {"mov eax, cr3" if flush else "mov dword [TABLE_0 + (gdt >> 12) * 4], gdt + 7"}
        mov cr3, eax
        int 0x30
        mov eax, KERNEL_DATA
        mov es, eax
        mov ecx, [es:main]
        call quit
""".replace("mov cr3, eax", "mov cr3, eax" if flush else "mov eax, cr3\n mov cr3, eax")
        )
    )
    assert native.guests[0].outcome == ("triple-fault" if flush else "exit")


# -- the tables themselves ------------------------------------------------------------------------------------------


@pytest.fixture
def tables():
    host = HostMemory(PhysicalMemory(4 << 20), host_bytes(1))
    return host, ShadowDescriptors(host)


def test_what_is_shadowed_for_which_ring():
    kinds = {
        access: Descriptor(encode_descriptor(0, 0xFFFFF, access))
        for access in (0x93, 0x92, 0x9B, 0xFB, 0xF3, 0x13, 0x89, 0x9F, 0xB3)
    }
    usable = {level: {access for access, each in kinds.items() if shadow(each, level)} for level in (0, 1, 3)}
    assert usable == {0: {0x93, 0x9B, 0xF3, 0x9F, 0xB3}, 1: {0xF3, 0xB3}, 3: {0xFB, 0xF3}}
    assert all(Descriptor(shadow(kinds[access], 0)).dpl == 3 for access in usable[0])


def test_only_what_changed_is_rebuilt(tables, monkeypatch):
    host, descriptors = tables
    entries = bytearray(encode_descriptor(0, 0xFFFFF, 0x93).to_bytes(8, "little") * 0x2000)
    descriptors.rebuild(bytes(entries), 0)
    writes = []
    monkeypatch.setattr(host, "write", lambda linear, size, value: writes.append(linear))
    descriptors.rebuild(bytes(entries), 0)
    assert not writes
    entries[0x4005] = 0
    descriptors.rebuild(bytes(entries), 0)
    assert 0 < len(writes) <= 64
    descriptors.rebuild(bytes(entries[:16]), 0)
    assert len(writes) > 0x1F00
    assert all((linear - descriptors.tables[0]) % 0x10000 < HOST_FIRST for linear in writes)


def test_cached_descriptors_are_there_only_while_they_are_loaded(tables):
    host, descriptors = tables
    register = SegmentRegister(0x48, 0x1000, 0x12345, 0x93, big=True)
    selector = descriptors.selector_for(3, register, user=False)
    assert selector & 0xFFF8 >= CACHED_FIRST
    found = Descriptor(host.read(descriptors.tables[0] + (selector & 0xFFF8), 8))
    assert (found.base, found.limit, found.access, found.big) == (0x1000, 0x12345, 0xF3, True)
    descriptors.conceal()
    assert host.read(descriptors.tables[0] + (selector & 0xFFF8), 8) == 0
