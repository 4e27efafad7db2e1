"""Page walks in two dimensions: a guest's tables lie at guest-physical addresses, which the host's tables map.

This is `walk` of the guest's format, whose every access to a table is itself walked through the host's format, and so
is the address that it finds: n guest levels over m host levels make (n + 1)(m + 1) - 1 memory references.

Simplified: an entry of a guest that the processor marks is looked up again in the host's tables only where they have
not allowed writing it yet; that costs no references.

Read more: Intel SDM vol. 3, 29.3 (EPT); AMD APM vol. 2, 15.25; Bhargava et al., ASPLOS 2008 (figure 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.machine.paging import PAGE, PageTableFormat, Translation, WalkStep, walk
from vmlab.machine.walk_faults import GuestAccess, HostFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vmlab.machine.known_walks import KnownWalks
    from vmlab.machine.walk_caches import NestedCaches

__all__ = ["AddressSpace", "NestedStep", "NestedTranslation", "walk_nested"]

OFFSET = PAGE - 1
PAGE_SHIFT = 12


class AddressSpace(NamedTuple):
    """Tables of a format: what a walk needs to know.

    Attributes
    ----------
    format : PageTableFormat
        How to read them.
    root : int
        The register that points to the root table.
    registers : sequence of int
        Entries of a root table that the processor holds in registers.
    """

    format: PageTableFormat
    root: int
    registers: Sequence[int] = ()

    @property
    def top(self) -> int:
        """Physical address of the root table; 0 where no register points to one."""
        return (self.root & self.format.root_mask) << self.format.root_shift


class NestedStep(NamedTuple):
    """One table of a walk in two dimensions.

    Attributes
    ----------
    dimension : str
        "guest" or "host": whose table it is.
    guest_level : int
        Row in the grid: 0 for the guest's root, counted down to the number of guest levels for the address itself.
    host_level : int or None
        Column: 0 for the host's root; None in a guest's table.
    level : str
        The manual's name of the table.
    slot, address, entry : int
        Which entry, its host-physical address, and its value. Of a guest's entry for which no memory was referenced,
        the address is guest-physical.
    in_register, cached : bool
        Why no memory was referenced, if none was.
    """

    dimension: str
    guest_level: int
    host_level: int | None
    level: str
    slot: int
    address: int
    entry: int
    in_register: bool = False
    cached: bool = False


class NestedTranslation(NamedTuple):
    """The result of a walk in two dimensions.

    Attributes
    ----------
    frame : int
        Host-physical address of the 4 KiB page.
    guest_frame : int
        Guest-physical address of the page.
    writable, user, executable, readable : bool
        Rights that both grant; `user` is the guest's alone.
    dirty : bool
        True where neither has a dirty bit left to set.
    global_ : bool
        G of the guest's leaf.
    page_size : int
        Bytes mapped by the smaller of the two leaves.
    guest : Translation or None
        The guest's walk, with guest-physical addresses; None where paging is off in the guest.
    hosts : tuple of Translation
        The host's walks, one for each reference to a table of the guest, and one for the address itself.
    """

    frame: int
    guest_frame: int
    writable: bool
    user: bool
    executable: bool
    readable: bool
    dirty: bool
    global_: bool
    page_size: int
    guest: Translation | None
    hosts: tuple[Translation, ...]

    @property
    def references(self) -> int:
        """Memory references of the whole walk."""
        count = sum(host.references for host in self.hosts)
        return count + self.guest.references if self.guest else count

    def entries(self, guest_bytes: int, host_bytes: int) -> Iterator[tuple[int, int, int]]:
        """Yield address, bytes and value of each entry that was read, where none was in a register or a cache."""
        for step, host in zip(self.guest.steps if self.guest else (), self.hosts, strict=False):
            yield host.frame | step.address & OFFSET, guest_bytes, step.entry
        for step in dict.fromkeys(step for host in self.hosts for step in host.steps):
            yield step.address, host_bytes, step.entry

    @property
    def steps(self) -> tuple[NestedStep, ...]:
        """All tables, in the order in which they were read."""
        hosts = [host.steps for host in self.hosts]
        frames = [host.frame for host in self.hosts]
        return tuple(_steps(self.guest.steps if self.guest else (), hosts, frames))


def _steps(
    guest: Iterable[WalkStep], hosts: Sequence[Iterable[WalkStep]], frames: Sequence[int]
) -> Iterator[NestedStep]:
    """Put the walks of both dimensions in one order: the host's first, then the entry of the guest that it led to."""
    row = walked = 0
    for row, step in enumerate(guest, start=1):
        address = step.address
        if not (step.in_register or step.cached):
            yield from _row(row - 1, hosts[walked])
            address = frames[walked] | address & OFFSET
            walked += 1
        yield NestedStep("guest", row - 1, None, step.level, step.slot, address, *step[3:])
    for steps in hosts[walked:]:
        yield from _row(row, steps)


def _row(row: int, steps: Iterable[WalkStep]) -> Iterator[NestedStep]:
    return (NestedStep("host", row, column, *step) for column, step in enumerate(steps))


def walk_nested(  # noqa: PLR0913 - as `walk`
    guest: AddressSpace | None,
    host: AddressSpace,
    address: int,
    read: Callable[[int, int], int],
    write: Callable[[int, int, int], None] | None,
    *,
    is_write: bool = False,
    is_user: bool = False,
    is_fetch: bool = False,
    write_protect: bool = True,
    user_pages: bool = True,
    reports_fetch: bool = False,
    caches: NestedCaches | None = None,
    trail: list[NestedStep] | None = None,
    known: KnownWalks[Translation] | None = None,
) -> NestedTranslation:
    """Translate an address of a guest to a host-physical one.

    Parameters
    ----------
    guest : AddressSpace or None
        The guest's tables; None where paging is off there and the address is guest-physical.
    host : AddressSpace
        The host's tables.
    address : int
        The guest's address.
    read, write : callable
        Host-physical memory, as for `walk`; without `write` nothing is marked in either dimension.
    is_write, is_user, is_fetch, write_protect, user_pages, reports_fetch : bool
        The access and the guest's mode, as for `walk`.
    caches : NestedCaches or None
        Paging-structure caches of both dimensions and a nested TLB.
    trail : list of NestedStep or None
        An empty list, which takes the steps; they are there after a fault too.
    known : KnownWalks or None
        Host walks that have been made before.

    Raises
    ------
    Fault, WalkFault
        The guest's own page fault.
    HostFault
        The host's fault, which says for which access.
    """
    hosts: list[Translation] = []
    format_, root, registers = host
    guest_cache, host_cache, nested_tlb = (caches.guest, caches.host, caches.nested_tlb) if caches else (None,) * 3
    writes_tables = format_.writes_tables
    host_trail: list[WalkStep] = []
    guest_trail: list[WalkStep] = []

    def through_host(physical: int, writing: bool, fetching: bool, table: bool) -> Translation:
        if nested_tlb:
            held = nested_tlb.find(physical, is_write=writing, is_fetch=fetching)
            if held:
                return held
        key = (root, physical >> PAGE_SHIFT, writing, fetching, write is None) if known else None
        before = known.find(key, read) if known else None
        if before:
            return before
        try:
            found = walk(
                format_,
                root,
                physical,
                read,
                write,
                is_write=writing,
                is_fetch=fetching,
                registers=registers,
                cache=host_cache,
                trail=host_trail,
            )
        except HostFault as fault:
            raise fault.during(GuestAccess(address, table, is_fetch, is_write)) from None
        host_trail.clear()
        if nested_tlb:
            nested_tlb.enter(physical, found)
        if known:
            known.keep(key, found, ((step.address, format_.entry_bytes, step.entry) for step in found.steps), read)
        return found

    def read_entry(physical: int, size: int) -> int:
        found = through_host(physical, writes_tables, False, True)
        hosts.append(found)
        return read(found.frame | physical & OFFSET, size)

    def mark_entry(physical: int, size: int, value: int) -> None:
        found = hosts[-1]
        if not (found.writable and found.dirty):
            try:
                found = through_host(physical, True, False, True)
            except HostFault:
                host_trail.clear()  # it is the entry in hand that is refused, not one more
                raise
        assert write is not None
        write(found.frame | physical & OFFSET, size, value)

    try:
        if guest:
            inner = walk(
                guest.format,
                guest.root,
                address,
                read_entry,
                write and mark_entry,
                is_write=is_write,
                is_user=is_user,
                is_fetch=is_fetch,
                write_protect=write_protect,
                user_pages=user_pages,
                reports_fetch=reports_fetch,
                registers=guest.registers,
                cache=guest_cache,
                trail=guest_trail,
            )
            physical = inner.frame | address & OFFSET
        else:
            inner, physical = None, address
        outer = through_host(physical, is_write, is_fetch, False)
        hosts.append(outer)
    finally:
        if trail is not None:
            walks = [*(found.steps for found in hosts), host_trail]
            trail += _steps(guest_trail, walks, [found.frame for found in hosts])
    if inner is None:
        return NestedTranslation(
            outer.frame,
            physical & -PAGE,
            outer.writable,
            True,
            outer.executable,
            outer.readable,
            outer.dirty,
            False,
            outer.page_size,
            None,
            tuple(hosts),
        )
    return NestedTranslation(
        outer.frame,
        inner.frame,
        inner.writable and outer.writable,
        inner.user,
        inner.executable and outer.executable,
        inner.readable and outer.readable,
        inner.dirty and outer.dirty,
        inner.global_,
        min(inner.page_size, outer.page_size),
        inner,
        tuple(hosts),
    )
