"""Page tables: a format is data, and one walker reads it (Intel SDM vol. 3, chapter 4).

`walk` follows a format from a root to a page and gives each step; it checks reserved bits and rights, sets the accessed
and dirty bits, and raises the page fault with its error code. The processor, a hypervisor and a picture all use it.
The formats themselves are in `vmlab.machine.page_formats`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.faults import PF, PF_FETCH, PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        Bits of the root register that do.
    present : int
        An entry with none of these bits maps nothing.
    readable, writable, user, executable : int
        The bits of the rights.
    inverted : int
        Bits that mean the opposite of what they are named for: set, they take a right away, or a leaf its being one.
    accessed, dirty, large, global_ : int
        The bits of those names.
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


class WalkStep(NamedTuple):
    """One table of a walk: the entry read, and where it lies; `in_register` where no memory was referenced."""

    level: str
    slot: int
    address: int
    entry: int
    in_register: bool = False


class Translation(NamedTuple):
    """The result of a walk.

    Attributes
    ----------
    frame : int
        Physical address of the 4 KiB page, even within a large page.
    writable, user, executable : bool
        Rights along the whole path.
    dirty, global_ : bool
        D and G of the leaf.
    page_size : int
        Bytes mapped by the leaf.
    steps : tuple of WalkStep
        The tables, root first.
    """

    frame: int
    writable: bool
    user: bool
    executable: bool
    dirty: bool
    global_: bool
    page_size: int
    steps: tuple[WalkStep, ...]

    @property
    def references(self) -> int:
        """Memory references of the walk."""
        return len(self.steps) - self.steps[0].in_register


def walk(  # noqa: PLR0913 - the kinds of access
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

    Raises
    ------
    Fault
        #PF with its error code; the caller sets CR2.

    Notes
    -----
    The accessed bit of a table is set as soon as its entry is used, of the leaf only when the access is allowed.
    """
    code = is_write * PF_WRITE | is_user * PF_USER | (is_fetch and reports_fetch) * PF_FETCH
    size, inverted, accessed = format_.entry_bytes, format_.inverted, format_.accessed
    table = root & format_.root_mask
    rights = ~0
    address = entry = shift = high = 0
    steps: list[WalkStep] = []
    for level in format_.levels:
        shift = level.shift
        slot = linear >> shift & (1 << level.bits) - 1
        address = table + slot * size
        entry = registers[slot] if level.in_registers else read(address, size)
        steps.append(WalkStep(level.name, slot, address, entry, level.in_registers))
        if not entry & format_.present:
            raise Fault(PF, code)
        flipped = entry ^ inverted
        leaf = flipped & level.leaf
        if entry & (level.leaf_reserved if leaf else level.reserved):
            raise Fault(PF, code | PF_PRESENT | PF_RESERVED)
        if leaf or level.grants:
            rights &= flipped
        if leaf:
            high = level.leaf_high
            break
        if not entry & accessed and write and level.grants:
            write(address, size, entry | accessed)
        table = entry & format_.frame_mask
    writable = rights & format_.writable == format_.writable
    user = rights & format_.user == format_.user
    executable = rights & format_.executable == format_.executable
    if (
        not (user if is_user else user_pages or not user)
        or (is_write and not writable and (is_user or write_protect))
        or (not executable if is_fetch else rights & format_.readable != format_.readable and not is_write)
    ):
        raise Fault(PF, code | PF_PRESENT)
    marked = entry | accessed | (format_.dirty if is_write else 0)
    if marked != entry and write:
        write(address, size, marked)
    span = 1 << shift
    base = entry & format_.frame_mask & -span | (entry & high) << PSE36_SHIFT
    return Translation(
        (base | linear & span - 1) & -PAGE,
        writable,
        user,
        executable,
        bool(marked & format_.dirty),
        bool(entry & format_.global_),
        span,
        tuple(steps),
    )
