"""Repeated string instructions in bulk, in code that is not translated: nobody can tell them from single elements.

Each program moves and fills across pages some of which are absent or only to be read, a device's memory and the code
itself, both ways and at any width, and ends in a handler that waits where an element faults.
"""

from __future__ import annotations

import random

import pytest

from tests.machine.chaos import timer
from tests.machine.computer import CODE, DATA, Computer
from tests.machine.computer_64 import HIGH, TABLES, LongComputer
from tests.machine.test_real_mode import Real
from tests.machine.translator.test_lockstep import check_quick, observe
from vmlab.isa.x86.descriptors import encode_descriptor
from vmlab.isa.x86.registers import CS, DS, ECX, EDI, ES, FS, GS, MSR_FS_BASE, MSR_GS_BASE
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.translator import Engine, strings

PLACES = (DATA, DATA, DATA, DATA + 0x1000, DATA + 0x2000, DATA + 0x3000, DATA + 0x8000, 0xB_8000, CODE, TABLES + 0x3000)
WAITING = 0xFEEB
"""`jmp $`."""
SEGMENTS = {CS: "0x2E", DS: "0x3E", FS: "0x64", GS: "0x65"}
LONG_SEEDS = 20_000


@pytest.fixture
def in_bulk(monkeypatch):
    """Count the elements that are done in bulk."""
    counts = [0]

    def counted(bulk):
        def some(cpu, i, budget):
            before = cpu.retired
            done = bulk(cpu, i, budget)
            counts[0] += cpu.retired - before
            return done

        return some

    for semantic, bulk in strings.BULK.items():
        monkeypatch.setitem(strings.BULK, semantic, counted(bulk))
    return counts


def place(rng):
    """Return an address, often near the end of a page."""
    inside = rng.choice((0, 8, rng.randrange(0x1000), 0xFF0 + rng.randrange(16), 0xFFF))
    return rng.choice(PLACES) + inside


def program(rng, bits):
    """Return a few repeated instructions."""
    name = "r" if bits == 64 else "e"
    lines = []
    for _ in range(rng.randrange(1, 4)):
        target = place(rng)
        source = place(rng) if rng.random() < 0.6 else max(0, target + rng.randrange(-40, 40))
        count = rng.choice((0, 1, 3, rng.randrange(64), rng.randrange(700), rng.randrange(5000)))
        values = {"cx": count, "ax": rng.getrandbits(bits), "di": target, "si": source}
        if bits == 16:
            values["di"], values["si"] = rng.choice(((target & 0xFFFF, source & 0xFFFF), (0xFF80, 0x70)))
        elif bits == 64:
            values["di"] += rng.choice((0, 0, HIGH, 0x7FFF_FFFF_0000 if rng.random() < 0.1 else 0))
            values["si"] += rng.choice((0, 0, HIGH))
            values["cx"] += rng.choice((0, 0, 0, 1 << 32))
        lines += [f"mov {name}{register}, {value}" for register, value in values.items()]
        prefixes = ["0xF3"]
        if rng.random() < 0.3:
            prefixes.append(SEGMENTS[rng.choice((*SEGMENTS,))])
        if rng.random() < 0.2:
            prefixes.append("0x67")
        wide = rng.random() < 0.75
        if wide and rng.random() < 0.3:
            prefixes.append("0x66")
        if wide and bits == 64 and rng.random() < 0.5:
            prefixes.append("0x48")
        opcode = rng.choice(("0xA4", "0xA4", "0xAA", "0xAA")) if not wide else rng.choice(("0xA5", "0xAB"))
        lines += [rng.choice(("cld", "cld", "std")), f"db {', '.join((*prefixes, opcode))}"]
    return "\n".join([*lines, "here: jmp here"])


def long_mode(seed):
    """Return a machine before such a program in 64-bit code."""
    rng = random.Random(seed)
    computer = LongComputer(CPU_MODELS[rng.choice(("core-2", "westmere"))])
    small = TABLES + 0x3000
    computer.memory.write(TABLES + 0x2000, 8, small | 7)
    for page in range(256):
        wrong = rng.random() < 0.2 and page >= DATA >> 12
        computer.memory.write(small + 8 * page, 8, page << 12 | (rng.choice((0, 5, 3)) if wrong else 7))
    computer.memory.write(small + 8 * (DATA + 0x8000 >> 12), 8, DATA | 7)  # by another linear address
    computer.cpu.set_cr3(TABLES)
    computer.load(program(rng, 64), rng.choice((0, 3)))
    for number in (MSR_FS_BASE, MSR_GS_BASE):
        base = rng.choice((0, 8, 0x123, HIGH + 0x1001, DATA - 0xFFFF_F123 & (1 << 64) - 1))
        computer.cpu.write_msr(number, base)
    return finish(rng, computer)


def segments(seed):
    """Return a machine before such a program in 32-bit code, with segments that have bases and limits, one way or other."""
    rng = random.Random(seed)
    computer = Computer()
    computer.load(program(rng, 32))
    for index in (DS, ES, FS, GS):
        limit = rng.choice((0xFFFFF, 0xFFFFF, 0xFFFFF, 0xFFFFF, 0x2F, DATA >> 12, 1))
        access = rng.choice((*[0x93] * 8, 0x97, 0x91, 0x9B))
        computer.descriptor(0x50, encode_descriptor(rng.choice((0, 0x10, 0x123)), limit << 12 | 0xFFF, access))
        if rng.random() < 0.7:
            computer.set_segment(index, 0x50)
    return finish(rng, computer)


def real_mode(seed):
    """Return a machine before such a program in 16-bit code."""
    rng = random.Random(seed)
    computer = Real(program(rng, 16), 1 << 20)
    for index in (DS, ES, FS, GS):
        base = rng.choice((0, 0x2_0000, 0x2_0010, 0xB_0000))
        computer.cpu.segments[index].set(base >> 4, base, 0xFFFF, 0x93, big=False)
    return finish(rng, computer)


def finish(rng, computer):
    computer.memory.write_bytes(DATA, rng.randbytes(0x4000))
    if rng.random() < 0.3:
        timer(computer.machine, rng)
    if rng.random() < 0.1:
        computer.memory.watch(DATA >> 12, lambda page: None)
    return computer.machine


def compare(make, seed):
    """Run two equal machines, one with an engine, and compare them at random stops; return how much they executed."""
    plain, quick, rng = make(seed), make(seed), random.Random(seed)
    quick.engine = Engine()
    plain_state, quick_state = observe(plain), observe(quick)
    for _ in range(20):
        chunk = rng.choice((1, 5, 40, 600, 3000))
        plain.run(chunk)
        quick.run(chunk)
        assert plain_state() == quick_state(), seed
        assert plain.memory.pages == quick.memory.pages, seed
        check_quick(quick.cpu)
        if plain.outcome or plain.memory.read(plain.cpu.linear_ip & 0xF_FFFF, 2) == WAITING:
            break
    return plain.retired


@pytest.mark.parametrize("start", range(0, 120, 60))
@pytest.mark.parametrize("make", [long_mode, segments, real_mode])
def test_random_strings(make, start, in_bulk):
    executed = sum(compare(make, seed) for seed in range(start, start + 60))
    assert in_bulk[0] > executed / 8


@pytest.mark.long
@pytest.mark.parametrize("make", [long_mode, segments, real_mode])
def test_many_random_strings(make):
    start = random.SystemRandom().getrandbits(40)
    for seed in range(start, start + LONG_SEEDS):
        compare(make, seed)


def test_a_large_memory_is_cleared_by_pages(in_bulk):
    """What a kernel does first: elements that take minutes one by one."""
    computer = LongComputer()
    computer.memory.write_bytes(0x5_0000, b"\xff" * 0x6_0000)
    computer.load("mov rdi, 0x60000\n mov ecx, 0x40000\n xor eax, eax\n rep stosb\n here: jmp here")
    computer.machine.engine = Engine()
    computer.machine.run(0x40003)
    assert (computer.cpu.registers[EDI], computer.cpu.registers[ECX]) == (0xA_0000, 0)
    assert computer.memory.read_bytes(0x6_0000, 0x4_0000) == bytes(0x4_0000)
    assert computer.memory.read(0x5_FFF8, 8) == (1 << 64) - 1
    assert computer.cpu.retired == 0x40003
    assert in_bulk[0] > 0x3FF00


def test_a_step_does_one_element():
    computer = LongComputer()
    computer.load("rep stosq")
    computer.cpu.registers[ECX], computer.cpu.registers[EDI] = 1000, DATA
    computer.machine.engine = Engine()
    computer.machine.run(1)
    assert computer.cpu.registers[ECX] == 999
    computer.machine.run(100)
    assert computer.cpu.registers[ECX] == 899
    computer.cpu.execute()
    assert computer.cpu.registers[ECX] == 898
