"""Hardware task switches (Intel SDM vol. 3, chapter 8)."""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, DATA, FREE, GDT, HANDLERS, STACK, TASK, TSS, Computer
from vmlab.isa.x86.descriptors import TASK_GATE, TSS16, TSS32, TSS32_BUSY, encode_descriptor, encode_gate
from vmlab.isa.x86.faults import DB, DF, GP, NP, TS, UD
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.registers import (
    CR0_PG,
    CR0_TS,
    CR4_PAE,
    CS,
    EAX,
    ESP,
    FIXED,
    NT,
    RF,
    SS,
    VM,
)

OTHER = 0x50
OTHER_TSS, OTHER_CODE, OTHER_STACK = 0x5_0000, 0x5_1000, 0x5_3000
GENERAL = [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444, OTHER_STACK, 0x6666_6666, 0x7777_7777, 0x8888_8888]
SELECTORS = [0x10, 0x08, 0x10, 0x10, 0, 0]


def busy(computer: Computer, selector: int) -> bool:
    return bool(computer.memory.read(GDT + selector + 5, 1) & 2)


def task(
    computer: Computer,
    code: bytes = b"\x90\xcf",
    *,
    flags: int = FIXED,
    selectors: list[int] = SELECTORS,
    wide: bool = True,
    trap: int = 0,
) -> None:
    """Write another task, at the selector `OTHER`."""
    memory = computer.memory
    memory.write_bytes(OTHER_CODE, code)
    memory.write_bytes(OTHER_TSS, bytes(0x68))
    width, first, where = (4, 0x20, 0x48) if wide else (2, 0x0E, 0x22)
    for n, value in enumerate((OTHER_CODE, flags, *GENERAL)):
        memory.write(OTHER_TSS + first + width * n, width, value)
    for n, selector in enumerate(selectors[: 6 if wide else 4]):
        memory.write(OTHER_TSS + where + width * n, 2, selector)
    memory.write(OTHER_TSS + 0x64, 2, trap)
    computer.descriptor(
        OTHER, encode_descriptor(OTHER_TSS, 0x67 if wide else 0x2B, 0x80 | (TSS32 if wide else TSS16), big=False)
    )


@pytest.fixture
def computer() -> Computer:
    return Computer()


@pytest.mark.parametrize("source", ["jmp 0x50:0", "call 0x50:0", "jmp 0x58:0", "call 0x58:0", "int 0x80"])
def test_switch(computer: Computer, source: str) -> None:
    task(computer)
    computer.descriptor(0x58, encode_gate(OTHER, 0, TASK_GATE))
    computer.gate(0x80, encode_gate(OTHER, 0, TASK_GATE))
    computer.load(f"{source}\n behind: nop")
    cpu = computer.cpu
    cpu.registers[:8] = [1, 2, 3, 4, STACK, 6, 7, 8]
    computer.step()
    nested = source[0] != "j"
    assert (cpu.ip, cpu.registers[:8], cpu.tr.selector, cpu.tr.base) == (OTHER_CODE, GENERAL, OTHER, OTHER_TSS)
    assert cpu.flags == FIXED | (NT if nested else 0)
    assert [register.selector for register in cpu.segments] == SELECTORS
    assert cpu.cr0 & CR0_TS
    assert (busy(computer, TASK), busy(computer, OTHER)) == (nested, True)
    assert computer.memory.read(OTHER_TSS, 2) == (TASK if nested else 0)
    saved = [computer.word(TSS + 0x20 + 4 * n) for n in range(10)]
    assert saved == [computer.symbols["behind"], FIXED, 1, 2, 3, 4, STACK, 6, 7, 8]
    assert [computer.memory.read(TSS + 0x48 + 4 * n, 2) for n in range(6)] == [0x10, 0x08, 0x10, 0x10, 0x10, 0x10]


def test_return(computer: Computer) -> None:
    task(computer)
    computer.load("call 0x50:0\n behind: nop")
    cpu = computer.cpu
    cpu.registers[:8] = [1, 2, 3, 4, STACK, 6, 7, 8]
    computer.step(3)
    assert (cpu.ip, cpu.registers[:8], cpu.tr.selector, cpu.flags) == (
        computer.symbols["behind"],
        [1, 2, 3, 4, STACK, 6, 7, 8],
        TASK,
        FIXED,
    )
    assert (busy(computer, TASK), busy(computer, OTHER)) == (True, False)
    # The other task goes on behind its IRET when it is called again; NT is clear in what it saved.
    assert [computer.word(OTHER_TSS + 0x20), computer.word(OTHER_TSS + 0x24)] == [OTHER_CODE + 2, FIXED]


def test_task_of_16_bits(computer: Computer) -> None:
    task(computer, wide=False)
    computer.load("jmp 0x50:0")
    computer.step()
    cpu = computer.cpu
    assert cpu.ip == OTHER_CODE & 0xFFFF
    assert [value & 0xFFFF for value in cpu.registers[:8]] == [value & 0xFFFF for value in GENERAL]
    assert [register.selector for register in cpu.segments] == SELECTORS
    computer.memory.write_bytes(OTHER_CODE & 0xFFFF, bytes.fromhex("ea 00000000 4800"))  # jmp 0x48:0
    computer.step()
    assert cpu.ip == CODE + 7
    assert computer.memory.read(OTHER_TSS + 0x0E, 2) == (OTHER_CODE & 0xFFFF) + 7


def test_exception_with_an_error_code_through_a_task_gate(computer: Computer) -> None:
    task(computer)
    computer.gate(GP, encode_gate(OTHER, 0, TASK_GATE))
    computer.load("mov ds, ax")
    computer.cpu.registers[EAX] = 0x1234
    computer.step()
    cpu = computer.cpu
    assert (cpu.ip, cpu.registers[ESP], computer.word(OTHER_STACK - 4)) == (OTHER_CODE, OTHER_STACK - 4, 0x1234)
    assert [computer.word(TSS + 0x20), computer.word(TSS + 0x24)] == [CODE, FIXED | RF]


def test_double_fault_through_a_task_gate(computer: Computer) -> None:
    """What task gates are for: a handler with a stack of its own."""
    task(computer)
    computer.gate(DF, encode_gate(OTHER, 0, TASK_GATE))
    computer.load("push eax", stack=0x1000)
    computer.set_segment(SS, 0x10)
    computer.cpu.segments[SS].set(0x10, 0, 0xFF, 0x93, big=True)
    computer.step()
    assert (computer.cpu.ip, computer.word(OTHER_STACK - 4)) == (OTHER_CODE, 0)


def test_into_virtual_8086_mode(computer: Computer) -> None:
    task(computer, flags=FIXED | VM, selectors=[1, 0x5000, 3, 4, 5, 6])
    computer.memory.write(OTHER_TSS + 0x20, 4, 0x1000)
    computer.load("jmp 0x50:0")
    computer.step(2)
    cpu = computer.cpu
    assert (cpu.linear_ip, cpu.cpl, cpu.fetch_bits) == (OTHER_CODE + 1, 3, 16)
    assert [register.base >> 4 for register in cpu.segments] == [1, 0x5000, 3, 4, 5, 6]


def test_address_space_of_the_task(computer: Computer) -> None:
    task(computer)
    for root in (0x6_0000, 0x6_2000):
        computer.memory.write(root, 4, root + 0x1000 | 7)
        for page in range(256):
            computer.memory.write(root + 0x1000 + 4 * page, 4, page << 12 | 7)
    computer.memory.write(OTHER_TSS + 0x1C, 4, 0x6_2000)
    computer.load("jmp 0x50:0")
    computer.cpu.set_cr3(0x6_0000)
    computer.cpu.set_cr0(computer.cpu.cr0 | CR0_PG)
    computer.step(2)
    assert (computer.cpu.cr3, computer.cpu.ip) == (0x6_2000, OTHER_CODE + 1)


def test_pae_pointers_of_the_task(computer: Computer) -> None:
    """They are loaded with CR3; a reserved bit is #GP(0) in the new task, which goes on with the old tables."""
    task(computer)
    pointers, directory, table, other = 0x6_0000, 0x6_1000, 0x6_2000, 0x6_3000
    for root in (pointers, other):
        computer.memory.write(root, 8, directory | 1)
    computer.memory.write(directory, 8, table | 7)
    for page in range(256):
        computer.memory.write(table + 8 * page, 8, page << 12 | 7)
    computer.memory.write(OTHER_TSS + 0x1C, 4, other)
    cpu = computer.cpu
    cpu.set_cr3(pointers)
    cpu.set_cr4(CR4_PAE)
    cpu.set_cr0(cpu.cr0 | CR0_PG)
    computer.load("jmp 0x50:0")
    computer.memory.write(other + 8, 8, 0x18)  # not present
    computer.step()
    assert (cpu.cr3, cpu.ip, cpu.pdptes) == (other, OTHER_CODE, [directory | 1, 0x18, 0, 0])
    task(computer)
    cpu.tr.set(TASK, TSS, 0x67, 0x8B, big=False)
    computer.descriptor(OTHER, encode_descriptor(OTHER_TSS, 0x67, 0x80 | TSS32, big=False))
    computer.memory.write(OTHER_TSS + 0x1C, 4, pointers)
    computer.memory.write(pointers + 8, 8, 3)
    computer.load("jmp 0x50:0")
    trap = computer.trap()
    assert (trap.what, trap.ip, cpu.cr3, cpu.tr.selector) == ((GP, 0), OTHER_CODE, other, OTHER)


def test_debug_trap_of_the_task(computer: Computer) -> None:
    task(computer, trap=1)
    computer.load("jmp 0x50:0")
    trap = computer.trap()
    assert (trap.vector, trap.ip, computer.cpu.debug[6] & 0xE000) == (DB, OTHER_CODE, 0x8000)


REFUSED = {
    # descriptor, fault of a jump in ring 0
    "busy": (encode_descriptor(OTHER_TSS, 0x67, 0x80 | TSS32_BUSY, big=False), (GP, OTHER)),
    "not present": (encode_descriptor(OTHER_TSS, 0x67, TSS32, big=False), (NP, OTHER)),
    "too short": (encode_descriptor(OTHER_TSS, 0x66, 0x80 | TSS32, big=False), (TS, OTHER)),
    "too short, 16 bits": (encode_descriptor(OTHER_TSS, 0x2A, 0x80 | TSS16, big=False), (TS, OTHER)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_the_old_task(computer: Computer, name: str) -> None:
    raw, expected = REFUSED[name]
    task(computer)
    computer.descriptor(OTHER, raw)
    for source in ("jmp 0x50:0", "call 0x50:0"):
        computer.load(source)
        trap = computer.trap()
        assert (trap.what, trap.ip, computer.cpu.tr.selector) == (expected, CODE, TASK)


@pytest.mark.parametrize(
    ("selector", "dpl", "allowed"), [(0x50, 0, False), (0x53, 3, True), (0x50, 3, True), (0x53, 2, False)]
)
def test_privilege_of_a_task(computer: Computer, selector: int, dpl: int, allowed: bool) -> None:
    task(computer)
    computer.descriptor(OTHER, encode_descriptor(OTHER_TSS, 0x67, 0x80 | TSS32 | dpl << 5, big=False))
    computer.load(f"jmp {selector}:0", 3)
    if allowed:
        computer.step()
        assert (computer.cpu.ip, computer.cpu.cpl) == (OTHER_CODE, 0)
    else:
        assert computer.trap().what == (GP, OTHER)


BAD = {
    "code is data": ({CS: 0x10}, (TS, 0x10)),
    "code is null": ({CS: 0}, (TS, 0)),
    "code of another ring": ({CS: 0x3A}, (TS, 0x38)),
    "code not present": ({CS: 0x60}, (NP, 0x60)),
    "stack of another ring": ({SS: 0x43}, (TS, 0x40)),
    "stack not present": ({SS: 0x68}, (STACK_FAULT, 0x68)),
    "data is a system segment": ({3: 0x48}, (TS, 0x48)),
    "data beyond the table": ({0: 0x1230}, (TS, 0x1230)),
    "data not present": ({4: 0x68}, (NP, 0x68)),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_in_the_new_task(computer: Computer, name: str) -> None:
    changes, expected = BAD[name]
    task(computer, selectors=[changes.get(n, selector) for n, selector in enumerate(SELECTORS)])
    computer.descriptor(0x60, encode_descriptor(0, 0xFFFF_FFFF, 0x1B))
    computer.descriptor(0x68, encode_descriptor(0, 0xFFFF_FFFF, 0x13))
    third = 0x5_6000
    computer.memory.write_bytes(third, bytes(0x68))
    for n, value in enumerate((HANDLERS, FIXED, *([0] * 4), 0x5_8000)):
        computer.memory.write(third + 0x20 + 4 * n, 4, value)
    for n, value in enumerate(SELECTORS):
        computer.memory.write(third + 0x48 + 4 * n, 2, value)
    computer.descriptor(0x70, encode_descriptor(third, 0x67, 0x80 | TSS32, big=False))
    computer.gate(expected[0], encode_gate(0x70, 0, TASK_GATE))
    computer.load("jmp 0x50:0")
    computer.step(2)
    # The handler's task finds the new task's instruction pointer in the new task's TSS.
    assert computer.cpu.tr.selector == 0x70
    assert computer.word(computer.cpu.registers[ESP]) == expected[1]
    assert computer.memory.read(third, 2) == OTHER
    assert computer.word(OTHER_TSS + 0x20) == OTHER_CODE


def test_return_without_a_busy_task(computer: Computer) -> None:
    task(computer)
    computer.memory.write(TSS, 2, OTHER)
    computer.load("iretd", flags=FIXED | NT)
    assert computer.trap().what == (TS, OTHER)


def test_ud_in_the_task_is_its_own(computer: Computer) -> None:
    task(computer, code=b"\x0f\x0b")
    computer.load("jmp 0x50:0")
    trap = computer.trap()
    assert (trap.vector, trap.ip) == (UD, OTHER_CODE)
    assert computer.memory.read(DATA, 1) == 0
    assert computer.memory.read(FREE, 1) == 0
