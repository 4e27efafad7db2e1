"""Guests that mean harm: they reach neither the hypervisor nor the neighbour, and do not keep the CPU."""

from __future__ import annotations

import pytest

from tests.vmm.harness import MEMORY, differences, finish, kernel, seen
from tests.vmm.hostile import UNDER, neighbour, noise, own_frames

LIMIT = 17_000
QUANTUM = 500

MALICE = {
    "writes everywhere": """
main:   mov edi, 0x200000
.next:  mov [edi], edi
        add edi, 0x3FFFC
        jmp .next
""",
    "writes everywhere, with paging": """
main:   mov dword [hooks + 14 * 4], on
        call paging_on
        mov edi, 0x200000
.next:  mov [edi], edi
        add edi, 0x3FFFC
        jmp .next
on:     add dword [ebx + F_EIP], 2
        ret
""",
    "writes to the hypervisor's window": """
main:   mov dword [hooks + 14 * 4], on
        call paging_on
        mov edi, 0xFFC00000
.next:  mov [edi], edi
        add edi, 0x1FC
        jmp .next
on:     add dword [ebx + F_EIP], 2
        ret
""",
    "loads selectors": """
main:   mov dword [hooks + 13 * 4], on
        mov dword [hooks + 11 * 4], on
        mov dword [hooks + 12 * 4], on
        xor eax, eax
.next:  mov fs, eax
        mov ss, eax
        mov [fs:0x300000], eax
        add eax, 37
        jmp .next
on:     mov ecx, [ebx + F_EIP]          ; behind it: two bytes, or seven
        add ecx, 2
        cmp byte [ecx - 2], 0x64
        jne .two
        add ecx, 4
.two:   mov [ebx + F_EIP], ecx
        ret
""",
    "jumps to the hypervisor's segments": """
main:   mov dword [hooks + 13 * 4], on
        mov esi, 0xFF80
.next:  mov [target + 4], si
        mov dword [target], 0xFFC03000
        mov ebp, esp
        jmp far [target]
on:     mov ecx, .two
        mov [ebx + F_EIP], ecx
        ret
.two:   mov dword [hooks + 13 * 4], on2
        push dword 0x10
        push dword STACK
        push dword 2
        push esi
        push dword 0xFFC03000
        iret
on2:    mov dword [ebx + F_EIP], .three
        ret
.three: mov esp, STACK
        mov dword [hooks + 13 * 4], on
        inc esi
        jmp main.next
target: dd 0, 0
""",
    "garbage for an IDT and a GDT": """
main:   lidt [garbage]
        lgdt [garbage]
        mov eax, 0x28
        mov es, eax
        int 0x30
garbage: dw 0xFFFF
        dd handler
""",
    "spins with interrupts off": "main: cli\n jmp $",
    "takes over CR3": """
main:   mov dword [hooks + 14 * 4], on
        call paging_on
        mov ecx, 2000
        mov ebx, 0x12345
.next:  imul ebx, ebx, 0x19660D
        add ebx, 0x3C6EF35F
        mov eax, DIRECTORY
        mov cr3, eax
        mov [TABLE_1 + 0x80], ebx
        mov [DIRECTORY + 0x20], ebx
        mov [DIRECTORY + 0xFF0], ebx
        or dword [TABLE_1 + 0x80], 7
        or dword [DIRECTORY + 0x20], 7
        or dword [DIRECTORY + 0xFF0], 7
        mov eax, cr3
        mov cr3, eax
        mov [0x420000], ebx
        mov [0x2000000], ebx
        mov [0xFF000000], ebx
        loop .next
on:     add dword [ebx + F_EIP], 6
        ret
""",
    "maps memory that it has not": """
main:   call paging_on
        mov ebx, 0x00800007             ; behind its memory: page after page
.next:  mov [TABLE_1 + 0x80], ebx
        invlpg [0x420000]
        mov [0x420000], ebx
        xor dword [0x420004], 0xFFFFFFFF
        add ebx, 0x1000
        jmp .next
""",
    "four megabytes at a time": """
main:   call paging_on
        mov eax, 0x10
        mov cr4, eax
        mov ebx, 0x00800087
.next:  mov [DIRECTORY + 12], ebx
        mov ecx, cr3
        mov cr3, ecx
        mov [0xC00000], ebx
        mov [0xFFFFFC], ebx
        add ebx, 0x400000
        jmp .next
""",
    "traps all the time": "main: cli\n sti\n in al, 0x80\n mov eax, cr0\n int 0x30\n jmp main",
    "int1 in front of the hypervisor": "main: mov eax, 0xFFC00000\n mov ecx, eax\n mov edi, eax\n db 0xF1\n jmp main",
    "steps itself": """
main:   push dword 0x102
        push dword KERNEL_CODE
        push dword .on
        iret
.on:    mov eax, 0xFFC00000
        mov [eax], eax
        jmp .on
""",
    "a stack in the window": "main: mov esp, 0xFFC02FF0\n push eax\n int 0x30\n jmp main",
    "debug registers and control registers": """
main:   mov dword [hooks + 13 * 4], on
        mov dword [hooks + 6 * 4], on
        mov eax, 0xFFFFFFFF
.next:  mov dr0, eax
        mov dr7, eax
        mov dr6, eax
        mov cr4, eax
        mov cr0, eax
        mov cr2, eax
        lmsw ax
        ror eax, 1
        and al, 0xFE
        or al, 1
        jmp .next
on:     add dword [ebx + F_EIP], 3
        ret
""",
    "uses up the shadow tables": """
main:   call paging_on
        mov eax, 0x10
        mov cr4, eax
        mov ecx, 1022
.map:   mov dword [DIRECTORY + ecx * 4], 0x00000087
        dec ecx
        cmp ecx, 2
        jae .map
.again: mov esi, 0x00800000
.touch: inc dword [esi + FREE]
        add esi, 0x00400000
        cmp esi, 0xFF800000
        jb .touch
        jmp .again
""",
}


@pytest.fixture(autouse=True)
def short_slices(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", QUANTUM)


ALTERNATE = ("nested", "amd-v, shadow", "shadow", "amd-v, nested")


def each_way(cases):
    """Return each case under trap-and-emulate, and under vt-x or amd-v with one kind of memory or the other in turn."""
    ways = [("trap-and-emulate", case) for case in cases]
    return ways + [(ALTERNATE[n % 4], case) for n, case in enumerate(cases)]


@pytest.fixture
def options(request):
    return UNDER[request.param] | {"max_instructions": LIMIT}


@pytest.fixture
def alone(short_slices, options):
    """The neighbour's run when it is the only guest."""
    system = finish(neighbour(), **options)
    assert system.guests[0].outcome == "exit"
    return seen(system.guests[0]), dict(system.guests[0].exits), own_frames(system)


@pytest.mark.parametrize(("options", "malice"), each_way(MALICE), indirect=["options"])
def test_the_neighbour_does_not_notice(malice, alone, options):
    place = len(malice) % 2
    images = [neighbour(), kernel(MALICE[malice], malice)]
    system = finish(images if place else images[::-1], **options)
    victim = system.guests[1 - place]
    expected, exits, frames = alone
    assert differences(expected, seen(victim)) == []
    assert dict(victim.exits) == exits
    assert own_frames(system) == frames
    assert system.machine.outcome is None
    assert system.guests[place].outcome in ("limit", "triple-fault", "livelock", "exit")


@pytest.mark.parametrize(("options", "seed"), each_way(range(24)), indirect=["options"])
def test_noise_as_a_kernel(seed, alone, options):
    system = finish([noise(seed), neighbour()], **options)
    assert differences(alone[0], seen(system.guests[1])) == []
    assert own_frames(system) == alone[2]
    assert system.machine.outcome is None


@pytest.mark.long
@pytest.mark.parametrize("seed", range(600))
def test_more_noise(seed):
    system = finish(noise(seed), "trap-and-emulate", max_instructions=4_000, memory=MEMORY)
    assert system.machine.outcome is None
    finish(noise(seed), "native", max_instructions=4_000)
