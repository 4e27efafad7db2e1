"""Frame types and their counts: what makes it safe to let the processor walk a guest's own page tables (direct paging).

Each frame of memory has at any time one type, and a count of the uses as such:

    none       counted by nobody
    writable   mapped writable somewhere; or the hypervisor's shared page
    L1         a page table: used by a page directory, or pinned
    L2         a page directory: the base of an address space, or pinned

A type changes only while the count is 0. When a frame becomes a page table, each of its entries is checked, and what it
leads to is counted; from then on nobody maps it writable, and only `update` changes it, with the same checks. So no guest
can ever write to what the processor walks, and no entry leads to a frame of somebody else.

The processor may still hold translations of uses that have ended. A type therefore changes only after the TLB has been
flushed since the last use of the old type.

Simplified: two levels, no superpages, no global pages, no page tables that map themselves.

Read more: Barham et al., "Xen and the Art of Virtualization", SOSP 2003, 3.3.3; Xen, xen/arch/x86/mm.c.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.paging import ACCESSED, DIRTY, PRESENT, WRITABLE
from vmlab.machine.state import COUNT, Items, check_state
from vmlab.vmm.xen.abi import FIRST_RESERVED_SLOT, Errno, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.memory import PhysicalMemory

__all__ = ["HYPERVISOR", "FrameType", "FrameTypes"]

HYPERVISOR = -1
SLOTS = PAGE_SIZE // 4
FORBIDDEN = 0x180
"""Bits that no entry of a guest may have: G, and PAT or PS (SDM vol. 3, figure 4-4)."""
MARKS = ACCESSED | DIRTY


class FrameType(IntEnum):
    """Types of frames."""

    NONE = 0
    WRITABLE = 1
    L1 = 2
    L2 = 3


TABLES = (FrameType.L1, FrameType.L2)
KINDS = frozenset(FrameType) - {FrameType.NONE}


class FrameTypes:
    """The frames of a computer: owners, types and counts.

    Parameters
    ----------
    memory : PhysicalMemory
        The computer's.
    owners : sequence of int
        Guest that owns each frame, or `HYPERVISOR`.
    reserved : sequence of int
        The last entries of every page directory.
    flush : callable
        Flushes the processor's TLB.

    Attributes
    ----------
    types : list of FrameType
        Type of each frame.
    counts : list of int
        Uses of each frame as of its type.
    pinned : set of int
        Frames with page tables that are kept though nobody may use them.
    entries_checked, flushes : int
        What was done, for its cost.
    """

    def __init__(
        self, memory: PhysicalMemory, owners: Sequence[int], reserved: Sequence[int], flush: Callable[[], None]
    ) -> None:
        self.memory = memory
        self.owners = owners
        self._reserved = reserved
        self._flush = flush
        self.types = [FrameType.NONE] * len(owners)
        self.counts = [0] * len(owners)
        self.pinned: set[int] = set()
        self._stale: dict[int, FrameType] = {}  # frames of which the TLB may know an earlier use
        self.entries_checked = self.flushes = 0

    # -- references ------------------------------------------------------------------------------------------------------

    def take(self, guest: int, frame: int, kind: FrameType) -> None:
        """Use a frame of a guest as one of a type.

        Raises
        ------
        Refused
            It is not the guest's, has another type, or holds an entry that cannot be.
        """
        if not self.is_own(guest, frame):
            raise Refused(Errno.EINVAL)
        if self.counts[frame]:
            if self.types[frame] is not kind:
                raise Refused(Errno.EINVAL)
            self.counts[frame] += 1
            return
        if self._stale.get(frame, kind) is not kind:
            self._flush()
            self.flushes += 1
            self.flushed()
        self.types[frame], self.counts[frame] = kind, 1
        if kind in TABLES:
            try:
                self._check_table(guest, frame, kind)
            except Refused:
                self._forget(frame)
                raise

    def drop(self, frame: int) -> None:
        """End one use of a frame; the last one of a page table ends what its entries use."""
        self.counts[frame] -= 1
        if self.counts[frame]:
            return
        kind = self.types[frame]
        if kind in TABLES:
            for slot in range(self._slots(kind)):
                self._drop_entry(kind, self._entry(frame, slot))
        self._forget(frame)

    def _forget(self, frame: int) -> None:
        self._stale[frame] = self.types[frame]
        self.types[frame], self.counts[frame] = FrameType.NONE, 0

    def flushed(self) -> None:
        """Note that the TLB holds nothing of a guest any more."""
        self._stale.clear()

    def is_own(self, guest: int, frame: int) -> bool:
        """Say whether a frame is a guest's."""
        return frame < len(self.owners) and self.owners[frame] == guest

    # -- entries ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def _slots(kind: FrameType) -> int:
        """Return how many entries of a table are the guest's."""
        return SLOTS if kind is FrameType.L1 else FIRST_RESERVED_SLOT

    def _entry(self, frame: int, slot: int) -> int:
        return self.memory.read((frame << PAGE_SHIFT) + 4 * slot, 4)

    def _check_table(self, guest: int, frame: int, kind: FrameType) -> None:
        """Check every entry of what is to be a page table, and use what it leads to."""
        taken = 0
        try:
            for slot in range(self._slots(kind)):
                self._take_entry(guest, kind, self._entry(frame, slot))
                taken = slot + 1
        except Refused:
            for slot in range(taken):
                self._drop_entry(kind, self._entry(frame, slot))
            raise
        if kind is FrameType.L2:
            for slot, entry in enumerate(self._reserved, FIRST_RESERVED_SLOT):
                if (self._entry(frame, slot) ^ entry) & ~MARKS:
                    self.memory.write((frame << PAGE_SHIFT) + 4 * slot, 4, entry)

    def _take_entry(self, guest: int, kind: FrameType, entry: int) -> None:
        """Check an entry of a table, and use the frame that it leads to."""
        if not entry & PRESENT:
            return
        self.entries_checked += 1
        frame = entry >> PAGE_SHIFT
        if entry & FORBIDDEN or not self.is_own(guest, frame):
            raise Refused(Errno.EINVAL)
        if kind is FrameType.L2:
            self.take(guest, frame, FrameType.L1)
        elif entry & WRITABLE:
            self.take(guest, frame, FrameType.WRITABLE)

    def _drop_entry(self, kind: FrameType, entry: int) -> None:
        """End the use that an entry makes of a frame."""
        if entry & PRESENT and (kind is FrameType.L2 or entry & WRITABLE):
            self.drop(entry >> PAGE_SHIFT)

    def update(self, guest: int, address: int, entry: int, *, keep_marks: bool = False) -> None:
        """Write an entry of a page table, or a word of another frame, for a guest.

        Parameters
        ----------
        guest : int
            Whose.
        address : int
            Machine address of the entry.
        entry : int
            What is to stand there.
        keep_marks : bool
            Leave the accessed and dirty bits as they are.

        Raises
        ------
        Refused
            The guest may not.
        """
        frame, slot = address >> PAGE_SHIFT, address >> 2 & SLOTS - 1
        if not self.is_own(guest, frame):
            raise Refused(Errno.EINVAL)
        kind = self.types[frame]
        if kind not in TABLES:
            self.take(guest, frame, FrameType.WRITABLE)
            self.memory.write(address & ~3, 4, entry)
            self.drop(frame)
            return
        if slot >= self._slots(kind):
            raise Refused(Errno.EINVAL)
        old = self._entry(frame, slot)
        self._take_entry(guest, kind, entry)
        self.memory.write(address & ~3, 4, entry & ~MARKS | old & MARKS if keep_marks else entry)
        self._drop_entry(kind, old)

    # -- pins ------------------------------------------------------------------------------------------------------------

    def pin(self, guest: int, frame: int, kind: FrameType) -> None:
        """Keep a frame a page table, whether it is used or not; Refused where it cannot be one."""
        if frame in self.pinned:
            raise Refused(Errno.EINVAL)
        self.take(guest, frame, kind)
        self.pinned.add(frame)

    def unpin(self, guest: int, frame: int) -> None:
        """End that."""
        if frame not in self.pinned or not self.is_own(guest, frame):
            raise Refused(Errno.EINVAL)
        self.pinned.remove(frame)
        self.drop(frame)

    # -- saving ----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what does not follow from the tables in memory: which of them are pinned, what the TLB may still hold."""
        pinned = [[frame, int(self.types[frame])] for frame in sorted(self.pinned)]
        stale = [[frame, int(kind)] for frame, kind in sorted(self._stale.items())]
        return {"version": 1, "pinned": pinned, "stale": stale, "counters": [self.entries_checked, self.flushes]}

    def load(
        self, state: dict[str, Any], bases: Sequence[tuple[int, int]], writable: Sequence[tuple[int, int]]
    ) -> None:
        """Load what `save` gave: count anew, from the tables in memory.

        Parameters
        ----------
        state : dict
            What `save` gave.
        bases, writable : sequence of (int, int)
            Guest and frame: page directories that are the base of an address space, and frames that are held writable.

        Raises
        ------
        StateError
            The state is damaged, or is not that of the tables in memory; nothing has changed then.
        """
        frames = Items(Items(range(len(self.owners)), 2))
        check_state(state, "frame types", {"pinned": frames, "stale": frames, "counters": Items(COUNT, 2)})
        known = [*state["pinned"], *state["stale"]]
        if any(self.owners[frame] < 0 or kind not in KINDS for frame, kind in known):
            raise StateError("frame types: a saved frame is the hypervisor's, or has no type")
        fresh = FrameTypes(self.memory, self.owners, self._reserved, self._flush)
        try:
            for guest, frame in writable:
                fresh.take(guest, frame, FrameType.WRITABLE)
            for guest, frame in bases:
                fresh.take(guest, frame, FrameType.L2)
            for frame, kind in state["pinned"]:
                fresh.pin(self.owners[frame], frame, FrameType(kind))
        except Refused:
            raise StateError("frame types: the page tables in memory are not those that were saved") from None
        self.types, self.counts, self.pinned = fresh.types, fresh.counts, fresh.pinned
        self._stale = {frame: FrameType(kind) for frame, kind in state["stale"]}
        self.entries_checked, self.flushes = state["counters"]
