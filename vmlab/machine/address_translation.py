"""From linear to physical addresses: TLB and page walks.

A page that is in the dictionaries of `vmlab.machine.page_maps` needs none of this. Everything else takes the long way:
TLB, page walk, bus.

Read more: Intel SDM vol. 3, chapter 4 (paging), 4.6 (access rights), 4.10 (TLBs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import GP, PF, Fault
from vmlab.isa.x86.registers import (
    AC,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
)  # fmt: skip
from vmlab.machine.known_walks import KnownWalks
from vmlab.machine.page_formats import IA32, four_level, ia32_pse, pae
from vmlab.machine.page_maps import PageMaps
from vmlab.machine.paging import PageTableFormat, Translation, walk
from vmlab.machine.tlb import TlbEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.nested_walk import AddressSpace, NestedTranslation
    from vmlab.machine.platform import Platform

__all__ = ["AddressTranslation"]


class AddressTranslation(PageMaps):
    """The part of a processor that translates addresses.

    Parameters
    ----------
    platform : Platform
        Bus, clock and memory.
    model : CpuModel
        Size of the TLB, features of paging.

    Attributes
    ----------
    walk_references, control_loads : int
        Memory references of page walks; loads of control registers.
    on_control : callable or None
        Called with the name, the old and the new value when CR0, CR3 or CR4 changes.
    lacked : dict of str to str
        Features that the guest asked for in vain, and by what; for a person who reads how it ended.
    horizon : int
        Count of retired instructions at which the loop of `Processor.run` ends; 0 ends it at once.
    non_root, exits_io : bool
        True in VMX non-root operation; where its VMM wants accesses to ports.
    host_space : AddressSpace or None
        Extended page tables, where guest-physical addresses are translated once more: see `vmlab.machine.vmx.non_root`.
    """

    __slots__ = (
        "_counts_hits", "_format", "_host_walks", "_nested_walks", "_repeats", "_reports_fetch", "_walks", "control_loads", "exits_io", "horizon", "host_space", "lacked",
        "model", "non_root", "on_control", "walk_references",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel) -> None:
        super().__init__(platform, model)
        self.model = model
        self.walk_references = self.control_loads = 0
        self.horizon = 0
        self.non_root = self.exits_io = False
        self.host_space: AddressSpace | None = None
        self.lacked: dict[str, str] = {}
        self.on_control: Callable[[str, int, int], None] | None = None
        self._counts_hits = model.tlb.counts_hits
        self._host_walks: KnownWalks[Translation] = KnownWalks()
        self._mode_changed()

    def has(self, feature: str) -> bool:
        """Say whether the model has a feature."""
        return self.model.has(feature)

    def _mode_changed(self) -> None:
        """Note what paging depends on, after a change of CR0, CR4 or IA32_EFER."""
        self._choose_format()
        self._forget()

    def _choose_format(self) -> None:
        cr4 = self.cr4
        self._levels = ((0,), (1,) if cr4 & CR4_SMAP and self.cr0 & CR0_PG else (0, 1))
        if self.model.tlb.sees_all:
            self._levels = (), ()
        self._format = self.page_format
        # Walks are kept where they depend on nothing but what is in RAM: not on registers, not on AC.
        self._walks: KnownWalks[Translation] = KnownWalks()
        self._nested_walks: KnownWalks[NestedTranslation] = KnownWalks()
        plain = not self.walk_caches and not self._format.levels[0].in_registers
        self._repeats = plain and (self.host_space is not None or not cr4 & CR4_SMAP)
        self._reports_fetch = bool(cr4 & CR4_SMEP or (cr4 & CR4_PAE and self.efer & EFER_NXE))

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
            if self.host_space is not None:
                return self._unpaged(linear, write=write, fetch=fetch)
            self._remember(page, linear & ~0xFFF, writable=True, user=True)
            return linear
        entry = self.tlb.find(page)
        if entry is None or not self._permits(entry, write=write, user=user, fetch=fetch, implicit=implicit):
            entry = self._walk(linear, entry, write=write, user=user, fetch=fetch, implicit=implicit)
        elif self._counts_hits:
            self.tlb.counts.hits += 1
        self._believe(page, entry)
        return entry.frame | linear & 0xFFF

    def _believe(self, page: int, entry: TlbEntry) -> None:
        """Enter a page that the TLB holds into the dictionaries."""
        self._remember(page, entry.frame, writable=entry.writable and entry.dirty, user=entry.user)

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
        self.tlb.counts.misses += 1
        if old is not None:  # a page fault drops the page's translation (SDM vol. 3, 4.10.4.1)
            for pages in self.tlb.drop(page):
                self._drop_pages(pages)
        try:
            found = self.page_walk(linear, write=write, user=user, fetch=fetch, implicit=implicit)
        except Fault as fault:
            if self.walk_caches:
                self.walk_caches.drop(linear)
            raise (self.page_fault(fault, linear) if fault.vector == PF else fault) from None
        return self._enter(page, found)

    def _enter(self, page: int, found: Translation) -> TlbEntry:
        """Enter what a walk has found into the TLB."""
        self.walk_references += found.references
        entry = TlbEntry(
            found.frame,
            found.writable,
            found.user,
            found.executable,
            found.dirty,
            found.global_ and bool(self.cr4 & CR4_PGE),
            found.page_size if self.host_space is None else self._guest_span(found),
        )
        victim = self.tlb.insert(page, entry, found.page_size)
        if victim is not None:
            self._drop_pages(victim)
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
        if self.host_space is not None:
            user_pages = user or self._user_pages(fetch=fetch, implicit=implicit)
            access = {"is_write": write, "is_user": user, "is_fetch": fetch, "user_pages": user_pages}
            nested = self._walk_nested(linear, paged=True, mark=mark, **access)
            return cast("Translation", nested)  # it has what callers need of one
        key = self.cr3, linear >> 12, write, user, fetch, implicit
        known = self._walks.find(key, self.memory.read)
        if known:
            return known
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
            cache=self.walk_caches.guest if self.walk_caches and mark else None,
        )
        if self._repeats and mark:
            size = self._format.entry_bytes
            self._walks.keep(key, found, ((step.address, size, step.entry) for step in found.steps), self._read_ram)
        return found

    def _read_entry(self, physical: int, size: int) -> int:
        """Read an entry of a table, which lies within one page."""
        if self.bus.is_ram(physical):
            return self.ram.read(self._window.host_address(physical) if self._window else physical, size)
        return self.bus.read(physical, size)

    def _read_ram(self, physical: int, size: int) -> int:
        """Read an entry of a table in RAM; one that is elsewhere is never what it was."""
        return self.memory.read(physical, size) if self.bus.is_ram(physical) else -1

    def walk_rules(self, *, user: bool, fetch: bool = False) -> dict[str, bool]:
        """Return what else a walk depends on, as `walk` takes it: CR0.WP, SMEP and SMAP, and what an error code tells."""
        return {
            "write_protect": bool(self.cr0 & CR0_WP),
            "user_pages": user or self._user_pages(fetch=fetch, implicit=False),
            "reports_fetch": self._reports_fetch,
        }

    def held(self, linear: int, *, write: bool, user: bool, fetch: bool) -> tuple[TlbEntry | None, bool]:
        """Return what the TLB holds for an address, and whether it allows an access; nothing changes."""
        entry = self.tlb.peek(linear >> 12)
        allows = entry is not None and self._permits(entry, write=write, user=user, fetch=fetch, implicit=False)
        return entry, allows

    def look_up(self, linear: int) -> int | None:
        """Return where the tables lead for a linear address, None for nowhere; no bit is set and no device is read."""
        if not self.cr0 & CR0_PG:
            return linear
        try:
            if self.host_space is not None:
                return self._walk_nested(linear, paged=True, mark=False).frame | linear & 0xFFF
            found = walk(self._format, self.cr3, linear, self._peek, None, registers=self.pdptes)
        except Fault:
            return None
        return found.frame | linear & 0xFFF

    def _peek(self, physical: int, size: int) -> int:
        return self.memory.read(physical, size) if self.bus.is_ram(physical) else (1 << 8 * size) - 1

    # -- a guest's addresses, in `vmlab.machine.vmx.non_root` --------------------------------------------------------------

    def _walk_nested(self, linear: int, *, paged: bool, mark: bool, **access: Any) -> NestedTranslation:  # noqa: ANN401 - as of walk_nested
        """Walk in two dimensions."""
        raise NotImplementedError

    def _guest_span(self, found: Translation) -> int:
        """Return the size of the guest's page, of a walk in two dimensions."""
        raise NotImplementedError

    def _unpaged(self, linear: int, *, write: bool, fetch: bool) -> int:
        """Translate an address of a guest without paging."""
        raise NotImplementedError

    def page_fault(self, fault: Fault, linear: int) -> Fault:
        """Return what a #PF becomes: itself, with CR2, or a VM exit."""
        raise NotImplementedError
