"""The page-table formats of AArch64 with a granule of 4 KiB, as data: stage 1 of EL1 and EL0, of EL2, and stage 2.

Stage 1 has two root registers: bit 55 of the address chooses TTBR0 or TTBR1, so they stand here as a table of two
entries that the processor holds in registers (`ttbr_registers`). An entry that points to a table may take rights away
from all below it. Stage 2 maps intermediate physical addresses; its root may be several tables side by side.

Simplified: TTBR0 and TTBR1 map ranges of one size, and root tables lie at multiples of 4 KiB; addresses have 48 bits at
most; no dirty state by hardware (DBM), no contiguous bit, no WXN, no tagged addresses, no execute-never by level at
stage 2.

Read more: Arm ARM (DDI 0487), D8.2 (translation), D8.3 (descriptors), D8.4 (permissions).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from vmlab.errors import OptionError
from vmlab.machine.page_formats import NEVER, bits
from vmlab.machine.paging import Level, PageTableFormat
from vmlab.machine.walk_faults import Stage1Abort, Stage2Abort

__all__ = ["aarch64_stage1", "aarch64_stage1_el2", "aarch64_stage2", "ttbr_registers"]

# Descriptor of stage 1 that points to a table:
#  63 NSTable | 62 read-only below | 61 no EL0 below | 60 UXN below | 59 PXN below | address 47:12 | 1 table | 0 valid
# Descriptor of stage 1 that maps a block (bit 1 clear) or, at level 3, a page (bit 1 set):
#  54 UXN | 53 PXN | address 47:12 | 11 nG | 10 AF | 9:8 SH | 7 AP[2] read-only | 6 AP[1] EL0 | 4:2 AttrIndx | 1 | 0 valid
# Of stage 2:  54 XN | address 47:12 | 10 AF | 9:8 SH | 7 S2AP write | 6 S2AP read | 5:2 MemAttr | 1 | 0 valid
VALID, TABLE = 1, 2
USER, READ_ONLY, ACCESS_FLAG, NOT_GLOBAL, PXN, UXN = 0x40, 0x80, 0x400, 0x800, 1 << 53, 1 << 54
PXN_BELOW, UXN_BELOW, NO_USER_BELOW, READ_ONLY_BELOW = 1 << 59, 1 << 60, 1 << 61, 1 << 62
S2_READ, S2_WRITE, XN = 0x40, 0x80, 1 << 54
ADDRESS = 0x0000_FFFF_FFFF_F000

HIERARCHY = ((NO_USER_BELOW, USER), (READ_ONLY_BELOW, READ_ONLY), (UXN_BELOW, UXN), (PXN_BELOW, PXN))
NO_BLOCK = frozenset({VALID})
"""Bits 1:0 of a descriptor that is invalid where there are no blocks: at level 0, and at level 3."""

PAGE_BITS, LEVEL_BITS, LAST = 12, 9, 3
INPUT_BITS = {0: range(40, 49), 1: range(31, 44), 2: range(25, 35)}
"""Widths of an intermediate physical address by the level at which stage 2 starts (VTCR_EL2.T0SZ and SL0)."""
START_LEVELS = {0: 2, 1: 1, 2: 0}
"""By VTCR_EL2.SL0."""


def ttbr_registers(ttbr0: int | None, ttbr1: int | None) -> tuple[int, int]:
    """Return TTBR0 and TTBR1 as entries of the table that bit 55 indexes; None for one that TCR_EL1.EPD0 or EPD1 disables."""
    low, high = (0 if ttbr is None else ttbr & ADDRESS | VALID for ttbr in (ttbr0, ttbr1))
    return low, high


def _levels(start: int, width: int, physical_bits: int, takes: tuple[tuple[int, int], ...]) -> tuple[Level, ...]:
    levels = []
    beyond = bits(47, physical_bits)
    for n in range(start, LAST + 1):
        shift = PAGE_BITS + LEVEL_BITS * (LAST - n)
        index = width - shift if n == start else LEVEL_BITS
        block = n in (1, 2)
        level = Level(
            f"level {n}",
            shift,
            index,
            VALID if n == LAST else TABLE if block else NEVER,
            beyond,
            beyond,
            grants=False,
            takes=takes,
            forbidden=frozenset() if block else NO_BLOCK,
            maps=VALID | ACCESS_FLAG | (0 if block else TABLE) if n else None,
        )
        levels.append(level)
    return tuple(levels)


@cache
def aarch64_stage1(
    t0sz: int = 16, *, physical_bits: int = 48, hardware_access_flag: bool = False, hierarchical: bool = True
) -> PageTableFormat:
    """Stage 1 of the EL1&0 regime.

    Parameters
    ----------
    t0sz : int
        TCR_EL1.T0SZ, and T1SZ: an address has 64 - T0SZ bits, which sets the level at which a walk starts. 16 to 39.
    physical_bits : int
        TCR_EL1.IPS in bits; an address beyond is an address-size fault.
    hardware_access_flag : bool
        TCR_EL1.HA: the processor sets the access flag; otherwise a clear one is a fault.
    hierarchical : bool
        False for TCR_EL1.HPD0 and HPD1: entries that point to tables take no rights away.

    Raises
    ------
    OptionError
        There is no such T0SZ.
    """
    if t0sz not in range(16, 40):
        raise OptionError(f"T0SZ is 16 to 39, not {t0sz!r}")
    width = 64 - t0sz
    start = LAST - (width - 1 - PAGE_BITS) // LEVEL_BITS
    root = Level("TTBR", 55, 1, NEVER, bits(47, physical_bits), grants=False, in_registers=True)
    return PageTableFormat(
        "AArch64 stage 1",
        (root, *_levels(start, width, physical_bits, HIERARCHY if hierarchical else ())),
        8,
        ADDRESS,
        0,
        present=VALID,
        writable=READ_ONLY,
        user=USER,
        executable=PXN,
        user_executable=UXN,
        inverted=READ_ONLY | PXN | UXN | NOT_GLOBAL | TABLE,
        accessed=ACCESS_FLAG,
        dirty=0,
        large=TABLE,
        global_=NOT_GLOBAL,
        barred=USER | READ_ONLY,
        checked=VALID | TABLE,
        marks=hardware_access_flag,
        tops=frozenset({0, (1 << t0sz) - 1}),
        top_shift=width,
        points=VALID | TABLE,
        fault=Stage1Abort.fault,
    )


@cache
def aarch64_stage1_el2(
    t0sz: int = 16, *, physical_bits: int = 48, hardware_access_flag: bool = False, hierarchical: bool = True
) -> PageTableFormat:
    """Stage 1 of the EL2 regime: one range, one register, one privilege, so that bit 54 is XN and AP[1] says nothing.

    Parameters and errors are those of `aarch64_stage1`.
    """
    both = aarch64_stage1(
        t0sz, physical_bits=physical_bits, hardware_access_flag=hardware_access_flag, hierarchical=hierarchical
    )
    takes = tuple((bit, right) for bit, right in HIERARCHY if right in (READ_ONLY, UXN)) if hierarchical else ()
    levels = tuple(replace(level, takes=takes) for level in both.levels[1:])
    return replace(
        both,
        name="AArch64 stage 1 of EL2",
        levels=levels,
        root_mask=ADDRESS,
        user=0,
        executable=UXN,
        user_executable=0,
        global_=0,
        inverted=READ_ONLY | UXN | TABLE,
        barred=0,
        tops=frozenset({0}),
    )


@cache
def aarch64_stage2(
    t0sz: int = 24, sl0: int = 1, *, physical_bits: int = 48, hardware_access_flag: bool = False
) -> PageTableFormat:
    """Stage 2 of the EL1&0 regime.

    Parameters
    ----------
    t0sz : int
        VTCR_EL2.T0SZ: an intermediate physical address has 64 - T0SZ bits.
    sl0 : int
        VTCR_EL2.SL0: a walk starts at level 2 (0), 1 (1) or 0 (2); bits above that level's nine choose one of up to 16
        root tables side by side.
    physical_bits : int
        VTCR_EL2.PS in bits.
    hardware_access_flag : bool
        VTCR_EL2.HA: the processor sets the access flag; otherwise a clear one is a fault.

    Raises
    ------
    OptionError
        T0SZ and SL0 do not fit: on a processor every access would be a translation fault of level 0.
    """
    if sl0 not in START_LEVELS:
        raise OptionError(f"SL0 is 0, 1 or 2, not {sl0!r}")
    start, width = START_LEVELS[sl0], 64 - t0sz
    if width not in INPUT_BITS[start]:
        allowed = INPUT_BITS[start]
        raise OptionError(
            f"SL0 = {sl0} starts at level {start}, which takes addresses of {allowed[0]} to {allowed[-1]} bits: "
            f"T0SZ is {64 - allowed[-1]} to {64 - allowed[0]}, not {t0sz!r}"
        )
    return PageTableFormat(
        "AArch64 stage 2",
        _levels(start, width, physical_bits, ()),
        8,
        ADDRESS,
        ADDRESS,
        present=VALID,
        readable=S2_READ,
        writable=S2_WRITE,
        user=0,
        executable=XN,
        inverted=XN | TABLE,
        accessed=ACCESS_FLAG,
        dirty=0,
        large=TABLE,
        global_=0,
        checked=VALID | TABLE,
        marks=hardware_access_flag,
        tops=frozenset({0}),
        top_shift=width,
        points=VALID | TABLE,
        fault=Stage2Abort.fault,
    )
