"""Page tables: a format is data, and one walker reads it (Intel SDM vol. 3, chapter 4).

`walk` follows a format from a root to a page and gives each step; it checks reserved bits and rights, sets the accessed
and dirty bits, and raises the fault that the format names. The processor, a hypervisor and a picture all use it, and
`vmlab.machine.nested_walk` walks in two dimensions by it. The formats themselves are in `vmlab.machine.page_formats` and
its neighbours, by name in `vmlab.machine.page_format_names`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vmlab.machine.walk_faults import ABSENT, DENIED, FORBIDDEN, OUTSIDE, RESERVED, UNMARKED, Failure, page_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.walk_caches import WalkCache

__all__ = ["Level", "PageTableFormat", "Translation", "WalkStep", "walk"]

# An entry of x86 paging (SDM vol. 3, tables 4-4 to 4-20), 4 bytes or 8:
#  63 NX | frame | 11:9 free | 8 G | 7 PS (PAT in a PTE) | 6 D | 5 A | 4 PCD | 3 PWT | 2 U/S | 1 R/W | 0 P
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, GLOBAL = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
NO_EXECUTE = 1 << 63

PAGE = 0x1000
PSE36_SHIFT = 32 - 13
"""Bits 20:13 of an entry that maps 4 MiB are bits 39:32 of the address."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a format.

    Attributes
    ----------
    name : str
        The manual's name of the table.
    shift, bits : int
        Which bits of the address index it.
    leaf : int
        An entry with any of these bits maps a page itself: none (0), those with the bit for large pages, or all (the
        bits of `present`).
    reserved, leaf_reserved : int
        Bits that must be 0 in an entry that points to a table, and in one that maps a page.
    leaf_high : int
        Bits of an entry that maps a page which are bits 32 and up of its address (PSE-36).
    grants : bool
        False where entries that point to a table carry neither rights nor an accessed bit.
    in_registers : bool
        True where the processor holds the table's entries in registers.
    takes : tuple of (int, int)
        Bits of an entry that points to a table, and which rights each takes away below it.
    forbidden : frozenset of int
        Values of an entry's `checked` bits that must not be.
    maps : int or None
        Bits of an entry that maps a page, beside address and rights; None where none can.
    """

    name: str
    shift: int
    bits: int
    leaf: int
    reserved: int = 0
    leaf_reserved: int = 0
    leaf_high: int = 0
    grants: bool = True
    in_registers: bool = False
    takes: tuple[tuple[int, int], ...] = ()
    forbidden: frozenset[int] = frozenset()
    maps: int | None = None


@dataclass(frozen=True, slots=True)
class PageTableFormat:
    """A page-table format.

    A right is granted where its bit is set in the entries of all levels; `inverted` names the bits that mean the
    opposite. A right whose mask is 0 is always granted.

    Attributes
    ----------
    name : str
        As in the manual.
    levels : tuple of Level
        Root first.
    entry_bytes : int
        Size of an entry.
    frame_mask : int
        Bits of an entry that hold the physical address.
    root_mask : int
        Bits of the root register that do; 0 where there is no such register.
    present : int
        An entry with none of these bits maps nothing.
    readable, writable, user, executable : int
        The bits of the rights.
    inverted : int
        Bits that mean the opposite of what they are named for: set, they take a right away, or a leaf its being one.
    accessed, dirty, large, global_ : int
        The bits of those names.
    user_executable : int
        The bits of the right to execute for a user, where they are others than the supervisor's; they are then all that
        a user needs to execute.
    barred : int
        A page that grants all these rights is none that the supervisor executes (0: there is no such rule).
    checked : int
        The bits that `Level.forbidden` is about.
    frame_shift, root_shift : int
        By how much an address is shifted to the right in an entry, and in the root register.
    marks : bool
        False where setting accessed and dirty bits is left to software: a clear one is a fault.
    tops : frozenset of int or None
        The values of an address >> `top_shift` that the tables can map; None where all are.
    always_user : bool
        True where each access counts as a user's (of a host's table).
    writes_tables : bool
        True where reading a guest's table counts as writing it (of a host's table).
    points : int
        Bits of an entry that points to a table and takes no right away.
    fault : callable
        Makes an exception from a `Failure`.
    """

    name: str
    levels: tuple[Level, ...]
    entry_bytes: int
    frame_mask: int
    root_mask: int
    present: int = PRESENT
    readable: int = 0
    writable: int = WRITABLE
    user: int = USER
    executable: int = 0
    inverted: int = 0
    accessed: int = ACCESSED
    dirty: int = DIRTY
    large: int = LARGE
    global_: int = GLOBAL
    user_executable: int = 0
    barred: int = 0
    checked: int = 0
    frame_shift: int = 0
    root_shift: int = 0
    marks: bool = True
    tops: frozenset[int] | None = None
    top_shift: int = 0
    always_user: bool = False
    writes_tables: bool = False
    points: int = PRESENT | WRITABLE | USER
    fault: Callable[[Failure], Exception] = page_fault

    @property
    def references(self) -> int:
        """Memory references of a walk to a page of the smallest size, without caches."""
        return sum(not level.in_registers for level in self.levels)


class WalkStep(NamedTuple):
    """One table of a walk: the entry read, and where it lies.

    No memory was referenced for it where it is `in_register`, or `cached` by a paging-structure cache or nested TLB.
    """

    level: str
    slot: int
    address: int
    entry: int
    in_register: bool = False
    cached: bool = False


class Translation(NamedTuple):
    """The result of a walk.

    Attributes
    ----------
    frame : int
        Physical address of the 4 KiB page, even within a large page.
    writable, user, executable : bool
        Rights along the whole path.
    dirty, global_ : bool
        D and G of the leaf; D is always set where a format has none.
    page_size : int
        Bytes mapped by the leaf.
    steps : tuple of WalkStep
        The tables, root first.
    readable : bool
        The right to read.
    """

    frame: int
    writable: bool
    user: bool
    executable: bool
    dirty: bool
    global_: bool
    page_size: int
    steps: tuple[WalkStep, ...]
    readable: bool = True

    @property
    def references(self) -> int:
        """Memory references of the walk."""
        steps = self.steps
        if steps[0].cached:
            return sum(not (step.cached or step.in_register) for step in steps)
        return len(steps) - steps[0].in_register


def walk(  # noqa: C901, PLR0912, PLR0913, PLR0915 - the kinds of access; one loop, which a call a table would slow down
    format_: PageTableFormat,
    root: int,
    linear: int,
    read: Callable[[int, int], int],
    write: Callable[[int, int, int], None] | None,
    *,
    is_write: bool = False,
    is_user: bool = False,
    is_fetch: bool = False,
    write_protect: bool = True,
    user_pages: bool = True,
    reports_fetch: bool = False,
    registers: Sequence[int] = (),
    cache: WalkCache | None = None,
    trail: list[WalkStep] | None = None,
) -> Translation:
    """Translate a linear address.

    Parameters
    ----------
    format_ : PageTableFormat
        How to read the tables.
    root : int
        The register that points to the root table (CR3).
    linear : int
        Address to translate.
    read : callable
        `read(physical, bytes)`.
    write : callable or None
        `write(physical, bytes, value)`, for the accessed and dirty bits; None to leave the tables alone.
    is_write, is_user, is_fetch : bool
        Kind of access and privilege (user: CPL 3).
    write_protect : bool
        CR0.WP: supervisor writes respect read-only pages.
    user_pages : bool
        False where a supervisor access must not touch a user's page (SMEP, SMAP).
    reports_fetch : bool
        True where the error code tells fetches from reads (CR4.SMEP, or NX pages).
    registers : sequence of int
        Entries of a root table that the processor holds in registers.
    cache : WalkCache or None
        Paging-structure caches to begin at, and to fill.
    trail : list of WalkStep or None
        Takes the steps, which are there after a fault too.

    Raises
    ------
    Fault
        #PF with its error code; the caller sets CR2.
    WalkFault
        The fault of a format that is not x86's own.

    Notes
    -----
    The accessed bit of a table is set as soon as its entry is used, of the leaf only when the access is allowed.
    """
    size, inverted, accessed, checked = format_.entry_bytes, format_.inverted, format_.accessed, format_.checked
    is_user = is_user or format_.always_user
    table = (root & format_.root_mask) << format_.root_shift
    rights = ~0
    address = entry = shift = high = 0
    steps: list[WalkStep] = [] if trail is None else trail
    levels = format_.levels
    level: Level | None = None
    cause = ""
    new = tuple.__new__  # as a named tuple is made by its own name, in half the time
    if format_.tops is not None and linear >> format_.top_shift not in format_.tops:
        cause, levels = OUTSIDE, ()
    elif cache:
        levels, table, rights = cache.begin(format_, table, linear, steps)
    for level in levels:
        shift = level.shift
        slot = linear >> shift & (1 << level.bits) - 1
        address = table + slot * size
        in_register = level.in_registers
        entry = registers[slot] if in_register else read(address, size)
        steps.append(new(WalkStep, (level.name, slot, address, entry, in_register, False)))
        if not entry & format_.present:
            cause = ABSENT
            break
        if checked and entry & checked in level.forbidden:
            cause = FORBIDDEN
            break
        flipped = entry ^ inverted
        leaf = flipped & level.leaf
        if entry & (level.leaf_reserved if leaf else level.reserved):
            cause = RESERVED
            break
        if leaf or level.grants:
            rights &= flipped
        if leaf:
            high = level.leaf_high
            break
        if not entry & accessed and write and level.grants:
            write(address, size, entry | accessed)
        table = (entry & format_.frame_mask) << format_.frame_shift
        for bit, lost in level.takes:
            if entry & bit:
                rights &= ~lost
        if cache:
            cache.enter(level, linear, table, rights, steps)
    writable = rights & format_.writable == format_.writable
    readable = rights & format_.readable == format_.readable
    user = rights & format_.user == format_.user
    execute = format_.user_executable if is_user and format_.user_executable else format_.executable
    executable = rights & execute == execute
    if format_.barred and not is_user and rights & format_.barred == format_.barred:
        executable = False
    marked = entry | accessed | (format_.dirty if is_write else 0)
    if not cause:
        if marked != entry and not format_.marks:
            cause = UNMARKED
        elif (
            not (user or (is_fetch and format_.user_executable) if is_user else user_pages or not user)
            or (is_write and not writable and (is_user or write_protect))
            or (not executable if is_fetch else not readable and not is_write)
        ):
            cause = DENIED
    if cause:
        raise format_.fault(Failure(cause, level, linear, entry, rights, is_write, is_user, is_fetch, reports_fetch))
    if marked != entry and write:
        write(address, size, marked)
    span = 1 << shift
    base = (entry & format_.frame_mask) << format_.frame_shift & -span | (entry & high) << PSE36_SHIFT
    frame = (base | linear & span - 1) & -PAGE
    dirty = not format_.dirty or bool(marked & format_.dirty)
    global_ = bool((entry ^ inverted) & format_.global_)
    return new(Translation, (frame, writable, user, executable, dirty, global_, span, tuple(steps), readable))
