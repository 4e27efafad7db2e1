"""The breakpoints of the debug registers, and the alignment check (Intel SDM vol. 3, 17.2 and 17.3; 6.15, interrupt 17)."""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, DATA, Computer
from vmlab.isa.x86.faults import AC as ALIGNMENT
from vmlab.isa.x86.faults import DB, PF
from vmlab.isa.x86.registers import AC, CR0_AM, CR4_DE, EAX, EBX, ECX, IF, RF, TF

EXECUTION, WRITES, PORTS, ACCESSES = range(4)
LENGTHS = {1: 0, 2: 1, 8: 2, 4: 3}


def watch(computer: Computer, number: int, address: int, kind: int, length: int = 1, enable: int = 1) -> None:
    """Set a breakpoint, as MOV to the debug registers would."""
    debug = computer.cpu.debug
    debug[number] = address
    debug[7] |= enable << 2 * number | kind << 16 + 4 * number | LENGTHS[length] << 18 + 4 * number
    computer.cpu.flags_changed()


# -- data -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("kind", [WRITES, ACCESSES])
def test_data_breakpoints_by_every_overlap(kind: int, length: int) -> None:
    """The address is aligned by the length; a trap comes after the access, which has been done."""
    for size, register in ((1, "al"), (2, "ax"), (4, "eax")):
        for write in (False, True):
            for offset in range(-5, 9):
                computer = Computer()
                computer.load(f"mov [ebx], {register}" if write else f"mov {register}, [ebx]")
                computer.cpu.registers[EBX], computer.cpu.registers[EAX] = DATA + 0x100 + offset, 0x1122_3344
                watch(computer, 2, DATA + 0x103, kind, length)
                start = DATA + 0x103 & -length
                hit = start < DATA + 0x100 + offset + size and DATA + 0x100 + offset < start + length
                computer.step(2)
                assert (computer.vector == DB) == (hit and (write or kind == ACCESSES)), (size, write, offset)
                if computer.vector == DB:
                    assert computer.cpu.debug[6] & 0xF == 4
                    assert computer.trap().ip == CODE + (3 if size == 2 else 2)
                    assert not write or computer.memory.read(DATA + 0x100 + offset, 1) == 0x44


def test_several_breakpoints_at_once_and_one_that_is_off() -> None:
    computer = Computer()
    computer.load("movsd\n nop")
    computer.cpu.registers[6], computer.cpu.registers[7] = DATA, DATA + 0x10
    watch(computer, 0, DATA, ACCESSES, 4)
    watch(computer, 1, DATA + 0x10, WRITES, 4, enable=2)
    watch(computer, 2, DATA + 0x10, WRITES, 4, enable=0)
    watch(computer, 3, DATA, WRITES, 4)
    assert computer.trap().what == (DB, None)
    assert computer.cpu.debug[6] & 0xF == 3


def test_a_repeated_string_instruction_stops_after_the_element() -> None:
    computer = Computer()
    computer.load("rep stosb")
    computer.cpu.registers[ECX], computer.cpu.registers[7] = 100, DATA
    watch(computer, 0, DATA + 41, WRITES)
    assert computer.trap().ip == CODE
    assert computer.cpu.registers[ECX] == 58


def test_an_access_that_faults_is_no_access() -> None:
    computer = Computer()
    computer.load("mov [0x3FFFFE], eax")
    memory, cpu = computer.memory, computer.cpu
    memory.write(0x4_0000, 4, 0x4_1007)
    for page in range(256):
        memory.write(0x4_1000 + 4 * page, 4, page << 12 | 7)
    memory.write(0x4_1000 + 4 * 0x3FF, 4, 0x6_0007)
    cpu.set_cr3(0x4_0000)
    cpu.set_cr0(cpu.cr0 | 1 << 31)
    watch(computer, 0, 0x3F_FFFE, WRITES)
    assert computer.trap().what == (PF, 2)  # the second page is missing
    assert cpu.debug[6] & 0xF == 0
    assert cpu.debug_causes == 0


def test_breakpoints_and_single_step_are_one_trap() -> None:
    computer = Computer()
    computer.load("mov [0x20000], eax", flags=2 | TF)
    watch(computer, 1, DATA, WRITES, 4)
    assert computer.trap().what == (DB, None)
    assert computer.cpu.debug[6] & 0xE00F == 0x4002


# -- instructions ------------------------------------------------------------------------------------------------------


def test_an_instruction_breakpoint_is_a_fault_before_it() -> None:
    computer = Computer()
    computer.load("inc eax\n inc ebx\n inc ecx")
    watch(computer, 3, CODE + 1, EXECUTION)
    trap = computer.trap()
    assert (trap.what, trap.ip, computer.cpu.debug[6] & 0xF) == ((DB, None), CODE + 1, 8)
    assert (computer.cpu.registers[EAX], computer.cpu.registers[EBX], trap.flags & RF) == (1, 0, 0)


@pytest.mark.parametrize("detail", ["none", "instructions"])
def test_an_instruction_breakpoint_comes_before_the_page_fault_of_the_fetch(detail: str) -> None:
    computer = Computer()
    computer.load("jmp 0x50000")
    memory, cpu = computer.memory, computer.cpu
    memory.write(0x4_0000, 4, 0x4_1007)
    for page in range(256):
        memory.write(0x4_1000 + 4 * page, 4, page << 12 | 7 * (page != 0x50))
    cpu.set_cr3(0x4_0000)
    cpu.set_cr0(cpu.cr0 | 1 << 31)
    computer.machine.trace.detail = detail
    watch(computer, 0, 0x5_0000, EXECUTION)
    assert computer.trap().what == (DB, None)


def test_iret_with_rf_goes_on_behind_an_instruction_breakpoint() -> None:
    computer = Computer()
    computer.load("again: inc eax\n jmp again")
    watch(computer, 0, CODE, EXECUTION)
    stops = 0
    while stops < 5:
        trap = computer.trap()
        assert (trap.what, trap.ip) == ((DB, None), CODE)
        assert computer.cpu.registers[EAX] == stops
        stops += 1
        computer.memory.write(computer.stack_top + 8, 4, trap.flags | RF)
        computer.memory.write_bytes(computer.cpu.ip, b"\xcf")  # the handler
        computer.step()
        assert computer.cpu.flags & RF
        computer.step()
        assert not computer.cpu.flags & RF


def test_without_rf_nothing_goes_on() -> None:
    computer = Computer()
    computer.load("inc eax")
    watch(computer, 0, CODE, EXECUTION)
    for _ in range(3):
        assert computer.trap().ip == CODE
        computer.memory.write_bytes(computer.cpu.ip, b"\xcf")
        computer.step()
    assert computer.cpu.registers[EAX] == 0


def test_another_fault_pushes_rf_and_its_iret_passes_the_breakpoint() -> None:
    computer = Computer()
    computer.load("ud2")
    watch(computer, 0, CODE, EXECUTION)
    computer.cpu.flags |= RF
    trap = computer.trap()
    assert (trap.vector, trap.flags & RF) == (6, RF)


def test_popf_and_pushf_know_no_rf() -> None:
    computer = Computer()
    computer.load("push 0x10002\n popf\n pushf")
    watch(computer, 0, 0x5_0000, EXECUTION)
    computer.step(3)
    assert computer.memory.read(computer.stack_top, 4) == 2


# -- ports, protection of the registers ----------------------------------------------------------------------------


def test_port_breakpoints_need_cr4_de() -> None:
    for cr4, source, hit in (
        (CR4_DE, "in al, 0x61", True), (CR4_DE, "in ax, 0x60", True), (CR4_DE, "out 0x61, al", True),
        (CR4_DE, "in al, 0x60", False), (0, "in al, 0x61", False),
    ):  # fmt: skip
        computer = Computer()
        computer.load(source)
        computer.cpu.set_cr4(cr4)
        watch(computer, 0, 0x61, PORTS)
        computer.step(2)
        assert (computer.vector == DB) == hit, source


@pytest.mark.parametrize("source", ["mov eax, dr0", "mov dr6, eax", "mov dr7, eax", "mov eax, dr7"])
def test_general_detect(source: str) -> None:
    """DR7.GD makes any use of a debug register #DB, once: it is clear in the handler."""
    computer = Computer()
    computer.load(source)
    computer.cpu.debug[7] |= 1 << 13
    trap = computer.trap()
    assert (trap.what, trap.ip, computer.cpu.debug[6] & 1 << 13) == ((DB, None), CODE, 1 << 13)
    assert not computer.cpu.debug[7] & 1 << 13


def test_instructions_set_them_and_take_them_away() -> None:
    computer = Computer()
    computer.load(
        "mov eax, 0x20000\n mov dr1, eax\n mov eax, 0xD0004\n mov dr7, eax\n mov [0x20004], ebx\n"
        "xor eax, eax\n mov dr7, eax\n mov [0x20000], ebx\n here: jmp here"
    )
    computer.run_to("here")
    assert computer.cpu.readable_place(CODE >> 12) is not None  # the quick way is open again
    assert not computer.cpu.attention


def test_they_are_saved() -> None:
    computer, other = Computer(), Computer()
    computer.load("mov [0x20000], eax")
    other.load("mov [0x20000], eax")
    watch(computer, 0, DATA, WRITES)
    other.machine.load(computer.machine.save())
    assert other.trap() == computer.trap()


# -- alignment -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", range(4))
@pytest.mark.parametrize("flags", [2, 2 | AC])
@pytest.mark.parametrize("am", [0, CR0_AM])
def test_alignment_is_checked_in_ring_3_with_am_and_ac(am: int, flags: int, ring: int) -> None:
    for size, source in ((1, "mov al, [ebx]"), (2, "mov [ebx], ax"), (4, "mov eax, [ebx]"), (4, "inc dword [ebx]"),
                         (4, "push dword [ebx]"), (8, "cmpxchg8b [ebx]")):  # fmt: skip
        for offset in range(8):
            computer = Computer()
            computer.load(source, ring, flags=flags)
            computer.cpu.set_cr0(computer.cpu.cr0 | am)
            computer.cpu.registers[EBX] = DATA + offset
            computer.step()
            checked = am and flags & AC and ring == 3 and offset % size
            assert computer.vector == (ALIGNMENT if checked else None), (source, offset)
            if checked:
                trap = computer.trap()
                assert (trap.what, trap.ip) == ((ALIGNMENT, 0), CODE)


def test_popf_switches_the_check_on_and_off() -> None:
    computer = Computer()
    on, off = "push 0x40002\n popf\n", "push 2\n popf\n"
    skewed = "mov eax, [0x20001]\n"
    computer.load(f"{skewed} {on} {off} {skewed} {on} mov eax, [0x20004]\n here: {skewed}", 3)
    computer.cpu.set_cr0(computer.cpu.cr0 | CR0_AM)
    trap = computer.trap()
    assert (trap.what, trap.ip) == ((ALIGNMENT, 0), computer.symbols["here"])
    assert trap.flags & AC


def test_the_kernels_own_accesses_are_not_checked() -> None:
    """The frame of an interrupt lies on a stack that is not aligned; in the handler the check rests."""
    computer = Computer()
    computer.load("int 0x80", 3, flags=2 | AC | IF)
    computer.gate(0x80, computer.memory.read(0x2000 + 8 * 3, 8) | 3 << 45)
    computer.memory.write(0x3004, 4, 0x9001)
    computer.cpu.set_cr0(computer.cpu.cr0 | CR0_AM)
    computer.step()
    assert computer.vector == 3
