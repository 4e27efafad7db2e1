"""Real mode: paragraphs, the interrupt vector table, and the way from and to protected mode (Intel SDM vol. 3, chapter 20)."""

from __future__ import annotations

import pytest

from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import encode_descriptor
from vmlab.isa.x86.faults import DE, GP, SS, UD
from vmlab.isa.x86.registers import CR0_PE, CS, DS, EAX, EBX, ESP, FIXED, IF, TF
from vmlab.machine.machine import Machine

CODE, STACK = 0x7C00, 0x7000
NAMES = {"cs": CS, "ds": DS, "es": 0, "ss": 2}


class Real:
    """A machine in real mode before code at 0000:7C00; the handler of vector n is at 0050:n, a byte of HLT each."""

    def __init__(self, source: str, memory: int = 1 << 21) -> None:
        self.machine = Machine(memory)
        self.cpu = self.machine.cpu
        self.memory = self.machine.memory
        self.cpu.reset()
        program = assemble(source, CODE, 16)
        self.symbols = program.symbols
        self.memory.write_bytes(CODE, program.code)
        for vector in range(256):
            self.memory.write(4 * vector, 4, 0x50 << 16 | vector)
            self.memory.write(0x500 + vector, 1, 0xF4)
        self.cpu.segments[CS].set(0, 0, 0xFFFF, 0x9B, big=False)
        self.cpu.ip, self.cpu.registers[ESP] = CODE, STACK
        self.cpu.code_changed()

    def run(self, most: int = 10_000) -> Real:
        """Run to HLT."""
        self.machine.run(most)
        assert self.machine.outcome == "halt", self.machine.outcome
        return self

    @property
    def vector(self) -> int | None:
        """The handler that halted."""
        return self.cpu.ip - 1 if self.cpu.segments[CS].selector == 0x50 else None

    def words(self, address: int, count: int) -> list[int]:
        return [self.memory.read(address + 2 * n, 2) for n in range(count)]


def test_power_on() -> None:
    machine = Machine(1 << 20)
    machine.cpu.reset()
    cpu = machine.cpu
    assert (cpu.linear_ip, cpu.fetch_bits, cpu.cpl, cpu.cr0) == (0xFFFF_FFF0, 16, 0, 0x6000_0010)
    assert (cpu.segments[CS].selector, cpu.idtr_base, cpu.flags, cpu.registers[2]) == (
        0xF000,
        0,
        2,
        cpu.model.signature,
    )


def test_segments_are_paragraphs() -> None:
    real = Real(
        "mov ax, 0x1234\n mov ds, ax\n mov byte [0x10], 0x77\n mov es, ax\n mov cx, es\n push ds\n pop ss\n hlt"
    ).run()
    assert real.memory.read(0x12350, 1) == 0x77
    assert (real.cpu.registers[1], real.cpu.segments[2].base) == (0x1234, 0x12340)


def test_far_jump_call_and_return() -> None:
    real = Real("call 0x1000:0x20\n jmp 0x2000:0x30\n")
    real.memory.write_bytes(0x10020, bytes.fromhex("43 cb"))  # inc bx; retf
    real.memory.write_bytes(0x20030, bytes.fromhex("43 f4"))
    real.run()
    assert (real.cpu.registers[EBX], real.cpu.segments[CS].base, real.cpu.registers[ESP]) == (2, 0x20000, STACK)


def test_interrupt_and_iret() -> None:
    real = Real("int 0x60\n hlt")
    real.cpu.flags |= IF
    real.memory.write_bytes(0x560, bytes.fromhex("9c 58 cf"))  # pushf; pop ax; iret
    real.run()
    assert (real.cpu.registers[EAX], real.cpu.flags & IF, real.cpu.registers[ESP]) == (FIXED, IF, STACK)
    assert real.words(STACK - 6, 3) == [CODE + 2, 0, FIXED | IF]


@pytest.mark.parametrize(
    ("source", "vector"),
    [
        ("div cl", DE),
        ("ud2", UD),
        ("sldt ax", UD),
        ("lar ax, bx", UD),
        ("verr ax", UD),
        ("mov bx, 0xffff\n mov ax, [bx]", GP),
        ("mov sp, 1\n here: push ax", SS),
        ("jmp dword 0x10000", GP),
    ],
)
def test_faults_push_no_error_code(source: str, vector: int) -> None:
    real = Real(source)
    if vector == SS:
        real.cpu.segments[2].set(0x800, 0x8000, 0xFFFF, 0x93, big=False)
        real.machine.run(1)
        # There is no room for the frame either: the processor shuts down.
        real.machine.run(10)
        assert real.machine.outcome == "triple-fault"
        return
    real.run()
    assert real.vector == vector
    assert real.cpu.registers[ESP] == STACK - 6


def test_code_beyond_the_segments_end() -> None:
    real = Real("jmp 0xfffe")
    real.memory.write_bytes(0xFFFE, b"\x90\x90")
    real.run()
    assert (real.vector, real.words(STACK - 6, 2)) == (GP, [0, 0])  # IP is 10000, of which 16 bits are pushed


def test_kept_code_is_checked_against_the_limit() -> None:
    real = Real("here: mov ax, 0x1234\n hlt").run()
    real.machine.outcome, real.cpu.halted = None, False
    real.cpu.segments[CS].set(0, 0, CODE + 1, 0x9B, big=False)
    real.cpu.ip = CODE
    real.cpu.code_changed()
    real.machine.run(1)
    assert real.cpu.segments[CS].selector == 0x50


def test_code_that_changes_itself() -> None:
    real = Real("mov cx, 2\n again: mov al, 1\n mov byte [again + 1], 5\n loop again\n hlt").run()
    assert real.cpu.registers[EAX] == 5


def test_limits_stay_when_protected_mode_is_left() -> None:
    """ "Unreal" mode: a data segment of 4 GiB in real mode."""
    source = """
        lgdt [table]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov bx, 8
        mov ds, bx
        and al, 0xfe
        mov cr0, eax
        mov ebx, 0x123456
        mov byte [ebx], 0x99
        xor ax, ax
        mov ds, ax
        mov byte [ebx + 1], 0x98
        hlt
    table: dw 15
        dd gdt
    gdt: dq 0
        dq 0
    """
    real = Real(source)
    real.memory.write(real.symbols["gdt"] + 8, 8, encode_descriptor(0, 0xFFFF_FFFF, 0x92))
    real.run()
    assert real.vector is None
    assert real.memory.read(0x123456, 2) == 0x9899


def test_to_protected_mode_and_back() -> None:
    source = """
        lgdt [table]
        mov eax, cr0
        inc ax
        mov cr0, eax
        jmp 8:protected
    real:
        mov eax, cr0
        dec ax
        mov cr0, eax
        jmp 0:done
    done:
        mov cx, 0x4321
        hlt
    table: dw 31
        dd gdt
    gdt: dq 0
        dq 0
        dq 0
        dq 0
    protected:
    """
    real = Real(source)
    gdt = real.symbols["gdt"]
    for n, raw in enumerate(
        (encode_descriptor(0, 0xFFFF_FFFF, 0x9A), encode_descriptor(0, 0xFFFF, 0x9A, big=False)), 1
    ):
        real.memory.write(gdt + 8 * n, 8, raw)
    inner = assemble(f"mov edx, 0x12345678\n jmp 0x10:{real.symbols['real']}", real.symbols["protected"], 32)
    real.memory.write_bytes(real.symbols["protected"], inner.code)
    real.run()
    assert (real.cpu.registers[2], real.cpu.registers[1]) == (0x1234_5678, 0x4321)
    assert not real.cpu.cr0 & CR0_PE


def test_privilege_is_0_until_cs_is_loaded() -> None:
    """The low bits of a paragraph number are no privilege level."""
    real = Real("mov eax, cr0\n inc ax\n mov cr0, eax\n mov eax, cr0\n hlt")
    real.cpu.segments[CS].set(0x33, 0x330, 0xFFFF, 0x9B, big=False)
    real.cpu.ip = CODE - 0x330
    real.cpu.code_changed()
    real.run()
    assert real.cpu.registers[EAX] & CR0_PE
    assert real.cpu.cpl == 0


def test_single_step() -> None:
    real = Real("inc ax\n inc ax\n hlt")
    real.cpu.flags |= TF
    real.cpu.flags_changed()
    real.run()
    assert (real.vector, real.cpu.registers[EAX]) == (1, 1)


def test_instructions_are_kept() -> None:
    """A loop is decoded once."""
    real = Real("mov cx, 1000\n again: inc bx\n loop again\n hlt")
    decoded = 0
    translate = real.cpu.translate

    class Counting(type(real.cpu)):
        __slots__ = ()

        def translate(self, linear: int, **how: object) -> int:
            nonlocal decoded
            decoded += 1
            return translate(linear, **how)

    real.cpu.__class__ = Counting
    real.run()
    assert (decoded, real.cpu.registers[EBX]) == (4, 1000)
