"""INT 13h against Phoenix's and IBM's descriptions: addressing, status, geometry, the extensions, diskettes."""

from __future__ import annotations

import pytest

from tests.machine.firmware.booting import boot, sectors
from vmlab.machine.disk import Disk

KIB = 1 << 10


def read(cx, dx=0x80, count=1, function=2, buffer=0x9000):
    return (
        f"mov ax, {function << 8 | count}\n mov cx, {cx}\n mov dx, {dx}\n mov bx, {buffer & 15}\n"
        f"push word {buffer >> 4}\n pop es\n int 0x13\n"
    )


def packet(count=1, buffer=0x9000, block=1, size=16, function=0x42, flat=None):
    segment, offset = (0xFFFF, 0xFFFF) if flat is not None else (buffer >> 4, buffer & 15)
    return f"""
    mov si, packet
    mov dl, 0x80
    mov ax, {function << 8}
    int 0x13
    jmp over
packet: db {size}, 0
    dw {count}, {offset}, {segment}
    dq {block}, {flat or 0}
over:
"""


def test_sectors_by_cylinder_head_and_sector():
    disk = sectors(63 * 16 + 100)
    for cylinder, head, sector in ((0, 0, 2), (0, 0, 63), (0, 1, 1), (0, 15, 63), (1, 0, 1), (1, 1, 7)):
        after = boot(read(cylinder << 8 | sector, head << 8 | 0x80), disk=disk)
        assert (after.carry, after.ah, after.al) == (False, 0, 1)
        assert after.word(0x9000, 4) == (cylinder * 16 + head) * 63 + sector - 1


def test_the_high_bits_of_the_cylinder():
    disk = Disk(sectors(1 << 19, 0)[: 300 * 16 * 63 * 512])
    after = boot(read(0x2C << 8 | 1 << 6 | 5, 0x81), disks=[disk])  # cylinder 12Ch = 300: beyond its end
    assert (after.carry, after.ah, after.al) == (True, 4, 0)
    after = boot(read(0x2B << 8 | 1 << 6 | 5, 0x81), disks=[disk])
    assert after.word(0x9000, 4) == 0x12B * 16 * 63 + 4


def test_many_sectors_at_once_across_a_segment():
    after = boot(read(2, count=127, buffer=0x1_8000), disk=sectors(200))
    assert after.memory(0x1_8000, 127 * 512) == sectors(127)
    assert (after.al, after.carry) == (127, False)


@pytest.mark.parametrize(
    ("cx", "dx", "count", "status"),
    [(0, 0x80, 1, 4), (1, 0x1080, 1, 4), (0x100 | 1, 0x80, 1, 4), (5, 0x80, 1, 4), (2, 0x80, 4, 4), (2, 0x80, 0, 1),
     (1, 0x81, 1, 1), (1, 0x00, 1, 1), (1, 0xFF, 1, 1)],
)  # fmt: skip
def test_sectors_that_are_not_there(cx, dx, count, status):
    after = boot(read(cx, dx, count), disk=sectors(3))
    assert (after.carry, after.ah) == (True, status)
    assert not any(after.memory(0x9000, 512))
    last = boot(read(cx, dx, count) + f"mov dl, {dx & 0xFF}\n mov ah, 1\n int 0x13", disk=sectors(3))
    assert (last.carry, last.ah, last.al) == (True, status, status)


def test_writing_stays_in_the_overlay():
    disk = Disk(sectors(4, 0))
    after = boot("mov di, 0x9000\n mov cx, 512\n mov al, 'w'\n rep stosb\n" + read(3, 0x81, function=3), disks=[disk])
    written = after.guest.platform.ata.drives[1].disk
    assert written.read(2) == b"w" * 512
    assert written.read(1) == sectors(4, 0)[512:1024]
    assert disk.written == 0


def test_verifying_moves_nothing():
    after = boot(read(2, function=4), disk=sectors(3))
    assert (after.carry, after.ah, any(after.memory(0x9000, 512))) == (False, 0, False)
    assert boot(read(9, function=4), disk=sectors(3)).ah == 4


def test_parameters_of_a_fixed_disk():
    after = boot("mov ah, 8\n mov dl, 0x80\n int 0x13", disk=sectors(63 * 16 * 300 - 1))
    assert (after.carry, after.ah, after.dl) == (False, 0, 1)
    assert (after.dh, after.cl & 0x3F, after.ch | (after.cl & 0xC0) << 2) == (15, 63, 299)
    assert boot("mov ah, 8\n mov dl, 0x81\n int 0x13").ah == 1, "no such drive"
    after = boot("mov ah, 8\n mov dl, 0\n int 0x13")
    assert (after.carry, after.dx, after.cx) == (False, 0, 0), "no diskette drives"


def test_types():
    after = boot("mov ah, 0x15\n mov dl, 0x80\n int 0x13", disk=sectors(70_000))
    assert (after.carry, after.ah, after.cx << 16 | after.dx) == (False, 3, 70_001)
    after = boot("mov ah, 0x15\n mov dl, 0x83\n int 0x13")
    assert (after.carry, after.ah) == (False, 0)


@pytest.mark.parametrize("function", [0x00, 0x0D, 0x10, 0x11, 0x14])
def test_resets_succeed(function):
    after = boot(f"mov ah, {function}\n mov dl, 0x80\n stc\n int 0x13")
    assert (after.carry, after.ah) == (False, 0)


@pytest.mark.parametrize("function", [0x05, 0x06, 0x20, 0x45, 0x4F, 0xFF])
def test_what_is_not_there_is_refused(function):
    after = boot(f"mov ah, {function}\n mov dl, 0x80\n clc\n int 0x13")
    assert (after.carry, after.ah) == (True, 1)


# -- extensions ------------------------------------------------------------------------------------------------------------


def test_the_extensions_are_announced():
    after = boot("mov ah, 0x41\n mov bx, 0x55aa\n mov dl, 0x80\n int 0x13")
    assert (after.carry, after.bx, after.ah, after.cx & 1) == (False, 0xAA55, 0x21, 1)
    assert boot("mov ah, 0x41\n mov bx, 0x55ab\n mov dl, 0x80\n int 0x13").carry
    assert boot("mov ah, 0x41\n mov bx, 0x55aa\n mov dl, 0x81\n int 0x13").carry


def test_reading_by_number():
    after = boot(packet(count=3, block=1000), disk=sectors(1100))
    assert (after.carry, after.ah) == (False, 0)
    assert after.memory(0x9000, 3 * 512) == sectors(3, 1000)


def test_a_flat_address():
    after = boot(packet(size=24, flat=0x20_0000, count=2), disk=sectors(4))
    assert (after.carry, after.memory(0x20_0000, 1024)) == (False, sectors(2))


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"size": 15}, 1), ({"count": 128}, 1), ({"block": 5}, 4), ({"block": 1 << 40}, 4), ({"count": 4, "block": 2}, 4)],
)
def test_packets_that_are_refused(fields, status):
    after = boot(packet(**fields), disk=sectors(4))
    assert (after.carry, after.ah) == (True, status)
    assert not any(after.memory(0x9000, 512))


def test_a_failed_packet_says_how_much_was_moved():
    after = boot(packet(count=9) + "mov cx, [packet + 2]", disk=sectors(4))
    assert (after.carry, after.cx) == (True, 0)


def test_writing_verifying_and_seeking_by_number():
    source = "mov di, 0x9000\n mov cx, 512\n mov al, 'w'\n rep stosb\n"
    after = boot(source + packet(function=0x43, block=2), disk=sectors(4))
    assert after.guest.platform.ata.drives[0].disk.read(2) == b"w" * 512
    for function in (0x44, 0x47):
        assert not boot(packet(function=function, block=4), disk=sectors(4)).carry
        assert boot(packet(function=function, block=5), disk=sectors(4)).ah == 4


def test_extended_parameters():
    source = "mov si, 0x9000\n mov word [si], {}\n mov ah, 0x48\n mov dl, 0x80\n int 0x13"
    after = boot(source.format(30), disk=sectors(4999))
    fields = [(2, 0x1A), (2, 2), (4, 5), (4, 16), (4, 63), (8, 5000), (2, 512)]
    place = 0x9000
    for size, value in fields:
        assert after.word(place, size) == value, hex(place)
        place += size
    assert not any(after.memory(place, 16))
    assert boot(source.format(25)).ah == 1


# -- diskettes ---------------------------------------------------------------------------------------------------------------


def test_a_disk_of_a_diskettes_size_is_one():
    disk = sectors(2880)[: 1440 * KIB - 512]
    after = boot(read(0x0104, 0x0100, count=2), disk=disk)  # cylinder 1, head 1, sector 4
    assert (after.carry, after.word(0x9000, 4)) == (False, (1 * 2 + 1) * 18 + 3)
    assert boot("nop", disk=disk).dx == 0, "DL"
    after = boot("mov ah, 8\n mov dl, 0\n int 0x13", disk=disk)
    assert (after.ch, after.cl, after.dh, after.dl, after.bl) == (79, 18, 1, 1, 4)
    assert after.word(0x410) & 0xC1 == 1, "one diskette drive"
    assert boot("mov ah, 0x15\n mov dl, 0\n int 0x13", disk=disk).ah == 1
    assert boot(read(19, 0, 1), disk=disk).ah == 4, "18 sectors a track"
    assert boot("mov ah, 0x41\n mov bx, 0x55aa\n mov dl, 0\n int 0x13", disk=disk).carry


def test_the_next_disk_is_then_the_first_fixed_one():
    disk = sectors(2880)[: 1440 * KIB - 512]
    after = boot(read(1, 0x80), disk=disk, disks=[Disk(sectors(9, 77))])
    assert after.word(0x9000, 4) == 77
    assert after.memory(0x475, 1) == b"\1"
