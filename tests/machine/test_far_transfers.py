"""Far jumps, calls and returns, directly and through call gates (Intel SDM vol. 3, 5.8)."""

from __future__ import annotations

import pytest

from tests.machine.computer import (
    CODE,
    CODE_OF_RING,
    DATA,
    DATA_OF_RING,
    INNER_STACKS,
    SPARE,
    STACK,
    TASK,
    TSS,
    Computer,
)
from vmlab.isa.x86.descriptors import (
    CALL_GATE16,
    CALL_GATE32,
    INTERRUPT_GATE32,
    TASK_GATE,
    encode_descriptor,
    encode_gate,
)
from vmlab.isa.x86.faults import GP, NP, SS, TS
from vmlab.isa.x86.registers import ESP

FLAT = 0xFFFF_FFFF
FREE = SPARE[0]


@pytest.fixture
def computer() -> Computer:
    return Computer()


FAR = {
    # selector, descriptor, from ring 0, from ring 3
    "code of ring 0": (0x08, None, None, (GP, 0x08)),
    "code of ring 3": (0x3B, None, (GP, 0x38), None),
    "code of ring 3, RPL 0": (0x38, None, (GP, 0x38), None),
    "code of ring 0, RPL 3": (0x0B, None, (GP, 0x08), (GP, 0x08)),
    "conforming of ring 0": (FREE | 3, encode_descriptor(0, FLAT, 0x9F), None, None),
    "conforming of ring 3": (FREE, encode_descriptor(0, FLAT, 0xFF), (GP, FREE), None),
    "data": (0x10, None, (GP, 0x10), (GP, 0x10)),
    "null": (0, None, (GP, 0), (GP, 0)),
    "beyond the table": (0x80, None, (GP, 0x80), (GP, 0x80)),
    "not present": (FREE, encode_descriptor(0, FLAT, 0x1B), (NP, FREE), (GP, FREE)),
    "limit": (FREE, encode_descriptor(0, 0xFF, 0x9F), (GP, 0), (GP, 0)),
    "TSS": (TASK, None, (GP, TASK), (GP, TASK)),
    "task gate to a busy task": (FREE, encode_gate(TASK, 0, TASK_GATE, 3), (GP, TASK), (GP, TASK)),
    "interrupt gate": (FREE, encode_gate(0x08, 0, INTERRUPT_GATE32, 3), (GP, FREE), (GP, FREE)),
}


@pytest.mark.parametrize("source", ["jmp far [0x20000]", "call far [0x20000]", "jmp {0}:0x12340", "call {0}:0x12340"])
@pytest.mark.parametrize("name", FAR)
def test_far_jump_and_call(computer: Computer, name: str, source: str) -> None:
    selector, raw, inner, outer = FAR[name]
    for ring, expected in ((0, inner), (3, outer)):
        computer.descriptor(FREE, raw or 0)
        computer.load(source.format(selector), ring)
        computer.memory.write(DATA, 8, selector << 32 | 0x1_2340)
        length = 6 if "[" in source else 7
        computer.step()
        cpu = computer.cpu
        if expected is not None:
            trap = computer.trap()
            assert (trap.what, trap.ip, trap.cs) == (expected, CODE, CODE_OF_RING[ring])
            assert (STACK if ring else STACK - 16) == (trap.esp or cpu.registers[ESP])
            continue
        assert (cpu.ip, cpu.segments[1].selector) == (0x1_2340, selector & ~3 | ring)
        if source[0] == "c":
            assert cpu.registers[ESP] == STACK - 8
            assert [computer.word(STACK - 8), computer.word(STACK - 4)] == [CODE + length, CODE_OF_RING[ring]]
        else:
            assert cpu.registers[ESP] == STACK


def gate_call(computer: Computer, gate: int, source: str, ring: int) -> None:
    computer.descriptor(FREE, gate)
    computer.load(source, ring, stack=0xC000)
    for n in range(16):
        computer.memory.write(0xC000 + 4 * n, 4, 0xA0 + n)
    computer.step()


@pytest.mark.parametrize("parameters", [0, 1, 3, 31])
def test_call_gate_to_ring_0_copies_parameters(computer: Computer, parameters: int) -> None:
    gate = encode_gate(0x0B, 0x1_2340, CALL_GATE32, 3) | parameters << 32
    gate_call(computer, gate, "call 0x53:0x9999", 3)
    cpu = computer.cpu
    assert (cpu.ip, cpu.segments[1].selector, cpu.segments[2].selector) == (0x1_2340, 0x08, 0x10)
    assert cpu.registers[ESP] == INNER_STACKS[0] - 16 - 4 * parameters
    frame = [computer.word(cpu.registers[ESP] + 4 * n) for n in range(parameters + 4)]
    pushed = [0xA0 + n for n in range(parameters)] if parameters <= 16 else frame[2:-2]
    assert frame == [CODE + 7, 0x3B, *pushed, 0xC000, 0x43]


def test_call_gate_of_16_bits(computer: Computer) -> None:
    gate = encode_gate(0x08, 0x8765_2340, CALL_GATE16, 3) | 2 << 32
    gate_call(computer, gate, "call 0x53:0", 3)
    cpu = computer.cpu
    assert (cpu.ip, cpu.registers[ESP]) == (0x2340, INNER_STACKS[0] - 12)
    frame = [computer.memory.read(cpu.registers[ESP] + 2 * n, 2) for n in range(6)]
    assert frame == [CODE + 7 & 0xFFFF, 0x3B, 0xA0, 0, 0xC000, 0x43]


def test_call_gate_within_the_ring_and_to_conforming_code(computer: Computer) -> None:
    gate_call(computer, encode_gate(0x08, 0x1_2340, CALL_GATE32, 3) | 5 << 32, "call 0x50:0", 0)
    assert (computer.cpu.ip, computer.cpu.registers[ESP]) == (0x1_2340, 0xC000 - 8)
    computer.descriptor(0x58, encode_descriptor(0, FLAT, 0x9F))
    gate_call(computer, encode_gate(0x58, 0x1_2340, CALL_GATE32, 3), "call 0x50:0", 3)
    assert (computer.cpu.segments[1].selector, computer.cpu.cpl) == (0x5B, 3)


def test_jump_through_a_gate_stays_in_the_ring(computer: Computer) -> None:
    gate_call(computer, encode_gate(0x08, 0x1_2340, CALL_GATE32, 3), "jmp 0x50:0", 0)
    assert (computer.cpu.ip, computer.cpu.registers[ESP]) == (0x1_2340, 0xC000)
    gate_call(computer, encode_gate(0x08, 0x1_2340, CALL_GATE32, 3), "jmp 0x50:0", 3)
    assert computer.trap().what == (GP, 0x08)


BAD_CALL_GATES = {
    "DPL": (encode_gate(0x08, 0, CALL_GATE32, 2), "call 0x50:0", (GP, FREE)),
    "RPL": (encode_gate(0x08, 0, CALL_GATE32, 2), "call 0x53:0", (GP, FREE)),
    "not present": (encode_gate(0x08, 0, CALL_GATE32, 3) & ~(0x80 << 40), "call 0x50:0", (NP, FREE)),
    "null": (encode_gate(0, 0, CALL_GATE32, 3), "call 0x50:0", (GP, 0)),
    "data": (encode_gate(0x10, 0, CALL_GATE32, 3), "call 0x50:0", (GP, 0x10)),
    "beyond the table": (encode_gate(0x80, 0, CALL_GATE32, 3), "call 0x50:0", (GP, 0x80)),
    "code not present": (encode_gate(0x58, 0, CALL_GATE32, 3), "call 0x50:0", (NP, 0x58)),
    "limit": (encode_gate(0x60, 0x100, CALL_GATE32, 3), "call 0x50:0", (GP, 0)),
}


@pytest.mark.parametrize("name", BAD_CALL_GATES)
def test_bad_call_gate(computer: Computer, name: str) -> None:
    gate, source, expected = BAD_CALL_GATES[name]
    computer.descriptor(0x58, encode_descriptor(0, FLAT, 0x1B))
    computer.descriptor(0x60, encode_descriptor(0, 0xFF, 0x9B))
    gate_call(computer, gate, source, 3)
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.cs, trap.esp, trap.ss) == (expected, CODE, 0x3B, 0xC000, 0x43)


def test_call_gate_with_a_bad_inner_stack(computer: Computer) -> None:
    computer.memory.write(TSS + 8, 4, 0x13)
    computer.gate(TS, encode_gate(0x18, 0x4000 + 16 * TS, INTERRUPT_GATE32))
    gate_call(computer, encode_gate(0x08, 0x1_2340, CALL_GATE32, 3), "call 0x50:0", 3)
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.esp) == ((TS, 0x10), CODE, 0xC000)


# -- far returns -------------------------------------------------------------------------------------------------------------------------------------------


def far_return(computer: Computer, source: str, ring: int, *frame: int) -> None:
    computer.load(source, ring)
    for n, value in enumerate(frame):
        computer.memory.write(STACK + 4 * n, 4, value)
    computer.step()


def test_far_return_within_the_ring(computer: Computer) -> None:
    far_return(computer, "retf 12", 0, 0x1234, 0x08)
    assert (computer.cpu.ip, computer.cpu.registers[ESP]) == (0x1234, STACK + 8 + 12)


def test_far_return_to_an_outer_ring_releases_parameters_on_both_stacks(computer: Computer) -> None:
    far_return(computer, "retf 8", 0, 0x1234, 0x3B, 1, 2, 0x7000, 0x43)
    cpu = computer.cpu
    assert (cpu.ip, cpu.cpl, cpu.registers[ESP], cpu.segments[2].selector) == (0x1234, 3, 0x7008, 0x43)
    assert cpu.segments[3].selector == 0


BAD_RETURNS = {
    "inner ring": (3, (0x1234, 0x08, 0x7000, 0x10), (GP, 0x08)),
    "null": (0, (0x1234, 0), (GP, 0)),
    "data": (0, (0x1234, 0x10), (GP, 0x10)),
    "beyond the table": (0, (0x1234, 0x80), (GP, 0x80)),
    "DPL is not RPL": (0, (0x1234, 0x3A, 0x7000, 0x43), (GP, 0x38)),
    "conforming below its DPL": (0, (0x1234, 0x60), (GP, 0x60)),
    "not present": (0, (0x1234, 0x58), (NP, 0x58)),
    "limit": (0, (0x1234, 0x50), (GP, 0)),
    "null stack": (0, (0x1234, 0x3B, 0x7000, 0), (GP, 0)),
    "stack of another ring": (0, (0x1234, 0x3B, 0x7000, 0x10), (GP, 0x10)),
    "stack with another RPL": (0, (0x1234, 0x3B, 0x7000, 0x40), (GP, 0x40)),
    "stack that is code": (0, (0x1234, 0x3B, 0x7000, 0x3B), (GP, 0x38)),
    "stack not present": (0, (0x1234, 0x3B, 0x7000, 0x6B), (SS, 0x68)),
}


@pytest.mark.parametrize("source", ["retf", "iretd"])
@pytest.mark.parametrize("name", BAD_RETURNS)
def test_bad_far_return(computer: Computer, name: str, source: str) -> None:
    ring, frame, expected = BAD_RETURNS[name]
    computer.descriptor(0x50, encode_descriptor(0, 0xFF, 0x9B))
    computer.descriptor(0x58, encode_descriptor(0, FLAT, 0x1B))
    computer.descriptor(0x60, encode_descriptor(0, FLAT, 0xFF))
    computer.descriptor(0x68, encode_descriptor(0, FLAT, 0x73))
    if source == "iretd":
        frame = (*frame[:2], 2, *frame[2:])
    far_return(computer, source, ring, *frame)
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.cs) == (expected, CODE, CODE_OF_RING[ring])
    assert (trap.esp or computer.cpu.registers[ESP] + 16) == STACK
    assert computer.cpu.segments[3].selector == DATA_OF_RING[ring]
