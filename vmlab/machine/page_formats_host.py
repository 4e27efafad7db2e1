"""The page-table formats of hosts, as data: Intel's EPT, AMD's nested paging, the second level of VT-d.

They map guest-physical addresses (or those of a device's DMA) to host-physical ones. In an EPT entry reading, writing
and executing are rights of their own, and an entry without any is not present; AMD's are the host's own tables, walked
as a user's.

Simplified: no sub-page permissions, no supervisor shadow stacks, no user-mode execution as a right of its own; of VT-d
the tables of its legacy mode, without accessed and dirty bits, without snoop control.

Read more: Intel SDM vol. 3, 29.3.2 and 29.3.3 (tables 29-1 to 29-7); AMD APM vol. 2, 15.25; Intel VT-d, 3.7 and 9.8.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from vmlab.errors import OptionError
from vmlab.machine.page_formats import FRAME, NEVER, bits, five_level, four_level
from vmlab.machine.paging import Level, PageTableFormat
from vmlab.machine.walk_faults import DmaFault, EptMisconfiguration, NestedPageFault

__all__ = ["EPT_ACCESS_DIRTY", "WRITE_BACK", "ept", "npt", "vtd_second_level"]

# EPT entry:  frame 51:12 | 9 D | 8 A | 7 large | 6 ignore PAT | 5:3 memory type | 2 X | 1 W | 0 R
# EPT pointer:  frame 51:12 | 6 accessed and dirty bits | 5:3 levels - 1 | 2:0 memory type of the tables
READ, WRITE, EXECUTE, EPT_LARGE, EPT_ACCESSED, EPT_DIRTY = 1, 2, 4, 0x80, 0x100, 0x200
ALL_RIGHTS = READ | WRITE | EXECUTE
TYPE_SHIFT, WRITE_BACK = 3, 6
TYPES = 7 << TYPE_SHIFT
EPT_ACCESS_DIRTY = 1 << 6
"""The bit of the EPT pointer that switches accessed and dirty bits on."""

LARGEST_PAGES = {"4 KiB": 0, "2 MiB": 1, "1 GiB": 2}


def _misconfigured(*, execute_only: bool) -> frozenset[int]:
    """Return the values of bits 5:0 that are misconfigurations: W without R, X alone, memory types 2, 3 and 7.

    In an entry that points to a table bits 5:3 are reserved: what is refused there is refused for that, too.
    """
    return frozenset(
        value
        for value in range(64)
        if value & (READ | WRITE) == WRITE
        or (value & ALL_RIGHTS == EXECUTE and not execute_only)
        or (value >> TYPE_SHIFT in (2, 3, 7))
    )


def _pages_up_to(largest_page: str) -> int:
    if largest_page not in LARGEST_PAGES:
        raise OptionError(f"a largest page of {largest_page!r} is not possible: choose from {', '.join(LARGEST_PAGES)}")
    return LARGEST_PAGES[largest_page]


@cache
def ept(
    levels: int = 4,
    *,
    physical_bits: int = 52,
    accessed_dirty: bool = False,
    execute_only: bool = True,
    largest_page: str = "1 GiB",
) -> PageTableFormat:
    """Intel's extended page tables.

    Parameters
    ----------
    levels : int
        4 or 5.
    physical_bits : int
        Width of physical addresses; what is above in an entry is reserved.
    accessed_dirty : bool
        Bit 6 of the EPT pointer: the processor sets accessed and dirty bits, and reading a guest's table counts as writing.
    execute_only : bool
        The processor supports pages that can be executed alone (IA32_VMX_EPT_VPID_CAP bit 0).
    largest_page : str
        "4 KiB", "2 MiB" or "1 GiB", as the processor supports them (bits 16 and 17 of that register).

    Raises
    ------
    OptionError
        There is no such EPT.
    """
    if levels not in (4, 5):
        raise OptionError(f"EPT has 4 levels or 5, not {levels!r}")
    large = _pages_up_to(largest_page)
    high = bits(51, physical_bits)
    refused = _misconfigured(execute_only=execute_only)
    upper = high | bits(7, 3)
    leaf = WRITE_BACK << TYPE_SHIFT
    tables = [
        Level("EPT PML5", 48, 9, NEVER, upper),
        Level("EPT PML4", 39, 9, NEVER, upper),
        Level("EPT page-directory-pointer table", 30, 9, NEVER, upper),
        Level("EPT page directory", 21, 9, NEVER, upper),
        Level("EPT page table", 12, 9, ALL_RIGHTS, leaf_reserved=high, maps=leaf),
    ]
    for n, size in ((3, 1), (2, 2)):
        if large >= size:
            tables[n] = replace(
                tables[n],
                leaf=EPT_LARGE,
                reserved=high | bits(6, 3),
                leaf_reserved=high | bits(tables[n].shift - 1, 12),
                maps=leaf | EPT_LARGE,
            )
    return PageTableFormat(
        f"EPT of {levels} levels",
        tuple(replace(level, forbidden=refused) for level in tables[-levels:]),
        8,
        FRAME,
        FRAME,
        present=ALL_RIGHTS,
        readable=READ,
        writable=WRITE,
        user=0,
        executable=EXECUTE,
        accessed=EPT_ACCESSED * accessed_dirty,
        dirty=EPT_DIRTY * accessed_dirty,
        large=EPT_LARGE,
        global_=0,
        checked=TYPES | ALL_RIGHTS,
        tops=frozenset({0}),
        top_shift=3 + 9 * (levels + 1),
        writes_tables=accessed_dirty,
        points=ALL_RIGHTS,
        fault=EptMisconfiguration.fault,
    )


@cache
def npt(levels: int = 4, *, physical_bits: int = 52, gigabyte_pages: bool = True) -> PageTableFormat:
    """AMD's nested page tables: those of a host in long mode with NX pages, walked as a user's.

    Raises
    ------
    OptionError
        Neither 4 levels nor 5.
    """
    if levels not in (4, 5):
        raise OptionError(f"nested page tables have 4 levels or 5, not {levels!r}")
    host = (four_level if levels == 4 else five_level)(physical_bits, no_execute=True, gigabyte_pages=gigabyte_pages)
    return replace(
        host,
        name=f"NPT of {levels} levels",
        global_=0,
        always_user=True,
        writes_tables=True,
        tops=frozenset({0}),
        top_shift=3 + 9 * (levels + 1),
        fault=NestedPageFault.fault,
    )


@cache
def vtd_second_level(levels: int = 4, *, physical_bits: int = 52, largest_page: str = "1 GiB") -> PageTableFormat:
    """The second-level tables of a DMA remapping unit: 39, 48 or 57 bits of address with 3, 4 or 5 levels.

    Raises
    ------
    OptionError
        There are no such tables.
    """
    if levels not in (3, 4, 5):
        raise OptionError(f"second-level tables of VT-d have 3, 4 or 5 levels, not {levels!r}")
    large = _pages_up_to(largest_page)
    high = bits(51, physical_bits)
    tables = []
    for n, name in enumerate(("SL-PML5", "SL-PML4", "SL-PDP", "SL-PD", "SL-PT")[-levels:], start=5 - levels):
        shift = 48 - 9 * n
        level = Level(name, shift, 9, NEVER, high | EPT_LARGE)
        if shift == 12:
            level = Level(name, shift, 9, READ | WRITE, leaf_reserved=high, maps=0)
        elif 21 <= shift <= 12 + 9 * large:
            level = Level(name, shift, 9, EPT_LARGE, high, high | bits(shift - 1, 12), maps=EPT_LARGE)
        tables.append(level)
    return PageTableFormat(
        f"VT-d second level of {levels} levels",
        tuple(tables),
        8,
        FRAME,
        FRAME,
        present=READ | WRITE,
        readable=READ,
        writable=WRITE,
        user=0,
        accessed=0,
        dirty=0,
        large=EPT_LARGE,
        global_=0,
        tops=frozenset({0}),
        top_shift=3 + 9 * (levels + 1),
        points=READ | WRITE,
        fault=DmaFault.fault,
    )
