"""INT 14h: the serial port; INT 17h: parallel ports, of which there are none.

    14h:  00 initialize     01 send     02 receive     03 status

Simplified: receiving does not wait: where no character is there it has timed out.

Read more: IBM PS/2 and PC BIOS Interface Technical Reference, INT 14h, INT 17h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmlab.machine.firmware.call import Call

__all__ = ["printer", "serial"]

PORTS = 0x00  # in the BIOS data area: four words, the serial ports' addresses
MOST_PORTS = 4
DATA, DIVISOR_HIGH, LINE_CONTROL, MODEM_CONTROL, LINE_STATUS, MODEM_STATUS = 0, 1, 3, 4, 5, 6
DIVISOR_LATCH, READY, BREAK = 0x80, 0x01, 0x1E
DTR_RTS = 0x03
TIMEOUT = 0x80
DIVISORS = (1047, 768, 384, 192, 96, 48, 24, 12)
"""Of 110 to 9600 baud, by AL bits 7:5."""
PRINTER_TIMEOUT = 0x01


def serial(call: Call) -> None:
    """INT 14h: the port of number DX."""
    base = call.get(PORTS + 2 * call.dx, 2) if call.dx < MOST_PORTS else 0
    function = call.ah
    if not base or function > 3:
        return
    if function == 0:
        divisor = DIVISORS[call.al >> 5]
        for register, value in (
            (LINE_CONTROL, DIVISOR_LATCH), (DATA, divisor & 0xFF), (DIVISOR_HIGH, divisor >> 8), (LINE_CONTROL, call.al & 0x1F),
            (MODEM_CONTROL, DTR_RTS), (DIVISOR_HIGH, 0),
        ):  # fmt: skip
            call.port_out(base + register, value)
    elif function == 1:
        call.port_out(base + DATA, call.al)
    elif function == 2:
        status = call.port_in(base + LINE_STATUS)
        if status & READY:
            call.al = call.port_in(base + DATA)
            call.ah = status & BREAK
        else:
            call.ah = TIMEOUT
        return
    call.ah = call.port_in(base + LINE_STATUS)
    if function != 1:
        call.al = call.port_in(base + MODEM_STATUS)


def printer(call: Call) -> None:
    """INT 17h: no printer answers."""
    if call.ah <= 2:
        call.ah = PRINTER_TIMEOUT
