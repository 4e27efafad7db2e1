"""The serial port: a 16550 UART.

The kernel writes characters to THR and reads them from RBR; LSR says when, and the interrupt line can say it too.
What was sent stands in `Uart.output`; `feed()` puts characters on the wire to the guest.

Bus range: ports 0x3F8-0x3FF (COM1), IRQ 4.

Simplified: sending takes no time (the transmitter is always empty again), whatever the divisor says. The other end of
the wire has flow control: characters wait there while the receiver is full, so that overruns occur in loopback alone.
Characters below the FIFO's trigger level count as timed out at once. Modem lines are those of a connected terminal.
OUT2, which on a PC's board gates the interrupt line, is stored and gates nothing: kernels which leave it clear work on
common emulators, so they work here. DMA mode is stored. After reset the line control is 8N1, as firmware leaves it.

Read more: PC16550D data sheet (National Semiconductor, 1995), tables II-IV: registers, interrupt priorities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.errors import OptionError
from vmlab.machine.state import BYTE, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["Uart"]

RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)  # offset 0 written is THR, 2 written is FCR
# IER: which causes interrupt                  IIR: the highest cause, bit 0 clear if there is one
IER_DATA, IER_THRE, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_DATA, IIR_LINE, IIR_TIMEOUT, IIR_FIFO = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C, 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVER, FCR_TRIGGER = 0x01, 0x02, 0xC0
LCR_8N1, LCR_DLAB = 0x03, 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_DATA, LSR_OVERRUN, LSR_ERRORS, LSR_THRE, LSR_EMPTY = 0x01, 0x02, 0x1E, 0x20, 0x40
MSR_CHANGES, MSR_RING_ENDED, MSR_CTS, MSR_DSR, MSR_RING, MSR_DCD = 0x0F, 0x04, 0x10, 0x20, 0x40, 0x80

TRIGGERS = (1, 4, 8, 14)  # received characters that raise the interrupt, by FCR bits 7:6
FIFO_SIZE = 16

_REGISTERS: dict[str, Any] = {
    "ier": range(0x10), "fcr": BYTE, "lcr": BYTE, "mcr": range(0x20), "msr": BYTE, "scr": BYTE, "divisor": range(1 << 16),
    "line_errors": BYTE, "last_received": BYTE, "thre_pending": bool,
}  # fmt: skip
_BUFFERS = ("output", "_incoming", "_received")


class Uart:
    """A serial port.

    Parameters
    ----------
    line : callable
        Drives the interrupt request line.

    Attributes
    ----------
    output : bytearray
        All that the guest has sent.
    """

    __slots__ = ("_high", "_incoming", "_line", "_received", "name", "output", *_REGISTERS)

    def __init__(self, line: Callable[[bool], None], name: str = "uart") -> None:
        self.name = name
        self._line = line
        self._high = False
        self.output = bytearray()
        self._incoming = bytearray()  # still on the wire
        self._received = bytearray()  # in the receiver: RBR or its FIFO
        self.ier = self.fcr = self.mcr = self.scr = self.line_errors = self.last_received = 0
        self.divisor = 1
        self.lcr = LCR_8N1
        self.msr = MSR_CTS | MSR_DSR | MSR_DCD
        self.thre_pending = False

    def attach(self, bus: Bus, base: int = 0x3F8) -> None:
        """Claim COM1's ports, or those from `base`."""
        bus.add_ports(self, base, 8)

    def feed(self, data: bytes) -> None:
        """Send characters to the guest; they wait on the wire while its receiver is full.

        Raises
        ------
        OptionError
            The data are not bytes.
        """
        if not isinstance(data, (bytes, bytearray)):
            raise OptionError(f"the serial port takes bytes, not {type(data).__name__}: encode a text first")
        self._incoming += data
        self._receive()
        self._update()

    @property
    def text(self) -> str:
        """What the guest has sent, as text; bytes that are not UTF-8 are replaced."""
        return self.output.decode("utf-8", "replace")

    @property
    def has_input(self) -> bool:
        """True where a character waits to be read."""
        return bool(self._received)

    # -- receiver and interrupts -------------------------------------------------------------------------------------

    @property
    def _capacity(self) -> int:
        return FIFO_SIZE if self.fcr & FCR_ENABLE else 1

    def _receive(self) -> None:
        """Move characters from the wire into the receiver."""
        if self.mcr & MCR_LOOP:
            return  # the wire is cut off
        room = self._capacity - len(self._received)
        if room > 0 and self._incoming:
            self._received += self._incoming[:room]
            del self._incoming[:room]

    def _cause(self) -> int:
        """The interrupt of highest priority, as IIR encodes it."""
        if self.ier & IER_LINE and self.line_errors:
            return IIR_LINE
        if self.ier & IER_DATA and self._received:
            if self.fcr & FCR_ENABLE and len(self._received) < TRIGGERS[self.fcr >> 6]:
                return IIR_TIMEOUT
            return IIR_DATA
        if self.ier & IER_THRE and self.thre_pending:
            return IIR_THRE
        if self.ier & IER_MODEM and self.msr & MSR_CHANGES:
            return IIR_MODEM
        return IIR_NONE

    def _update(self) -> None:
        if not self.ier and not self._high:
            return  # no cause is enabled
        high = self._cause() != IIR_NONE
        if high != self._high:
            self._high = high
            self._line(high)

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        value = self._READERS[offset](self)
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        self._WRITERS[offset](self, value & 0xFF)
        self._update()

    def _read_data(self) -> int:
        if self.lcr & LCR_DLAB:
            return self.divisor & 0xFF
        if self._received:
            self.last_received = self._received.pop(0)
            self._update()  # a full receiver's interrupt falls before the next character raises it again
            self._receive()
        return self.last_received

    def _write_data(self, value: int) -> None:
        if self.lcr & LCR_DLAB:
            self.divisor = (self.divisor & 0xFF00) | value
            return
        self.thre_pending = False
        self._update()
        if not self.mcr & MCR_LOOP:
            self.output.append(value)
        elif len(self._received) < self._capacity:
            self._received.append(value)
        else:
            self.line_errors |= LSR_OVERRUN
            if not self.fcr & FCR_ENABLE:  # the FIFO keeps what it holds, the single register does not
                self._received[:] = bytes([value])
        self.thre_pending = True

    def _read_ier(self) -> int:
        return self.divisor >> 8 if self.lcr & LCR_DLAB else self.ier

    def _write_ier(self, value: int) -> None:
        if self.lcr & LCR_DLAB:
            self.divisor = (self.divisor & 0xFF) | value << 8
            return
        if value & IER_THRE and not self.ier & IER_THRE:
            self.thre_pending = True  # the transmitter is empty now: enabling its interrupt raises it
        self.ier = value & 0x0F

    def _read_iir(self) -> int:
        cause = self._cause()
        if cause == IIR_THRE:
            self.thre_pending = False
        return cause | (IIR_FIFO if self.fcr & FCR_ENABLE else 0)

    def _write_fcr(self, value: int) -> None:
        if (value ^ self.fcr) & FCR_ENABLE or (value & FCR_ENABLE and value & FCR_CLEAR_RECEIVER):
            self._received.clear()
        # The clear bits clear themselves; without the enable bit the others are not programmed.
        self.fcr = value & (FCR_TRIGGER | 0x08 | FCR_ENABLE) if value & FCR_ENABLE else 0
        self._update()
        self._receive()

    def _read_lcr(self) -> int:
        return self.lcr

    def _write_lcr(self, value: int) -> None:
        self.lcr = value

    def _read_mcr(self) -> int:
        return self.mcr

    def _write_mcr(self, value: int) -> None:
        self.mcr = value & 0x1F
        levels = MSR_CTS | MSR_DSR | MSR_DCD
        if self.mcr & MCR_LOOP:
            wires = ((MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RING), (MCR_OUT2, MSR_DCD))
            levels = sum(status for control, status in wires if self.mcr & control)
        changed = (self.msr ^ levels) >> 4
        if levels & MSR_RING:
            changed &= ~MSR_RING_ENDED  # only the end of ringing counts
        self.msr = levels | (self.msr & MSR_CHANGES) | changed
        self._receive()

    def _read_lsr(self) -> int:
        value = LSR_THRE | LSR_EMPTY | self.line_errors | (LSR_DATA if self._received else 0)
        self.line_errors = 0
        return value

    def _read_msr(self) -> int:
        value = self.msr
        self.msr &= ~MSR_CHANGES
        return value

    def _write_nothing(self, value: int) -> None:
        """LSR and MSR: a write is meant for the factory's tests."""

    def _read_scr(self) -> int:
        return self.scr

    def _write_scr(self, value: int) -> None:
        self.scr = value

    _READERS: ClassVar[tuple[Callable[[Uart], int], ...]] = (
        _read_data, _read_ier, _read_iir, _read_lcr, _read_mcr, _read_lsr, _read_msr, _read_scr,
    )  # fmt: skip
    _WRITERS: ClassVar[tuple[Callable[[Uart, int], None], ...]] = (
        _write_data, _write_ier, _write_fcr, _write_lcr, _write_mcr, _write_nothing, _write_nothing, _write_scr,
    )  # fmt: skip

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save registers and what was sent and received."""
        buffers = {name.lstrip("_"): bytes(getattr(self, name)) for name in _BUFFERS}
        return {"version": 1} | {name: getattr(self, name) for name in _REGISTERS} | buffers

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError if it is damaged."""
        check_state(state, self.name, _REGISTERS | {name.lstrip("_"): bytes for name in _BUFFERS})
        for name in _REGISTERS:
            setattr(self, name, state[name])
        for name in _BUFFERS:
            getattr(self, name)[:] = state[name.lstrip("_")]
        self._high = self._cause() != IIR_NONE  # the interrupt controller saves the level of its line itself
