"""Exceptions and interrupts one by one: vectors, error codes, frames, gates, escalation (Intel SDM vol. 3, chapter 6)."""

from __future__ import annotations

import pytest

from tests.machine.computer import (
    CODE,
    CODE_OF_RING,
    DATA,
    DATA_OF_RING,
    HANDLERS,
    INNER_STACKS,
    SPARE,
    STACK,
    TASK,
    TSS,
    Computer,
    Trap,
)
from vmlab.isa.x86.descriptors import (
    CALL_GATE32,
    INTERRUPT_GATE16,
    INTERRUPT_GATE32,
    TASK_GATE,
    TRAP_GATE16,
    TRAP_GATE32,
    encode_descriptor,
    encode_gate,
)
from vmlab.isa.x86.faults import BP, BR, DB, DE, DF, GP, NM, NP, OF, PF, SS, TS, UD
from vmlab.isa.x86.registers import AC, CF, ESP, IF, NT, RF, TF
from vmlab.isa.x86.registers import IOPL as IOPL_3
from vmlab.isa.x86.registers import OF as OVERFLOW

FLAT = 0xFFFF_FFFF
PRESENT = 0x80


@pytest.fixture
def computer() -> Computer:
    return Computer()


# -- each vector -----------------------------------------------------------------------------------------------------------

FAULTS = {
    "xor ecx, ecx\n div ecx": (DE, None),
    "mov eax, 0x80000000\n cdq\n mov ecx, -1\n idiv ecx": (DE, None),
    "aam 0": (DE, None),
    "mov eax, 5\n mov dword [0x20000], 6\n mov dword [0x20004], 9\n bound eax, [0x20000]": (BR, None),
    "ud2": (UD, None),
    "db 0x0F, 0xFF, 0xC0": (UD, None),
    "db 0xF0, 0x01, 0xC0": (UD, None),  # lock add eax, eax
    "db 0x8E, 0xC8": (UD, None),  # mov cs, ax
    "db 0x0F, 0x22, 0xC8": (UD, None),  # mov cr1, eax
    "db 0x0F, 0xC7, 0xC8": (UD, None),  # cmpxchg8b eax
    "sysenter": (GP, 0),  # IA32_SYSENTER_CS is 0
    "db 0xDB, 0xE3": (UD, None),  # fninit
    "mov eax, cr0\n or al, 4\n mov cr0, eax\n db 0x66, 0xDB, 0xE3": (NM, None),  # EM
    "mov eax, cr0\n or al, 8\n mov cr0, eax\n db 0xD9, 0x00": (NM, None),  # TS
    "mov eax, cr0\n or al, 12\n mov cr0, eax\n db 0xF0, 0xD9, 0x00": (UD, None),  # LOCK
    "mov eax, cr0\n or al, 12\n mov cr0, eax\n db 0x0F, 0x10, 0x00": (UD, None),  # movups
    "mov eax, cr0\n or al, 12\n mov cr0, eax\n fwait": None,
    "mov eax, cr0\n or al, 10\n mov cr0, eax\n fwait": (NM, None),  # MP and TS
    "db 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90": None,
    "db 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90": (GP, 0),
    "mov eax, 0x1234\n mov ds, ax": (GP, 0x1234),
    "xor eax, eax\n mov ds, ax\n mov eax, [0x20000]": (GP, 0),
    "xor eax, eax\n mov ss, ax": (GP, 0),
    "mov eax, cr0\n or eax, 0x20000000\n mov cr0, eax": (GP, 0),  # NW without CD
    "mov eax, cr0\n and eax, ~1\n or eax, 0x80000000\n mov cr0, eax": (GP, 0),  # PG without PE
    "mov eax, 0x200\n mov cr4, eax": (GP, 0),  # OSFXSR, which no model has
    "mov ecx, 0x1C\n rdmsr": (GP, 0),
    "mov ecx, 0x1C\n wrmsr": (GP, 0),
    "rdpmc": (GP, 0),
    "jmp 0:0x10000": (GP, 0),
}


@pytest.mark.parametrize("source", FAULTS)
def test_fault_enters_its_handler(computer: Computer, source: str) -> None:
    *setup, last = source.split("\n")
    computer.load("\n".join([*setup, "here:", last, "there: jmp there"]))
    computer.run_to("here")
    registers = list(computer.cpu.registers)
    if FAULTS[source] is None:
        computer.run_to("there")
        return
    trap = computer.trap()
    vector, error = FAULTS[source]
    # A fault: EIP of the instruction itself, RF set in the image, IF and TF clear for the handler.
    assert trap == Trap(vector, error, computer.symbols["here"], 0x08, 2 | RF | trap.flags & 0xCD5)
    registers[ESP] -= 12 if error is None else 16
    assert computer.cpu.registers == registers


@pytest.mark.parametrize(
    ("source", "vector", "length"),
    [("int3", BP, 1), ("int 0x80", 0x80, 2), ("int 13", GP, 2), ("int 3", BP, 2), ("into", OF, 1), ("int1", DB, 1)],
)
def test_software_interrupt_returns_behind_itself_and_pushes_no_error_code(
    computer: Computer, source: str, vector: int, length: int
) -> None:
    computer.load(source, flags=2 | OVERFLOW | IF | AC)
    trap = computer.trap(software=True)
    assert trap == Trap(vector, None, CODE + length, 0x08, 2 | OVERFLOW | IF | AC)
    assert computer.cpu.registers[ESP] == STACK - 12
    assert computer.cpu.flags == 2 | OVERFLOW | AC


def test_into_does_nothing_without_overflow(computer: Computer) -> None:
    computer.load("into\n here: jmp here", flags=2 | CF)
    computer.run_to("here")


# -- frames and gates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [1, 2, 3])
def test_handler_in_an_inner_ring_gets_the_stack_of_the_tss(computer: Computer, ring: int) -> None:
    computer.load("ud2", ring, flags=2 | IF | TF | NT | CF)
    trap = computer.trap()
    assert trap == Trap(UD, None, CODE, CODE_OF_RING[ring], 2 | IF | TF | NT | CF | RF, STACK, DATA_OF_RING[ring])
    cpu = computer.cpu
    assert (cpu.registers[ESP], cpu.segments[2].selector) == (INNER_STACKS[0] - 20, 0x10)
    assert (cpu.cpl, cpu.flags) == (0, 2 | CF)
    assert cpu.segments[3].selector == DATA_OF_RING[ring]  # data segments stay


@pytest.mark.parametrize("ring", [1, 2])
def test_handler_in_ring_1_or_2(computer: Computer, ring: int) -> None:
    computer.gate(UD, encode_gate(CODE_OF_RING[ring] & ~3, HANDLERS + 16 * UD, INTERRUPT_GATE32))
    computer.load("ud2", 3)
    trap = computer.trap()
    assert trap == Trap(UD, None, CODE, 0x3B, 2 | RF, STACK, 0x43)
    cpu = computer.cpu
    assert (cpu.cpl, cpu.segments[1].selector) == (ring, CODE_OF_RING[ring])
    assert (cpu.registers[ESP], cpu.segments[2].selector) == (INNER_STACKS[ring] - 20, DATA_OF_RING[ring])


def test_error_code_is_the_last_on_the_inner_stack(computer: Computer) -> None:
    computer.load("mov ds, ax", 3)
    computer.cpu.registers[0] = 0x10
    assert computer.trap() == Trap(GP, 0x10, CODE, 0x3B, 2 | RF, STACK, 0x43)
    assert computer.cpu.registers[ESP] == INNER_STACKS[0] - 24


def test_trap_gate_leaves_if(computer: Computer) -> None:
    computer.gate(0x80, encode_gate(0x08, HANDLERS + 0x800, TRAP_GATE32))
    computer.load("int 0x80", flags=2 | IF | TF)
    computer.trap(software=True)
    assert computer.cpu.flags == 2 | IF


@pytest.mark.parametrize("kind", [INTERRUPT_GATE16, TRAP_GATE16])
def test_gate_of_16_bits_pushes_words_and_ignores_the_upper_offset(computer: Computer, kind: int) -> None:
    computer.gate(UD, encode_gate(0x08, 0xFFFF_0000 | HANDLERS + 16 * UD, kind))
    computer.load("ud2", 3, flags=2 | IF)
    computer.step()
    cpu = computer.cpu
    assert (computer.vector, cpu.registers[ESP]) == (UD, INNER_STACKS[0] - 10)
    frame = [computer.memory.read(cpu.registers[ESP] + 2 * n, 2) for n in range(5)]
    assert frame == [CODE & 0xFFFF, 0x3B, 2 | IF, STACK, 0x43]
    assert bool(cpu.flags & IF) == (kind == TRAP_GATE16)


def test_conforming_handler_stays_in_its_ring(computer: Computer) -> None:
    computer.descriptor(SPARE[0], encode_descriptor(0, FLAT, 0x9F))
    computer.gate(UD, encode_gate(SPARE[0], HANDLERS + 16 * UD, INTERRUPT_GATE32))
    computer.load("ud2", 3)
    assert computer.trap() == Trap(UD, None, CODE, 0x3B, 2 | RF)
    assert (computer.cpu.cpl, computer.cpu.segments[1].selector) == (3, SPARE[0] | 3)
    assert computer.cpu.registers[ESP] == STACK - 12


BAD_GATES = {
    "not present": (encode_gate(0x08, HANDLERS, INTERRUPT_GATE32) & ~(PRESENT << 40), (NP, 0x80 * 8 + 2)),
    "a call gate": (encode_gate(0x08, HANDLERS, CALL_GATE32), (GP, 0x80 * 8 + 2)),
    "a task gate to no task": (encode_gate(0x08, HANDLERS, TASK_GATE), (GP, 0x08)),
    "a segment": (encode_descriptor(0, FLAT, 0x9E), (GP, 0x80 * 8 + 2)),
    "nothing": (0, (GP, 0x80 * 8 + 2)),
    "null selector": (encode_gate(0x00, HANDLERS, INTERRUPT_GATE32), (GP, 0)),
    "selector beyond the table": (encode_gate(0x80, HANDLERS, INTERRUPT_GATE32), (GP, 0x80)),
    "selector in no LDT": (encode_gate(0x0C, HANDLERS, INTERRUPT_GATE32), (GP, 0x0C)),
    "data segment": (encode_gate(0x10, HANDLERS, INTERRUPT_GATE32), (GP, 0x10)),
    "system segment": (encode_gate(TASK, HANDLERS, INTERRUPT_GATE32), (GP, TASK)),
    "outer code": (encode_gate(0x3B, HANDLERS, INTERRUPT_GATE32), (GP, 0x38)),
    "code not present": (encode_gate(SPARE[0], HANDLERS, INTERRUPT_GATE32), (NP, SPARE[0])),
    "offset beyond the limit": (encode_gate(SPARE[1], 0x1000, INTERRUPT_GATE32), (GP, 0)),
}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("name", BAD_GATES)
def test_bad_gate(computer: Computer, name: str, external: bool) -> None:
    """EXT is set where the event is no software interrupt (SDM vol. 3, 6.13)."""
    gate, (vector, error) = BAD_GATES[name]
    computer.descriptor(SPARE[0], encode_descriptor(0, FLAT, 0x1B))
    computer.descriptor(SPARE[1], encode_descriptor(0, 0xFFF, 0x9B))
    computer.gate(0x80, gate)
    computer.load("int 0x80")
    if external:
        computer.cpu.interrupt(0x80)
    trap = computer.trap()
    assert trap == Trap(vector, error | external, CODE, 0x08, 2 | RF)
    assert computer.cpu.registers[ESP] == STACK - 16


def test_gates_dpl_is_for_software_alone(computer: Computer) -> None:
    computer.gate(0x80, encode_gate(0x08, HANDLERS + 0x800, INTERRUPT_GATE32, dpl=2))
    computer.load("int 0x80", 3)
    assert computer.trap().what == (GP, 0x80 * 8 + 2)
    computer.load("int 0x80", 2)
    assert computer.trap(software=True).vector == 0x80
    computer.load("nop", 3)
    computer.cpu.interrupt(0x80)
    assert computer.vector == 0x80
    computer.load("db 0xF1", 3)  # INT1 asks no gate
    assert computer.trap(software=True).vector == DB
    computer.load("int3", 3)
    assert computer.trap().what == (GP, BP * 8 + 2)


def test_dpl_is_looked_at_before_presence(computer: Computer) -> None:
    computer.gate(0x80, BAD_GATES["not present"][0])
    computer.load("int 0x80", 3)
    assert computer.trap().what == (GP, 0x80 * 8 + 2)


def test_idt_limit(computer: Computer) -> None:
    computer.cpu.idtr_limit = 0x80 * 8 + 6
    computer.load("int 0x80")
    assert computer.trap().what == (GP, 0x80 * 8 + 2)
    computer.cpu.idtr_limit = 0x80 * 8 + 7
    computer.load("int 0x80")
    assert computer.trap(software=True).vector == 0x80


def test_delivery_marks_the_code_segment_accessed(computer: Computer) -> None:
    computer.descriptor(0x08, encode_descriptor(0, FLAT, 0x9A))
    computer.load("ud2")
    assert computer.trap().vector == UD
    assert computer.memory.read(0x1000 + 0x08 + 5, 1) == 0x9B


# -- the inner stack -----------------------------------------------------------------------------------------------------------

BAD_STACKS = {
    "null": (0, (TS, 0)),
    "beyond the table": (0x80, (TS, 0x80)),
    "wrong RPL": (0x13, (TS, 0x10)),
    "wrong DPL": (DATA_OF_RING[3] & ~3, (TS, 0x40)),
    "code": (0x08, (TS, 0x08)),
    "read-only": (SPARE[0], (TS, SPARE[0])),
    "system": (TASK, (TS, TASK)),
    "not present": (SPARE[1], (SS, SPARE[1])),
    "too small": (SPARE[2], (SS, SPARE[2])),
}


@pytest.mark.parametrize("software", [False, True])
@pytest.mark.parametrize("name", BAD_STACKS)
def test_bad_inner_stack(computer: Computer, name: str, software: bool) -> None:
    selector, (vector, error) = BAD_STACKS[name]
    computer.descriptor(SPARE[0], encode_descriptor(0, FLAT, 0x91))
    computer.descriptor(SPARE[1], encode_descriptor(0, FLAT, 0x13))
    computer.descriptor(SPARE[2], encode_descriptor(0, 0x8FF8, 0x93))
    computer.memory.write(TSS + 8, 4, selector)
    computer.gate(0x80, encode_gate(0x08, HANDLERS + 0x800, INTERRUPT_GATE32, dpl=3))
    # The handlers of what goes wrong are in ring 1, whose stack is good.
    for each in (TS, SS):
        computer.gate(each, encode_gate(0x18, HANDLERS + 16 * each, INTERRUPT_GATE32))
    computer.load("int 0x80", 3)
    if not software:
        computer.cpu.interrupt(0x80)
    trap = computer.trap()
    assert (trap.vector, trap.error, trap.ip, trap.cs) == (vector, error | (not software), CODE, 0x3B)
    assert (trap.esp, trap.ss) == (STACK, 0x43)


@pytest.mark.parametrize(("limit", "good"), [(0x09, True), (0x08, False), (3, False)])
def test_tss_limit(computer: Computer, limit: int, good: bool) -> None:
    computer.cpu.tr.limit = limit
    computer.gate(TS, encode_gate(SPARE[0], HANDLERS + 16 * TS, INTERRUPT_GATE32))
    computer.descriptor(SPARE[0], encode_descriptor(0, FLAT, 0x9F))  # conforming: needs no other stack
    computer.load("ud2", 3)
    trap = computer.trap()
    # The last byte of SS0 is at offset 9. #UD is benign, so #TS comes next; EXT, for #UD is no INT n.
    assert trap.what == ((UD, None) if good else (TS, TASK | 1))


def test_inner_stack_of_a_16_bit_tss(computer: Computer) -> None:
    computer.cpu.tr.set(TASK, TSS, 0x2B, 0x83, big=False)
    computer.memory.write(TSS + 2, 2, 0x7000)
    computer.memory.write(TSS + 4, 2, 0x10)
    computer.load("ud2", 3)
    assert computer.trap() == Trap(UD, None, CODE, 0x3B, 2 | RF, STACK, 0x43)
    assert computer.cpu.registers[ESP] == 0x7000 - 20


# -- double and triple faults -----------------------------------------------------------------------------------------------------

FIRST = {
    DE: "aam 0", UD: "ud2", GP: "mov ds, ax", NP: "mov ds, bx", SS: "mov ss, bx", BR: "bound eax, [0x20000]",
    PF: "mov eax, [0x700000]",
}  # fmt: skip
CONTRIBUTORY = {DE, TS, NP, SS, GP}


def page_all(computer: Computer) -> None:
    """Switch paging on: the first 4 MiB map to themselves, nothing else is there."""
    computer.memory.write(0x4_0000, 4, 0x4_1007)
    for page in range(1024):
        computer.memory.write(0x4_1000 + 4 * page, 4, page << 12 | 7)
    computer.cpu.set_cr3(0x4_0000)
    computer.cpu.set_cr0(computer.cpu.cr0 | 1 << 31)


def spoil(computer: Computer, vector: int, second: int) -> None:
    """Make the delivery of a vector raise another exception."""
    if second == GP:
        computer.gate(vector, encode_gate(0x10, HANDLERS, INTERRUPT_GATE32))
    elif second == NP:
        computer.gate(vector, encode_gate(0x08, HANDLERS, INTERRUPT_GATE32) & ~(PRESENT << 40))
    elif second == PF:
        computer.memory.write(0x4_1000 + 4 * 2, 4, 0)  # the IDT's page: nothing can be delivered


@pytest.mark.parametrize("second", [GP, NP])
@pytest.mark.parametrize("first", FIRST)
def test_second_exception(computer: Computer, first: int, second: int) -> None:
    """SDM vol. 3, table 6-5: two contributory ones, or any after a page fault, make a double fault."""
    computer.descriptor(SPARE[0], encode_descriptor(0, FLAT, 0x13))
    page_all(computer)
    computer.load(FIRST[first])
    computer.cpu.registers[0] = 0x1230
    computer.cpu.registers[3] = SPARE[0]
    computer.memory.write(DATA, 8, 0)
    spoil(computer, first, second)
    trap = computer.trap()
    if first == second:
        assert (first, trap.vector) in ((GP, DF), (NP, DF))
    elif first in CONTRIBUTORY | {PF}:
        assert trap.vector == DF
        assert trap.error == 0
    else:
        assert trap.what == (second, (0x10 if second == GP else first * 8 + 2) | 1)
    assert (trap.ip, trap.cs) == (CODE, 0x08)
    assert computer.machine.steps == 1  # one step of the machine, however often it had to be tried


def test_page_fault_while_an_exception_is_delivered(computer: Computer) -> None:
    page_all(computer)
    computer.load("aam 0")
    computer.memory.write(0x4_1000 + 4 * 9, 4, 0x9002)  # the stack's page is not present
    computer.cpu.registers[ESP] = 0x9FF0
    # #DE, then #PF for the push, both need the stack: #DF too, which shuts the processor down.
    computer.step()
    assert computer.machine.outcome == "triple-fault"
    assert computer.cpu.cr2 == 0x9FEC


def test_page_fault_after_a_contributory_exception_is_no_double_fault(computer: Computer) -> None:
    """Table 6-5: a page fault while a contributory exception is delivered is handled for itself."""
    page_all(computer)
    computer.load("aam 0", 3)
    computer.memory.write(0x4_1000 + 4 * 8, 4, 0x8006)  # the inner stack's page
    computer.gate(PF, encode_gate(0x18, HANDLERS + 16 * PF, INTERRUPT_GATE32))
    trap = computer.trap()
    assert (trap.vector, trap.error, computer.cpu.cr2) == (PF, 2, INNER_STACKS[0] - 4)
    assert (trap.ip, trap.esp) == (CODE, STACK)


def test_page_fault_while_a_page_fault_is_delivered_is_a_double_fault(computer: Computer) -> None:
    page_all(computer)
    computer.load("mov eax, [0x700000]", 3)
    computer.memory.write(0x4_1000 + 4 * 8, 4, 0x8006)
    computer.gate(DF, encode_gate(0x18, HANDLERS + 16 * DF, INTERRUPT_GATE32))
    trap = computer.trap()
    assert trap.what == (DF, 0)
    assert computer.cpu.cr2 == INNER_STACKS[0] - 4


@pytest.mark.parametrize("second", [GP, NP])
def test_triple_fault(computer: Computer, second: int) -> None:
    computer.load("mov ds, ax")
    computer.cpu.registers[0] = 0x1230
    spoil(computer, GP, GP)
    spoil(computer, DF, second)
    computer.step(5)
    machine = computer.machine
    assert (machine.outcome, machine.status, machine.steps) == ("triple-fault", None, 1)


def test_no_idt_at_all_is_a_triple_fault(computer: Computer) -> None:
    computer.cpu.idtr_limit = 0
    computer.load("ud2")
    computer.step()
    assert computer.machine.outcome == "triple-fault"


def test_interrupts_are_benign(computer: Computer) -> None:
    """An interrupt, hardware's or software's, whose delivery faults makes no double fault."""
    spoil(computer, 0x80, NP)
    computer.load("int 0x80", flags=2 | IOPL_3)
    assert computer.trap().what == (NP, 0x80 * 8 + 2)
