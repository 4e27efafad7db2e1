"""PCI configuration space, as a kernel scans it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.devices.pci import PciBus
from vmlab.machine.memory import PhysicalMemory

ADDRESS, DATA, RESET = 0xCF8, 0xCFC, 0xCF9


class Rig:
    def __init__(self):
        self.pci = PciBus()
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.pci.attach(self.bus)
        self.resets = []
        self.pci.on_reset = lambda: self.resets.append(1)

    def select(self, device, function=0, register=0, bus=0):
        self.bus.port_write(ADDRESS, 4, 1 << 31 | bus << 16 | device << 11 | function << 8 | register & 0xFC)

    def read(self, device, function, register, size=4, bus=0):
        self.select(device, function, register, bus)
        return self.bus.port_read(DATA + register % 4, size)

    def write(self, device, function, register, size, value):
        self.select(device, function, register)
        self.bus.port_write(DATA + register % 4, size, value)


@pytest.fixture
def rig():
    return Rig()


def test_a_scan_finds_the_chip_set(rig):
    found = {}
    for bus in (0, 1, 255):
        for device in range(32):
            for function in range(8):
                identity = rig.read(device, function, 0, bus=bus)
                if identity != 0xFFFFFFFF:
                    found[bus, device, function] = identity, rig.read(device, function, 8) >> 8
    assert found == {
        (0, 0, 0): (0x12378086, 0x060000),
        (0, 1, 0): (0x70008086, 0x060100),
        (0, 1, 1): (0x70108086, 0x010180),
    }


def test_the_second_device_has_several_functions(rig):
    assert rig.read(0, 0, 0x0E, 1) == 0
    assert rig.read(1, 0, 0x0E, 1) == 0x80


def test_parts_of_registers(rig):
    assert rig.read(1, 1, 0, 2) == 0x8086
    assert rig.read(1, 1, 2, 2) == 0x7010
    assert rig.read(1, 1, 0x0A, 1) == 0x01
    assert rig.read(1, 1, 0x0B, 1) == 0x01


def test_what_is_not_there_reads_as_all_ones_and_swallows_writes(rig):
    before = rig.pci.save()
    rig.write(5, 0, 4, 4, 0x12345678)
    assert rig.read(5, 0, 4, 2) == 0xFFFF
    rig.bus.port_write(ADDRESS, 4, 0)
    rig.bus.port_write(DATA, 4, 0)
    assert rig.bus.port_read(DATA, 4) == 0xFFFFFFFF, "not enabled"
    assert rig.pci.save()["spaces"] == before["spaces"]


def test_the_address_is_written_as_a_whole(rig):
    rig.bus.port_write(ADDRESS, 4, 0xFFFFFFFF)
    assert rig.bus.port_read(ADDRESS, 4) == 0x80FFFFFC
    rig.bus.port_write(ADDRESS, 1, 0)
    rig.bus.port_write(ADDRESS + 2, 2, 0)
    assert rig.bus.port_read(ADDRESS, 4) == 0x80FFFFFC
    assert rig.bus.port_read(ADDRESS, 1) == 0xFF
    assert rig.bus.port_read(ADDRESS + 2, 2) == 0xFFFF


def test_what_can_be_written(rig):
    rig.write(1, 1, 0, 4, 0)
    assert rig.read(1, 1, 0) == 0x70108086
    rig.write(1, 1, 0x3C, 1, 14)
    assert rig.read(1, 1, 0x3C) == 14
    for register in (*range(0x10, 0x20, 4), 0x24):
        rig.write(1, 1, register, 4, 0xFFFFFFFF)
        assert rig.read(1, 1, register) == 0, "no base address"
    assert rig.read(1, 1, 0x20) == 0xC001
    rig.write(1, 1, 0x20, 4, 0xFFFFFFFF)
    assert rig.read(1, 1, 0x20) == 0xFFF1, "sixteen ports"
    rig.pci.note((1, 1), 0x3000)
    assert rig.read(1, 1, 6, 2) == 0x3280
    rig.write(1, 1, 6, 2, 0xDFFF)
    assert rig.read(1, 1, 6, 2) == 0x2280, "writing 1 clears"
    rig.write(1, 1, 4, 4, 0x20000000)
    assert rig.read(1, 1, 6, 2) == 0x0280
    rig.write(1, 0, 0x62, 1, 0x8B)
    assert rig.read(1, 0, 0x60) == 0x808B8080
    rig.write(1, 1, 4, 2, 0)
    assert rig.read(1, 1, 4, 2) == 0


def test_reset_control(rig):
    rig.bus.port_write(RESET, 1, 0x02)
    assert rig.resets == []
    rig.bus.port_write(RESET, 1, 0x06)
    assert rig.resets == [1]
    assert rig.bus.port_read(RESET, 1) == 0x06
    rig.bus.port_write(RESET, 1, 0x06)
    assert rig.resets == [1], "bit 2 must rise"
    PciBus().write(1, 1, 6)


_actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.integers(0, 2),
            st.integers(0, 1),
            st.integers(0, 255),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 0xFFFFFFFF),
        ),
        st.tuples(
            st.just("read"), st.integers(0, 2), st.integers(0, 1), st.integers(0, 255), st.sampled_from([1, 2, 4])
        ),
    ),
    max_size=20,
)


def act(rig, actions):
    return [getattr(rig, name)(*values) for name, *values in actions]


@given(before=_actions, after=_actions)
def test_a_loaded_bus_goes_on_as_the_saved_one(before, after):
    rig, other = Rig(), Rig()
    act(rig, before)
    other.pci.load(rig.pci.save())
    assert act(other, after) == act(rig, after)
    assert other.pci.save() == rig.pci.save()


def test_damaged_states_are_refused_and_change_nothing(rig):
    rig.write(1, 1, 0x3C, 1, 14)
    good = rig.pci.save()
    spaces = good["spaces"]
    for change in (
        {"version": 2}, {"address": -1}, {"reset_control": 8}, {"spaces": spaces[:2]}, {"spaces": [bytes(255)] * 3},
        {"spaces": [*spaces[:2], spaces[0]]},
    ):  # fmt: skip
        with pytest.raises(StateError, match="pci"):
            rig.pci.load(good | change)
    assert rig.pci.save() == good
