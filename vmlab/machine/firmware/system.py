"""INT 11h, 12h, 15h, 18h, 19h and unserved exceptions: what the machine is and has, and its end.

    15h:  24 A20 gate            86 wait               C0 configuration         E801 memory, in two parts
          4F keyboard intercept  87 move a block       C1 extended data area    E820 memory map
                                 88 memory above 1 MiB

An exception that no handler of the guest takes ends the run with a message: a PC's BIOS returns to the instruction that
faults, for ever. INT 18h and 19h end it too.

Simplified: the A20 gate remembers what it was told, and A20 is on all the same. No power management, no events, no joystick. A wait lasts to the next tick of the timer after its time.

Read more: IBM PS/2 and PC BIOS Interface Technical Reference, INT 15h; ACPI Specification 1.0b, 14 (system address map).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import ES, SS
from vmlab.machine.clock import INSTRUCTIONS_PER_PIT_TICK, PIT_HZ
from vmlab.machine.firmware.rom import EXCEPTIONS, SEGMENT, SHARED, build_rom
from vmlab.machine.firmware.video import teletype
from vmlab.machine.firmware_tables import EBDA
from vmlab.machine.multiboot import HIGH, memory_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.firmware.call import Call

__all__ = ["equipment", "fault", "memory_size", "no_boot", "reboot", "say", "system"]

# BIOS data area
EQUIPMENT, BASE_MEMORY, PAGE, WAIT_END, WAITING = 0x10, 0x13, 0x62, 0x9C, 0xA0
UNSUPPORTED = 0x86
KIB, BLOCK = 1 << 10, 1 << 16
MIB_16 = 1 << 24
MOST_BELOW_16M = 0x3C00  # KiB
OUTPUT_PORT_READ, OUTPUT_PORT_WRITE = 0xD0, 0xD1  # commands of the keyboard controller
A20 = 0x02
SIGNATURE = int.from_bytes(b"PAMS", "little")  # "SMAP", high byte first
_RANGE = struct.Struct("<QQI")
MOST_WORDS = 0x8000


def say(call: Call, text: str) -> None:
    """Write a text on the screen."""
    for character in text.encode("cp437", "replace"):
        teletype(call, character, call.get(PAGE))


def equipment(call: Call) -> None:
    """INT 11h."""
    call.ax = call.get(EQUIPMENT, 2)


def memory_size(call: Call) -> None:
    """INT 12h: KiB of memory below the extended BIOS data area."""
    call.ax = call.get(BASE_MEMORY, 2)


def no_boot(call: Call) -> None:
    """INT 18h: a boot sector found nothing to boot."""
    say(call, "No bootable disk.\r\n")
    call.go_on_at("stop")


def reboot(call: Call) -> None:
    """INT 19h, and the first instruction after a reset."""
    call.go_on_at("stop")
    call.platform.reset()


def fault(call: Call) -> None:
    """An exception, or an interrupt of a device, that nobody has taken the vector of."""
    vector = call.vector
    if vector in SHARED:
        call.port_out(0x20, 0x0B)  # OCW3: read what is in service
        if call.port_in(0x20) & 1 << vector - 8:
            call.port_out(0x20, 0x20)
            return
    offset, segment = (call.cpu.read(SS, call.sp + place & 0xFFFF, 2) for place in (0, 2))
    name = EXCEPTIONS.get(vector) or SHARED[vector]
    say(call, f"\r\n{name} at {segment:04X}:{offset:04X}, and no handler for it.\r\n")
    call.go_on_at("stop")


# -- INT 15h -----------------------------------------------------------------------------------------------------------


def _a20(call: Call) -> None:
    if call.al > 3:
        call.done(UNSUPPORTED)
        return
    port = call.platform.keyboard.output_port
    if call.al < 2:
        call.port_out(0x64, OUTPUT_PORT_WRITE)
        call.port_out(0x60, port | A20 if call.al else port & ~A20)
    elif call.al == 2:
        call.al = port >> 1 & 1
    else:
        call.bx = 0x0003  # by the keyboard controller, by port 92h
    call.done()


def _intercept(call: Call) -> None:
    call.carry(True)  # take the scan code as it is


def _wait(call: Call) -> None:
    """Wait CX:DX microseconds, asleep."""
    ticks = call.platform.clock.now // INSTRUCTIONS_PER_PIT_TICK & 0xFFFFFFFF
    if not call.get(WAITING) & 1:
        call.put(WAITING, call.get(WAITING) | 1)
        call.put(WAIT_END, ticks + (call.cx << 16 | call.dx) * PIT_HZ // 1_000_000 + 1, 4)
    if (call.get(WAIT_END, 4) - ticks) & 0xFFFFFFFF < 1 << 31:
        call.go_on_at("wait_15")
        return
    call.put(WAITING, call.get(WAITING) & ~1)
    call.done()


def _move_block(call: Call) -> None:
    """Move CX words between the segments whose descriptors stand in the table at ES:SI."""
    if call.cx > MOST_WORDS:
        call.done(UNSUPPORTED)
        return
    table = call.load(call.address(ES, call.si), 0x20)
    source, target = (
        int.from_bytes(table[at + 2 : at + 5], "little") | table[at + 7] << 24  # base 23:0 and 31:24
        for at in (0x10, 0x18)
    )
    done, length = 0, 2 * call.cx
    while done < length:
        at, to = source + done & 0xFFFFFFFF, target + done & 0xFFFFFFFF
        count = min(length - done, 0x1000 - (at & 0xFFF), 0x1000 - (to & 0xFFF))
        call.store_physical(to, call.load_physical(at, count))
        done += count
    call.done()


def _above_1m(call: Call) -> None:
    call.ax = min(max(call.platform.memory.size - HIGH, 0) // KIB, 0xFFFF)
    call.carry(False)


def _configuration(call: Call) -> None:
    _set_es(call, SEGMENT)
    call.bx = build_rom().labels["configuration"]
    call.done()


def _extended_area(call: Call) -> None:
    _set_es(call, EBDA >> 4)
    call.carry(False)


def _set_es(call: Call, segment: int) -> None:
    register = call.cpu.segments[ES]
    register.set(segment, segment << 4, 0xFFFF, register.access, big=False)
    call.cpu.segment_changed()


def _memory(call: Call) -> None:
    if call.al == 0x01:
        size = call.platform.memory.size
        call.ax = call.cx = min(max(size - HIGH, 0) // KIB, MOST_BELOW_16M)
        call.bx = call.dx = max(size - MIB_16, 0) // BLOCK
        call.carry(False)
    elif call.al == 0x20:
        _memory_map(call)
    else:
        call.done(UNSUPPORTED)


def _memory_map(call: Call) -> None:
    registers = call.cpu.registers
    ranges = memory_map(call.platform.memory.size)
    number = registers[3] & 0xFFFFFFFF
    length, signature = registers[1] & 0xFFFFFFFF, registers[2] & 0xFFFFFFFF
    if signature != SIGNATURE or length < _RANGE.size or number >= len(ranges):
        call.done(UNSUPPORTED)
        return
    call.store(call.address(ES, call.di), _RANGE.pack(*ranges[number]))
    registers[0], registers[1] = SIGNATURE, _RANGE.size
    registers[3] = number + 1 if number + 1 < len(ranges) else 0
    call.carry(False)


_FUNCTIONS: dict[int, Callable[[Call], None]] = {
    0x24: _a20, 0x4F: _intercept, 0x86: _wait, 0x87: _move_block, 0x88: _above_1m, 0xC0: _configuration,
    0xC1: _extended_area, 0xE8: _memory,
}  # fmt: skip


def system(call: Call) -> None:
    """INT 15h."""
    function = _FUNCTIONS.get(call.ah)
    if function is None:
        call.done(UNSUPPORTED)
    else:
        function(call)
