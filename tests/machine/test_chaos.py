"""Noise as code, noise as tables: no guest can make the machine itself stumble, and its shortcuts change nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine.chaos import CODE, MEMORY, chaos, check, noise
from tests.machine.chaos_64 import chaos_64
from tests.machine.computer import Computer
from vmlab.isa.x86.registers import CR0_PE, CR0_PG

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.machine import Machine

LONG_SEEDS = 5_000


def single_steps(machine: Machine, steps: int) -> None:
    for _ in range(steps):
        machine.run(1)
        check(machine)
        if machine.outcome:
            return


def without_shortcuts(machine: Machine, steps: int) -> None:
    """Run as if nothing were kept of what has been translated or decoded, but the TLB."""
    while machine.outcome is None and machine.steps < steps:
        machine.cpu._forget()
        for page in list(machine.memory.decoded):
            machine.memory.touch(page)
        machine.run(1)


def compare_runs(seed: int, steps: int, make: Callable[[int], Machine] = chaos) -> None:
    long, short, plain = make(seed), make(seed), make(seed)
    long.run(steps)
    single_steps(short, steps)
    without_shortcuts(plain, steps)
    assert long.save() == short.save() == plain.save(), seed
    assert long.memory.digest() == short.memory.digest() == plain.memory.digest(), seed


@pytest.mark.parametrize("start", range(0, 150, 50))
def test_noise_does_what_a_processor_may_do(start: int) -> None:
    for seed in range(start, start + 50):
        single_steps(chaos(seed), 250)


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_one_long_run_is_many_short_ones_is_one_without_shortcuts(start: int) -> None:
    for seed in range(start, start + 20):
        compare_runs(seed, 500)


def test_noise_in_long_mode() -> None:
    for seed in range(60):
        single_steps(chaos_64(seed), 150)
    for seed in range(100, 110):
        compare_runs(seed, 250, chaos_64)


@pytest.mark.long
@pytest.mark.parametrize("make", [chaos, chaos_64])
def test_much_noise(make: Callable[[int], Machine]) -> None:
    start = random.SystemRandom().getrandbits(40)
    for seed in range(start, start + LONG_SEEDS):
        single_steps(make(seed), 300)
        if seed % 5 == 0:
            compare_runs(seed, 1000, make)


@given(
    st.binary(min_size=1, max_size=64),
    st.integers(0, 3),
    st.lists(st.integers(0, 0xFFFF_FFFF), min_size=8, max_size=8),
    st.integers(0, 0x24_0FFF),
)
def test_any_bytes_in_any_ring(code: bytes, ring: int, registers: list[int], flags: int) -> None:
    """Good tables, any code: each step retires or traps."""
    computer = Computer(memory=MEMORY)
    computer.load("nop", ring, flags=flags & 0x24_0FD7 | 2)
    computer.memory.write_bytes(0x1_0000, code)
    computer.cpu.registers[:8] = registers
    computer.cpu.code_changed()
    single_steps(computer.machine, 40)


@given(st.integers(0, 1 << 64))
def test_any_bytes_in_real_mode(seed: int) -> None:
    rng = random.Random(seed)
    computer = Computer(memory=MEMORY)
    computer.memory.write_bytes(CODE, noise(rng, 0x1000))
    cpu = computer.cpu
    cpu.set_cr0(cpu.cr0 & ~(CR0_PE | CR0_PG))
    for register in cpu.segments:
        register.set(0x1000, 0x1_0000, 0xFFFF, 0x93, big=False)
    cpu.idtr_base, cpu.idtr_limit = 0x6000, 0x3FF
    cpu.ip, cpu.registers[4] = 0, 0x8000
    cpu.code_changed()
    single_steps(computer.machine, 60)
