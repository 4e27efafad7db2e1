"""Transfers of control in long mode: interrupts, IRET, call gates, SYSCALL, SYSENTER (SDM vol. 3, 5.8 and 6.14; vol. 2)."""

from __future__ import annotations

import pytest

from tests.machine.computer import (
    CODE,
    CODE_OF_RING,
    DATA,
    DATA_OF_RING,
    FLAT,
    HANDLERS,
    INNER_STACKS,
    STACK,
    TASK,
    TSS,
    Computer,
)
from tests.machine.computer_64 import CODE_32, CODE_32_USER, HIGH, INTERRUPT_STACKS, SPARE_64, LongComputer
from vmlab.isa.x86.descriptors import (
    CALL_GATE64,
    INTERRUPT_GATE16,
    INTERRUPT_GATE64,
    TASK_GATE,
    TRAP_GATE64,
    encode_descriptor,
    encode_gate,
)
from vmlab.isa.x86.faults import DB, DE, GP, NP, PF, SS, TS, UD
from vmlab.isa.x86.registers import (
    CF,
    CS,
    DF,
    EAX,
    EBX,
    ECX,
    EDX,
    EFER_SCE,
    ESP,
    GS,
    IF,
    IOPL,
    MSR_FMASK,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_STAR,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
    NT,
    R11,
    RF,
    TF,
)  # fmt: skip
from vmlab.isa.x86.registers import SS as STACK_SEGMENT

BEYOND = 0x8000_0000_0000
OTHER = CODE + 0x1000
GATE, SPARE = SPARE_64[2], SPARE_64[4]
"""Selectors: of a gate of 16 bytes, and of a descriptor of 8."""


@pytest.fixture
def computer() -> LongComputer:
    return LongComputer()


# -- interrupts and exceptions ---------------------------------------------------------------------------------------------


def test_frame_within_ring_0_is_aligned_and_holds_the_stack(computer: LongComputer) -> None:
    computer.load("bad: ud2", stack=STACK - 3, flags=2 | CF | IF)
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.cs, trap.flags) == ((UD, None), CODE, 0x08, 2 | CF | IF | RF)
    assert (trap.esp, trap.ss) == (STACK - 3, 0x10)
    assert computer.cpu.registers[ESP] == (STACK - 3 & ~15) - 40
    assert computer.cpu.segments[STACK_SEGMENT].selector == 0x10
    assert not computer.cpu.flags & IF


@pytest.mark.parametrize("bits", [64, 32])
def test_frame_from_ring_3(computer: LongComputer, bits: int) -> None:
    """From compatibility code it is the same."""
    computer.load("xor eax, eax\n bad: div eax", 3, bits=bits)
    trap = computer.trap()
    code = CODE_OF_RING[3] if bits == 64 else CODE_32_USER
    assert (trap.what, trap.ip, trap.cs) == ((DE, None), computer.symbols["bad"], code)
    assert (trap.esp, trap.ss, computer.cpu.registers[ESP]) == (STACK, 0x43, INNER_STACKS[0] - 40)
    stack = computer.cpu.segments[STACK_SEGMENT]
    assert (stack.selector, stack.access, computer.cpu.cpl, computer.cpu.code_64) == (0, 0, 0, True)


def test_error_code_has_8_bytes(computer: LongComputer) -> None:
    computer.load("mov rax, [0x200000]", 3)
    trap = computer.trap()
    assert (trap.what, computer.cpu.cr2) == ((PF, 4), 0x20_0000)
    assert computer.cpu.registers[ESP] == INNER_STACKS[0] - 48


@pytest.mark.parametrize("stack", range(1, 8))
@pytest.mark.parametrize("ring", [0, 3])
def test_interrupt_stack_table(computer: LongComputer, stack: int, ring: int) -> None:
    computer.gate(UD, encode_gate(0x08, HANDLERS + 16 * UD, INTERRUPT_GATE64, stack=stack))
    computer.load("ud2", ring)
    trap = computer.trap()
    assert (trap.esp, trap.ss) == (STACK, DATA_OF_RING[ring])
    assert computer.cpu.registers[ESP] == INTERRUPT_STACKS[stack - 1] - 40
    assert computer.cpu.segments[STACK_SEGMENT].selector == (0 if ring else 0x10)


def test_trap_gate_and_handler_in_the_upper_half(computer: LongComputer) -> None:
    computer.gate(0x80, encode_gate(0x08, HIGH + OTHER, TRAP_GATE64, 3))
    computer.load("int 0x80", 3, flags=2 | IF)
    computer.step()
    assert (computer.cpu.ip, computer.cpu.flags & IF) == (HIGH + OTHER, IF)
    assert computer.quad(computer.cpu.registers[ESP]) == CODE + 2


BAD_GATES = {
    "DPL": (encode_gate(0x08, OTHER, INTERRUPT_GATE64), (GP, 0x80 * 8 + 2)),
    "not present": (encode_gate(0x08, OTHER, INTERRUPT_GATE64, 3) & ~(0x80 << 40), (NP, 0x80 * 8 + 2)),
    "of 16 bits": (encode_gate(0x08, OTHER, INTERRUPT_GATE16, 3), (GP, 0x80 * 8 + 2)),
    "task gate": (encode_gate(TASK, 0, TASK_GATE, 3), (GP, 0x80 * 8 + 2)),
    "code of 32 bits": (encode_gate(CODE_32, OTHER, INTERRUPT_GATE64, 3), (GP, CODE_32)),
    "code of 32 and 64 bits": (encode_gate(SPARE, OTHER, INTERRUPT_GATE64, 3), (GP, SPARE)),
    "null": (encode_gate(0, OTHER, INTERRUPT_GATE64, 3), (GP, 0)),
    "data": (encode_gate(0x10, OTHER, INTERRUPT_GATE64, 3), (GP, 0x10)),
    "not canonical": (encode_gate(0x08, BEYOND, INTERRUPT_GATE64, 3), (GP, 0)),
}


@pytest.mark.parametrize("name", BAD_GATES)
def test_bad_gate(computer: LongComputer, name: str) -> None:
    raw, expected = BAD_GATES[name]
    computer.compatibility()
    computer.descriptor(SPARE, encode_descriptor(0, FLAT, 0x9B, long=True))
    computer.gate(0x80, raw)
    computer.load("int 0x80", 3)
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.esp) == (expected, CODE, STACK)


def test_limit_of_the_table_counts_16_bytes_a_gate(computer: LongComputer) -> None:
    computer.cpu.idtr_limit = 16 * 0x80 + 14
    computer.load("int 0x80")
    assert computer.trap().what == (GP, 0x80 * 8 + 2)


def test_stack_that_is_not_canonical(computer: LongComputer) -> None:
    computer.memory.write(TSS + 4, 8, BEYOND + 64)
    for vector in (SS, TS):
        computer.gate(vector, encode_gate(0x08, HANDLERS + 16 * vector, INTERRUPT_GATE64, stack=1))
    computer.load("int 0x80", 3)
    computer.gate(0x80, encode_gate(0x08, OTHER, INTERRUPT_GATE64, 3))
    assert computer.trap().what == (SS, 0)
    computer.load("int 0x80", 3)
    computer.cpu.tr.limit = 0x2B
    computer.gate(0x80, encode_gate(0x08, OTHER, INTERRUPT_GATE64, 3, stack=2))
    assert computer.trap().what == (TS, TASK)


def test_conforming_handler_stays_in_its_ring_and_pushes_with_its_rights(computer: LongComputer) -> None:
    computer.descriptor(SPARE, encode_descriptor(0, FLAT, 0x9F, big=False, long=True))
    computer.gate(UD, encode_gate(SPARE, HANDLERS + 16 * UD, INTERRUPT_GATE64))
    computer.load("ud2", 3)
    trap = computer.trap()
    assert (trap.esp, computer.cpu.registers[ESP], computer.cpu.cpl) == (STACK, STACK - 40, 3)
    # The same on a page of the supervisor: the push is a write of ring 3.
    computer.load("ud2", 3, stack=HIGH + STACK)
    computer.memory.write(0x4_0000 + 8 * 256, 8, 0x4_1003)
    assert computer.trap().what == (PF, 7)


# -- IRET ------------------------------------------------------------------------------------------------------------------


def return_with(computer: LongComputer, *frame: int, ring: int = 0, source: str = "iretq", width: int = 8) -> None:
    computer.load(source, ring)
    for number, value in enumerate(frame):
        computer.memory.write(STACK + width * number, width, value)
    computer.step()


def test_iretq_takes_the_stack_back_within_the_ring(computer: LongComputer) -> None:
    return_with(computer, HIGH + OTHER, 0x08, 2 | CF | IOPL | NT, 0x7003, 0x10)
    cpu = computer.cpu
    assert (cpu.ip, cpu.registers[ESP], cpu.flags) == (HIGH + OTHER, 0x7003, 2 | CF | IOPL | NT)
    return_with(computer, OTHER, 0x08, 2, 0x7000, 0)
    assert (cpu.ip, cpu.segments[STACK_SEGMENT].selector) == (OTHER, 0)


def test_iretq_to_ring_3_and_to_compatibility_code(computer: LongComputer) -> None:
    computer.compatibility()
    return_with(computer, OTHER, 0x3B, 2 | IF, HIGH + 0x7000, 0x43)
    cpu = computer.cpu
    assert (cpu.ip, cpu.cpl, cpu.code_64, cpu.registers[ESP]) == (OTHER, 3, True, HIGH + 0x7000)
    assert cpu.segments[3].selector == 0  # DS was of ring 0
    return_with(computer, OTHER, CODE_32_USER, 2, 0x7000, 0x43)
    assert (cpu.ip, cpu.cpl, cpu.code_64, cpu.fetch_bits, cpu.registers[ESP]) == (OTHER, 3, False, 32, 0x7000)


def test_iretd_within_compatibility_code_leaves_the_stack(computer: LongComputer) -> None:
    computer.load("iretd", bits=32)
    for number, value in enumerate((OTHER, CODE_32, 2 | CF)):
        computer.memory.write(STACK + 4 * number, 4, value)
    computer.step()
    assert (computer.cpu.ip, computer.cpu.registers[ESP]) == (OTHER, STACK + 12)


BAD_RETURNS = {
    "null code": ((OTHER, 0, 2, 0x7000, 0x10), (GP, 0)),
    "not canonical": ((BEYOND, 0x08, 2, 0x7000, 0x10), (GP, 0)),
    "null stack in ring 3": ((OTHER, 0x3B, 2, 0x7000, 0), (GP, 0)),
    "null stack in ring 3 with its RPL": ((OTHER, 0x3B, 2, 0x7000, 3), (GP, 0)),
    "null stack of compatibility code": ((OTHER, CODE_32, 2, 0x7000, 0), (GP, 0)),
    "stack of another ring": ((OTHER, 0x08, 2, 0x7000, 0x43), (GP, 0x40)),
    "code of 32 and 64 bits": ((OTHER, SPARE, 2, 0x7000, 0x10), (GP, SPARE)),
    "beyond the limit of compatibility code": ((0x1_0000_0000, CODE_32, 2, 0x7000, 0x10), (GP, 0)),
}


@pytest.mark.parametrize("name", BAD_RETURNS)
def test_bad_return(computer: LongComputer, name: str) -> None:
    frame, expected = BAD_RETURNS[name]
    computer.compatibility()
    computer.descriptor(SPARE, encode_descriptor(0, FLAT, 0x9B, long=True))
    return_with(computer, *frame)
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.esp, trap.ss) == (expected, CODE, STACK, 0x10)


def test_nested_task_is_refused(computer: LongComputer) -> None:
    computer.load("iretq", flags=2 | NT)
    assert computer.trap().what == (GP, 0)


def test_virtual_8086_mode_cannot_be_entered(computer: LongComputer) -> None:
    return_with(computer, OTHER, 0x08, 2 | 1 << 17, 0x7000, 0x10)
    assert (computer.cpu.ip, computer.cpu.flags, computer.cpu.code_64) == (OTHER, 2, True)


# -- far transfers ---------------------------------------------------------------------------------------------------------


def far(computer: LongComputer, source: str, ring: int, selector: int, offset: int = 0, bits: int = 64) -> None:
    computer.load(f"start: {source} far [{DATA:#x}]", ring, bits=bits)
    computer.memory.write(DATA, 8, offset)
    width = 8 if bits == 64 else 4
    computer.memory.write(DATA + width, 2, selector)


def test_call_gate_to_ring_0(computer: LongComputer) -> None:
    computer.wide_descriptor(GATE, encode_gate(0x0B, HIGH + OTHER, CALL_GATE64, 3))
    for bits in (64, 32):
        far(computer, "call", 3, GATE | 3, 0x9999, bits)
        computer.step()
        cpu = computer.cpu
        assert (cpu.ip, cpu.segments[CS].selector, cpu.cpl, cpu.code_64) == (HIGH + OTHER, 0x08, 0, True)
        assert cpu.segments[STACK_SEGMENT].selector == 0
        assert cpu.registers[ESP] == INNER_STACKS[0] - 32
        code = CODE_OF_RING[3] if bits == 64 else CODE_32_USER
        length = 7 + (bits == 64) if bits == 64 else 6
        assert [computer.quad(cpu.registers[ESP] + 8 * n) for n in range(4)] == [CODE + length, code, STACK, 0x43]


def test_return_from_a_call_gate(computer: LongComputer) -> None:
    computer.wide_descriptor(GATE, encode_gate(0x08, OTHER, CALL_GATE64, 3))
    far(computer, "call", 3, GATE)
    computer.memory.write_bytes(OTHER, bytes.fromhex("48cb"))  # retfq
    computer.step(2)
    cpu = computer.cpu
    assert (cpu.cpl, cpu.registers[ESP], cpu.segments[STACK_SEGMENT].selector) == (3, STACK, 0x43)


def test_call_gate_within_the_ring(computer: LongComputer) -> None:
    computer.wide_descriptor(GATE, encode_gate(0x08, OTHER, CALL_GATE64))
    far(computer, "call", 0, GATE)
    computer.step()
    assert (computer.cpu.ip, computer.cpu.registers[ESP]) == (OTHER, STACK - 16)
    far(computer, "jmp", 0, GATE)
    computer.step()
    assert (computer.cpu.ip, computer.cpu.registers[ESP]) == (OTHER, STACK)


BAD_CALL_GATES = {
    "DPL": (encode_gate(0x08, OTHER, CALL_GATE64, 2), (GP, GATE)),
    "not present": (encode_gate(0x08, OTHER, CALL_GATE64, 3) & ~(0x80 << 40), (NP, GATE)),
    "of 16 bits": (encode_gate(0x08, OTHER, 4, 3), (GP, GATE)),
    "task gate": (encode_gate(TASK, OTHER, TASK_GATE, 3), (GP, GATE)),
    "a second type": (encode_gate(0x08, OTHER, CALL_GATE64, 3) | 4 << 104, (GP, GATE)),
    "code of 32 bits": (encode_gate(CODE_32, OTHER, CALL_GATE64, 3), (GP, CODE_32)),
    "null": (encode_gate(0, OTHER, CALL_GATE64, 3), (GP, 0)),
    "not canonical": (encode_gate(0x08, BEYOND, CALL_GATE64, 3), (GP, 0)),
}


@pytest.mark.parametrize("source", ["call", "jmp"])
@pytest.mark.parametrize("name", BAD_CALL_GATES)
def test_bad_call_gate(computer: LongComputer, name: str, source: str) -> None:
    raw, expected = BAD_CALL_GATES[name]
    computer.compatibility()
    computer.wide_descriptor(GATE, raw)
    ring = 3 if source == "call" or "DPL" in name else 0
    far(computer, source, ring, GATE | ring)
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.esp) == (expected, CODE, STACK)


def test_far_jump_to_compatibility_code_and_back(computer: LongComputer) -> None:
    computer.compatibility()
    far(computer, "jmp", 0, CODE_32, OTHER)
    computer.memory.write_bytes(OTHER, bytes.fromhex("ea 00100200 0800"))  # jmp 8:0x21000
    computer.cpu.registers[EBX] = HIGH
    computer.step()
    assert (computer.cpu.fetch_bits, computer.cpu.registers[EBX]) == (32, 0)
    computer.step()
    assert (computer.cpu.fetch_bits, computer.cpu.ip) == (64, DATA + 0x1000)


def test_far_transfer_to_code_of_32_and_64_bits(computer: LongComputer) -> None:
    computer.descriptor(SPARE, encode_descriptor(0, FLAT, 0x9B, long=True))
    far(computer, "jmp", 0, SPARE, OTHER)
    assert computer.trap().what == (GP, SPARE)


# -- SYSCALL and SYSRET ------------------------------------------------------------------------------------------------------


def prepare_syscall(computer: LongComputer, mask: int = IF | TF | DF) -> None:
    msrs = computer.cpu.msrs
    # Ring 0: CS 08, SS 10. Ring 3: CS of 32 bits 58, SS 60, CS of 64 bits 68.
    msrs[MSR_STAR] = 0x58 << 48 | 0x08 << 32
    msrs[MSR_LSTAR], msrs[MSR_FMASK] = HIGH + OTHER, mask


def test_syscall(computer: LongComputer) -> None:
    computer.load("syscall", 3, flags=2 | CF | IF | DF | RF)
    prepare_syscall(computer)
    computer.step()
    cpu = computer.cpu
    assert (cpu.ip, cpu.flags, cpu.cpl) == (HIGH + OTHER, 2 | CF, 0)
    assert (cpu.registers[ECX], cpu.registers[R11], cpu.registers[ESP]) == (CODE + 2, 2 | CF | IF | DF, STACK)
    assert cpu.segments[CS].key == (0x08, 0, FLAT, 0x9B, False, True)
    assert cpu.segments[STACK_SEGMENT].key == (0x10, 0, FLAT, 0x93, True, False)


@pytest.mark.parametrize(("source", "code", "bits"), [("o64 sysret", 0x6B, 64), ("sysret", 0x5B, 32)])
def test_sysret(computer: LongComputer, source: str, code: int, bits: int) -> None:
    computer.load(source)
    prepare_syscall(computer)
    cpu = computer.cpu
    cpu.registers[ECX], cpu.registers[R11] = (
        OTHER | (HIGH if bits == 64 else 7 << 40),
        2 | CF | IF | RF | IOPL | 1 << 17,
    )
    computer.step()
    assert (cpu.ip, cpu.cpl, cpu.fetch_bits) == (OTHER | (HIGH if bits == 64 else 0), 3, bits)
    assert (cpu.segments[CS].selector, cpu.segments[STACK_SEGMENT].selector) == (code, 0x63)
    assert cpu.flags == 2 | CF | IF | IOPL


def test_syscall_and_sysret_refuse(computer: LongComputer) -> None:
    computer.load("syscall", bits=32)
    prepare_syscall(computer)
    assert computer.trap().vector == UD
    for source in ("syscall", "o64 sysret"):
        computer.load(source)
        computer.cpu.efer &= ~EFER_SCE
        assert computer.trap().vector == UD
        computer.cpu.efer |= EFER_SCE
    computer.load("o64 sysret", 3)
    assert computer.trap().what == (GP, 0)
    computer.load("o64 sysret")
    computer.cpu.registers[ECX] = BEYOND
    assert computer.trap().what == (GP, 0)


@pytest.mark.parametrize("mask", [0, TF])
def test_single_step_over_a_system_call(computer: LongComputer, mask: int) -> None:
    """With TF in IA32_FMASK nothing traps within the kernel; the trap comes when SYSRET has set TF again."""
    computer.load("syscall\n after: nop", 3, flags=2 | TF)
    prepare_syscall(computer, mask)
    computer.memory.write_bytes(OTHER, bytes.fromhex("90 480f07"))
    trap = computer.trap()
    assert (trap.vector, trap.ip) == (DB, computer.symbols["after"] if mask else HIGH + OTHER)


# -- SYSENTER and SYSEXIT ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [64, 32])
def test_sysenter_in_long_mode(computer: LongComputer, bits: int) -> None:
    computer.load("sysenter", 3, flags=2 | IF | CF, bits=bits)
    msrs = computer.cpu.msrs
    msrs[MSR_SYSENTER_CS], msrs[MSR_SYSENTER_ESP], msrs[MSR_SYSENTER_EIP] = 0x0B, HIGH + 0x9000, HIGH + OTHER
    computer.step()
    cpu = computer.cpu
    assert (cpu.ip, cpu.registers[ESP], cpu.flags, cpu.cpl) == (HIGH + OTHER, HIGH + 0x9000, 2 | CF, 0)
    assert (cpu.segments[CS].selector, cpu.segments[STACK_SEGMENT].selector, cpu.code_64) == (0x08, 0x10, True)


@pytest.mark.parametrize(("source", "code", "bits"), [("o64 sysexit", 0x2B, 64), ("sysexit", 0x1B, 32)])
def test_sysexit_in_long_mode(computer: LongComputer, source: str, code: int, bits: int) -> None:
    computer.load(source)
    cpu = computer.cpu
    cpu.msrs[MSR_SYSENTER_CS] = 0x08
    cpu.registers[ECX], cpu.registers[EDX] = 0x7000, OTHER | (HIGH if bits == 64 else 7 << 40)
    computer.step()
    assert (cpu.ip, cpu.registers[ESP], cpu.cpl) == (OTHER | (HIGH if bits == 64 else 0), 0x7000, 3)
    assert (cpu.segments[CS].selector, cpu.segments[STACK_SEGMENT].selector, cpu.fetch_bits) == (code, code + 8, bits)


def test_sysenter_and_sysexit_of_32_bits() -> None:
    computer = Computer()
    computer.load("sysenter\n after: nop", 3, flags=2 | IF)
    msrs = computer.cpu.msrs
    msrs[MSR_SYSENTER_CS], msrs[MSR_SYSENTER_ESP], msrs[MSR_SYSENTER_EIP] = 0x08, 0x9000, OTHER
    computer.memory.write_bytes(OTHER, bytes.fromhex("0f35"))
    computer.step()
    cpu = computer.cpu
    assert (cpu.ip, cpu.registers[ESP], cpu.flags, cpu.cpl, cpu.fetch_bits) == (OTHER, 0x9000, 2, 0, 32)
    cpu.registers[ECX], cpu.registers[EDX] = STACK, computer.symbols["after"]
    computer.step()
    assert (cpu.ip, cpu.registers[ESP], cpu.cpl) == (computer.symbols["after"], STACK, 3)
    assert [cpu.segments[n].key for n in (CS, STACK_SEGMENT)] == [
        (0x1B, 0, FLAT, 0xFB, True, False), (0x23, 0, FLAT, 0xF3, True, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "ring", "code"), [("sysenter", 3, 0), ("sysenter", 0, 3), ("sysexit", 0, 0), ("sysexit", 3, 8)]
)
def test_sysenter_and_sysexit_refuse(computer: LongComputer, source: str, ring: int, code: int) -> None:
    for bits in (64, 32):
        computer.load(source, ring, bits=bits)
        computer.cpu.msrs[MSR_SYSENTER_CS] = code
        assert computer.trap().what == (GP, 0)


def test_sysexit_to_an_address_that_is_not_canonical(computer: LongComputer) -> None:
    for register in (ECX, EDX):
        computer.load("o64 sysexit")
        computer.cpu.msrs[MSR_SYSENTER_CS] = 8
        computer.cpu.registers[ECX] = computer.cpu.registers[EDX] = OTHER
        computer.cpu.registers[register] = BEYOND
        assert computer.trap().what == (GP, 0)


# -- SWAPGS ------------------------------------------------------------------------------------------------------------------


def test_swapgs(computer: LongComputer) -> None:
    computer.load(f"swapgs\n mov rax, [gs:0]\n swapgs\n mov ecx, {MSR_KERNEL_GS_BASE}\n rdmsr\n end: nop")
    computer.cpu.write_msr(MSR_GS_BASE, HIGH + 0x1000)
    computer.cpu.write_msr(MSR_KERNEL_GS_BASE, HIGH + DATA)
    computer.memory.write(DATA, 8, 0x1234_5678_9ABC)
    computer.step(2)
    assert computer.cpu.registers[EAX] == 0x1234_5678_9ABC
    assert computer.cpu.read_msr(MSR_KERNEL_GS_BASE) == HIGH + 0x1000
    computer.run_to("end")
    assert (computer.cpu.segments[GS].base, computer.cpu.registers[EAX]) == (HIGH + 0x1000, DATA)
    computer.load("swapgs", 3)
    assert computer.trap().what == (GP, 0)
    computer.load("db 0x0F, 0x01, 0xF8", bits=32)
    assert computer.trap().vector == UD
