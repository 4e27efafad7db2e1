"""How translated code comes by pages that it has not met yet: as the interpreter would, or not at all.

Translated code reaches memory through `quick_read` and `quick_write`; what is not there is looked for here, with the same
TLB misses, evictions and marks in the tables as the interpreter makes. Where that cannot be promised the answer is a
KeyError, and the interpreter makes the access.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import CR0_PG
from vmlab.machine.address_translation import AddressTranslation
from vmlab.machine.memory import CODE as PAGE_OF_CODE
from vmlab.machine.memory import WRITTEN
from vmlab.machine.page_maps import FULL, LAST_PAGE
from vmlab.machine.quick import LINE, Quick

if TYPE_CHECKING:
    from vmlab.machine.tlb import Pages

__all__ = ["QuickAccess"]

NO_PAGE = 1 << 20
PAGES_PUSHED = 4
"""Pages that a page of instructions which push 4 bytes each can fill."""


class QuickAccess(AddressTranslation):
    """The part of a processor that gives pages to translated code."""

    __slots__ = ()

    def _fill(self, quick: Quick, key: int, write: bool) -> int:
        """Enter what a plain access of translated code looks for; KeyError where the interpreter is to make this access."""
        named, key = key, key - FULL if key >= FULL else key
        page = key >> 12
        if key & 3 or not 0 <= page < (LAST_PAGE if named == key else NO_PAGE):
            raise KeyError(named)
        maps = self._writable if write else self._readable
        if page not in maps:
            self._bring(key, write)
            if not self.code_pages.get(self.ip >> 12):
                raise KeyError(key)
        place = maps.get(page)
        if place is None or (write and not self._is_free(place, key)):
            raise KeyError(key)
        if write:
            self.ram.quick_pages.add(place >> 12)
        self._quick[self.ring == 3][2].add(page)
        found = quick[named] = place - (page << 12) - (named - key)
        return found

    def _bring(self, key: int, write: bool) -> None:
        """Let the TLB have a page for translated code, where the interpreter would find everything as it is afterwards.

        It may have to do the whole instruction once more: nothing that this has used may be dropped before.
        """
        if self.walk_caches:  # a walk that is made twice is shorter the second time
            raise KeyError(key)
        page, user, tlb = key >> 12, self.ring == 3, self.tlb
        misses = tlb.counts.misses
        try:
            if not self.cr0 & CR0_PG or tlb.find(page):
                if self.host_space is not None and not tlb.has_room(page):
                    raise KeyError(key)
                if self.cr0 & CR0_PG:  # a fault would drop this translation
                    self.page_walk(key, write=write, user=user, mark=False)
                self.translate(key, write=write, user=user)
                return
            found = self.page_walk(key, write=write, user=user)
        except Fault:
            tlb.counts.misses = misses  # it will happen again
            raise KeyError(key) from None
        victim = tlb.victim(page, found.page_size)
        if not self.bus.is_ram(found.frame) or (
            victim is not None
            and (
                0 <= (self.ip >> 12) - victim[0] < victim[1]
                or self._holds_pushed(victim)
                or user not in self._levels[found.user]
                or (write and not (found.writable and self._is_free(self.ram_address(found.frame), key)))
                or not self.code_pages.get(self.ip >> 12)  # the walk has marked an entry among the code
            )
        ):
            raise KeyError(key)
        tlb.counts.misses += 1
        self._believe(page, self._enter(page, found))

    def _is_free(self, place: int, key: int) -> bool:
        """Say whether translated code may write to a line of 256 bytes: no code, and nobody wants to know."""
        ram, frame = self.ram, place >> 12
        return ram.pages[frame] & ~PAGE_OF_CODE == WRITTEN and not ram.is_code(frame, key & 0xFFF, LINE)

    @staticmethod
    def _holds_pushed(pages: Pages) -> bool:
        """Say whether pages may hold what translated code has pushed and will pop without a look at memory.

        All that is at ESP or above, and it has been pushed by code of one page.
        """
        code = sys._getframe(4)  # noqa: SLF001 - ESP is in a local of the translated code
        top: int = code.f_locals.get("r4", 0) >> 12
        first, count = pages
        return first <= top + PAGES_PUSHED and top < first + count

    @property
    def code_pages(self) -> dict[int, dict[int, Any]]:
        """Instructions kept with their pages, by EIP >> 12: a part of the TLB; none where EIP is not a linear address."""
        raise NotImplementedError
