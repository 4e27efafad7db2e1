"""Machines full of noise: random code, tables and registers. Whatever they do, they must do it as a processor would."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.isa.subject import check_invariants
from vmlab.isa.x86.descriptors import encode_descriptor, encode_gate
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CR0_WP, IF, TF
from vmlab.isa.x86.table import ROWS
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import Machine

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

MEMORY = 0x4_0000
NOISE = 0x4000
GDT, IDT, TSS, DIRECTORY, TABLE, CODE = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x1_0000
OUTCOMES = {None, "exit", "halt", "triple-fault", "livelock"}
KINDS = (
    0x9A,
    0x92,
    0xFA,
    0xF2,
    0x9E,
    0xFE,
    0x96,
    0x90,
    0x98,
    0x12,
    0x82,
    0x89,
    0x8B,
    0x81,
    0x8C,
    0xEC,
    0xE4,
    0x85,
    0xB2,
    0xBA,
)
GATES = (0x8E, 0x8F, 0xEE, 0xEF, 0x86, 0xE7, 0x85, 0x0E, 0x8C, 0x00)
OPCODES = [row.opcode for row in ROWS]


def noise(rng: random.Random, length: int) -> bytes:
    """Return code-like noise: opcodes of the table, prefixes, ModRM and immediates of which many are small."""
    result = bytearray()
    while len(result) < length:
        kind = rng.random()
        if kind < 0.1:
            result.append(rng.choice(b"\x66\x67\xf2\xf3\xf0\x26\x2e\x36\x3e\x64\x65"))
        if kind < 0.9:
            opcode = bytearray(rng.choice(OPCODES))
            if opcode == b"\xf4" and rng.random() < 0.9:
                continue
            if len(opcode) == 1 and opcode[0] & 0xF0 in (0x40, 0x50, 0xB0, 0x90):
                opcode[0] |= rng.randrange(8)
            result += opcode
            result.append(rng.randrange(256))
            result += rng.choice((b"", b"", bytes([rng.randrange(256)]), rng.randrange(MEMORY).to_bytes(4, "little")))
        else:
            result += rng.randbytes(4)
    return bytes(result[:length])


def descriptor(rng: random.Random) -> int:
    """Return a descriptor, mostly of a segment that covers the memory."""
    kind = rng.choice(KINDS) | (rng.random() < 0.5)
    if rng.random() < 0.1:
        return rng.getrandbits(64)
    if not kind & 0x10 and kind & 7 == 4:
        return (
            encode_gate(rng.randrange(16) * 8, CODE + rng.randrange(0x1000), kind & 0xF, kind >> 5 & 3)
            | rng.randrange(4) << 32
        )
    base = rng.choice((0, 0, 0, 0, rng.randrange(MEMORY), rng.getrandbits(32)))
    limit = rng.choice((0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF, MEMORY - 1, rng.randrange(0x100000), 0))
    return encode_descriptor(base, limit, kind, big=rng.random() < 0.85)


def chaos(seed: int) -> Machine:
    """Return a machine in a random state."""
    rng = random.Random(seed)
    machine = Machine(MEMORY, CPU_MODELS[rng.choice(("pentium-4", "umip"))])
    memory, cpu = machine.memory, machine.cpu
    memory.write_bytes(0, noise(rng, NOISE) * (MEMORY // NOISE))
    descriptors = [0] + [descriptor(rng) for _ in range(31)]
    for n in range(1, 9):
        if rng.random() < 0.9:
            descriptors[n] = encode_descriptor(0, 0xFFFF_FFFF, (0x9B, 0x93, 0xBB, 0xB3, 0xDB, 0xD3, 0xFB, 0xF3)[n - 1])
    descriptors[9] = encode_descriptor(
        TSS, rng.choice((0x67, 0x88, 0x2B, 3)), 0x8B if rng.random() < 0.8 else 0x83, big=False
    )
    memory.write_bytes(GDT, b"".join(raw.to_bytes(8, "little") for raw in descriptors))
    for vector in range(256):
        kind = rng.choice(GATES) if rng.random() < 0.4 else rng.choice((0x8E, 0xEF))
        selector = 8 if rng.random() < 0.8 else rng.randrange(32) * 8
        offset = CODE + rng.randrange(0x4000)
        memory.write(
            IDT + 8 * vector,
            8,
            encode_gate(selector, offset, kind & 0x1F, kind >> 5 & 3) & ~(0x80 << 40) | (kind & 0x80) << 40,
        )
    for ring in range(3):
        memory.write(TSS + 4 + 8 * ring, 4, rng.randrange(MEMORY) & ~3)
        memory.write(TSS + 8 + 8 * ring, 4, (0x10, 0x21, 0x32)[ring] if rng.random() < 0.9 else rng.randrange(256))
    memory.write(TSS + 0x66, 2, rng.choice((0x68, 0x68, 0, 0xFFFF)))
    page_tables(rng, machine)
    cpu.gdtr_base, cpu.gdtr_limit = GDT, rng.choice((255, 255, 255, rng.randrange(256)))
    cpu.idtr_base, cpu.idtr_limit = IDT, rng.choice((0x7FF, 0x7FF, 0x7FF, rng.randrange(0x800)))
    cpu.tr.set(0x48, TSS, descriptors[9] & 0xFFFF, descriptors[9] >> 40 & 0xFF, big=False)
    ring = rng.choice((0, 0, 0, 1, 2, 3, 3))
    for index, register in enumerate(cpu.segments):
        dpl = ring << 5
        selector = (0x08 if index == 1 else 0x10) + 0x10 * ring | ring
        register.set(selector, 0, 0xFFFF_FFFF, (0x9B if index == 1 else 0x93) | dpl, big=True)
    cpu.registers[:8] = [rng.choice((rng.getrandbits(32), rng.randrange(MEMORY), rng.randrange(256))) for _ in range(8)]
    cpu.registers[4] = rng.randrange(0x8000, MEMORY) & ~3
    cpu.flags = 2 | rng.getrandbits(12) & 0xCD5 & ~TF | rng.randrange(4) << 12 | (TF if rng.random() < 0.05 else 0)
    cpu.ip = CODE + rng.randrange(0x4000)
    mode = rng.random()
    if mode < 0.1:
        cpu.set_cr0(0x10)
    elif mode < 0.7:
        cpu.set_cr4(rng.choice((0, 0x10, 0x90)))
        cpu.set_cr3(DIRECTORY)
        cpu.set_cr0(cpu.cr0 | CR0_PE | CR0_PG | rng.choice((0, CR0_WP)))
    if rng.random() < 0.4:
        timer(machine, rng)
    cpu.code_changed()
    return machine


def page_tables(rng: random.Random, machine: Machine) -> None:
    """Write tables that map the memory to itself, with mistakes."""
    for n in range(1024):
        entry = rng.getrandbits(32) if rng.random() < 0.3 else TABLE | 7
        machine.memory.write(DIRECTORY + 4 * n, 4, entry if n else TABLE | 7)
        frame = rng.randrange(MEMORY >> 12) if rng.random() < 0.1 else n % (MEMORY >> 12)
        rights = rng.choice((7, 7, 7, 7, 5, 3, 1, 0, 0x107)) if rng.random() < 0.4 else 7
        machine.memory.write(TABLE + 4 * n, 4, frame << 12 | rights if rng.random() < 0.98 else rng.getrandbits(32))


def timer(machine: Machine, rng: random.Random) -> None:
    """Let the timer interrupt."""
    machine.cpu.flags |= IF
    for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3), (0x21, 0xFE), (0x43, 0x34)):
        machine.bus.port_write(port, 1, value)
    machine.bus.port_write(0x40, 1, rng.randrange(2, 30))
    machine.bus.port_write(0x40, 1, 0)


def check(machine: Machine) -> None:
    """Assert what holds of a machine at any time."""
    cpu = machine.cpu
    check_invariants(cpu)
    assert machine.outcome in OUTCOMES, machine.outcome
    assert cpu.tlb.held <= cpu.tlb.capacity
    assert all(0 <= value < 1 << 64 for value in cpu.debug)
    check_shortcuts(cpu)


def check_shortcuts(cpu: Processor) -> None:
    """Assert that the dictionaries over the TLB say what the TLB says."""
    if not cpu.cr0 & CR0_PG:
        return
    for user, (readable, writable, code) in enumerate(cpu._maps):
        for page in {*readable, *writable, *code}:
            entry = cpu.tlb.peek(page)
            assert entry is not None, hex(page)
            assert entry.user or not user, hex(page)
            assert readable.get(page, entry.frame) == entry.frame
            if page in writable:
                assert entry.writable and entry.dirty, hex(page)  # noqa: PT018 - one statement
                assert writable[page] == entry.frame
