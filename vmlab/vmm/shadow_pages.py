"""Shadow pages: the page tables that the hardware walks, each the twin of a guest's table (textbook 18.4.2).

A shadow page is found by its *role*: which guest table it shadows, at which level, and for whom. One guest table has
several, where it is reached with several rights, is used at two levels (a directory that maps itself), or is seen from
virtual kernel and virtual user mode. Two tables that lead to one guest table share its shadow. Large pages of the guest,
and a guest without paging, are *direct*: their shadow pages shadow no table, but map memory in pages of 4 KiB.

A shadow page has the shape of its guest table, slot by slot, with these entries:

    PAE pointer    [ 63:52 0 | frame 51:12 | 0 | P ]
    other link     [ frame | 0 | A | 0 | U/S 1 | R/W 1 | P ]             rights are in the last entry alone
    last level     [ XD | frame | 0 | D 1 | A 1 | 0 | U/S | R/W | P ]

The *reverse map* leads from a guest frame to the entries that map it, so that it can be write-protected everywhere.
The pool of frames is limited, for each VCPU by itself: the page that was linked longest ago makes room.

Simplified: entries of guest frames that are not RAM, and of the hypervisor's window, are never made.

Read more: Linux, Documentation/virt/kvm/x86/mmu.rst (shadow pages, roles, reverse map); Adams and Agesen, ASPLOS 2006, 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.paging import ACCESSED, DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE
from vmlab.machine.state import COUNT, QUAD, Items, check_state
from vmlab.vmm.host_memory import GUEST_FRAMES, WINDOW
from vmlab.vmm.shadow_roles import Role, View, read_role, slot_of

if TYPE_CHECKING:
    from vmlab.machine.memory import MemoryWindow
    from vmlab.vmm.host_memory import HostMemory

__all__ = ["ShadowPage", "ShadowPages"]

MOST_PAGES = GUEST_FRAMES - 64
"""Shadow pages of one VCPU, beside its descriptors. No guest can so take the memory that another needs, or change how
often that one traps."""

LINK = PRESENT | WRITABLE | USER | ACCESSED


@dataclass(slots=True)
class ShadowPage:
    """One shadow page.

    Attributes
    ----------
    role : Role
        What it shadows.
    address : int
        Host-physical.
    entries : dict of int to (int, int)
        By slot, what is present: the guest's entry that it derives from (0 in a direct page), and where it leads: a guest
        frame at the last level, the host-physical address of a shadow page above it.
    parents : dict of (int, int) to None
        Address and slot of each entry that leads here.
    """

    role: Role
    address: int
    entries: dict[int, tuple[int, int]] = field(default_factory=dict)
    parents: dict[tuple[int, int], None] = field(default_factory=dict)


class ShadowPages:
    """The shadow pages of one VCPU, and the frames that hold them.

    Parameters
    ----------
    host : HostMemory
        Where they lie.
    memory : MemoryWindow
        Guest-physical memory.

    Attributes
    ----------
    pages : dict of int to ShadowPage
        By host-physical address; the page that was linked last is the last.
    tables : dict of int to dict
        By guest frame that holds a table, the addresses of its shadow pages.
    maps : dict of int to dict
        The reverse map: by guest frame, address and slot of the entries that map it.
    unlinked : bool
        True where a link has been cut, or a root made, since the processor last forgot all: it may still walk a page that is
        there no more.
    evictions : int
        Pages that had to make room.
    """

    def __init__(self, host: HostMemory, memory: MemoryWindow) -> None:
        self._host = host
        self._memory = memory
        self.pages: dict[int, ShadowPage] = {}
        self.tables: dict[int, dict[int, None]] = {}
        self.maps: dict[int, dict[tuple[int, int], None]] = {}
        self.unlinked = False
        self.evictions = 0
        self._by_role: dict[Role, int] = {}

    def find(self, role: Role) -> ShadowPage | None:
        """Return the page of a role, if there is one."""
        address = self._by_role.get(role)
        return None if address is None else self.pages[address]

    def make(self, role: Role, keep: set[int]) -> ShadowPage:
        """Make an empty page; the oldest but those at the addresses `keep` makes room where there is none."""
        while len(self.pages) >= MOST_PAGES:
            self.remove(next(page for address, page in self.pages.items() if address not in keep))
            self.evictions += 1
        page = ShadowPage(role, self._host.allocate())
        if role.window:
            first = slot_of(role, WINDOW)
            is_kernels = role.view != View.USER
            tables = self._host.kernel_tables if is_kernels else self._host.window_tables
            rights = WRITABLE | (USER if is_kernels and self._host.shows else 0)
            for n, table in enumerate(tables[role.shape]):
                self._write(page, first + n, table | PRESENT | ACCESSED | rights)
        elif role.in_registers and role.view >= View.KERNEL:
            self._write(page, 3, self._directory(role) | PRESENT)
        self._enter(page)
        return page

    def _enter(self, page: ShadowPage) -> None:
        self.pages[page.address] = page
        self._by_role[page.role] = page.address
        if page.role.frame is not None:
            self.tables.setdefault(page.role.frame, {})[page.address] = None

    def remove(self, page: ShadowPage) -> None:
        """Cut a page off, and free its frame."""
        for address, slot in list(page.parents):
            self.clear(self.pages[address], slot)
        for slot in list(page.entries):
            self.clear(page, slot)
        role = page.role
        del self.pages[page.address], self._by_role[role]
        if role.frame is not None:
            del self.tables[role.frame][page.address]
            if not self.tables[role.frame]:
                del self.tables[role.frame]
        self._host.release(page.address)
        self.unlinked = True

    # -- entries ---------------------------------------------------------------------------------------------------------

    def _write(self, page: ShadowPage, slot: int, value: int) -> None:
        size = page.role.entry_bytes
        self._host.memory.write(page.address + slot * size, size, value)

    def entry(self, page: ShadowPage, slot: int) -> int:
        """Return an entry as the hardware reads it."""
        size = page.role.entry_bytes
        return self._host.memory.read(page.address + slot * size, size)

    def link(self, page: ShadowPage, slot: int, source: int, child: ShadowPage) -> None:
        """Let an entry lead to another page."""
        self.clear(page, slot)
        page.entries[slot] = source, child.address
        child.parents[page.address, slot] = None
        self._write(page, slot, child.address | (PRESENT if page.role.in_registers else LINK))

    def touch(self, page: ShadowPage) -> None:
        """Note that a page has been used: others make room before it."""
        self.pages[page.address] = self.pages.pop(page.address)

    def map(self, page: ShadowPage, slot: int, source: int, frame: int, rights: int) -> None:
        """Let an entry of the last level map a guest frame, with rights as they stand in an entry."""
        self.clear(page, slot)
        page.entries[slot] = source, frame
        self.maps.setdefault(frame, {})[page.address, slot] = None
        self.set_rights(page, slot, rights)

    def set_rights(self, page: ShadowPage, slot: int, rights: int) -> None:
        """Change the rights of an entry of the last level."""
        frame = page.entries[slot][1]
        self._write(page, slot, self._memory.frames[frame] << PAGE_SHIFT | rights | PRESENT | ACCESSED | DIRTY)

    def clear(self, page: ShadowPage, slot: int) -> None:
        """Make an entry not present."""
        if slot not in page.entries:
            return
        target = page.entries.pop(slot)[1]
        if page.role.level > 1:
            del self.pages[target].parents[page.address, slot]
            self.unlinked = True
        else:
            places = self.maps[target]
            del places[page.address, slot]
            if not places:
                del self.maps[target]
        self._write(page, slot, 0)
        if page.role.in_registers and page.role.view >= View.KERNEL and slot == 3:
            self._write(page, slot, self._directory(page.role) | PRESENT)

    def _directory(self, role: Role) -> int:
        """Return the page directory behind the last PAE pointer where the guest has none: that of the window alone."""
        return self._host.window_directory if role.view == View.USER else self._host.kernel_directory

    def protect(self, frame: int, where: Callable[[Role], bool] = lambda _: True) -> bool:
        """Take the right to write away from entries that map a guest frame (in pages of some roles); say whether any had it."""
        had = False
        for address, slot in self.maps.get(frame, ()):
            page = self.pages[address]
            if not where(page.role):
                continue
            entry = self.entry(page, slot)
            if entry & WRITABLE:
                had = True
                self.set_rights(page, slot, entry & (USER | NO_EXECUTE))
        return had

    # -- saving ----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the bookkeeping, oldest page first; the entries as the hardware reads them are in memory."""
        rows = []
        for page in self.pages.values():
            entries = [number for slot, entry in page.entries.items() for number in (slot, *entry)]
            rows.append([page.address, [int(each) for each in page.role], entries])
        return {"version": 1, "pages": rows, "unlinked": self.unlinked, "evictions": self.evictions}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        fields = {"pages": Items(list), "unlinked": bool, "evictions": COUNT}
        check_state(state, "shadow pages", fields)
        pages = dict(_pages(state["pages"], self._host.addresses))
        if len(pages) != len(state["pages"]) or len({page.role for page in pages.values()}) != len(pages):
            raise StateError("shadow pages: two saved pages have the same frame or the same role")
        for page in pages.values():
            most = range(len(self._memory.frames)) if page.role.level == 1 else pages
            for slot, (_, target) in page.entries.items():
                if target not in most or slot >= 0x1000 // page.role.entry_bytes:
                    raise StateError(
                        f"shadow pages: a saved entry leads from slot {slot} to {target:#x}, which is nothing"
                    )
        for each in (self.pages, self.tables, self.maps, self._by_role):
            each.clear()
        for page in pages.values():
            self._enter(page)
        for page in pages.values():
            for slot, (_, target) in page.entries.items():
                if page.role.level > 1:
                    pages[target].parents[page.address, slot] = None
                else:
                    self.maps.setdefault(target, {})[page.address, slot] = None
        self.unlinked, self.evictions = state["unlinked"], state["evictions"]


def _pages(rows: list[Any], addresses: range) -> Iterator[tuple[int, ShadowPage]]:
    """Make pages of saved rows; StateError where one is damaged."""
    for row in rows:
        fields = {"address": addresses, "role": Items(QUAD), "entries": Items(QUAD)}
        if len(row) != len(fields) or type(row[2]) is not list or len(row[2]) % 3:
            raise StateError("shadow pages: a saved page is an address, a role, and entries of three numbers each")
        check_state({"version": 1} | dict(zip(fields, row, strict=True)), "shadow page", fields)
        entries = {slot: (source, target) for slot, source, target in zip(*[iter(row[2])] * 3, strict=True)}
        yield row[0], ShadowPage(read_role(row[1]), row[0], entries)
