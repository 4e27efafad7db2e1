"""The builder of page tables, against a dictionary of pages, in every format; the walker is the other half of the proof."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine.nested import Plain
from vmlab.errors import OptionError
from vmlab.isa.x86.faults import Fault
from vmlab.machine.page_format_names import FORMATS
from vmlab.machine.walk_faults import WalkFault

READ, WRITE, FETCH = {}, {"is_write": True}, {"is_fetch": True}
FRAMES = 0x4000_0000
ACTIONS = st.tuples(
    st.sampled_from(["map", "map", "unmap", "protect"]),
    st.integers(0, 11),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)


def base(plain: Plain) -> int:
    """Return an address that every format can map, with bits of several levels."""
    return 0x4040_0000 if plain.tables.format.top_shift or plain.tables.format.entry_bytes == 8 else 0x4080_0000


@pytest.mark.parametrize("name", FORMATS)
@given(actions=st.lists(ACTIONS, max_size=12))
def test_against_a_dictionary(name: str, actions: list[tuple[str, int, int, bool, bool]]) -> None:
    plain = Plain(name)
    tables, start = plain.tables, base(plain)
    sizes = tables.sizes
    pages: dict[int, tuple[int, int, bool, bool]] = {}
    opened: set[int] = set()  # where there are tables of smaller pages, empty or not, of the second size
    for action, number, kind, writable, executable in actions:
        wanted = sizes[kind % min(len(sizes), 2)]
        address = start + number * wanted
        inside = next((a for a, page in pages.items() if a <= address < a + page[1]), None)
        if action == "map":
            large = wanted > sizes[0]
            if (large and address in opened) or (inside is not None and pages[inside][1] > wanted):
                with pytest.raises(OptionError, match="smaller pages" if large else "lies in a page"):
                    tables.map(address, FRAMES + address - start, wanted)
                continue
            tables.map(address, FRAMES + address - start, wanted, writable=writable, executable=executable)
            pages[address] = FRAMES + address - start, wanted, writable, executable
            if not large and len(sizes) > 1:
                opened.add(address & -sizes[1])
        elif action == "unmap":
            assert tables.unmap(address) == (pages.pop(inside)[1] if inside is not None else 0)
        elif inside is None:
            with pytest.raises(OptionError, match="nothing is mapped"):
                tables.protect(address, writable=writable)
        else:
            frame, wanted, _, old = pages[inside]
            assert tables.protect(address, writable=writable) == wanted
            pages[inside] = frame, wanted, writable, old
    leaves = {entry.address: (entry.target, entry.span) for entry in tables.entries() if entry.is_leaf}
    assert leaves == {address: page[:2] for address, page in pages.items()}
    for address, (frame, size, writable, executable) in pages.items():
        last = size - 0x1000
        found = plain.walk(address + last + 5, looking=True)
        assert (found.frame, found.page_size, found.writable) == (frame + last, size, writable)
        for how, right in ((WRITE, writable), (FETCH, executable or not tables.format.executable)):
            if how is FETCH and tables.format.barred:
                continue  # these are a user's pages
            try:
                plain.walk(address, looking=True, is_user=True, **how)
                allowed = True
            except (Fault, WalkFault):
                allowed = False
            assert allowed == right
    for number in range(12):
        address = start + number * 0x1000
        if not any(a <= address < a + page[1] for a, page in pages.items()):
            with pytest.raises((Fault, WalkFault)):
                plain.walk(address, looking=True)


@pytest.mark.parametrize("name", FORMATS)
def test_what_cannot_be_mapped(name: str) -> None:
    plain = Plain(name)
    tables = plain.tables
    for address, physical, size, message in (
        (0x1234, 0, 0x1000, "multiples"),
        (0, 0x800, 0x1000, "multiples"),
        (0, 0, 0x2000, "has no pages of 8192 bytes"),
        (1 << 62, 0, 0x1000, "is no address that"),
        (-0x1000, 0, 0x1000, "is no address that"),
        ("0x1000", 0, 0x1000, "an address is an int"),
        (0, 1 << 60, 0x1000, "does not fit"),
    ):
        with pytest.raises(OptionError, match=message):
            tables.map(address, physical, size)
    assert not any(entry.is_leaf for entry in tables.entries())


def test_pages_of_4_mib_above_4_gib() -> None:
    """PSE-36: bits 39:32 of the address stand in bits 20:13 of the entry."""
    plain = Plain("ia32-pse")
    plain.tables.map(0x40_0000, 0xF_0040_0000, 0x40_0000)
    (entry,) = plain.tables.entries()
    assert (entry.entry & 0xFFFF_F000, entry.target) == (0x40_0000 | 0xF << 13, 0xF_0040_0000)
    assert plain.walk(0x40_5678).frame == 0xF_0040_5000


def test_a_table_must_be_aligned() -> None:
    plain = Plain("ia32")
    plain.tables._allocate = lambda size: 0x1800
    with pytest.raises(OptionError, match="cannot lie at 0x1800"):
        plain.tables.map(0, 0)
