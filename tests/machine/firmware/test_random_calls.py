"""Services called with anything in registers and in the BIOS data area: each comes back, or faults as the OUT may."""

from __future__ import annotations

import random

import pytest

import vmlab
from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import CS
from vmlab.machine.disk import Disk
from vmlab.machine.firmware.rom import ENTRIES, ROM_BASE, build_rom
from vmlab.vmm.techniques import build

FUNCTIONS = (*range(0x20), 0x24, *range(0x41, 0x50), 0x4F, 0x86, 0x87, 0x88, 0xC0, 0xE8)
VALUES = (0xE820, 0x534D4150, 20, 0x55AA, 0, 1, 0xFFFF)


def prepare(rng: random.Random, machine) -> None:
    """Stand before the OUT of some entry, with anything in the registers."""
    cpu, rom = machine.cpu, build_rom()
    machine.outcome = None
    machine.memory.write_bytes(ROM_BASE, rom.code)
    for index in range(8):
        cpu.registers[index] = rng.choice(
            (rng.getrandbits(32), rng.getrandbits(16), rng.getrandbits(8), rng.choice(VALUES))
        )
    cpu.registers[0] = cpu.registers[0] & ~0xFF00 | rng.choice(FUNCTIONS) << 8
    cpu.registers[2] = cpu.registers[2] & ~0xFF | rng.choice((0x80, 0x81, 0, rng.getrandbits(8)))
    for register in cpu.segments:
        paragraph = rng.getrandbits(16)
        register.set(paragraph, paragraph << 4, 0xFFFF, 0x93, big=False)
    cpu.segments[CS].set(0xF000, 0xF_0000, 0xFFFF, 0x9B, big=False)
    if rng.random() < 0.2:
        machine.memory.write(0x400 + rng.randrange(256), 1, rng.getrandbits(8))
    cpu.ip = rom.labels[rng.choice(list(ENTRIES))]
    cpu.code_changed()


def call_at_random(seed: int, count: int) -> None:
    rng = random.Random(seed)
    sizes = (1, 9, 2880, 70_000)
    machine = build(vmlab.boot_sector("hlt"), disks=[Disk(bytes(512 * rng.choice(sizes)))], memory=1 << 20).machine
    for _ in range(count):
        prepare(rng, machine)
        retired = machine.cpu.retired
        try:
            machine.cpu.execute()
        except Fault:
            retired -= 1
        assert machine.cpu.retired == retired + 1
        assert all(0 <= value < 1 << 32 for value in machine.cpu.registers[:8])
    state = machine.save()
    machine.load(state)


@pytest.mark.parametrize("seed", range(4))
def test_any_call(seed):
    call_at_random(seed, 400)


@pytest.mark.long
def test_many_calls():
    for seed in range(100):
        call_at_random(random.SystemRandom().getrandbits(32) + seed, 1000)


def test_a_ring_without_an_end():
    """Head and tail of different parity never meet, and no key in the ring is an old keyboard's."""
    machine = build(vmlab.boot_sector("hlt")).machine
    machine.memory.write_bytes(0x41E, b"\x00\x86" * 16)
    machine.memory.write(0x41C, 2, 0x1F)
    cpu, rom = machine.cpu, build_rom()
    cpu.segments[CS].set(0xF000, 0xF_0000, 0xFFFF, 0x9B, big=False)
    cpu.registers[0], cpu.ip = 0x0100, rom.labels["service_16"]
    cpu.code_changed()
    cpu.execute()
    assert machine.memory.read(0x7C04, 2) & 0x40, "ZF: no key"
