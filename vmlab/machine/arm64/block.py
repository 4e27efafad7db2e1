"""The block device: this board's own, small enough for a page of driver.

    00  magic "VBLK"       08  first sector           10  physical address, low half     18  command: 1 read, 2 write
    04  sectors on it      0C  how many sectors       14  physical address, high half    1C  status: 0 idle, 1 busy, 2 done,
    20  acknowledge: any write makes it idle                                                 3 error

A command moves whole sectors of 512 bytes between disk and memory, and takes `SECTOR_TIME` of virtual time for each; then
the status is done (or error: no such sector, no such memory, no disk), and the interrupt line is high until it is
acknowledged. A command while it is busy, or not yet acknowledged, is ignored.

Simplified: no queue, no partition table, no cache. It stands in for virtio-blk, which takes ten times the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.disk import SECTOR
from vmlab.machine.state import COUNT, LONG, check_state

if TYPE_CHECKING:
    from vmlab.machine.arm64.board import Board
    from vmlab.machine.clock import Clock
    from vmlab.machine.disk import Disk

__all__ = ["SECTOR_TIME", "Block"]

SECTOR_TIME = 500
"""Virtual time (instructions) for a sector: our convention, small enough for a lecture's runs."""
MAGIC = int.from_bytes(b"VBLK", "little")
READ, WRITE = 1, 2
IDLE, BUSY, DONE, ERROR = range(4)
LARGEST = 1 << 16
"""Sectors that one command may move."""
SETTABLE = {0x08: "sector", 0x0C: "count", 0x10: "low", 0x14: "high"}
FIELDS = {
    "sector": LONG,
    "count": LONG,
    "low": LONG,
    "high": LONG,
    "command": range(3),
    "status": range(4),
    "due": COUNT,
}


class Block:
    """The device.

    Parameters
    ----------
    clock : Clock
        Virtual time.
    disk : Disk or None
        What it holds.
    board : Board
        Whose memory it reads and writes.
    interrupt : callable
        Takes the level of its interrupt line.
    """

    def __init__(self, clock: Clock, disk: Disk | None, board: Board, interrupt: Callable[[bool], None]) -> None:
        self._clock, self.disk, self._board, self._interrupt = clock, disk, board, interrupt
        self.sector = self.count = self.low = self.high = self.command = self.due = 0
        self.status = IDLE
        self.transfers = 0

    def read(self, offset: int) -> int:
        """Read a register."""
        if offset in SETTABLE:
            return int(getattr(self, SETTABLE[offset]))
        sectors = self.disk.sectors if self.disk else 0
        return {0x00: MAGIC, 0x04: sectors, 0x1C: self.status}.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        if offset in SETTABLE:
            setattr(self, SETTABLE[offset], value)
        elif offset == 0x18 and self.status == IDLE and value in (READ, WRITE):
            self.status, self.command = BUSY, value
            self.due = self._clock.now + SECTOR_TIME * max(1, min(self.count, LARGEST))
            self._clock.refresh()
        elif offset == 0x20 and self.status != BUSY:
            self.status = IDLE
            self._interrupt(False)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """Return when the command ends."""
        return self.due if self.status == BUSY else None

    def advance(self, now: int) -> None:
        """Do the command."""
        if self.status == BUSY and now >= self.due:
            self.status = DONE if self._transfer() else ERROR
            self._interrupt(True)

    def _transfer(self) -> bool:
        disk, address, size = self.disk, self.high << 32 | self.low, self.count * SECTOR
        if disk is None or not 0 < self.count <= LARGEST or self.sector + self.count > disk.sectors:
            return False
        if not self._board.is_memory(address, size):
            return False
        memory = self._board.memory
        if self.command == READ:
            memory.write_bytes(self._board.offset(address), disk.read(self.sector, self.count))
        else:
            disk.write(self.sector, memory.read_bytes(self._board.offset(address), size))
        self.transfers += self.count
        return True

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the state, and what was written to the disk."""
        state = {name: getattr(self, name) for name in FIELDS}
        return {"version": 1, **state, "transfers": self.transfers, "disk": self.disk.save() if self.disk else None}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Raises
        ------
        StateError
            The state is damaged, or of a board with another disk.
        """
        check_state(state, "block device", FIELDS | {"transfers": COUNT, "disk": (dict, type(None))})
        if (state["disk"] is None) != (self.disk is None):
            raise StateError("block device: the saved state is of a board with a disk, or this one has one")
        if self.disk:
            self.disk.load(state["disk"])
        for name in (*FIELDS, "transfers"):
            setattr(self, name, state[name])
        self._interrupt(self.status in (DONE, ERROR))
        self._clock.refresh()
