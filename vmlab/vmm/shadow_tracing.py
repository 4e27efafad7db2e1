"""Tracing: how shadow pages follow the guest's tables, which they derive from.

A guest frame that holds a shadowed table is in one of two states:

- *in step*: nobody writes to it unseen. All entries that map it are read-only, for the guest traps when it writes there,
  and its write is emulated; whoever writes, the entries that derive from what was written are brought up to date at once.
- *out of step* (KVM: unsync): a table of the last level to which the guest has written may go on to be written, without
  a trap. Its shadow may be stale, as a TLB may. INVLPG brings one address up to date; a flush all of it, and then the
  table is in step again.

An entry is brought up to date by what changed in the guest's: nothing that matters (accessed or dirty set, bits for
software), so that it stays; its rights, so that they are changed; anything else, so that it is cleared, and a later hidden
page fault fills it.

What leads to a table that is out of step, for the first time, brings it in step: no TLB could hold a stale translation
of such an address, and a kernel may build on that.

Read more: Linux, Documentation/virt/kvm/x86/mmu.rst (unsync pages, "reaction to events"); Intel SDM vol. 3, 4.10.2.3, 4.10.4.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.paging import ACCESSED, DIRTY, GLOBAL, PRESENT, USER, WRITABLE
from vmlab.machine.state import COUNT, Entries, Items, check_state
from vmlab.machine.trace import ShadowWrite
from vmlab.vmm.shadow_roles import View, encode, entry_access, granted, is_for_user, slot_of

if TYPE_CHECKING:
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.machine.trace import Event
    from vmlab.vmm.shadow_pages import ShadowPage, ShadowPages
    from vmlab.vmm.shadow_roles import Role
    from vmlab.vmm.shadow_writers import FrameWriters

__all__ = ["Revision", "TableTraces"]

SOFTWARE = 0xE00
"""Bits 11:9, which the processor ignores."""
IGNORED = ACCESSED | DIRTY | GLOBAL | SOFTWARE
FLOOD = 3
"""Traced writes to a table after which, if nothing was filled through it meanwhile, it is taken for a table no more (KVM's figure)."""


class Revision(Counter[str]):
    """How many entries were `"kept"`, `"changed"` and `"cleared"`."""


class TableTraces:
    """Which guest frames are write-protected, and why; keeps shadow pages in step with tables.

    Parameters
    ----------
    pages : ShadowPages
        The shadow pages.
    vcpu : Processor
        For which they are.
    memory : MemoryWindow
        Guest-physical memory.
    writers : FrameWriters
        What it shares with the guest's other VCPUs.
    traces, may_leave : bool
        False for tables that are never in step; False for tables of the last level that never leave it.

    Attributes
    ----------
    guarded : set of int
        Guest frames that the hypervisor itself wants write-protected: the guest's descriptor tables, translated code.
    guarded_from_user : set of int
        Those that only the guest's user must not write to, without a trap.
    out_of_step : dict of int to None
        Guest frames whose tables are out of step, the last one last.
    exposed : bool
        True where the processor may hold translations that an entry allows no more.
    lingering : bool
        True where it may hold translations that were cleared, or have other rights now: as stale as a TLB may be.
    counters : Counter
        `"updates"` and `"zaps"` of entries.
    news : list of Event classes and fields
        What happened, for whoever traces; he empties it.
    """

    def __init__(
        self,
        pages: ShadowPages,
        vcpu: Processor,
        memory: MemoryWindow,
        writers: FrameWriters,
        *,
        traces: bool,
        may_leave: bool,
    ) -> None:
        self.pages = pages
        self.vcpu = vcpu
        self.memory = memory
        self.writers = writers
        writers.members.append(self)
        self.traces = traces
        self.may_leave = may_leave
        self.guarded: set[int] = set()
        self.guarded_from_user: set[int] = set()
        self.out_of_step: dict[int, None] = {}
        self.exposed = False
        self.counters: Counter[str] = Counter()
        self.news: list[tuple[type[Event], tuple[Any, ...]]] = []
        self.lingering = False
        self._spied: dict[int, int] = {}
        self._floods: dict[int, int] = {}

    # -- who is write-protected: see `vmlab.vmm.shadow_writers` ---------------------------------------------------------------

    def is_traced(self, frame: int) -> bool:
        """Say whether a guest frame holds tables that are in step."""
        return self.memory.frames[frame] in self._spied

    def guard(self, frames: set[int]) -> None:
        """Write-protect these guest frames for the hypervisor's sake, and no others."""
        for frame in sorted(frames - self.guarded):
            self.writers.protect(frame)
        self.guarded = frames

    def guard_from_user(self, frames: set[int]) -> None:
        """Write-protect these guest frames where the guest's user could write to them, and no others."""
        for frame in sorted(frames - self.guarded_from_user):
            self.writers.protect(frame, is_for_user)
        self.guarded_from_user = frames

    def watch(self, frame: int) -> None:
        """Trace writes to the tables in a guest frame, from now on; they are in step."""
        if not self.traces or frame >= len(self.memory.frames) or self.is_traced(frame):
            return
        self.writers.protect(frame)
        self._spy(frame)

    def _spy(self, frame: int) -> None:
        host = self.memory.frames[frame]
        self._spied[host] = frame
        self.memory.host.spy(host, self._written)

    def unwatch(self, frame: int) -> None:
        """End that."""
        host = self.memory.frames[frame]
        if self._spied.pop(host, None) is not None:
            self.memory.host.unwatch(host, self._written)

    def settle(self) -> None:
        """Forget about tables that have no shadow any more."""
        tables = self.pages.tables
        for frame in [each for each in self._spied.values() if each not in tables]:
            self.unwatch(frame)
        for known in (self.out_of_step, self._floods):
            for frame in [each for each in known if each not in tables]:
                known.pop(frame)

    def _shadows(self, frame: int) -> list[ShadowPage]:
        return [self.pages.pages[address] for address in self.pages.tables[frame]]

    def may_let_go(self, frame: int) -> bool:
        """Say whether a table may leave step: one of the last level."""
        return self.may_leave and all(page.role.level == 1 for page in self._shadows(frame))

    def let_go(self, frame: int) -> None:
        """Trace writes to a table no more until it is in step again."""
        self.unwatch(frame)
        self.out_of_step[frame] = None

    def flood(self, frame: int) -> None:
        """Note a write to a table that may not leave step: after some in a row it is taken for a table no more."""
        self._floods[frame] = self._floods.get(frame, 0) + 1

    def is_flooded(self, frame: int) -> bool:
        """Say whether a table has been written so often that it is likely to be none: of the last level, till it is empty."""
        is_last = any(page.entries for page in self._shadows(frame) if page.role.level == 1)
        return self._floods.get(frame, 0) >= FLOOD and not is_last

    def remove(self, frame: int) -> None:
        """Take a frame for a table no more."""
        for page in self._shadows(frame):
            self.pages.remove(page)
        self.settle()

    def used(self, frame: int) -> None:
        """Note that an entry was filled through a table: it is one."""
        self._floods.pop(frame, None)

    # -- following the guest's entries -----------------------------------------------------------------------------------

    def guest_entry(self, role: Role, slot: int) -> int:
        """Return the guest's entry behind a slot."""
        return self.memory.read(role.table + slot * role.entry_bytes, role.entry_bytes)

    def revise(self, page: ShadowPage, slot: int) -> str:
        """Bring one entry up to date with the guest's: `"kept"`, `"changed"` or `"cleared"`."""
        source, target = page.entries[slot]
        role = page.role
        new = self.guest_entry(role, slot)
        changed = new ^ source
        if not changed:
            return "kept"
        lost = source & ~new & (PRESENT | ACCESSED | DIRTY)
        if not changed & ~IGNORED and not lost:
            page.entries[slot] = new, target
            return "kept"
        # In a view of rings without CR0.WP, an entry depends on the access that filled it.
        if role.level == 1 and not changed & ~(IGNORED | WRITABLE | USER) and role.view != View.RINGS_WITHOUT_WP:
            access = granted(role.view, role.access & entry_access(new), dirty=bool(new & DIRTY))
            if access is not None and new & ACCESSED:
                if self.writers.is_protected_in(target, page.role):
                    access &= ~WRITABLE
                page.entries[slot] = new, target
                self.pages.set_rights(page, slot, encode(access))
                self.lingering = True
                self.counters["updates"] += 1
                return "changed"
        self.clear(page, slot)
        return "cleared"

    def clear(self, page: ShadowPage, slot: int) -> None:
        """Clear an entry; the processor may go on to hold it."""
        self.pages.clear(page, slot)
        self.lingering = True
        self.counters["zaps"] += 1

    def _written(self, host: int, offset: int, size: int) -> None:
        """Follow a write to a table that is in step."""
        frame = self._spied[host]
        found = Revision()
        first = 0
        for address in list(self.pages.tables[frame]):
            page = self.pages.pages[address]
            width = page.role.entry_bytes
            first = offset // width
            touched = range(first, (offset + size - 1) // width + 1)
            # The fewer: what a long write touches, or what is there.
            slots = touched if len(touched) < len(page.entries) else list(page.entries)
            found.update(self.revise(page, slot) for slot in slots if slot in touched and slot in page.entries)
        if found["changed"] or found["cleared"]:
            self.news.append((ShadowWrite, (frame << PAGE_SHIFT, first, found["changed"], found["cleared"])))

    def sync_page(self, page: ShadowPage) -> Revision:
        """Bring all entries of a page up to date."""
        return Revision(self.revise(page, slot) for slot in list(page.entries))

    def sync(self, frame: int) -> Revision:
        """Bring all shadow pages of a guest frame up to date, and the frame in step."""
        found = Revision()
        for address in list(self.pages.tables[frame]):
            found.update(self.sync_page(self.pages.pages[address]))
        self.out_of_step.pop(frame, None)
        self.watch(frame)
        return found

    def join(self, page: ShadowPage) -> None:
        """Bring a page up to date that is about to be reached in a new way."""
        frame = page.role.frame
        if frame is None:
            return
        if frame in self.out_of_step:
            self.sync(frame)
        elif self.traces:
            self.watch(frame)
        else:
            self.sync_page(page)

    def sync_address(self, linear: int) -> None:
        """Bring the last entries of a linear address up to date, wherever they may be stale."""
        for frame in self.out_of_step:
            for address in self.pages.tables[frame]:
                page = self.pages.pages[address]
                slot = slot_of(page.role, linear)
                if slot in page.entries:
                    self.revise(page, slot)

    def drop_address(self, linear: int) -> None:
        """Clear the entries of a linear address, those of its large page too: where no table is traced."""
        pages = self.pages.pages
        for page in list(pages.values()):
            slot = slot_of(page.role, linear)
            target = page.entries.get(slot, (0, 0))[1]
            if slot in page.entries and (page.role.level == 1 or pages[target].role.direct):
                self.clear(page, slot)

    def flushed(self) -> None:
        """Note that the processor has forgotten all translations."""
        self.exposed = self.pages.unlinked = self.lingering = False

    # -- saving ------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what is not in memory."""
        return {
            "version": 2,
            "guarded": sorted(self.guarded),
            "guarded_from_user": sorted(self.guarded_from_user),
            "out_of_step": list(self.out_of_step),
            "exposed": self.exposed,
            "lingering": self.lingering,
            "floods": dict(self._floods),
            "counters": dict(self.counters),
        }

    def check(self, state: dict[str, Any]) -> None:
        """Check a saved state; StateError where it is damaged."""
        frame = range(len(self.memory.frames))
        fields = {
            "guarded": Items(frame),
            "guarded_from_user": Items(frame),
            "out_of_step": Items(frame),
            "floods": Entries(frame, COUNT),
        }
        check_state(
            state,
            "shadow tracing",
            fields | {"exposed": bool, "lingering": bool, "counters": Entries(str, COUNT)},
            version=2,
        )

    def load(self, state: dict[str, Any]) -> None:
        """Load a checked state, after the pages."""
        for frame in list(self._spied.values()):
            self.unwatch(frame)
        self.guarded, self.guarded_from_user = set(state["guarded"]), set(state["guarded_from_user"])
        self.out_of_step = dict.fromkeys(state["out_of_step"])
        self._floods = dict(state["floods"])
        self.counters = Counter(state["counters"])
        if self.traces:
            for frame in self.pages.tables:
                if frame not in self.out_of_step and frame < len(self.memory.frames):
                    self._spy(frame)
        self.exposed, self.lingering = state["exposed"], state["lingering"]
        self.news.clear()
