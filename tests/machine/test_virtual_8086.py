"""Virtual-8086 mode: the way in and out, and what is sensitive to IOPL in it (Intel SDM vol. 3, chapter 20)."""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, DATA, FREE, HANDLERS, INNER_STACKS, STACK, TSS, Computer
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import INTERRUPT_GATE16, INTERRUPT_GATE32, encode_descriptor, encode_gate
from vmlab.isa.x86.faults import BP, DE, GP, UD
from vmlab.isa.x86.registers import CS, DS, ESP, FIXED, IF, IOPL, NT, RF, SS, VM

BASE = FREE >> 4
STACK_86 = 0x2000
SEGMENTS = (0x1111, 0x2222, 0x3333, 0x4444)  # ES DS FS GS


def enter(source: str, flags: int = 0, bits: int = 16) -> Computer:
    """Return a computer in virtual-8086 mode before code at the paragraph of `FREE`."""
    computer = Computer()
    computer.load("iretd", 0, stack=STACK)
    frame = (0x10, BASE, FIXED | VM | flags, STACK_86, 0x3000, *SEGMENTS)
    for n, value in enumerate(frame):
        computer.memory.write(STACK + 4 * n, 4, value)
    computer.memory.write_bytes(FREE + 0x10, assemble(source, 0x10, bits).code)
    computer.step()
    assert computer.vector is None
    return computer


def test_entry_by_iret() -> None:
    cpu = enter("nop").cpu
    assert (cpu.cpl, cpu.fetch_bits, cpu.ip, cpu.registers[ESP], cpu.flags) == (3, 16, 0x10, STACK_86, FIXED | VM)
    assert [register.selector for register in cpu.segments] == [0x1111, BASE, 0x3000, 0x2222, 0x3333, 0x4444]
    assert {(register.limit, register.access, register.base >> 4) for register in cpu.segments} == {
        (0xFFFF, 0xF3, register.selector) for register in cpu.segments
    }


def test_no_entry_from_an_outer_ring() -> None:
    """There VM stays clear: the frame is an ordinary one."""
    computer = Computer()
    computer.load("iretd", 3)
    for n, value in enumerate((CODE, 0x3B, FIXED | VM)):
        computer.memory.write(STACK + 4 * n, 4, value)
    computer.step()
    assert computer.cpu.flags == FIXED


@pytest.mark.parametrize(
    ("source", "vector"), [("ud2", UD), ("div cl", DE), ("hlt", GP), ("mov eax, cr0", GP), ("sldt ax", UD)]
)
def test_exit_by_a_fault(source: str, vector: int) -> None:
    computer = enter(source, IF)
    computer.step()
    cpu = computer.cpu
    assert (computer.vector, cpu.cpl, cpu.flags & (VM | IF)) == (vector, 0, 0)
    frame = [computer.word(cpu.registers[ESP] + 4 * n) for n in range(10)]
    if vector == GP:
        assert frame.pop(0) == 0
    assert frame[:9] == [0x10, BASE, FIXED | VM | IF | RF, STACK_86, 0x3000, *SEGMENTS]
    assert [cpu.segments[n].key for n in (0, 3, 4, 5)] == [(0, 0, 0, 0, False, False)] * 4
    assert cpu.segments[SS].selector == 0x10


def test_exit_by_an_interrupt_gate_of_16_bits() -> None:
    computer = enter("ud2")
    computer.gate(UD, encode_gate(0x08, HANDLERS + 16 * UD, INTERRUPT_GATE16))
    computer.step()
    assert computer.cpu.registers[ESP] == INNER_STACKS[0] - 18
    frame = [computer.memory.read(computer.cpu.registers[ESP] + 2 * n, 2) for n in range(9)]
    assert frame == [0x10, BASE, FIXED, STACK_86, 0x3000, *SEGMENTS]


@pytest.mark.parametrize("access", [0xBB, 0xFB, 0x9F])
def test_a_handler_that_is_not_in_ring_0(access: int) -> None:
    """#GP with the selector; delivered in its turn, since its own handler is in ring 0."""
    computer = enter("ud2")
    computer.descriptor(0x50, encode_descriptor(0, 0xFFFF_FFFF, access))
    computer.gate(UD, encode_gate(0x50, HANDLERS, INTERRUPT_GATE32))
    computer.step()
    assert computer.vector == GP
    assert computer.word(computer.cpu.registers[ESP]) == 0x50 | 1


SENSITIVE = ["cli", "sti", "pushf", "popf", "pushfd", "popfd", "int 0x80", "iret", "iretd"]


@pytest.mark.parametrize("source", SENSITIVE)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_sensitive_to_iopl(source: str, level: int) -> None:
    computer = enter(source, level << 12)
    computer.step()
    assert computer.vector == GP
    assert computer.word(computer.cpu.registers[ESP]) == 0


def test_cli_sti_pushf_and_popf_with_iopl_3() -> None:
    computer = enter(
        "sti\n cli\n pushf\n pop ax\n or ah, 0x40\n and ah, 0xcf\n push ax\n popf\n pushfd\n pop ebx", IOPL
    )
    for _ in range(10):
        computer.step()
    assert computer.vector is None
    assert computer.cpu.registers[0] == FIXED | NT  # what was to be popped, without IOPL
    assert computer.cpu.registers[3] == FIXED | IOPL | NT  # IOPL stays; VM is not shown
    assert computer.cpu.flags & VM


def test_int_n_needs_a_gate_of_ring_3() -> None:
    computer = enter("int 0x80", IOPL)
    computer.step()
    assert computer.vector == GP
    computer = enter("int 0x80", IOPL)
    computer.gate(0x80, encode_gate(0x08, HANDLERS + 0x800, INTERRUPT_GATE32, 3))
    computer.step()
    assert (computer.vector, computer.word(computer.cpu.registers[ESP])) == (0x80, 0x12)


def test_int3_is_not_sensitive() -> None:
    computer = enter("int3")
    computer.gate(BP, encode_gate(0x08, HANDLERS + 16 * BP, INTERRUPT_GATE32, 3))
    computer.step()
    assert computer.vector == BP


def test_iret_within_the_mode() -> None:
    computer = enter("push bx\n push cx\n push dx\n iret", IOPL)
    cpu = computer.cpu
    cpu.registers[1:4] = [0x5000, 0x1234, 0x4000 | IF]
    computer.step(4)
    assert (cpu.segments[CS].base, cpu.ip, cpu.flags) == (0x5_0000, 0x1234, FIXED | VM | IOPL | NT | IF)


def test_segments_far_transfers_and_memory() -> None:
    computer = enter("mov ds, ax\n mov [0x20], bx\n lds cx, [0x20]\n call 0x5000:0x30")
    cpu = computer.cpu
    cpu.registers[0], cpu.registers[3] = DATA >> 4, 0x7777
    computer.memory.write(DATA + 0x22, 2, 0x6666)
    computer.step(4)
    assert (cpu.registers[1], cpu.segments[DS].key) == (0x7777, (0x6666, 0x66660, 0xFFFF, 0xF3, False, False))
    assert (cpu.linear_ip, cpu.registers[ESP]) == (0x5_0030, STACK_86 - 4)


@pytest.mark.parametrize(("byte", "allowed"), [(0, True), (1 << 5, False)])
@pytest.mark.parametrize("iopl", [0, IOPL])
def test_ports_go_by_the_bitmap_alone(byte: int, allowed: bool, iopl: int) -> None:
    computer = enter("in al, 0x75", iopl)
    computer.cpu.tr.set(0x48, TSS, 0x80, 0x8B, big=False)
    computer.memory.write(TSS + 0x68 + 0x75 // 8, 1, byte)
    computer.step()
    assert computer.vector == (None if allowed else GP)


def test_back_by_iret() -> None:
    computer = enter("ud2\n nop")
    computer.memory.write_bytes(HANDLERS + 16 * UD, bytes.fromhex("83042402 cf"))  # add dword [esp], 2; iret
    computer.step(3)
    cpu = computer.cpu
    assert (cpu.ip, cpu.flags & VM, [register.selector for register in cpu.segments][3:]) == (
        0x12,
        VM,
        [0x2222, 0x3333, 0x4444],
    )
