"""Shadow page tables: what the hardware walks in place of the guest's tables (textbook 18.4.1 and 18.4.3).

A shadow entry maps a guest-virtual page straight to host memory. It is filled when the guest first uses the page,
from the guest's own tables, and thrown away when the guest flushes its TLB: the shadow is a very large TLB, so it
may be as stale as the architecture allows, and no staler. There are two roots, for virtual kernel and virtual user
mode, since a deprivileged guest runs in ring 3 in both. A page is mapped read-only until the guest has set the dirty
bit by a first write, so that the guest's accessed and dirty bits are those of the bare machine.

Simplified: everything is thrown away at each flush; guest page tables are not write-protected.

Read more: Adams and Agesen, ASPLOS 2006, 3.3 (hidden and true page faults).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.registers import CR0_PG
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.paging import ACCESSED, DIRTY, PRESENT, USER, WRITABLE
from vmlab.machine.state import Items, check_state
from vmlab.vmm.host_memory import GUEST_FRAMES, WINDOW, WINDOW_ENTRY

if TYPE_CHECKING:
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.host_memory import HostMemory

__all__ = ["ShadowPaging"]

TABLE_ENTRY = PRESENT | WRITABLE | USER | ACCESSED
LEAF_ENTRY = PRESENT | USER | ACCESSED | DIRTY
MOST_TABLES = GUEST_FRAMES - 64
"""Shadow page tables of one guest, beside its roots and descriptors; before one more all are thrown away, as a TLB makes
room. No guest can so take the memory that another needs, or change how often that one traps."""


class ShadowPaging:
    """The shadow tables of one guest.

    Parameters
    ----------
    host : HostMemory
        Where the tables lie.
    vcpu : Processor
        Whose tables are shadowed.
    memory : MemoryWindow
        Guest-physical memory.

    Attributes
    ----------
    changed : bool
        True where entries have been thrown away that the real TLB may still hold; whoever flushes that clears it.
    tables : list of int
        Host-physical addresses of the page tables in use below the roots.
    traced : set of int
        Guest-physical page numbers that must stay write-protected.
    """

    def __init__(self, host: HostMemory, vcpu: Processor, memory: MemoryWindow) -> None:
        self._host = host
        self._vcpu = vcpu
        self._memory = memory
        self.tables: list[int] = []
        self._large: set[int] = set()
        self.changed = True
        self.traced: set[int] = set()
        self._roots = (self._new_root(), self._new_root())

    def _new_root(self) -> int:
        root = self._host.allocate()
        self._host.memory.write(root + WINDOW_ENTRY * 4, 4, self._host.window_table | PRESENT | WRITABLE | ACCESSED)
        return root

    def root(self, *, user: bool) -> int:
        """Return the host-physical address of the root for a virtual mode: what goes into the real CR3."""
        return self._roots[user]

    def flush(self) -> None:
        """Throw every shadow entry away."""
        self.changed = True
        for root in self._roots:
            entry = self._host.memory.read(root + WINDOW_ENTRY * 4, 4)
            self._host.memory.write_bytes(root, bytes(PAGE_SIZE))
            self._host.memory.write(root + WINDOW_ENTRY * 4, 4, entry)
        for table in self.tables:
            self._host.release(table)
        self.tables.clear()
        self._large.clear()

    def drop(self, linear: int) -> None:
        """Throw the entry of one page away (INVLPG, a true page fault); of a 4 MiB page all its parts.

        Read more: Intel SDM vol. 3, 4.10.4.1.
        """
        self.changed = True
        for root in self._roots:
            slot = self._slot(root, linear, create=False)
            if slot is None:
                continue
            if linear >> 22 in self._large:
                self._host.memory.write_bytes(slot & -PAGE_SIZE, bytes(PAGE_SIZE))
            else:
                self._host.memory.write(slot, 4, 0)

    def _slot(self, root: int, linear: int, *, create: bool) -> int | None:
        """Return the address of the leaf entry of a page, in the window never."""
        if linear >= WINDOW:
            return None
        memory = self._host.memory
        pointer = root + (linear >> 22) * 4
        entry = memory.read(pointer, 4)
        if not entry & PRESENT:
            if not create:
                return None
            entry = self._host.allocate() | TABLE_ENTRY
            self.tables.append(entry & ~0xFFF)
            memory.write(pointer, 4, entry)
        return (entry & ~0xFFF) + (linear >> PAGE_SHIFT & 0x3FF) * 4

    def translate(self, linear: int, *, write: bool, user: bool) -> tuple[int, bool]:
        """Walk the guest's tables; return the guest-physical address, and whether writes may go on unseen.

        Sets the guest's accessed and dirty bits as the processor would.

        Raises
        ------
        Fault
            #PF: a true page fault, the guest's own.
        """
        vcpu = self._vcpu
        if not vcpu.cr0 & CR0_PG:
            return linear, True
        found = vcpu.page_walk(linear, write=write, user=user)
        if found.page_size > PAGE_SIZE:
            self._large.add(linear >> 22)
        return found.frame | linear & 0xFFF, write or (found.writable and found.dirty)

    def fill(self, linear: int, gpa: int, *, writable: bool, user: bool) -> int | None:
        """Map one page for a virtual mode; return the host-physical address, None where it cannot be mapped.

        What cannot be mapped, the hypervisor emulates: addresses without RAM, and those of the window.
        """
        page = gpa >> PAGE_SHIFT
        if linear >= WINDOW or not self._vcpu.bus.is_ram(gpa):
            return None
        if len(self.tables) >= MOST_TABLES:
            self.flush()
        slot = self._slot(self._roots[user], linear, create=True)
        if slot is None:
            return None
        hpa = self._memory.host_address(gpa)
        entry = hpa & ~0xFFF | LEAF_ENTRY
        if writable and page not in self.traced:
            entry |= WRITABLE
        self._host.memory.write(slot, 4, entry)
        return hpa

    def save(self) -> dict[str, Any]:
        """Save the bookkeeping; the tables are in memory."""
        return {
            "version": 1,
            "tables": list(self.tables),
            "large": sorted(self._large),
            "changed": self.changed,
            "traced": sorted(self.traced),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        rules = {
            "tables": Items(self._host.addresses),
            "large": Items(range(1 << 10)),
            "changed": bool,
            "traced": Items(range(len(self._memory.frames))),
        }
        check_state(state, "shadow paging", rules)
        self.tables = list(state["tables"])
        self._large = set(state["large"])
        self.changed = state["changed"]
        self.traced = set(state["traced"])
