"""The physical processor's TLB and walk caches as options of a run: what changes is what a run costs, not what a guest sees."""

from __future__ import annotations

import pytest

import vmlab
from tests.machine.computer import Computer
from tests.machine.test_tlb import DIRECTORY, FRESH, FULL, NEW, OLD, PAGE, STALE, TABLE, paged
from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR0_PG, CR0_WP, CR4_PGE, EBX, ECX
from vmlab.machine.cpu_model import CPU_MODELS, CpuModel
from vmlab.machine.tlb_geometry import TlbArray, TlbGeometry
from vmlab.machine.walk_caches import WalkCacheSizes

KINDS = {
    "sets": {"tlb": {"sets": 2, "ways": 2}},
    "lru": {"tlb": {"sets": 1, "ways": 3, "replacement": "lru", "counts_hits": True}},
    "random": {"tlb": {"ways": 3, "replacement": "random"}},
    "large pages apart": {"tlb": {"sets": 2, "ways": 2, "large_sets": 1, "large_ways": 1}},
    "walk caches": {"walk_caches": True},
    "a nested TLB alone": {"walk_caches": {"nested_tlb": 4}, "tlb": {"ways": 3}},
}
UNDER = (
    ("native", {}),
    ("trap-and-emulate", {}),
    ("binary-translation", {}),
    ("vt-x", {}),
    ("vt-x", {"memory_virtualization": "shadow"}),
    ("amd-v", {}),
)


def figures(run):
    cpu = run.system.machine.cpu
    caches = [(part.hits, part.misses) for part in cpu.walk_caches.parts.values()] if cpu.walk_caches else []
    return run.tlb, run.walk_references, caches, run.cycles_by_cause, run.exits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("under", "more"), UNDER, ids=["native", "trap-and-emulate", "binary-translation", "nested", "shadow", "amd-v"]
)
def test_both_engines_count_alike_and_the_guest_sees_the_same(kind, under, more):
    image = vmlab.guests.load("minios")
    usual = vmlab.run(image, under, **more)
    runs = [vmlab.run(image, under, engine=engine, **more, **KINDS[kind]) for engine in ("auto", "interpreter")]
    for run in runs:
        assert (run.console, run.instructions, run.status) == (usual.console, usual.instructions, usual.status)
        assert 0 <= run.tlb.fills - run.tlb.evictions - run.tlb.dropped.total() <= run.system.machine.cpu.tlb.capacity
    assert figures(runs[0]) == figures(runs[1])
    assert under != "native" or figures(runs[0]) != figures(usual)
    assert bool(runs[0].tlb.hits) == (kind == "lru")


def test_what_a_chain_through_256_pages_costs():
    """Through a TLB that holds them all each page misses once; walk caches leave one reference of two, or of fourteen."""
    image = vmlab.guests.load("pointer_chase", PAGES=256, ROUNDS=4)
    small, large = (vmlab.run(image, tlb={"ways": ways}) for ways in (64, 512))
    assert small.tlb.misses > 4 * 256 > large.tlb.misses > 256
    assert large.tlb.evictions == 0
    assert small.tlb.evictions == small.tlb.fills - 64 - small.tlb.dropped.total()
    cached = vmlab.run(image, walk_caches=True)
    assert small.walk_references == 2 * small.tlb.misses
    assert cached.walk_references < 1.1 * cached.tlb.misses
    nested, both = (vmlab.run(image, "vt-x", walk_caches=each) for each in (False, True))
    assert nested.walk_references > 4 * both.walk_references


@pytest.mark.parametrize("kind", ["lru", "random", "walk caches"])
@pytest.mark.parametrize("under", ["native", "vt-x"])
def test_a_saved_run_goes_on_as_if_nothing_had_been(kind, under, tmp_path):
    image = vmlab.guests.load("minios")
    whole = vmlab.run(image, under, **KINDS[kind])
    vmlab.save(vmlab.run(image, under, until="paging is on", **KINDS[kind]), tmp_path / "booted.vmlab")
    rest = vmlab.run(vmlab.load_state(tmp_path / "booted.vmlab"))
    assert figures(rest) == figures(whole)
    recording = vmlab.record(image, under, **KINDS[kind])
    recording.seek(recording.length // 2)
    recording.seek(recording.length)
    assert recording.system.machine.cpu.tlb.counts == whole.tlb


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tlb": 64}, "a TLB is a dict"),
        ({"tlb": {"size": 64}}, "a TLB has no 'size': give some of sets, ways"),
        ({"tlb": {"sets": 3}}, "1, 2, 4, … sets, not 3"),
        ({"tlb": {"sets": 0}}, "from 1 to 65536, not 0"),
        ({"tlb": {"ways": True}}, "from 1 to 65536, not True"),
        ({"tlb": {"ways": 1 << 40}}, "from 1 to 65536"),
        ({"tlb": {"large_ways": "4"}}, "not '4'"),
        ({"tlb": {"replacement": "plru"}}, "unknown replacement 'plru': choose one of fifo, lru, random"),
        ({"tlb": {"counts_hits": 1}}, "True or False, not 1"),
        ({"tlb": TlbGeometry((TlbArray(1, 4, (0x200000,)),))}, "4 KiB in one at least"),
        ({"tlb": TlbGeometry((TlbArray(1, 4), TlbArray(1, 4)))}, "each size in one array"),
        ({"walk_caches": 16}, "True, False or a dict"),
        ({"walk_caches": {"tlb": 16}}, "no walk cache 'tlb'"),
        ({"walk_caches": {"guest": 32}}, "a list of at most 4 sizes"),
        ({"walk_caches": {"guest": [1, 2, 3, 4, 5]}}, "a list of at most 4 sizes"),
        ({"walk_caches": {"guest": [-1]}}, "0 or more, not -1"),
        ({"walk_caches": {"nested_tlb": "many"}}, "0 or more, not 'many'"),
    ],
)
def test_impossible_ones_are_refused(option, message):
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        vmlab.run(vmlab.guests.load("hello"), **option)


def test_models_have_their_own_and_say_so():
    assert CPU_MODELS["westmere"].tlb.describe() == (
        "64 entries for 4 KiB (16 sets of 4); 32 entries for 2 MiB, 4 MiB (8 sets of 4); replacement: first in, first out"
    )
    run = vmlab.run(vmlab.guests.load("minios"))
    assert run.system.machine.cpu.model.tlb == CPU_MODELS["pentium-4"].tlb
    assert run.tlb.describe().splitlines()[0].split() == [f"{run.tlb.misses:,}", "misses"]
    assert "dropped by MOV CR3" in run.tlb.describe()


# -- walk caches in the processor --------------------------------------------------------------------------------------------

OTHER_TABLE = 0x4_3000
MOVED = f"mov dword [{DIRECTORY + 4}], {OTHER_TABLE | FULL}\n"


def cached(source: str) -> Computer:
    """A computer as of `paged`, with walk caches, whose program may have another page table for the same pages."""
    plain = paged("nop")
    model: CpuModel = CPU_MODELS["pentium-4"]
    found = Computer(model=_with_caches(model))
    found.load(source)
    found.memory.write_bytes(DIRECTORY, plain.memory.read_bytes(DIRECTORY, 0x8000))
    for page, frame in ((0, OLD), (1, NEW)):
        found.memory.write(frame, 4, plain.memory.read(frame, 4))
        found.memory.write(OTHER_TABLE + 4 * page, 4, NEW | FULL)
    found.cpu.registers[EBX] = PAGE
    found.cpu.set_cr3(DIRECTORY)
    found.cpu.set_cr4(CR4_PGE)
    found.cpu.set_cr0(found.cpu.cr0 | CR0_PG | CR0_WP)
    return found


def _with_caches(model: CpuModel) -> CpuModel:
    from dataclasses import replace

    return replace(model, walk_caches=WalkCacheSizes())


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("", STALE),
        ("invlpg [ebx+0x5000]\n", FRESH),  # whatever the address: the caches of the whole address space go
        ("mov eax, cr3\n mov cr3, eax\n", FRESH),
        ("mov eax, cr4\n xor eax, 0x80\n mov cr4, eax\n", FRESH),
    ],
)
def test_a_stale_table_is_used_until_something_drops_it(source: str, seen: int) -> None:
    """SDM vol. 3, 4.10.3 and 4.10.4.1: another page of the same table is walked from the table that is remembered."""
    computer = cached("mov ecx, [ebx]\n" + MOVED + source + "mov ecx, [ebx+0x1000]\n here: jmp here")
    computer.memory.write(TABLE + 4, 4, OLD | FULL)
    computer.run_to("here")
    assert computer.cpu.registers[ECX] == seen
    assert computer.cpu.walk_caches.guest.hits >= 1


def test_a_page_fault_drops_what_its_address_used() -> None:
    """A table that is remembered says no, the one that is there says yes: the second try finds it."""
    computer = cached("mov ecx, [ebx]\n" + MOVED + "again: mov ecx, [ebx+0x1000]\n here: jmp here")
    computer.memory.write(TABLE + 4, 4, 0)
    assert computer.trap().vector == 14
    computer.load("mov ecx, [ebx+0x1000]\n")
    computer.cpu.registers[EBX] = PAGE
    computer.step()
    assert computer.cpu.registers[ECX] == FRESH
