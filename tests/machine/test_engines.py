"""Interpreter and block translator are one processor: same state, faults and counts at every step, on any program."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.machine.chaos import chaos
from tests.machine.computer import Computer
from tests.machine.loops import TICKS, looping
from vmlab.isa.x86.descriptors import encode_descriptor
from vmlab.isa.x86.faults import GP
from vmlab.machine.translator import Engine

if TYPE_CHECKING:
    from vmlab.machine.machine import Machine

LONG_SEEDS = 600


def assert_same(interpreted: Machine, translated: Machine, steps: int, seed: int) -> None:
    translated.engine = Engine()
    interpreted.run(steps)
    translated.run(steps)
    assert interpreted.save() == translated.save(), seed
    assert interpreted.memory.digest() == translated.memory.digest(), seed


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_engines_agree_on_loops(monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    monkeypatch.setattr("vmlab.machine.translator.engine.WARM", 2)
    ticks = regions = 0
    for seed in range(start, start + 20):
        interpreted, translated = looping(seed), looping(seed)
        assert_same(interpreted.machine, translated.machine, random.Random(seed).randrange(500, 4000), seed)
        assert interpreted.vector is None, seed
        ticks += interpreted.word(TICKS)
        regions += translated.machine.engine.regions
    assert ticks > 50
    assert regions > 50


@pytest.mark.long
def test_engines_agree_on_many_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    start = random.SystemRandom().getrandbits(40)
    for seed in range(start, start + LONG_SEEDS):
        monkeypatch.setattr("vmlab.machine.translator.engine.WARM", seed % 4)
        assert_same(looping(seed).machine, looping(seed).machine, seed % 4000, seed)
        assert_same(chaos(seed), chaos(seed), 1000, seed)


@pytest.mark.parametrize("start", range(0, 60, 30))
def test_engines_agree_on_noise(monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    monkeypatch.setattr("vmlab.machine.translator.engine.WARM", 0)
    for seed in range(start, start + 30):
        assert_same(chaos(seed), chaos(seed), 1000, seed)


@pytest.mark.parametrize("load", ["mov ds, ax", "push eax\n pop ds", "lds edx, [0x30000]", "mov ds, ax\n nop"])
def test_a_segment_loaded_in_a_hot_loop(load: str) -> None:
    """What is translated counts on flat segments, for as long as they are flat."""
    source = f"""
            mov ecx, 200
            mov eax, 0x50
    again:  mov ebx, 0x20000
            add dword [ebx], 1
            cmp ecx, 100
            jne on
            {load}
    on:     add dword [ebx], 2
            dec ecx
            jnz again
    here:   jmp here
    """
    results = []
    for engine in (None, Engine()):
        computer = Computer()
        computer.descriptor(0x50, encode_descriptor(0x1000, 0xFFFFF, 0x93))
        computer.load(source)
        computer.memory.write(0x3_0000, 8, 0x50 << 32)
        computer.machine.engine = engine
        computer.machine.run(2000)
        assert computer.cpu.ip == computer.symbols["here"]
        results.append((computer.word(0x2_0000), computer.word(0x2_1000)))
    assert results == [(301, 299)] * 2


@pytest.mark.parametrize("override", ["cs", "ss", "es"])
def test_a_write_with_a_segment_override_in_a_hot_loop(override: str) -> None:
    """Code may not be written, however flat its segment is."""
    states = []
    for engine in (None, Engine()):
        computer = Computer()
        source = "mov ecx, 100\n again: mov ebx, 0x20000\n dec ecx\n jnz again\n add byte [{}:ebx], 7\n here: jmp here"
        computer.load(source.format(override))
        computer.machine.engine = engine
        computer.machine.run(420)
        assert (computer.vector == GP) == (override == "cs")
        states.append((computer.machine.save(), computer.memory.digest()))
    assert states[0] == states[1]
