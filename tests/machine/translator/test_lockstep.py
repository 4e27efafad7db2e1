"""The two engines, one meaning: state, memory, TLB, counts and events are the same wherever a run is stopped."""

from __future__ import annotations

import random

import pytest

from tests.machine.chaos import chaos, check_shortcuts
from tests.machine.translator.programs import computer
from vmlab.machine.translator import Engine

LONG_SEEDS = 20_000


@pytest.fixture
def eager(monkeypatch):
    """Translate at once, and with care after the first access that needs it."""
    for name in ("WARM", "SHORT", "MISSES"):
        monkeypatch.setattr(f"vmlab.machine.translator.engine.{name}", 0)


def observe(machine):
    """Return everything that may be compared, and collect its events."""
    events = []
    machine.trace.detail = "events"
    machine.trace.observers.append(events.append)
    return lambda: (machine.save(), machine.memory.digest(), events)


def check_quick(cpu):
    """Assert that what translated code knows of pages is a part of what the interpreter knows."""
    check_shortcuts(cpu)
    for (readable, writable, _), (quick_read, quick_write, _) in zip(cpu._maps, cpu._quick, strict=True):
        for base, delta in quick_read.items():
            assert readable[base >> 12] == base + delta
        for base, delta in quick_write.items():
            place = writable[base >> 12]
            assert place == base + delta & -0x1000
            assert cpu.ram.pages[place >> 12] & ~2 == 9
            assert not cpu.ram.is_code(place >> 12, base & 0xFFF, 0x100)


def compare(make, rng, steps):
    """Run two equal machines, one with each engine, and compare them at random stops."""
    plain, quick = make(), make()
    quick.engine = Engine()
    plain_state, quick_state = observe(plain), observe(quick)
    while plain.steps < steps and plain.outcome is None:
        chunk = rng.choice((1, 2, 7, 40, 150, 600))
        plain.run(chunk)
        quick.run(chunk)
        assert plain_state() == quick_state()
        check_quick(quick.cpu)
    return quick


@pytest.mark.parametrize("start", range(0, 60, 10))
@pytest.mark.usefixtures("eager")
def test_random_programs(start):
    regions = 0
    for seed in range(start, start + 10):
        rng = random.Random(seed)
        machine = compare(lambda seed=seed: computer(random.Random(seed)).machine, rng, 1500)
        regions += machine.engine.regions
    assert regions > 10


@pytest.mark.parametrize("start", range(0, 60, 20))
@pytest.mark.usefixtures("eager")
def test_noise(start):
    for seed in range(start, start + 20):
        compare(lambda seed=seed: chaos(seed), random.Random(seed), 800)


@pytest.mark.long
@pytest.mark.usefixtures("eager")
def test_many_random_programs():
    start = random.SystemRandom().getrandbits(40)
    for seed in range(start, start + LONG_SEEDS):
        compare(lambda seed=seed: computer(random.Random(seed)).machine, random.Random(seed), 3000)
        compare(lambda seed=seed: chaos(seed), random.Random(seed), 1000)
