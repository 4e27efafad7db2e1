"""Loads and stores of the processor: the quick way to memory, and the slow one past the TLB, to devices, and to faults.

A page that the TLB holds is memory, and an aligned access to it takes a dictionary and a look. `_reads` and `_writes` are the
TLB's pages of the present exception level. All else goes through
`_slowly`: alignment, a walk, two pages, a device (which answers only when the time is exact), or nothing there at all.

Read more: Arm ARM (DDI 0487), B2.8 (alignment), D8.14 (aborts), B2.10.5 (exclusive monitors).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.exceptions import ArmException, ExceptionClass
from vmlab.isa.arm64.instruction import STACK
from vmlab.machine.arm64.board import RAM
from vmlab.machine.arm64.mmu import ALIGNMENT, EXTERNAL, READ, WNR, WRITE, Abort, Mmu
from vmlab.machine.arm64.traps import SCTLR
from vmlab.machine.memory import WRITTEN

if TYPE_CHECKING:
    from vmlab.machine.arm64.board import Board
    from vmlab.machine.arm64.state import ArmState
    from vmlab.machine.memory import PhysicalMemory

__all__ = ["Access", "NotYet"]

PAGE_SHIFT, PAGE, OFFSET = 12, 0x1000, 0xFFF
LONG = (1 << 64) - 1


class NotYet(Exception):  # noqa: N818 - no error: the instruction is done again, by itself
    """An access wants the exact time."""


class Access:
    """What a processor needs to reach memory."""

    state: ArmState
    board: Board
    mmu: Mmu
    x: list[int]
    _exact: bool
    _memory: PhysicalMemory
    _words: memoryview
    _reads: dict[int, int]
    _writes: dict[int, int]

    def read(self, address: int, size: int) -> int:
        """Read memory, with the rights of the present exception level."""
        frame = self._reads.get(address >> PAGE_SHIFT)
        if frame is None or address & size - 1:
            return self._load_slowly(address, size, self.state.el)
        place = frame - RAM + (address & OFFSET)
        return self._words[place >> 3] if size == 8 else self._memory.read(place, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Write memory, with the rights of the present exception level."""
        frame = self._writes.get(address >> PAGE_SHIFT)
        if frame is None or address & size - 1:
            self._store_slowly(address, size, value, self.state.el)
            return
        place = frame - RAM + (address & OFFSET)
        memory = self._memory
        if size != 8:
            memory.write(place, size, value)
            return
        self._words[place >> 3] = value
        if memory.pages[place >> PAGE_SHIFT] != WRITTEN:
            memory.touch(place >> PAGE_SHIFT, place & OFFSET, 8)

    def read_as_user(self, address: int, size: int) -> int:
        """LDTR: with the rights of EL0, where it is executed at EL1."""
        return self._load_slowly(address, size, self._user())

    def write_as_user(self, address: int, size: int, value: int) -> None:
        """STTR."""
        self._store_slowly(address, size, value, self._user())

    def _user(self) -> int:
        return 2 if self.state.el == 2 else 0

    # -- the slow way ------------------------------------------------------------------------------------------------

    def _find(self, address: int, access: int, el: int, *, unaligned: bool) -> int:
        """Return the physical address, past the TLB."""
        frame, is_device = self.mmu.find(address, access, el)
        if is_device and unaligned:
            raise Abort(address, ALIGNMENT | (WNR if access == WRITE else 0), access)
        return frame | address & OFFSET

    def _unaligned(self, address: int, size: int, access: int, el: int) -> bool:
        """Say whether an access is not aligned; raise the fault where it must be."""
        if not address & size - 1:
            return False
        system = self.state.system
        if system["sctlr_el2" if el == 2 else "sctlr_el1"] & SCTLR.A:
            raise Abort(address, ALIGNMENT | (WNR if access == WRITE else 0), access)
        return True

    def _load_slowly(self, address: int, size: int, el: int) -> int:
        unaligned = self._unaligned(address, size, READ, el)
        first = PAGE - (address & OFFSET)
        if first < size:
            low = self._load_part(address, first, el, unaligned=unaligned)
            high = self._load_part(address + first & LONG, size - first, el, unaligned=unaligned)
            return high << 8 * first | low
        return self._load_part(address, size, el, unaligned=unaligned)

    def _load_part(self, address: int, size: int, el: int, *, unaligned: bool) -> int:
        physical = self._find(address, READ, el, unaligned=unaligned)
        board = self.board
        if board.is_memory(physical, size):
            return int.from_bytes(board.memory.read_bytes(physical - RAM, size), "little")
        if board.device(physical) and not self._exact:
            raise NotYet
        value = board.read_device(physical, size)
        if value is None:
            raise self.outside(address, READ)
        return value

    def _store_slowly(self, address: int, size: int, value: int, el: int) -> None:
        unaligned = self._unaligned(address, size, WRITE, el)
        first = PAGE - (address & OFFSET)
        if first < size:  # both pages before either is written
            places = [self._find(address + n & LONG, WRITE, el, unaligned=unaligned) for n in (0, first)]
            if all(self.board.is_memory(place, 1) for place in places):
                self._store_part(address, places[0], first, value)
                self._store_part(address, places[1], size - first, value >> 8 * first)
                return
            raise self.outside(address, WRITE)
        self._store_part(address, self._find(address, WRITE, el, unaligned=unaligned), size, value)

    def _store_part(self, address: int, physical: int, size: int, value: int) -> None:
        board = self.board
        value &= (1 << 8 * size) - 1
        if board.is_memory(physical, size):
            board.memory.write_bytes(physical - RAM, value.to_bytes(size, "little"))
            return
        if board.device(physical) and not self._exact:
            raise NotYet
        if not board.write_device(physical, size, value):
            raise self.outside(address, WRITE)

    def outside(self, address: int, access: int) -> Abort:
        """Return the abort for a physical address at which nothing answers."""
        return Abort(address, EXTERNAL | (WNR if access == WRITE else 0), access)

    # -- alignment and exclusives ------------------------------------------------------------------------------------

    def check_aligned(self, address: int, size: int, *, is_write: bool) -> None:
        """Raise an alignment fault for an address that is no multiple of the size."""
        if address & size - 1:
            raise Abort(address, ALIGNMENT | (WNR if is_write else 0), WRITE if is_write else READ)

    def check_stack(self) -> None:
        """Raise an SP alignment fault where SCTLR_ELx.SA (SA0 for EL0) wants SP at a multiple of 16."""
        if self.x[STACK] & 15:
            el = self.state.el
            bit = SCTLR.SA if el else SCTLR.SA0
            if self.state.system["sctlr_el2" if el == 2 else "sctlr_el1"] & bit:
                raise ArmException(ExceptionClass.SP_ALIGNMENT)

    def load_exclusive(self, address: int, size: int) -> int:
        """LDXR: read, and mark the place."""
        self.check_aligned(address, size, is_write=False)
        value = self.read(address, size)
        self.state.monitor = self._find(address, READ, self.state.el, unaligned=False), size
        return value

    def store_exclusive(self, address: int, size: int, value: int) -> bool:
        """STXR: write, if the place is still marked."""
        self.check_aligned(address, size, is_write=True)
        place = self._find(address, WRITE, self.state.el, unaligned=False)
        if self.state.monitor != (place, size):
            self.state.monitor = None
            return False
        self.write(address, size, value)
        self.state.monitor = None
        return True

    def clear_exclusive(self) -> None:
        """CLREX."""
        self.state.monitor = None
