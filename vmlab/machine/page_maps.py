"""The dictionaries over the TLB: pages that are reached without a look at it.

Quick and exact: a page that the TLB holds with sufficient rights, and that RAM answers for, is found in one of a few
dictionaries (`_readable`, `_writable`, and `_code` of the processor), which are always a part of the TLB. With CR4.SMAP
they never hold a user's page for the supervisor: whether it may be touched depends on EFLAGS.AC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.descriptors import WIDE
from vmlab.isa.x86.registers import CR4_PCIDE
from vmlab.machine.cpu_state import CpuState
from vmlab.machine.memory import CODE as PAGE_OF_CODE
from vmlab.machine.memory import WRITTEN, MemoryWindow
from vmlab.machine.quick import LINE, Quick, QuickMaps
from vmlab.machine.tlb import SPACE_SHIFT, Pages, Tlb

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.platform import Platform

__all__ = ["FULL", "LAST_PAGE", "PCID", "Maps", "PageMaps"]

Maps = tuple[dict[int, int], dict[int, int], dict[int, Any]]
LAST_PAGE = WIDE >> 12
"""Pages from here on are not entered for translated code: a segment may end before them, and addresses wrap behind them."""
FULL = 1 << 40
"""Added to a linear address (no sum of parts of an address comes so far) it names the same one in a hypervisor's own segment,
which does not end before the window."""
PCID = 0xFFF
MOST_GUESTS = 8
"""Guests of whose pages a processor keeps in mind, while they do not run, what translated code knows of them."""


class PageMaps(CpuState):
    """The part of a processor that knows pages which need no translation.

    Parameters
    ----------
    platform : Platform
        Bus, clock and memory.
    model : CpuModel
        Size of the TLB.

    Attributes
    ----------
    ram : PhysicalMemory
        The host memory that holds this processor's RAM: its own, or that behind a guest's window.
    tlb : Tlb
        Cached translations.
    walk_caches : NestedCaches or None
        What shortens page walks, if anything.
    user_spaces : dict
        Values of CR3 under which code has run in ring 3, in order of their first time; the values are None.
    system_readable, system_writable : dict of int to int
        Pages that `read_system` and `write_system` reach without a look at the TLB, and where in `ram` they begin.
    ring : int
        Current privilege level, as CS said last.
    apic_page : int
        Physical address of the APIC-access page of the guest that runs, -1 without one: see `vmlab.machine.vmx.virtual_apic`.
    """

    __slots__ = (
        "_levels", "_maps", "_quick", "_quicks", "_readable", "_window", "_writable", "apic_page", "bus", "memory", "platform", "quick_read",
        "quick_write", "ram", "ring", "system_readable", "system_writable", "tlb", "user_spaces", "walk_caches",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel) -> None:
        super().__init__()
        self.platform = platform
        self.bus = platform.bus
        self.memory = platform.memory
        self._window = self.memory if isinstance(self.memory, MemoryWindow) else None
        self.ram = self.memory.host if isinstance(self.memory, MemoryWindow) else self.memory
        self.tlb = Tlb(model.tlb)
        self.walk_caches = None if model.walk_caches is None else model.walk_caches.make()
        self.user_spaces: dict[int, None] = {}
        self.apic_page = -1
        # In whose dictionaries (0 the supervisor's, 1 the user's) a supervisor's page is entered, and in whose a user's.
        self._levels: tuple[tuple[int, ...], tuple[int, ...]] = ((0,), (0, 1))
        self._quicks: dict[int, tuple[object, tuple[QuickMaps, QuickMaps]]] = {}

    def _forget(self) -> None:
        """Empty the dictionaries over the TLB, after a flush or a change of address space."""
        # Per privilege (supervisor, user): pages that may be read, written, executed without a look at the TLB.
        # The first two lead to an address in `ram`, the third to instructions kept with the page.
        self._use_maps((({}, {}, {}), ({}, {}, {})))

    def _use_maps(self, maps: tuple[Maps, Maps]) -> None:
        """Use other dictionaries over the TLB."""
        self.tlb.tag = (self.cr3 & PCID) << SPACE_SHIFT if self.cr4 & CR4_PCIDE else 0
        if self.walk_caches:
            self.walk_caches.enter_space(*self._walk_tags)
        self._maps: tuple[Maps, Maps] = maps
        self.system_readable, self.system_writable, _ = self._maps[0]
        self._choose_quick(maps)
        self.code_changed()

    def _choose_quick(self, maps: tuple[Maps, Maps]) -> None:
        """Use what translated code knows of the pages in these dictionaries, if they are still those of the guest that runs."""
        number = self.vpid
        owner, quick = self._quicks.get(number, (None, None))
        if quick is None:
            if len(self._quicks) >= MOST_GUESTS:
                _, (supervisor, user) = self._quicks.pop(next(iter(self._quicks)))
                gone = supervisor[1], user[1]
                self.ram.quick_maps[:] = [each for each in self.ram.quick_maps if not any(each is it for it in gone)]
            quick = (
                (Quick(self._fill, write=False), Quick(self._fill, write=True), set()),
                (Quick(self._fill, write=False), Quick(self._fill, write=True), set()),
            )
            self.ram.quick_maps += [quick[0][1], quick[1][1]]
        if owner is not maps:
            for level in quick:
                for each in level:
                    each.clear()
            self._quicks[number] = maps, quick
        # The same once more for translated code, per privilege: reads, writes, pages entered. See `quicken`.
        self._quick: tuple[QuickMaps, QuickMaps] = quick

    @property
    def vpid(self) -> int:
        """Whose pages these are: the virtual-processor identifier of the guest that runs, 0 for the host."""
        raise NotImplementedError

    @property
    def _walk_tags(self) -> tuple[int, int]:
        """Whose entries of the walk caches are used: of VPID and PCID, and of which root of extended page tables."""
        return self.tlb.tag >> SPACE_SHIFT, 0

    def code_changed(self) -> None:
        """Note a new CS or a new mode: the privilege level may be another."""
        self.ring = self.cpl
        self._enter_ring()

    def _enter_ring(self) -> None:
        if self.ring == 3 and self.cr3 not in self.user_spaces:
            self.user_spaces[self.cr3] = None
        self._choose_maps()

    def _choose_maps(self) -> None:
        """Use the dictionaries of the present privilege level."""
        user = self.ring == 3
        self._readable: dict[int, int] = self._maps[user][0]
        self._writable: dict[int, int] = self._maps[user][1]
        self.quick_read: dict[int, int] = self._quick[user][0]
        self.quick_write: dict[int, int] = self._quick[user][1]

    def _remember(self, page: int, frame: int, *, writable: bool, user: bool) -> None:
        """Enter a page that the TLB holds into the dictionaries, if RAM answers there."""
        if frame == self.apic_page or not self.bus.is_ram(frame):
            return
        place = self.ram_address(frame)
        for level in self._levels[user]:
            readable, writables, _ = self._maps[level]
            readable[page] = place
            if writable:
                writables[page] = place

    def ram_address(self, physical: int) -> int:
        """Return where in `ram` a physical address lies."""
        return self._window.host_address(physical) if self._window else physical

    def _drop_pages(self, pages: Pages) -> None:
        """Drop pages whose translation the TLB has lost."""
        first, count = pages
        if count > 1:
            known = {page for maps in self._maps for each in maps for page in each}
            known.update(*(entered for *_, entered in self._quick))
            for page in known:
                if first <= page < first + count:
                    self._drop_pages((page, 1))
            return
        for maps in self._maps:
            for each in maps:
                each.pop(first, None)
        for readable, writable, entered in self._quick:
            if first in entered:
                entered.remove(first)
                for start in (first << 12, first << 12 | FULL) if first >= LAST_PAGE else (first << 12,):
                    readable.pop(start, None)
                    for line in range(start, start + 0x1000, LINE):
                        writable.pop(line, None)

    def readable_place(self, page: int) -> int | None:
        """Return where in `ram` a page begins that may be read without a look at the TLB."""
        return self._readable.get(page)

    def quicken(self, linear: int) -> bool:
        """Enter the page of an address into `quick_read` and `quick_write`; say whether that brought anything new.

        They lead from the linear address of a page, or of a line of 256 bytes, to what is to be added for the place in
        `ram`, and are always a part of the dictionaries over the TLB. Only lines are entered for writing of which nobody
        wants to know: no code, nothing watched, written since the last checkpoint. The last pages are never entered, so
        that addresses in an entered page do not wrap around.
        """
        page = linear >> 12
        if page & 0xFFFFF >= LAST_PAGE:
            return False
        base, ram = page << 12, self.ram
        readable, writable, entered = self._quick[self.ring == 3]
        news = False
        place = self._readable.get(page)
        if place is not None and base not in readable:
            readable[base] = place - base
            news = True
        place = self._writable.get(page)
        if place is not None and linear & -LINE not in writable and ram.pages[place >> 12] & ~PAGE_OF_CODE == WRITTEN:
            for line in ram.free_lines(place >> 12, LINE):
                writable[base + line] = place - base
            ram.quick_pages.add(place >> 12)
            news = news or linear & -LINE in writable
        entered.add(page)
        return news

    def _fill(self, quick: Quick, key: int, write: bool) -> int:
        """Enter what a plain access of translated code looks for; KeyError where the interpreter is to make this access."""
        raise NotImplementedError
