"""Real mode and virtual-8086 mode below a hypervisor: the guest's 16-bit code runs in the processor's virtual-8086 mode."""

from __future__ import annotations

import pytest

import vmlab
from tests.machine.wild import wild
from vmlab.isa.x86.registers import VM
from vmlab.vmm.compare import Comparison
from vmlab.vmm.run import Run
from vmlab.vmm.techniques import build

SEGMENTS = """
    push cs
    pop ds
    mov ax, 0x1234
    mov es, ax
    mov bx, es
    mov word [es:0x10], 0x5678
    mov cx, [es:0x10]
    call 0x07c0:far_away - 0x7c00
    mov dx, cs
    pushf
    pop si
    cli
    pushf
    pop di
    sti
    mov [0x9000], ax
    mov [0x9002], si
    mov [0x9004], di
    jmp done
far_away:
    mov bp, cs
    push ss
    pop fs
    retf
done:
"""


def compare(source, **options):
    image = vmlab.boot_sector(source + "\n cli\n hlt")
    return vmlab.compare(image, max_instructions=200_000, **options)


def test_segment_registers_are_the_guests_own():
    comparison = compare(SEGMENTS)
    assert comparison.faithful, comparison
    guest = comparison.runs[1].guests[0]
    registers = guest.vcpu.registers
    assert [registers[n] & 0xFFFF for n in (3, 1, 5)] == [0x1234, 0x5678, 0x07C0]
    assert guest.memory.read(0x9002, 2) & 0x200
    assert not guest.memory.read(0x9004, 2) & 0x200, "PUSHF tells the guest's IF"


def test_interrupts_in_real_mode():
    source = """
    mov word [4 * 0x21], service
    mov word [4 * 0x21 + 2], 0
    mov word [4 * 0x1c], tick
    mov word [4 * 0x1c + 2], 0
    mov word [0], divided
    mov word [2], 0
    int 0x21
    int3
    xor cx, cx
    div cx
wait: sti
    hlt
    cmp word [0x9000], 3
    jb wait
    jmp done
service: mov bx, 0x2121
    iret
tick: inc word [cs:0x9000]
    iret
divided: mov bp, sp
    add word [bp], 2
    mov si, 0xd1d1
    iret
done:
    """
    comparison = compare(source)
    assert comparison.faithful, comparison
    registers = comparison.runs[1].guests[0].vcpu.registers
    assert (registers[3] & 0xFFFF, registers[6] & 0xFFFF) == (0x2121, 0xD1D1)


def test_the_real_processor_is_in_virtual_8086_mode():
    system = build(vmlab.boot_sector("jmp $"), "trap-and-emulate", max_instructions=1000)
    while system.machine.in_host:
        system.advance(1)
    assert system.machine.cpu.flags & VM
    assert not system.guest.vcpu.flags & VM
    assert not system.guest.vcpu.cr0 & 1


UNREAL = """
    cli
    lgdt [table]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 8
    mov ds, bx
    and al, 0xfe
    mov cr0, eax
    mov esi, 0x123456
    mov dword [esi], 0xfeedbeef       ; beyond 64 KiB, in real mode
    mov ecx, [esi]
    xor ax, ax
    mov ds, ax
    mov edx, [esi]
    jmp done
    align 8
gdt: dq 0, 0x00cf93000000ffff
table: dw 15
    dd gdt
done:
"""


def test_segments_that_protected_mode_has_made():
    comparison = compare(UNREAL)
    assert comparison.faithful, comparison
    registers = comparison.runs[1].guests[0].vcpu.registers
    assert (registers[1], registers[2]) == (0xFEEDBEEF, 0xFEEDBEEF)


def test_running_off_the_end_of_the_segment():
    source = """
    mov word [4 * 13], handler
    mov word [4 * 13 + 2], 0
    mov word [0xfffe], 0x9090
    jmp 0xfffe
handler: mov bx, 0x1313
    """
    comparison = compare(source)
    assert comparison.faithful, comparison
    assert comparison.runs[1].guests[0].vcpu.registers[3] & 0xFFFF == 0x1313


@pytest.mark.parametrize("mode", ["boot sector", "virtual 8086", "virtual 8086, paging"])
def test_noise_is_the_same_noise(mode):
    """Only what reads GDTR, IDTR or CR0 unseen can tell; these seeds hold none of that."""
    for seed in (101, 102, 103):
        runs = []
        for under in ("native", "trap-and-emulate"):
            system = wild(seed, mode, under, limit=3_000, cpu="pentium-4", cpus=1)
            system.run()
            runs.append(Run(system))
        comparison = Comparison(tuple(runs))
        assert comparison.faithful, (seed, comparison)
