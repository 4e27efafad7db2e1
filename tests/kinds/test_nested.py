"""A guest that is itself a hypervisor, as a kind: its parts, who has control, the way of an event; and in a partition of its own."""

from __future__ import annotations

import pytest

from tests.vmm.harness import differences, seen
from vmlab import guests
from vmlab.errors import OptionError
from vmlab.kinds.presets import preset
from vmlab.vmm.run import run

NAME = "nested virtualization"
LINE = "primes 303 disk e3ad8000 pages 36"


def natively():
    image = guests.load("nested_host")
    return run(image, disks=[guests.workload_disk()], memory=8 << 20, cpu="westmere")


def at(running, *names):
    """Run until a part has control; return it, as it is then."""
    while running.in_control not in names:
        assert not running.finished
        running.advance(7)
    return running.find(running.in_control)


def test_a_hypervisor_has_a_guest_once_it_has_launched_one():
    running = preset(NAME, guests=1)
    kernel = at(running, "guest0/kernel")
    assert kernel.layer == "guest kernel"
    assert kernel.privilege == "ring 0, non-root"  # it boots as any kernel does
    hypervisor = at(running, "guest0/vmm")
    assert (hypervisor.layer, hypervisor.runs_on) == ("guest vmm", ("vmm",))
    assert hypervisor.state["VMCS"] == "not launched"
    assert "guest0/kernel" not in [part.name for part in running.parts()]
    kernel = at(running, "guest0/kernel")
    assert kernel.label == "guest of L1 hypervisor 0: workload"
    assert kernel.privilege == "ring 0, non-root to both"
    assert kernel.runs_on == ("guest0/vmm",)
    assert kernel.traps_to == ("vmm", "guest0/vmm")
    assert running.find("guest0/vmm").state["VMCS"] == "launched"
    assert at(running, "guest0/user").privilege == "ring 3, non-root to both"
    assert running.find("hardware/cpu").privilege == "ring 3, non-root"


def test_control_is_where_the_processor_is():
    running = preset(NAME, guests=1)
    system = running.system
    found = set()
    while not running.finished:
        running.advance(13)
        control, vcpu, cpu = running.in_control, system.guests[0].vcpu, system.machine.cpu
        found.add(control)
        assert (control == "vmm") == (not cpu.non_root)
        if control in ("guest0/vmm", "guest0/user"):
            assert vcpu.non_root == (control == "guest0/user")
    assert found == {"guest0/user", "guest0/kernel", "guest0/vmm", "vmm"}
    assert differences(seen(natively().guests[0]), seen(system.guests[0])) == []
    fills = system.memories[0].paging.fills + system.memories[0].nested.fills
    assert running.cycles_by_cause()["nested paging"] == fills * system.machine.cpu.model.costs.vmm_nested_fill


def test_a_page_fault_goes_through_both_hypervisors():
    """Its handler touches a frame that L1 has not mapped: L0 hands the exit on, and each VMREAD of L1 comes back to L0."""
    journey = preset(NAME, guests=1).follow("page fault")
    assert set(journey.parts) == {"guest0/user", "guest0/kernel", "vmm", "guest0/vmm"}
    said = [leg.what for leg in journey.legs if leg.part == "vmm"]
    assert "of its own guest" in said[0]
    assert sum("vmread" in what for what in said) >= 2
    assert sum("vmresume" in what for what in said) == 1
    order = [leg.part for leg in journey.legs]
    assert order.index("vmm") < order.index("guest0/vmm")
    assert journey.cycles > 5 * preset("IBM LPAR", guests=1, nested=1).follow("page fault").cycles


@pytest.mark.parametrize("event", ["system call", "timer interrupt", "disk read"])
def test_what_the_inner_hypervisor_has_left_to_its_guest_does_not_come_to_it(event):
    journey = preset(NAME, guests=1).follow(event)
    assert "guest0/vmm" not in journey.parts
    assert ("vmm" in journey.parts) == (event != "system call")


def test_the_fall_of_one_takes_its_guest_with_it_and_nothing_else():
    running = preset(NAME)
    assert running.crash() == (1, 1)
    at(running, "guest1/user")
    running.kill("guest1/vmm")
    assert not any(part.name.startswith("guest1/") for part in running.parts())
    assert running.run().results == {"guest0": LINE}


@pytest.mark.parametrize("guests", [1, 2])
def test_a_partition_whose_kernel_is_a_hypervisor(guests):
    """It has a processor with VT-x to itself: it is the root, and nothing is emulated for it."""
    running = preset("IBM LPAR", guests=guests, nested=1)
    last = f"guest{guests}"
    hypervisor = at(running, f"{last}/vmm")
    assert hypervisor.privilege == "ring 0, root"
    assert hypervisor.runs_on == (f"hardware/cpu{guests}",)
    assert hypervisor.traps_to == ("firmware",)
    assert running.find(f"hardware/memory{guests}").assigned_to == f"{last}/vmm"
    while running.in_control != f"{last}/kernel":
        running.advance(7)
    kernel = running.find(f"{last}/kernel")
    assert (kernel.privilege, kernel.runs_on, kernel.traps_to) == (
        "ring 0, non-root",
        (f"{last}/vmm",),
        (f"{last}/vmm",),
    )
    running.run()
    assert list(running.results.values()) == [LINE] * guests
    system = running.system
    assert differences(seen(natively().guests[0]), seen(system.guests[guests])) == []
    # What its processor did costs what it costs a hypervisor of ours: 19 VM entries, each with its exit.
    assert running.cycles_by_cause()["VM exits and entries"] == 19 * 761


@pytest.mark.parametrize("value", [2, -1, True, "1", None])
def test_what_nested_can_be(value):
    with pytest.raises(OptionError, match="nested is 1 where"):
        preset("Oracle LDOM", nested=value)
