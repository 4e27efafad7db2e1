"""System control port A of a PS/2: another way to the A20 gate and to the processor's reset line.

Bus range: port 0x92.

    [ 7:2 stored | A20 1 | RESET 0 ]

Simplified: A20 is always on; the gate's bit is stored and shuts nothing.

Read more: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.state import BYTE, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["SystemControl"]

RESET, A20 = 0x01, 0x02


class SystemControl:
    """System control port A.

    Attributes
    ----------
    register : int
        What was written last, without the reset bit.
    on_reset : callable or None
        Called without arguments where the reset bit rises.
    """

    __slots__ = ("name", "on_reset", "register")

    def __init__(self, name: str = "system-control") -> None:
        self.name = name
        self.register = A20
        self.on_reset: Callable[[], object] | None = None

    def attach(self, bus: Bus) -> None:
        """Claim the port."""
        bus.add_ports(self, 0x92, 1)

    def read(self, offset: int, size: int) -> int:
        """Read the register."""
        return self.register

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the register; bit 0 resets the processor."""
        self.register = value & 0xFF & ~RESET
        if value & RESET and self.on_reset is not None:
            self.on_reset()

    def save(self) -> dict[str, Any]:
        """Save the register."""
        return {"version": 1, "register": self.register}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved register; StateError if it is damaged."""
        check_state(state, self.name, {"register": BYTE})
        self.register = state["register"]
