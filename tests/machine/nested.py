"""A guest's tables inside a host's, built in a `PhysicalMemory`, for walks in two dimensions."""

from __future__ import annotations

from typing import Any

from vmlab.machine.memory import PAGE_SIZE, PhysicalMemory
from vmlab.machine.nested_walk import NestedTranslation, walk_nested
from vmlab.machine.page_format_names import FORMATS
from vmlab.machine.page_tables import PageTables, TableEntry
from vmlab.machine.paging import PageTableFormat, Translation, walk

GUEST_AT = 0x80_0000
"""Guest-physical address 0 lies here; a multiple of the largest page that a test maps it with."""
GUEST_BYTES = 0x40_0000


class Guest:
    """Guest-physical memory."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory

    def read(self, address: int, size: int) -> int:
        return self.memory.read(GUEST_AT + address, size)

    def write(self, address: int, size: int, value: int) -> None:
        self.memory.write(GUEST_AT + address, size, value)


class Frames:
    """Hands out frames, aligned to their size."""

    def __init__(self, start: int) -> None:
        self.next = start

    def __call__(self, size: int) -> int:
        address = -(-self.next // size) * size
        self.next = address + size
        return address


def named(format_: str | PageTableFormat) -> PageTableFormat:
    return FORMATS[format_] if isinstance(format_, str) else format_


class Nested:
    """Tables of two formats; the host maps all of the guest's memory with pages of one size."""

    def __init__(self, guest: str | PageTableFormat, host: str | PageTableFormat, host_page: int = PAGE_SIZE) -> None:
        self.memory = PhysicalMemory(GUEST_AT + GUEST_BYTES)
        self.host = PageTables(named(host), self.memory, Frames(0x1_0000))
        for address in range(0, GUEST_BYTES, host_page):
            self.host.map(address, GUEST_AT + address, host_page)
        self.guest = PageTables(named(guest), Guest(self.memory), Frames(0x10_0000))

    def walk(self, address: int, **how: Any) -> NestedTranslation:
        write = None if how.pop("looking", False) else self.memory.write
        return walk_nested(self.guest.space, self.host.space, address, self.memory.read, write, **how)

    def host_entry(self, physical: int) -> int:
        """Return the leaf of the host's tables for a guest-physical address."""
        return next(e.entry for e in self.host.entries() if e.is_leaf and 0 <= physical - e.address < e.span)


class Plain:
    """Tables of one format, of which entries can be changed."""

    def __init__(self, format_: str | PageTableFormat) -> None:
        self.memory = PhysicalMemory(0x20_0000)
        self.tables = PageTables(named(format_), self.memory, Frames(0x1_0000))

    def walk(self, address: int, **how: Any) -> Translation:
        write = None if how.pop("looking", False) else self.memory.write
        space = self.tables.space
        return walk(space.format, space.root, address, self.memory.read, write, registers=space.registers, **how)

    def entry(self, level: int) -> TableEntry:
        return next(each for each in self.tables.entries() if each.level == level)

    def leaf(self, address: int) -> TableEntry:
        return next(e for e in self.tables.entries() if e.is_leaf and e.address == address)

    def change(self, place: int, entry: int) -> None:
        self.memory.write(place, self.tables.format.entry_bytes, entry)
