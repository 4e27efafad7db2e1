"""The pages of a guest's code that has been translated: where each was, and whether it is there still.

After a flush of the guest's TLB a page may be somewhere else: its units are true no more. Or it may be where it was, but the
guest's present page tables say that nothing has accessed it (a new process has tables of its own): such a page *sleeps*, until
the guest comes there in the hypervisor's sight, who walks the tables then as the processor would have done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import CR0_PG
from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.paging import ACCESSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmlab.machine.processor import Processor

__all__ = ["TranslatedPages", "frame_of"]


class TranslatedPages:
    """Pages of the guest's, by number, in the order in which their code was translated first.

    Attributes
    ----------
    asleep : set of int
        Those that sleep.
    """

    def __init__(self) -> None:
        self.asleep: set[int] = set()
        self._pages: dict[int, tuple[int, list[int]]] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._pages)

    def add(self, page: int, frame: int, unit: int) -> None:
        """Note the address of a unit whose code is on a page, and in which frame that is."""
        self._pages.setdefault(page, (frame, []))[1].append(unit)

    def remove(self, page: int, unit: int) -> None:
        """Forget a unit."""
        units = self._pages[page][1]
        units.remove(unit)
        if not units:
            del self._pages[page]
            self.asleep.discard(page)

    def arrange(self, pages: Iterable[int]) -> None:
        """Put the pages into an order that was saved."""
        self._pages = {page: self._pages[page] for page in pages}

    def units(self, page: int) -> list[int]:
        """Return the addresses of a page's units."""
        return list(self._pages[page][1]) if page in self._pages else []

    def frame(self, page: int) -> int:
        """Return the frame in which a page was."""
        return self._pages[page][0]

    @property
    def frames(self) -> set[int]:
        """Frames that hold such code."""
        return {frame for frame, _ in self._pages.values()}

    def placed(self) -> list[tuple[int, int]]:
        """Return the addresses of all units, with the frames that their code is in."""
        return [(unit, frame) for frame, units in self._pages.values() for unit in units]

    def look(self, vcpu: Processor) -> tuple[list[int], set[int]]:
        """Look after a flush where the pages are; return units of those that are elsewhere, and pages that are to sleep."""
        moved: list[int] = []
        tired: set[int] = set()
        for page, (frame, units) in self._pages.items():
            found, is_accessed = frame_of(vcpu, page)
            if found != frame:
                moved += units
            elif not is_accessed and page not in self.asleep:
                tired.add(page)
        return moved, tired


def frame_of(vcpu: Processor, page: int) -> tuple[int | None, bool]:
    """Return the frame of a page of the guest's code, None for nowhere, and whether its tables say that it was accessed."""
    if not vcpu.cr0 & CR0_PG:
        return page, True
    try:
        found = vcpu.page_walk(page << PAGE_SHIFT, write=False, user=False, fetch=True, mark=False)
    except Fault:
        return None, False
    return found.frame >> PAGE_SHIFT, all(step.in_register or step.entry & ACCESSED for step in found.steps)
