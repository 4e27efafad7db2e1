"""Segments: limits, types and privilege; far transfers and call gates; selectors inspected (Intel SDM vol. 3, chapter 5)."""

from __future__ import annotations

import pytest

from tests.machine.computer import (
    CODE,
    DATA,
    GDT,
    SPARE,
    STACK,
    TASK,
    TSS,
    Computer,
    available_task,
)
from vmlab.isa.x86.descriptors import (
    CALL_GATE32,
    INTERRUPT_GATE32,
    LDT,
    TSS16,
    encode_descriptor,
    encode_gate,
)
from vmlab.isa.x86.faults import GP, NP, SS, UD
from vmlab.isa.x86.registers import CR0_PE, EAX, EBX, ESP, ZF

FLAT = 0xFFFF_FFFF
FREE = SPARE[0]
NAMES = {"es": 0, "ss": 2, "ds": 3, "fs": 4, "gs": 5}


@pytest.fixture
def computer() -> Computer:
    return Computer()


# -- limits and types --------------------------------------------------------------------------------------------------------


def access(
    computer: Computer, source: str, offset: int, raw: int, segment: str = "ds"
) -> tuple[int, int | None] | None:
    """Do an access at an offset (in EBX) of a segment; return the fault, or None."""
    computer.descriptor(FREE, raw)
    computer.load(source)
    computer.cpu.registers[EBX] = offset
    computer.set_segment(NAMES.get(segment, 3), FREE)
    computer.step()
    return None if computer.vector is None else computer.trap().what


SIZES = {"mov al, [ebx]": 1, "mov ax, [ebx]": 2, "mov eax, [ebx]": 4, "mov [ebx], al": 1, "mov [ebx], eax": 4,
         "add [ebx], ax": 2, "cmpxchg8b [ebx]": 8, "push dword [ebx]": 4, "xchg eax, [ebx]": 4}  # fmt: skip


@pytest.mark.parametrize("source", SIZES)
def test_limit(computer: Computer, source: str) -> None:
    """The last byte decides; the base is added afterwards."""
    size, raw = SIZES[source], encode_descriptor(DATA, 0x1FF, 0x93)
    assert access(computer, source, 0x200 - size, raw) is None
    for offset in (0x201 - size, 0x200, FLAT):
        assert access(computer, source, offset, raw) == (GP, 0)


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize(("big", "top"), [(True, 0x1_0000_0000), (False, 0x1_0000)])
def test_expand_down(computer: Computer, source: str, big: bool, top: int) -> None:
    """Offsets up to the limit are invalid; the upper end goes by the B bit."""
    size, raw = SIZES[source], encode_descriptor(DATA - 0x200, 0x1FF, 0x97, big=big)
    assert access(computer, source, 0x200, raw) is None
    assert access(computer, source, 0x1FF, raw) == (GP, 0)
    assert access(computer, source, 0, raw) == (GP, 0)
    assert access(computer, source, top - size, raw) is None
    assert access(computer, source, top - size + 1 & FLAT, raw) == (GP, 0)


def test_a_stack_segment_fails_with_its_own_fault(computer: Computer) -> None:
    raw = encode_descriptor(0, 0x7FFF, 0x93)
    assert access(computer, "mov eax, [ss:ebx]", 0x7FFC, raw, "none") is None
    computer.descriptor(FREE, raw)
    computer.descriptor(0x70, encode_descriptor(0, FLAT, 0x93))
    # The handler of #SS needs a good stack: in ring 3 the inner one.
    computer.descriptor(FREE, encode_descriptor(0, 0x7FFF, 0xF3))
    for source, esp in (
        ("push eax", 0x8004),
        ("pop eax", 0x7FFD),
        ("mov eax, [esp]", 0x7FFD),
        ("mov eax, [ebp]", STACK),
    ):
        computer.load(source, 3, stack=esp)
        computer.cpu.registers[5] = esp
        computer.set_segment(2, FREE | 3)
        assert computer.trap().what == (SS, 0)
    computer.load("mov eax, [ds:ebp]", 3, stack=0x7000)
    computer.cpu.registers[5] = STACK
    computer.set_segment(2, FREE | 3)
    computer.step()
    assert computer.vector is None


TYPES = {
    "read-only data": (0x91, True, False),
    "data": (0x93, True, True),
    "execute-only code": (0x99, False, False),
    "readable code": (0x9B, True, False),
    "conforming code": (0x9D, False, False),
    "readable conforming code": (0x9F, True, False),
}


@pytest.mark.parametrize("name", TYPES)
def test_type(computer: Computer, name: str) -> None:
    kind, readable, writable = TYPES[name]
    for limit in (FLAT, 0xFFFF):  # flat segments take a quicker way
        base = 0 if limit == FLAT else DATA
        offset = DATA - base + 0x10
        raw = encode_descriptor(base, limit, kind)
        assert access(computer, "mov eax, [ebx]", offset, raw) == (None if readable else (GP, 0))
        assert access(computer, "mov [ebx], eax", offset, raw) == (None if writable else (GP, 0))
        assert access(computer, "add [ebx], eax", offset, raw) == (None if writable else (GP, 0))
        assert access(computer, "cmp [ebx], eax", offset, raw) == (None if readable else (GP, 0))


def test_code_may_be_read_through_cs_and_not_written(computer: Computer) -> None:
    computer.load("mov eax, [cs:0x20000]\n mov [cs:0x20000], eax")
    computer.step()
    assert computer.trap().what == (GP, 0)


@pytest.mark.parametrize("source", ["mov eax, [ebx]", "mov [ebx], eax", "add [ebx], eax", "lodsb", "movsb", "xlatb"])
def test_null_selector_loads_and_faults_when_used(computer: Computer, source: str) -> None:
    for selector in range(4):
        computer.load(f"mov ds, ax\n {source}")
        computer.cpu.registers[EAX] = selector
        computer.step()
        assert computer.cpu.segments[3].selector == selector
        assert computer.trap().what == (GP, 0)


def test_base_and_override(computer: Computer) -> None:
    computer.descriptor(FREE, encode_descriptor(0x1_2340, 0xFFFFF, 0x93))
    computer.load("mov ax, 0x50\n mov fs, ax\n mov eax, [fs:0xDCC0]\n mov bl, [fs:esi+4]")
    computer.memory.write(DATA, 8, 0x0708_0506_0304_0201)
    computer.cpu.registers[6] = 0xDCC0
    computer.step(4)
    assert (computer.cpu.registers[EAX], computer.cpu.registers[EBX]) == (0x0304_0201, 6)


def test_an_access_wraps_in_a_flat_segment(computer: Computer) -> None:
    """Allowed by the manual (vol. 3, 5.3), and the same on every path."""
    computer.memory.write(0, 4, 0x4433_2211)
    for source in ("mov eax, [ebx]", "add eax, [ebx]", "push dword [ebx]", "xchg eax, [ebx]"):
        computer.load(source)
        computer.cpu.registers[EBX] = FLAT - 1
        computer.step()
        assert computer.vector is None


# -- the code segment's limit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "good"), [(CODE + 4, True), (CODE + 3, False)])
def test_an_instruction_must_end_within_the_limit(computer: Computer, limit: int, good: bool) -> None:
    computer.load("mov eax, 5")
    computer.cpu.segments[1].set(0x08, 0, limit, 0x9B, big=True)
    computer.cpu.code_changed()
    computer.step()
    assert (computer.vector is None) == good
    if not good:
        assert computer.trap().what == (GP, 0)


def test_limit_holds_for_code_that_has_run_already(computer: Computer) -> None:
    """Instructions that the processor remembers from a flat segment are under the limit of another."""
    computer.descriptor(FREE, encode_descriptor(0, CODE + 8, 0x9B))
    computer.load("mov eax, 1\n inc eax\n here: jmp 0x50:0x10000")
    computer.step(5)
    assert computer.cpu.segments[1].selector == FREE
    trap = computer.trap()
    assert (trap.what, trap.ip, trap.cs) == ((GP, 0), computer.symbols["here"], FREE)


@pytest.mark.parametrize(
    "source",
    [
        "jmp near 0x10FF0",
        "call 0x10FF0",
        "jmp eax",
        "call eax",
        "ret",
        "jz near 0x10FF0",
        "loop far_away\n times 100 nop\n far_away: nop",
    ],
)
def test_a_jump_beyond_the_limit_faults_where_it_is(computer: Computer, source: str) -> None:
    computer.load(source, flags=2 | ZF)
    computer.cpu.segments[1].set(0x08, 0, CODE + 0x20, 0x9B, big=True)
    computer.cpu.code_changed()
    computer.cpu.registers[EAX] = 0x1_0FF0
    computer.cpu.registers[1] = 9
    computer.memory.write(STACK, 4, 0x1_0FF0)
    registers = list(computer.cpu.registers)
    trap = computer.trap()
    assert (trap.what, trap.ip) == ((GP, 0), CODE)
    assert computer.cpu.registers == [*registers[:4], STACK - 16, *registers[5:]]


# -- loading segment registers -----------------------------------------------------------------------------------------------------

LOADS = {
    # selector, descriptor, for a data segment register in ring 0, for SS in ring 0
    "data": (FREE, encode_descriptor(0, FLAT, 0x93), None, None),
    "data, RPL 3": (FREE | 3, encode_descriptor(0, FLAT, 0x93), (GP, FREE), (GP, FREE)),
    "data of ring 3": (FREE | 3, encode_descriptor(0, FLAT, 0xF3), None, (GP, FREE)),
    "data of ring 3, RPL 0": (FREE, encode_descriptor(0, FLAT, 0xF3), None, (GP, FREE)),
    "read-only": (FREE, encode_descriptor(0, FLAT, 0x91), None, (GP, FREE)),
    "readable code": (FREE, encode_descriptor(0, FLAT, 0x9B), None, (GP, FREE)),
    "conforming, RPL 3": (FREE | 3, encode_descriptor(0, FLAT, 0x9F), None, (GP, FREE)),
    "execute-only": (FREE, encode_descriptor(0, FLAT, 0x99), (GP, FREE), (GP, FREE)),
    "not present": (FREE, encode_descriptor(0, FLAT, 0x13), (NP, FREE), (SS, FREE)),
    "not present, RPL 3": (FREE | 3, encode_descriptor(0, FLAT, 0x13), (GP, FREE), (GP, FREE)),
    "TSS": (FREE, available_task(), (GP, FREE), (GP, FREE)),
    "call gate": (FREE, encode_gate(0x08, 0, CALL_GATE32), (GP, FREE), (GP, FREE)),
    "beyond the table": (0x80, 0, (GP, 0x80), (GP, 0x80)),
    "no LDT": (0x54, 0, (GP, 0x54), (GP, 0x54)),
    "null": (0, 0, None, (GP, 0)),
}


@pytest.mark.parametrize("register", NAMES)
@pytest.mark.parametrize("name", LOADS)
def test_load(computer: Computer, name: str, register: str) -> None:
    selector, raw, data, stack = LOADS[name]
    expected = stack if register == "ss" else data
    ways = ["mov {0}, ax", "pop {0}", "l{0} ecx, [0x20000]"]
    for way in ways:
        computer.descriptor(FREE, raw)
        computer.load(way.format(register))
        computer.cpu.registers[EAX] = selector
        computer.memory.write(STACK, 4, selector)
        computer.memory.write(DATA, 8, selector << 32 | 0x1234)
        before = computer.cpu.segments[NAMES[register]].key
        computer.step()
        if expected is None:
            assert computer.cpu.segments[NAMES[register]].selector == selector
            assert computer.cpu.registers[1] == (0x1234 if way[0] == "l" else 0)
            assert computer.cpu.registers[ESP] == STACK + 4 * (way[0] == "p")
        else:
            assert computer.trap().what == expected
            assert computer.cpu.segments[NAMES[register]].key == before
            assert (computer.cpu.registers[1], computer.cpu.registers[ESP]) == (0, STACK - 16)


def test_load_by_the_limit_of_the_table(computer: Computer) -> None:
    computer.cpu.gdtr_limit = 0x16
    computer.load("mov ds, ax")
    computer.cpu.registers[EAX] = 0x10
    computer.memory.write(GDT + 0x10, 8, encode_descriptor(0, FLAT, 0x93))
    computer.gate(GP, encode_gate(0x08, 0x40D0, INTERRUPT_GATE32))
    assert computer.trap().what == (GP, 0x10)


def test_load_marks_the_descriptor_accessed(computer: Computer) -> None:
    computer.descriptor(FREE, encode_descriptor(0, FLAT, 0x92))
    computer.load("mov ds, ax")
    computer.cpu.registers[EAX] = FREE
    computer.step()
    assert computer.memory.read(GDT + FREE, 8) == encode_descriptor(0, FLAT, 0x93)
    assert computer.cpu.segments[3].access == 0x93


def test_load_from_the_ldt(computer: Computer) -> None:
    computer.descriptor(FREE, encode_descriptor(DATA, 0xF, 0x80 | LDT, big=False))
    computer.memory.write(DATA + 8, 8, encode_descriptor(0x5000, 0xFFF, 0x93))
    computer.load("lldt ax\n mov es, bx\n mov es, cx")
    computer.cpu.registers[EAX] = FREE
    computer.cpu.registers[EBX], computer.cpu.registers[1] = 0x0C, 0x14
    computer.step(2)
    assert computer.cpu.segments[0].key == (0x0C, 0x5000, 0xFFF, 0x93, True, False)
    assert computer.trap().what == (GP, 0x14)


SYSTEM_LOADS = {
    "lldt ax": {
        FREE: None, 0: None, 3: None, 0x10: (GP, 0x10), TASK: (GP, TASK), 0x80: (GP, 0x80), 0x54: (GP, 0x54),
        0x58: (NP, 0x58),
    },
    "ltr ax": {
        0x60: None, 0x68: None, 0: (GP, 0), 3: (GP, 0), 0x10: (GP, 0x10), TASK: (GP, TASK), FREE: (GP, FREE),
        0x54: (GP, 0x54), 0x70: (NP, 0x70),
    },
}  # fmt: skip


@pytest.mark.parametrize("source", SYSTEM_LOADS)
def test_lldt_and_ltr(computer: Computer, source: str) -> None:
    computer.descriptor(FREE, encode_descriptor(DATA, 0xF, 0x80 | LDT, big=False))
    computer.descriptor(0x58, encode_descriptor(DATA, 0xF, LDT, big=False))
    computer.descriptor(0x60, available_task())
    computer.descriptor(0x68, encode_descriptor(TSS, 0x2B, 0x80 | TSS16, big=False))
    computer.descriptor(0x70, available_task() & ~(0x80 << 40))
    for selector, expected in SYSTEM_LOADS[source].items():
        computer.load(source)
        computer.cpu.registers[EAX] = selector
        register = computer.cpu.ldtr if source[1] == "l" else computer.cpu.tr
        before = register.key
        computer.step()
        if expected is None:
            assert register.selector == selector
        else:
            assert computer.trap().what == expected
            assert register.key == before
    if source == "ltr ax":  # busy now, in the table too
        assert computer.memory.read(GDT + 0x65, 1) == 0x8B
        assert computer.memory.read(GDT + 0x6D, 1) == 0x83


@pytest.mark.parametrize(
    "source",
    ["sldt ax", "str ax", "lldt ax", "ltr ax", "lar eax, ecx", "lsl eax, ecx", "verr ax", "verw ax", "arpl ax, cx"],
)
def test_selectors_mean_nothing_in_real_mode(computer: Computer, source: str) -> None:
    computer.load(source)
    computer.cpu.set_cr0(computer.cpu.cr0 & ~CR0_PE)
    computer.cpu.idtr_base, computer.cpu.idtr_limit = 0x6000, 0x3FF
    computer.memory.write(0x6000 + 4 * UD, 4, 0x0123_4567)
    computer.step()
    assert (computer.cpu.ip, computer.cpu.segments[1].selector) == (0x4567, 0x0123)


# -- LAR, LSL, VERR, VERW, ARPL ------------------------------------------------------------------------------------------------------------

KINDS = {
    # access byte: (LAR shows it, LSL shows it, readable, writable), to ring 0
    0x91: (True, True, True, False),
    0x93: (True, True, True, True),
    0x99: (True, True, False, False),
    0x9B: (True, True, True, False),
    0x9F: (True, True, True, False),
    0x13: (True, True, True, True),  # not present: nobody asks
    0x81: (True, True, False, False),
    0x82: (True, True, False, False),
    0x83: (True, True, False, False),
    0x84: (True, False, False, False),
    0x85: (True, False, False, False),
    0x86: (False, False, False, False),
    0x87: (False, False, False, False),
    0x89: (True, True, False, False),
    0x8B: (True, True, False, False),
    0x8C: (True, False, False, False),
    0x8E: (False, False, False, False),
    0x8F: (False, False, False, False),
    0x80: (False, False, False, False),
}


@pytest.mark.parametrize("source", ["lar eax, ecx", "lsl eax, ecx", "verr cx", "verw cx", "lar ax, cx", "lsl ax, cx"])
def test_inspection(computer: Computer, source: str) -> None:
    which = ("lar", "lsl", "verr", "verw").index(source.split(maxsplit=1)[0])
    for kind, answers in KINDS.items():
        for dpl in range(4):
            raw = encode_descriptor(0x1_2340, 0x34_5FFF, kind | dpl << 5)
            computer.descriptor(FREE, raw)
            for ring in (0, 3):
                for rpl in (0, 3):
                    computer.load(source, ring)
                    computer.cpu.registers[:2] = [0x1234_5678, FREE | rpl]
                    computer.step()
                    conforming = kind & 0x1C == 0x1C
                    visible = answers[which] and (conforming or dpl >= max(ring, rpl))
                    assert bool(computer.cpu.flags & ZF) == visible, (hex(kind), dpl, ring, rpl)
                    shown = {0: raw >> 32 & 0xF0_FF00, 1: 0x34_5FFF}.get(which, 0x1234_5678)
                    if " ax" in source:
                        shown = 0x1234_0000 | shown & 0xFFFF
                    assert computer.cpu.registers[EAX] == (shown if visible else 0x1234_5678)


@pytest.mark.parametrize("source", ["lar eax, ecx", "lsl eax, ecx", "verr cx", "verw cx"])
@pytest.mark.parametrize("selector", [0, 3, 0x80, 0x54])
def test_inspection_of_nothing(computer: Computer, source: str, selector: int) -> None:
    computer.load(source, flags=2 | ZF)
    computer.cpu.registers[1] = selector
    computer.step()
    assert (computer.cpu.flags, computer.vector) == (2, None)


@pytest.mark.parametrize(("destination", "source"), [(a, b) for a in range(4) for b in range(4)])
def test_arpl(computer: Computer, destination: int, source: int) -> None:
    computer.load("arpl ax, cx", 3)
    computer.cpu.registers[:2] = [0xABCD_1230 | destination, 0x40 | source]
    computer.step()
    assert computer.cpu.registers[EAX] == 0xABCD_1230 | max(destination, source)
    assert bool(computer.cpu.flags & ZF) == (destination < source)
