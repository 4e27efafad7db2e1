"""Guests with several processors and page tables that all change: each technique gives what the bare machine gives."""

from __future__ import annotations

import random

import pytest

import vmlab
from tests.vmm.harness import differences, goes_on_elsewhere
from tests.vmm.paged_processors import paged_system
from tests.vmm.test_vcpus import all_seen
from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.paging import WRITABLE
from vmlab.vmm.frame_map import frame_map
from vmlab.vmm.page_walk import shadows_of
from vmlab.vmm.techniques import build

SHADOW = {"memory_virtualization": "shadow"}
WAYS = {
    "vt-x, nested": ("vt-x", {}),
    "vt-x, cached": ("vt-x", SHADOW),
    "vt-x, traced": ("vt-x", SHADOW | {"shadow_policy": "traced"}),
    "vt-x, flush": ("vt-x", SHADOW | {"shadow_policy": "flush"}),
    "amd-v, cached": ("amd-v", SHADOW),
    "binary translation": ("binary-translation", {}),
    "binary translation, flush": ("binary-translation", {"shadow_policy": "flush"}),
}
SEEDS = [2, *(pytest.param(seed, marks=pytest.mark.long) for seed in (*range(2), *range(3, 60)))]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_page_tables_that_all_change(seed, width, way):
    under, options = WAYS[way]
    native, virtual = paged_system(seed, "native", width), paged_system(seed, under, width, **options)
    native.run()
    virtual.run()
    assert differences(all_seen(native), all_seen(virtual)) == []
    assert virtual.guests[0].exits["true page fault"] > 0 or virtual.memory_virtualization == "nested"


@pytest.mark.parametrize("policy", ["cached", "traced"])
@pytest.mark.parametrize("seed", SEEDS)
def test_page_tables_that_all_change_without_pause(seed, policy):
    """Trap-and-emulate never sees a PAUSE."""
    native = paged_system(seed, "native", pauses=False)
    virtual = paged_system(seed, "trap-and-emulate", pauses=False, shadow_policy=policy)
    native.run()
    virtual.run()
    assert differences(all_seen(native), all_seen(virtual)) == []
    assert virtual.guests[0].exits["true page fault"] > 0


@pytest.mark.parametrize("way", ["vt-x, cached", "amd-v, cached", "binary translation", "trap-and-emulate"])
def test_saved_in_the_middle(way):
    under, options = WAYS.get(way, (way, {}))
    goes_on_elsewhere(lambda: paged_system(2, under, **options), all_seen, start=3_000, places=2)


def unseen_writes(system) -> list[tuple[int, int]]:
    """Return frames that a VCPU may write to unseen, though tables there are in step for it or another; and all in step."""
    shadows = shadows_of(system, 0)
    traced = {frame for each in shadows for frame in each.pages.tables if each.traces.is_traced(frame)}
    return [
        (frame, page)
        for frame in traced
        for each in shadows
        for page, slot in each.pages.maps.get(frame, ())
        if each.pages.entry(each.pages.pages[page], slot) & WRITABLE
    ]


@pytest.mark.parametrize("way", ["vt-x, cached", "vt-x, traced", "binary translation"])
def test_no_processor_writes_unseen_to_a_table_of_another(way):
    under, options = WAYS[way]
    system = paged_system(2, under, **options)
    choose, tables, out_of_step = random.Random(4), set(), 0
    while not system.finished:
        system.advance(choose.randrange(1, 60))
        if system.in_vmm and system.phase == "resume":
            assert unseen_writes(system) == []
        first, *others = shadows_of(system, 0)
        tables |= {frame for frame in first.pages.tables if any(frame in each.pages.tables for each in others)}
        out_of_step += bool(first.traces.out_of_step)
    assert len(tables) > 2  # that several processors walk
    assert bool(out_of_step) == (options.get("shadow_policy") != "traced")


def test_with_few_shadow_pages_the_others_still_see_the_same(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.shadow_pages.MOST_PAGES", 7)
    native, virtual = paged_system(4, "native", 8), paged_system(4, "vt-x", 8, **SHADOW)
    native.run()
    virtual.run()
    assert differences(all_seen(native), all_seen(virtual)) == []
    assert all(each.pages.evictions > 10 for each in shadows_of(virtual, 0))


def test_each_guest_has_shadow_tables_for_each_of_its_processors():
    system = build([vmlab.guests.load("two_cpus")] * 2, "vt-x", cpus=3, **SHADOW)
    system.run()
    assert [guest.outcome for guest in system.guests] == ["exit", "exit"]
    held = [{table.address for table in each.tables()} for index in range(2) for each in shadows_of(system, index)]
    assert all(held)
    assert sum(len(each) for each in held) == len(set().union(*held))
    shown = [each for each in frame_map(system) if each.kind == "shadow"]
    frames = {each.first + n for each in shown for n in range(each.count)}
    assert frames == {address >> PAGE_SHIFT for each in held for address in each}
