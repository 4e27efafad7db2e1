"""Machines full of noise in long mode, as `tests.machine.chaos` makes them in the other modes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.machine.chaos import noise, timer
from tests.machine.computer import CODE, CODE_OF_RING, FREE, IDT, TASK, TSS
from tests.machine.computer_64 import CODE_32, HIGH, SPARE_64, LongComputer
from vmlab.isa.x86.descriptors import encode_descriptor, encode_gate
from vmlab.isa.x86.registers import (
    EFER_NXE,
    ESP,
    MSR_FMASK,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_STAR,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
    TF,
)  # fmt: skip
from vmlab.machine.cpu_model import CPU_MODELS

if TYPE_CHECKING:
    from vmlab.machine.machine import Machine

MEMORY = 1 << 20
PREFIXES = bytes(range(0x40, 0x50))
ADDRESSES = (0, HIGH, 0x7FFF_FFFF_F000, 0x8000_0000_0000, 0xFFFF_7FFF_FFFF_F000, 0xFFFF_FFFF_FFFF_F000)


def address(rng: random.Random) -> int:
    """Return an address, mostly of memory that is there."""
    if rng.random() < 0.1:
        return rng.choice(ADDRESSES) + rng.randrange(0x2000) & (1 << 64) - 1
    return rng.choice((0, 0, HIGH)) + rng.randrange(MEMORY)


def code(rng: random.Random, length: int) -> bytes:
    """Return noise with REX prefixes, and with fast calls more often than by chance."""
    result = bytearray()
    while len(result) < length:
        if rng.random() < 0.3:
            result.append(rng.choice(PREFIXES))
        if rng.random() < 0.1:
            result += rng.choice(
                (b"\x0f\x05", b"\x48\x0f\x07", b"\x0f\x34", b"\x48\x0f\x35", b"\x0f\x01\xf8", b"\x48\xcf")
            )
        result += noise(rng, rng.randrange(1, 8))
    return bytes(result[:length])


def wide(rng: random.Random) -> int:
    """Return a gate or a system descriptor of 16 bytes."""
    kind = rng.choice((0xEC, 0xEC, 0x8C, 0x89, 0x8B, 0x82, 0xEE, 0xE4))
    if kind & 4:
        selector = rng.choice((0x08, 0x08, CODE_32, rng.randrange(16) * 8))
        raw = encode_gate(selector, address(rng), kind & 0xF, kind >> 5 & 3)
    else:
        raw = encode_descriptor(address(rng), rng.choice((0x67, 0xFF, 3)), kind, big=False)
    return raw | (rng.getrandbits(5) << 104 if rng.random() < 0.1 else 0)


def chaos_64(seed: int) -> Machine:
    """Return a machine in long mode in a random state."""
    rng = random.Random(seed)
    computer = LongComputer(CPU_MODELS[rng.choice(("core-2", "westmere", "broadwell"))])
    memory, cpu = computer.memory, computer.cpu
    memory.write_bytes(CODE, code(rng, 0x8000))
    computer.compatibility()
    for selector in SPARE_64[2:4]:
        computer.wide_descriptor(selector, wide(rng))
    if rng.random() < 0.2:
        computer.descriptor(CODE_OF_RING[rng.randrange(4)], rng.getrandbits(64))
    for vector in range(256):
        kind = rng.choice((0x8E, 0xEE, 0xEF, 0x8E, 0xE7, 0x0E)) if rng.random() < 0.3 else 0xEE
        selector = 0x08 if rng.random() < 0.9 else rng.randrange(16) * 8
        offset = CODE + rng.randrange(0x8000) + rng.choice((0, HIGH)) if rng.random() < 0.95 else address(rng)
        raw = encode_gate(selector, offset, kind & 0xF, kind >> 5 & 3, rng.choice((0, 0, 0, rng.randrange(8))))
        computer.gate(vector, raw & ~(0x80 << 40) | (kind & 0x80) << 40)
    for place in range(4, 0x5C, 8):
        if rng.random() < 0.2:
            memory.write(TSS + place, 8, address(rng))
    memory.write(TSS + 0x66, 2, rng.choice((0x68, 0, 0xFFFF)))
    cpu.tr.set(TASK, TSS, rng.choice((0x67, 0x67, 0x100, 0x2B, 3)), 0x8B, big=False)
    cpu.idtr_limit = rng.choice((0xFFF, 0xFFF, 0xFFF, rng.randrange(0x1000)))
    cpu.set_efer(cpu.efer | rng.choice((0, EFER_NXE)))
    for number in (MSR_LSTAR, MSR_SYSENTER_EIP, MSR_SYSENTER_ESP, MSR_KERNEL_GS_BASE):
        cpu.msrs[number] = rng.choice((0, HIGH)) + CODE + rng.randrange(0x8000)
    cpu.msrs[MSR_STAR] = rng.choice((0x0008_0028, 0x0058_0008, rng.getrandbits(32))) << 32
    cpu.msrs[MSR_FMASK], cpu.msrs[MSR_SYSENTER_CS] = rng.getrandbits(32), rng.choice((8, 0x28, 0))
    if rng.random() < 0.3:  # pages of 4 KiB, with mistakes
        memory.write(FREE + 0x2000, 8, FREE + 0x3007)
        for page in range(256):
            entry = page << 12 | (rng.choice((3, 5, 7, 0)) if rng.random() < 0.1 else 7)
            memory.write(FREE + 0x3000 + 8 * page, 8, entry | (rng.random() < 0.02) << rng.choice((63, 52)))
        cpu.set_cr3(FREE)
    computer.load("", rng.choice((0, 0, 1, 2, 3, 3)), bits=rng.choice((64, 64, 64, 32)))
    cpu.registers[:] = [rng.choice((rng.getrandbits(64), address(rng), rng.randrange(256))) for _ in range(16)]
    cpu.registers[ESP] = rng.choice((0x8000, HIGH + 0xA000)) - rng.randrange(0x100)
    if not cpu.code_64:
        cpu.registers[:8] = [register & 0xFFFF_FFFF for register in cpu.registers[:8]]
    cpu.flags = 2 | rng.getrandbits(12) & 0xCD5 & ~TF | rng.randrange(4) << 12 | (TF if rng.random() < 0.05 else 0)
    cpu.ip = CODE + rng.randrange(0x7000)
    if rng.random() < 0.3:
        timer(computer.machine, rng)
    assert memory.read(IDT, 8)
    cpu.code_changed()
    return computer.machine
