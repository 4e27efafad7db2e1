"""The page-table formats of x86, as data: 32-bit, PAE, 4-level and 5-level paging (Intel SDM vol. 3, 4.3 to 4.5).

What an entry reserves depends on the processor (physical-address width, pages of 1 GiB) and on IA32_EFER.NXE, so a
format is made from those, once each.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from vmlab.machine.paging import LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE, Level, PageTableFormat

__all__ = [
    "FRAME",
    "IA32",
    "NEVER",
    "bits",
    "canonical_tops",
    "five_level",
    "four_level",
    "ia32_pse",
    "pae",
    "pdpte_reserved",
]

FRAME = 0x000F_FFFF_FFFF_F000
FRAME_32 = 0xFFFF_F000
NEVER = 0


def canonical_tops(width: int) -> frozenset[int]:
    """Return the values that the bits of a 64-bit address from the highest of `width` bits up may have."""
    return frozenset({0, (1 << 65 - width) - 1})


def bits(high: int, low: int) -> int:
    """Return a mask of bits high:low; 0 where there are none."""
    return (1 << high + 1) - (1 << low) if high >= low else 0


IA32 = PageTableFormat(
    "32-bit paging",
    (Level("page directory", 22, 10, NEVER), Level("page table", 12, 10, PRESENT, maps=PRESENT)),
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
        leaf_reserved=bits(21, width - 19),
        leaf_high=bits(width - 20, 13),
        maps=PRESENT | LARGE,
    )
    return PageTableFormat(
        "32-bit paging with PSE",
        (directory, Level("page table", 12, 10, PRESENT, maps=PRESENT)),
        4,
        FRAME_32,
        FRAME_32,
    )


def pdpte_reserved(physical_bits: int) -> int:
    """Return the bits that must be 0 in a present PDPTE of PAE paging, when CR3 is loaded (SDM vol. 3, table 4-8)."""
    return bits(63, physical_bits) | bits(8, 5) | USER | WRITABLE


@cache
def pae(physical_bits: int, *, no_execute: bool) -> PageTableFormat:
    """PAE paging; the four entries of its root table are in registers."""
    reserved = bits(62, physical_bits) | (0 if no_execute else NO_EXECUTE)
    levels = (
        Level("page-directory-pointer table", 30, 2, NEVER, grants=False, in_registers=True),
        Level("page directory", 21, 9, LARGE, reserved, reserved | bits(20, 13), maps=PRESENT | LARGE),
        Level("page table", 12, 9, PRESENT, leaf_reserved=reserved, maps=PRESENT),
    )
    return PageTableFormat("PAE paging", levels, 8, FRAME, 0xFFFF_FFE0, executable=NO_EXECUTE, inverted=NO_EXECUTE)


@cache
def four_level(physical_bits: int, *, no_execute: bool, gigabyte_pages: bool) -> PageTableFormat:
    """4-level paging, with pages of 2 MiB and, where the processor has them, of 1 GiB."""
    reserved = bits(51, physical_bits) | (0 if no_execute else NO_EXECUTE)
    pointers = Level("page-directory-pointer table", 30, 9, NEVER, reserved | LARGE)
    if gigabyte_pages:
        pointers = replace(
            pointers, leaf=LARGE, reserved=reserved, leaf_reserved=reserved | bits(29, 13), maps=PRESENT | LARGE
        )
    levels = (
        Level("page map level 4", 39, 9, NEVER, reserved | LARGE),
        pointers,
        Level("page directory", 21, 9, LARGE, reserved, reserved | bits(20, 13), maps=PRESENT | LARGE),
        Level("page table", 12, 9, PRESENT, leaf_reserved=reserved, maps=PRESENT),
    )
    return PageTableFormat(
        "4-level paging",
        levels,
        8,
        FRAME,
        FRAME,
        executable=NO_EXECUTE,
        inverted=NO_EXECUTE,
        tops=canonical_tops(48),
        top_shift=47,
    )


@cache
def five_level(physical_bits: int, *, no_execute: bool, gigabyte_pages: bool) -> PageTableFormat:
    """5-level paging: one table more above those of 4-level paging (SDM vol. 3, 4.5; CR4.LA57)."""
    four = four_level(physical_bits, no_execute=no_execute, gigabyte_pages=gigabyte_pages)
    root = replace(four.levels[0], name="page map level 5", shift=48)
    return replace(four, name="5-level paging", levels=(root, *four.levels), tops=canonical_tops(57), top_shift=56)
