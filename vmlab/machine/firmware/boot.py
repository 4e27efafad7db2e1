"""Power-on: what a BIOS does before it gives the machine to the boot sector of its disk.

It writes the interrupt vectors and its data area, programs the interrupt controllers and the timer, clears the screen,
loads the first sector of the boot disk and jumps there:

    real mode; CS:IP 0000:7C00; DS, ES, SS 0; SP 7C00; DL the disk's number (80h; 0 for a diskette); interrupts on
    the first sector at 7C00; IDT at 0, limit 3FFh; caches on; A20 on, always; all other registers 0
    IRQ 0-7 at vectors 08h-0Fh, IRQ 8-15 at 70h-77h; unmasked: timer, keyboard, diskette; real-time clock, mouse, disk
    timer channel 0 at 18.2 Hz, whose ticks are counted from midnight (40:6C)

    00000  interrupt vectors        00500  free          9FC00  extended BIOS data area      B8000  screen
    00400  BIOS data area           07C00  boot sector   F5000  tables for kernels           FE000  the BIOS

Read more: BIOS Boot Specification 1.01, 3.3 and appendix; IBM PS/2 and PC BIOS Interface Technical Reference, "Data Areas".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import CR0_ET, CS, EDX, ESP, FIXED, IF
from vmlab.machine.firmware.call import Call
from vmlab.machine.firmware.disks import fixed_disks, floppy
from vmlab.machine.firmware.keys import END, ENHANCED, HEAD, RING_END, RING_START, START, TAIL
from vmlab.machine.firmware.rom import EXCEPTIONS, ROM_BASE, SEGMENT, SERVICES, SHARED, build_rom
from vmlab.machine.firmware.video import set_text_mode
from vmlab.machine.image import BOOT_ADDRESS

if TYPE_CHECKING:
    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor

__all__ = ["power_on"]

FIRST_FIXED = 0x80

# The interrupt controllers: initialization words, then masks; the timer: mode 3, 65536
_MASTER = ((0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0xB8))
_SLAVE = ((0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02), (0xA1, 0x01), (0xA1, 0x8E))
_TIMER = ((0x43, 0x36), (0x40, 0), (0x40, 0))

# BIOS data area: offset to size and value
SERIAL_PORT, EQUIPMENT, FIXED_DISKS, SERIAL_TIMEOUT, STATES = 0x00, 0x10, 0x75, 0x7C, 0x96
_DATA = {
    SERIAL_PORT: (2, 0x3F8), SERIAL_TIMEOUT: (1, 1), START: (2, RING_START), END: (2, RING_END), HEAD: (2, RING_START),
    TAIL: (2, RING_START), STATES: (1, ENHANCED),
}  # fmt: skip
# Equipment: [ SERIAL_PORTS 11:9 | DISKETTES-1 7:6 | COLOUR_80 5:4 = 2 | 1 FPU | 0 DISKETTE ]
ONE_SERIAL_PORT, COLOUR_80, DISKETTE = 1 << 9, 0x20, 0x01
# Fixed disk parameter table: cylinders, heads, two unused words, a byte, control, three times, landing zone, sectors, 0
_FIXED_DISK = struct.Struct("<HBHHBB3xHBx")
MORE_THAN_8_HEADS = 0x08
MANY_HEADS = 8
TABLES = (0x41, 0x46)
"""Vectors that point to the parameters of fixed disks."""

_LABELS = {
    **dict.fromkeys(range(0x71, 0x78), "irq_slave"), 0x08: "int_08", 0x09: "int_09", 0x70: "int_70", 0x76: "int_76",
    0x1D: "video_parameters", 0x1E: "diskette",
}  # fmt: skip
_NOWHERE = (0x1F, 0x43, *TABLES)


def _vectors() -> bytes:
    labels = build_rom().labels
    table = dict.fromkeys(range(256), labels["nobody"])
    table |= {vector: labels[f"service_{vector:02x}"] for vector in SERVICES}
    table |= {vector: labels[f"fault_{vector:02x}"] for vector in (*EXCEPTIONS, *SHARED)}
    table |= {vector: labels[label] for vector, label in _LABELS.items()}
    entries = [0 if vector in _NOWHERE else SEGMENT << 16 | offset for vector, offset in table.items()]
    return struct.pack("<256I", *entries)


def power_on(platform: Platform, cpu: Processor) -> None:
    """Start a machine from its first disk, whose first sector is in memory already."""
    rom, memory, bus = build_rom(), platform.memory, platform.bus
    memory.write_bytes(ROM_BASE, rom.code)
    memory.write_bytes(0, _vectors())
    call = Call(cpu, platform, 0x19)
    _start(cpu)
    for port, value in (*_MASTER, *_SLAVE, *_TIMER):
        bus.port_write(port, 1, value)
    diskette, fixed = floppy(platform), fixed_disks(platform)
    for offset, (size, value) in _DATA.items():
        call.put(offset, value, size)
    call.put(EQUIPMENT, ONE_SERIAL_PORT | COLOUR_80 | (DISKETTE if diskette else 0), 2)
    call.put(FIXED_DISKS, len(fixed))
    for number, (vector, drive) in enumerate(zip(TABLES, fixed, strict=False)):
        place = rom.labels["fixed_disks"] + _FIXED_DISK.size * number
        control = MORE_THAN_8_HEADS if drive.heads > MANY_HEADS else 0
        table = _FIXED_DISK.pack(drive.cylinders, drive.heads, 0, 0xFFFF, 0, control, drive.cylinders, drive.sectors)
        memory.write_bytes((SEGMENT << 4) + place, table)
        memory.write_bytes(4 * vector, struct.pack("<I", SEGMENT << 16 | place))
    set_text_mode(call)
    cpu.registers[EDX] = 0 if diskette else FIRST_FIXED


def _start(cpu: Processor) -> None:
    """Set the registers as the boot sector finds them."""
    cpu.reset()
    cpu.registers[:] = [0] * len(cpu.registers)
    cpu.registers[ESP] = BOOT_ADDRESS
    cpu.segments[CS].set(0, 0, 0xFFFF, cpu.segments[CS].access, big=False)
    cpu.idtr_limit = 0x3FF
    cpu.set_cr0(CR0_ET)
    cpu.ip, cpu.flags = BOOT_ADDRESS, FIXED | IF
    cpu.code_changed()
