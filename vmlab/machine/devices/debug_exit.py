"""The debug-exit port: how a test kernel ends its machine.

A write of `v` to port 0xF4 ends the machine with status `(v << 1) | 1`, so that a status from here is never 0.

Bus range: ports 0xF4-0xF7, up to four bytes at once. Reads give 0.

Read more: there is no data sheet; this is the interface that QEMU's `isa-debug-exit` made common in kernel tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.state import check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["DebugExit"]


class DebugExit:
    """The debug-exit device.

    Attributes
    ----------
    status : int or None
        Exit status of the machine, None as long as it has not been ended.
    on_exit : callable or None
        Called with the status at each write.
    """

    __slots__ = ("name", "on_exit", "status")

    def __init__(self, name: str = "debug-exit") -> None:
        self.name = name
        self.status: int | None = None
        self.on_exit: Callable[[int], None] | None = None

    def attach(self, bus: Bus) -> None:
        """Claim the customary ports."""
        bus.add_ports(self, 0xF4, 4, width=4)

    def read(self, offset: int, size: int) -> int:
        """Read: nothing is there, zero."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End the machine."""
        self.status = (value << 1) | 1
        if self.on_exit is not None:
            self.on_exit(self.status)

    def save(self) -> dict[str, Any]:
        """Save the status."""
        return {"version": 1, "status": self.status}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved status; StateError if it is damaged."""
        check_state(state, self.name, {"status": (range(1 << 33), type(None))})
        self.status = state["status"]
