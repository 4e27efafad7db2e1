"""Sv39 and Sv39x4, against the algorithm of the RISC-V privileged architecture, 4.3.2, and 8.5 (guest-page faults)."""

from __future__ import annotations

import pytest

from tests.machine.nested import Nested, Plain
from vmlab.machine.page_formats_riscv import sv39, sv39x4
from vmlab.machine.walk_faults import GuestPageFault, RiscvPageFault

V, R, W, X, U, G, A, D = (1 << n for n in range(8))
READ, WRITE, FETCH = {}, {"is_write": True}, {"is_fetch": True}
ACCESSES = ((READ, R, 13), (WRITE, W, 15), (FETCH, X, 12))
SIZES = {0x1000: 12, 0x20_0000: 21, 0x4000_0000: 30}
AT = 0x12_4000_0000


def cause(plain: Plain, address: int, **how: bool) -> int:
    """Return scause; 0 for no fault."""
    try:
        plain.walk(address, **how)
    except (RiscvPageFault, GuestPageFault) as fault:
        return fault.cause
    return 0


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_low_byte_of_a_leaf(size: int, update: bool) -> None:
    """Steps 3 to 9 of 4.3.2, for both privileges, with A and D left to software (Svade) and set by hardware (Svadu)."""
    plain = Plain(sv39(hardware_update=update))
    plain.tables.map(AT, 0, size)
    place = plain.leaf(AT).place
    for low in range(256):
        for user in (False, True):
            for how, right, number in ACCESSES:
                plain.change(place, low)
                if not low & (R | W | X) and size > 0x1000:
                    continue  # it points to a table
                allowed = low & V and low & (R | W) != W and low & right
                allowed = allowed and (low & U if user else not (low & U and right == X))
                marks = A | D if right == W else A
                expected = 0 if allowed and (update or low & marks == marks) else number
                assert cause(plain, AT, is_user=user, **how) == expected, (low, user, right)
                assert plain.memory.read(place, 8) == (low | marks if allowed and update else low)
    # Without SUM a supervisor does not touch a user's page.
    plain.change(place, V | R | W | X | U | A | D)
    assert (cause(plain, AT), cause(plain, AT, user_pages=False)) == (0, 13)


@pytest.mark.parametrize("bit", range(10, 64))
@pytest.mark.parametrize("size", SIZES)
def test_high_bits_of_a_leaf(size: int, bit: int) -> None:
    """A superpage must be aligned (step 6); bits 63:54 are reserved (step 3); the page number stands in bits 53:10."""
    plain = Plain(sv39())
    plain.tables.map(AT, 0, size)
    leaf = plain.leaf(AT)
    plain.change(leaf.place, leaf.entry | 1 << bit)
    if bit >= 54 or bit + 2 < SIZES[size]:
        assert cause(plain, AT) == 13
    else:
        assert plain.walk(AT + 0x34).frame == 1 << bit + 2


@pytest.mark.parametrize("row", range(2))
def test_entries_that_point_to_tables(row: int) -> None:
    """A, D and U are reserved there (4.3.1); one that can be written and not read is reserved; G is allowed."""
    plain = Plain(sv39())
    plain.tables.map(AT, 0x5000)
    entry = plain.entry(row)
    for bits in (A, D, U, W, 1 << 54, 1 << 63):
        plain.change(entry.place, entry.entry | bits)
        assert cause(plain, AT) == 13
    plain.change(entry.place, entry.entry | G | 3 << 8)
    assert plain.walk(AT).frame == 0x5000
    plain.change(entry.place, entry.entry & ~V)
    assert [cause(plain, AT, **how) for how in (READ, WRITE, FETCH)] == [13, 15, 12]


def test_bits_63_to_39_equal_bit_38() -> None:
    plain = Plain("sv39")
    high = 0xFFFF_FFC0_0000_0000
    plain.tables.map(0x3F_FFFF_F000, 0x5000)
    plain.tables.map(high, 0x6000)
    assert (plain.walk(0x3F_FFFF_FFFF).frame, plain.walk(high).frame) == (0x5000, 0x6000)
    assert [entry.address for entry in plain.tables.entries() if entry.is_leaf] == [0x3F_FFFF_F000, high]
    for address in (1 << 38, 1 << 39, 0xFFFF_FFBF_FFFF_F000, 1 << 63):
        assert cause(plain, address, **WRITE) == 15


def test_the_root_register() -> None:
    """satp holds a page number below mode and ASID."""
    plain = Plain("sv39")
    plain.tables.map(AT, 0x5000)
    assert plain.tables.root == plain.tables.tables[0] >> 12
    plain.tables.root |= 8 << 60 | 0xABCD << 44
    assert plain.walk(AT).steps[0].address == plain.tables.tables[0] + 8 * (AT >> 30)


def test_sv39x4() -> None:
    """41 bits, a root table of 16 KiB aligned to its size, and user pages alone (8.5.1)."""
    plain = Plain(sv39x4())
    assert plain.tables.tables[0] % 0x4000 == 0
    top = (1 << 41) - 0x1000
    plain.tables.map(top, 0x5000)
    found = plain.walk(top)
    assert (found.frame, found.references, found.steps[0].slot) == (0x5000, 3, 0x7FF)
    assert [cause(plain, 1 << 41, **how) for how in (READ, WRITE, FETCH)] == [21, 23, 20]
    plain.tables.protect(top, user=False)
    assert cause(plain, top) == 21


@pytest.mark.parametrize(("how", "number"), [(READ, 21), (WRITE, 23), (FETCH, 20)])
def test_guest_page_faults(how: dict[str, bool], number: int) -> None:
    """The cause is that of the guest's access, for its tables too; htval is the address without two bits (8.5.2)."""
    nested = Nested("sv39", "sv39x4")
    nested.guest.map(AT, 0x7000, user=False)
    assert nested.walk(AT, **how).references == 15
    nested.host.unmap(0x7000)
    with pytest.raises(GuestPageFault) as caught:
        nested.walk(AT + 0x678, **how)
    fault = caught.value
    assert (fault.cause, fault.htval, fault.linear) == (number, 0x7678 >> 2, AT + 0x678)
    nested.host.unmap(nested.guest.tables[1])
    with pytest.raises(GuestPageFault) as caught:
        nested.walk(AT, **how)
    assert (caught.value.cause, caught.value.guest_physical & -0x1000) == (number, nested.guest.tables[1])
