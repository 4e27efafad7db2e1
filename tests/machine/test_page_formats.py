"""A format is data: what is not built in yet can be declared, and the one walker reads it.

Layouts: Intel SDM vol. 3, 4.5 (5-level paging) and 29.3.2 (EPT); Arm ARM, D8.3 (stage 1, granule of 4 KiB).
"""

from __future__ import annotations

import pytest

from vmlab.isa.x86.faults import Fault
from vmlab.machine.page_formats import four_level
from vmlab.machine.paging import PRESENT, Level, PageTableFormat, Translation, walk

FRAME = 0x000F_FFFF_FFFF_F000
READ, WRITE, FETCH = {}, {"is_write": True}, {"is_fetch": True}


class Memory(dict[int, int]):
    """Entries by address."""

    def read(self, address: int, size: int) -> int:
        assert size == 8
        return self.get(address, 0)

    def write(self, address: int, size: int, value: int) -> None:
        assert size == 8
        self[address] = value


def path(memory: Memory, format_: PageTableFormat, linear: int, entries: list[int]) -> None:
    """Write entries along the path of an address, the tables at 0x1000, 0x2000, …, which each points to the next."""
    for n, (level, entry) in enumerate(zip(format_.levels, entries, strict=False)):
        slot = linear >> level.shift & (1 << level.bits) - 1
        below = 0x1000 * (n + 2) if n < len(entries) - 1 else 0
        memory[0x1000 * (n + 1) + 8 * slot] = entry | below


def allowed(memory: Memory, format_: PageTableFormat, linear: int, how: dict[str, bool]) -> Translation | None:
    try:
        return walk(format_, 0x1000, linear, memory.read, memory.write, **how)
    except Fault:
        return None


def test_five_levels() -> None:
    four = four_level(52, no_execute=True, gigabyte_pages=True)
    five = PageTableFormat(
        "5-level paging", (Level("page map level 5", 48, 9, 0, 0x80), *four.levels), 8, FRAME, FRAME,
        executable=four.executable, inverted=four.inverted,
    )  # fmt: skip
    memory, linear = Memory(), 0x00AB_CDEF_0123_4567
    path(memory, five, linear, [7, 7, 7, 7, 0xBEEF_0007])
    found = allowed(memory, five, linear, WRITE)
    assert found is not None
    assert (found.frame, found.references, found.page_size) == (0xBEEF_0000, 5, 0x1000)
    assert [step.slot for step in found.steps] == [linear >> shift & 0x1FF for shift in (48, 39, 30, 21, 12)]
    memory[0x1000 + 8 * (linear >> 48 & 0x1FF)] |= 0x80
    assert allowed(memory, five, linear, WRITE) is None


@pytest.mark.parametrize("upper", range(8))
@pytest.mark.parametrize("leaf", range(8))
def test_ept(leaf: int, upper: int) -> None:
    """Read, write and execute are rights of their own, at each level; an entry with none of them is not present."""
    names = ("EPT PML4", "EPT page-directory-pointer table", "EPT page directory", "EPT page table")
    levels = tuple(
        Level(name, shift, 9, kind)
        for name, shift, kind in zip(names, (39, 30, 21, 12), (0, 0x80, 0x80, 7), strict=True)
    )
    ept = PageTableFormat(
        "EPT", levels, 8, FRAME, FRAME, present=7, readable=1, writable=2, user=0, executable=4,
        accessed=0x100, dirty=0x200, global_=0,
    )  # fmt: skip
    memory, address = Memory(), 0x12_3456_7000
    path(memory, ept, address, [7, upper, 7, 0x5000 | leaf])
    for how, right in ((READ, 1), (WRITE, 2), (FETCH, 4)):
        found = allowed(memory, ept, address, how)
        assert (found is not None) == bool(upper and leaf and upper & leaf & right)
        if found:
            assert found.frame == 0x5000
            entry = memory[0x4000 + 8 * (address >> 12 & 0x1FF)]
            assert entry & 0x100
            assert not right & 2 or entry & 0x200
    path(memory, ept, address, [7, 7, 0x87])
    found = allowed(memory, ept, address, READ)
    assert found is not None
    assert (found.page_size, found.frame) == (0x20_0000, address & 0x1F_F000)


def test_arm_stage_1() -> None:
    """AP[2] set means read-only; a block has bit 1 clear; table entries carry no rights here (hierarchical ones are off)."""
    valid, table, read_only, user, access, no_execute = 1, 2, 0x80, 0x40, 0x400, 1 << 54
    levels = tuple(
        Level(f"level {n}", 39 - 9 * n, 9, 0 if n == 0 else PRESENT if n == 3 else table, grants=False)
        for n in range(4)
    )
    stage_1 = PageTableFormat(
        "AArch64 stage 1", levels, 8, 0x0000_FFFF_FFFF_F000, 0x0000_FFFF_FFFF_F000, present=valid,
        writable=read_only, user=user, executable=no_execute, inverted=read_only | no_execute | table,
        accessed=access, dirty=0, global_=0,
    )  # fmt: skip
    memory, linear = Memory(), 0x40_8060_3123
    path(memory, stage_1, linear, [3, 3, 3, 0x7000 | 3 | user | access])
    assert [bool(allowed(memory, stage_1, linear, how)) for how in (READ, WRITE, FETCH)] == [True] * 3
    path(memory, stage_1, linear, [3, 3, 3, 0x7000 | 3 | user | read_only | no_execute])
    assert [bool(allowed(memory, stage_1, linear, how)) for how in (READ, WRITE, FETCH)] == [True, False, False]
    path(memory, stage_1, linear, [3, 3, 0x4000_0000 | 1])  # a block of 2 MiB
    found = allowed(memory, stage_1, linear, WRITE)
    assert found is not None
    assert (found.page_size, found.frame, found.user) == (0x20_0000, 0x4000_0000 + (linear & 0x1F_F000), False)
    assert allowed(memory, stage_1, linear, {"is_user": True}) is None


def test_two_dimensions() -> None:
    """Nested paging is the same walk, whose every table address is itself walked: (4+1)(4+1)-1 references."""
    memory, format_ = Memory(), four_level(52, no_execute=True, gigabyte_pages=True)
    for n in range(16):  # guest-physical page n lies at 0x10_0000 + n
        path(memory, format_, n << 12, [7, 7, 7, 0x10_0007 + (n << 12)])
    for n, below in ((5, 6), (6, 7), (7, 8), (8, 9)):  # the guest's tables, at its physical 0x5000 to 0x8000
        memory[0x10_0000 + (n << 12)] = below << 12 | 7
    references = 0

    def nested(address: int, size: int) -> int:
        nonlocal references
        found = walk(format_, 0x1000, address, memory.read, None)
        references += found.references + 1
        return memory.read(found.frame | address & 0xFFF, size)

    guest = walk(format_, 0x5000, 0x123, nested, None)
    host = walk(format_, 0x1000, guest.frame, memory.read, None)
    assert (guest.frame, host.frame, references + host.references) == (0x9000, 0x10_9000, 24)
