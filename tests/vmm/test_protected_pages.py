"""Kernels that protect their pages with what younger processors have, on the bare machine: NX, SMEP, SMAP, wide addresses."""

from __future__ import annotations

from tests.vmm.harness import PAE, finish, kernel, log

EFER = 0xC0000080


def natively(source: str, cpu: str):
    """Run a kernel to its end on a model, with either engine."""
    image = kernel(source + PAE)
    system, other = (finish(image, "native", cpu=cpu, engine=engine) for engine in ("interpreter", "translator"))
    assert system.guests[0].outcome == "exit"
    assert other.machine.save() == system.machine.save()
    return system


NX_KERNEL = f"""
main:   mov eax, 0x80000001
        cpuid
        test edx, 1 << 20
        jz near quit
        mov ecx, {EFER:#x}
        rdmsr
        or eax, 0x800                   ; NXE
        wrmsr
        call pae_on
        mov dword [EXTRA], 0x500007
        mov dword [WINDOW], 0x909090C3  ; ret
        call near [pointer]             ; code
        mov dword [EXTRA + 4], 0x80000000
        call near [pointer]             ; the TLB does not know yet
        invlpg [WINDOW]
        mov eax, [WINDOW]               ; data
        inc dword [WINDOW + 8]
        mov dword [resume], .behind
        call near [pointer]
.behind: add esp, 4
        mov dword [HIGH + 4], 0x80000000        ; a whole directory entry
        mov dword [EXTRA + 4], 0
        mov eax, cr3
        mov cr3, eax
        mov dword [resume], .more
        call near [pointer]
.more:  add esp, 4
        mov dword [HIGH + 4], 0
        invlpg [WINDOW]
        call near [pointer]
        call quit
pointer: dd WINDOW
"""


def test_a_kernel_with_nx_pages():
    for cpu in ("core-2", "broadwell"):
        assert [entry[:2] for entry in log(natively(NX_KERNEL, cpu))] == [(14, 0x11), (14, 0x11)]
    assert log(natively(NX_KERNEL, "pentium-4")) == []


def test_a_kernel_that_may_not_touch_its_users():
    system = natively(
        """
main:   mov eax, 7
        xor ecx, ecx
        cpuid
        mov [FREE], ebx
        call pae_on
        mov edi, TABLES                 ; all but one page for the supervisor alone
        mov ecx, 2048
.entry: and byte [edi], 0xFB
        add edi, 8
        loop .entry
        mov dword [EXTRA], 0x500007
        mov dword [WINDOW], 0x909090C3
        mov eax, cr4
        or eax, 0x300000                ; SMEP and SMAP
        mov cr4, eax
        try mov eax, [WINDOW]
        try mov [WINDOW], eax
        stac
        mov eax, [WINDOW]
        mov [WINDOW + 4], eax
        clac
        try mov eax, [WINDOW]
        stac
        mov dword [resume], .behind
        call near [pointer]             ; AC does not help a fetch
.behind: clac
        call quit
pointer: dd WINDOW
""",
        "broadwell",
    )
    assert [entry[:2] for entry in log(system)] == [(14, 1), (14, 3), (14, 1), (14, 0x11)]
    assert system.guests[0].memory.read(0x280000, 4) & (1 << 7 | 1 << 20) == 1 << 7 | 1 << 20


def test_a_kernel_that_finds_nothing_above_4_gib():
    system = natively(
        """
main:   call pae_on
        mov dword [EXTRA], 7
        mov dword [EXTRA + 4], 1        ; 4 GiB
        mov dword [WINDOW], 'lost'
        mov eax, [WINDOW]
        mov [FREE], eax
        mov dword [HIGH + 8], 0xE7      ; 2 MiB at 12 GiB
        mov dword [HIGH + 12], 3
        mov eax, [WINDOW + 0x2FFFFE]
        mov [FREE + 4], eax
        mov dword [HIGH + 16], 7        ; a table there: all entries are ones
        mov dword [HIGH + 20], 3
        try mov eax, [WINDOW + 0x400000]
        mov dword [resume], .behind
        jmp near [pointer]
.behind: call quit
pointer: dd WINDOW
""",
        "pentium-4",
    )
    assert [entry[:2] for entry in log(system)] == [(14, 9), (6, 0)]
    assert system.guests[0].memory.read(0x280000, 8) == (1 << 64) - 1
