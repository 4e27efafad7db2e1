"""Event channels: the interrupts of a paravirtualized guest.

An event is one bit. It is set in the page that guest and hypervisor share, among the pending ones; where it is not masked,
so are the bit of its word in the selector, and the upcall's pending byte. The hypervisor then calls the guest's handler,
unless the guest has set the upcall's mask: that byte is the virtual interrupt flag, which the guest writes without a trap.

Simplified: one processor a guest.

Read more: Xen, xen/common/event_channel.c; Barham et al., SOSP 2003, 3.2.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import StateError
from vmlab.machine.state import LONG, Items, check_state
from vmlab.vmm.xen.abi import (
    MASK,
    PENDING,
    PENDING_SELECTOR,
    PORTS,
    UPCALL_MASK,
    UPCALL_PENDING,
    Errno,
    Refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.memory import PhysicalMemory

__all__ = ["Channel", "ChannelKind", "EventChannels"]


class ChannelKind(IntEnum):
    """What a port is bound to; the numbers are those that `EVTCHNOP_status` gives."""

    UNBOUND = 1
    INTERDOMAIN = 2
    VIRQ = 4


class Channel(NamedTuple):
    """One end of an event channel.

    Attributes
    ----------
    kind : ChannelKind
        What it is bound to.
    target : int
        The other guest, or the number of the virtual interrupt.
    port : int
        The port of the other guest; of domain 0, the number of the back end.
    """

    kind: ChannelKind
    target: int
    port: int = 0


class EventChannels:
    """The event channels of one guest.

    Parameters
    ----------
    memory : PhysicalMemory
        The computer's.
    shared : int
        Machine address of the shared page.
    wake : callable
        Called when the upcall becomes pending: the guest may be blocked.

    Attributes
    ----------
    bound : dict of int to Channel
        By port.
    """

    def __init__(self, memory: PhysicalMemory, shared: int, wake: Callable[[], None]) -> None:
        self._memory = memory
        self._shared = shared
        self._wake = wake
        self.bound: dict[int, Channel] = {}

    # -- ports -----------------------------------------------------------------------------------------------------------

    def allocate(self, channel: Channel) -> int:
        """Bind the lowest free port; Refused where there is none."""
        port = next((port for port in range(1, PORTS) if port not in self.bound), None)
        if port is None:
            raise Refused(Errno.ENOSPC)
        self.bound[port] = channel
        return port

    def find(self, port: int) -> Channel:
        """Return what a port is bound to; Refused where it is free."""
        if port not in self.bound:
            raise Refused(Errno.EINVAL)
        return self.bound[port]

    def port_of(self, kind: ChannelKind, target: int, other: int = 0) -> int | None:
        """Return the port that is bound so, None where none is."""
        return next((port for port, each in self.bound.items() if each == (kind, target, other)), None)

    # -- the shared page -------------------------------------------------------------------------------------------------

    @property
    def masked(self) -> bool:
        """The virtual interrupt flag, inverted."""
        return bool(self._memory.read(self._shared + UPCALL_MASK, 1))

    @masked.setter
    def masked(self, value: bool) -> None:
        self._memory.write(self._shared + UPCALL_MASK, 1, value)

    @property
    def pending(self) -> bool:
        """True where an upcall is due, as soon as it is not masked."""
        return bool(self._memory.read(self._shared + UPCALL_PENDING, 1))

    @property
    def due(self) -> bool:
        """True where the upcall is to be made now."""
        return self.pending and not self.masked

    def _set_bit(self, offset: int, bit: int) -> bool:
        """Set a bit of the shared page; say whether that changed it."""
        address = self._shared + offset + (bit >> 5) * 4
        word = self._memory.read(address, 4)
        if word >> (bit & 31) & 1:
            return False
        self._memory.write(address, 4, word | 1 << (bit & 31))
        return True

    def _bit(self, offset: int, port: int) -> int:
        return self._memory.read(self._shared + offset + (port >> 5) * 4, 4) >> (port & 31) & 1

    def send(self, port: int) -> None:
        """Make an event pending."""
        if self._set_bit(PENDING, port) and not self._bit(MASK, port):
            self._call(port)

    def _call(self, port: int) -> None:
        self._set_bit(PENDING_SELECTOR, port >> 5)
        self._memory.write(self._shared + UPCALL_PENDING, 1, 1)
        self._wake()

    def unmask(self, port: int) -> None:
        """Unmask a port; what became pending meanwhile is told now."""
        if not 0 <= port < PORTS:
            raise Refused(Errno.EINVAL)
        address = self._shared + MASK + (port >> 5) * 4
        self._memory.write(address, 4, self._memory.read(address, 4) & ~(1 << (port & 31)))
        if self._bit(PENDING, port):
            self._call(port)

    # -- saving ----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the ports; the bits are in memory."""
        return {"version": 1, "bound": [[port, *map(int, each)] for port, each in sorted(self.bound.items())]}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, "event channels", {"bound": Items(Items(LONG, 4))})
        kinds = {int(kind): kind for kind in ChannelKind}
        rows = state["bound"]
        if any(kind not in kinds or port not in range(1, PORTS) or other >= PORTS for port, kind, _, other in rows):
            raise StateError("event channels: a saved port is bound to nothing that there is")
        self.bound = {port: Channel(kinds[kind], target, other) for port, kind, target, other in rows}
