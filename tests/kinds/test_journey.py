"""Events followed through the layers: the hops are those that the organization of the system makes, their cycles are all that it cost."""

from __future__ import annotations

import pytest

from vmlab.errors import OptionError
from vmlab.kinds.journey import EVENTS, Leg, _compressed
from vmlab.kinds.presets import preset

EACH = ["native machine", "plain VM", "IBM LPAR", "Citrix XenServer", "Red Hat KVM", "VMware Workstation"]
ON_THE_WAY = {
    "native machine": {"guest0/user", "guest0/kernel"},
    "plain VM": {"guest0/user", "guest0/kernel", "vmm", "hardware/disk"},
    "IBM LPAR": {"guest1/user", "guest1/kernel", "firmware", "guest0/kernel"},
    "Citrix XenServer": {"guest1/user", "guest1/kernel", "vmm", "guest0/kernel"},
    "Red Hat KVM": {"guest0/user", "guest0/kernel", "vmm", "host/vm0", "host/kernel", "hardware/disk"},
    "VMware Workstation": {"guest0/user", "guest0/kernel", "vmm", "host/vm0", "host/kernel", "hardware/disk"},
}


@pytest.mark.parametrize("name", EACH)
def test_a_disk_read_goes_through_the_layers(name):
    journey = preset(name).follow("disk read")
    assert (
        ON_THE_WAY[name] <= set(journey.parts) <= ON_THE_WAY[name] | {"guest0/user"}
    )  # a control domain may have been at other work
    assert journey.legs[0].part == journey.legs[-1].part == f"guest{preset(name).preset.first_guest}/user"
    assert journey.hops == sum(leg.times for leg in journey.legs) - 1
    assert journey.cycles > 500 * 3  # 256 words at least, whoever takes them


@pytest.mark.parametrize("name", EACH)
def test_a_system_call_stays_in_the_guest(name):
    """With hardware assistance nobody but the guest has to do with it; its cycles are those of the trap and of a few instructions."""
    journey = preset(name).follow("system call")
    assert [leg.part.partition("/")[2] for leg in journey.legs] == ["user", "kernel", "user"]
    assert 889 < journey.cycles < 1_000


@pytest.mark.parametrize("name", EACH)
def test_a_page_fault_is_the_guests_own_but_its_new_frame_is_not(name):
    journey = preset(name).follow("page fault")
    first, kernel, *middle, last = journey.legs
    assert (first.part, kernel.part, last.part) == (last.part, kernel.part, first.part)
    assert "#PF" in first.what
    virtual = name not in ("native machine", "IBM LPAR")
    assert ["EPT violation" in leg.what for leg in middle if leg.part == "vmm"] == [True] * virtual


def test_a_timer_interrupt_comes_from_the_virtual_timer():
    native, virtual = (preset(name).follow("timer interrupt") for name in ("native machine", "plain VM"))
    assert native.parts == ("guest0/user", "guest0/kernel")
    assert "vmm" in virtual.parts
    assert native.hops < virtual.hops


def test_type_2_has_the_longest_way():
    hops = {name: preset(name).follow("disk read").hops for name in EACH}
    assert (
        hops["native machine"] < hops["IBM LPAR"] < hops["plain VM"] < hops["Red Hat KVM"] < hops["VMware Workstation"]
    )
    switches = [leg for leg in preset("VMware Workstation").follow("disk read").legs if "world switch" in leg.what]
    assert switches
    assert all(leg.cycles >= 3261 for leg in switches)


def test_a_way_in_words_and_as_rows():
    journey = preset("native machine").follow("page fault")
    assert journey.describe().startswith("page fault: 2 hops, ")
    assert repr(journey) == journey.describe()
    assert [row["part"] for row in journey.rows()] == [leg.part for leg in journey.legs]
    with pytest.raises(OptionError, match="no event 'lunch'"):
        preset("native machine").follow("lunch")
    assert len(EVENTS) == 4


def test_what_repeats_is_joined():
    one, two, three = Leg("a", "x", 3), Leg("b", "y", 10), Leg("c", "z", 1)
    found = _compressed([one, two, Leg("a", "x", 4), two, three])
    assert found == (Leg("a", "x", 4, 2), Leg("b", "y", 10, 2), three)
    assert _compressed([one, two, three]) == (one, two, three)


def test_a_ported_guest_asks_its_hypervisor():
    xen = preset("Xen")
    read, fault, call = (xen.follow(event) for event in ("disk read", "page fault", "system call"))
    assert set(read.parts) == set(fault.parts) == {"guest0/user", "guest0/kernel", "vmm"}
    assert [leg for leg in read.legs if "hypercall event_channel_op" in leg.what]
    assert "injects #PF" in fault.legs[1].what
    assert [leg for leg in fault.legs if "update_va_mapping" in leg.what]
    assert call.hops == 2  # straight to its kernel, by a gate that the hypervisor has set
    assert read.hops < preset("plain VM").follow("disk read").hops
