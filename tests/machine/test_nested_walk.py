"""Walks in two dimensions: how many references, which steps, whose fault (Intel SDM vol. 3, 29.3; AMD APM vol. 2, 15.25)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine.nested import GUEST_AT, Guest, Nested
from vmlab.isa.x86.faults import PF, Fault
from vmlab.machine.nested_walk import walk_nested
from vmlab.machine.page_format_names import FORMATS, HOST_FORMATS
from vmlab.machine.page_formats_host import ept
from vmlab.machine.walk_faults import EptMisconfiguration, EptViolation, HostFault, NestedPageFault, WalkFault

GUESTS = sorted(set(FORMATS) - set(HOST_FORMATS))
MIB_2 = 0x20_0000
PAGE, FRAME = 0x1234_5000, 0x7000


@pytest.mark.parametrize(("guest", "host"), list(itertools.product(GUESTS, HOST_FORMATS)))
def test_references(guest: str, host: str) -> None:
    """n guest levels over m host levels: (n+1)(m+1)-1; a table that is held in registers is no level (FACTS.md)."""
    nested = Nested(guest, host, MIB_2)
    small = Nested(guest, host)
    for each in (nested, small):
        each.guest.map(PAGE, FRAME)
    n, m = FORMATS[guest].references, FORMATS[host].references
    found = small.walk(PAGE + 0x678)
    assert (found.frame, found.guest_frame, found.references) == (GUEST_AT + FRAME, FRAME, (n + 1) * (m + 1) - 1)
    assert nested.walk(PAGE).references == (n + 1) * m - 1
    # The steps are what was read, in this order, and where.
    steps = found.steps
    assert sum(not step.in_register for step in steps) == found.references
    for step in steps:
        if not step.in_register:
            size = FORMATS[guest if step.dimension == "guest" else host].entry_bytes
            assert small.memory.read(step.address, size) & ~0x360 == step.entry & ~0x360  # but for A and D
    columns = [[s.host_level for s in steps if s.guest_level == row] for row in range(len(FORMATS[guest].levels) + 1)]
    walked = [*range(m), None]
    registers = [None] * (len(FORMATS[guest].levels) - n)
    assert columns == [*([each] for each in registers), *[walked] * n, [*range(m)]]


def test_the_textbook_s_numbers() -> None:
    """4 × 4 levels make 24 references, and 19 over pages of 2 MiB; the guest's own large pages save more."""
    for host_page, guest_page, references in ((0x1000, 0x1000, 24), (MIB_2, 0x1000, 19), (MIB_2, MIB_2, 15)):
        nested = Nested("4-level", "ept", host_page)
        nested.guest.map(0, 0, guest_page)
        found = nested.walk(0x234)
        assert (found.references, found.page_size) == (references, min(host_page, guest_page))


def test_paging_off_in_the_guest() -> None:
    nested = Nested("4-level", "ept")
    found = walk_nested(None, nested.host.space, 0x5678, nested.memory.read, nested.memory.write)
    assert (found.frame, found.guest_frame, found.references, found.guest) == (GUEST_AT + 0x5000, 0x5000, 4, None)
    assert [step.guest_level for step in found.steps] == [0] * 4
    nested.host.unmap(0x5000)
    with pytest.raises(EptViolation) as caught:
        walk_nested(None, nested.host.space, 0x5678, nested.memory.read, None, is_write=True)
    assert (caught.value.qualification, caught.value.linear) == (1 << 8 | 1 << 7 | 2, 0x5678)


READ, WRITE, FETCH = {}, {"is_write": True}, {"is_fetch": True}


@pytest.mark.parametrize("granted", [1, 3, 4, 5, 7])
@pytest.mark.parametrize(("how", "access"), [(READ, 1), (WRITE, 2), (FETCH, 4)])
def test_ept_violation_of_a_page(how: dict[str, bool], access: int, granted: int) -> None:
    """SDM vol. 3, table 28-7: bits 2:0 the access, 5:3 the rights, 7 a linear address, 8 not a table."""
    nested = Nested("4-level", "ept")
    nested.guest.map(PAGE, FRAME)
    nested.host.protect(FRAME, readable=bool(granted & 1), writable=bool(granted & 2), executable=bool(granted & 4))
    if access & granted:
        assert nested.walk(PAGE + 4, **how).frame == GUEST_AT + FRAME
        return
    with pytest.raises(EptViolation) as caught:
        nested.walk(PAGE + 4, **how)
    assert caught.value.qualification == 1 << 8 | 1 << 7 | granted << 3 | access
    assert (caught.value.guest_physical, caught.value.linear) == (FRAME + 4, PAGE + 4)
    nested.host.unmap(FRAME)
    with pytest.raises(EptViolation) as caught:
        nested.walk(PAGE, **how)
    assert caught.value.qualification == 1 << 8 | 1 << 7 | access


@pytest.mark.parametrize("row", range(4))
def test_ept_violation_of_a_table(row: int) -> None:
    """Bit 8 is clear where a table of the guest cannot be read, whatever the access was: a read of the table."""
    nested = Nested("4-level", "ept")
    nested.guest.map(PAGE, FRAME)
    nested.host.unmap(nested.guest.tables[row])
    trail = []
    with pytest.raises(EptViolation) as caught:
        nested.walk(PAGE, is_write=True, trail=trail)
    assert caught.value.qualification == 1 << 7 | 1
    assert caught.value.guest_physical == nested.guest.tables[row] + 8 * (PAGE >> 39 - 9 * row & 0x1FF)
    assert [step.host_level for step in trail] == [0, 1, 2, 3, None] * row + [0, 1, 2, 3]
    assert trail[-1].entry == 0


def test_marking_a_table_that_may_not_be_written() -> None:
    """Without accessed bits in EPT, reading a table is a read; setting the accessed bit in it is a write."""
    nested = Nested("4-level", "ept")
    nested.guest.map(PAGE, FRAME)
    table = nested.guest.tables[2]
    nested.host.protect(table, writable=False)
    trail = []
    with pytest.raises(EptViolation) as caught:
        nested.walk(PAGE, trail=trail)
    assert (caught.value.qualification, caught.value.guest_physical & -0x1000) == (1 << 7 | 5 << 3 | 3, table)
    assert [step.host_level for step in trail] == [0, 1, 2, 3, None] * 3
    guest = Guest(nested.memory)
    place = table + 8 * (PAGE >> 21 & 0x1FF)
    guest.write(place, 8, guest.read(place, 8) | 0x20)
    assert nested.walk(PAGE).references == 24  # nothing is left to be marked there


def test_accessed_and_dirty_bits_of_ept() -> None:
    """Bit 6 of the EPT pointer: A and D are set in EPT; reading a table counts as writing it (SDM vol. 3, 29.3.5)."""
    nested = Nested("4-level", ept(accessed_dirty=True))
    nested.guest.map(PAGE, FRAME)
    assert not any(entry.entry & 0x300 for entry in nested.host.entries())
    assert nested.walk(PAGE, looking=True).references == 24
    assert not any(entry.entry & 0x300 for entry in nested.host.entries())
    found = nested.walk(PAGE)
    assert (nested.host_entry(FRAME) & 0x300, found.dirty) == (0x100, False)
    for table in nested.guest.tables:
        assert nested.host_entry(table) & 0x300 == 0x300
    assert nested.walk(PAGE, is_write=True).dirty
    assert nested.host_entry(FRAME) & 0x300 == 0x300
    assert sum(entry.entry & 0x300 != 0 for entry in nested.host.entries()) == 3 + 5  # two upper tables and one below
    nested.host.protect(nested.guest.tables[1], writable=False)
    with pytest.raises(EptViolation) as caught:
        nested.walk(PAGE)
    assert caught.value.qualification == 1 << 7 | 5 << 3 | 3


@pytest.mark.parametrize("row", range(4))
def test_ept_misconfiguration(row: int) -> None:
    """A reserved bit on the way is a misconfiguration, which has no qualification (SDM vol. 3, 29.3.3.1)."""
    nested = Nested("4-level", "ept")
    nested.guest.map(PAGE, FRAME)
    entry = [e for e in nested.host.entries() if e.address <= FRAME < e.address + e.span][row]
    nested.memory.write(entry.place, 8, entry.entry | 1 << 50)
    with pytest.raises(EptMisconfiguration):
        nested.walk(PAGE)


def test_the_guest_s_own_fault_comes_first_where_its_tables_say_no() -> None:
    """A page fault of the guest is found before the address itself is looked up in the host's tables."""
    nested = Nested("4-level", "ept")
    nested.guest.map(PAGE, FRAME, writable=False)
    nested.host.unmap(FRAME)
    with pytest.raises(Fault) as caught:
        nested.walk(PAGE, is_write=True)
    assert (caught.value.vector, caught.value.error_code) == (PF, 3)
    with pytest.raises(EptViolation):
        nested.walk(PAGE)


def test_nested_page_fault() -> None:
    """AMD APM vol. 2, 15.25.6: bit 32 the address itself, bit 33 a table of the guest, which is walked as a user's write."""
    nested = Nested("4-level", "npt")
    nested.guest.map(PAGE, FRAME, user=False)
    codes = []
    for how in (READ, WRITE, FETCH):
        nested.host.unmap(FRAME)
        with pytest.raises(NestedPageFault) as caught:
            nested.walk(PAGE, **how)
        codes.append(caught.value.error_code)
        nested.host.map(FRAME, GUEST_AT + FRAME, writable=False, user=False)
        with pytest.raises(NestedPageFault) as caught:
            nested.walk(PAGE, **how)
        codes.append(caught.value.error_code)
    assert codes == [1 << 32 | code for code in (4, 5, 6, 7, 0x14, 0x15)]
    nested.host.protect(nested.guest.tables[0], writable=False)
    with pytest.raises(NestedPageFault) as caught:
        nested.walk(PAGE)
    assert caught.value.error_code == 1 << 33 | 7


def allows(guest: str, writable: bool, user_page: bool, executable: bool, access: dict[str, bool], user: bool) -> bool:
    """Say what a page of a guest allows, without SMEP and the like."""
    if access is WRITE and not writable:
        return False
    if access is not FETCH:
        return user_page or not user
    if not executable and guest not in ("ia32", "ia32-pse"):
        return False
    if user:
        return user_page or guest == "aarch64-stage1"  # UXN alone decides (Arm ARM, table D8-45)
    if guest == "sv39":
        return not user_page  # SUM or not (RISC-V privileged architecture, 4.1.1.2)
    return not (guest == "aarch64-stage1" and user_page and writable)  # as if PXN (Arm ARM, D8.4.1)


@given(
    guest=st.sampled_from(GUESTS),
    host=st.sampled_from(HOST_FORMATS),
    guest_size=st.integers(0, 2),
    host_size=st.integers(0, 1),
    offset=st.integers(0, GUEST_AT // 2 - 1),
    rights=st.lists(st.booleans(), min_size=6, max_size=6),
    access=st.sampled_from([READ, WRITE, FETCH]),
    user=st.booleans(),
)
def test_two_walks_are_one(guest, host, guest_size, host_size, offset, rights, access, user) -> None:
    """What is allowed, and where it leads, is what each dimension by itself says."""
    nested = Nested(guest, host, (0x1000, MIB_2)[host_size])
    sizes = [size for size in nested.guest.sizes if size <= GUEST_AT // 2]
    size = sizes[guest_size % len(sizes)]
    nested.guest.map(0, 0, size, writable=rights[0], user=rights[1], executable=rights[2])
    physical = offset % size
    nested.host.protect(physical, writable=rights[3], executable=rights[4])
    allowed = allows(guest, *rights[:3], access, user)
    allowed_by_host = not (access is WRITE and not rights[3])
    allowed_by_host &= not (access is FETCH and nested.host.format.executable and not rights[4])
    covered = {table // MIB_2 if host_size else table >> 12 for table in nested.guest.tables}
    if (physical // MIB_2 if host_size else physical >> 12) in covered:
        return  # the tables themselves would be read-only
    if not allowed or not allowed_by_host:
        with pytest.raises((Fault, WalkFault)) as caught:
            nested.walk(physical, is_user=user, **access)
        assert isinstance(caught.value, HostFault) == allowed
        if allowed:
            assert (caught.value.guest_physical, caught.value.linear) == (physical, physical)
        return
    found = nested.walk(physical, is_user=user, **access)
    assert found.frame == GUEST_AT + (physical & -0x1000)
    assert found.page_size == min(size, (0x1000, MIB_2)[host_size])
    assert found.writable == (rights[0] and rights[3])
