"""Firmware's tables, read as kernels read them: search, check, walk."""

from __future__ import annotations

import struct

import pytest

from vmlab.errors import OptionError
from vmlab.machine.clock import Clock
from vmlab.machine.devices.apic_bus import ApicBus
from vmlab.machine.devices.io_apic import IoApic
from vmlab.machine.devices.local_apic import LocalApic
from vmlab.machine.firmware_tables import build_tables, io_apic_identifier

COUNTS = (1, 2, 8, 15, 16)
ENTRY_SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}


@pytest.fixture(params=COUNTS)
def cpus(request):
    return request.param


@pytest.fixture
def memory(cpus):
    contents = bytearray(1 << 20)
    end = 0
    for address, data in sorted(build_tables(cpus).items()):
        assert address >= end, "tables do not overlap"
        end = address + len(data)
        contents[address:end] = data
    return contents


def search(memory, start, length, signature, size):
    for address in range(start, start + length, 16):
        found = memory[address : address + size]
        if found.startswith(signature) and sum(found) & 0xFF == 0:
            return address
    return None


def ebda(memory):
    return struct.unpack_from("<H", memory, 0x40E)[0] << 4


def mp_entries(memory):
    floating = search(memory, 0xF0000, 0x10000, b"_MP_", 16)
    table = struct.unpack_from("<I", memory, floating + 4)[0]
    length, count = struct.unpack_from("<4xH", memory, table)[0], struct.unpack_from("<34xH", memory, table)[0]
    entries, place = [], table + 44
    while place < table + length:
        size = ENTRY_SIZES[memory[place]]
        entries.append(bytes(memory[place : place + size]))
        place += size
    assert place == table + length
    assert len(entries) == count
    return entries


def description(memory, address):
    signature, length = struct.unpack_from("<4sI", memory, address)
    data = bytes(memory[address : address + length])
    assert sum(data) & 0xFF == 0, signature
    return signature, data


def acpi(memory):
    rsdp = search(memory, 0xE0000, 0x20000, b"RSD PTR ", 20)
    signature, rsdt = description(memory, struct.unpack_from("<I", memory, rsdp + 16)[0])
    assert signature == b"RSDT"
    addresses = struct.unpack_from(f"<{(len(rsdt) - 36) // 4}I", rsdt, 36)
    return dict(description(memory, address) for address in addresses)


def test_the_mp_floating_pointer_is_where_kernels_search(memory):
    start = ebda(memory)
    assert start == 0x9FC00
    base_memory = struct.unpack_from("<H", memory, 0x413)[0] * 1024
    assert base_memory == start, "the area is taken from base memory"
    places = [search(memory, start, 1024, b"_MP_", 16), search(memory, 0xF0000, 0x10000, b"_MP_", 16)]
    assert None not in places
    pointers = [bytes(memory[place : place + 16]) for place in places]
    assert pointers[0] == pointers[1]
    assert pointers[0][8:10] == b"\1\4", "16 bytes, specification 1.4"
    assert pointers[0][11:] == bytes(5), "a table, and virtual wire mode"


def test_the_mp_table_is_whole(memory):
    floating = search(memory, 0xF0000, 0x10000, b"_MP_", 16)
    table = struct.unpack_from("<I", memory, floating + 4)[0]
    signature, length, revision = struct.unpack_from("<4sHB", memory, table)
    assert (signature, revision) == (b"PCMP", 4)
    assert sum(memory[table : table + length]) & 0xFF == 0
    assert struct.unpack_from("<I", memory, table + 36)[0] == 0xFEE00000


def test_mp_processors(memory, cpus):
    processors = [entry for entry in mp_entries(memory) if entry[0] == 0]
    assert [entry[1] for entry in processors] == list(range(cpus))
    assert [entry[3] for entry in processors] == [3] + [1] * (cpus - 1), "enabled, one of them the bootstrap processor"
    assert {struct.unpack_from("<II", entry, 4) for entry in processors} == {(0xF29, 0x200)}


def test_mp_entries_come_by_type_and_name_buses_before_their_interrupts(memory):
    entries = mp_entries(memory)
    assert [entry[0] for entry in entries] == sorted(entry[0] for entry in entries)
    buses = {entry[1]: entry[2:8] for entry in entries if entry[0] == 1}
    assert sorted(buses.values()) == [b"ISA   ", b"PCI   "]
    assert {buses[entry[4]] for entry in entries if entry[0] in (3, 4)} == {b"ISA   "}


def test_mp_interrupts(memory, cpus):
    entries = mp_entries(memory)
    (io_apic,) = [entry for entry in entries if entry[0] == 2]
    assert io_apic[1] == io_apic_identifier(cpus) < 16
    assert io_apic[1] not in range(cpus) or cpus == 16  # whose 4 bits hold no ID of its own
    assert io_apic[3] == 1
    assert struct.unpack_from("<I", io_apic, 4)[0] == 0xFEC00000
    inputs = {(entry[1], entry[5]): entry[7] for entry in entries if entry[0] == 3}
    assert {entry[6] for entry in entries if entry[0] == 3} == {io_apic[1]}
    assert inputs.pop((3, 0)) == 0, "ExtINT at pin 0"
    assert inputs.pop((0, 0)) == 2
    assert inputs == {(0, irq): irq for irq in range(16) if irq not in (0, 2)}
    assert [(entry[1], entry[6], entry[7]) for entry in entries if entry[0] == 4] == [(3, 0xFF, 0), (1, 0xFF, 1)]


def test_the_madt_says_the_same(memory, cpus):
    madt = acpi(memory)[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries, place = {}, 44
    while place < len(madt):
        entries.setdefault(madt[place], []).append(madt[place : place + madt[place + 1]])
        place += madt[place + 1]
    assert place == len(madt)
    assert [struct.unpack("<BBBBI", entry)[2:] for entry in entries[0]] == [(cpu, cpu, 1) for cpu in range(cpus)]
    assert [struct.unpack("<BBBxII", entry)[2:] for entry in entries[1]] == [(io_apic_identifier(cpus), 0xFEC00000, 0)]
    assert [struct.unpack("<BBBBIH", entry)[2:] for entry in entries[2]] == [(0, 0, 2, 0)]
    assert [struct.unpack("<BBBHB", entry)[2:] for entry in entries[4]] == [(0xFF, 0, 1)]


def test_the_fadt_leads_to_facs_and_dsdt(memory):
    fadt = acpi(memory)[b"FACP"]
    assert len(fadt) == 116
    facs, dsdt = struct.unpack_from("<II", fadt, 36)
    assert facs % 64 == 0
    assert memory[facs : facs + 8] == b"FACS" + struct.pack("<I", 64)
    assert description(memory, dsdt)[0] == b"DSDT"
    assert struct.unpack_from("<H", fadt, 46)[0] == 9
    assert fadt[108] == 0x32, "the century byte"
    assert struct.unpack_from("<I", fadt, 112)[0] == 5


def test_everything_lies_in_what_the_memory_map_keeps(cpus):
    for address, data in build_tables(cpus).items():
        end = address + len(data)
        assert end <= 0x500 or 0x9FC00 <= address < end <= 0xA0000 or 0xF0000 <= address < end <= 0x100000


def test_the_versions_are_those_of_the_devices(memory, cpus):
    clock, bus = Clock(), ApicBus()
    local = LocalApic(clock, bus)
    io_apic = IoApic(bus.send, io_apic_identifier(cpus))
    io_apic.write(0, 4, 1)
    versions = {entry[0]: entry[2] for entry in mp_entries(memory) if entry[0] in (0, 2)}
    assert versions == {0: local.read(0x30, 4) & 0xFF, 2: io_apic.read(0x10, 4) & 0xFF}


def test_absurd_numbers_of_processors():
    for bad in (0, -1, 17, 10**9, 2.0, "2", None, True):
        with pytest.raises(OptionError, match="1 to 16"):
            build_tables(bad)
