"""INT 1Ah: ticks since midnight, and the real-time clock.

    00 get ticks    01 set ticks    02 get time    03 set time    04 get date    05 set date    B1 PCI: absent

Simplified: no alarm, no PCI services: configuration space is reached by its ports.

Read more: IBM PS/2 and PC BIOS Interface Technical Reference, INT 1Ah.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.devices.rtc_calendar import CENTURY

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.firmware.call import Call

__all__ = ["time"]

TICKS, MIDNIGHT = 0x6C, 0x70  # in the BIOS data area
INDEX, DATA = 0x70, 0x71
SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, STATUS_B = 0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x0B
SET, DAYLIGHT = 0x80, 0x01
UNSUPPORTED = 0x86


def _read(call: Call, place: int) -> int:
    call.port_out(INDEX, place)
    return call.port_in(DATA)


def _write(call: Call, values: dict[int, int], daylight: int | None = None) -> None:
    """Set bytes of the clock while it stands."""
    status = _read(call, STATUS_B)
    if daylight is not None:
        status = status & ~DAYLIGHT | daylight & DAYLIGHT
    for place, value in {STATUS_B: status | SET, **values}.items():
        call.port_out(INDEX, place)
        call.port_out(DATA, value)
    call.port_out(INDEX, STATUS_B)
    call.port_out(DATA, status & ~SET)


def _get_ticks(call: Call) -> None:
    ticks = call.get(TICKS, 4)
    call.cx, call.dx = ticks >> 16, ticks
    call.al = call.get(MIDNIGHT)
    call.put(MIDNIGHT, 0)


def _set_ticks(call: Call) -> None:
    call.put(TICKS, call.cx << 16 | call.dx, 4)
    call.put(MIDNIGHT, 0)


def _get_time(call: Call) -> None:
    call.ch, call.cl, call.dh = (_read(call, place) for place in (HOURS, MINUTES, SECONDS))
    call.dl = _read(call, STATUS_B) & DAYLIGHT
    call.carry(False)


def _set_time(call: Call) -> None:
    _write(call, {HOURS: call.ch, MINUTES: call.cl, SECONDS: call.dh}, call.dl)
    call.carry(False)


def _get_date(call: Call) -> None:
    call.ch, call.cl, call.dh, call.dl = (_read(call, place) for place in (CENTURY, YEAR, MONTH, DAY))
    call.carry(False)


def _set_date(call: Call) -> None:
    _write(call, {CENTURY: call.ch, YEAR: call.cl, MONTH: call.dh, DAY: call.dl})
    call.carry(False)


_FUNCTIONS: dict[int, Callable[[Call], None]] = {
    0x00: _get_ticks, 0x01: _set_ticks, 0x02: _get_time, 0x03: _set_time, 0x04: _get_date, 0x05: _set_date,
}  # fmt: skip


def time(call: Call) -> None:
    """INT 1Ah."""
    function = _FUNCTIONS.get(call.ah)
    if function is None:
        call.done(UNSUPPORTED)
    else:
        function(call)
