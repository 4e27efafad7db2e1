"""Paging-structure caches and the nested TLB: what they save, what they hold, and that they believe what is stale.

Intel SDM vol. 3, 4.10.3 (paging-structure caches) and 29.4; Bhargava et al., ASPLOS 2008 (references left in two dimensions).
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine.nested import GUEST_AT, Nested, Plain
from vmlab.errors import OptionError, StateError
from vmlab.isa.x86.faults import Fault
from vmlab.machine.page_format_names import FORMATS
from vmlab.machine.walk_caches import NestedCaches, NestedTlb, WalkCache

PAGES = [0x1000 * n for n in range(4)] + [0x20_0000 * n for n in range(1, 4)] + [0x4000_0000 * n for n in range(1, 4)]


def test_a_walk_begins_where_it_can() -> None:
    """4 references without; 1 with the page table's place, 2 with the directory's, 3 with the pointer table's."""
    plain = Plain("4-level")
    for page in PAGES:
        plain.tables.map(page, 0x10_0000 + page)
    cache = WalkCache((4, 4, 4))
    references = [
        plain.walk(page, cache=cache).references for page in (0, 0x1000, 0x20_0000, 0x4000_0000, 0x20_1000 - 0x1000)
    ]
    assert references == [4, 1, 2, 3, 1]
    assert (cache.hits, cache.misses, cache.held) == (4, 1, 1 + 2 + 3)
    found = plain.walk(0x1234, cache=cache)
    assert [step.cached for step in found.steps] == [True, True, True, False]
    assert [step.slot for step in found.steps] == [0, 0, 0, 1]
    assert [step.address for step in found.steps] == [step.address for step in plain.walk(0x1234).steps]


@pytest.mark.parametrize(
    ("sizes", "references"), [((0, 1, 0), 2), ((0, 0, 1), 3), ((1,), 1), ((), 4), ((0, 0, 0, 9), 4)]
)
def test_sizes_by_level(sizes: tuple[int, ...], references: int) -> None:
    plain = Plain("4-level")
    plain.tables.map(0, 0x5000)
    cache = WalkCache(sizes)
    assert plain.walk(0, cache=cache).references == 4
    assert plain.walk(0, cache=cache).references == references


def test_first_in_first_out() -> None:
    plain = Plain("4-level")
    for page in PAGES:
        plain.tables.map(page, 0x10_0000 + page)
    cache = WalkCache((2, 0, 0))
    walked = (0, 0x20_0000, 0, 0x40_0000, 0, 0x40_0000)
    assert [plain.walk(page, cache=cache).references for page in walked] == [4, 4, 1, 4, 4, 1]


def test_stale_until_dropped() -> None:
    plain = Plain("4-level")
    plain.tables.map(0, 0x5000)
    plain.tables.map(0x4000_0000, 0x6000)
    cache = WalkCache((4, 4, 4))
    plain.walk(0, cache=cache)
    plain.walk(0x4000_0000, cache=cache)
    plain.change(plain.entry(2).place, 0)
    assert plain.walk(0, cache=cache).frame == 0x5000
    assert cache.drop(0x1000) == 3
    with pytest.raises(Fault):
        plain.walk(0, cache=cache)
    assert plain.walk(0x4000_0000, cache=cache).references == 1
    assert (cache.drop(0x8000_0000), cache.flush(), cache.held) == (1, 3, 0)


def test_rights_of_the_way_are_kept() -> None:
    plain = Plain("4-level")
    plain.tables.map(0, 0x5000)
    entry = plain.entry(1)
    plain.change(entry.place, entry.entry & ~2)
    cache = WalkCache()
    for _ in range(2):
        found = plain.walk(0, cache=cache)
        assert (found.writable, found.user) == (False, True)
    assert found.references == 1
    with pytest.raises(Fault) as caught:
        plain.walk(0, cache=cache, is_write=True)
    assert caught.value.error_code == 3


def test_tags_part_address_spaces() -> None:
    plain, cache = Plain("4-level"), WalkCache()
    plain.tables.map(0, 0x5000)
    references = []
    for tag in (1, 2, 1, 2):
        cache.tag = tag
        references.append(plain.walk(0, cache=cache).references)
    assert references == [4, 4, 1, 1]
    assert (cache.drop_space(1), cache.held) == (3, 3)
    assert plain.walk(0, cache=cache).references == 1


def test_registers_are_not_cached() -> None:
    """The PDPTEs of PAE paging are in registers; what the next level needs is cached (SDM vol. 3, 4.10.3.1)."""
    plain, cache = Plain("pae"), WalkCache()
    plain.tables.map(0, 0x5000)
    assert [plain.walk(0, cache=cache).references for _ in range(2)] == [2, 1]
    assert cache.held == 1


def caches_of(guest: bool, host: bool, tlb: bool) -> NestedCaches:
    return NestedCaches(WalkCache() if guest else None, WalkCache() if host else None, NestedTlb() if tlb else None)


@pytest.mark.parametrize(
    ("kinds", "references"),
    [
        ((False, False, False), 24),
        ((True, False, False), 1 + 2 * 4),  # the guest's page table entry, and two walks of the host's
        ((False, True, False), 4 + 5 * 1),  # each of the host's walks reads its page table alone
        ((False, False, True), 4),  # no walk of the host's
        ((True, True, False), 1 + 2 * 1),
        ((True, False, True), 1),
        ((True, True, True), 1),
    ],
)
def test_the_second_walk_in_two_dimensions(kinds: tuple[bool, bool, bool], references: int) -> None:
    nested, caches = Nested("4-level", "ept"), caches_of(*kinds)
    nested.guest.map(0x5000, 0x7000)
    first = nested.walk(0x5000, caches=caches)
    again = nested.walk(0x5000, caches=caches)
    assert (again.references, again.frame) == (references, first.frame)
    assert first.references == 24 - 3 * 4 * kinds[1]  # the guest's tables lie side by side: after the first one, …
    steps = again.steps
    assert sum(not step.cached for step in steps) == references
    assert [(s.dimension, s.guest_level) for s in steps if s.dimension == "guest"] == [("guest", n) for n in range(4)]


def test_the_nested_tlb_is_stale_until_dropped_and_checks_rights() -> None:
    nested, caches = Nested("4-level", "ept"), caches_of(False, False, True)
    nested.guest.map(0x5000, 0x7000)
    tlb = caches.nested_tlb
    nested.walk(0x5000, caches=caches)
    assert (tlb.hits, tlb.misses, len(tlb.entries)) == (0, 5, 5)
    nested.host.map(0x7000, GUEST_AT + 0x8000, writable=False)
    assert nested.walk(0x5000, caches=caches).frame == GUEST_AT + 0x7000
    assert (tlb.hits, tlb.misses) == (5, 5)
    assert (tlb.drop(0x7000), tlb.drop(0x9000)) == (1, 0)
    assert nested.walk(0x5000, caches=caches).frame == GUEST_AT + 0x8000
    nested.host.protect(0x7000, writable=True)
    assert nested.walk(0x5000, caches=caches, is_write=True).references == 8  # what is held does not allow it
    assert tlb.flush() == 5
    tlb.tag = 1
    nested.walk(0x5000, caches=caches)
    assert (tlb.drop_space(0), tlb.drop_space(1)) == (0, 5)


@given(
    name=st.sampled_from(["ia32", "pae", "4-level", "5-level", "aarch64-stage1", "sv39"]),
    host=st.sampled_from(["ept", "npt", "sv39x4"]),
    sizes=st.lists(st.integers(0, 3), min_size=0, max_size=4),
    kinds=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    walks=st.lists(st.tuples(st.sampled_from(PAGES[:7]), st.booleans()), max_size=12),
)
def test_caches_change_nothing_but_the_references(name, host, sizes, kinds, walks) -> None:
    """While nobody changes the tables, each walk has the same result, and never more references."""
    nested = Nested(name, host)
    for page in PAGES[:7]:
        nested.guest.map(page, (page >> 9 | page) & 0x3_F000)
    caches = NestedCaches(
        WalkCache(sizes) if kinds[0] else None,
        WalkCache(sizes) if kinds[1] else None,
        NestedTlb(3) if kinds[2] else None,
    )
    for page, is_write in walks:
        plain = nested.walk(page, is_write=is_write, is_user=True)
        cached = nested.walk(page, is_write=is_write, is_user=True, caches=caches)
        assert cached[:9] == plain[:9]
        assert cached.references <= plain.references
        assert sum(not (s.cached or s.in_register) for s in cached.steps) == cached.references
        for cache in (caches.guest, caches.host):
            assert cache is None or all(
                len(entries) <= sizes[(shift - 21) // 9] for shift, entries in cache.entries.items()
            )


def test_save_and_load() -> None:
    nested = Nested("4-level", "ept")
    nested.guest.map(0x5000, 0x7000)
    caches = caches_of(True, True, True)
    nested.walk(0x5000, caches=caches)
    again = caches_of(True, True, True)
    for name in ("guest", "host", "nested_tlb"):
        state = json.loads(json.dumps(getattr(caches, name).save()))
        getattr(again, name).load(state)
        assert getattr(again, name) == getattr(caches, name)
    assert nested.walk(0x5000, caches=again) == nested.walk(0x5000, caches=caches)


@pytest.mark.parametrize("name", ["guest", "nested_tlb"])
def test_damaged_states(name: str) -> None:
    nested, caches = Nested("4-level", "ept"), caches_of(True, True, True)
    nested.guest.map(0x5000, 0x7000)
    nested.walk(0x5000, caches=caches)
    component = getattr(caches, name)
    good = component.save()
    for change in (
        {"version": 9},
        {"hits": -1},
        {"entries": [[1]]},
        {"entries": [[*good["entries"][0][:-1], "x"]]},
        {"entries": [[99, *good["entries"][0][1:]]]} if name == "guest" else {"entries": good["entries"] * 4},
        {"tag": "x"},
    ):
        with pytest.raises(StateError):
            component.load(good | change)
    smaller = WalkCache((0, 0, 0)) if name == "guest" else NestedTlb(2)
    with pytest.raises(StateError, match="do not fit"):
        smaller.load(good)
    assert component.save() == good


@pytest.mark.parametrize("make", [lambda: WalkCache((4, -1)), lambda: WalkCache(("2",)), lambda: NestedTlb(-1)])
def test_sizes_are_numbers(make) -> None:
    with pytest.raises(OptionError, match="number of entries"):
        make()


def test_every_format_can_be_cached() -> None:
    for name, format_ in FORMATS.items():
        plain, cache = Plain(name), WalkCache((4, 4, 4, 4))
        plain.tables.map(0, 0x5000)
        assert [plain.walk(0, cache=cache).references for _ in range(2)] == [format_.references, 1]
