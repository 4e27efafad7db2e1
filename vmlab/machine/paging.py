"""Page tables: a format is data, and one walker reads it (Intel SDM vol. 3, 4.3 and 4.6 to 4.8).

`walk` follows a format from a root to a page and gives each step; it checks rights, sets the accessed and dirty
bits, and raises the page fault with its error code. The processor, a hypervisor and a picture all use it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmlab.isa.x86.faults import PF, PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE, Fault

__all__ = ["IA32", "IA32_PSE", "Level", "PageTableFormat", "Translation", "WalkStep", "walk"]

# An entry of IA-32 paging (SDM vol. 3, tables 4-4 to 4-6):
#  31:12 frame | 11:9 free | 8 G | 7 PS (PAT in a PTE) | 6 D | 5 A | 4 PCD | 3 PWT | 2 U/S | 1 R/W | 0 P
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, GLOBAL = 1, 2, 4, 0x20, 0x40, 0x80, 0x100

PAGE = 0x1000


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a format.

    Attributes
    ----------
    name : str
        The manual's name of the table.
    shift, bits : int
        Which bits of the address index it.
    large : bool
        True where an entry with the PS bit maps a page itself.
    large_reserved : int
        Bits that must be 0 in such an entry.
    """

    name: str
    shift: int
    bits: int
    large: bool = False
    large_reserved: int = 0


@dataclass(frozen=True, slots=True)
class PageTableFormat:
    """A page-table format.

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
    """

    name: str
    levels: tuple[Level, ...]
    entry_bytes: int
    frame_mask: int


IA32 = PageTableFormat("32-bit paging", (Level("page directory", 22, 10), Level("page table", 12, 10)), 4, 0xFFFFF000)
# Without PSE-36, bits 21:13 of an entry that maps 4 MiB are reserved.
IA32_PSE = PageTableFormat(
    "32-bit paging with PSE",
    (Level("page directory", 22, 10, large=True, large_reserved=0x003FE000), Level("page table", 12, 10)),
    4,
    0xFFFFF000,
)


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One memory reference of a walk: the entry read, and where it lies."""

    level: str
    index: int
    address: int
    entry: int


@dataclass(frozen=True, slots=True)
class Translation:
    """The result of a walk.

    Attributes
    ----------
    frame : int
        Physical address of the 4 KiB page, even within a large page.
    writable, user : bool
        Rights along the whole path.
    dirty, global_ : bool
        D and G of the leaf.
    page_size : int
        Bytes mapped by the leaf.
    steps : tuple of WalkStep
        Memory references, root first.
    """

    frame: int
    writable: bool
    user: bool
    dirty: bool
    global_: bool
    page_size: int
    steps: tuple[WalkStep, ...]


def walk(
    format_: PageTableFormat,
    root: int,
    linear: int,
    read: Callable[[int, int], int],
    write: Callable[[int, int, int], None] | None,
    *,
    is_write: bool,
    is_user: bool,
    write_protect: bool,
) -> Translation:
    """Translate a linear address.

    Parameters
    ----------
    format_ : PageTableFormat
        How to read the tables.
    root : int
        Physical address of the root table (CR3).
    linear : int
        Address to translate.
    read : callable
        `read(physical, bytes)`.
    write : callable or None
        `write(physical, bytes, value)`, for the accessed and dirty bits; None to leave the tables alone.
    is_write, is_user : bool
        Kind of access and privilege (user: CPL 3).
    write_protect : bool
        CR0.WP: supervisor writes respect read-only pages.

    Raises
    ------
    Fault
        #PF with its error code; the caller sets CR2.

    Notes
    -----
    The accessed bit of a table is set as soon as its entry is used, of the leaf only when the access is allowed.
    """
    code = is_write * PF_WRITE | is_user * PF_USER
    size = format_.entry_bytes
    table = root & format_.frame_mask
    writable = user = True
    address = entry = 0
    level = format_.levels[0]
    steps: list[WalkStep] = []
    for level in format_.levels:
        index = linear >> level.shift & (1 << level.bits) - 1
        address = table + index * size
        entry = read(address, size)
        steps.append(WalkStep(level.name, index, address, entry))
        if not entry & PRESENT:
            raise Fault(PF, code)
        writable = writable and bool(entry & WRITABLE)
        user = user and bool(entry & USER)
        if level.large and entry & LARGE:
            if entry & level.large_reserved:
                raise Fault(PF, code | PF_PRESENT | PF_RESERVED)
            break
        if level is format_.levels[-1]:
            break
        if write and not entry & ACCESSED:
            write(address, size, entry | ACCESSED)
        table = entry & format_.frame_mask
    if (is_user and not user) or (is_write and not writable and (is_user or write_protect)):
        raise Fault(PF, code | PF_PRESENT)
    marked = entry | ACCESSED | (DIRTY if is_write else 0)
    if write and marked != entry:
        write(address, size, marked)
    span = 1 << level.shift
    frame = (entry & format_.frame_mask & -span | linear & span - 1) & -PAGE
    dirty = bool(marked & DIRTY)
    return Translation(frame, writable, user, dirty, bool(entry & GLOBAL), span, tuple(steps))
