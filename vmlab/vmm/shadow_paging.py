"""Shadow paging: the hardware walks tables of the hypervisor's in place of the guest's (textbook 18.4.2).

An entry of a shadow page maps a guest-virtual page straight to host memory. It is filled when the guest first uses the
page (a *hidden* page fault), from the guest's own tables; where they do not allow the access, the page fault is a *true*
one, and the guest's. A page is mapped read-only until the guest has set the dirty bit by a first write, so that the
guest's accessed and dirty bits are those of the bare machine. The shadow may be as stale as a TLB, and no staler.

What is done about changes of the guest's tables is a policy:

    cached    shadow pages stay, a table's for as long as it is one: a CR3 that comes back finds its root again. Writes to
              tables are traced (`vmlab.vmm.shadow_tracing`), but a table of the last level may be out of step until a flush.
    traced    the same, but every write to a table traps.
    flush     no write traps; at each flush everything is thrown away. A very large TLB, and the definition of the others.

The textbook's *nested page tables* in software (18.4.2: "the VMM maintains nested page tables that represent the guest's
page-table state") are these: the NPT of a guest is the set of its shadow pages, the VCPU's CR3 chooses the root, and "the
VMM watches for changes" by tracing.

Where the guest is deprivileged, it runs in ring 3 in virtual kernel and in virtual user mode. There is a root for each.

Simplified: without CR0.WP and with real rings, a page that the guest's user may only read is at any time either the
kernel's to write or the user's to read, and faults switch between the two (KVM does so, too).

Read more: Adams and Agesen, ASPLOS 2006, 3.3 (hidden and true page faults, tracing); Linux, mmu.rst; Intel SDM vol. 3, 4.10.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import CR0_PG
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.paging import DIRTY, PRESENT, WRITABLE
from vmlab.machine.state import COUNT, QUAD, Entries, Items, check_state
from vmlab.machine.trace import ShadowFill, ShadowRoot, ShadowSync, ShadowUnsync
from vmlab.vmm.host_memory import WINDOW
from vmlab.vmm.shadow_pages import ShadowPages
from vmlab.vmm.shadow_roles import (
    ALL,
    Role,
    direct_role,
    encode,
    entry_access,
    granted,
    read_role,
    root_role,
    shift_of,
    slot_of,
)
from vmlab.vmm.shadow_tables import ShadowTable, shadow_tables
from vmlab.vmm.shadow_tracing import Revision, TableTraces
from vmlab.vmm.shadow_writers import FrameWriters

if TYPE_CHECKING:
    from vmlab.machine.costs import CostModel
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.paging import WalkStep
    from vmlab.machine.processor import Processor
    from vmlab.vmm.host_memory import HostMemory
    from vmlab.vmm.shadow_pages import ShadowPage

__all__ = ["POLICIES", "PageFault", "ShadowPaging", "ShadowPolicy"]

ShadowPolicy = Literal["cached", "traced", "flush"]
POLICIES: tuple[ShadowPolicy, ...] = get_args(ShadowPolicy)


class PageFault(NamedTuple):
    """What a page fault of the hardware was, where it was not the guest's own.

    Attributes
    ----------
    kind : {"hidden", "traced", "window", "device"}
        `"hidden"`: an entry has been filled, and the access may be repeated. The instruction must be emulated for the
        others: a write to what is write-protected, an access to addresses that are the hypervisor's window, one to what is
        not RAM or through tables that are not.
    linear, gpa : int
        Guest-virtual and guest-physical address.
    hpa : int
        Host-physical address; 0 where nothing was filled.
    writable : bool
        True where later writes do not fault.
    """

    kind: Literal["hidden", "traced", "window", "device"]
    linear: int
    gpa: int
    hpa: int = 0
    writable: bool = False


class ShadowPaging:
    """The shadow tables of one VCPU, and what keeps them true.

    Whoever owns it calls `fault` at each page fault of the guest, `flush` and `drop` where the guest invalidates its TLB,
    and `root` before the guest goes on; then he makes the processor forget what `changed` and `invalid` say, and reports
    that by `flushed`.

    Parameters
    ----------
    host : HostMemory
        Where the tables lie.
    vcpu : Processor
        Whose tables are shadowed.
    memory : MemoryWindow
        Guest-physical memory.
    deprivileged : bool
        True where the guest's kernel runs in ring 3: two views, and the hypervisor's window in both. False where the rings
        are real: the processor must then have CR0.WP set whatever the guest believes, and CR4.SMEP, CR4.SMAP and
        IA32_EFER.NXE as the guest.
    policy : {"cached", "traced", "flush"}
        See above.
    writers : FrameWriters or None
        What it shares with the shadow paging of the guest's other VCPUs.

    Attributes
    ----------
    pages : ShadowPages
        The shadow pages.
    traces : TableTraces
        What keeps them in step.
    invalid : list of int
        Linear addresses that the processor must forget before the guest goes on.
    counters : Counter
        `"hidden faults"`, `"true faults"`, `"traced writes"`, `"fills"`, `"unsyncs"`, `"syncs"`, `"synced entries"`,
        `"root hits"`, `"root misses"`, `"floods"`.
    """

    def __init__(
        self,
        host: HostMemory,
        vcpu: Processor,
        memory: MemoryWindow,
        *,
        deprivileged: bool = True,
        policy: ShadowPolicy = "cached",
        writers: FrameWriters | None = None,
    ) -> None:
        self._vcpu = vcpu
        self._memory = memory
        self.deprivileged = deprivileged
        self.policy = policy
        self.pages = ShadowPages(host, memory)
        self.traces = TableTraces(
            self.pages,
            vcpu,
            memory,
            writers or FrameWriters(),
            traces=policy != "flush",
            may_leave=policy == "cached",
        )
        self.counters: Counter[str] = Counter()
        self.invalid: list[int] = []
        self._loaded: dict[bool, Role | None] = {False: None, True: None}

    # -- what the processor is to use ----------------------------------------------------------------------------------------

    @property
    def shape(self) -> int:
        """Levels of the tables: 2 wants CR4.PAE clear, 3 set, 4 and 5 want long mode, too."""
        return self._root_role(user=False).shape

    @property
    def changed(self) -> bool:
        """True where the processor must forget everything before the guest goes on: its TLB may hold what must not be."""
        return self.traces.exposed or self.pages.unlinked

    def flushed(self) -> None:
        """Note that the processor has forgotten everything."""
        self.traces.flushed()
        self.invalid.clear()

    def root(self, *, user: bool) -> int:
        """Return the host-physical address of the root for a virtual mode, made if need be: what goes into the real CR3.

        With real rings `user` says nothing.
        """
        role = self._root_role(user=user)
        page = self.pages.find(role)
        if role != self._loaded[user] or page is None:
            known = page is not None
            self.counters["root hits" if known else "root misses"] += 1
            if page is None:
                page = self._make(role, set())
                self.pages.unlinked = True  # where it lies another root may have lain, of another VCPU even
            self._loaded[user] = role
            self.traces.news.append((ShadowRoot, (self._vcpu.cr3, page.address, known)))
        self.pages.touch(page)
        if role.in_registers:
            self._link_pointers(page)
        return page.address

    def _root_role(self, *, user: bool) -> Role:
        return root_role(self._vcpu, deprivileged=self.deprivileged, user=user)

    def _link_pointers(self, root: ShadowPage) -> None:
        """Bring the root of PAE paging up to date with the guest's PDPTE registers."""
        for slot, source in enumerate(self._vcpu.pdptes):
            table = source & self._vcpu.page_format.frame_mask
            present = source & PRESENT and self._vcpu.bus.is_ram(table)
            if root.entries.get(slot, (0, 0))[0] == (source if present else 0):
                continue
            self.pages.clear(root, slot)
            self.pages.unlinked = True  # the registers are loaded with CR3
            if present:
                self._child(root, slot, source, self._below(root.role, slot, table, ALL), {root.address})

    def _below(self, role: Role, slot: int, table: int, access: int) -> Role:
        """Return the role of a guest's table that an entry leads to."""
        window = self.deprivileged and role.in_registers and slot == 3
        return role._replace(table=table, level=role.level - 1, access=access, window=window)

    # -- page faults -----------------------------------------------------------------------------------------------------------

    def fault(self, linear: int, *, write: bool, user: bool, fetch: bool = False) -> PageFault:
        """Tell what a page fault of the hardware is, and fill the entry where that is all.

        The guest's tables are walked, and its accessed and dirty bits set as the processor would.

        Raises
        ------
        Fault
            #PF: a true page fault, the guest's own.
        """
        vcpu = self._vcpu
        gpa = linear
        steps: tuple[WalkStep, ...] = ()
        if vcpu.cr0 & CR0_PG:
            try:
                found = vcpu.page_walk(linear, write=write, user=user, fetch=fetch)
            except Fault:
                self.counters["true faults"] += 1
                raise
            gpa, steps = found.frame | linear & PAGE_SIZE - 1, found.steps
        is_ram = vcpu.bus.is_ram
        if self.deprivileged and linear >= WINDOW:
            return PageFault("window" if is_ram(gpa) else "device", linear, gpa)
        if not is_ram(gpa) or not all(step.in_register or is_ram(step.address) for step in steps):
            return PageFault("device", linear, gpa)
        if write and not self._may_write(gpa >> PAGE_SHIFT, user=user):
            return PageFault("traced", linear, gpa)
        self.counters["hidden faults"] += 1
        writable = self._fill(linear, gpa, steps, write=write, user=user)
        if write and not writable:  # the user may reach memory there, too, and must not write to it
            return PageFault("traced", linear, gpa)
        hpa = self._memory.host_address(gpa)
        self.traces.news.append((ShadowFill, (linear, gpa, hpa, writable)))
        return PageFault("hidden", linear, gpa, hpa, writable)

    def _may_write(self, frame: int, *, user: bool) -> bool:
        """Say whether the guest may write to a frame; if need be, a table there leaves step, or is a table no more."""
        may, counted = self.traces.writers.ask(frame, user=user)
        if counted:
            self.counters[counted] += 1
        if counted == "unsyncs":
            self.traces.news.append((ShadowUnsync, (frame << PAGE_SHIFT,)))
        return may

    def _fill(self, linear: int, gpa: int, steps: tuple[WalkStep, ...], *, write: bool, user: bool) -> bool:
        """Make the entries on the way to a page, each from the guest's; say whether the last one lets the guest write."""
        self.counters["fills"] += 1
        frame = gpa >> PAGE_SHIFT
        page = self.pages.pages[self.root(user=user)]
        access, source, dirty, path = ALL, 0, True, {page.address}
        for step in steps:
            role = page.role
            source = step.entry if step.in_register else self.traces.guest_entry(role, step.slot)
            if role.frame is not None:
                access &= entry_access(source)
                self.traces.used(role.frame)
            if step is steps[-1]:
                dirty = bool(source & DIRTY)
            else:
                table = source & self._vcpu.page_format.frame_mask
                page = self._child(page, step.slot, source, self._below(role, step.slot, table, access), path)
        view = page.role.view
        rights = granted(view, access, dirty=dirty, supervisor_write=write and not user)
        assert rights is not None, "the guest's tables allow what its rights do not"
        while page.role.level > 1:  # a large page, or no table at all: of direct pages
            base = gpa & -(1 << shift_of(page.role.shape, page.role.level))
            direct = direct_role(base, page.role.level - 1, page.role.shape, rights, deprivileged=self.deprivileged)
            page = self._child(page, slot_of(page.role, linear), source, direct, path)
            source = 0
        if self.traces.writers.is_protected_in(frame, page.role):
            rights &= ~WRITABLE
        self.pages.map(page, slot_of(page.role, linear), source, frame, encode(rights))
        return bool(rights & WRITABLE)

    def _child(self, page: ShadowPage, slot: int, source: int, role: Role, path: set[int]) -> ShadowPage:
        """Return the page of a role, made if need be, and let an entry lead to it; `path` are pages that must stay."""
        child = self.pages.find(role)
        if child is None or page.entries.get(slot, (0, 0))[1] != child.address:
            child = child or self._make(role, path)
            path.add(child.address)
            self.traces.join(child)
            self.pages.link(page, slot, source, child)
        else:
            page.entries[slot] = source, child.address
            path.add(child.address)
        self.pages.touch(child)
        return child

    def _make(self, role: Role, keep: set[int]) -> ShadowPage:
        evictions = self.pages.evictions
        page = self.pages.make(role, keep)
        if self.pages.evictions != evictions:
            self.traces.settle()
        self.traces.join(page)
        return page

    # -- what the guest invalidates ----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """The guest has flushed its TLB: what may be stale is brought up to date."""
        pages, traces = self.pages, self.traces
        traces.exposed = True
        if not traces.traces:
            self.counters["thrown away"] += len(pages.pages)
            for page in list(pages.pages.values()):
                pages.remove(page)
            return
        found = Revision()
        tables = list(traces.out_of_step)
        for frame in tables:
            shadows = [pages.pages[address] for address in pages.tables[frame]]
            if any(page.parents for page in shadows):
                found.update(traces.sync(frame))
            if not any(page.parents and page.entries for page in shadows):  # nobody needs it, or it is empty
                for page in shadows:
                    pages.remove(page)
        if tables:
            traces.settle()
            self.counters["syncs"] += len(tables)
            self.counters["synced entries"] += found.total()
            traces.news.append((ShadowSync, (len(tables), found["kept"], found["changed"], found["cleared"])))

    def drop(self, linear: int) -> None:
        """The guest has invalidated one page, by INVLPG or a true page fault: of a large page all parts.

        Read more: Intel SDM vol. 3, 4.10.4.1.
        """
        self.invalid.append(linear)
        if not self.traces.traces:
            self.traces.drop_address(linear)
            return
        self.traces.sync_address(linear)
        # In step or not: a table that leaves step later must not bring back what the guest has invalidated.
        for user in (False, True):
            page = self.pages.find(self._root_role(user=user))
            while page is not None and page.role.level > 1:
                target = page.entries.get(slot_of(page.role, linear), (0, 0))[1]
                page = self.pages.pages.get(target)
            if page is not None and slot_of(page.role, linear) in page.entries:
                self.traces.clear(page, slot_of(page.role, linear))

    def cycles(self, costs: CostModel) -> int:
        """Return the cycles of the software that did all this, beside the traps and the emulation of instructions."""
        done = self.counters
        return (
            done["fills"] * costs.vmm_shadow_fill
            + done["traced writes"] * costs.vmm_traced_write
            + done["synced entries"] * costs.vmm_sync_entry
            + (done["root hits"] + done["root misses"]) * costs.vmm_shadow_root
        )

    # -- looking, saving ---------------------------------------------------------------------------------------------------

    def tables(self) -> tuple[ShadowTable, ...]:
        """Return all shadow pages and their entries as data, for a picture; nothing changes."""
        return shadow_tables(self.pages, self.traces)

    def save(self) -> dict[str, Any]:
        """Save the bookkeeping; the tables are in memory."""
        return {
            "version": 2,
            "pages": self.pages.save(),
            "traces": self.traces.save(),
            "invalid": list(self.invalid),
            "loaded": [[int(each) for each in role or ()] for role in self._loaded.values()],
            "counters": dict(self.counters),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        fields = {"pages": dict, "traces": dict, "invalid": Items(QUAD), "counters": Entries(str, COUNT)}
        check_state(state, "shadow paging", fields | {"loaded": Items(list, 2)}, version=2)
        loaded = [read_role(row) if row else None for row in state["loaded"]]
        self.traces.check(state["traces"])
        self.pages.load(state["pages"])
        self.traces.load(state["traces"])
        self.invalid = list(state["invalid"])
        self._loaded = {False: loaded[0], True: loaded[1]}
        self.counters = Counter(state["counters"])
