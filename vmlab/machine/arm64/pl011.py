"""PL011: the serial line.

    000 DR  018 FR (7 TX empty, 4 RX empty)  024 IBRD  028 FBRD  02C LCR_H  030 CR  038 IMSC  03C RIS  040 MIS  044 ICR
    FE0-FFC identification

What is written to DR is sent at once; what was typed waits in DR. The receive interrupt is pending while something waits.

Simplified: no baud rate, no FIFO levels, no errors, no modem lines, no DMA; CR need not enable it.

Read more: Arm DDI 0183 (PL011 technical reference manual), 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmlab.machine.state import LONG, Entries, check_state

__all__ = ["Pl011"]

DATA, FLAGS, MASK, RAW, MASKED, CLEAR = 0x00, 0x18, 0x38, 0x3C, 0x40, 0x44
KEPT = {0x24: 0xFFFF, 0x28: 0x3F, 0x2C: 0xFF, 0x30: 0xFFFF, 0x34: 0x3F, MASK: 0x7FF}
"""Registers that hold what was written, and their bits."""
TX_EMPTY, RX_EMPTY = 1 << 7, 1 << 4
RECEIVE, TRANSMIT = 1 << 4, 1 << 5
IDENTITY = dict(zip(range(0xFE0, 0x1000, 4), (0x11, 0x10, 0x14, 0, 0x0D, 0xF0, 0x05, 0xB1), strict=True))


class Pl011:
    """The device.

    Parameters
    ----------
    interrupt : callable
        Takes the level of its interrupt line.

    Attributes
    ----------
    output : bytearray
        What has been sent.
    """

    def __init__(self, interrupt: Callable[[bool], None]) -> None:
        self._interrupt = interrupt
        self.output = bytearray()
        self._input = bytearray()
        self._kept = dict.fromkeys(KEPT, 0) | {0x30: 0x300}
        self._sent = False

    def send(self, data: bytes) -> None:
        """Type something."""
        self._input += data
        self._update()

    @property
    def _raw(self) -> int:
        return (RECEIVE if self._input else 0) | (TRANSMIT if self._sent else 0)

    def _update(self) -> None:
        self._interrupt(bool(self._raw & self._kept[MASK]))

    def read(self, offset: int) -> int:
        """Read a register."""
        if offset == DATA:
            value = self._input.pop(0) if self._input else 0
            self._update()
            return value
        if offset == FLAGS:
            return TX_EMPTY | (0 if self._input else RX_EMPTY)
        if offset == RAW:
            return self._raw
        if offset == MASKED:
            return self._raw & self._kept[MASK]
        return self._kept.get(offset, IDENTITY.get(offset, 0))

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        if offset == DATA:
            self.output.append(value & 0xFF)
            self._sent = True
        elif offset == CLEAR:
            self._sent = self._sent and not value & TRANSMIT
        elif offset in KEPT:
            self._kept[offset] = value & KEPT[offset]
        self._update()

    def save(self) -> dict[str, Any]:
        """Save the state."""
        kept = dict(self._kept)
        return {
            "version": 1,
            "output": bytes(self.output),
            "input": bytes(self._input),
            "kept": kept,
            "sent": self._sent,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Raises
        ------
        StateError
            The state is damaged.
        """
        fields = {"output": bytes, "input": bytes, "kept": Entries(range(0x40), LONG), "sent": bool}
        check_state(state, "PL011", fields)
        self.output[:], self._input[:] = state["output"], state["input"]
        self._kept = {offset: state["kept"].get(offset, 0) & mask for offset, mask in KEPT.items()}
        self._sent = state["sent"]
        self._update()
