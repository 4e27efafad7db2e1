"""INT 11h, 12h, 14h, 15h, 17h, 1Ah and the timer's interrupt."""

from __future__ import annotations

import struct

import pytest

from tests.machine.firmware.booting import boot
from vmlab.machine.multiboot import memory_map

MIB = 1 << 20
MAP = """
    xor ebx, ebx
    mov di, 0x9000
next:
    mov eax, 0xe820
    mov edx, 0x534d4150
    mov ecx, 24
    int 0x15
    jc done
    inc word [0x8ffe]
    cmp eax, 0x534d4150
    jne done
    cmp ecx, 20
    jne done
    add di, 20
    test ebx, ebx
    jnz next
done:
"""


@pytest.mark.parametrize("size", [2, 16, 64])
def test_the_memory_map(size):
    after = boot(MAP, memory=size * MIB)
    expected = memory_map(size * MIB)
    assert after.word(0x8FFE) == len(expected)
    assert list(struct.iter_unpack("<QQI", after.memory(0x9000, 20 * len(expected)))) == expected
    assert (after.ebx, after.eax, after.carry) == (0, 0x534D4150, False)


def test_a_memory_map_asked_for_wrongly():
    asked = "mov eax, 0xe820\n mov edx, {}\n mov ecx, {}\n mov ebx, {}\n mov di, 0x9000\n int 0x15"
    for edx, ecx, ebx in ((0, 20, 0), (0x534D4150, 19, 0), (0x534D4150, 20, 99)):
        assert boot(asked.format(edx, ecx, ebx)).carry
    assert not boot(asked.format(0x534D4150, 20, 3)).carry


@pytest.mark.parametrize(
    ("size", "below", "above"), [(1, 0, 0), (8, 7 * 1024, 0), (16, 15 * 1024, 0), (64, 15 * 1024, 768)]
)
def test_memory_in_other_ways(size, below, above):
    after = boot("mov ax, 0xe801\n int 0x15", memory=size * MIB)
    assert (after.carry, after.ax, after.bx, after.cx, after.dx) == (False, below, above, below, above)
    assert boot("mov ah, 0x88\n int 0x15", memory=size * MIB).ax == min((size - 1) * 1024, 0xFFFF)
    assert boot("int 0x12", memory=size * MIB).ax == 639


def test_equipment():
    assert boot("int 0x11").ax == 0x0220


def test_the_a20_gate():
    after = boot("mov ax, 0x2402\n int 0x15")
    assert (after.carry, after.ax) == (False, 1)
    after = boot("mov ax, 0x2403\n int 0x15")
    assert (after.carry, after.ah, after.bx) == (False, 0, 3)
    after = boot("mov ax, 0x2401\n int 0x15")
    assert (after.carry, after.ah) == (False, 0)
    assert boot("mov ax, 0x2400\n int 0x15\n mov ax, 0x2402\n int 0x15").al == 0
    assert boot("mov ax, 0x2400\n int 0x15\n mov ax, 0x2401\n int 0x15\n mov ax, 0x2402\n int 0x15").al == 1
    assert boot("mov ax, 0x2404\n int 0x15").ah == 0x86


def test_moving_a_block_above_1_mib():
    source = """
    mov cx, 256
    mov si, table
    mov ah, 0x87
    int 0x15
    jmp done
    align 8
table: dq 0, 0
    dw 0xffff, 0x7c00
    db 0, 0x93, 0, 0
    dw 0xffff, 0x3456
    db 0x12, 0x93, 0, 0
    dq 0, 0
done:
"""
    after = boot(source)
    assert (after.carry, after.ah) == (False, 0)
    assert after.memory(0x12_3456, 512) == after.memory(0x7C00, 512)
    assert boot("mov cx, 0x8001\n" + source.replace("mov cx, 256", "")).carry


def test_waiting():
    after = boot("mov ah, 0x86\n mov cx, 3\n mov dx, 0x0d40\n int 0x15\n mov bx, [0x46c]")  # 200 ms
    assert (after.carry, after.ah) == (False, 0)
    assert after.bx in (4, 5)
    assert after.guest.instructions < 1000


def test_the_configuration_table():
    after = boot("mov ah, 0xc0\n int 0x15")
    assert (after.carry, after.ah) == (False, 0)
    table = (after.guest.vcpu.segments[0].selector << 4) + after.bx
    assert after.memory(table, 3) == bytes([8, 0, 0xFC])
    after = boot("mov ah, 0xc1\n int 0x15")
    assert (after.carry, after.guest.vcpu.segments[0].selector) == (False, 0x9FC0)


@pytest.mark.parametrize("function", [0x00, 0x53, 0x83, 0x89, 0xE9])
def test_what_is_not_there_is_refused(function):
    after = boot(f"mov ah, {function}\n clc\n int 0x15")
    assert (after.carry, after.ah) == (True, 0x86)


def test_ticks():
    after = boot("mov cx, 4\nidle: sti\n hlt\n loop idle\n mov ah, 0\n int 0x1a\n")
    assert (after.cx, after.dx, after.al) == (0, 4, 0)
    after = boot("mov ah, 1\n mov cx, 0x18\n mov dx, 0xae\n int 0x1a\n sti\n hlt\n hlt\n hlt\n mov ah, 0\n int 0x1a\n")
    assert (after.cx, after.dx, after.al) == (0, 1, 1), "past midnight"
    assert after.memory(0x470, 1) == b"\0", "told once"


def test_a_program_may_hook_the_tick():
    source = (
        "mov word [4 * 0x1c], tick\n mov word [4 * 0x1c + 2], 0\nidle: sti\n hlt\n cmp bp, 3\n jb idle\n jmp done\n"
    )
    assert boot(source + "tick: inc bp\n iret\ndone:").bp == 3


def test_the_clock():
    after = boot("mov ah, 2\n int 0x1a\n mov ax, dx\n mov bx, cx\n mov [0x9000], ax\n mov ah, 4\n int 0x1a")
    assert (after.bx, after.word(0x9000)) == (0, 0)
    assert (after.cx, after.dx, after.carry) == (0x2026, 0x0101, False)
    after = boot("mov ah, 3\n mov cx, 0x1234\n mov dx, 0x5600\n int 0x1a\n mov ah, 2\n int 0x1a")
    assert (after.cx, after.dh) == (0x1234, 0x56)
    after = boot("mov ah, 5\n mov cx, 0x1999\n mov dx, 0x1231\n int 0x1a\n mov ah, 4\n int 0x1a")
    assert (after.cx, after.dx) == (0x1999, 0x1231)
    assert boot("mov ax, 0xb101\n int 0x1a").carry, "no PCI BIOS"


def test_the_serial_port():
    after = boot("mov ax, 0x00e3\n xor dx, dx\n int 0x14\n mov ax, 0x0153\n int 0x14\n")
    assert after.guest.console == "S"
    assert after.ah & 0x60 == 0x60, "empty again"
    assert after.guest.platform.uart.divisor == 12
    assert boot("mov ah, 2\n xor dx, dx\n int 0x14", input="x").al == ord("x")
    assert boot("mov ah, 2\n xor dx, dx\n int 0x14").ah == 0x80
    assert boot("mov ax, 0x0341\n mov dx, 1\n int 0x14").ax == 0x0341, "no second port"
    assert boot("mov ah, 0\n xor dx, dx\n int 0x17").ah == 1, "no printer"


def test_flags_of_the_caller_stay():
    after = boot("sti\n std\n stc\n mov ax, 0x0e41\n int 0x10\n pushf\n pop bx\n cld\n")
    assert after.bx & 0x601 == 0x601
