"""Interrupts and their shadows, single-stepping, HLT (Intel SDM vol. 3, 6.8 and 17.3; vol. 2, STI, MOV, HLT)."""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, DATA, HANDLERS, STACK, Computer
from vmlab.isa.x86.descriptors import TRAP_GATE32, encode_gate
from vmlab.isa.x86.faults import DB, GP, UD
from vmlab.isa.x86.registers import EAX, ESP, IF, RF, TF

TIMER = 0x20


@pytest.fixture
def computer() -> Computer:
    return Computer()


def request(computer: Computer) -> None:
    """Make the interrupt controller ask for vector 0x20."""
    pic = computer.machine.platform.pic
    for port, value in ((0x20, 0x11), (0x21, TIMER), (0x21, 4), (0x21, 1), (0x21, 0xFD)):
        computer.machine.bus.port_write(port, 1, value)
    pic.set_line(1, True)
    assert pic.output


INTERRUPT = TIMER + 1


def test_interrupt_between_two_instructions(computer: Computer) -> None:
    computer.load("inc eax\n inc eax", flags=2 | IF)
    computer.step()
    request(computer)
    trap = computer.trap(1)
    assert (trap.vector, trap.ip, trap.flags) == (INTERRUPT, CODE + 1, 2 | IF)
    assert (computer.cpu.flags, computer.cpu.registers[EAX]) == (2, 1)


def test_no_interrupt_without_if(computer: Computer) -> None:
    request(computer)
    computer.load("inc eax\n inc eax\n sti\n inc eax\n inc eax")
    computer.step(3)
    assert computer.vector is None
    assert (computer.trap().ip, computer.cpu.registers[EAX]) == (CODE + 4, 3)


def test_shadow_of_sti_lasts_for_one_instruction(computer: Computer) -> None:
    request(computer)
    computer.load("sti\n inc ebx\n inc ebx")
    assert computer.trap().ip == CODE + 2
    assert computer.cpu.registers[3] == 1


def test_sti_casts_no_shadow_where_if_was_set(computer: Computer) -> None:
    computer.load("sti\n inc ebx", flags=2 | IF)
    computer.step()
    request(computer)
    assert computer.trap().ip == CODE + 1


def test_sti_then_cli_lets_nothing_in(computer: Computer) -> None:
    request(computer)
    computer.load("again: sti\n cli\n inc ebx\n jmp again")
    computer.step(40)
    assert (computer.vector, computer.cpu.registers[3]) == (None, 10)


@pytest.mark.parametrize("source", ["mov ss, cx", "pop ss"])
def test_load_of_ss_lasts_for_one_instruction(computer: Computer, source: str) -> None:
    computer.load(f"nop\n {source}\n mov esp, 0x7000\n behind: inc ebx\n inc ebx", flags=2 | IF)
    computer.cpu.registers[1] = 0x10
    computer.memory.write(STACK, 4, 0x10)
    computer.step(2)
    request(computer)
    assert computer.cpu.interrupt_shadow
    assert computer.trap().ip == computer.symbols["behind"]
    assert computer.cpu.registers[ESP] == 0x7000 - 12


def test_lss_casts_no_shadow(computer: Computer) -> None:
    computer.load("lss esp, [0x20000]\n inc ebx", flags=2 | IF)
    computer.memory.write(DATA, 8, 0x10_0000_7000)
    computer.step()
    request(computer)
    assert computer.trap().ip == CODE + 7
    assert computer.cpu.registers[3] == 0


def test_a_fault_in_the_shadow_ends_it(computer: Computer) -> None:
    request(computer)
    computer.gate(UD, encode_gate(0x08, HANDLERS + 16 * UD, TRAP_GATE32))  # leaves IF set
    computer.load("sti\n ud2")
    computer.step(2)
    assert computer.vector == UD
    computer.step()
    assert computer.vector == INTERRUPT


def test_interrupts_find_repeated_strings_between_two_elements(computer: Computer) -> None:
    computer.load("rep stosd", flags=2 | IF)
    computer.cpu.registers[:8] = [7, 10, 0, 0, STACK, 0, 0, DATA]
    computer.step(4)
    request(computer)
    assert computer.trap().ip == CODE
    assert computer.cpu.registers[1] == 6
    assert computer.cpu.registers[7] == DATA + 16


def test_page_fault_in_a_repeated_string_shows_the_elements_done(computer: Computer) -> None:
    computer.load("rep movsb")
    computer.cpu.registers[:8] = [0, 20, 0, 0, STACK, 0, DATA, 0x5FF8]
    computer.cpu.segments[0].set(0x10, 0, 0x5FFF, 0x93, big=True)
    assert computer.trap().what == (GP, 0)
    assert [computer.cpu.registers[n] for n in (1, 6, 7)] == [12, DATA + 8, 0x6000]


# -- single step ------------------------------------------------------------------------------------------------------------------------------


def test_tf_traps_after_each_instruction(computer: Computer) -> None:
    computer.load("inc eax\n inc eax", flags=2 | TF)
    trap = computer.trap()
    assert (trap.vector, trap.ip, trap.flags & (TF | RF)) == (DB, CODE + 1, TF)
    assert computer.cpu.debug[6] & 1 << 14
    assert not computer.cpu.flags & TF
    assert computer.machine.steps == 2


def test_popf_that_sets_tf_traps_after_the_next_instruction(computer: Computer) -> None:
    computer.load("popfd\n inc eax\n inc eax")
    computer.memory.write(STACK, 4, 2 | TF)
    assert computer.trap().ip == CODE + 2


def test_popf_that_clears_tf_traps_a_last_time(computer: Computer) -> None:
    computer.load("popfd\n inc eax", flags=2 | TF)
    computer.memory.write(STACK, 4, 2)
    trap = computer.trap()
    assert (trap.vector, trap.ip, trap.flags) == (DB, CODE + 1, 2)


def test_iret_that_sets_tf_traps_after_the_next_instruction(computer: Computer) -> None:
    computer.load("iretd\n nop\n there: inc eax\n inc eax")
    for n, value in enumerate((CODE + 2, 0x08, 2 | TF)):
        computer.memory.write(STACK + 4 * n, 4, value)
    assert computer.trap().ip == CODE + 3


def test_int_n_clears_tf_without_a_trap(computer: Computer) -> None:
    computer.load("int 0x80", flags=2 | TF)
    assert computer.trap(software=True).vector == 0x80
    computer.step(3)
    assert computer.vector == 0x80


def test_a_fault_makes_no_single_step_trap(computer: Computer) -> None:
    computer.load("ud2", flags=2 | TF)
    assert computer.trap().vector == UD
    computer.step(3)
    assert computer.vector == UD


@pytest.mark.parametrize("source", ["mov ss, cx", "pop ss"])
def test_load_of_ss_holds_the_trap_back(computer: Computer, source: str) -> None:
    computer.load(f"{source}\n here: inc ebx\n behind: inc ebx", flags=2 | TF)
    computer.cpu.registers[1] = 0x10
    computer.memory.write(STACK, 4, 0x10)
    assert computer.trap().ip == computer.symbols["behind"]


def test_shadow_of_sti_holds_no_trap_back(computer: Computer) -> None:
    computer.load("sti\n inc ebx", flags=2 | TF)
    assert computer.trap().ip == CODE + 1


def test_trap_comes_before_an_interrupt(computer: Computer) -> None:
    computer.load("inc eax\n inc eax", flags=2 | TF | IF)
    computer.step()
    request(computer)
    assert computer.trap().vector == DB


def test_tf_traps_after_each_element_of_a_repeated_string(computer: Computer) -> None:
    computer.load("rep stosb", flags=2 | TF)
    computer.cpu.registers[:8] = [0, 5, 0, 0, STACK, 0, 0, DATA]
    assert computer.trap().ip == CODE
    assert computer.cpu.registers[1] == 4


def test_single_step_trap_wakes_from_hlt(computer: Computer) -> None:
    computer.load("hlt\n inc eax", flags=2 | TF)
    assert computer.trap().ip == CODE + 1
    assert not computer.cpu.halted
