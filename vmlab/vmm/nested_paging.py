"""Nested paging: a table of the host that maps guest-physical to host-physical addresses (textbook 18.4.3).

The guest owns its page tables and its TLB; the processor walks both dimensions itself. The hypervisor fills its tables
when the guest first touches a page (an EPT violation, a nested page fault), with the largest page that the frames behind it
allow. What is not RAM is never mapped: an access there leads out each time, and is emulated.

Dirty logging notes which pages are written to, what live migration asks for: on a processor with page-modification logging
by the dirty bits that it sets and logs, on another by protecting the pages from writing. What a virtual device writes by itself
(DMA) passes no table, and is noted beside.

Simplified: frames are never taken away from a guest, so that entries are only added; leaves grow no larger later. What the
hypervisor itself writes for a guest (INS, a service of the BIOS) is not noted as dirty.

Read more: Bhargava et al., ASPLOS 2008; Intel SDM vol. 3, 28.3 (EPT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.page_formats_host import EPT_DIRTY
from vmlab.machine.page_tables import PageTables
from vmlab.machine.state import COUNT, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.paging import PageTableFormat

__all__ = ["LARGEST_PAGES", "NestedPaging", "frames_needed"]

LARGEST_PAGES = {"4 KiB": 1 << 12, "2 MiB": 1 << 21, "1 GiB": 1 << 30}
LEVELS = 4


def frames_needed(memory_size: int) -> int:
    """Return how many tables a guest with so much memory needs at most, two of them for its local APIC.

    >>> frames_needed(16 << 20)
    13
    """
    return 4 - (-memory_size >> 30) - (-memory_size >> 21)


class NestedPaging:
    """The nested page tables of one guest.

    Parameters
    ----------
    window : MemoryWindow
        Guest-physical memory, and the frames behind it.
    bus : Bus
        The guest's: it knows where RAM answers.
    format_ : PageTableFormat
        What the processor walks: EPT or NPT.
    allocate : callable
        Gives a frame for a table.
    largest : str
        The largest page: a key of `LARGEST_PAGES`.
    by_processor : bool
        True where the processor logs the pages whose dirty bits it sets.

    Attributes
    ----------
    tables : PageTables
        The tables, in host memory.
    fills : int
        Entries filled so far.
    logging : bool
        True while dirty pages are noted.
    by_processor : bool
        True where the processor notes them.
    dirty : set of int
        Guest-physical page numbers written to since `start_log` or `collect`.
    """

    def __init__(
        self,
        window: MemoryWindow,
        bus: Bus,
        format_: PageTableFormat,
        allocate: Callable[[int], int],
        largest: str,
        *,
        by_processor: bool = False,
    ) -> None:
        self._window = window
        self._bus = bus
        self.largest = LARGEST_PAGES[largest]
        self.tables = PageTables(format_, window.host, allocate)
        self.fills = 0
        self.logging = False
        self.by_processor = by_processor
        self.dirty: set[int] = set()

    def fill(self, gpa: int, *, write: bool) -> tuple[int, int] | None:
        """Map the page around a guest-physical address; return where the address lies, and the size of the page.

        None where the guest has no RAM there: what it does with the address must be emulated.
        """
        if not self._bus.is_ram(gpa):
            return None
        size = self._size(gpa)
        base = gpa & -size
        protects = self.logging and not self.by_processor
        if protects and write:
            self.dirty.add(gpa >> PAGE_SHIFT)
        self.tables.map(base, self._window.host_address(base), size, writable=write or not protects)
        self.fills += 1
        return self._window.host_address(gpa), size

    def _size(self, gpa: int) -> int:
        """Return the size of the largest page around an address of which the guest has all the RAM, in one piece."""
        for size in sorted(LARGEST_PAGES.values(), reverse=True):
            if size > self.largest or (self.logging and size > PAGE_SIZE):
                continue
            first, count = (gpa & -size) >> PAGE_SHIFT, size >> PAGE_SHIFT
            frames = self._window.frames[first : first + count]
            ram = self._bus.ram_pages[first : first + count]
            aligned = not frames[0] % count
            if len(frames) == count and all(ram) and aligned and frames[-1] - frames[0] == count - 1:
                return size
        return PAGE_SIZE

    # -- dirty logging -----------------------------------------------------------------------------------------------------

    def start_log(self) -> None:
        """Note from now on which pages are written to. The caller drops what the TLB holds (INVEPT)."""
        self.logging = True
        self.collect()

    def collect(self) -> set[int]:
        """Return the pages written to since the last time, and begin anew; the caller drops what the TLB holds."""
        found, self.dirty = self._noted(), set()
        self._bus.transferred = set() if self.logging else None
        for entry in list(self.tables.entries()):
            if not self._bus.is_ram(entry.address):
                continue  # the local APIC's page, which the processor virtualizes
            if entry.is_leaf and entry.span > PAGE_SIZE:
                self.tables.unmap(entry.address)  # it comes back in small pages
            elif entry.is_leaf and self.by_processor:
                self._window.host.write(entry.place, 8, entry.entry & ~EPT_DIRTY)
            elif entry.is_leaf:
                self.tables.protect(entry.address, writable=False)
        return found

    def _noted(self) -> set[int]:
        return self.dirty | (self._bus.transferred or set())

    def stop_log(self) -> None:
        """Note no more; pages that are protected become writable again as they are written to."""
        self.logging = False
        self.dirty = set()
        self._bus.transferred = None

    # -- saving ------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the bookkeeping; the tables are in memory."""
        return {
            "version": 1,
            "tables": list(self.tables.tables),
            "fills": self.fills,
            "logging": self.logging,
            "dirty": sorted(self._noted()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        pages = range(len(self._window.frames))
        rules = {"tables": Items(COUNT), "fills": COUNT, "logging": bool, "dirty": Items(pages)}
        check_state(state, "nested paging", rules)
        self.tables.tables[:] = state["tables"]
        self.fills, self.logging, self.dirty = state["fills"], state["logging"], set(state["dirty"])
        self._bus.transferred = set() if self.logging else None
