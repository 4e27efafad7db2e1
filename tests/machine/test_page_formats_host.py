"""EPT, NPT and the second level of VT-d, entry by entry, against what the manuals say in words and tables.

Intel SDM vol. 3, 29.3.2 (tables 29-1 to 29-7), 29.3.3.1 (misconfigurations), 29.3.3.2 (violations); AMD APM vol. 2,
15.25; Intel VT-d, 3.7, 7.2 and 9.8.
"""

from __future__ import annotations

import pytest

from tests.machine.nested import Plain
from vmlab.errors import OptionError
from vmlab.machine.page_formats_host import ept, npt, vtd_second_level
from vmlab.machine.walk_faults import DmaFault, EptMisconfiguration, EptViolation, HostFault, NestedPageFault

READ, WRITE, FETCH = {}, {"is_write": True}, {"is_fetch": True}
ACCESSES = ((READ, 1), (WRITE, 2), (FETCH, 4))
SIZES = {0x1000: 12, 0x20_0000: 21, 0x4000_0000: 30}
AT = 0x40_0000_0000 - 0x4000_0000


def outcome(plain: Plain, address: int, **how: bool) -> object:
    try:
        return plain.walk(address, **how).frame
    except EptMisconfiguration:
        return "misconfiguration"
    except EptViolation as fault:
        return fault.qualification


@pytest.mark.parametrize("execute_only", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_low_byte_of_a_leaf(size: int, execute_only: bool) -> None:
    """All values of bits 7:0 of the entry that maps a page."""
    plain = Plain(ept(execute_only=execute_only))
    plain.tables.map(AT, 0, size)
    place = plain.leaf(AT).place
    for low in range(256):
        if size > 0x1000 and not low & 0x80:
            continue
        plain.change(place, low)
        read, write, execute, kind = low & 1, low >> 1 & 1, low >> 2 & 1, low >> 3 & 7
        bad = (write and not read) or (execute and not read and not execute_only) or kind in (2, 3, 7)
        for how, bit in ACCESSES:
            if not low & 7:
                expected: object = bit  # not present: a violation, and no right
            elif bad:
                expected = "misconfiguration"
            else:
                expected = 0 if low & bit else (low & 7) << 3 | bit
            assert outcome(plain, AT, **how) == expected, (low, how)


@pytest.mark.parametrize("row", range(3))
def test_every_low_byte_of_an_entry_that_points_to_a_table(row: int) -> None:
    """Bits 6:3 are reserved, bit 7 too where the level has no pages (tables 29-1, 29-3 and 29-5)."""
    plain = Plain(ept(largest_page="2 MiB"))
    plain.tables.map(AT, 0)
    entry = plain.entry(row)
    for low in range(256):
        if row == 2 and low & 0x80:
            continue  # a page of 2 MiB
        plain.change(entry.place, entry.target | low)
        bad = low & 0xF8 or low & 3 == 2
        for how, bit in ACCESSES:
            if not low & 7:
                expected: object = bit
            elif bad:
                expected = "misconfiguration"
            else:
                expected = 0 if low & bit else (low & 7) << 3 | bit
            assert outcome(plain, AT, **how) == expected, (low, how)


@pytest.mark.parametrize("bit", range(12, 64))
@pytest.mark.parametrize("size", SIZES)
def test_reserved_bits_of_a_leaf(size: int, bit: int) -> None:
    """Bits 51:N beyond the physical width, and those of the address within a large page; above 51 they are ignored."""
    plain = Plain(ept(physical_bits=40))
    plain.tables.map(AT, 0, size)
    leaf = plain.leaf(AT)
    plain.change(leaf.place, leaf.entry | 1 << bit)
    if 40 <= bit <= 51 or bit < SIZES[size]:
        assert outcome(plain, AT) == "misconfiguration"
    else:
        assert outcome(plain, AT) == (1 << bit if bit < 52 else 0)


def test_a_right_must_be_granted_at_each_level() -> None:
    """A violation tells the rights that all entries of the path grant (table 28-7, bits 5:3)."""
    for upper in (1, 3, 5, 7):
        for leaf in (1, 3, 5, 7):
            plain = Plain("ept")
            plain.tables.map(AT, 0x5000)
            entries = list(plain.tables.entries())
            plain.change(entries[1].place, entries[1].entry & ~7 | upper)
            plain.change(entries[3].place, entries[3].entry & ~7 | leaf)
            for how, bit in ACCESSES:
                both = upper & leaf
                assert outcome(plain, AT, **how) == (0x5000 if both & bit else both << 3 | bit)


def test_a_misconfiguration_comes_before_a_violation() -> None:
    """29.3.3.2: a violation occurs only where there is no misconfiguration; the walk goes on where a right is missing."""
    plain = Plain("ept")
    plain.tables.map(AT, 0)
    entries = list(plain.tables.entries())
    plain.change(entries[0].place, entries[0].target | 1)
    plain.change(entries[3].place, 1 | 2 << 3)
    assert outcome(plain, AT, is_write=True) == "misconfiguration"
    plain.change(entries[2].place, 0)
    assert outcome(plain, AT, is_write=True) == 2


def test_bits_of_the_address_beyond_the_levels() -> None:
    """With 4 levels an address of more than 48 bits is a violation; with 5 levels it needs none."""
    four, five = Plain("ept"), Plain("ept-5")
    five.tables.map(1 << 52, 0x5000)
    assert outcome(four, 1 << 48) == 1
    assert outcome(five, 1 << 52) == 0x5000
    assert five.walk(1 << 52).references == 5
    assert outcome(five, 1 << 57) == 1


@pytest.mark.parametrize(("levels", "name"), [(4, "npt"), (5, "npt-5")])
def test_npt_is_walked_as_a_user_s(levels: int, name: str) -> None:
    """15.25.5: a supervisor's page in the nested table maps nothing for the guest; the error code is that of #PF."""
    plain = Plain(name)
    plain.tables.map(AT, 0x5000, user=False)
    codes = []
    for how, _ in ACCESSES:
        with pytest.raises(NestedPageFault) as caught:
            plain.walk(AT, **how)
        codes.append(caught.value.error_code)
    assert codes == [5, 7, 0x15]
    plain.tables.protect(AT, user=True, executable=False)
    assert plain.walk(AT, **WRITE).references == levels
    with pytest.raises(NestedPageFault) as caught:
        plain.walk(AT, **FETCH)
    assert caught.value.error_code == 0x15
    place = plain.leaf(AT).place
    assert plain.memory.read(place, 8) & 0x60 == 0x60  # accessed and dirty
    plain.change(place, plain.memory.read(place, 8) | 1 << 51 if levels == 4 else 0)
    with pytest.raises(NestedPageFault) as caught:
        plain.walk(AT)
    assert caught.value.error_code == (0xD if levels == 4 else 4)


@pytest.mark.parametrize(("levels", "width"), [(3, 39), (4, 48), (5, 57)])
def test_vtd(levels: int, width: int) -> None:
    """Fault reasons (VT-d, 7.2): 4 beyond the width, 5 no write permission, 6 no read permission, Ch reserved field."""
    plain = Plain(vtd_second_level(levels, physical_bits=48))
    top = (1 << width) - 0x1000

    def reason(address: int, **how: bool) -> int:
        try:
            plain.walk(address, **how)
        except DmaFault as fault:
            return fault.reason
        return 0

    assert [reason(1 << width, **how) for how in (READ, WRITE)] == [4, 4]
    assert [reason(top, **how) for how in (READ, WRITE)] == [6, 5]
    plain.tables.map(top, 0x5000)
    assert (plain.walk(top).frame, plain.walk(top).references) == (0x5000, levels)
    plain.tables.protect(top, writable=False)
    assert [reason(top, **how) for how in (READ, WRITE)] == [0, 5]
    plain.tables.protect(top, writable=True, readable=False)
    assert [reason(top, **how) for how in (READ, WRITE)] == [6, 0]
    leaf = plain.leaf(top)
    plain.change(leaf.place, leaf.entry | 1 << 48)
    assert [reason(top, **how) for how in (READ, WRITE)] == [0xC, 0xC]
    plain.tables.map(0, 0x20_0000, 0x20_0000)
    assert plain.walk(0x1234).frame == 0x20_1000
    leaf = plain.leaf(0)
    plain.change(leaf.place, leaf.entry | 1 << 12)
    assert reason(0) == 0xC


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ept(3), "4 levels or 5, not 3"),
        (lambda: npt(2), "4 levels or 5, not 2"),
        (lambda: vtd_second_level(6), "3, 4 or 5 levels, not 6"),
        (lambda: ept(largest_page="4 MiB"), "choose from 4 KiB, 2 MiB, 1 GiB"),
    ],
)
def test_what_there_is_not(make, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_faults_say_what_they_are() -> None:
    plain = Plain("ept")
    with pytest.raises(HostFault, match="EptViolation at guest-physical address 0x1234"):
        plain.walk(0x1234)
