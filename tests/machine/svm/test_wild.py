"""Wild VMCBs: whatever a hypervisor in a guest writes into one, no exception of Python comes of it, and the machine can be saved."""

from __future__ import annotations

import random

import pytest

from tests.machine.svm.arena import CODE, VMCB, Arena
from vmlab.machine.svm.vmcb import FIELDS
from vmlab.machine.translator import Engine

MODELS = ("opteron", "barcelona", "bulldozer")
TABLES = range(0x107000, 0x10A000, 8)
LIKELY = {
    "CR0": (0x11, 0x8000_0011, 0x8000_0010, 0x10, 0x6000_0010, 0x8001_0031),
    "CR3": (0x107000, 0x200000, 0x107020),
    "CR4": (0, 0x10, 0x20, 0x30, 0x80),
    "EFER": (0x1000, 0x1100, 0x1500, 0x1D01, 0x1001),
    "ASID": (1, 2, 63),
    "DR6": (0, 0xFFFF_0FF0, 0xFFFF_FFFF),
    "DR7": (0x400, 0x2400, 0x703, 0xFFFF_FFFF),
    "IOPM_BASE": (0x110000, 0x110123, 0xA0000),
    "MSRPM_BASE": (0x114000, 0xFFFF_F000),
}
"""Values that VMRUN does not refuse, of fields for which most others are."""
EVENT = (0, 2, 3, 4), (0, 1, 2, 6, 8, 13, 14, 0x20, 0x80)


def value(rng, name):
    """Draw a value of a field."""
    size = FIELDS[name].size
    if name == "EVENTINJ":
        kind, vector = (rng.choice(each) for each in EVENT)
        return 1 << 31 | kind << 8 | vector | rng.choice((0, 1 << 11)) | rng.getrandbits(16) << 32
    if name in LIKELY and rng.random() < 0.9:
        return rng.choice(LIKELY[name])
    most = (1 << 8 * size) - 1
    return rng.choice((rng.getrandbits(8 * size), 0, 1, most, rng.getrandbits(20) & most))


def wild(seed):
    """Return an arena with random code, tables and fields."""
    rng = random.Random(seed)
    arena = Arena("nop", rng.choice(MODELS))
    arena.memory.write_bytes(CODE, rng.randbytes(0x200))
    for _ in range(rng.choice((1, 2, 3, 5, 20))):
        name = rng.choice(list(FIELDS))
        place = VMCB + FIELDS[name].offset
        arena.memory.write_bytes(place, value(rng, name).to_bytes(FIELDS[name].size, "little"))
    arena.want(0x80)  # without that of VMRUN, none is run
    for place in TABLES:
        entry = rng.randrange(0x400) << 12 | rng.getrandbits(8)
        arena.memory.write(place, 8, rng.choice((0, rng.getrandbits(64), entry, entry, 0x108007, 0x109007, 0x87)))
    arena.machine.engine = Engine() if rng.random() < 0.5 else None
    if rng.random() < 0.2:
        arena.cpu.signals.arrive_nmi()
    if rng.random() < 0.3:
        arena.machine.counter_limit, arena.machine.counter_vector = arena.cpu.retired + rng.randrange(1, 30), 0x20
    return rng, arena


def run(seed):
    """Run a wild guest a few times; return how it was left, or 0 where it still runs, saved and loaded."""
    rng, arena = wild(seed)
    svm = arena.svm
    for _ in range(rng.choice((1, 2, 3))):
        arena.enter()
        arena.machine.run(rng.choice((20, 200)))
        if arena.cpu.non_root:
            saved = arena.machine.save()
            other = Arena("nop", arena.cpu.model.name)
            other.machine.load(saved)
            assert other.machine.save() == saved
            return 0
        if rng.random() < 0.5:
            svm.set_global(on=rng.random() < 0.5)
            svm.invalidate(rng.getrandbits(64), rng.getrandbits(2))
            svm.save_more(VMCB)
            svm.load_more(VMCB)
    return arena.read("EXITCODE")[0]


def test_wild_vmcbs():
    found = {run(seed) for seed in range(250)}
    assert {0, 0x400, (1 << 64) - 1} <= found  # some run on, some leave for memory, some are refused


@pytest.mark.long
@pytest.mark.parametrize("group", range(20))
def test_more_wild_vmcbs(group):
    for seed in range(1000 + 500 * group, 1500 + 500 * group):
        run(seed)
