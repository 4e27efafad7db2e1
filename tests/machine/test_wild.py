"""Whole machines on noise, devices and all: each ends as a machine may end, in both engines alike, and can be saved."""

from __future__ import annotations

import random

import pytest

from tests.machine.wild import LONG_MODES, MODES, OUTCOMES, wild

LONG_SEEDS = 20


def run(seed: int, mode: str, under: str = "native", engine: str = "interpreter", limit: int = 4_000):
    """Run noise to its end, and see that the end can be saved and loaded."""
    system = wild(seed, mode, under, engine, limit)
    system.run()
    for guest in system.guests:
        assert guest.outcome in OUTCOMES, (seed, guest.outcome)
    state = system.save()
    system.load(state)
    assert system.save() == state, seed
    return system


def compare(seed: int, mode: str, limit: int) -> None:
    """See that both engines make the same of noise."""
    one, other = run(seed, mode, limit=limit), run(seed, mode, engine="translator", limit=limit)
    assert one.save() == other.save(), seed
    assert one.machine.memory.digest() == other.machine.memory.digest(), seed


@pytest.mark.parametrize("mode", MODES)
def test_noise_ends_as_a_machine_may_end(mode):
    for seed in range(6):
        run(seed, mode)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in LONG_MODES])
def test_noise_below_a_hypervisor(mode):
    for seed in range(2):
        run(seed, mode, "trap-and-emulate", limit=1_500)


@pytest.mark.parametrize("mode", MODES)
def test_both_engines_make_the_same_of_noise(mode):
    for seed in range(100, 102):
        compare(seed, mode, 4_000)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_much_noise(mode):
    start = random.SystemRandom().getrandbits(40)
    for seed in range(start, start + LONG_SEEDS):
        run(seed, mode, limit=20_000)
        if seed % 4 == 0:
            compare(seed, mode, 20_000)
            if mode not in LONG_MODES:
                run(seed, mode, "trap-and-emulate", limit=6_000)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_a_long_life(mode):
    """A million instructions of noise in one machine."""
    run(random.SystemRandom().getrandbits(40), mode, engine="translator", limit=1_000_000)
