"""Random histories of page tables that nobody flushes in time: what is seen is what a TLB may still hold, and nothing else.

How long a stale translation lives is not architecture, so two machines need not agree. `Allowed` keeps, for each page, all
translations that a processor could have cached since the guest last invalidated it (Intel SDM vol. 3, 4.10.2 to 4.10.4), and
each machine's access must be explained by one of them, or by a walk of the tables as they are. Where the machines then
differ, the hypervisor's guest gets the memory of the bare machine: as if a device had written it.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.vmm.page_commands import KNOWN, LARGE, LINEAR, PAGES, POOL, REGIONS, ROOTS, TABLES, Outcome
from tests.vmm.test_shadow_stateful import (
    ACCESSED,
    DIRTY,
    GLOBAL,
    LARGE_PAGE,
    PRESENT,
    STRATEGIES,
    USER,
    WRITABLE,
    commanded,
    link,
    links,
    values,
)

ACCESSES = ("read", "write", "user_read", "user_write")
RAM = 8 << 20
MARKS = ACCESSED | DIRTY
accesses = st.lists(
    st.tuples(st.sampled_from(ACCESSES), st.sampled_from(LINEAR), st.sampled_from((4, 8, 12, 20)), values), max_size=4
)

steps = st.lists(
    st.tuples(st.sampled_from((*ACCESSES, *ACCESSES, "entry", "entry", "entry", "link", "invlpg", "root")), st.sampled_from(PAGES)),
    min_size=8, max_size=16,
)  # fmt: skip


class Cached(NamedTuple):
    """A translation that a processor may have cached."""

    frame: int
    writable: bool
    user: bool
    global_: bool

    def permits(self, *, write: bool, user: bool, protect: bool) -> bool:
        """Say whether an access may go on with it."""
        return (self.user or not user) and (not write or self.writable or not (user or protect))


class Allowed:
    """What a processor may hold, page by page, of a guest whose tables are in `memory`."""

    def __init__(self, memory) -> None:
        self.memory = memory
        self.root, self.all_global, self.protect = ROOTS[0], False, True
        self.forget()

    def forget(self, *, keep_global: bool = False) -> None:
        """Everything is flushed, or everything but global translations."""
        held = self.held if keep_global else {}
        self.held = {page: {each for each in held.get(page, ()) if each.global_} for page in LINEAR}
        self.forget_directories()

    def forget_directories(self) -> None:
        """What is cached of page directories is flushed."""
        self.entries: dict[int, set[int]] = {region: set() for region in REGIONS}

    def now(self, linear: int, entry: int | None = None) -> Cached | None:
        """Walk the tables as they are, from an entry of the directory if one is given."""
        if entry is None:
            entry = self.memory.read(self.root + (linear >> 22) * 4, 4)
        if not entry & PRESENT:
            return None
        if entry & LARGE_PAGE:
            frame, rights, last = entry & 0xFFC0_0000 | linear & 0x3F_F000, entry, entry
        else:
            last = self.memory.read((entry & ~0xFFF) + (linear >> 12 & 0x3FF) * 4, 4)
            if not last & PRESENT:
                return None
            frame, rights = last & ~0xFFF, entry & last
        return Cached(frame, bool(rights & WRITABLE), bool(rights & USER), bool(last & GLOBAL))

    def observe(self) -> None:
        """A processor may walk the tables at any time, for any page."""
        for region, entries in self.entries.items():
            entries.add(self.memory.read(self.root + 4 * region, 4))
        for page, held in self.held.items():
            found = (self.now(page, entry) for entry in self.entries[page >> 22])
            held.update(each for each in found if each is not None)


class Stale(RuleBasedStateMachine):
    """Nobody need flush anything."""

    strategy = "cached shadow"

    @initialize()
    def start(self):
        self.systems = [commanded("bare machine"), commanded(self.strategy)]
        for system in self.systems:
            system.start_again()
        for n, table in enumerate(TABLES):
            for slot in PAGES:
                self.both("write", table + 4 * slot, POOL[3 * n + slot] | 7)
        for n, root in enumerate(ROOTS):
            for region, place in zip(REGIONS, (TABLES[n], TABLES[n - 1], LARGE[n % 2] | LARGE_PAGE, root), strict=True):
                self.both("write", root + 4 * region, place | 7)
        self.both("root", ROOTS[0])
        self.allowed = Allowed(self.systems[0].memory)
        self.allowed.observe()

    def both(self, name, where=0, value=0):
        first, other = (system.do(name, where, value) for system in self.systems)
        assert first == other
        assert first.fault is None

    def words(self, system):
        """Return the words that commands read and write, by their address."""
        return {
            place + offset: system.memory.read(place + offset, 4) for place in KNOWN for offset in range(4, 0x20, 4)
        }

    def converge(self):
        native, virtual = (self.words(system) for system in self.systems)
        for place, word in native.items():
            if virtual[place] != word:
                self.systems[1].memory.write(place, 4, word)
        self.allowed.observe()

    @rule(
        table=st.sampled_from(TABLES),
        slot=st.sampled_from(PAGES),
        entry=values,
        invalidate=st.sampled_from((0, 0, *LINEAR)),
    )
    def set_entry(self, table, slot, entry, invalidate):
        self.both("write", table + 4 * slot, entry)
        self.allowed.observe()
        if invalidate:
            self.invalidate(invalidate)

    @rule(root=st.sampled_from(ROOTS), slot=st.sampled_from(REGIONS), entry=st.builds(link, links))
    def set_link(self, root, slot, entry):
        self.both("write", root + 4 * slot, entry)
        self.allowed.observe()

    @rule(
        region=st.sampled_from(REGIONS),
        steps=steps,
        entries=st.lists(values, min_size=12, max_size=12),
        parts=st.lists(links, min_size=4, max_size=4),
    )
    def history(self, region, steps, entries, parts):
        """Go on in one region: use it, change it, invalidate it, use it again."""
        for n, (step, page) in enumerate(steps):
            linear = region << 22 | page << 12
            place = self.allowed.root + 4 * region
            entry = self.systems[0].memory.read(place, 4)
            if step in ACCESSES:
                self.access([(step, linear, 8, entries[n % 12])])
            elif step == "invlpg":
                self.invalidate(linear)
            elif step == "root":
                self.switch(self.allowed.root)
            elif step == "link":
                self.both("write", place, link(parts[n % 4]))
                self.allowed.observe()
            elif entry & PRESENT and not entry & LARGE_PAGE and entry & ~0xFFF in (*TABLES, *ROOTS):
                self.both("write", (entry & ~0xFFF) + 4 * (page or (entry & ~0xFFF in ROOTS)), entries[n % 12])
                self.allowed.observe()

    @rule(linear=st.sampled_from(LINEAR))
    def invalidate(self, linear):
        self.both("invlpg", linear)
        self.allowed.held[linear].clear()
        self.allowed.forget_directories()
        self.allowed.observe()

    @rule(root=st.sampled_from(ROOTS))
    def switch(self, root):
        self.both("root", root)
        self.allowed.root = root
        self.allowed.forget(keep_global=self.allowed.all_global)
        self.allowed.observe()

    @rule()
    def toggle_global(self):
        self.both("global")
        self.allowed.all_global = not self.allowed.all_global
        self.allowed.forget()
        self.allowed.observe()

    @rule()
    def toggle_protection(self):
        self.both("protect")
        self.allowed.protect = not self.allowed.protect
        self.allowed.forget()
        self.allowed.observe()

    @rule(seen=accesses)
    def access(self, seen):
        for name, linear, offset, value in seen:
            write, user = "write" in name, "user" in name
            rights = {"write": write, "user": user, "protect": self.allowed.protect}
            current = self.allowed.now(linear)
            possible = [each for each in (*self.allowed.held[linear], current) if each and each.permits(**rights)]
            if any(each.frame not in KNOWN for each in possible):
                continue  # one of the kernel's own
            fault = None
            if current is None or not current.permits(**rights):
                fault = (bool(current) | write << 1 | user << 2, linear + offset)
            before = self.words(self.systems[0])
            outcomes = [system.do(name, linear + offset, value) for system in self.systems]
            for system, outcome in zip(self.systems, outcomes, strict=True):
                self.explain(system, outcome, before, possible, fault, offset, value if write else None)
            if all(outcome.fault for outcome in outcomes):  # else one machine goes on to hold a translation
                self.allowed.held[linear].clear()
                self.allowed.entries[linear >> 22].clear()
            self.converge()

    def explain(self, system, outcome: Outcome, before, possible, fault, offset, written):
        """Find a translation, or a fault, that accounts for what an access did."""
        changed = {
            place: word
            for place, word in self.words(system).items()
            if word & ~MARKS != before[place] & ~MARKS or before[place] & ~word
        }
        who = f"{system.system.technique}: {outcome}, changed {changed}, possible {possible}, fault {fault}"
        if outcome.fault:
            assert outcome.fault == fault, who
            assert not changed, who
            return
        places = {each.frame + offset for each in possible}
        if written is None:
            assert outcome.value in {before[place] for place in places} | {
                before[place] | bits for place in places for bits in (ACCESSED, MARKS, DIRTY)
            }, who
            assert not changed, who
        else:
            assert set(changed) <= places, who
            assert len(changed) <= 1, who
            assert all(word & ~MARKS == written & ~MARKS for word in changed.values()), who
            assert changed or any((before[place] ^ written) & ~MARKS == 0 for place in places), who


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_seen_is_what_a_tlb_may_hold(strategy):
    machine = type("Machine", (Stale,), {"strategy": strategy})
    examples = 80 if strategy == "cached shadow" else 20
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30))


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_longer_histories(strategy):
    machine = type("Machine", (Stale,), {"strategy": strategy})
    run_state_machine_as_test(machine, settings=settings(max_examples=200, stateful_step_count=80))
