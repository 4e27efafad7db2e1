"""INT 13h: sectors of the disks, by cylinder, head and sector, or by number.

    00 reset            04 verify              0C seek          15 get type          43 write by number
    01 last status      05 format: refused     10 ready?        16 changed?          44 verify by number
    02 read             08 get parameters      11 recalibrate   41 extensions?       47 seek by number
    03 write            0D reset               14 diagnostics   42 read by number    48 get parameters

Drives 80h and 81h are the disks in their order. A first disk of just a diskette's size is drive 0 instead, with that
diskette's geometry: boot sectors for diskettes count on it.

Simplified: a transfer takes no virtual time. A diskette has no controller of its own: to software that does without the
BIOS it is the first ATA disk. Of the extensions there is the subset for fixed disks.

Read more: Phoenix, Enhanced Disk Drive Specification 3.0; IBM PS/2 and PC BIOS Interface Technical Reference, INT 13h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.registers import DS, ES
from vmlab.machine.devices.ata_identify import DEFAULT_HEADS, DEFAULT_SECTORS
from vmlab.machine.disk import SECTOR
from vmlab.machine.firmware.rom import SEGMENT, build_rom

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.disk import Disk
    from vmlab.machine.firmware.call import Call
    from vmlab.machine.platform import Platform

__all__ = ["DISKETTES", "Drive", "disk", "find_drive", "fixed_disks", "floppy"]

FIRST_FIXED = 0x80
MOST_CYLINDERS = 1024  # that CHS registers can name
LARGE_HEADS = 255
STATUS, FIXED_STATUS, FIXED_COUNT = 0x41, 0x74, 0x75  # in the BIOS data area
OK, BAD_COMMAND, NOT_FOUND, NOT_READY = 0x00, 0x01, 0x04, 0xAA
FIXED_SUBSET = 1  # of the extensions: 42-44, 47, 48
MOST_BLOCKS = 127

DISKETTES = {
    320: (1, 40, 2, 8), 360: (1, 40, 2, 9), 720: (3, 80, 2, 9), 1200: (2, 80, 2, 15), 1440: (4, 80, 2, 18),
    2880: (5, 80, 2, 36),
}  # fmt: skip
"""KiB of a diskette to its drive's type, cylinders, heads, and sectors a track."""


class Drive(NamedTuple):
    """A disk as the BIOS sees it."""

    disk: Disk
    kind: int  # of a diskette drive; 0 for a fixed disk
    cylinders: int
    heads: int
    sectors: int


def _disks(platform: Platform) -> list[Disk]:
    return [each.disk for each in platform.ata.drives if each is not None]


def floppy(platform: Platform) -> Drive | None:
    """Return drive 0: the first disk, if it has a diskette's size."""
    disks = _disks(platform)
    geometry = DISKETTES.get(disks[0].sectors * SECTOR >> 10) if disks else None
    if geometry is None or disks[0].sectors * SECTOR & 0x3FF:
        return None
    return Drive(disks[0], *geometry)


def fixed_disks(platform: Platform) -> list[Drive]:
    """Return the drives from 80h on."""
    disks = _disks(platform)
    drives = []
    for each in disks[1:] if floppy(platform) else disks:
        heads, cylinders = DEFAULT_HEADS, -(-each.sectors // (DEFAULT_HEADS * DEFAULT_SECTORS))
        if cylinders > MOST_CYLINDERS:
            heads, cylinders = LARGE_HEADS, -(-each.sectors // (LARGE_HEADS * DEFAULT_SECTORS))
        drives.append(Drive(each, 0, min(cylinders, MOST_CYLINDERS), heads, DEFAULT_SECTORS))
    return drives


def find_drive(platform: Platform, number: int) -> Drive | None:
    """Return the drive of a number, None where there is none."""
    if number == 0:
        return floppy(platform)
    fixed = fixed_disks(platform)
    return fixed[number - FIRST_FIXED] if 0 <= number - FIRST_FIXED < len(fixed) else None


def _answer(call: Call, status: int) -> None:
    """Answer with a status, and keep it."""
    call.put(FIXED_STATUS if call.dl >= FIRST_FIXED else STATUS, status)
    call.done(status)


# -- cylinder, head, sector --------------------------------------------------------------------------------------------


def _first_sector(call: Call, drive: Drive) -> int | None:
    """Return the number of the sector that CX and DH name; None where there is none."""
    cylinder, sector = call.ch | (call.cl & 0xC0) << 2, call.cl & 0x3F
    if call.dh >= drive.heads or not 1 <= sector <= drive.sectors:
        return None
    return (cylinder * drive.heads + call.dh) * drive.sectors + sector - 1


def _transfer(call: Call, drive: Drive) -> int:
    """Read (2), write (3) or verify (4)."""
    function, count = call.ah, call.al
    if not count:
        return BAD_COMMAND
    first = _first_sector(call, drive)
    if first is None or first + count > drive.disk.sectors:
        call.al = 0
        return NOT_FOUND
    _move(call, drive, function, first, count, call.address(ES, call.bx))
    return OK


def _move(call: Call, drive: Drive, function: int, first: int, count: int, linear: int) -> None:
    if function == 2:
        call.store(linear, drive.disk.read(first, count))
    elif function == 3:
        drive.disk.write(first, call.load(linear, count * SECTOR))


def _parameters(call: Call, drive: Drive) -> int:
    last = drive.cylinders - 1
    call.ch, call.cl = last & 0xFF, last >> 2 & 0xC0 | drive.sectors
    call.dh = drive.heads - 1
    if drive.kind:
        call.ax, call.dl, call.bx = 0, 1, drive.kind
        call.di = build_rom().labels["diskette"]
        call.cpu.segments[ES].set(SEGMENT, SEGMENT << 4, 0xFFFF, call.cpu.segments[ES].access, big=False)
        call.cpu.segment_changed()
    else:
        call.ax, call.dl = 0, len(fixed_disks(call.platform))
    return OK


def _type(call: Call, drive: Drive) -> None:
    """AH is no status here: 1 a diskette drive that cannot tell a change, 3 a fixed disk with its size in CX:DX."""
    if drive.kind:
        call.ah = 1
    else:
        sectors = drive.disk.sectors
        call.ah, call.cx, call.dx = 3, sectors >> 16, sectors & 0xFFFF
    call.carry(False)


def _nothing(call: Call, drive: Drive) -> int:
    return OK


def _seek(call: Call, drive: Drive) -> int:
    return OK if _first_sector(call, drive) is not None else NOT_FOUND


# -- the extensions ----------------------------------------------------------------------------------------------------

# Disk address packet: size, 0, blocks, offset and segment of the buffer, first block; then, in packets of 24 bytes, a
# flat address that counts where segment and offset are FFFF:FFFF.
_PACKET = struct.Struct("<BBHHHQ")
# Result: size, flags, cylinders, heads, sectors a track, sectors, bytes a sector
_RESULT = struct.Struct("<HHIIIQH")
GEOMETRY_VALID = 2
FLAT = 0xFFFF


def _extensions(call: Call, drive: Drive) -> int:
    """Are there extensions? Version 2.1 in AH, which is no status."""
    if call.bx != 0x55AA:
        return BAD_COMMAND
    call.bx, call.cx = 0xAA55, FIXED_SUBSET
    call.ah = 0x21
    call.carry(False)
    return -1


def _extended_transfer(call: Call, drive: Drive) -> int:
    """Read (42), write (43), verify (44) or seek (47) by number."""
    packet_at = call.address(DS, call.si)
    function = call.ah & 0x0F
    size, _, count, offset, segment, first = _PACKET.unpack(call.load(packet_at, _PACKET.size))
    if size < _PACKET.size or count > MOST_BLOCKS:
        return BAD_COMMAND
    if function == 7 or not count:
        return OK if first < drive.disk.sectors else NOT_FOUND
    if first + count > drive.disk.sectors:
        call.store(packet_at + 2, bytes(2))
        return NOT_FOUND
    linear = (segment << 4) + offset
    if segment == offset == FLAT and size >= 24:
        linear = int.from_bytes(call.load(packet_at + 16, 4), "little")
    _move(call, drive, function, first, count, linear)
    return OK


def _extended_parameters(call: Call, drive: Drive) -> int:
    result_at = call.address(DS, call.si)
    if int.from_bytes(call.load(result_at, 2), "little") < _RESULT.size:
        return BAD_COMMAND
    fields = (drive.cylinders, drive.heads, drive.sectors, drive.disk.sectors, SECTOR)
    call.store(result_at, _RESULT.pack(_RESULT.size, GEOMETRY_VALID, *fields))
    return OK


_FUNCTIONS: dict[int, Callable[[Call, Drive], int]] = {
    0x00: _nothing, 0x02: _transfer, 0x03: _transfer, 0x04: _transfer, 0x08: _parameters, 0x09: _nothing, 0x0C: _seek,
    0x0D: _nothing, 0x10: _nothing, 0x11: _nothing, 0x14: _nothing, 0x16: _nothing,
}  # fmt: skip
_EXTENDED: dict[int, Callable[[Call, Drive], int]] = {
    0x41: _extensions, 0x42: _extended_transfer, 0x43: _extended_transfer, 0x44: _extended_transfer,
    0x47: _extended_transfer, 0x48: _extended_parameters,
}  # fmt: skip


def disk(call: Call) -> None:
    """INT 13h."""
    function, drive = call.ah, find_drive(call.platform, call.dl)
    if function == 0x01:
        status = call.get(FIXED_STATUS if call.dl >= FIRST_FIXED else STATUS)
        call.done(status)
        call.al = status
        return
    if drive is None:
        if function == 0x15:
            call.done(0)  # no drive
            return
        if function == 0x08 and call.dl < FIRST_FIXED:  # a PC without diskette drives answers, and says so
            call.ax = call.bx = call.cx = call.dx = 0
            call.done()
            return
        _answer(call, OK if function == 0x00 else BAD_COMMAND)
        return
    if function == 0x15:
        _type(call, drive)
        return
    act = _FUNCTIONS.get(function) or (None if drive.kind else _EXTENDED.get(function))
    status = act(call, drive) if act else BAD_COMMAND
    if status >= 0:
        _answer(call, status)
