"""PAE and 4-level paging, NX, SMEP, SMAP, PCIDs: worked by hand from the manual (Intel SDM vol. 3, chapter 4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.machine.computer import CODE, GDT, STACK, Computer
from tests.machine.page_tables import NX, PS, A, D, G, P
from tests.machine.page_tables import RW as W
from tests.machine.page_tables import US as U
from tests.machine.test_msrs import refused
from vmlab.isa.x86.faults import GP, PF, UD, Fault
from vmlab.isa.x86.registers import (
    AC,
    CR0_CD,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    CS,
    EAX,
    EBX,
    ECX,
    EDX,
    EFER_LME,
    EFER_NXE,
    MSR_TSC_AUX,
)
from vmlab.machine.cpu_model import CPU_MODELS, CpuModel

PENTIUM, MODERN = CPU_MODELS["pentium-4"], CPU_MODELS["broadwell"]
POINTERS, DIRECTORY, LOW, HIGH_DIRECTORY, TABLE, TOP = (0x4_0000 + 0x1000 * n for n in range(6))
PAGE = 0x4000_0000  # entry 1 of the pointers, 0 of its directory, 0 of the table
FRAME, OTHER = 0x6_0000, 0x6_1000
FULL = P | W | U
LONG = EFER_LME


def paged(
    source: str,
    ring: int = 0,
    *,
    entry: int = FRAME | FULL,
    low: int = FULL,
    cr4: int = 0,
    efer: int = 0,
    cr0: int = CR0_WP,
    model: CpuModel = MODERN,
    flags: int = 2,
) -> Computer:
    """A computer with PAE paging, or with `LONG` 4-level paging (in compatibility mode), and one page mapped."""
    computer = Computer(model)
    computer.load(source, ring, flags=flags)
    memory, cpu = computer.memory, computer.cpu
    rights = FULL if efer & LONG else P
    memory.write(POINTERS, 8, DIRECTORY | rights)
    memory.write(POINTERS + 8, 8, HIGH_DIRECTORY | rights)
    memory.write(DIRECTORY, 8, LOW | FULL)
    for page in range(256):
        memory.write(LOW + 8 * page, 8, page << 12 | low)
    memory.write(HIGH_DIRECTORY, 8, TABLE | FULL)
    memory.write(TABLE, 8, entry)
    memory.write(TOP, 8, POINTERS | FULL)
    memory.write(FRAME, 4, 0x01D)
    memory.write(OTHER, 4, 0x2E4)
    cpu.registers[EBX] = PAGE
    cpu.set_cr4(CR4_PAE | cr4 & ~CR4_PCIDE)
    if efer:
        cpu.set_efer(efer)
    cpu.set_cr3(TOP if efer & LONG else POINTERS)
    cpu.set_cr0(cpu.cr0 | CR0_PG | cr0)
    cpu.set_cr4(CR4_PAE | cr4)
    return computer


def fault(computer: Computer, steps: int = 1) -> tuple[int, int | None] | None:
    """Execute so many instructions: return vector and error code of the fault at the last one, None without."""
    for _ in range(steps - 1):
        computer.cpu.execute()
    try:
        computer.cpu.execute()
    except Fault as failure:
        return failure.vector, failure.error_code
    return None


# -- the page-directory-pointer table of PAE paging ------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(64))
def test_reserved_bits_of_a_pointer_are_looked_at_when_cr3_is_loaded(bit: int) -> None:
    """Bits 2:1, 8:5 and 63:MAXPHYADDR (SDM vol. 3, table 4-8); in one that is not present nothing is reserved."""
    reserved = bit in (1, 2, 5, 6, 7, 8) or bit >= 36
    for present in (P, 0):
        computer = paged("mov cr3, eax", model=PENTIUM)
        computer.memory.write(POINTERS + 24, 8, 1 << bit | present)
        before = list(computer.cpu.pdptes)
        computer.cpu.registers[EAX] = POINTERS | 8
        expected = (GP, 0) if reserved and (present or bit == 0) else None
        assert fault(computer) == expected
        changed = expected is None
        assert computer.cpu.cr3 == (POINTERS | 8 if changed else POINTERS)
        assert computer.cpu.pdptes == ([*before[:3], 1 << bit | present] if changed else before)


def test_pointers_are_kept_in_registers_until_cr3_is_loaded() -> None:
    read = "mov ecx, [ebx]\n"
    for middle, found in (
        ("invlpg [ebx]\n", None),
        ("mov eax, cr3\n mov cr3, eax\n", (PF, 0)),
        ("mov eax, cr4\n xor eax, 0x80\n mov cr4, eax\n", (PF, 0)),
        ("mov eax, cr0\n xor eax, 0x40000000\n mov cr0, eax\n invlpg [ebx]\n", (PF, 0)),
        ("mov eax, cr0\n xor eax, 0x2\n mov cr0, eax\n invlpg [ebx]\n", None),
    ):
        computer = paged(f"mov dword [{POINTERS + 8}], 0\n {middle} {read}", model=PENTIUM)
        assert fault(computer, middle.count("\n") + 2) == found, middle


def test_a_switch_to_pae_loads_and_checks_the_pointers() -> None:
    computer = Computer(PENTIUM)
    cpu, memory = computer.cpu, computer.memory
    memory.write(POINTERS, 8, DIRECTORY | P | W)
    cpu.set_cr3(POINTERS)  # nothing is loaded while paging is off
    cpu.set_cr4(CR4_PAE)
    assert cpu.pdptes == [0, 0, 0, 0]
    assert refused(cpu.set_cr0, cpu.cr0 | CR0_PG)
    assert not cpu.cr0 & CR0_PG
    memory.write(POINTERS, 8, DIRECTORY | P)
    cpu.set_cr0(cpu.cr0 | CR0_PG)
    assert cpu.pdptes[0] == DIRECTORY | P
    memory.write(POINTERS, 8, DIRECTORY | P | W)
    assert refused(cpu.set_cr4, CR4_PAE | CR4_PGE)
    assert refused(cpu.set_cr0, cpu.cr0 | CR0_CD)
    assert cpu.cr4 == CR4_PAE


def test_pointers_are_saved() -> None:
    computer, other = paged("nop", model=PENTIUM), Computer(PENTIUM)
    other.cpu.load(computer.cpu.save())
    assert other.cpu.pdptes == computer.cpu.pdptes != [0, 0, 0, 0]


def test_walks_of_pae_make_two_references_and_show_the_register() -> None:
    computer = paged("mov ecx, [ebx]", model=PENTIUM)
    computer.step()
    assert computer.cpu.walk_references == 4  # code and data, two each
    steps = computer.cpu.page_walk(PAGE, write=False, user=False).steps
    assert [(step.level, step.slot, step.in_register) for step in steps] == [
        ("page-directory-pointer table", 1, True),
        ("page directory", 0, False),
        ("page table", 0, False),
    ]
    assert computer.memory.read(POINTERS + 8, 8) == HIGH_DIRECTORY | P  # a pointer has no accessed bit


# -- reserved bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(32, 64))
@pytest.mark.parametrize(("efer", "model"), [(0, PENTIUM), (0, MODERN), (EFER_NXE, MODERN), (LONG, MODERN)])
@pytest.mark.parametrize("place", [HIGH_DIRECTORY, TABLE])
def test_reserved_bits_by_physical_width(place: int, efer: int, model: CpuModel, bit: int) -> None:
    computer = paged("mov [ebx], eax", 3, efer=efer, model=model)
    computer.memory.write(place, 8, computer.memory.read(place, 8) | 1 << bit)
    ignored = bit < model.physical_bits or (efer & LONG and 52 <= bit < 63) or (bit == 63 and efer & EFER_NXE)
    found = fault(computer)
    if ignored:  # an address beyond memory: a page that nobody answers for, a table of all ones
        ones = place == HIGH_DIRECTORY and bit < model.physical_bits
        assert found == ((PF, 0xF) if ones else None)
    else:
        assert found == (PF, 0xF)
        assert computer.cpu.cr2 == PAGE


@pytest.mark.parametrize("bit", range(12, 21))
@pytest.mark.parametrize("efer", [0, LONG])
def test_large_pages_of_2_mib(efer: int, bit: int) -> None:
    computer = paged("mov eax, [ebx]", efer=efer)
    computer.memory.write(HIGH_DIRECTORY, 8, FULL | PS | 1 << bit)
    computer.cpu.registers[EBX] = PAGE + OTHER
    assert fault(computer) == (None if bit == 12 else (PF, 9))
    if bit == 12:
        assert computer.cpu.registers[EAX] == 0x2E4
        assert computer.memory.read(HIGH_DIRECTORY, 8) == FULL | PS | 1 << bit | A


@pytest.mark.parametrize("bit", range(12, 30))
def test_pages_of_1_gib(bit: int) -> None:
    for model in (MODERN, replace(MODERN, features=MODERN.features - {"pdpe1gb"})):
        computer = paged("mov [ebx], eax", efer=LONG, model=model)
        computer.memory.write(POINTERS + 8, 8, FULL | PS | 1 << bit)
        computer.cpu.registers[EAX], computer.cpu.registers[EBX] = 77, PAGE + OTHER
        good = bit == 12 and model is MODERN
        assert fault(computer) == (None if good else (PF, 0xB))
        if good:
            assert computer.word(OTHER) == 77
            assert computer.memory.read(POINTERS + 8, 8) == FULL | PS | 1 << bit | A | D


def test_invlpg_drops_all_of_a_large_page_and_nothing_else() -> None:
    for efer, place, span in ((0, HIGH_DIRECTORY, 0x20_0000), (LONG, POINTERS + 8, 0x4000_0000)):
        computer = paged("nop", efer=efer)
        computer.memory.write(place, 8, FULL | PS)
        cpu = computer.cpu
        pages = [PAGE, PAGE + 0x5000, PAGE + span - 0x1000]
        for linear in pages:
            cpu.translate(linear, write=False, user=False)
        cpu.translate(CODE, write=False, user=False)
        cpu.invalidate_page(PAGE + 0x5123)
        assert [cpu.tlb.find(linear >> 12) for linear in pages] == [None] * 3
        assert cpu.tlb.find(CODE >> 12) is not None
        assert all(cpu.readable_place(linear >> 12) is None for linear in pages)


# -- execution: NX and SMEP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("place", [HIGH_DIRECTORY, TABLE])
@pytest.mark.parametrize("efer", [EFER_NXE, EFER_NXE | LONG])
def test_nx(efer: int, place: int, ring: int) -> None:
    """Any level forbids execution, and nothing else; the error code tells a fetch (SDM vol. 3, 4.7)."""
    computer = paged("jmp ebx", ring, efer=efer)
    computer.memory.write_bytes(FRAME, b"\x90\xeb\xfd")
    assert fault(computer, 2) is None
    computer.memory.write(place, 8, computer.memory.read(place, 8) | NX)
    assert fault(computer, 2) is None  # the TLB still says yes
    computer.cpu.invalidate_page(PAGE)
    computer.cpu.ip = PAGE
    assert fault(computer) == (PF, 0x11 | 4 * (ring == 3))
    assert computer.cpu.cr2 == PAGE
    computer.load("mov eax, [ebx]\n mov [ebx], eax", ring)
    assert fault(computer, 2) is None  # data are no code
    computer.cpu.ip = PAGE
    assert fault(computer) == (PF, 0x11 | 4 * (ring == 3))


def test_an_instruction_that_goes_on_in_a_page_without_execution() -> None:
    computer = paged("nop", efer=EFER_NXE)
    computer.memory.write(TABLE + 8, 8, OTHER | FULL | NX)
    computer.memory.write_bytes(FRAME + 0xFFE, b"\xb8\x01")
    computer.cpu.ip = PAGE + 0xFFE
    assert fault(computer) == (PF, 0x11)
    assert (computer.cpu.cr2, computer.cpu.ip) == (PAGE + 0x1000, PAGE + 0xFFE)


def test_the_error_code_does_not_tell_fetches_without_nx_and_smep() -> None:
    for cr4, efer, code in ((0, 0, 0), (CR4_SMEP, 0, 0x10), (0, EFER_NXE, 0x10)):
        computer = paged("jmp ebx", entry=0, cr4=cr4, efer=efer, low=P | W)
        assert fault(computer, 2) == (PF, code)


@pytest.mark.parametrize("efer", [0, EFER_NXE, LONG])
def test_smep(efer: int) -> None:
    """The supervisor does not execute users' pages, even where the user has just done so."""
    computer = paged("jmp ebx", 3, cr4=CR4_SMEP, efer=efer)
    computer.memory.write_bytes(FRAME, b"\xeb\xfe")
    assert fault(computer, 2) is None
    computer.enter(0)
    for cr4 in (0, CR4_SMEP):
        computer.cpu.set_cr4(CR4_PAE | cr4)
        computer.cpu.ip = PAGE
        assert fault(computer) == ((PF, 0x11) if cr4 else None)
    computer.memory.write(TABLE, 8, FRAME | P | W)
    computer.cpu.invalidate_page(PAGE)
    assert fault(computer) is None


def test_smep_with_32_bit_paging() -> None:
    computer = Computer(MODERN)
    computer.load("nop")
    computer.memory.write(POINTERS, 4, FULL | PS)
    computer.cpu.set_cr3(POINTERS)
    computer.cpu.set_cr4(CR4_PSE | CR4_SMEP)
    computer.cpu.set_cr0(computer.cpu.cr0 | CR0_PG)
    assert fault(computer) == (PF, 0x11)


# -- SMAP ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "code"), [("mov eax, [ebx]", 1), ("mov [ebx], eax", 3), ("inc dword [ebx]", 3)])
@pytest.mark.parametrize("flags", [2, 2 | AC])
def test_smap_asks_for_ac(flags: int, source: str, code: int) -> None:
    for ring in range(4):
        for low in (P | W, FULL):
            computer = paged(source, ring, cr4=CR4_SMAP, flags=flags, low=low)
            if ring == 3 and low != FULL:
                continue
            allowed = ring == 3 or flags & AC
            for _ in range(2):  # the second time the TLB holds the page
                assert fault(computer) == (None if allowed else (PF, code))
                computer.cpu.ip = CODE


def test_smap_is_asked_at_each_access() -> None:
    computer = paged("stac\n mov eax, [ebx]\n mov [ebx], eax\n clac\n mov [ebx], ecx", cr4=CR4_SMAP, low=P | W)
    assert fault(computer, 4) is None
    assert computer.cpu.registers[EAX] == 0x01D
    assert fault(computer) == (PF, 3)
    computer.cpu.flags |= AC
    assert fault(computer) is None


def test_smap_forbids_what_the_user_has_just_used() -> None:
    computer = paged("mov eax, [ebx]\n mov [ebx], eax", 3, cr4=CR4_SMAP)
    assert fault(computer, 2) is None
    computer.load("mov eax, [ebx]")
    assert fault(computer) == (PF, 1)


def test_ac_does_not_help_an_access_that_no_instruction_names() -> None:
    """A descriptor table in a user's page is not for the supervisor, in any ring (SDM vol. 3, 4.6.1)."""
    for ring in (0, 3):
        computer = paged("mov ds, eax", ring, cr4=CR4_SMAP, flags=2 | AC)
        computer.cpu.registers[EAX] = 0x43
        assert fault(computer) == (PF, 1)
        assert computer.cpu.cr2 == GDT + 0x40
        computer.memory.write(LOW + 8, 8, GDT | P | W)
        computer.cpu.ip = CODE
        assert fault(computer) is None


def test_without_paging_smap_forbids_nothing() -> None:
    computer = Computer(MODERN)
    computer.load("mov eax, [0x20000]")
    computer.cpu.set_cr4(CR4_SMAP)
    computer.step()
    assert computer.vector is None
    assert computer.cpu.readable_place(0x20) == 0x2_0000


@pytest.mark.parametrize("ring", [0, 1, 3])
def test_stac_and_clac_are_hidden_outside_ring_0(ring: int) -> None:
    for source in ("stac", "clac"):
        for model in (MODERN, CPU_MODELS["westmere"]):
            computer = Computer(model)
            computer.load(source, ring, flags=2 | AC if source == "clac" else 2)
            good = ring == 0 and model is MODERN
            assert fault(computer) == (None if good else (UD, None))
            assert bool(computer.cpu.flags & AC) == ((source == "stac") == good)


# -- PCIDs ------------------------------------------------------------------------------------------------------------------


def test_pcids_need_long_mode_and_a_clean_cr3() -> None:
    cpu = paged("nop").cpu
    assert refused(cpu.set_cr4, CR4_PAE | CR4_PCIDE)
    cpu = paged("nop", efer=LONG).cpu
    cpu.set_cr3(TOP | 0x18)
    assert refused(cpu.set_cr4, CR4_PAE | CR4_PCIDE)
    cpu.set_cr3(TOP)
    cpu.set_cr4(CR4_PAE | CR4_PCIDE)
    cpu.set_cr3(TOP | 0x18)
    cpu.set_cr4(CR4_PAE)  # the way back asks nothing
    cpu.set_cr3(TOP)
    cpu.set_cr4(CR4_PAE | CR4_PCIDE)
    assert refused(cpu.set_cr0, cpu.cr0 & ~CR0_PG)


def test_cr3_has_no_bits_beyond_the_physical_width() -> None:
    cpu = paged("nop", efer=LONG).cpu
    for bit in range(39, 64):
        assert refused(cpu.set_cr3, TOP | 1 << bit)
    cpu.set_cr4(CR4_PAE | CR4_PCIDE)
    cpu.set_cr3(TOP | 1 << 63)
    assert cpu.cr3 == TOP  # bit 63 is not kept
    assert refused(cpu.set_cr3, TOP | 1 << 62)


GLOBAL_PAGE = PAGE + 0x1000
ONE, TWO = 1, 0x123
SEEN = {0x01D: "stale", 0x2E4: "fresh"}


def spaces() -> Computer:
    """A computer with PCIDs whose TLB holds a page of its own in each of two spaces, and a global one."""
    computer = paged("nop", efer=LONG, cr4=CR4_PCIDE | CR4_PGE)
    computer.memory.write(TABLE + 8, 8, FRAME | FULL | G)
    for pcid in (ONE, TWO):
        computer.cpu.set_cr3(TOP | pcid)
        computer.cpu.read_system(PAGE, 4)
        computer.cpu.read_system(GLOBAL_PAGE, 4)
    for n in range(2):
        computer.memory.write(TABLE + 8 * n, 8, OTHER | FULL | G * n)
    return computer


def seen(computer: Computer) -> list[str]:
    """Return what space ONE, space TWO and the global page show: stale or fresh."""
    cpu, found = computer.cpu, []
    for pcid in (ONE, TWO):
        cpu.set_cr3(TOP | pcid | 1 << 63)
        found.append(SEEN[cpu.read_system(PAGE, 4)])
    return [*found, SEEN[cpu.read_system(GLOBAL_PAGE, 4)]]


KEEP = 1 << 63
STALE, FRESH = "stale", "fresh"


@pytest.mark.parametrize(
    ("action", "result"),
    [
        (lambda cpu: None, [STALE, STALE, STALE]),
        (lambda cpu: cpu.set_cr3(TOP | ONE), [FRESH, STALE, STALE]),
        (lambda cpu: cpu.set_cr3(TOP | TWO), [STALE, FRESH, STALE]),
        (lambda cpu: cpu.set_cr3(TOP | ONE | KEEP), [STALE, STALE, STALE]),
        (lambda cpu: cpu.invalidate_page(PAGE), [STALE, FRESH, STALE]),  # TWO is the present space
        (lambda cpu: cpu.invalidate_page(GLOBAL_PAGE), [STALE, STALE, FRESH]),
        (lambda cpu: cpu.invalidate_pcid(0, ONE, PAGE + 5), [FRESH, STALE, STALE]),
        (lambda cpu: cpu.invalidate_pcid(0, TWO, PAGE), [STALE, FRESH, STALE]),
        (lambda cpu: cpu.invalidate_pcid(0, TWO, GLOBAL_PAGE), [STALE, STALE, STALE]),
        (lambda cpu: cpu.invalidate_pcid(1, ONE, 0), [FRESH, STALE, STALE]),
        (lambda cpu: cpu.invalidate_pcid(1, TWO, 0), [STALE, FRESH, STALE]),
        (lambda cpu: cpu.invalidate_pcid(2, 0, 0), [FRESH, FRESH, FRESH]),
        (lambda cpu: cpu.invalidate_pcid(3, 0, 0), [FRESH, FRESH, STALE]),
        (lambda cpu: cpu.set_cr4(cpu.cr4 & ~CR4_PGE), [FRESH, FRESH, FRESH]),
        (lambda cpu: (cpu.set_cr4(cpu.cr4 & ~CR4_PCIDE), cpu.set_cr3(TOP), cpu.set_cr4(cpu.cr4 | CR4_PCIDE)),
         [FRESH, FRESH, FRESH]),
        (lambda cpu: cpu.set_cr4(cpu.cr4 | CR4_SMEP), [FRESH, FRESH, FRESH]),
        (lambda cpu: cpu.set_cr4(cpu.cr4 | CR4_SMAP), [STALE, STALE, STALE]),
        (lambda cpu: cpu.set_cr4(cpu.cr4), [STALE, STALE, STALE]),
    ],
    ids=[
        "nothing", "cr3 of one", "cr3 of two", "cr3, keep", "invlpg", "invlpg, global", "invpcid 0", "invpcid 0 here",
        "invpcid 0, global", "invpcid 1", "invpcid 1 here", "invpcid 2", "invpcid 3", "cr4.pge", "cr4.pcide",
        "cr4.smep", "cr4.smap", "cr4, no change",
    ],
)  # fmt: skip
def test_what_drops_what(action: object, result: list[str]) -> None:
    """SDM vol. 3, 4.10.4.1."""
    computer = spaces()
    action(computer.cpu)
    computer.cpu.set_cr4(computer.cpu.cr4 & ~CR4_SMAP)
    assert seen(computer) == result


def test_spaces_survive_saving() -> None:
    computer, other = spaces(), paged("nop", efer=LONG, cr4=CR4_PCIDE | CR4_PGE)
    other.memory.write_bytes(0, computer.memory.read_bytes(0, computer.memory.size))
    other.cpu.load(computer.cpu.save())
    assert other.cpu.tlb == computer.cpu.tlb
    assert seen(other) == [STALE, STALE, STALE]


def test_a_page_of_another_space_makes_room_without_harm() -> None:
    """The oldest entry goes, whosever it is; the dictionaries over the TLB stay a part of it."""
    computer = paged("nop", efer=LONG, cr4=CR4_PCIDE)
    cpu = computer.cpu
    for page in range(1, 512):
        computer.memory.write(TABLE + 8 * page, 8, FRAME | FULL)
    for pcid in (1, 2, 3):
        cpu.set_cr3(TOP | pcid | KEEP)
        for page in range(40):
            cpu.translate(PAGE + page * 0x1000, write=False, user=False)
            assert cpu.tlb.held <= cpu.tlb.capacity
            for each in cpu._maps[0][0]:
                assert cpu.tlb.find(each) is not None


# -- INVPCID and RDTSCP as instructions ------------------------------------------------------------------------------


def invpcid(computer: Computer, kind: int, pcid: int, linear: int = 0) -> tuple[int, int | None] | None:
    computer.load("invpcid ecx, [ebx]", computer.ring)
    computer.memory.write(FRAME, 8, pcid)
    computer.memory.write(FRAME + 8, 8, linear)
    computer.cpu.registers[ECX], computer.cpu.registers[EBX] = kind, PAGE
    return fault(computer)


def test_invpcid_refuses() -> None:
    computer = paged("nop", efer=LONG, cr4=CR4_PCIDE)
    assert [invpcid(computer, kind, 5) for kind in range(6)] == [None] * 4 + [(GP, 0)] * 2
    assert invpcid(computer, 0, 5, 0x8000_0000_0000) == (GP, 0)
    assert invpcid(computer, 1, 5, 0x8000_0000_0000) is None
    assert {invpcid(computer, kind, 0x1000) for kind in range(4)} == {(GP, 0)}
    computer.cpu.set_cr4(CR4_PAE)
    assert [invpcid(computer, kind, 5) for kind in range(4)] == [(GP, 0), (GP, 0), None, None]
    assert [invpcid(computer, kind, 0) for kind in range(4)] == [None] * 4
    computer.memory.write(TABLE, 8, 0)
    assert invpcid(computer, 2, 0) == (PF, 0)


def test_invpcid_is_privileged_and_a_feature() -> None:
    computer = paged("nop", 3)
    assert invpcid(computer, 2, 0) == (GP, 0)
    computer = paged("nop", model=CPU_MODELS["westmere"])
    assert invpcid(computer, 2, 0) == (UD, None)


def test_rdtscp() -> None:
    for model in (MODERN, PENTIUM):
        computer = Computer(model)
        computer.load("rdtscp", 3)
        if model is PENTIUM:
            assert fault(computer) == (UD, None)
            continue
        computer.cpu.write_msr(MSR_TSC_AUX, 0x77)
        computer.cpu.retired += 100
        assert fault(computer) is None
        assert [computer.cpu.registers[n] for n in (EAX, EDX, ECX)] == [100, 0, 0x77]
        computer.cpu.set_cr4(4)  # TSD
        computer.cpu.ip = CODE
        assert fault(computer) == (GP, 0)


@pytest.mark.parametrize("source", ["monitor", "mwait", "xgetbv", "xsetbv"])
def test_what_no_model_has_is_undefined(source: str) -> None:
    for model in CPU_MODELS.values():
        computer = Computer(model)
        computer.load(source)
        assert fault(computer) == (UD, None)


# -- beyond memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [0x1_0000_0000, 0xF_FFFF_F000, 0x8000_0000])
def test_a_page_beyond_memory_reads_as_ones_and_swallows_writes(frame: int) -> None:
    computer = paged("mov [ebx], ecx\n mov eax, [ebx]\n mov edx, [ebx+0xFFE]\n jmp ebx", entry=frame | FULL)
    computer.memory.write(TABLE + 8, 8, FRAME | FULL)
    assert fault(computer, 3) is None
    assert (computer.cpu.registers[EAX], computer.cpu.registers[EDX]) == (0xFFFF_FFFF, 0x001D_FFFF)
    assert fault(computer, 2) == (UD, None)  # FF FF


def outcome(computer: Computer, *, write: bool) -> int | None:
    """Read, or write over a page's end, as the user: return the vector of a fault."""
    try:
        if write:
            computer.cpu._write(PAGE + 0xFFE, 4, 0, user=True)
        else:
            computer.cpu._read(PAGE + 0x10, 4, user=True)
    except Fault as failure:
        return failure.vector
    return None


def test_any_entry_leads_to_a_result_or_a_page_fault() -> None:
    """All ones at each place, and each bit alone."""
    for efer in (0, EFER_NXE, LONG, LONG | EFER_NXE):
        for place in (POINTERS + 8, HIGH_DIRECTORY, TABLE, TOP):
            for entry in ((1 << 64) - 1, *(1 << bit | P for bit in range(64))):
                computer = paged("nop", efer=efer)
                computer.memory.write(place, 8, entry)
                for write in (False, True):
                    assert outcome(computer, write=write) in (None, PF)


def test_look_up_leaves_no_trace() -> None:
    computer = paged("nop", efer=LONG)
    before, saved = computer.memory.read_bytes(0, computer.memory.size), computer.cpu.save()
    assert computer.cpu.look_up(PAGE + 0x123) == FRAME + 0x123
    assert computer.cpu.look_up(0x7FFF_0000_0000) is None
    assert computer.memory.read_bytes(0, computer.memory.size) == before
    assert computer.cpu.save() == saved


# -- who is the user -----------------------------------------------------------------------------------------------------


def test_virtual_8086_mode_is_the_users_whatever_its_selectors_low_bits() -> None:
    """A supervisor's page that ring 0 has read just now is not for a virtual-8086 program with CS = 1000."""
    computer = Computer(PENTIUM)
    cpu, memory = computer.cpu, computer.memory
    for page in range(256):
        memory.write(LOW + 4 * page, 4, page << 12 | FULL)
    memory.write(LOW + 4 * 0x20, 4, 0x2_0000 | P | W)
    memory.write(POINTERS, 4, LOW | FULL)
    cpu.set_cr3(POINTERS)
    cpu.set_cr0(cpu.cr0 | CR0_PG)
    computer.load("mov eax, [0x20000]\n iret")
    for n, word in enumerate((0, 0x1000, 1 << 17 | 2, 0x7000, 0, 0x2000, 0x2000, 0, 0)):
        memory.write(STACK + 4 * n, 4, word)
    computer.step(2)
    assert (cpu.segments[CS].selector, cpu.cpl) == (0x1000, 3)
    memory.write_bytes(0x1_0000, b"\xa1\x00\x00")  # mov ax, [0]
    assert fault(computer) == (PF, 5)
