"""The bus: which device answers to which port and to which physical address.

x86 has two address spaces outside the processor: memory (RAM and memory-mapped devices) and 64 Ki I/O ports. The bus
owns both maps and refuses overlap; a device sees only an offset into its own registers, so that one device class
serves the real machine and a guest's virtual platform.

A device that masters the bus reads and writes RAM by itself (direct memory access). What is not RAM does not answer it.

Simplified: memory-mapped ranges are granular to a page; no device answers another one; there is no bus time. What nobody
claims reads as all ones and swallows writes, as on ISA, where undriven data lines float high.

Read more: Intel SDM vol. 1, chapter 19 (I/O ports), vol. 3, 3.3; IBM PC/AT Technical Reference (ISA byte lanes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple, Protocol

from vmlab.errors import OptionError
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE, Memory

__all__ = ["Bus", "Device", "OnAccess", "OnTransfer", "Range"]

PORTS = 0x1_0000
ADDRESS_SPACE = 1 << 52


class Device(Protocol):
    """What the bus needs of a device."""

    name: str

    def read(self, offset: int, size: int) -> int:
        """Read `size` (1, 2 or 4) bytes at an offset from the start of the device's range."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` (1, 2 or 4) bytes at an offset from the start of the device's range."""

    def save(self) -> dict[str, Any]:
        """Save the state as plain data with a `"version"`."""

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError if it is damaged or of another version."""


@dataclass(frozen=True, slots=True)
class Range:
    """A claimed range of one of the two address spaces."""

    space: Literal["memory", "port"]
    base: int
    length: int
    owner: str

    @property
    def last(self) -> int:
        """The last address of the range."""
        return self.base + self.length - 1

    def describe(self) -> str:
        """One line: space, addresses, owner."""
        digits = 8 if self.space == "memory" else 4
        return f"{self.space} {self.base:0{digits}x}-{self.last:0{digits}x} {self.owner}"


OnAccess = Callable[[int, int, int, bool, "str | None"], None]
"""Address, bytes, value, whether it was a write, name of the device."""

OnTransfer = Callable[[int, int, int, bool, str], None]
"""Address, bytes, those of them that RAM answered for, whether it was a write to memory, name of the device."""


class _Slot(NamedTuple):
    """Who answers at one port or page."""

    device: Device
    offset: int  # of this port or page in the device's registers
    width: int  # the widest access that the device takes at once, in bytes
    range: Range


class Bus:
    """The port and memory maps of one computer.

    Parameters
    ----------
    memory : Memory
        RAM, from physical address 0: a machine's, or a guest's window.

    Attributes
    ----------
    devices : dict
        Name to device.
    ram_pages : bytearray
        One byte for each page below `memory.size`: 1 where RAM answers, 0 where a device hides it.
    port_accesses : Counter
        Port number to accesses so far.
    on_access, on_memory_access : callable or None
        Called after each access to a port, or to a memory-mapped register: see `OnAccess`.
    on_transfer : callable or None
        Called after each transfer of data by a device that masters the bus: see `OnTransfer`.
    transferred : set of int or None
        Where somebody wants to know them: the page numbers to which such devices have written.
    """

    __slots__ = (
        "_pages",
        "_ports",
        "_ranges",
        "devices",
        "memory",
        "on_access",
        "on_memory_access",
        "on_transfer",
        "port_accesses",
        "ram_pages",
        "transferred",
    )

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.devices: dict[str, Device] = {}
        self.ram_pages = bytearray(b"\1" * (memory.size >> PAGE_SHIFT))
        self.port_accesses: Counter[int] = Counter()
        self.on_access: OnAccess | None = None
        self.on_memory_access: OnAccess | None = None
        self.on_transfer: OnTransfer | None = None
        self.transferred: set[int] | None = None
        self._ports: dict[int, _Slot] = {}
        self._pages: dict[int, _Slot] = {}
        self._ranges: list[Range] = []

    # -- the maps ----------------------------------------------------------------------------------------------------

    def add_ports(self, device: Device, base: int, count: int, *, offset: int = 0, width: int = 1) -> None:
        """Give a device a range of ports.

        Parameters
        ----------
        base, count : int
            First port and number of ports.
        offset : int
            What the device sees as the offset of the first port, for a device with several ranges.
        width : int
            The widest access that the device takes at once; wider ones reach it as single bytes, as on ISA.

        Raises
        ------
        OptionError
            The range leaves the port space or overlaps another device's.
        """
        claim = self._claim("port", device, base, count, PORTS)
        for index in range(count):
            self._ports[base + index] = _Slot(device, offset + index, width, claim)

    def move_ports(self, device: Device, base: int | None, count: int, *, width: int = 1) -> None:
        """Let a device answer at other ports than before, where software chooses them; at none, for None.

        Ports that another device claims stay that device's.
        """
        for claim in [each for each in self._ranges if each.space == "port" and each.owner == device.name]:
            self._ranges.remove(claim)
            for port in range(claim.base, claim.base + claim.length):
                del self._ports[port]
        self.devices[device.name] = device
        wanted = range(0) if base is None else range(base, min(base + count, PORTS))
        for is_free, run in groupby(wanted, key=lambda port: port not in self._ports):
            if is_free:
                ports = list(run)
                self.add_ports(device, ports[0], len(ports), offset=ports[0] - wanted.start, width=width)

    def add_mmio(self, device: Device, base: int, length: int, *, offset: int = 0, width: int = 4) -> None:
        """Give a device a range of physical addresses, hiding RAM that is there; base and length in whole pages.

        Raises
        ------
        OptionError
            The range is not made of whole pages, leaves physical address space or overlaps another device's.
        """
        if type(base) is int and type(length) is int and (base | length) % PAGE_SIZE:
            raise OptionError(
                f"memory-mapped range of {device.name}: base {base:#x} and length {length:#x} "
                f"must be multiples of {PAGE_SIZE:#x}"
            )
        claim = self._claim("memory", device, base, length, ADDRESS_SPACE)
        for start in range(0, length, PAGE_SIZE):
            page = (base + start) >> PAGE_SHIFT
            self._pages[page] = _Slot(device, offset + start, width, claim)
            if page < len(self.ram_pages):
                self.ram_pages[page] = 0

    def _claim(self, space: Literal["memory", "port"], device: Device, base: int, length: int, limit: int) -> Range:
        if type(base) is not int or type(length) is not int or base < 0 or length <= 0 or base + length > limit:
            raise OptionError(
                f"{space} range of {device.name}: base {base!r} and length {length!r} must lie in 0-{limit - 1:#x}"
            )
        if self.devices.get(device.name, device) is not device:
            raise OptionError(f"the bus has another device named {device.name!r}: names must be unique")
        claim = Range(space, base, length, device.name)
        for other in self._ranges:
            if other.space == space and base <= other.last and other.base <= claim.last:
                raise OptionError(f"{claim.describe()} overlaps {other.describe()}: move one of them")
        self._ranges.append(claim)
        self.devices[device.name] = device
        return claim

    def describe(self) -> list[Range]:
        """Both maps: memory first (RAM in the runs that no device hides), then ports, each ascending."""
        ranges = list(self._ranges)
        start = self.ram_pages.find(1)
        while start >= 0:
            end = self.ram_pages.find(0, start)
            end = end if end >= 0 else len(self.ram_pages)
            ranges.append(Range("memory", start << PAGE_SHIFT, (end - start) << PAGE_SHIFT, "RAM"))
            start = self.ram_pages.find(1, end)
        return sorted(ranges, key=lambda each: (each.space, each.base))

    def device_at_port(self, port: int) -> Device | None:
        """Return the device that claims a port, if any."""
        slot = self._ports.get(port)
        return slot.device if slot else None

    # -- ports -------------------------------------------------------------------------------------------------------

    def port_read(self, port: int, size: int) -> int:
        """Read 1, 2 or 4 bytes from a port (IN)."""
        slot = self._ports.get(port)
        if slot is None or (size > 1 and not self._takes_whole(slot, port, size)):
            value = 0
            for index in range(size):
                byte = self._ports.get((port + index) % PORTS)
                value |= (byte.device.read(byte.offset, 1) & 0xFF if byte else 0xFF) << (8 * index)
        else:
            value = slot.device.read(slot.offset, size)
        self.port_accesses[port] += 1
        if self.on_access is not None:
            self.on_access(port, size, value, False, slot.device.name if slot else None)
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes to a port (OUT)."""
        slot = self._ports.get(port)
        if slot is None or (size > 1 and not self._takes_whole(slot, port, size)):
            for index in range(size):
                byte = self._ports.get((port + index) % PORTS)
                if byte:
                    byte.device.write(byte.offset, 1, (value >> (8 * index)) & 0xFF)
        else:
            slot.device.write(slot.offset, size, value)
        self.port_accesses[port] += 1
        if self.on_access is not None:
            self.on_access(port, size, value, True, slot.device.name if slot else None)

    @staticmethod
    def _takes_whole(slot: _Slot, address: int, size: int) -> bool:
        return size <= slot.width and address + size - 1 <= slot.range.last

    # -- physical addresses ------------------------------------------------------------------------------------------

    def is_ram(self, address: int) -> bool:
        """Say whether RAM, not a device or nothing, answers at a physical address."""
        page = address >> PAGE_SHIFT
        return page < len(self.ram_pages) and self.ram_pages[page] == 1

    def read(self, address: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes at a physical address."""
        if self.is_ram(address) and self.is_ram(address + size - 1):
            return self.memory.read(address, size)
        slot = self._pages.get(address >> PAGE_SHIFT)
        if slot and self._takes_whole(slot, address, size):
            value = slot.device.read(slot.offset + address % PAGE_SIZE, size)
        else:
            value = 0
            for index in range(size):
                value |= self._read_byte((address + index) % ADDRESS_SPACE) << (8 * index)
        if self.on_memory_access is not None:
            self.on_memory_access(address, size, value, False, slot.device.name if slot else None)
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes at a physical address."""
        if self.is_ram(address) and self.is_ram(address + size - 1):
            self.memory.write(address, size, value)
            return
        slot = self._pages.get(address >> PAGE_SHIFT)
        if slot and self._takes_whole(slot, address, size):
            slot.device.write(slot.offset + address % PAGE_SIZE, size, value)
        else:
            for index in range(size):
                self._write_byte((address + index) % ADDRESS_SPACE, (value >> (8 * index)) & 0xFF)
        if self.on_memory_access is not None:
            self.on_memory_access(address, size, value, True, slot.device.name if slot else None)

    # -- bus masters -------------------------------------------------------------------------------------------------

    def reach(self, address: int, length: int) -> int:
        """Return how many of so many bytes, from an address on, are RAM without a gap."""
        end = address
        while end < address + length and self.is_ram(end):
            end = (end | PAGE_SIZE - 1) + 1
        return min(end - address, length)

    def transfer_out(self, address: int, length: int, device: str) -> bytes:
        """Read RAM for a device; fewer bytes than asked for where the rest is not RAM (PCI: master abort)."""
        data = self.memory.read_bytes(address, found) if (found := self.reach(address, length)) else b""
        if self.on_transfer is not None:
            self.on_transfer(address, length, found, False, device)
        return data

    def transfer_in(self, address: int, data: bytes, device: str) -> int:
        """Write RAM for a device; return how many bytes were written, fewer than given where the rest is not RAM."""
        found = self.reach(address, len(data))
        if found:
            self.memory.write_bytes(address, data[:found])
            if self.transferred is not None:
                self.transferred.update(range(address >> PAGE_SHIFT, (address + found - 1 >> PAGE_SHIFT) + 1))
        if self.on_transfer is not None:
            self.on_transfer(address, len(data), found, True, device)
        return found

    def _read_byte(self, address: int) -> int:
        if self.is_ram(address):
            return self.memory.read(address, 1)
        slot = self._pages.get(address >> PAGE_SHIFT)
        return slot.device.read(slot.offset + address % PAGE_SIZE, 1) & 0xFF if slot else 0xFF

    def _write_byte(self, address: int, value: int) -> None:
        if self.is_ram(address):
            self.memory.write(address, 1, value)
            return
        slot = self._pages.get(address >> PAGE_SHIFT)
        if slot:
            slot.device.write(slot.offset + address % PAGE_SIZE, 1, value)
