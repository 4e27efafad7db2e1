"""The bus: claims, overlap, byte lanes, holes, counting."""

from __future__ import annotations

import pytest

from vmlab.errors import OptionError
from vmlab.machine.bus import Bus
from vmlab.machine.memory import MemoryWindow, PhysicalMemory


class Registers:
    """A device of eight byte registers (or of memory) that remembers accesses."""

    def __init__(self, name="registers", size=8):
        self.name = name
        self.bytes = bytearray(range(size)) if size <= 256 else bytearray(size)
        self.log = []

    def read(self, offset, size):
        self.log.append(("read", offset, size))
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset, size, value):
        self.log.append(("write", offset, size, value))
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")

    def save(self):
        return {"version": 1}

    def load(self, state):
        pass


@pytest.fixture
def bus():
    return Bus(PhysicalMemory(1 << 20))


def test_a_device_sees_offsets(bus):
    device = Registers()
    bus.add_ports(device, 0x300, 4)
    bus.add_ports(device, 0x500, 2, offset=4)
    assert bus.port_read(0x302, 1) == 2
    assert bus.port_read(0x501, 1) == 5
    bus.port_write(0x303, 1, 0xAB)
    assert device.log == [("read", 2, 1), ("read", 5, 1), ("write", 3, 1, 0xAB)]
    assert bus.devices == {"registers": device}
    assert bus.device_at_port(0x303) is device
    assert bus.device_at_port(0x304) is None


def test_unclaimed_ports_float_high(bus):
    assert [bus.port_read(0x999, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]
    bus.port_write(0x999, 4, 5)


def test_wide_accesses_reach_a_byte_device_as_bytes(bus):
    device = Registers()
    bus.add_ports(device, 0x300, 4)
    assert bus.port_read(0x301, 2) == 0x0201
    bus.port_write(0x300, 2, 0xBBAA)
    assert device.log == [("read", 1, 1), ("read", 2, 1), ("write", 0, 1, 0xAA), ("write", 1, 1, 0xBB)]
    assert bus.port_read(0x303, 2) == 0xFF03, "the byte after the range floats"
    assert bus.port_read(0x2FF, 2) == 0xAAFF


def test_wide_devices_take_wide_accesses_whole(bus):
    device = Registers()
    bus.add_ports(device, 0x300, 4, width=4)
    assert bus.port_read(0x300, 4) == 0x03020100
    bus.port_write(0x300, 4, 1)
    bus.port_read(0x302, 4)
    assert device.log == [("read", 0, 4), ("write", 0, 4, 1), ("read", 2, 1), ("read", 3, 1)]


def test_ports_wrap_at_the_end_of_their_space(bus):
    low, high = Registers("low"), Registers("high")
    bus.add_ports(low, 0, 1)
    bus.add_ports(high, 0xFFFF, 1)
    low.bytes[0], high.bytes[0] = 0x11, 0x22
    assert bus.port_read(0xFFFF, 2) == 0x1122


@pytest.mark.parametrize(("base", "count"), [(0x2FF, 2), (0x303, 1), (0x301, 1), (0x200, 0x200)])
def test_overlapping_ports_are_refused_by_name(bus, base, count):
    bus.add_ports(Registers("first"), 0x300, 4)
    with pytest.raises(OptionError, match=r"port .* second overlaps port 0300-0303 first"):
        bus.add_ports(Registers("second"), base, count)
    assert "second" not in bus.devices


def test_ranges_outside_and_names_taken_are_refused(bus):
    for base, count in ((-1, 2), (0xFFFF, 2), (0, 0), ("0", 1)):
        with pytest.raises(OptionError, match="registers"):
            bus.add_ports(Registers(), base, count)
    bus.add_ports(Registers("same"), 0, 1)
    with pytest.raises(OptionError, match="unique"):
        bus.add_ports(Registers("same"), 8, 1)
    for base, length in ((0x1800, 0x1000), (0x1000, 0x800)):
        with pytest.raises(OptionError, match="multiples of 0x1000"):
            bus.add_mmio(Registers("odd"), base, length)
    with pytest.raises(OptionError, match="0-0xfffffffffffff"):
        bus.add_mmio(Registers("far"), 0xF_FFFF_FFFF_F000, 0x2000)


def test_memory_mapped_devices_hide_ram(bus):
    device = Registers("screen", 0x2000)
    bus.memory.write(0xB8000, 4, 0x12345678)
    assert bus.is_ram(0xB8000)
    bus.add_mmio(device, 0xB8000, 0x2000)
    assert [bus.is_ram(address) for address in (0xB7FFF, 0xB8000, 0xB9FFF, 0xBA000)] == [True, False, False, True]
    assert bytes(bus.ram_pages[0xB7:0xBB]) == bytes([1, 0, 0, 1])
    assert bus.read(0xB8000, 4) == 0
    bus.write(0xB9FFC, 4, 0xCAFE)
    assert device.log[-1] == ("write", 0x1FFC, 4, 0xCAFE)
    assert bus.memory.read(0xB8000, 4) == 0x12345678
    with pytest.raises(OptionError, match="late overlaps memory 000b8000-000b9fff screen"):
        bus.add_mmio(Registers("late"), 0xB9000, 0x1000)


def test_accesses_across_a_border_split(bus):
    device = Registers("screen", 0x1000)
    device.bytes[:2] = b"\x33\x44"
    bus.memory.write_bytes(0xB7FFE, b"\x11\x22")
    bus.add_mmio(device, 0xB8000, 0x1000)
    assert bus.read(0xB7FFE, 4) == 0x44332211
    bus.write(0xB7FFF, 2, 0xBBAA)
    assert bus.memory.read(0xB7FFF, 1) == 0xAA
    assert device.bytes[0] == 0xBB
    assert bus.memory.take_dirty() == [0xB7]


def test_nobody_answers_beyond_ram(bus):
    assert [bus.read(1 << 20, size) for size in (1, 2, 4, 8)] == [(1 << 8 * size) - 1 for size in (1, 2, 4, 8)]
    bus.write(1 << 20, 4, 5)
    bus.memory.write(0xFFFFE, 2, 0x2211)
    assert bus.read(0xFFFFE, 4) == 0xFFFF2211
    assert not bus.is_ram(1 << 20)
    assert bus.read(0xFFFF_FFFE, 4) == 0xFFFF_FFFF
    assert bus.read(0xF_FFFF_FFFF_FFFE, 4) == 0x0000_FFFF, "physical addresses have 52 bits"


def test_accesses_are_counted_and_observed(bus):
    seen = []
    device = Registers()
    bus.add_ports(device, 0x300, 4)
    bus.add_mmio(Registers("screen", 0x1000), 0xB8000, 0x1000)
    bus.on_access = bus.on_memory_access = lambda *access: seen.append(access)
    bus.port_read(0x301, 1)
    bus.port_write(0x301, 1, 9)
    bus.port_read(0x999, 2)
    bus.write(0xB8004, 2, 3)
    bus.read(0x1000, 4)
    assert bus.port_accesses == {0x301: 2, 0x999: 1}
    assert seen == [
        (0x301, 1, 1, False, "registers"),
        (0x301, 1, 9, True, "registers"),
        (0x999, 2, 0xFFFF, False, None),
        (0xB8004, 2, 3, True, "screen"),
    ], "plain RAM is not an access to a device"


def test_describe_lists_both_maps(bus):
    bus.add_ports(Registers(), 0x300, 4)
    bus.add_mmio(Registers("screen", 0x1000), 0xB8000, 0x1000)
    assert [each.describe() for each in bus.describe()] == [
        "memory 00000000-000b7fff RAM",
        "memory 000b8000-000b8fff screen",
        "memory 000b9000-000fffff RAM",
        "port 0300-0303 registers",
    ]


def test_a_bus_on_a_guests_window():
    host = PhysicalMemory(1 << 16)
    bus = Bus(MemoryWindow(host, [3, 1]))
    bus.write(0xFFE, 4, 0x44332211)
    assert bus.read(0xFFE, 4) == 0x44332211
    assert host.read(0x1000, 2) == 0x4433
    assert bus.read(0x1FFF, 2) == 0xFF00
