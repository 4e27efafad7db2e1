"""CR8 of a guest: written and read without exits where the processor can, and interrupts wait for it as natively."""

from __future__ import annotations

import pytest

import vmlab
from tests.vmm.harness import differences, seen
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import Machine
from vmlab.vmm.task_priority import threshold

SOURCE = """
bits 32
org 0x100000
PML4 equ 0x110000
start:  mov dword [PML4], PML4 + 0x1003
        mov dword [PML4 + 0x1000], PML4 + 0x2003
        mov dword [PML4 + 0x1018], PML4 + 0x3003
        mov dword [PML4 + 0x2000], 0x83
        mov dword [PML4 + 0x3000 + 503 * 8], 0xFEE00083
        mov eax, PML4
        mov cr3, eax
        mov eax, 0x20
        mov cr4, eax
        mov ecx, 0xC0000080
        rdmsr
        or eax, 0x100
        wrmsr
        lgdt [gdt_pointer]
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        jmp 0x08:long
bits 64
long:   mov eax, 0x10
        mov ss, eax
        mov esp, 0x90000
        lidt [rel idt_pointer]
        mov word [gates + 0x50 * 16], taken - $$
        mov ebx, 0xFEE00000
        mov edx, 0x3F8
        mov dword [rbx + 0xF0], 0x1FF
        sti
        mov eax, 9
        mov cr8, rax
        mov dword [rbx + 0x300], 0x40050        ; to itself
        mov al, 'a'
        out dx, al
        mov rax, cr8
        add al, '0'
        out dx, al
        mov eax, 5                              ; its own class still keeps it out
        mov cr8, rax
        mov dword [rbx + 0x80], 0x7A            ; the same register
        mov rax, cr8
        add al, '0'
        out dx, al
        mov eax, 4
        mov cr8, rax
        mov al, 'b'
        out dx, al
        mov ecx, 50
.more:  mov eax, ecx
        and eax, 15
        mov cr8, rax
        mov rsi, cr8
        add edi, esi
        loop .more
        xor eax, eax
        out 0xF4, al
taken:  mov al, '!'
        out dx, al
        mov dword [rbx + 0xB0], 0
        iretq
align 8
gdt:    dq 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
gdt_pointer: dw 23
        dd gdt
idt_pointer: dw 0x51 * 16 - 1
        dq gates
align 16
gates:  times 0x51 dw 0, 0x08, 0x8E00, 0x10, 0, 0, 0, 0
"""
CONTROL = "control-register access"


def finish(under: str, **options):
    return vmlab.run(vmlab.assemble(SOURCE), under, memory=4 << 20, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"cpu": "prescott", "memory_virtualization": "shadow"},
        {"cpu": "core-2", "host_cpu": "westmere"},
        {"cpu": "core-2", "host_cpu": "broadwell-ep"},
        {"cpu": "core-2", "host_cpu": "broadwell-ep", "memory_virtualization": "shadow"},
    ],
)
def test_an_interrupt_waits_for_cr8(options):
    native, virtual = finish("native", cpu=options["cpu"]), finish("vt-x", **options)
    assert native.console == "a97!b"
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []
    assert virtual.exits["TPR below threshold"] == 1
    assert virtual.exits[CONTROL] < 10  # those on the way to 64-bit mode


@pytest.mark.parametrize("memory", ["nested", "shadow"])
@pytest.mark.parametrize("cpu", ["core-2", "barcelona"])
def test_the_virtual_task_priority_of_amds(cpu, memory):
    """One write leads out: that which lets the interrupt in."""
    native, virtual = finish("native", cpu=cpu), finish("amd-v", cpu=cpu, memory_virtualization=memory)
    assert native.console == "a97!b"
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []
    assert virtual.exits[CONTROL] < 10
    assert native.system.machine.cpu.priority_loads == 3 + 50
    loads = virtual.system.machine.cpu.priority_loads + virtual.guests[0].vcpu.priority_loads
    assert loads == native.system.machine.cpu.priority_loads


def test_without_a_shadow_each_access_leads_out(monkeypatch):
    monkeypatch.setitem(CPU_MODELS, "prescott", CPU_MODELS["prescott"].without("tpr-shadow"))
    monkeypatch.setattr("vmlab.machine.vmx.controls._ALLOWED", {})
    virtual = finish("vt-x", cpu="prescott", memory_virtualization="shadow")
    assert virtual.console == "a97!b"
    assert virtual.exits["TPR below threshold"] == 0
    assert virtual.exits[CONTROL] > 100


@pytest.mark.parametrize(
    ("waiting", "priority", "expected"), [(0, 0xF0, 0), (0x50, 0x90, 5), (0x50, 0x5F, 5), (0x50, 0x4F, 0), (0x31, 0, 0)]
)
def test_threshold(waiting, priority, expected):
    apic = Machine(1 << 20, CPU_MODELS["pentium-4"]).cpu.interrupts
    apic.irr, apic.tpr = 1 << waiting if waiting else 0, priority
    assert threshold(apic) == expected
