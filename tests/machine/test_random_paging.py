"""Paging: each rule of the manual as a model of its own, and the same tables walked by Unicorn.

The rules (Intel SDM vol. 3, 4.3 to 4.8) are written down once more in `page_tables.rules()`, without the walker's loop; on
random tables of each format processor, rules and Unicorn must agree: fault and CR2, error code, data, accessed and
dirty bits. Unicorn is not asked about SMAP, which it lacks.
"""

from __future__ import annotations

import random

import pytest

from tests.machine.page_tables import (
    FRAMES,
    MODIFY,
    ROOT,
    SCHEMES,
    A,
    PagingOracle,
    Scheme,
    Tables,
    contents,
    expected,
    load_tables,
    make,
    path_of,
)
from vmlab.isa.x86.faults import PF, Fault
from vmlab.isa.x86.registers import EAX

SCHEME = pytest.mark.parametrize("name", SCHEMES)


@pytest.fixture(scope="module")
def oracles() -> dict[str, PagingOracle]:
    return {name: PagingOracle(scheme.mode) for name, scheme in SCHEMES.items()}


def excused(t: Tables, tables: bytes) -> bytes:
    """Return tables without what Unicorn does by itself: it marks a page of 1 GiB as accessed before it looks at rights."""
    address, _, level = path_of(t, t.linear)[-1]
    place = address - ROOT
    return (
        tables[:place] + bytes([tables[place] & ~A]) + tables[place + 1 :] if (t.scheme.shifts[level] == 30) else tables
    )


def compare(oracle: PagingOracle, scheme: Scheme, seed: int) -> str:
    rng = random.Random(seed)
    t = make(rng, scheme)
    data = contents(rng, t)
    theirs = oracle.run(t, data)
    computer = load_tables(t, data)
    fault, places = expected(t)
    cpu = computer.cpu
    raised = None
    try:
        for _ in range(2 if t.fetch else 1):
            cpu.execute()
    except Fault as failure:
        raised = failure
    if fault is None:
        assert raised is None, (seed, raised)
        # (A read or a write; what is added is checked against Unicorn.)
        if t.fetch:
            assert cpu.ip == t.linear + 1, seed
        elif not t.write:
            value = b"".join(computer.memory.read_bytes(place, 1) for place in places)
            assert cpu.registers[EAX] & (1 << 8 * t.size) - 1 == int.from_bytes(value, "little"), seed
    else:
        assert raised is not None, seed
        assert (raised.vector, raised.error_code, cpu.cr2) == (PF, *fault), seed
    tables = computer.memory.read_bytes(ROOT, len(t.memory))
    assert tables == bytes(t.memory), seed
    eax, cr2, their_tables, their_data = theirs
    assert (eax is None) == (fault is not None), seed
    assert eax in (None, cpu.registers[EAX]), seed
    assert computer.memory.read_bytes(FRAMES, len(data)) == their_data, seed
    # What modifies is read first by Unicorn: the accessed bit stays set, and a second page may fault before the first.
    if not (fault and t.code == MODIFY):
        assert excused(t, their_tables) == excused(t, tables), seed
        assert fault is None or cr2 == fault[1], seed
    return "none" if fault is None else f"{fault[0]:#x}"


@SCHEME
def test_random_tables(oracles: dict[str, PagingOracle], name: str) -> None:
    outcomes = {compare(oracles[name], SCHEMES[name], seed) for seed in range(250)}
    # Every kind of fault occurred.
    assert {"none", "0x0", "0x2", "0x4", "0x6", "0x3", "0x5", "0x7"} <= outcomes
    assert {"0x9", "0xb", "0xd", "0xf"} & outcomes
    if name != "32-bit":
        assert {"0x10", "0x11", "0x14", "0x15"} <= outcomes


@pytest.mark.long
@SCHEME
def test_many_random_tables(oracles: dict[str, PagingOracle], name: str) -> None:
    for seed in range(1000, 9000):
        compare(oracles[name], SCHEMES[name], seed)
