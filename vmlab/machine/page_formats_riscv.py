"""The page-table formats of RISC-V, as data: Sv39, and Sv39x4 for the guest-physical addresses of a hypervisor.

An entry that grants none of reading, writing and executing points to a table; what is wrong with an entry is a page
fault, whatever it is. Sv39x4 is Sv39 with a root table of 16 KiB, two more bits of address, and pages that are all a
user's.

Simplified: no MXR, no Svnapot, no Svpbmt: bits 63:54 are reserved.

Read more: The RISC-V Instruction Set Manual, volume II: "Sv39" (4.4) and "Two-Stage Address Translation" (8.5).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from vmlab.machine.page_formats import bits, canonical_tops
from vmlab.machine.paging import Level, PageTableFormat
from vmlab.machine.walk_faults import GuestPageFault, RiscvPageFault

__all__ = ["sv39", "sv39x4"]

# Entry:  63:54 reserved | page number 53:10 | 9:8 free | 7 D | 6 A | 5 G | 4 U | 3 X | 2 W | 1 R | 0 V
# satp:  mode 63:60 | ASID 59:44 | page number 43:0
VALID, READ, WRITE, EXECUTE, USER, GLOBAL, ACCESSED, DIRTY = (1 << n for n in range(8))
RIGHTS = READ | WRITE | EXECUTE
NUMBER_SHIFT = 10
NUMBER = bits(53, NUMBER_SHIFT)
HIGH = bits(63, 54)
WRITE_ALONE = frozenset({WRITE, WRITE | EXECUTE})


def _level(name: str, shift: int, maps: int) -> Level:
    """Return a level; a page must be aligned to its size."""
    last = shift == 12
    return Level(
        name,
        shift,
        9,
        VALID if last else RIGHTS,
        HIGH | DIRTY | ACCESSED | USER,
        HIGH | bits(shift - 12 + NUMBER_SHIFT - 1, NUMBER_SHIFT),
        grants=False,
        forbidden=WRITE_ALONE | {0} if last else WRITE_ALONE,  # the last level's entries point to no table
        maps=maps,
    )


@cache
def sv39(*, hardware_update: bool = False) -> PageTableFormat:
    """39 bits of virtual address; `hardware_update` sets A and D (Svadu), otherwise a clear one is a page fault (Svade)."""
    maps = VALID if hardware_update else VALID | ACCESSED | DIRTY
    names = (("level 2", 30), ("level 1", 21), ("level 0", 12))
    return PageTableFormat(
        "Sv39",
        tuple(_level(name, shift, maps) for name, shift in names),
        8,
        NUMBER,
        bits(43, 0),
        present=VALID,
        readable=READ,
        writable=WRITE,
        user=USER,
        executable=EXECUTE,
        accessed=ACCESSED,
        dirty=DIRTY,
        large=RIGHTS,
        global_=GLOBAL,
        barred=USER,
        checked=RIGHTS,
        frame_shift=12 - NUMBER_SHIFT,
        root_shift=12,
        marks=hardware_update,
        tops=canonical_tops(39),
        top_shift=38,
        points=VALID,
        fault=RiscvPageFault.fault,
    )


@cache
def sv39x4(*, hardware_update: bool = False) -> PageTableFormat:
    """41 bits of guest-physical address."""
    one = sv39(hardware_update=hardware_update)
    return replace(
        one,
        name="Sv39x4",
        levels=(replace(one.levels[0], bits=11), *one.levels[1:]),
        root_mask=bits(43, 2),
        global_=0,
        tops=frozenset({0}),
        top_shift=41,
        always_user=True,
        fault=GuestPageFault.fault,
    )
