"""Page walks and maps of guests with hardware assistance: two dimensions, or shadow tables with real rings."""

from __future__ import annotations

import itertools

import pytest

import vmlab
from vmlab.machine.page_tables import table_entries
from vmlab.views.walk_scene import walk_script
from vmlab.vmm.page_walk import guest_space, host_space, reader

MEMORY = 2 << 20
USER_PAGE = 0x400000  # where minios maps its process


@pytest.fixture(scope="module", params=["nested", "shadow"])
def assisted(request):
    image = vmlab.guests.load("minios")
    recording = vmlab.record(image, under="vt-x", memory_virtualization=request.param, memory=MEMORY)
    recording.seek(recording.length - 300)
    return recording


@pytest.fixture(scope="module")
def nested():
    return vmlab.record(vmlab.guests.load("minios"), under="vt-x", memory_virtualization="nested", memory=MEMORY)


def test_two_dimensions_lead_where_the_processor_goes(nested):
    """14 references: (2 + 1)(4 + 1) - 1 (FACTS.md)."""
    nested.seek(nested.length - 300)
    system = nested.system
    cpu = system.machine.cpu
    assert cpu.non_root
    for address in (cpu.linear_ip, USER_PAGE):
        seen = vmlab.walk(nested, address)
        assert seen.kind == "nested"
        own = cpu.page_walk(address, write=False, user=cpu.cpl == 3, mark=False)
        assert seen.physical == own.frame | address & 0xFFF
        assert seen.references == own.references == 14
        assert seen.physical == system.guests[0].memory.host_address(seen.found.guest_frame | address & 0xFFF)
        for step in seen.steps:
            assert cpu.memory.read(step.address, step.entry_bytes) == step.entry


def test_a_look_changes_nothing(assisted):
    system = assisted.system
    before = system.save(), bytes(system.machine.memory.data)
    for address, access, user in itertools.product(
        (0, 0x100000, USER_PAGE, 0x900000), ("read", "write", "fetch"), (True, False)
    ):
        vmlab.walk(assisted, address, access=access, user=user)
    vmlab.memory_map(assisted)
    vmlab.page_tables(assisted)
    assert (system.save(), bytes(system.machine.memory.data)) == before


def test_the_guest_sees_the_same_as_natively(assisted, native):
    """At the end of the same program: the same guest-physical pages, the same faults."""
    assisted.seek(assisted.length)
    native.seek(native.length)
    for page, user in itertools.product((*range(0, 0x200000, 0x11000), USER_PAGE, 0x900000), (True, False)):
        one, other = vmlab.walk(assisted, page, user=user), vmlab.walk(native, page, user=user)
        if other.found is None:
            assert one.fault == other.fault
        elif one.kind == "shadow":
            assert one.sight.guest.physical == other.physical
        elif one.found is not None:  # otherwise the host has not mapped it yet
            assert one.found.guest_frame == other.found.frame
        else:
            assert one.fault.name == "EPT violation, VM exit 48"
            assert f"{other.physical & -0x1000:#x}"[:-3] in one.fault.text


def test_between_an_exit_and_its_handling_the_tables_are_the_guest_s(nested):
    """What the guest has written to CR3 since its last exit is then in the VMCS alone."""
    stale = 0
    for event in nested.events:
        if event.kind != "exit":
            continue
        nested.seek(event.step - 1)
        system = nested.system
        assert (system.in_vmm, system.phase) == (True, "handle")
        vcpu, space = guest_space(system, 0)
        if space is None or space.root == vcpu.cr3:
            continue
        stale += 1
        assert space.top == vmlab.walk(nested, USER_PAGE).sight.guest.guest.top
        nested.seek(event.step)  # the hypervisor has taken over what the guest had changed
        assert vcpu.cr3 == space.root
    assert stale


def test_a_guest_without_paging_is_walked_in_the_host_s_dimension_alone(nested):
    nested.seek(40)
    seen = vmlab.walk(nested, 0x100000)
    assert seen.kind == "host"
    assert [step.dimension for step in seen.steps] == ["host"] * 4
    assert seen.physical == nested.system.guests[0].memory.host_address(0x100000)
    assert walk_script(seen)["scenes"][-1]["cell"] == [0, 0, 4]
    absent = vmlab.walk(nested, 0xB8000)
    assert absent.fault.name == "EPT violation, VM exit 48"


def test_nested_tables_are_on_the_map(nested):
    nested.seek(nested.length - 300)
    system = nested.system
    host = host_space(system, 0)
    tables = {each.table for each in table_entries(host, reader(system.machine.cpu))}
    owned = {}
    for each in vmlab.memory_map(nested).ranges:
        owned |= dict.fromkeys(range(each.first, each.first + each.count), each.kind)
    assert {frame << 12 for frame, kind in owned.items() if kind == "nested"} == tables
    graph = vmlab.page_tables(nested, which="host")
    assert {data["address"] for _, data in graph.nodes(data=True) if data["kind"] == "table"} == tables
    window = system.guests[0].memory
    for _, data in graph.nodes(data=True):
        if data["kind"] == "pages":
            for page in range(0, data["span"], 0x1000):
                assert window.host_address(data["linear"] + page) == data["address"] + page
