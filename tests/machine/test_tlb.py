"""The TLB, as software feels it: what it may believe, for how long; and code that changes under the processor's feet.

Intel SDM vol. 3, 4.10 (caching translation information) and 8.1.3 (self-modifying code).
"""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, Computer
from vmlab.errors import StateError
from vmlab.isa.x86.faults import PF
from vmlab.isa.x86.registers import CR0_PG, CR0_WP, CR4_PGE, CR4_PSE, CS, EAX, EBX, ECX
from vmlab.machine.tlb import Tlb, TlbEntry
from vmlab.machine.tlb_geometry import TlbArray, TlbGeometry

P, RW, US, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
DIRECTORY, LOW_TABLE, TABLE, OTHER = 0x4_0000, 0x4_1000, 0x4_2000, 0x4_4000
PAGE, OLD, NEW = 0x40_0000, 0x6_0000, 0x6_1000
FULL = P | RW | US


def paged(source: str, ring: int = 0, cr4: int = CR4_PGE, flags: int = 0) -> Computer:
    """A computer whose page at 4 MiB maps to OLD, by tables that lie in the low memory (which maps to itself)."""
    computer = Computer()
    computer.load(source, ring)
    memory, cpu = computer.memory, computer.cpu
    for directory in (DIRECTORY, OTHER):
        memory.write(directory, 4, LOW_TABLE | FULL)
        memory.write(directory + 4, 4, TABLE | FULL)
    for page in range(256):
        memory.write(LOW_TABLE + 4 * page, 4, page << 12 | FULL)
    for page in range(1024):
        memory.write(TABLE + 4 * page, 4, OLD | FULL | flags)
    memory.write(OLD, 4, 0x01D)
    memory.write(NEW, 4, 0x2E4)
    cpu.registers[EBX] = PAGE
    cpu.set_cr3(DIRECTORY)
    cpu.set_cr4(cr4)
    cpu.set_cr0(cpu.cr0 | CR0_PG | CR0_WP)
    return computer


MAP_NEW = f"mov dword [{TABLE}], {NEW | FULL}\n"
READ = "mov ecx, [ebx]\n"


def read_after(source: str, *, cr4: int = CR4_PGE, flags: int = 0) -> int:
    """Read the page, change its entry, do something, read again: what is seen."""
    computer = paged(READ + MAP_NEW + source + READ + "here: jmp here", cr4=cr4, flags=flags)
    computer.cpu.registers[6] = OTHER
    computer.run_to("here")
    return computer.cpu.registers[ECX]


STALE, FRESH = 0x01D, 0x2E4


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("", STALE),
        ("invlpg [ebx]\n", FRESH),
        ("invlpg [ebx+0xFFF]\n", FRESH),
        ("invlpg [ebx+0x1000]\n", STALE),
        ("mov eax, cr3\n mov cr3, eax\n", FRESH),
        ("mov cr3, esi\n", FRESH),
        ("mov eax, cr4\n xor eax, 0x10\n mov cr4, eax\n", FRESH),
        ("mov eax, cr0\n xor eax, 0x10000\n mov cr0, eax\n", FRESH),
        ("mov eax, cr0\n mov cr0, eax\n", STALE),
        ("clts\n", STALE),
        ("wbinvd\n", STALE),
    ],
)
def test_a_stale_entry_stays_until_it_is_flushed(source: str, seen: int) -> None:
    assert read_after(source) == seen


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("mov eax, cr3\n mov cr3, eax\n", STALE),
        ("invlpg [ebx]\n", FRESH),
        ("mov eax, cr4\n xor eax, 0x80\n mov cr4, eax\n", FRESH),
        (
            "mov eax, cr0\n xor eax, 0x80000000\n mov cr0, eax\n jmp on\n on: xor eax, 0x80000000\n mov cr0, eax\n",
            FRESH,
        ),
    ],
)
def test_global_pages_outlive_a_load_of_cr3(source: str, seen: int) -> None:
    assert read_after(source, flags=G) == seen
    assert read_after("mov eax, cr3\n mov cr3, eax\n", cr4=0, flags=G) == FRESH  # G without PGE


def test_a_missing_page_is_not_remembered() -> None:
    """An entry that becomes present needs no INVLPG."""
    computer = paged(READ)
    computer.memory.write(TABLE, 4, 0)
    assert computer.trap().what == (PF, 0)
    computer.memory.write(TABLE, 4, NEW | FULL)
    computer.load(READ)
    computer.cpu.registers[EBX] = PAGE
    computer.step()
    assert computer.cpu.registers[ECX] == FRESH


def test_more_rights_are_found_without_invlpg() -> None:
    computer = paged(READ + f"mov dword [{TABLE}], {OLD | FULL}\n mov [ebx], eax\n here: jmp here")
    computer.memory.write(TABLE, 4, OLD | P)
    computer.run_to("here")
    assert computer.word(TABLE) == OLD | FULL | A | D


def test_fewer_rights_are_not_found_without_invlpg() -> None:
    source = f"mov [ebx], eax\n mov dword [{TABLE}], {OLD | P}\n {{}} mov [ebx], eax\n here: jmp here"
    paged(source.format("")).run_to("here")
    computer = paged(source.format("invlpg [ebx]\n"))
    assert computer.trap().what == (PF, 3)


def test_a_page_fault_drops_the_pages_entry() -> None:
    """SDM vol. 3, 4.10.4.1: after the user's fault the supervisor sees the tables as they are."""
    computer = paged(READ + f"mov dword [{TABLE}], 0\n")
    computer.memory.write(TABLE, 4, OLD | P | RW)
    computer.step(2)
    computer.load(READ, 3)
    computer.cpu.registers[EBX] = PAGE
    assert computer.trap().what == (PF, 4)
    computer.load(READ, 0)
    computer.cpu.registers[EBX] = PAGE
    assert computer.trap().what == (PF, 0)


def test_the_dirty_bit_is_not_looked_up_again() -> None:
    """Software that clears D without INVLPG may never see it set again."""
    computer = paged(f"mov [ebx], eax\n mov dword [{TABLE}], {OLD | FULL}\n mov [ebx], eax\n here: jmp here")
    computer.run_to("here")
    assert computer.word(TABLE) == OLD | FULL


def test_invlpg_drops_all_of_a_large_page() -> None:
    computer = paged(
        "mov ecx, [ebx]\n mov edx, [ebx+0x1000]\n"
        f"mov dword [{DIRECTORY + 4}], {TABLE | FULL}\n invlpg [ebx]\n mov ecx, [ebx]\n mov edx, [ebx+0x1000]\n here: jmp here",
        cr4=CR4_PSE,
    )
    computer.memory.write(DIRECTORY + 4, 4, FULL | PS)
    computer.memory.write(0x6_0000, 4, STALE)
    computer.cpu.registers[EBX] = PAGE + 0x6_0000
    computer.step(2)
    assert (computer.cpu.registers[ECX], computer.cpu.registers[2]) == (STALE, FRESH)
    computer.run_to("here")
    assert (computer.cpu.registers[ECX], computer.cpu.registers[2]) == (STALE, STALE)


def test_capacity_first_in_first_out() -> None:
    """64 entries: the page of the code was entered first, then the pages of a loop, and the oldest make room."""
    computer = paged("mov eax, [ebx]\n add ebx, 0x1000\n loop $-8\n here: jmp here")
    computer.cpu.registers[ECX] = 63
    computer.run_to("here")
    pages = list(computer.cpu.tlb.entries)
    assert pages == [CODE >> 12, *range(0x400, 0x400 + 63)]
    # A hit changes no age; the next page puts the code's out, whose next fetch puts the following out.
    computer.cpu.ip = CODE
    computer.step()
    assert list(computer.cpu.tlb.entries) == [*pages[1:], 0x400 + 63]
    computer.step()
    assert list(computer.cpu.tlb.entries) == [*pages[2:], 0x400 + 63, CODE >> 12]


def test_an_evicted_page_is_walked_again() -> None:
    computer = paged(
        READ
        + MAP_NEW
        + "mov esi, 0x410000\n mov edi, 64\n again: mov eax, [esi]\n add esi, 0x1000\n dec edi\n jnz again\n"
        + READ
        + "here: jmp here"
    )
    computer.run_to("here")
    assert computer.cpu.registers[ECX] == FRESH


def test_tlb_by_itself() -> None:
    tlb = Tlb(TlbGeometry((TlbArray(1, 2),)))
    entry = TlbEntry(0x1000, writable=True, user=True, executable=True, dirty=True, global_=False)
    assert [tlb.insert(page, entry) for page in (1, 2, 3, 4)] == [None, None, (1, 1), (2, 1)]
    tlb.insert(5, TlbEntry(0x2000, writable=False, user=False, executable=True, dirty=False, global_=True))
    tlb.flush(keep_global=True)
    assert len(tlb.entries) == 1
    assert tlb.find(5) is not None
    other = Tlb(tlb.geometry)
    other.load(tlb.save())
    assert (other.entries, other.counts) == (tlb.entries, tlb.counts)
    other.drop(5)
    assert other.entries == {}
    with pytest.raises(StateError):
        Tlb(TlbGeometry((TlbArray(1, 2, (0x1000,)),))).load(
            {**tlb.save(), "entries": [[9 << 65, 0, *[True] * 5, 1 << 21]]}
        )
    with pytest.raises(StateError):
        other.load({**tlb.save(), "entries": [[1, 2]]})
    with pytest.raises(StateError, match="do not fit into a set of 2"):
        other.load({**tlb.save(), "entries": [[page, 0, *[True] * 5, 0x1000] for page in range(3)]})
    assert other.entries == {}


def translation(page: int) -> TlbEntry:
    return TlbEntry(page << 12, writable=True, user=True, executable=True, dirty=True, global_=False)


def test_which_entry_makes_room() -> None:
    """After pages 0 to 3, and one more look at 0: the first, the one used longest ago, a drawn one, the only one of its set."""
    for sets, ways, replacement, expected in ((1, 4, "fifo", 0), (1, 4, "lru", 1), (4, 1, "fifo", 1), (2, 2, "lru", 1)):
        tlb = Tlb(TlbGeometry((TlbArray(sets, ways),), replacement))
        for page in range(4):
            assert tlb.insert(page, translation(page)) is None
        assert tlb.find(0) == translation(0)
        assert tlb.insert(5, translation(5)) == (expected, 1), (sets, replacement)
    tlb = Tlb(TlbGeometry((TlbArray(1, 4),), "random"))
    gone = [tlb.insert(page, translation(page)) for page in range(400)]
    ages = [page - victim[0] for page, victim in enumerate(gone) if victim]
    assert len({*ages}) > 8, "a drawn entry may be old or young"
    again = Tlb(tlb.geometry)
    assert [again.insert(page, translation(page)) for page in range(400)] == gone


def test_a_large_page_is_one_entry_where_an_array_holds_its_size() -> None:
    entry = translation(0x403)._replace(span=1 << 22)
    whole, parts = Tlb(), Tlb(TlbGeometry((TlbArray(1, 8, (0x1000,)),)))
    for tlb in (whole, parts):
        tlb.insert(0x403, entry)
        assert tlb.find(0x403).frame == 0x40_3000
    assert whole.find(0x7FF).frame == 0x7F_F000
    assert parts.find(0x7FF) is None
    parts.insert(0x7FF, entry._replace(frame=0x7F_F000))
    assert (whole.drop_page(0x500), sorted(parts.drop_page(0x500))) == ([(0x400, 0x400)], [(0x403, 1), (0x7FF, 1)])


# -- code ----------------------------------------------------------------------------------------------------------------------------------


def test_stale_code_is_executed_until_invlpg() -> None:
    source = f"call ebx\n mov dword [{TABLE}], {NEW | FULL}\n {{}} call ebx\n here: jmp here"
    for middle, result in (("", 2), ("invlpg [ebx]\n", 11)):
        computer = paged(source.format(middle))
        computer.memory.write_bytes(OLD, b"\x83\xc0\x01\xc3")  # add eax, 1
        computer.memory.write_bytes(NEW, b"\x83\xc0\x0a\xc3")  # add eax, 10
        computer.run_to("here")
        assert computer.cpu.registers[EAX] == result


def test_user_code_needs_the_users_right_even_if_the_supervisor_ran_it() -> None:
    computer = paged("call ebx\n here: jmp here")
    computer.memory.write(TABLE, 4, OLD | P)
    computer.memory.write_bytes(OLD, b"\xc3")
    computer.run_to("here")
    computer.load("jmp ebx", 3)
    computer.cpu.registers[EBX] = PAGE
    trap = computer.trap()
    assert (trap.what, trap.ip, computer.cpu.cr2) == ((PF, 5), PAGE, PAGE)


SELF_MODIFYING = {
    "the next instruction": "mov byte [next], 0x40\n next: nop\n here: jmp here",
    "its second byte": "mov byte [next+1], 0xC0\n next: db 0xFF, 0xC8\n here: jmp here",  # dec eax becomes inc eax
    "what has run": "mov ecx, 2\n again:\n next: nop\n mov byte [next], 0x40\n loop again\n here: jmp here",
    "by a string instruction": "mov edi, next\n mov al, 0x40\n stosb\n mov eax, 0\n next: nop\n here: jmp here",
    "by a push": "mov esp, next+4\n push 0x90909040\n next: nop\n nop\n nop\n nop\n here: jmp here",
    "over two pages": "jmp far_away\n times 0xFF0 - ($ - $$) nop\n far_away: mov dword [0x10FFE], 0x40909090\n jmp next\n"
    " times 0xFFE - ($ - $$) nop\n next: nop\n nop\n nop\n nop\n here: jmp here",
}


@pytest.mark.parametrize("paging", [False, True])
@pytest.mark.parametrize("name", SELF_MODIFYING)
def test_self_modifying_code(name: str, paging: bool) -> None:
    """Old code is never executed: IA-32 processors see to that, at the latest after a jump; ours at once."""
    computer = paged(SELF_MODIFYING[name]) if paging else Computer()
    if not paging:
        computer.load(SELF_MODIFYING[name])
    computer.machine.run(60)
    assert (computer.cpu.ip, computer.vector) == (computer.symbols["here"], None)
    assert computer.cpu.registers[EAX] == 1


def test_a_string_instruction_that_overwrites_itself() -> None:
    """The bytes behind it change, and the instruction too: the next element is another instruction."""
    computer = Computer()
    computer.load("start: rep stosb\n nop\n here: jmp here")
    computer.cpu.registers[:8] = [0x40, 3, 0, 0, 0x8000, 0, 0, computer.symbols["start"]]
    computer.machine.run(1)
    # F3 became INC EAX; the AA behind it is STOSB still.
    assert computer.memory.read_bytes(CODE, 3) == b"\x40\xaa\x90"
    computer.machine.run(1)
    assert computer.cpu.registers[EAX] == 0x41


def test_code_changed_through_another_linear_address() -> None:
    computer = paged("call ebx\n mov byte [esi+2], 10\n call ebx\n mov byte [ebx+2], 100\n call esi\n here: jmp here")
    computer.memory.write_bytes(OLD, b"\x83\xc0\x01\xc3")
    computer.cpu.registers[6] = PAGE + 0x5000  # the same frame
    computer.run_to("here")
    assert computer.cpu.registers[EAX] == 1 + 10 + 100


def test_code_changed_from_outside() -> None:
    """A device or a debugger writes memory behind the processor's back."""
    computer = paged("call ebx\n call ebx\n here: jmp here")
    computer.memory.write_bytes(OLD, b"\x83\xc0\x01\xc3")
    computer.step(3)
    computer.memory.write(OLD + 2, 1, 10)
    computer.run_to("here")
    assert computer.cpu.registers[EAX] == 11


def test_code_is_decoded_by_the_segments_default_size() -> None:
    """The same bytes of one page run as 32-bit and as 16-bit code: neither is taken for the other."""
    computer = Computer()
    computer.descriptor(0x50, 0x008F_9B00_0000_FFFF)  # D = 0
    computer.load("db 0xB8, 1, 0, 0x31, 0xC9")
    for _ in range(2):
        computer.enter(0)
        computer.cpu.ip = CODE
        computer.step()  # mov eax, 0xC9310001
        assert (computer.cpu.registers[EAX], computer.cpu.ip) == (0xC931_0001, CODE + 5)
        computer.set_segment(CS, 0x50)
        computer.cpu.ip, computer.cpu.registers[ECX] = CODE, 5
        computer.step(2)  # mov ax, 1; xor cx, cx
        assert (computer.cpu.registers[ECX], computer.cpu.ip) == (0, CODE + 5)
