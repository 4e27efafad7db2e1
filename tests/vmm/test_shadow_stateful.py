"""Random histories of page tables and accesses: what the guest sees is what it sees on the bare machine.

Each memory strategy is one line of `STRATEGIES`. In `Flushed` the guest flushes what it has changed, as kernels must, and
everything it can see is compared: values, faults, accessed and dirty bits, memory.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.vmm.page_commands import DATA, LARGE, LINEAR, POOL, REGIONS, ROOTS, TABLES, Commanded

STRATEGIES = {
    "cached shadow": ("trap-and-emulate", {"shadow_policy": "cached"}),
    "traced shadow": ("trap-and-emulate", {"shadow_policy": "traced"}),
    "flushed shadow": ("trap-and-emulate", {"shadow_policy": "flush"}),
}
"""Technique and options of each memory strategy."""

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE_PAGE, GLOBAL = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
FLAGS = (PRESENT, WRITABLE, USER, ACCESSED, DIRTY)
entries = st.tuples(st.sampled_from(POOL), st.sampled_from((0, GLOBAL)), *(st.sampled_from((f, f, f, 0)) for f in FLAGS))
links = st.tuples(st.sampled_from((*TABLES, *TABLES, *ROOTS, *LARGE)), *(st.sampled_from((f, f, f, 0)) for f in FLAGS))
linears = st.sampled_from(LINEAR)
offsets = st.sampled_from((4, 8, 12, 20))
values = st.builds(sum, entries)


def link(parts) -> int:
    """Return an entry of a page directory: of a table, or of a large page."""
    return sum(parts) | (LARGE_PAGE if parts[0] in LARGE else 0)


class Flushed(RuleBasedStateMachine):
    """Whatever changes tables flushes them."""

    strategy = "cached shadow"

    @initialize()
    def start(self):
        under, options = STRATEGIES[self.strategy]
        self.systems = [Commanded("native"), Commanded(under, **options)]
        self.root, self.all_global = ROOTS[0], False
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

    @rule(table=st.sampled_from(TABLES), slot=st.sampled_from((0, 1, 2)), entry=values, pages=st.booleans())
    def set_entry(self, table, slot, entry, pages):
        self.do("write", table + 4 * slot, entry)
        self.flush(pages)

    @rule(root=st.sampled_from(ROOTS), slot=st.sampled_from(REGIONS), entry=links, pages=st.booleans())
    def set_link(self, root, slot, entry, pages):
        self.do("write", root + 4 * slot, link(entry))
        self.flush(pages)

    @rule(table=st.sampled_from(TABLES), size=st.integers(1, 3), entry=values, pages=st.booleans())
    def set_many(self, table, size, entry, pages):
        for slot in range(size):
            self.do("write", table + 4 * slot, entry ^ slot << 1)
        self.flush(pages)

    @rule(table=st.sampled_from(POOL[1:]), offset=st.integers(4, 23), value=st.integers(0, 255), pages=st.booleans())
    def set_byte(self, table, offset, value, pages):
        """An odd way to change an entry; what it then leads to is anywhere in memory, or beyond."""
        if table in DATA or offset & 3 == 0:
            self.do("write_byte", table + offset, value & ~(LARGE_PAGE if table in ROOTS else 0))
            self.flush(pages)

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

    @rule(linear=linears, offset=offsets, user=st.booleans())
    def read(self, linear, offset, user):
        self.do("user_read" if user else "read", linear + offset)

    @rule(linear=linears, offset=offsets, value=values, user=st.booleans(), pages=st.booleans())
    def write(self, linear, offset, value, user, pages):
        place = self.systems[0].target(linear)
        if place is not None and place & ~0xFFF not in (*POOL, *(base + 0x1000 * n for base in LARGE for n in (0, 1, 2))):
            return  # one of the kernel's own
        outcome = self.do("user_write" if user else "write", linear + offset, value)
        if outcome.fault is None and place is not None and place & ~0xFFF not in DATA:
            self.flush(pages)

    @rule(linear=linears, user=st.booleans())
    def call(self, linear, user):
        place = self.systems[0].target(linear)
        if place is None or place & ~0xFFF in (*POOL, 0, 0x1000, 0x2000):
            self.do("user_call" if user else "call", linear + 0x800)

    @invariant()
    def memory_is_the_same(self):
        native, virtual = (system.frames() for system in self.systems)
        different = {hex(place): (native[place].hex(" ", 4), virtual[place].hex(" ", 4)) for place in native if native[place] != virtual[place]}
        assert not different


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whoever_flushes_what_he_changes_sees_the_bare_machine(strategy):
    machine = type("Machine", (Flushed,), {"strategy": strategy})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=30, deadline=None))
