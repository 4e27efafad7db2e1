"""Disks that are not where they seem to be: a guest's is a file on its host's disk, or another domain's.

`HostDisk` is a host kernel's driver: it drives the computer's own ATA disk by programmed input/output, as any kernel does.
`ServedDisk` is what a guest's drive reads from: whoever serves it is asked for each sector. What a guest writes is its own, an
overlay as of a disk image with copy-on-write.

Read more: ANSI INCITS 361-2002 (ATA/ATAPI-6), 9; `vmlab.machine.devices.ata_disk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.disk import SECTOR, Disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.machine import Machine

__all__ = ["HostDisk", "ServedDisk", "joined"]

DATA, COUNT, LOW, MIDDLE, HIGH, DEVICE, COMMAND = 0x1F0, 0x1F2, 0x1F3, 0x1F4, 0x1F5, 0x1F6, 0x1F7
CONTROL = 0x3F6  # read: status, without taking an interrupt back
NO_INTERRUPT = 2
MASTER_LBA = 0xE0
READ_SECTORS = 0x20
BUSY, DATA_REQUEST, ERROR = 0x80, 0x08, 0x01


def joined(disks: list[Disk]) -> tuple[Disk, list[int]]:
    """Return one disk with the contents of others behind each other, and where each begins."""
    starts, parts, sector = [], [], 0
    for disk in disks:
        starts.append(sector)
        parts.append(disk.read(0, disk.sectors))
        sector += disk.sectors
    return Disk(b"".join(parts) or bytes(SECTOR), name="host disk"), starts


class HostDisk:
    """A host kernel's driver of the computer's disk.

    Parameters
    ----------
    machine : Machine
        The computer.

    Attributes
    ----------
    sectors : int
        Size of the disk.
    """

    def __init__(self, machine: Machine, sectors: int) -> None:
        self._machine = machine
        self.sectors = sectors

    def _in(self, port: int, size: int = 1) -> int:
        self._machine.cpu.port_accesses += 1
        return self._machine.bus.port_read(port, size)

    def _out(self, port: int, value: int) -> None:
        self._machine.cpu.port_accesses += 1
        self._machine.bus.port_write(port, 1, value)

    def read(self, sector: int) -> bytes:
        """Read a sector: write the command, wait as long as the drive is busy, and take the words."""
        self._out(CONTROL, NO_INTERRUPT)
        registers = {
            COUNT: 1, LOW: sector & 0xFF, MIDDLE: sector >> 8 & 0xFF, HIGH: sector >> 16 & 0xFF,
            DEVICE: MASTER_LBA | sector >> 24 & 0xF, COMMAND: READ_SECTORS,
        }  # fmt: skip
        for port, value in registers.items():
            self._out(port, value)
        platform, cpu = self._machine.platform, self._machine.cpu
        platform.await_interrupt(cpu.retired, lambda: not self._in(CONTROL) & BUSY)
        status = self._in(COMMAND)
        assert status & (DATA_REQUEST | ERROR) == DATA_REQUEST, f"the host's disk says {status:#x}"
        return b"".join(self._in(DATA, 2).to_bytes(2, "little") for _ in range(SECTOR // 2))


class ServedDisk(Disk):
    """A disk whose sectors come from someone else.

    Parameters
    ----------
    like : Disk
        What it holds, by size and name.
    serve : callable
        Given a sector number, returns the sector.
    announce : callable, optional
        Told of sectors that will be read.
    """

    __slots__ = ("_announce", "_serve")

    def __init__(
        self, like: Disk, serve: Callable[[int], bytes], announce: Callable[[int, int], None] | None = None
    ) -> None:
        super().__init__(like.read(0, like.sectors), name=like.name)
        self._serve = serve
        self._announce = announce

    def announce(self, sector: int, count: int) -> None:
        """Tell whoever serves."""
        if self._announce is not None:
            self._announce(sector, min(count, max(0, self.sectors - sector)))

    def read(self, sector: int, count: int = 1) -> bytes:
        """Ask for sectors, but for those that have been written here."""
        self._check(sector, count)
        found = (self._overlay.get(each) or self._serve(each) for each in range(sector, sector + count))
        return b"".join(found)
