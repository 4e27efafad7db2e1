"""What shadow paging does for which policy, counted: roots that stay, tables out of step, traced writes, evictions."""

from __future__ import annotations

import pytest

from tests.vmm.harness import differences, finish, kernel, seen
from tests.vmm.page_commands import DATA, ROOTS, TABLES, Commanded
from vmlab.errors import OptionError
from vmlab.vmm.page_walk import shadow_of
from vmlab.vmm.shadow_paging import POLICIES
from vmlab.vmm.techniques import build

REGION = 1 << 22
TWO_SPACES = """
main:   call paging_on
        mov esi, DIRECTORY
        mov edi, 0x500000
        mov ecx, 1024
        rep movsd
        mov ecx, 30
.swap:  mov eax, 0x500000
        mov cr3, eax
        inc dword [0x530000]
        mov eax, DIRECTORY
        mov cr3, eax
        add dword [0x531000], 2
        loop .swap
        call quit
"""


def ready(policy="cached", under="trap-and-emulate", **options):
    """Return a commanded guest with one table linked and its pages used, and its shadow."""
    if under == "vt-x":
        options["memory_virtualization"] = "shadow"
    commanded = Commanded(under, shadow_policy=policy, **options)
    for slot, frame in enumerate(DATA):
        commanded.do("write", TABLES[0] + 4 * slot, frame | 7)
    commanded.do("write", ROOTS[0] + 4, TABLES[0] | 7)
    commanded.do("root", ROOTS[0])
    for slot in range(3):
        commanded.do("write", REGION + (slot << 12), slot)
    return commanded, shadow_of(commanded.system, 0)


def table_of(shadow, address, level=1):
    """Return the first shadow of a guest's table."""
    return next(each for each in shadow.tables() if each.role.table == address and each.role.level == level)


def test_a_root_that_comes_back_needs_no_fill():
    counts = {}
    for policy in POLICIES:
        system = finish(kernel(TWO_SPACES), "trap-and-emulate", shadow_policy=policy)
        counts[policy] = system.guests[0].exits["hidden page fault"], shadow_of(system, 0).counters
    assert counts["cached"][1]["root hits"] >= 58
    assert counts["cached"][1]["root misses"] <= 4
    assert counts["flush"][1]["root hits"] == 0
    assert counts["flush"][0] > 5 * counts["cached"][0]


@pytest.mark.parametrize("under", ["trap-and-emulate", "vt-x"])
def test_a_last_level_table_leaves_step_at_the_first_write_and_returns_at_a_flush(under):
    commanded, shadow = ready(under=under)
    before = shadow.counters.copy()
    for slot in range(3):
        commanded.do("write", TABLES[0] + 4 * slot, DATA[slot - 1] | 7)
    assert shadow.counters["unsyncs"] - before["unsyncs"] == 1
    assert shadow.counters["traced writes"] == before["traced writes"]
    table = table_of(shadow, TABLES[0])
    assert table.out_of_step
    assert [entry.slot for entry in table.entries if entry.source != entry.now] == [0, 1, 2]
    commanded.do("invlpg", REGION)
    assert commanded.do("read", REGION).value == 2  # what was written through the frame's old address
    assert table_of(shadow, TABLES[0]).out_of_step
    commanded.do("root", ROOTS[0])
    assert shadow.counters["syncs"] - before["syncs"] == 1
    table = table_of(shadow, TABLES[0])
    assert not table.out_of_step
    assert all(entry.source == entry.now for entry in table.entries)
    assert commanded.do("read", REGION + 0x1000).value == 0


def test_a_traced_write_changes_the_rights_of_an_entry_in_place():
    commanded, shadow = ready("traced")
    commanded.do("write", TABLES[0] + 4, DATA[1] | 0x65)  # read-only
    assert shadow.counters["traced writes"] > 0
    assert shadow.traces.counters["updates"] == 1
    entry = next(entry for entry in table_of(shadow, TABLES[0]).entries if entry.slot == 1)
    assert not entry.writable
    assert entry.source == entry.now == DATA[1] | 0x65
    commanded.do("invlpg", REGION + 0x1000)
    assert commanded.do("write", REGION + 0x1000).fault == (3, REGION + 0x1000)
    commanded.do("write", TABLES[0], 0)
    assert 0 not in {entry.slot for entry in table_of(shadow, TABLES[0]).entries}


def test_a_directory_never_leaves_step():
    commanded, shadow = ready()
    traced = shadow.counters["traced writes"]
    for _ in range(5):
        commanded.do("write", ROOTS[0] + 8, TABLES[1] | 7)
    assert shadow.counters["traced writes"] - traced == 5
    assert shadow.counters["unsyncs"] <= 1
    assert not table_of(shadow, ROOTS[0], 2).out_of_step


def test_a_directory_that_is_one_no_more_is_let_go():
    commanded, shadow = ready()
    commanded.do("write", ROOTS[1] + 4, TABLES[0] | 7)
    commanded.do("root", ROOTS[1])
    commanded.do("read", REGION)
    commanded.do("root", ROOTS[0])
    assert table_of(shadow, ROOTS[1], 2)
    traced = shadow.counters["traced writes"]
    for n in range(20):
        commanded.do("write", ROOTS[1] + 0x40 + 4 * n, n)
    assert shadow.counters["floods"] == 1
    assert shadow.counters["traced writes"] - traced == 2
    assert all(each.role.table != ROOTS[1] for each in shadow.tables())


def test_an_empty_table_is_let_go_under_each_policy():
    for policy in POLICIES:
        commanded, shadow = ready(policy)
        exits = commanded.guest.exits
        for slot in range(3):
            commanded.do("write", TABLES[0] + 4 * slot, 0)
        commanded.do("root", ROOTS[0])
        for n in range(20):
            commanded.do("write", TABLES[0] + 0x40 + 4 * n, n << 12)
        before = exits.total()
        for n in range(20):
            commanded.do("write", TABLES[0] + 0x40 + 4 * n, 0)
        assert exits.total() - before <= 1  # the counter's interrupt
        assert all(each.role.table != TABLES[0] for each in shadow.tables())


def test_tables_make_room_for_others(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.shadow_pages.MOST_PAGES", 8)
    for policy in POLICIES:
        commanded, shadow = ready(policy)
        for region in range(2, 30):
            table = 0x310000 + (region << 12)
            commanded.memory.write(table, 4, DATA[region % 3] | 7)
            commanded.do("write", ROOTS[0] + 4 * region, table | 7)
        for region in range(2, 30):
            assert commanded.do("read", region << 22).value == region % 3
        assert len(shadow.pages.pages) <= 8
        assert shadow.pages.evictions > 20
        assert sorted([*commanded.system.switcher.host.free, *shadow.pages.pages]) == commanded.system._loose


def test_two_tables_that_lead_to_one_share_its_shadow_unless_their_rights_differ():
    commanded, shadow = ready()
    for region, rights in ((2, 7), (3, 5)):
        commanded.do("write", ROOTS[0] + 4 * region, TABLES[0] | rights)
        commanded.do("read", region << 22)
    shadows = [each for each in shadow.tables() if each.role.table == TABLES[0]]
    assert sorted((len(each.parents), each.role.access) for each in shadows) == [(1, 5), (2, 7)]


def test_the_hypervisor_is_told_of_writes_by_others():
    """A debugger, or a device, that writes to a table in step: its shadow follows at once."""
    commanded, shadow = ready("traced")
    commanded.memory.write(TABLES[0], 4, DATA[2] | 7)
    assert commanded.do("invlpg", REGION).fault is None
    assert commanded.do("read", REGION).value == 2
    commanded.memory.write_bytes(TABLES[0], bytes(12))
    commanded.do("root", ROOTS[0])
    assert [commanded.do("read", REGION + (slot << 12)).fault for slot in range(3)] == [
        (0, REGION + (slot << 12)) for slot in range(3)
    ]
    assert shadow.traces.counters["zaps"] >= 3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_saved_shadow_goes_on_as_the_one_it_was(policy):
    image = kernel(TWO_SPACES)
    options = {"memory": 8 << 20, "max_instructions": 100_000, "shadow_policy": policy}
    first, second = (build(image, "trap-and-emulate", **options) for _ in range(2))
    while not first.finished:
        first.advance(700)
        second.machine.memory.load(first.machine.memory.save())
        second.load(first.save())
        assert second.save() == first.save()
        assert shadow_of(second, 0).tables() == shadow_of(first, 0).tables()
        for system in (first, second):
            system.advance(300)
        assert seen(first.guests[0]) == seen(second.guests[0])
        assert shadow_of(first, 0).counters == shadow_of(second, 0).counters
    assert first.guests[0].outcome == "exit"


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_gives_the_same_results(policy):
    image = kernel(TWO_SPACES)
    native, virtual = finish(image, "native"), finish(image, "trap-and-emulate", shadow_policy=policy)
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))


def test_a_policy_is_one_of_those_there_are_and_for_shadow_tables():
    image = kernel("main: call quit")
    with pytest.raises(OptionError, match="unknown shadow policy 'lazy': choose one of cached, traced, flush"):
        build(image, "trap-and-emulate", shadow_policy="lazy")
    for under in ("native", "vt-x"):
        with pytest.raises(OptionError, match="leave shadow_policy out"):
            build(image, under, shadow_policy="flush")
