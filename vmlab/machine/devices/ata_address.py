"""How the registers of an ATA drive name a sector: by cylinder, head and sector, or by its number (LBA), of 28 or 48 bits.

    28 bits:  [ device 3:0 | high | middle | low ]
    48 bits:  [ high, middle, low: previous bytes | high, middle, low: current bytes ]

Each register but the device register is two bytes deep: the previous byte, and the current one.

Read more: ANSI INCITS 361-2002 (ATA/ATAPI-6), 6.2 (addresses), 6.20 (48-bit addresses).
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["LBA", "name_sector", "sector_named"]

LBA = 0x40  # in the device register


class _Registers(Protocol):
    """The registers of a drive, and its geometry."""

    low: int
    middle: int
    high: int
    device: int
    heads: int
    track: int


def sector_named(drive: _Registers, *, extended: bool = False) -> int | None:
    """Return the sector that the registers name; None where the geometry has no such place."""
    low, middle, high = drive.low & 0xFF, drive.middle & 0xFF, drive.high & 0xFF
    if extended:
        upper = drive.low >> 8 | drive.middle & 0xFF00 | (drive.high & 0xFF00) << 8
        return upper << 24 | high << 16 | middle << 8 | low
    head = drive.device & 0xF
    if drive.device & LBA:
        return head << 24 | high << 16 | middle << 8 | low
    cylinder = high << 8 | middle
    if not 1 <= low <= drive.track or head >= drive.heads:
        return None
    return (cylinder * drive.heads + head) * drive.track + low - 1


def name_sector(drive: _Registers, sector: int, *, extended: bool = False) -> None:
    """Write a sector's address to the registers."""
    if extended:
        drive.low = sector & 0xFF | sector >> 16 & 0xFF00
        drive.middle = sector >> 8 & 0xFF | sector >> 24 & 0xFF00
        drive.high = sector >> 16 & 0xFF | sector >> 32 & 0xFF00
        return
    if drive.device & LBA:
        low, middle, high, head = sector & 0xFF, sector >> 8 & 0xFF, sector >> 16 & 0xFF, sector >> 24 & 0xF
    else:
        place, low = divmod(sector, drive.track)
        cylinder, head = divmod(place, drive.heads)
        low, middle, high = low + 1, cylinder & 0xFF, cylinder >> 8 & 0xFF
    drive.low, drive.middle, drive.high = low, middle, high
    drive.device = drive.device & 0xF0 | head
