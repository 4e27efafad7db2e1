"""Shadow descriptor tables: segments, gates and tables of a guest behave as on the bare machine."""

from __future__ import annotations

import pytest

from tests.vmm.harness import kernel, log, same, twins, vectors
from vmlab.isa.x86.descriptors import Descriptor, SegmentRegister, encode_descriptor
from vmlab.machine.memory import PhysicalMemory
from vmlab.vmm.host_memory import HostMemory, host_bytes
from vmlab.vmm.shadow_descriptors import CACHED_FIRST, HOST_FIRST, ShadowDescriptors, shadow


def put(selector: str, base: int, limit: int, access: int, *, big: bool = True) -> str:
    """Return code that writes a descriptor into the GDT."""
    raw = encode_descriptor(base, limit, access, big=big)
    return f"mov dword [gdt + {selector}], {raw & 0xFFFFFFFF}\n mov dword [gdt + {selector} + 4], {raw >> 32}\n"


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
    probes = "\n".join(f"try mov eax, [es:{n}]\n try mov [es:{n}], ebx\n try mov cl, [es:{n + 3 & 0xFFFFFFFF}]" for n in offsets)
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
"""
        .replace("lar ebx, eax ", "mov ebx, eax ")
    )
    memory, gdt = virtual.guests[0].memory, virtual.guests[0].image.symbols["gdt"]
    assert memory.read(gdt + 0x35, 1) == 0x93
    assert memory.read(gdt + 0x3D, 1) == 0x9B


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
    gate = "dw entry - $$"
    native, _ = same(
        f"""
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
""".replace("{gate}", gate)
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


# -- the tables themselves ------------------------------------------------------------------------------------------


@pytest.fixture
def tables():
    host = HostMemory(PhysicalMemory(4 << 20), host_bytes(1))
    return host, ShadowDescriptors(host)


def test_what_is_shadowed_for_which_ring():
    kinds = {access: Descriptor(encode_descriptor(0, 0xFFFFF, access)) for access in (0x93, 0x92, 0x9B, 0xFB, 0xF3, 0x13, 0x89, 0x9F, 0xB3)}
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
