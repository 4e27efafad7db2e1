"""Paging, rule by rule (Intel SDM vol. 3, 4.3 and 4.6 to 4.8); random tables are in `test_random_paging.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.machine.computer import Computer
from vmlab.isa.x86.faults import PF, Fault
from vmlab.isa.x86.registers import CR0_PG, CR0_WP, CR4_PSE, EAX, EBX
from vmlab.machine.cpu_model import CPU_MODELS, CpuModel
from vmlab.machine.page_formats import IA32, ia32_pse
from vmlab.machine.paging import walk

P, RW, US, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
DIRECTORY, FIRST_TABLE = 0x4_0000, 0x4_1000
PAGE = 0x40_0000  # the linear address of one page, through entry 1 of the directory and entry 0 of its table
TABLE = FIRST_TABLE + 0x1000
FRAME = 0x6_0000


def paged(
    source: str,
    ring: int = 0,
    *,
    pde: int = P | RW | US,
    pte: int = P | RW | US,
    cr0: int = CR0_WP,
    cr4: int = 0,
    model: CpuModel = CPU_MODELS["pentium-4"],
) -> Computer:
    """A computer with one page mapped, about to access it; the low memory maps to itself."""
    computer = Computer(model)
    computer.load(source, ring)
    memory, cpu = computer.memory, computer.cpu
    memory.write(DIRECTORY, 4, FIRST_TABLE | P | RW | US)
    for page in range(256):
        memory.write(FIRST_TABLE + 4 * page, 4, page << 12 | P | RW | US)
    memory.write(DIRECTORY + 4, 4, TABLE | pde)
    memory.write(TABLE, 4, FRAME | pte)
    cpu.registers[EBX] = PAGE
    cpu.set_cr3(DIRECTORY)
    cpu.set_cr4(cr4)
    cpu.set_cr0(cpu.cr0 | CR0_PG | cr0)
    return computer


RIGHTS = [(pde, pte) for pde in (0, RW, US, RW | US) for pte in (0, RW, US, RW | US)]


@pytest.mark.parametrize(("pde", "pte"), RIGHTS)
def test_rights(pde: int, pte: int) -> None:
    """Both entries must grant it; without WP the supervisor may write everywhere (SDM vol. 3, 4.6.1)."""
    writable, user_page = pde & pte & RW, pde & pte & US
    for ring in range(4):
        for write_protect in (0, CR0_WP):
            for write in (False, True):
                user = ring == 3
                allowed = (not user or user_page) and (not write or writable or (not user and not write_protect))
                source = "mov [ebx], eax" if write else "mov eax, [ebx]"
                computer = paged(source, ring, pde=P | pde, pte=P | pte, cr0=write_protect)
                computer.step()
                assert (computer.vector is None) == bool(allowed), (ring, write_protect, write)
                if not allowed:
                    assert computer.trap().what == (PF, 1 | 2 * write | 4 * user)
                    assert computer.cpu.cr2 == PAGE


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("which", ["pde", "pte"])
@pytest.mark.parametrize(
    ("source", "write"),
    [
        ("mov eax, [ebx]", 0),
        ("mov [ebx], eax", 2),
        ("xchg [ebx], eax", 2),
        ("add [ebx], eax", 2),
        ("cmp [ebx], eax", 0),
        ("test [ebx], al", 0),
        ("bt [ebx], eax", 0),
        ("bts [ebx], eax", 2),
    ],
)
def test_not_present(source: str, write: int, which: str, ring: int) -> None:
    computer = paged(source, ring, **{which: RW | US})
    assert computer.trap().what == (PF, write | 4 * (ring == 3))
    assert computer.cpu.cr2 == PAGE


@pytest.mark.parametrize(
    ("source", "marks"),
    [("mov eax, [ebx]", A), ("mov [ebx], eax", A | D), ("add [ebx], eax", A | D), ("cmpxchg [ebx], ecx", A | D)],
)
def test_accessed_and_dirty(source: str, marks: int) -> None:
    computer = paged(source)
    computer.step()
    assert computer.word(TABLE) == FRAME | P | RW | US | marks
    assert computer.word(DIRECTORY + 4) == TABLE | P | RW | US | A


MODIFYING = (
    "add [ebx], eax", "inc dword [ebx]", "not byte [ebx]", "neg word [ebx]", "xchg [ebx], eax", "xadd [ebx], eax",
    "cmpxchg [ebx], ecx", "lock cmpxchg [ebx], ecx", "cmpxchg8b [ebx]", "shl dword [ebx], 1", "rcr byte [ebx], cl",
    "shld [ebx], eax, 3", "btc [ebx], ecx", "bts dword [ebx], 3", "sbb [ebx], al",
)  # fmt: skip


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("source", MODIFYING)
def test_what_reads_and_writes_faults_as_a_write(source: str, ring: int) -> None:
    """W is set in the error code, and nothing is marked; CMPXCHG writes even where it leaves the value."""
    for pte in (P | US, US):
        computer = paged(source, ring, pte=pte)
        computer.memory.write(FRAME, 4, 1)
        assert computer.trap().what == (PF, (pte & P) | 2 | 4 * (ring == 3))
        assert computer.word(TABLE) == FRAME | pte
        assert computer.word(FRAME) == 1


def test_dirty_is_set_by_the_first_write_after_reads() -> None:
    computer = paged("mov eax, [ebx]\n mov eax, [ebx]\n mov [ebx], eax")
    computer.step(2)
    assert computer.word(TABLE) & (A | D) == A
    computer.step()
    assert computer.word(TABLE) & (A | D) == A | D


def test_a_refused_access_marks_the_table_used_and_not_the_page() -> None:
    computer = paged("mov [ebx], eax", 3, pte=P | US)
    assert computer.trap().what == (PF, 7)
    assert computer.word(TABLE) == FRAME | P | US
    assert computer.word(DIRECTORY + 4) & A


OLD_PENTIUM = replace(CPU_MODELS["pentium-4"], features=CPU_MODELS["pentium-4"].features - {"pse36"})
WIDE = replace(CPU_MODELS["pentium-4"], physical_bits=46)


@pytest.mark.parametrize("bit", range(12, 22))
@pytest.mark.parametrize(
    ("model", "first_reserved"),
    [(OLD_PENTIUM, 13), (CPU_MODELS["pentium-4"], 17), (WIDE, 21)],
    ids=("old", "PSE-36", "wide"),
)
def test_large_page_and_its_reserved_bits(model: CpuModel, first_reserved: int, bit: int) -> None:
    """Bit 12 is the PAT bit; bits 21:(M-19) must be 0, M being 32 without PSE-36, 40 at most (SDM vol. 3, table 4-4)."""
    computer = paged("mov eax, [ebx]", 3, cr4=CR4_PSE, model=model)
    computer.memory.write(DIRECTORY + 4, 4, P | RW | US | PS | 1 << bit)
    computer.memory.write(0x6_1234, 4, 0x8765_4321)
    computer.cpu.registers[EBX] = PAGE + 0x6_1234
    computer.step()
    if bit == 12:
        assert computer.cpu.registers[EAX] == 0x8765_4321
        assert computer.word(DIRECTORY + 4) == P | RW | US | PS | A | 1 << 12
    elif bit < first_reserved:
        assert computer.cpu.registers[EAX] == 0xFFFF_FFFF  # above 4 GiB there is nothing
        assert computer.cpu.tlb.find(PAGE + 0x6_1234 >> 12).frame == (1 << bit + 19) + 0x6_1000
    else:
        assert computer.trap().what == (PF, 1 | 4 | 8)
        assert computer.cpu.cr2 == PAGE + 0x6_1234


def test_ps_means_nothing_without_pse_nor_in_a_page_table() -> None:
    computer = paged("mov eax, [ebx]", pde=P | RW | US | PS, pte=P | RW | US | PS)
    computer.memory.write(FRAME, 4, 77)
    computer.step()
    assert computer.cpu.registers[EAX] == 77


def test_descriptor_tables_are_read_as_supervisor_from_any_ring() -> None:
    computer = paged("mov ds, ax", 3)
    computer.cpu.registers[EAX] = 0x43
    computer.memory.write(FIRST_TABLE + 4, 4, 0x1000 | P | RW)
    computer.step()
    assert computer.vector is None
    computer = paged("mov ds, ax", 3)
    computer.cpu.registers[EAX] = 0x43
    computer.memory.write(FIRST_TABLE + 4, 4, 0)
    computer.cpu.invalidate_page(0x1000)
    with pytest.raises(Fault) as caught:
        computer.cpu.execute()
    assert (caught.value.vector, caught.value.error_code, computer.cpu.cr2) == (PF, 0, 0x1040)


@pytest.mark.parametrize("split", range(1, 7))
def test_fetch_over_two_pages(split: int) -> None:
    """The second page's fault shows its first byte in CR2 and the instruction's first in EIP."""
    computer = paged("nop", 3)
    code = bytes.fromhex("c7050000400078563412")  # mov dword [0x400000], 0x12345678
    start = 0x1_2000 - split
    computer.memory.write_bytes(start, code)
    computer.cpu.ip = start
    computer.memory.write(FIRST_TABLE + 4 * 0x12, 4, 0x1_2000 | P | RW)
    trap = computer.trap()
    assert (trap.what, trap.ip, computer.cpu.cr2) == ((PF, 5), start, 0x1_2000)
    computer.memory.write(FIRST_TABLE + 4 * 0x12, 4, 0x1_2000 | P | RW | US)
    computer.enter(3)
    computer.cpu.ip = start
    computer.step()
    assert (computer.cpu.ip, computer.word(FRAME)) == (start + 10, 0x1234_5678)


def test_an_instruction_that_ends_with_its_page_needs_no_other() -> None:
    computer = paged("nop", 3)
    computer.memory.write_bytes(0x1_1FFE, b"\x89\xc8")
    computer.memory.write(FIRST_TABLE + 4 * 0x12, 4, 0)
    computer.cpu.ip = 0x1_1FFE
    computer.step()
    assert computer.cpu.ip == 0x1_2000


def test_walk_can_look_without_touching() -> None:
    computer = paged("nop")
    before = computer.memory.read_bytes(DIRECTORY, 0x3000)
    found = walk(
        IA32, DIRECTORY, PAGE + 0x123, computer.machine.bus.read, None, is_write=True, is_user=True, write_protect=True
    )
    assert (found.frame, found.writable, found.user, found.page_size) == (FRAME, True, True, 0x1000)
    assert [(step.level, step.slot, step.address) for step in found.steps] == [
        ("page directory", 1, DIRECTORY + 4),
        ("page table", 0, TABLE),
    ]
    assert computer.memory.read_bytes(DIRECTORY, 0x3000) == before
    computer.memory.write(DIRECTORY + 4, 4, 0xFFC0_0000 | P | PS | G)
    found = walk(
        ia32_pse(32),
        DIRECTORY,
        PAGE + 0x3F_F123,
        computer.machine.bus.read,
        None,
        is_write=False,
        is_user=False,
        write_protect=True,
    )
    assert (found.frame, found.writable, found.user, found.global_, found.page_size) == (
        0xFFFF_F000,
        False,
        False,
        True,
        0x40_0000,
    )


def test_tables_without_memory_read_as_ones() -> None:
    computer = paged("mov eax, [ebx]")
    computer.memory.write(DIRECTORY + 4, 4, 0x3000_0000 | P)
    computer.step()
    assert (computer.vector, computer.cpu.registers[EAX]) == (None, 0xFFFF_FFFF)
