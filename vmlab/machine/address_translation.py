"""From linear to physical addresses: TLB, page walks, and the dictionaries over the TLB that make both quick.

Quick and exact: a page that the TLB holds with sufficient rights, and that RAM answers for, is found in one of a few
dictionaries (`_readable`, `_writable`, and `_code` of the processor), which are always a part of the TLB. Everything
else takes the long way: TLB, page walk, bus.

With CR4.SMAP they never hold a user's page for the supervisor: whether it may be touched depends on EFLAGS.AC.

Read more: Intel SDM vol. 3, chapter 4 (paging), 4.6 (access rights), 4.10 (TLBs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.registers import (
    AC,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
)  # fmt: skip
from vmlab.machine.cpu_state import CpuState
from vmlab.machine.memory import CODE as PAGE_OF_CODE
from vmlab.machine.memory import WRITTEN, MemoryWindow
from vmlab.machine.page_formats import IA32, four_level, ia32_pse, pae
from vmlab.machine.paging import PageTableFormat, Translation, walk
from vmlab.machine.quick import LINE, Quick, QuickMaps
from vmlab.machine.tlb import SPACE_SHIFT, Tlb, TlbEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.platform import Platform

__all__ = ["AddressTranslation"]

Maps = tuple[dict[int, int], dict[int, int], dict[int, Any]]
LAST_PAGE = 0xFFFFF
PCID = 0xFFF
MOST_WALKS = 4096
Entries = tuple[tuple[int, int, int], ...]


class AddressTranslation(CpuState):
    """The part of a processor that translates addresses.

    Parameters
    ----------
    platform : Platform
        Bus, clock and memory.
    model : CpuModel
        Size of the TLB, features of paging.

    Attributes
    ----------
    ram : PhysicalMemory
        The host memory that holds this processor's RAM: its own, or that behind a guest's window.
    tlb : Tlb
        Cached translations.
    walk_references, control_loads : int
        Memory references of page walks; loads of control registers.
    on_control : callable or None
        Called with the name, the old and the new value when CR0, CR3 or CR4 changes.
    user_spaces : dict
        Values of CR3 under which code has run in ring 3, in order of their first time; the values are None.
    system_readable, system_writable : dict of int to int
        Pages that `read_system` and `write_system` reach without a look at the TLB, and where in `ram` they begin.
    ring : int
        Current privilege level, as CS said last.
    horizon : int
        Count of retired instructions at which the loop of `Processor.run` ends; 0 ends it at once.
    """

    __slots__ = (
        "_format", "_levels", "_maps", "_quick", "_readable", "_repeats", "_reports_fetch", "_walks", "_window", "_writable", "bus", "control_loads", "horizon", "memory", "model",
        "on_control", "platform", "quick_read", "quick_write", "ram", "ring", "system_readable", "system_writable", "tlb", "user_spaces", "walk_references",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel) -> None:
        super().__init__()
        self.platform = platform
        self.bus = platform.bus
        self.memory = platform.memory
        self._window = self.memory if isinstance(self.memory, MemoryWindow) else None
        self.ram = self.memory.host if isinstance(self.memory, MemoryWindow) else self.memory
        self.model = model
        self.tlb = Tlb(model.tlb_entries)
        self.walk_references = self.control_loads = 0
        self.horizon = 0
        self.user_spaces: dict[int, None] = {}
        self.on_control: Callable[[str, int, int], None] | None = None
        # The same once more for translated code, per privilege: reads, writes, pages entered. See `quicken`.
        self._quick: tuple[QuickMaps, QuickMaps] = (
            (Quick(self._fill, write=False), Quick(self._fill, write=True), set()),
            (Quick(self._fill, write=False), Quick(self._fill, write=True), set()),
        )
        self.ram.quick_maps += [self._quick[0][1], self._quick[1][1]]
        self._mode_changed()

    def has(self, feature: str) -> bool:
        """Say whether the model has a feature."""
        return self.model.has(feature)

    # -- the dictionaries over the TLB ---------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Empty the dictionaries over the TLB, after a flush or a change of address space."""
        self.tlb.tag = (self.cr3 & PCID) << SPACE_SHIFT if self.cr4 & CR4_PCIDE else 0
        # Per privilege (supervisor, user): pages that may be read, written, executed without a look at the TLB.
        # The first two lead to an address in `ram`, the third to instructions kept with the page.
        self._maps: tuple[Maps, Maps] = (({}, {}, {}), ({}, {}, {}))
        self.system_readable, self.system_writable, _ = self._maps[0]
        for quick in self._quick:
            for each in quick:
                each.clear()
        self.code_changed()

    def _mode_changed(self) -> None:
        """Note what paging depends on, after a change of CR0, CR4 or IA32_EFER."""
        cr4 = self.cr4
        # In whose dictionaries a supervisor's page is entered, and in whose a user's.
        self._levels = ((0,), (1,) if cr4 & CR4_SMAP and self.cr0 & CR0_PG else (0, 1))
        self._format = self.page_format
        # Walks are kept where they depend on nothing but what is in RAM: not on registers, on AC, on a guest's window.
        self._walks: dict[tuple[int, int, bool, bool, bool, bool], tuple[Translation, Entries]] = {}
        self._repeats = not cr4 & CR4_SMAP and not self._window and not self._format.levels[0].in_registers
        self._reports_fetch = bool(cr4 & CR4_SMEP or (cr4 & CR4_PAE and self.efer & EFER_NXE))
        self._forget()

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
        if not self.bus.is_ram(frame):
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

    def _drop_page(self, page: int) -> None:
        for maps in self._maps:
            for each in maps:
                each.pop(page, None)
        for readable, writable, entered in self._quick:
            if page in entered:
                entered.remove(page)
                readable.pop(page << 12, None)
                for line in range(page << 12, (page + 1) << 12, LINE):
                    writable.pop(line, None)

    def readable_place(self, page: int) -> int | None:
        """Return where in `ram` a page begins that may be read without a look at the TLB."""
        return self._readable.get(page)

    def writable_place(self, page: int) -> int | None:
        """Return where in `ram` a page begins that may be written without a look at the TLB."""
        return self._writable.get(page)

    def quicken(self, linear: int) -> bool:
        """Enter the page of an address into `quick_read` and `quick_write`; say whether that brought anything new.

        They lead from the linear address of a page, or of a line of 256 bytes, to what is to be added for the place in
        `ram`, and are always a part of the dictionaries over the TLB. Only lines are entered for writing of which nobody
        wants to know: no code, nothing watched, written since the last checkpoint. The last page is never entered, so
        that addresses in an entered page do not wrap around.
        """
        page = linear >> 12
        if page & LAST_PAGE == LAST_PAGE:
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
        page = key >> 12
        if key & 3 or not 0 <= page < LAST_PAGE:
            raise KeyError(key)
        if page not in (self._writable if write else self._readable):
            tlb, user = self.tlb, self.ring == 3
            misses = tlb.misses
            try:
                if tlb.find(page):
                    # A fault would drop this translation, which the same instruction may use before.
                    self.page_walk(key, write=write, user=user, mark=False)
                elif len(tlb.entries) >= tlb.capacity:
                    # What had to make room might be the page of the code, or one that the same instruction has used.
                    raise KeyError(key)
                self.translate(key, write=write, user=user)
            except Fault:
                tlb.misses = misses  # it will happen again
                raise KeyError(key) from None
            if not self.code_pages.get(self.ip >> 12):
                raise KeyError(key)
        place = (self._writable if write else self._readable).get(page)
        if place is None:
            raise KeyError(key)
        if write:
            ram, frame = self.ram, place >> 12
            if ram.pages[frame] & ~PAGE_OF_CODE != WRITTEN or ram.is_code(frame, key & 0xFFF, LINE):
                raise KeyError(key)
            ram.quick_pages.add(frame)
        self._quick[self.ring == 3][2].add(page)
        found = quick[key] = place - (page << 12)
        return found

    @property
    def code_pages(self) -> dict[int, dict[int, Any]]:
        """Instructions kept with their pages, by EIP >> 12: a part of the TLB; none where EIP is not a linear address."""
        raise NotImplementedError

    # -- translation -----------------------------------------------------------------------------------------------------

    def translate(self, linear: int, *, write: bool, user: bool, fetch: bool = False, implicit: bool = False) -> int:
        """Return the physical address of a linear one; #PF where the tables or the rights say no.

        The TLB is believed where it holds the page with sufficient rights; otherwise the tables are walked.

        Parameters
        ----------
        linear : int
            Linear address.
        write, fetch : bool
            What for.
        user : bool
            True for an access by code of CPL 3.
        implicit : bool
            True for an access to a system structure, which is the supervisor's whatever the CPL.

        Raises
        ------
        Fault
            #PF; #GP(0) for an address that is not canonical.
        """
        page = linear >> 12
        if not self.cr0 & CR0_PG:
            self._remember(page, linear & ~0xFFF, writable=True, user=True)
            return linear
        entry = self.tlb.find(page)
        if entry is None or not self._permits(entry, write=write, user=user, fetch=fetch, implicit=implicit):
            entry = self._walk(linear, entry, write=write, user=user, fetch=fetch, implicit=implicit)
        self._remember(page, entry.frame, writable=entry.writable and entry.dirty, user=entry.user)
        return entry.frame | linear & 0xFFF

    def _permits(self, entry: TlbEntry, *, write: bool, user: bool, fetch: bool, implicit: bool) -> bool:
        if user:
            if not entry.user:
                return False
        elif entry.user and not self._user_pages(fetch=fetch, implicit=implicit):
            return False
        if fetch:
            return entry.executable
        if not write:
            return True
        return entry.dirty and (entry.writable or (not user and not self.cr0 & CR0_WP))

    def _user_pages(self, *, fetch: bool, implicit: bool) -> bool:
        """Say whether the supervisor may touch a user's page (SDM vol. 3, 4.6.1)."""
        if fetch:
            return not self.cr4 & CR4_SMEP
        return not self.cr4 & CR4_SMAP or (not implicit and bool(self.flags & AC))

    def _walk(
        self, linear: int, old: TlbEntry | None, *, write: bool, user: bool, fetch: bool, implicit: bool
    ) -> TlbEntry:
        """Walk the tables, and enter what they say in place of what the TLB held."""
        if self.efer & EFER_LMA and not is_canonical(linear):
            raise Fault(GP, 0)
        page = linear >> 12
        self.tlb.misses += 1
        if old is not None:  # a page fault drops the page's translation (SDM vol. 3, 4.10.4.1)
            self.tlb.drop(page)
            self._drop_page(page)
        try:
            found = self.page_walk(linear, write=write, user=user, fetch=fetch, implicit=implicit)
        except Fault:
            self.cr2 = linear
            raise
        self.walk_references += found.references
        entry = TlbEntry(
            found.frame,
            found.writable,
            found.user,
            found.executable,
            found.dirty,
            found.global_ and bool(self.cr4 & CR4_PGE),
            found.page_size,
        )
        victim = self.tlb.insert(page, entry)
        if victim is not None:
            self._drop_page(victim)
        return entry

    @property
    def page_format(self) -> PageTableFormat:
        """The format of the tables, as the control registers choose it (SDM vol. 3, 4.1.1)."""
        model = self.model
        no_execute = bool(self.efer & EFER_NXE)
        if self.efer & EFER_LMA:
            return four_level(model.physical_bits, no_execute=no_execute, gigabyte_pages=model.has("pdpe1gb"))
        if self.cr4 & CR4_PAE:
            return pae(model.physical_bits, no_execute=no_execute)
        if self.cr4 & CR4_PSE:
            return ia32_pse(model.physical_bits if model.has("pse36") else 32)
        return IA32

    def page_walk(
        self, linear: int, *, write: bool, user: bool, fetch: bool = False, implicit: bool = False, mark: bool = True
    ) -> Translation:
        """Walk the tables for a linear address; `mark` sets the accessed and dirty bits as the processor does.

        A walk that would read the same entries as one before has its result.
        """
        key = self.cr3, linear >> 12, write, user, fetch, implicit
        known = self._walks.get(key)
        if known:
            found, entries = known
            read = self.ram.read
            for address, size, entry in entries:
                if read(address, size) != entry:
                    break
            else:
                return found
        found = walk(
            self._format,
            self.cr3,
            linear,
            self._read_entry,
            self.bus.write if mark else None,
            is_write=write,
            is_user=user,
            is_fetch=fetch,
            write_protect=bool(self.cr0 & CR0_WP),
            user_pages=user or self._user_pages(fetch=fetch, implicit=implicit),
            reports_fetch=self._reports_fetch,
            registers=self.pdptes,
        )
        if self._repeats and mark:  # one that has marked an entry differs from what it read
            size, is_ram, read = self._format.entry_bytes, self.bus.is_ram, self.ram.read
            entries = tuple((step.address, size, step.entry) for step in found.steps)
            if all(is_ram(address) and read(address, size) == entry for address, _, entry in entries):
                if len(self._walks) >= MOST_WALKS:
                    self._walks.clear()
                self._walks[key] = found, entries
        return found

    def _read_entry(self, physical: int, size: int) -> int:
        """Read an entry of a table, which lies within one page."""
        if self.bus.is_ram(physical):
            return self.ram.read(self._window.host_address(physical) if self._window else physical, size)
        return self.bus.read(physical, size)

    def look_up(self, linear: int) -> int | None:
        """Return where the tables lead for a linear address, None for nowhere; no bit is set and no device is read."""
        if not self.cr0 & CR0_PG:
            return linear
        try:
            found = walk(self._format, self.cr3, linear, self._peek, None, registers=self.pdptes)
        except Fault:
            return None
        return found.frame | linear & 0xFFF

    def _peek(self, physical: int, size: int) -> int:
        return self.memory.read(physical, size) if self.bus.is_ram(physical) else (1 << 8 * size) - 1
