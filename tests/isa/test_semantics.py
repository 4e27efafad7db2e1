"""Every row of the instruction table against Unicorn, on random states; and what Unicorn cannot do, one by one.

`make test-long` tries a million states, others each time.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.isa.arena import CODE, GDT, GDT_BYTES, MODES, Result, Trial, initial_low
from tests.isa.row_trials import SLOTS, is_compared, is_transfer, make_trial
from tests.isa.subject import Subject
from tests.isa.undefined_flags import DOUBLE_SHIFTS, ROTATES, SHIFTS, undefined_flags, undefined_result
from tests.isa.unicorn_oracle import Oracle, OutsideMemoryError
from vmlab.isa.x86.decoder import DecodeError, decode
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.isa.x86.table import ROWS

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Row

COMPARED = [row for row in ROWS if is_compared(row)]
TRIALS = 120
MANY_TRIALS = 1_000_000 // len(COMPARED) + 1
MOST_DISCARDED = 0.02


def name(row: Row) -> str:
    extension = f"/{row.extension}" if row.extension >= 0 else ""
    return f"{row.mnemonic} {','.join(row.operands)} {row.opcode.hex()}{extension}"


class Bench:
    """Both processors side by side in equal memory."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        self.subject = Subject()
        self.slot = 0

    def set_low_memory(self, low: bytes) -> None:
        self.oracle.set_low_memory(low)
        self.subject.set_low_memory(low)

    def next_slot(self) -> int:
        self.slot += 1
        if self.slot == SLOTS:
            self.slot = 0
            self.oracle.forget_code()
        return self.slot

    def compare(self, row: Row, trial: Trial) -> list[str]:
        """Try it on both; return what differs."""
        whole = not is_transfer(row)
        expected = self.oracle.run(trial, whole=whole)
        mask, meaningless = self._undefined(row, trial)
        result = self.subject.run(trial, whole=whole)
        low, expected_low = self.subject.low_memory(), self.oracle.low_memory()
        differences = [] if meaningless else describe(expected, result, mask)
        if low != expected_low:
            first = next(n for n in range(len(low)) if low[n] != expected_low[n])
            differences += [f"memory at {first:#x}"] if not meaningless else []
            self.set_low_memory(expected_low)
        if self.oracle.port_writes != self.subject.port_writes:
            differences.append(f"port writes {self.subject.port_writes}, not {self.oracle.port_writes}")
        if expected_low[GDT : GDT + len(GDT_BYTES)] != GDT_BYTES:  # an accessed bit was set
            self.set_low_memory(expected_low[:GDT] + GDT_BYTES + expected_low[GDT + len(GDT_BYTES) :])
        return differences

    def _undefined(self, row: Row, trial: Trial) -> tuple[int, bool]:
        """Return the mask of the flags that have a meaning, and whether the result has none."""
        count = 0
        try:
            instruction = decode(trial.code, trial.mode.bits)
        except DecodeError:
            return -1, False
        if row.mnemonic in SHIFTS | DOUBLE_SHIFTS | ROTATES:
            self.subject.cpu.registers[:] = trial.registers
            count = instruction.operands[-1].read(self.subject.cpu)
        mask = ~undefined_flags(row.mnemonic, instruction.size, count)
        return mask, undefined_result(row.mnemonic, instruction.size, count)


def describe(expected: Result, result: Result, mask: int) -> list[str]:
    """Return the differences of two results, with flags compared under a mask."""
    differences = [
        f"{what} {getattr(result, what)}, not {getattr(expected, what)}"
        for what in ("registers", "ip", "selectors", "vector")
        if getattr(result, what) != getattr(expected, what)
    ]
    if (expected.flags ^ result.flags) & mask:
        differences.append(f"flags {result.flags:#x}, not {expected.flags:#x} under {mask & 0xFFFF_FFFF:#x}")
    return differences


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def compare_row(bench: Bench, row: Row, seed: int, trials: int) -> None:
    rng = random.Random(f"{name(row)} {seed}")
    bench.set_low_memory(initial_low(rng))
    discarded = 0
    for _ in range(trials):
        trial = make_trial(rng, row, bench.next_slot())
        try:
            differences = bench.compare(row, trial)
        except OutsideMemoryError:
            discarded += 1
            bench.oracle.set_low_memory(bench.subject.low_memory())
            continue
        assert not differences, f"{name(row)}, seed {seed}: {trial.code.hex()} in {trial}: {differences}"
    assert discarded <= MOST_DISCARDED * trials


@pytest.mark.parametrize("row", COMPARED, ids=name)
def test_row_does_what_unicorn_does(bench: Bench, row: Row) -> None:
    compare_row(bench, row, 1, TRIALS)


@pytest.mark.long
@pytest.mark.parametrize("row", COMPARED, ids=name)
def test_row_does_what_unicorn_does_a_million_times(bench: Bench, row: Row) -> None:
    compare_row(bench, row, random.SystemRandom().getrandbits(32), MANY_TRIALS)


def test_every_mnemonic_has_semantics_and_no_other() -> None:
    assert {row.mnemonic for row in ROWS} == set(SEMANTICS)


# -- what Unicorn does otherwise than the manual, or not at all ------------------------------------------------------------


def run(subject: Subject, code: str, registers: tuple[int, ...] = (0,) * 8, flags: int = 2, mode: int = 0) -> Result:
    trial = Trial(MODES[mode], CODE, bytes.fromhex(code), registers, flags)
    return subject.run(trial, whole=False)
