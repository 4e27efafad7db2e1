"""Translation by worked cases: stage 2 and its syndromes, EL2's own stage 1, AT, unprivileged accesses, the TLB, alignment.

DDI 0487, D8.1 (regimes), D17.2.37 (ISS of a data abort), D17.2.64 (HPFAR_EL2), D17.2.108 (PAR_EL1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.machine.arm64.physical import Physical
from tests.machine.arm64.test_exceptions import IL, RW, first, machine
from tests.machine.nested import Frames
from vmlab.isa.arm64 import assemble
from vmlab.machine.arm64.board import LOAD, RAM
from vmlab.machine.page_formats_arm import aarch64_stage1, aarch64_stage1_el2, aarch64_stage2
from vmlab.machine.page_tables import PageTables

if TYPE_CHECKING:
    from vmlab.machine.arm64.machine import Arm64Machine

STAGE2 = {"hcr_el2": RW | 1, "vtcr_el2": 1 << 31 | 25 | 1 << 6 | 5 << 16}
DATA, HIDDEN = RAM + 0x9_0000, RAM + 0x9_8000
TCR = 25 | 25 << 16 | 2 << 30 | 5 << 32


def tables(made: Arm64Machine, format_, at: int) -> PageTables:
    return PageTables(format_, Physical(made.board), Frames(at))


def with_stage2(source: str, el: int = 1, **system: int) -> Arm64Machine:
    """A guest whose memory is mapped to where it is, but for what is HIDDEN; the data are read-only."""
    made = machine(source, el, **STAGE2 | system)
    host = tables(made, aarch64_stage2(25, 1), RAM + 0x4_0000)
    for page in range(RAM, RAM + (1 << 20), 0x1000):
        if page != HIDDEN:
            host.map(page, page, writable=page != DATA)
    made.state.system["vttbr_el2"] = host.root
    return made


def run_to_exception(made: Arm64Machine) -> tuple[int, int, int, int]:
    """Return target, ESR, FAR and HPFAR."""
    for _ in range(20):
        made.advance(1)
        if made.trace:
            event = made.trace[0]
            return event.to_el, event.esr, event.far, made.state.system["hpfar_el2"]
    raise AssertionError(made.state.describe())


def isv(size: int, register: int, *, sign: int = 0, wide: int = 0, ordered: int = 0) -> int:
    return 1 << 24 | size << 22 | sign << 21 | register << 16 | wide << 15 | ordered << 14


@pytest.mark.parametrize(
    ("source", "status", "syndrome"),
    [
        ("ldr x3, [x1]", 0x07, isv(3, 3, wide=1)),
        ("ldr w3, [x1]", 0x07, isv(2, 3)),
        ("ldrb w4, [x1]", 0x07, isv(0, 4)),
        ("ldrsh x4, [x1]", 0x07, isv(1, 4, sign=1, wide=1)),
        ("ldrsw x4, [x1]", 0x07, isv(2, 4, sign=1, wide=1)),
        ("ldurb w4, [x1]", 0x07, isv(0, 4)),
        ("ldursb w4, [x1]", 0x07, isv(0, 4, sign=1)),
        ("ldar w4, [x1]", 0x07, isv(2, 4, ordered=1)),
        ("str xzr, [x1]", 0x47, isv(3, 31, wide=1)),
        ("strh w9, [x1]", 0x47, isv(1, 9)),
        ("stlrb w9, [x1]", 0x47, isv(0, 9, ordered=1)),
        ("ldr x3, [x1], #8", 0x07, 0),  # it writes back: no syndrome of the access
        ("ldp x3, x4, [x1]", 0x07, 0),
        ("stp x3, x4, [x1]", 0x47, 0),
        ("ldxr x3, [x1]", 0x07, 0),
    ],
)
def test_a_stage_2_fault_tells_the_access(source, status, syndrome):
    made = with_stage2(f"nop\n{source}")
    made.state.x[1] = HIDDEN
    assert run_to_exception(made) == (2, 0x24 << 26 | IL | status | syndrome, HIDDEN, HIDDEN >> 12 << 4)
    assert made.state.system["elr_el2"] == LOAD + 4


def test_stage_2_permissions():
    made = with_stage2("ldr x3, [x1]\n str x3, [x1]")
    made.state.x[1] = DATA
    assert run_to_exception(made)[:2] == (2, 0x24 << 26 | IL | 0x4F | isv(3, 3, wide=1))


def test_a_fetch_through_stage_2():
    made = with_stage2("br x1")
    made.state.x[1] = HIDDEN
    assert run_to_exception(made) == (2, 0x20 << 26 | IL | 7, HIDDEN, HIDDEN >> 12 << 4)


def with_both(source: str, root: int) -> Arm64Machine:
    made = with_stage2(source, sctlr_el1=0x30D0_0801, tcr_el1=TCR, mair_el1=0xFF)
    guest = tables(made, aarch64_stage1(25), root)
    for page in (LOAD, DATA, DATA + 0x1000):
        guest.map(page, page, writable=page != LOAD)
    guest.map(0x5000, HIDDEN)
    made.state.system["ttbr0_el1"] = guest.registers[0] & ~3
    return made


def test_both_stages():
    """What stage 2 forbids and stage 1 allows goes to EL2, with the intermediate address; the reverse stays with EL1."""
    made = with_both("ldr x3, [x2]\n ldr x3, [x1]", RAM + 0x6_0000)
    made.state.x[1], made.state.x[2] = 0x5008, DATA
    assert run_to_exception(made) == (2, 0x24 << 26 | IL | 7 | isv(3, 3, wide=1), 0x5008, HIDDEN >> 12 << 4)
    assert made.cpu.mmu.references > 3 + 3 * 4
    made = with_both("str x3, [x1]", RAM + 0x6_0000)
    made.state.x[1] = LOAD
    assert run_to_exception(made)[:2] == (1, 0x25 << 26 | IL | 0x4F)


def test_a_table_behind_stage_2():
    """S1PTW: the walk of stage 1 meets a page that stage 2 does not map; HPFAR is the table's."""
    made = with_both("ldr x3, [x1]", HIDDEN - 0x1000)
    to, esr, far, hpfar = run_to_exception(made)
    assert (to, esr, far, hpfar) == (2, 0x20 << 26 | IL | 1 << 7 | 7, LOAD, HIDDEN >> 12 << 4)


def test_nonsense_in_vtcr():
    made = with_stage2("nop", vtcr_el2=63)
    assert run_to_exception(made)[:2] == (2, 0x20 << 26 | IL | 4)


# -- EL2's own stage 1 ---------------------------------------------------------------------------------------------------


def at_el2(source: str) -> Arm64Machine:
    made = machine(source, 2, sctlr_el2=0x30C5_0831, tcr_el2=25 | 5 << 16, mair_el2=0xFF)
    own = tables(made, aarch64_stage1_el2(25), RAM + 0x6_0000)
    own.map(LOAD, LOAD, writable=False)
    own.map(0x7000, DATA, executable=False)
    own.map(0x8000, DATA)
    made.state.system["ttbr0_el2"] = own.root
    return made


def test_el2_translates_by_itself():
    """One range and one privilege: AP[1] says nothing, what is writable may be executed, bit 54 is XN."""
    made = at_el2("str x2, [x1]\n ldr x3, [x4]\n br x5")
    made.state.x[1], made.state.x[2], made.state.x[4], made.state.x[5] = 0x7008, 77, 0x8008, 0x8008
    made.board.memory.write(DATA - RAM + 8, 8, 0)
    made.advance(3)
    assert (made.state.x[3], made.state.pc) == (77, 0x8008)
    for source, address, status in (("br x1", 0x7000, 0x0F), ("br x1", 0x9000, 7), ("br x1", 1 << 40, 4)):
        made = at_el2(source)
        made.state.x[1] = address
        assert run_to_exception(made)[:3] == (2, 0x21 << 26 | IL | status, address)
    made = at_el2("str x2, [x1]")
    made.state.x[1] = LOAD
    assert run_to_exception(made)[:2] == (2, 0x25 << 26 | IL | 0x4F)


# -- the rest ------------------------------------------------------------------------------------------------------------


def at_el1(source: str, el: int = 1, **system: int) -> Arm64Machine:
    made = machine(source, el, sctlr_el1=0x30D0_0801, tcr_el1=TCR, mair_el1=0xFF, **system)
    own = tables(made, aarch64_stage1(25), RAM + 0x6_0000)
    own.map(LOAD, LOAD, writable=False)
    own.map(0x7000, DATA, user=False)
    own.map(0x8000, DATA)
    own.map(0x9000, DATA, extra=1 << 2)  # attribute 1: MAIR's second byte is 0, Device memory
    made.state.system["ttbr0_el1"] = own.registers[0] & ~3
    return made


def test_address_translation_instructions():
    """PAR_EL1: the address, or F and the status; AT does not fault, and asks for another level's rights."""
    made = at_el1("at s1e1r, x1\n mrs x2, par_el1\n at s1e0w, x1\n mrs x3, par_el1\n at s1e1w, x4\n mrs x5, par_el1")
    made.state.x[1], made.state.x[4] = 0x7123, 0xA000
    made.advance(6)
    x = made.state.x
    assert x[2] & 0x0000_FFFF_FFFF_F001 == DATA
    assert x[3] & 0x7F == 1 | 0x0F << 1
    assert x[5] & 0x7F == 1 | 0x07 << 1
    assert not made.trace


def test_address_translation_under_stage_2():
    """AT S1E1R at EL1 gives the intermediate address; its walk goes through stage 2, and what that forbids is EL2's affair."""
    made = with_both("at s1e1r, x1\n mrs x2, par_el1", RAM + 0x6_0000)
    made.state.x[1] = 0x5008
    made.advance(2)
    assert made.state.x[2] & 0x0000_FFFF_FFFF_F001 == HIDDEN  # stage 2 does not map it: that is not asked
    made = with_both("at s1e1r, x1", RAM + 0x6_0000)
    tables_at = made.state.system["ttbr0_el1"]
    host = PageTables(aarch64_stage2(25, 1), Physical(made.board), Frames(RAM + 0x7_0000))
    for page in range(RAM, RAM + (1 << 20), 0x1000):
        if page != tables_at:
            host.map(page, page)
    made.advance(0)
    fetched = made.cpu.mmu.find(LOAD, 2, 1)  # the code is in the TLB, so that only AT walks
    made.state.system["vttbr_el2"] = host.root
    made.state.x[1] = DATA
    to, esr, far, hpfar = run_to_exception(made)
    assert (to, esr, far) == (2, 0x24 << 26 | IL | 1 << 8 | 1 << 7 | 1 << 6 | 7, DATA)
    assert (hpfar, fetched) == (tables_at >> 12 << 4, (LOAD, False))


def test_unprivileged_accesses():
    """LDTR and STTR at EL1 have the rights of EL0."""
    made = at_el1("ldr x0, [x1]\n ldtr x0, [x2]\n sttr x0, [x1]")
    made.state.x[1], made.state.x[2] = 0x7000, 0x8000
    made.advance(2)
    assert not made.trace
    assert run_to_exception(made)[:3] == (1, 0x25 << 26 | IL | 0x4F, 0x7000)


def test_the_tlb_is_believed_until_it_is_told():
    """A changed entry is seen after TLBI, or after a write to a register of translation; not before."""
    source = "ldr x0, [x1]\n str x5, [x6]\n ldr x2, [x1]\n {}\n ldr x3, [x1]"
    for told in ("tlbi vae1, x7", "tlbi vmalle1", "msr ttbr0_el1, x8", "nop"):
        made = at_el1(source.format(told))
        space = made.state.system["ttbr0_el1"]
        own = PageTables(aarch64_stage1(25), Physical(made.board), Frames(RAM + 0x6_0000))
        own.registers[0] = space | 3
        place = next(entry.place for entry in own.entries() if entry.is_leaf and entry.address == 0x8000)
        own.map(0xB000, place & -0x1000)
        memory = made.board.memory
        memory.write(DATA - RAM, 8, 1)
        memory.write(DATA - RAM + 0x1000, 8, 2)
        entry = memory.read(place - RAM, 8)
        made.state.x[1], made.state.x[5], made.state.x[6] = 0x8000, entry + 0x1000, 0xB000 | place & 0xFFF
        made.state.x[7], made.state.x[8] = 8, space
        made.advance(5)
        x = made.state.x
        assert (x[0], x[2], x[3]) == (1, 1, 1 if told == "nop" else 2), told


def test_device_memory_wants_alignment():
    made = at_el1("ldr x0, [x1]\n ldr x0, [x2]\n ldr x0, [x3]\n ldr x0, [x4]")
    made.state.x[1:5] = [0x8001, 0x9008, 0x8FFC, 0x9001]  # the third crosses into the Device page
    made.advance(2)
    assert not made.trace
    assert run_to_exception(made)[:3] == (1, 0x25 << 26 | IL | 0x21, 0x9000)
    made = at_el1("ldr x0, [x1]")
    made.state.system["sctlr_el1"] |= 2  # A
    made.state.x[1] = 0x8001
    assert run_to_exception(made)[:3] == (1, 0x25 << 26 | IL | 0x21, 0x8001)


def test_an_access_over_two_pages():
    made = at_el1("str x2, [x1]\n ldr x3, [x1]")
    made.state.x[1], made.state.x[2] = 0x7FFC, 0x1122_3344_5566_7788
    made.board.memory.write(DATA - RAM, 8, 0)
    made.advance(2)
    assert made.state.x[3] == 0x1122_3344_5566_7788
    assert made.board.memory.read(DATA - RAM, 4) == 0x1122_3344
    made = at_el1("str x2, [x1]")
    made.state.x[1], made.state.x[2] = 0x9FFC - 0x2000, 5
    made.state.x[1] = 0x6FFC  # the first page is not there
    assert run_to_exception(made)[2] == 0x6FFC


def test_exclusives():
    made = at_el1("ldxr x0, [x1]\n stxr w2, x5, [x1]\n stxr w3, x5, [x1]\n ldxr x0, [x1]\n clrex\n stxr w4, x5, [x1]")
    made.state.x[1] = 0x8000
    made.advance(6)
    assert made.state.x[2:5] == [0, 1, 1]


def test_tags_are_ignored_where_tcr_says_so():
    made = at_el1("ldr x0, [x1]")
    made.state.system["tcr_el1"] |= 1 << 37
    made.state.x[1] = 0xAB00_0000_0000_8000
    made.advance(1)
    assert not made.trace
    event, _ = first("ldr x0, [x1]\n", sctlr_el1=0x30D0_0801, tcr_el1=TCR)
    assert event.esr >> 26 == 0x21  # there are no tables at all


def test_zeroing_a_block():
    made = at_el1("dc zva, x1\n mrs x2, dczid_el0")
    made.state.x[1] = 0x8047
    made.board.memory.write_bytes(DATA - RAM, b"\xff" * 256)
    made.advance(2)
    assert made.board.memory.read_bytes(DATA - RAM, 256) == b"\xff" * 64 + bytes(64) + b"\xff" * 128
    assert made.state.x[2] == 4
    assert assemble("dc zva, x1").code == (0xD50B_7421).to_bytes(4, "little")
