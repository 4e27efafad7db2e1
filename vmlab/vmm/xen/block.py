"""The block ring: how a paravirtualized guest reads its disk, and the back end that reads it there.

The ring is a page that both share: four indices that only grow, then 32 slots, each for a request or for its answer.

    0   requests put by the guest                  4   tell the back end when they reach this
    8   answers put by the back end                12  tell the guest when they reach this
    64  slots of 108 bytes
        request  0 operation, 1 segments, 2 handle (2 bytes), 4 number (8), 12 sector (8), 20 frame (4), 24 first, 25 last
        answer   0 number (8), 8 operation, 10 status (2): 0 done, -1 an error, -2 no such operation

The guest puts requests, moves its index, and sends an event; the back end takes a copy of each, reads the sector, puts its
data into the frame that the request names, answers, and sends an event. It trusts nothing in the ring: a frame must be the
guest's and no page table, a place in it one of eight; who claims more requests than there are slots is not served again.

Simplified: reading alone, one sector a request. The back end is a part of the hypervisor (in Xen it is a driver in domain 0),
and takes for a sector as long as an ATA disk. In Xen a request names a page by a grant, and both ends find each other through
a store; here it names the machine frame, and the domain builder makes ring and channel as it does the console's, and tells
them in the start info behind what Xen's has.

Read more: Xen, xen/include/public/io/blkif.h, io/ring.h; Barham et al., SOSP 2003, 3.3.4 and figure 2.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.devices.ata_disk import COMMAND_TIME
from vmlab.machine.disk import SECTOR
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.state import COUNT, LONG, check_state
from vmlab.vmm.xen.abi import Refused
from vmlab.vmm.xen.frame_types import FrameType

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.clock import Clock
    from vmlab.machine.disk import Disk
    from vmlab.vmm.xen.frame_types import FrameTypes

__all__ = ["BlockRing"]

REQUESTS, REQUEST_EVENT, ANSWERS, ANSWER_EVENT = 0, 4, 8, 12
FIRST_SLOT, SLOT_SIZE, SLOTS = 64, 108, 32
REQUEST, ANSWER = Struct("<BBHQQIBB"), Struct("<QBxh")
READ = 0
DONE, ERROR, UNSUPPORTED = 0, -1, -2


class BlockRing:
    """The back end of one guest's disk: a device of its clock.

    Parameters
    ----------
    guest : int
        Number of the guest.
    disk : Disk
        What it reads.
    frames : FrameTypes
        The frames of the computer, and its memory.
    clock : Clock
        The guest's.
    notify : callable
        Sends the guest the event.

    Attributes
    ----------
    ring : int
        Machine address of the ring's page.
    taken : int
        Requests that it has taken, modulo 2³².
    due : int or None
        Clock time at which the one that it has taken last will be answered.
    broken : bool
        True from when the guest has claimed more requests than there are slots.
    """

    def __init__(self, guest: int, disk: Disk, frames: FrameTypes, clock: Clock, notify: Callable[[], None]) -> None:
        self.ring = self.taken = 0
        self.due: int | None = None
        self.broken = False
        self._request = b""
        self._guest, self._disk, self._frames, self._clock, self._notify = guest, disk, frames, clock, notify
        self._memory = frames.memory
        clock.add(self)

    # -- requests ----------------------------------------------------------------------------------------------------------

    def hear(self) -> None:
        """Look into the ring, since the guest has sent an event."""
        if self.due is None:
            self._take(self._clock.now)
            self._clock.refresh()

    def _slot(self, number: int) -> int:
        return self.ring + FIRST_SLOT + number % SLOTS * SLOT_SIZE

    def _take(self, now: int) -> None:
        """Take the next request, if there is one; all before it are answered."""
        if self.broken:
            return
        waiting = self._memory.read(self.ring + REQUESTS, 4) - self.taken & 0xFFFFFFFF
        if waiting > SLOTS:
            self.broken = True
        elif waiting:
            self._request = self._memory.read_bytes(self._slot(self.taken), REQUEST.size)
            self.taken = self.taken + 1 & 0xFFFFFFFF
            self.due = now + COMMAND_TIME
        else:
            self._memory.write(self.ring + REQUEST_EVENT, 4, self.taken + 1 & 0xFFFFFFFF)

    def _read(self) -> int:
        """Do what the request says; return the status."""
        operation, segments, _, _, sector, frame, first, last = REQUEST.unpack(self._request)
        if operation != READ:
            return UNSUPPORTED
        if segments != 1 or first != last or first >= PAGE_SIZE // SECTOR or sector >= self._disk.sectors:
            return ERROR
        try:
            self._frames.take(self._guest, frame, FrameType.WRITABLE)
        except Refused:
            return ERROR
        self._memory.write_bytes((frame << PAGE_SHIFT) + first * SECTOR, self._disk.read(sector))
        self._frames.drop(frame)
        return DONE

    # -- time --------------------------------------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """Clock time of the next answer."""
        return self.due

    def advance(self, now: int) -> None:
        """Answer the request whose time has come, and take the next."""
        if self.due is None or self.due > now:
            return
        operation, _, _, number, *_ = REQUEST.unpack(self._request)
        answer = ANSWER.pack(number, operation, self._read())
        self._memory.write_bytes(self._slot(self.taken - 1), answer)
        self._memory.write(self.ring + ANSWERS, 4, self.taken)
        self.due, self._request = None, b""
        if self._memory.read(self.ring + ANSWER_EVENT, 4) == self.taken:
            self._notify()
        self._take(now)

    # -- saving ------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what has been taken; the ring is in memory, the disk is saved as a drive of the platform."""
        return {"version": 1, "taken": self.taken, "due": self.due, "request": self._request, "broken": self.broken}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        check_state(state, "block ring", {"taken": LONG, "due": (COUNT, type(None)), "request": bytes, "broken": bool})
        size = 0 if state["due"] is None else REQUEST.size
        if len(state["request"]) != size:
            raise StateError(f"block ring: a saved request has {len(state['request'])} bytes, not {size}")
        self.taken, self.due, self.broken = state["taken"], state["due"], state["broken"]
        self._request = state["request"]
        self._clock.refresh()
