"""The page-table formats of x86, as data: 32-bit, PAE and 4-level paging (Intel SDM vol. 3, 4.3 to 4.5).

What an entry reserves depends on the processor (physical-address width, pages of 1 GiB) and on IA32_EFER.NXE, so a
format is made from those, once each.
"""

from __future__ import annotations

from functools import cache

from vmlab.machine.paging import LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE, Level, PageTableFormat

__all__ = ["IA32", "four_level", "ia32_pse", "pae", "pdpte_reserved"]

FRAME = 0x000F_FFFF_FFFF_F000
FRAME_32 = 0xFFFF_F000
NEVER = 0


def _bits(high: int, low: int) -> int:
    """Return a mask of bits high:low; 0 where there are none."""
    return (1 << high + 1) - (1 << low) if high >= low else 0


IA32 = PageTableFormat(
    "32-bit paging",
    (Level("page directory", 22, 10, NEVER), Level("page table", 12, 10, PRESENT)),
    4,
    FRAME_32,
    FRAME_32,
)


@cache
def ia32_pse(physical_bits: int) -> PageTableFormat:
    """32-bit paging with pages of 4 MiB, above 4 GiB too where there are more than 32 physical bits (PSE-36)."""
    width = min(40, physical_bits)
    directory = Level(
        "page directory",
        22,
        10,
        LARGE,
        leaf_reserved=_bits(21, width - 19),
        leaf_high=_bits(width - 20, 13),
    )
    return PageTableFormat(
        "32-bit paging with PSE",
        (directory, Level("page table", 12, 10, PRESENT)),
        4,
        FRAME_32,
        FRAME_32,
    )


def pdpte_reserved(physical_bits: int) -> int:
    """Return the bits that must be 0 in a present PDPTE of PAE paging, when CR3 is loaded (SDM vol. 3, table 4-8)."""
    return _bits(63, physical_bits) | _bits(8, 5) | USER | WRITABLE


@cache
def pae(physical_bits: int, *, no_execute: bool) -> PageTableFormat:
    """PAE paging; the four entries of its root table are in registers."""
    reserved = _bits(62, physical_bits) | (0 if no_execute else NO_EXECUTE)
    levels = (
        Level("page-directory-pointer table", 30, 2, NEVER, grants=False, in_registers=True),
        Level("page directory", 21, 9, LARGE, reserved, reserved | _bits(20, 13)),
        Level("page table", 12, 9, PRESENT, leaf_reserved=reserved),
    )
    return PageTableFormat("PAE paging", levels, 8, FRAME, 0xFFFF_FFE0, executable=NO_EXECUTE, inverted=NO_EXECUTE)


@cache
def four_level(physical_bits: int, *, no_execute: bool, gigabyte_pages: bool) -> PageTableFormat:
    """4-level paging, with pages of 2 MiB and, where the processor has them, of 1 GiB."""
    reserved = _bits(51, physical_bits) | (0 if no_execute else NO_EXECUTE)
    pointers = Level("page-directory-pointer table", 30, 9, NEVER, reserved | LARGE)
    if gigabyte_pages:
        pointers = Level("page-directory-pointer table", 30, 9, LARGE, reserved, reserved | _bits(29, 13))
    levels = (
        Level("page map level 4", 39, 9, NEVER, reserved | LARGE),
        pointers,
        Level("page directory", 21, 9, LARGE, reserved, reserved | _bits(20, 13)),
        Level("page table", 12, 9, PRESENT, leaf_reserved=reserved),
    )
    return PageTableFormat("4-level paging", levels, 8, FRAME, FRAME, executable=NO_EXECUTE, inverted=NO_EXECUTE)
