"""Input and output through another domain: a control domain, whose own kernel is guest code, drives the disk for all others.

A guest's drive gets a command; the sectors that it will need are asked of the control domain by a channel, and the guest waits
until they have come. So the guest's own time stands still, and it sees the same as with a drive of its own.

The control domain is guest 0. Its kernel (`vmlab/guests/control.asm`) waits for the channel's interrupt, reads the sector by its
driver, and hands it over.

Read more: Barham et al., "Xen and the Art of Virtualization", SOSP 2003, 3.3; Pratt et al. and Fraser et al. on driver domains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.kinds.host_disk import ServedDisk
from vmlab.machine.state import COUNT, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.devices.channel import Channel
    from vmlab.machine.disk import Disk
    from vmlab.vmm.guest import Guest

__all__ = ["CONTROL", "DiskService"]

CONTROL = 0
"""The guest that is the control domain."""


class DiskService:
    """What guests have asked of the control domain, and what has come.

    Parameters
    ----------
    whole : Disk
        The computer's disk, which the control domain has.
    on_request, on_reply : callable
        Told of a guest and a sector when it is asked for, and when it has come.

    Attributes
    ----------
    channel : Channel
        The control domain's end.
    waiting : dict
        Sectors of the computer's disk for which each guest waits.
    """

    def __init__(
        self, whole: Disk, on_request: Callable[[int, int], None], on_reply: Callable[[int, int], None]
    ) -> None:
        self._whole = whole
        self._on_request, self._on_reply = on_request, on_reply
        self.channel: Channel
        self.waiting: dict[int, set[int]] = {}
        self._arrived: dict[tuple[int, int], bytes] = {}

    def connect(self, channel: Channel) -> None:
        """Take the control domain's end of the channel."""
        self.channel = channel
        channel.on_reply = self._reply

    def disk(self, guest: int, like: Disk, start: int) -> Disk:
        """Return a guest's disk, which begins at a sector of the computer's."""

        def announce(first: int, count: int) -> None:
            for sector in range(start + first, start + first + count):
                self._request(guest, sector)

        return ServedDisk(like, lambda sector: self._take(guest, start + sector), announce)

    def is_waiting(self, guest: int) -> bool:
        """Say whether a guest waits for its disk."""
        return bool(self.waiting.get(guest))

    def can_run(self, index: int, guest: Guest) -> bool:
        """Say whether a guest has anything to do: none that waits for its disk; the control domain, if there is work."""
        if guest.outcome is not None:
            return False
        if index == CONTROL:
            return bool(not guest.is_halted or self.channel.waiting)
        return not self.is_waiting(index)

    def _request(self, guest: int, sector: int) -> None:
        self.waiting.setdefault(guest, set()).add(sector)
        self._on_request(guest, sector)
        self.channel.post(guest, sector)

    def _reply(self, guest: int, sector: int, data: bytes | None) -> None:
        self.waiting.get(guest, set()).discard(sector)
        if data is not None:
            self._arrived[guest, sector] = data
        self._on_reply(guest, sector)

    def _take(self, guest: int, sector: int) -> bytes:
        """Return a sector that has come; what was never asked for (a drive's registers changed on the way) as it lies on the disk."""
        return self._arrived.pop((guest, sector), None) or self._whole.read(sector)

    def save(self) -> dict[str, Any]:
        """Save as plain data; the channel is a device of the control domain's."""
        return {
            "version": 1,
            "waiting": [[guest, sector] for guest, sectors in self.waiting.items() for sector in sorted(sectors)],
            "arrived": [[guest, sector, data] for (guest, sector), data in self._arrived.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(
            state, "disk service", {"waiting": Items(Items(COUNT, 2)), "arrived": Items(Items((int, bytes), 3))}
        )
        self.waiting = {}
        for guest, sector in state["waiting"]:
            self.waiting.setdefault(guest, set()).add(sector)
        self._arrived = {(guest, sector): data for guest, sector, data in state["arrived"]}
