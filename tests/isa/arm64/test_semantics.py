"""What the instructions of the AArch64 subset do, against Unicorn: registers, flags, memory, the next address."""

from __future__ import annotations

import pytest

from tests.isa.arm64.trials import TRIED, Oracle, State, Subject, trials
from vmlab.isa.arm64.assembler import assemble
from vmlab.isa.arm64.decoder import decode
from vmlab.isa.arm64.semantics import SEMANTICS
from vmlab.isa.arm64.semantics.conditions import HOLDS
from vmlab.isa.arm64.table import ROWS


def test_every_row_has_semantics():
    assert {row.mnemonic for row in ROWS} == set(SEMANTICS)


def test_random_states():
    trials(20 * len(TRIED), seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_a_million_random_states(seed):
    trials(100_000, seed)


@pytest.mark.parametrize("held", [True, False])
def test_an_exclusive_pair(held):
    """STXR writes only what LDXR marked; its status register says so. The pair runs in Unicorn, too."""
    code = assemble("ldxr x0, [x1]\n add x0, x0, #1\n stxr w2, x0, [x3]", 0x3_0000).code
    subject, oracle = Subject(), Oracle()
    state = State([0] * 31, 0, 0, 0x3_0000)
    state.x[1], state.x[3] = 0x1_0000, 0x1_0000 if held else 0x1_0010
    theirs = State([*state.x], 0, 0, 0x3_0000)
    for place in range(0, 12, 4):
        word = int.from_bytes(code[place : place + 4], "little")
        state = subject.run(decode(word), state)
        theirs = oracle.run(word, theirs)
        assert state == theirs
    assert state.x[2] == int(not held)
    assert oracle.read(0x1_0000, 32) == subject.memory[0x1_0000:0x1_0020]


def test_conditions():
    """Table C1-1: each condition but the last two is the opposite of its neighbour."""
    for condition in range(0, 14, 2):
        assert all(a != b for a, b in zip(HOLDS[condition], HOLDS[condition + 1], strict=True))
    assert all(HOLDS[14])
    assert all(HOLDS[15])
    assert [nzcv for nzcv in range(16) if HOLDS[0b1100][nzcv]] == [0, 2, 9, 11]  # gt: Z clear, N = V
