"""Random histories of page tables and accesses: what the guest sees is what it sees on the bare machine.

Each memory strategy is one line of `STRATEGIES`. In `Flushed` the guest flushes what it has changed, as kernels must, and
everything it can see is compared: values, faults, accessed and dirty bits, memory.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.vmm.page_commands import DATA, KNOWN, LARGE, LINEAR, PAGES, POOL, REGIONS, RETURN, ROOTS, TABLES, Commanded

STRATEGIES = {
    "cached shadow": ("trap-and-emulate", {"shadow_policy": "cached"}),
    "traced shadow": ("trap-and-emulate", {"shadow_policy": "traced"}),
    "shadow with real rings": ("vt-x", {"memory_virtualization": "shadow"}),
    "nested": ("vt-x", {"memory_virtualization": "nested"}),
    "nested in AMD's way": ("amd-v", {"memory_virtualization": "nested"}),
    "flushed shadow": ("trap-and-emulate", {"shadow_policy": "flush"}),
}
"""Technique and options of each memory strategy."""

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE_PAGE, GLOBAL = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
FLAGS = (PRESENT, WRITABLE, USER, ACCESSED, DIRTY)
flags = [st.sampled_from((flag,) * 6 + (0,)) for flag in FLAGS]
entries = st.tuples(st.sampled_from(POOL), st.sampled_from((0, GLOBAL)), *flags)
links = st.tuples(st.sampled_from((*TABLES, *TABLES, *ROOTS, *LARGE)), *flags)
values = st.builds(sum, entries)


def link(parts) -> int:
    """Return an entry of a page directory: of a table, or of a large page."""
    return sum(parts) | (LARGE_PAGE if parts[0] in LARGE else 0)


ACCESSES = ("read", "write", "call", "user_read", "user_write", "user_call")
access = st.tuples(st.sampled_from(ACCESSES), st.sampled_from(LINEAR), st.sampled_from((4, 8, 12, 20)), values)
accesses = st.lists(access, min_size=2, max_size=6)
change_of_table = st.tuples(st.sampled_from(TABLES), st.sampled_from((0, 1, 2)), values)
change_of_root = st.tuples(st.sampled_from(ROOTS), st.sampled_from(REGIONS), st.builds(link, links))
changes = st.lists(
    st.one_of(change_of_table, change_of_root).map(lambda change: (change[0] + 4 * change[1], change[2])),
    min_size=1, max_size=3,
)  # fmt: skip
FLIPS = (WRITABLE, USER, ACCESSED, DIRTY, ACCESSED | DIRTY, PRESENT, WRITABLE | DIRTY)
pairs = st.permutations(DATA).map(lambda frames: frames[:2])
pairs_of_tables = st.permutations(TABLES).map(lambda tables: tables[:2])


@cache
def commanded(strategy: str) -> Commanded:
    """Return a system that waits for its first command."""
    under, options = STRATEGIES.get(strategy, ("native", {}))
    return Commanded(under, **options)


class Flushed(RuleBasedStateMachine):
    """Whatever changes tables flushes them."""

    strategy = "cached shadow"

    @initialize()
    def start(self):
        self.systems = [commanded("bare machine"), commanded(self.strategy)]
        for system in self.systems:
            system.start_again()
        self.root, self.all_global = ROOTS[0], False
        for n, table in enumerate(TABLES):
            for slot in PAGES:
                self.do("write", table + 4 * slot, POOL[3 * n + slot] | 7)
        for n, root in enumerate(ROOTS):
            for region, place in zip(REGIONS, (TABLES[n], TABLES[n - 1], LARGE[n % 2] | LARGE_PAGE, root), strict=True):
                self.do("write", root + 4 * region, place | 7)
        self.do("root", ROOTS[0])

    def do(self, name, where=0, value=0):
        native, virtual = (system.do(name, where, value) for system in self.systems)
        assert native == virtual, f"{name} {where:#x} {value:#x}: {native} natively, {virtual} under {self.strategy}"
        return native

    def flush(self, pages: bool):
        if pages:
            for linear in LINEAR:
                self.do("invlpg", linear)
        elif self.all_global:
            self.do("global")
            self.do("global")
        else:
            self.do("root", self.root)

    @rule(change=changes, seen=accesses, pages=st.booleans())
    def change(self, change, seen, pages):
        """Change tables between accesses: the same before and after."""
        self.access_all(seen)
        for place, value in change:
            self.do("write", place, value)
        self.flush(pages)
        self.access_all(seen)

    @rule(
        linear=st.sampled_from(LINEAR),
        upper=st.booleans(),
        bits=st.sampled_from(FLIPS),
        names=st.lists(st.sampled_from(ACCESSES), min_size=1, max_size=3),
    )
    def flip(self, linear, upper, bits, names):
        """Change rights, accessed and dirty bits of an entry in use: what a kernel does to find out what is used."""
        native, same = self.systems[0], [(name, linear, 8, 0x305067) for name in names]
        place = self.root + (linear >> 22) * 4
        entry = native.memory.read(place, 4)
        if not upper and entry & PRESENT and not entry & LARGE_PAGE:
            place = (entry & ~0xFFF) + (linear >> 12 & 0x3FF) * 4
            entry = native.memory.read(place, 4)
        if place & ~0xFFF in (*TABLES, *ROOTS) and place not in ROOTS:  # the first entry of a root is the kernel's own
            self.access_all(same)
            self.do("write", place, native.memory.read(place, 4) ^ bits)
            self.flush(pages=False)
            self.access_all(same)

    @rule(region=st.sampled_from(REGIONS), table=st.sampled_from(TABLES), page=st.sampled_from(PAGES), frames=pairs)
    def second_way(self, region, table, page, frames):
        """A table with a stale entry is reached in a new way: what was never mapped there cannot be stale."""
        other = REGIONS[REGIONS.index(region) - 1]
        self.do("write", table + 4 * page, frames[0] | 7)
        self.do("write", self.root + 4 * region, table | 7)
        self.do("write", self.root + 4 * other, 0)
        self.flush(pages=False)
        self.do("read", region << 22 | page << 12 | 8)
        self.do("write", table + 4 * page, frames[1] | 7)
        self.do("write", self.root + 4 * other, table | 7)
        for near in (PAGES[page - 1], page):
            self.do("read", other << 22 | near << 12 | 8)
        self.flush(pages=False)

    @rule(region=st.sampled_from(REGIONS), tables=pairs_of_tables, frames=pairs)
    def page_becomes_table(self, region, tables, frames):
        """A page that the kernel has written to becomes a page table, and the kernel goes on to write there."""
        table, window = tables
        other = REGIONS[REGIONS.index(region) - 1]
        self.do("write", window, table | 7)
        self.do("write", self.root + 4 * other, window | 7)
        self.do("write", self.root + 4 * region, 0)
        self.flush(pages=False)
        self.do("write", other << 22 | 4, frames[0] | 7)
        self.do("write", self.root + 4 * region, table | 7)
        self.do("read", region << 22 | 0x1008)
        self.do("write", other << 22 | 4, frames[1] | 7)
        self.flush(pages=False)
        self.do("read", region << 22 | 0x1008)

    @rule(table=st.sampled_from(POOL[1:]), offset=st.integers(4, 23), value=st.integers(0, 255), seen=accesses)
    def change_byte(self, table, offset, value, seen):
        """An odd way to change an entry; what it then leads to is anywhere in memory, or beyond."""
        if table in DATA or offset & 3 == 0:
            self.access_all(seen)
            self.do("write_byte", table + offset, value & ~(LARGE_PAGE if table in ROOTS else 0))
            self.flush(pages=False)
            self.access_all(seen)

    @rule(root=st.sampled_from(ROOTS))
    def switch(self, root):
        self.root = root
        self.do("root", root)
        if self.all_global:
            self.flush(pages=False)

    @rule()
    def toggle_global(self):
        self.all_global = not self.all_global
        self.do("global")

    @rule()
    def toggle_protection(self):
        self.do("protect")

    @rule(seen=accesses)
    def access_all(self, seen):
        for name, linear, offset, value in seen:
            place = self.systems[0].target(linear)
            frame = None if place is None else place & ~0xFFF
            if frame is not None and frame not in KNOWN:
                continue  # one of the kernel's own
            if "call" in name:
                self.do(name, linear + RETURN)
                continue
            outcome = self.do(name, linear + offset, value)
            if "write" in name and outcome.fault is None and frame in (*TABLES, *ROOTS):
                self.flush(pages=offset & 8 == 0)

    @invariant()
    def memory_is_the_same(self):
        native, virtual = (system.frames() for system in self.systems)
        different = {
            hex(place): (native[place].hex(" ", 4), virtual[place].hex(" ", 4))
            for place in native
            if native[place] != virtual[place]
        }
        assert not different


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whoever_flushes_what_he_changes_sees_the_bare_machine(strategy):
    machine = type("Machine", (Flushed,), {"strategy": strategy})
    examples = 50 if strategy == "cached shadow" else 20
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25))


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_longer_histories(strategy):
    machine = type("Machine", (Flushed,), {"strategy": strategy})
    run_state_machine_as_test(machine, settings=settings(max_examples=150, stateful_step_count=80))
