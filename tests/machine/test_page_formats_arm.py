"""AArch64 stage 1 and stage 2 with a granule of 4 KiB, against the Arm ARM (DDI 0487).

D8.2 (start levels, table D8-14), D8.3 (descriptors), D8.4 (permissions), D17.2.37 (ESR_ELx: classes 20h, 21h, 24h, 25h; fault
status codes), D17.2.64 (HPFAR_EL2).
"""

from __future__ import annotations

import pytest

from tests.machine.nested import GUEST_AT, Nested, Plain
from vmlab.errors import OptionError
from vmlab.machine.page_formats_arm import aarch64_stage1, aarch64_stage2, ttbr_registers
from vmlab.machine.paging import walk
from vmlab.machine.walk_faults import Stage1Abort, Stage2Abort

READ, WRITE, FETCH = {}, {"is_write": True}, {"is_fetch": True}
LOW, HIGH = 0x0000_1234_5678_9000, 0xFFFF_8765_4321_0000
AF, RO, EL0, PXN, UXN = 1 << 10, 1 << 7, 1 << 6, 1 << 53, 1 << 54


def status(plain: Plain, address: int, **how: bool) -> int:
    """Return the fault status code; 0 for none. (An address-size fault of level 0 is 0 too: ask for ESR there.)"""
    try:
        plain.walk(address, **how)
    except Stage1Abort as fault:
        return fault.esr & 0x3F
    except Stage2Abort as fault:
        return fault.status
    return 0


def syndrome(plain: Plain, address: int, **how: bool) -> int:
    with pytest.raises(Stage1Abort) as caught:
        plain.walk(address, **how)
    assert caught.value.far == address
    return caught.value.esr


# -- stage 1 -----------------------------------------------------------------------------------------------------------


def test_two_ranges() -> None:
    """Bit 55 chooses the register; each is disabled by itself, and then any access is a translation fault of level 0."""
    plain = Plain("aarch64-stage1")
    plain.tables.map(LOW, 0x5000)
    plain.tables.map(HIGH, 0x6000)
    assert (plain.walk(LOW).frame, plain.walk(HIGH).frame) == (0x5000, 0x6000)
    assert plain.walk(HIGH).references == 4
    assert [step.slot for step in plain.walk(HIGH).steps] == [1, 0x10E, 0x195, 0x019, 0x010]
    assert [entry.address for entry in plain.tables.entries() if entry.is_leaf] == [LOW, HIGH]
    ttbr0, ttbr1 = (register & ~3 for register in plain.tables.registers)
    format_ = plain.tables.format
    for registers, lost in ((ttbr_registers(None, ttbr1), LOW), (ttbr_registers(ttbr0, None), HIGH)):
        kept = LOW + HIGH - lost
        assert walk(format_, 0, kept, plain.memory.read, None, registers=registers).references == 4
        with pytest.raises(Stage1Abort) as caught:
            walk(format_, 0, lost, plain.memory.read, None, registers=registers)
        assert caught.value.esr & 0x3F == 0b000100
    assert status(plain, 1 << 48) == status(plain, 0xFF00_0000_0000_0000) == 0b000100


@pytest.mark.parametrize(
    ("t0sz", "levels", "first"), [(16, 4, 9), (24, 4, 1), (25, 3, 9), (33, 3, 1), (34, 2, 9), (39, 2, 4)]
)
def test_the_start_level(t0sz: int, levels: int, first: int) -> None:
    """Each level resolves nine bits above the page's twelve, the first what is left (table D8-14)."""
    plain = Plain(aarch64_stage1(t0sz))
    top = (1 << 64 - t0sz) - 0x1000
    plain.tables.map(top, 0x5000)
    assert plain.walk(top).references == levels
    assert plain.walk(top).steps[1].slot == (1 << first) - 1
    assert status(plain, top + 0x1000) == 0b000100


@pytest.mark.parametrize("row", range(4))
def test_invalid_descriptors(row: int) -> None:
    """Bit 0 clear is a translation fault of that level; so is bit 1 clear at level 0, and at level 3 (table D8-48)."""
    plain = Plain("aarch64-stage1")
    plain.tables.map(LOW, 0x5000)
    entry = plain.entry(row + 1)
    for low in (0, 2):
        plain.change(entry.place, entry.entry & ~3 | low)
        assert status(plain, LOW) == 0b000100 | row
    plain.change(entry.place, entry.entry & ~3 | 1)
    if row in (0, 3):
        assert status(plain, LOW) == 0b000100 | row
    else:  # a block, of which the access flag is clear
        assert status(plain, LOW) == 0b001000 | row


# AP[2:1], then what EL1 and EL0 may do, with UXN and PXN clear (tables D8-62 and D8-65): R, W, X
PERMISSIONS = {
    0b00: ("RWX", "X"),
    0b01: ("RW", "RWX"),  # what EL0 can write, EL1 does not execute
    0b10: ("RX", "X"),
    0b11: ("RX", "RX"),
}


@pytest.mark.parametrize("size", [0x1000, 0x20_0000, 0x4000_0000])
@pytest.mark.parametrize("never", [0, PXN, UXN, PXN | UXN])
@pytest.mark.parametrize("ap", PERMISSIONS)
def test_permissions(ap: int, never: int, size: int) -> None:
    plain = Plain("aarch64-stage1")
    plain.tables.map(1 << 40, 0, size)
    leaf = plain.leaf(1 << 40)
    plain.change(leaf.place, leaf.entry & ~(RO | EL0 | PXN | UXN) | ap << 6 | never)
    level = {0x1000: 3, 0x20_0000: 2, 0x4000_0000: 1}[size]
    for user, allowed in enumerate(PERMISSIONS[ap]):
        denied = "X" if never & (UXN if user else PXN) else ""
        for letter, how in (("R", READ), ("W", WRITE), ("X", FETCH)):
            expected = 0 if letter in allowed and letter not in denied else 0b001100 | level
            assert status(plain, 1 << 40, is_user=bool(user), **how) == expected, (user, letter)


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize(
    ("bit", "lost"),
    [(59, "EL1 X"), (60, "EL0 X"), (61, "EL0 RW"), (62, "EL0 W, EL1 W")],
    ids=("PXN", "UXN", "AP0", "AP1"),
)
def test_hierarchical_permissions(bit: int, lost: str, row: int) -> None:
    """D8.4.3: PXNTable, UXNTable and APTable of any level hold for all below; they can be switched off."""
    for format_, works in ((aarch64_stage1(), True), (aarch64_stage1(hierarchical=False), False)):
        plain = Plain(format_)
        plain.tables.map(LOW, 0x5000, executable=True)
        entry = plain.entry(row + 1)
        plain.change(entry.place, entry.entry | 1 << bit)
        denied = {
            (name, letter)
            for name, user in (("EL1", False), ("EL0", True))
            for letter, how in (("R", READ), ("W", WRITE), ("X", FETCH))
            if status(plain, LOW, is_user=user, **how) == 0b001111
        }
        # What EL0 can write, EL1 does not execute; so it does where EL0 no longer can.
        expected = {("EL1", "X")} if not works or bit in (59, 60) else set()
        if works:
            expected |= {(part.split()[0], letter) for part in lost.split(", ") for letter in part.split()[1]}
        assert denied == expected


def test_the_access_flag() -> None:
    """A clear one is a fault before permissions are looked at; with TCR_EL1.HA it is set (D8.5)."""
    for automatic in (False, True):
        plain = Plain(aarch64_stage1(hardware_access_flag=automatic))
        plain.tables.map(LOW, 0x5000, writable=False)
        leaf = plain.leaf(LOW)
        plain.change(leaf.place, leaf.entry & ~AF)
        assert status(plain, LOW, **WRITE) == (0b001111 if automatic else 0b001011)
        assert not plain.leaf(LOW).entry & AF
        assert status(plain, LOW) == (0 if automatic else 0b001011)
        assert bool(plain.leaf(LOW).entry & AF) == automatic


@pytest.mark.parametrize("row", range(5))
def test_address_size(row: int) -> None:
    """An address beyond TCR_EL1.IPS is an address-size fault of the level, of a TTBR of level 0."""
    plain = Plain(aarch64_stage1(physical_bits=40))
    plain.tables.map(LOW, 0x5000)
    entry = plain.entry(row)
    if row == 0:
        plain.tables.registers[0] |= 1 << 40
    else:
        plain.change(entry.place, entry.entry | 1 << 47)
    assert syndrome(plain, LOW) & 0x3F == max(row - 1, 0)


def test_the_syndrome() -> None:
    """ESR_EL1: class 20h or 24h from EL0, 21h or 25h from EL1; IL; WnR of a data abort."""
    plain = Plain("aarch64-stage1")
    il, translation_3 = 1 << 25, 0b000111
    plain.tables.map(LOW + 0x1000, 0)
    expected = {
        (True, "read"): 0x24 << 26 | il | translation_3,
        (True, "write"): 0x24 << 26 | il | 1 << 6 | translation_3,
        (True, "fetch"): 0x20 << 26 | il | translation_3,
        (False, "read"): 0x25 << 26 | il | translation_3,
        (False, "write"): 0x25 << 26 | il | 1 << 6 | translation_3,
        (False, "fetch"): 0x21 << 26 | il | translation_3,
    }
    hows = {"read": READ, "write": WRITE, "fetch": FETCH}
    assert {key: syndrome(plain, LOW, is_user=key[0], **hows[key[1]]) for key in expected} == expected


def test_global_is_the_bit_clear() -> None:
    plain = Plain("aarch64-stage1")
    plain.tables.map(LOW, 0x5000)
    plain.tables.map(LOW + 0x1000, 0x6000, extra=1 << 11)
    assert (plain.walk(LOW).global_, plain.walk(LOW + 0x1000).global_) == (True, False)


# -- stage 2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t0sz", "sl0", "references", "root"),
    [
        (24, 1, 3, 0x2000),
        (25, 1, 3, 0x1000),
        (21, 1, 3, 0x1_0000),
        (16, 2, 4, 0x1000),
        (30, 0, 2, 0x1_0000),
        (34, 0, 2, 0x1000),
    ],
)
def test_root_tables_side_by_side(t0sz: int, sl0: int, references: int, root: int) -> None:
    """Up to 16 tables are one root, aligned to its size: 40 bits of address start at level 1 with two (D8.2.2)."""
    plain = Plain(aarch64_stage2(t0sz, sl0))
    assert plain.tables.root % root == 0
    top = (1 << 64 - t0sz) - 0x1000
    plain.tables.map(top, 0x5000)
    found = plain.walk(top)
    assert (found.frame, found.references) == (0x5000, references)
    assert found.steps[0].address == plain.tables.root + root - 8
    assert status(plain, top + 0x1000) == 0b000100


@pytest.mark.parametrize("s2ap", range(4))
@pytest.mark.parametrize("never", [0, 1 << 54])
def test_stage_2_permissions(s2ap: int, never: int) -> None:
    """S2AP[0] reads, S2AP[1] writes, XN (tables D8-69 and D8-70)."""
    plain = Plain("aarch64-stage2")
    plain.tables.map(0x8000_0000, 0x5000)
    leaf = plain.leaf(0x8000_0000)
    plain.change(leaf.place, leaf.entry & ~0xC0 | s2ap << 6 | never)
    results = [status(plain, 0x8000_0000, **how) for how in (READ, WRITE, FETCH)]
    assert results == [0 if right else 0b001111 for right in (s2ap & 1, s2ap & 2, not never)]


def test_an_abort_of_stage_2() -> None:
    """HPFAR_EL2 holds the intermediate physical address, S1PTW says that it is a table's; the class is the access's."""
    nested = Nested("aarch64-stage1", "aarch64-stage2")
    nested.guest.map(LOW, 0x7000, user=False)
    assert nested.walk(LOW + 0x678).frame == GUEST_AT + 0x7000
    nested.host.unmap(0x7000)
    for how, esr in ((READ, 0x24 << 26), (WRITE, 0x24 << 26 | 1 << 6), (FETCH, 0x20 << 26)):
        with pytest.raises(Stage2Abort) as caught:
            nested.walk(LOW + 0x678, **how)
        assert caught.value.esr == esr | 1 << 25 | 0b000111
        assert (caught.value.hpfar, caught.value.linear) == (0x7000 >> 12 << 4, LOW + 0x678)
    table = nested.guest.tables[-1]
    nested.host.unmap(table)
    for how, esr in ((READ, 0x24 << 26), (WRITE, 0x24 << 26), (FETCH, 0x20 << 26)):
        with pytest.raises(Stage2Abort) as caught:
            nested.walk(LOW, **how)
        assert caught.value.esr == esr | 1 << 25 | 1 << 7 | 0b000111
        assert caught.value.hpfar == table >> 12 << 4
    # A permission fault of a table's own block of 2 MiB has the level of the block.
    nested = Nested("aarch64-stage1", "aarch64-stage2", 0x20_0000)
    nested.guest.map(LOW, 0x30_0000)
    nested.host.protect(0x30_0000, writable=False)
    with pytest.raises(Stage2Abort) as caught:
        nested.walk(LOW, **WRITE)
    assert caught.value.esr == 0x24 << 26 | 1 << 25 | 1 << 6 | 0b001110


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: aarch64_stage1(15), "T0SZ is 16 to 39, not 15"),
        (lambda: aarch64_stage2(24, 3), "SL0 is 0, 1 or 2, not 3"),
        (lambda: aarch64_stage2(34, 1), "T0SZ is 21 to 33, not 34"),
    ],
)
def test_what_there_is_not(make, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
