"""Page tables as graphs, and the map of memory: what stands in memory, and no more."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.machine.paging import PRESENT
from vmlab.views.page_tables import describe_page_tables, page_table_rows, shadow_entries
from vmlab.views.page_tables_figure import page_tables_figure
from vmlab.views.theme import MODES
from vmlab.vmm.walk_lab import WalkLab

MEMORY = 2 << 20


@pytest.fixture(scope="module")
def middle(pair):
    """Two guests under trap-and-emulate, when both have processes."""
    pair.seek(pair.length * 2 // 3)
    return pair


def test_the_graph_is_what_stands_in_memory(native):
    native.seek(native.length - 300)
    cpu = native.system.machine.cpu
    graph = vmlab.page_tables(native)
    directory = [cpu.memory.read(cpu.cr3 + 4 * slot, 4) for slot in range(1024)]
    tables = {entry & -0x1000 for entry in directory if entry & PRESENT}
    assert {data["address"] for _, data in graph.nodes(data=True) if data["kind"] == "table"} == {cpu.cr3, *tables}
    mapped = {}
    for _, data in graph.nodes(data=True):
        if data["kind"] == "pages":
            for page in range(0, data["span"], 0x1000):
                mapped[data["linear"] + page] = data["address"] + page
    expected = {
        slot << 22 | page << 12: entry & -0x1000
        for slot, table in enumerate(directory)
        if table & PRESENT
        for page in range(1024)
        if (entry := cpu.memory.read((table & -0x1000) + 4 * page, 4)) & PRESENT
    }
    assert mapped == expected


def test_each_shadow_table_is_tied_to_the_one_it_shadows(middle):
    system = middle.system
    for guest in (0, 1):
        graph = vmlab.page_tables(middle, guest=guest, which="shadow")
        shadow = system.worlds[guest].shadow
        nodes = {data["address"]: node for node, data in graph.nodes(data=True) if data["dimension"] == "shadow" and data["kind"] == "table"}  # fmt: skip
        assert set(nodes) == set(shadow.pages.pages)
        vcpu = system.guests[guest].vcpu
        ties = [(source, target) for source, target, data in graph.edges(data=True) if data["relation"] == "shadows"]
        assert ties
        for source, target in ties:
            role = shadow.pages.pages[graph.nodes[source]["address"]].role
            assert graph.nodes[target]["address"] == role.table
        assert any(graph.nodes[target]["address"] == vcpu.cr3 for _, target in ties)


def test_a_stale_entry_is_marked():
    run = vmlab.run(vmlab.guests.load("minios"), under="trap-and-emulate", memory=MEMORY)
    system = run.system
    shadow, memory = system.worlds[0].shadow, system.guests[0].memory
    assert all(not data["stale"] for _, data in vmlab.page_tables(run, which="shadow").nodes(data=True))
    table = next(each for each in shadow.tables() if each.role.level == 1 and not each.role.direct)
    entry = table.entries[0]
    shadow.traces.unwatch(table.role.table >> 12)
    host = memory.host_address(table.role.table + 4 * entry.slot)
    system.machine.memory.data[host : host + 4] = (0x7000 | entry.now & 0xFFF).to_bytes(4, "little")
    graph = vmlab.page_tables(run, which="shadow")
    stale = {node: data["stale"] for node, data in graph.nodes(data=True) if data["stale"]}
    assert f"shadow table {table.address:#x}" in stale
    changed = 0x7000 | entry.now & 0xFFF
    assert (entry.slot, entry.source, changed) in stale[f"shadow table {table.address:#x}"]
    assert f"by now {changed:#x}" in describe_page_tables(graph)
    rows = [row["state"] for row in shadow_entries(run) if row["state"].startswith("≠")]
    assert rows
    assert set(rows) == {f"≠ stale: from {entry.source:#x}"}
    boxes = page_tables_figure(graph)
    assert any("≠ 1 stale" in annotation.text for annotation in boxes.layout.annotations)


def test_shadow_entries_beside_the_guest_s(middle):
    system = middle.system
    memory, window = system.machine.memory, system.guests[0].memory
    rows = shadow_entries(middle)
    assert {row["state"] for row in rows} == {"= in step", "= write-protected"}
    for row in rows:
        table, slot = row["shadow"].split(" ")[1].rstrip("]").split("[")
        assert memory.read(int(table, 16) + 4 * int(slot), 4) == int(row["shadow entry"], 16)
        if row["guest table"]:
            assert window.read(int(row["guest table"], 16) + 4 * int(slot), 4) == int(row["guest entry"], 16)
            if row["state"] == "= write-protected":
                assert int(row["guest entry"], 16) & 2 > int(row["shadow entry"], 16) & 2


def test_tables_of_a_laboratory():
    lab = WalkLab("4-level", "ept")
    for which, tables in (("guest", lab.guest), ("host", lab.host)):
        graph = vmlab.page_tables(lab, which=which)
        assert {data["address"] for _, data in graph.nodes(data=True) if data["kind"] == "table"} == set(tables.tables)
    with pytest.raises(OptionError, match="no guest tables"):
        vmlab.page_tables(WalkLab(None, "ept"))


def test_what_is_not_there_is_refused(middle, native):
    with pytest.raises(OptionError, match="which tables: one of guest, shadow, host"):
        vmlab.page_tables(middle, which="nested")
    with pytest.raises(
        OptionError, match="no nested page tables here: memory virtualization is 'shadow' under trap-and-emulate"
    ):
        vmlab.page_tables(middle, which="host")
    with pytest.raises(OptionError, match="no shadow page tables here"):
        vmlab.page_tables(native, which="shadow")
    with pytest.raises(OptionError, match="no shadow page tables here"):
        shadow_entries(native)
    with pytest.raises(OptionError, match="there is no guest 2"):
        vmlab.page_tables(middle, guest=2)
    with pytest.raises(OptionError, match="paging is off"):
        vmlab.page_tables(vmlab.run(vmlab.guests.load("hello"), memory=MEMORY))
    for ask in (vmlab.page_tables, vmlab.memory_map):
        with pytest.raises(OptionError, match="takes a Run"):
            ask("minios")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", ["guest", "shadow"])
def test_the_figure_has_a_box_for_each_node(middle, mode, which):
    graph = vmlab.page_tables(middle, which=which)
    figure = page_tables_figure(graph, mode)
    assert len(figure.layout.shapes) == len(graph)
    places = {(shape.x0, shape.y0) for shape in figure.layout.shapes}
    assert len(places) == len(graph)
    assert len(page_table_rows(graph)) == len(graph)
    names = {trace.name for trace in figure.data}
    assert ("shadows" in names) == (which == "shadow")
    with pytest.raises(OptionError, match="no colours 'sepia'"):
        page_tables_figure(graph, "sepia")


def test_many_tables_share_a_box():
    lab = WalkLab("ia32", None)
    for n in range(60):
        lab.map(n << 22)
    graph = vmlab.page_tables(lab)
    figure = page_tables_figure(graph)
    assert len(figure.layout.shapes) < len(graph)
    assert any(" more" in annotation.text for annotation in figure.layout.annotations)


# -- the map --------------------------------------------------------------------------------------------------------------


def test_each_frame_has_one_owner(middle):
    system = middle.system
    found = vmlab.memory_map(middle)
    assert sum(each.count for each in found.ranges) == system.machine.memory.size >> 12
    at = 0
    owners = {}
    for each in found.ranges:
        assert each.first == at
        at += each.count
        owners |= dict.fromkeys(range(each.first, each.first + each.count), (each.kind, each.guests))
    for index, window in enumerate(guest.memory for guest in system.guests):
        for page, frame in enumerate(window.frames):
            kind, guests = owners[frame]
            assert guests == (index,)
            assert kind in {"memory", "mapped", "tables"}, page
        for address in system.worlds[index].shadow.pages.pages:
            assert owners[address >> 12] == ("shadow", (index,))
        root = window.frames[system.guests[index].vcpu.cr3 >> 12]
        assert owners[root] == ("tables", (index,))
    for address in system.switcher.host.free:
        assert owners[address >> 12] == ("free", ())


def test_what_user_mode_can_reach_is_what_its_tables_say(native):
    native.seek(native.length - 300)
    cpu = native.system.machine.cpu
    owned = {}
    for each in vmlab.memory_map(native).ranges:
        owned |= dict.fromkeys(range(each.first, each.first + each.count), each.kind)
    for page in range(0, 0x800000, 0x1000):
        seen = vmlab.walk(native, page, user=True)
        if seen.fault is None and seen.physical is not None:
            assert owned[seen.physical >> 12] == "mapped"
    assert owned[cpu.cr3 >> 12] == "tables"


def test_the_supervisor_s_directory_entry_hides_what_is_below():
    """User mode reaches a page where the entries of all levels say so (SDM vol. 3, 4.6)."""
    run = vmlab.run(vmlab.guests.load("minios"), memory=MEMORY)
    cpu = run.system.machine.cpu

    def mapped():
        return sum(each.count for each in vmlab.memory_map(run).ranges if each.kind == "mapped")

    before = mapped()
    entry = cpu.memory.read(cpu.cr3 + 4, 4)  # of the page table of the process
    cpu.memory.write(cpu.cr3 + 4, 4, entry & ~4)
    assert mapped() == before - 1
    assert vmlab.walk(run, 0x400000, user=True).fault.code == 5


def test_a_frame_that_two_guests_have_is_shared(pair):
    system = vmlab.run([vmlab.guests.load("minios")] * 2, under="trap-and-emulate", memory=MEMORY).system
    first, second = (guest.memory for guest in system.guests)
    second.frames[0x80] = first.frames[0x80]  # as page sharing would
    found = vmlab.memory_map(system)
    assert [(each.first, each.count) for each in found.ranges if each.kind == "shared"] == [(first.frames[0x80], 1)]
    assert "shared by guests (minios 0, minios 1)" in found.describe()


@pytest.mark.parametrize("mode", MODES)
def test_the_map_s_figure_counts_the_same(middle, mode):
    found = vmlab.memory_map(middle)
    figure = found.figure(mode)
    unit, cells = found.cells()
    assert unit == 1
    assert sum(len(trace.x) for trace in figure.data) == len(cells)
    assert len({trace.name for trace in figure.data}) == len(figure.data)  # a letter or a word tells them apart
    for (kind, _), count in found.counts().items():
        assert sum(each.kind == kind for each in cells) >= count
    assert len(found.rows()) == len(found.ranges)
    with pytest.raises(OptionError, match="no colours 'sepia'"):
        found.figure("sepia")


def test_a_large_memory_is_drawn_in_larger_cells():
    found = vmlab.memory_map(vmlab.run(vmlab.guests.load("hello"), memory=64 << 20))
    unit, cells = found.cells()
    assert unit > 1
    assert len(cells) * unit >= 64 << 8
