"""The machine around the processor: time, devices' interrupts, HLT, outcomes, steps, traces, saving."""

from __future__ import annotations

from typing import Any

import pytest

from tests.machine.computer import CODE, DATA, HANDLERS, STACK, Computer
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate
from vmlab.isa.x86.faults import GP, UD
from vmlab.isa.x86.registers import EAX, EBX, ECX, ESP, IF, TF
from vmlab.machine.clock import INSTRUCTIONS_PER_PIT_TICK
from vmlab.machine.machine import Machine
from vmlab.machine.trace import Event, InstructionRetired, Trace, Trap

TIMER = 0x20

SET_UP_TIMER = """
        mov al, 0x11
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, {mask}
        out 0x21, al
        mov al, 0x34
        out 0x43, al
        mov al, {count} & 255
        out 0x40, al
        mov al, {count} >> 8
        out 0x40, al
"""
TICK = """
tick:   inc ebx
        push eax
        mov al, 0x20
        out 0x20, al
        pop eax
        iret
"""


@pytest.fixture
def computer() -> Computer:
    return Computer()


def with_timer(source: str, count: int = 100, mask: int = 0xFE) -> Computer:
    """A computer whose timer interrupts every `count` of its ticks, counted in EBX, and that runs `source`."""
    computer = Computer()
    computer.load(SET_UP_TIMER.format(count=count, mask=mask) + source + TICK)
    computer.gate(TIMER, encode_gate(0x08, computer.symbols["tick"], INTERRUPT_GATE32))
    return computer


# -- HLT ---------------------------------------------------------------------------------------------------------------------


def test_timer_wakes_a_halted_processor() -> None:
    computer = with_timer("sti\n again: hlt\n cmp ebx, 5\n jb again\n cli\n hlt")
    machine = computer.machine
    machine.run(10_000)
    assert (machine.outcome, computer.cpu.registers[EBX]) == ("halt", 5)
    # Halted time passes too: five periods of the timer, though few instructions retired.
    platform = machine.platform
    assert computer.cpu.retired < 100
    period = 100 * INSTRUCTIONS_PER_PIT_TICK
    assert 5 * period <= platform.clock.now < 6 * period
    assert platform.idle + computer.cpu.retired == platform.clock.now


def test_interrupt_returns_behind_hlt() -> None:
    computer = with_timer("sti\n hlt\n behind: jmp behind")
    computer.run_to("tick")
    assert computer.word(computer.cpu.registers[ESP]) == computer.symbols["behind"]
    assert not computer.cpu.halted


@pytest.mark.parametrize("source", ["cli\n hlt\n nop", "hlt\n nop"])
def test_hlt_without_if_is_the_end(source: str) -> None:
    computer = with_timer(source)
    computer.machine.run(10_000)
    assert (computer.machine.outcome, computer.machine.status) == ("halt", None)
    steps = computer.machine.steps
    computer.machine.run(10)
    assert computer.machine.steps == steps


def test_hlt_without_anything_that_could_wake_it_is_the_end(computer: Computer) -> None:
    computer.load("sti\n hlt")
    computer.machine.run(10)
    assert computer.machine.outcome == "halt"
    masked = with_timer("sti\n hlt", mask=0xFF)
    masked.machine.run(100)
    assert masked.machine.outcome == "halt"


def test_sti_hlt_sleeps_no_matter_what_waits() -> None:
    """The shadow of STI: an interrupt that waits already is taken after HLT, not before it."""
    computer = with_timer("mov ecx, 2000\n loop $\n sti\n hlt\n behind: jmp behind", count=20)
    computer.run_to("tick")
    assert computer.word(computer.cpu.registers[ESP]) == computer.symbols["behind"]


# -- time ------------------------------------------------------------------------------------------------------------------------


def test_timer_ticks_with_retired_instructions() -> None:
    computer = with_timer("sti\n here: jmp here")
    machine = computer.machine
    machine.run(50_000)
    assert machine.outcome is None
    assert machine.steps == 50_000
    expected = computer.cpu.retired // (100 * INSTRUCTIONS_PER_PIT_TICK)
    assert abs(computer.cpu.registers[EBX] - expected) <= 1
    assert machine.events == computer.cpu.registers[EBX]


def test_time_stamp_counts_retired_instructions(computer: Computer) -> None:
    computer.load("nop\n rdtsc\n mov ecx, 0x10\n rdmsr\n mov eax, 1000\n xor edx, edx\n wrmsr\n nop\n rdtsc")
    computer.step(2)
    assert (computer.cpu.registers[EAX], computer.cpu.registers[2]) == (1, 0)
    computer.step(2)
    assert computer.cpu.registers[EAX] == 3
    computer.step(5)
    assert computer.cpu.registers[EAX] == 1002


def test_counter_interrupts_at_an_exact_instruction(computer: Computer) -> None:
    computer.load("here: inc eax\n jmp here", flags=2 | IF)
    computer.machine.counter_limit, computer.machine.counter_vector = 1001, 0xFE
    trap = computer.trap()
    assert (trap.vector, computer.cpu.retired, computer.cpu.registers[EAX]) == (0xFE, 1001, 501)
    assert computer.machine.counter_limit is None


def test_counter_waits_for_if(computer: Computer) -> None:
    computer.load("mov ecx, 50\n loop $\n sti\n nop\n nop")
    computer.machine.counter_limit, computer.machine.counter_vector = 10, 0xFE
    assert computer.trap().ip == CODE + 9
    assert computer.cpu.retired == 53


# -- outcomes -----------------------------------------------------------------------------------------------------------------------


def test_debug_exit(computer: Computer) -> None:
    computer.load("mov al, 21\n out 0xF4, al\n nop")
    computer.machine.run(10)
    machine = computer.machine
    assert (machine.outcome, machine.status, machine.steps) == ("exit", 43, 2)


def test_livelock_ends(computer: Computer) -> None:
    """A handler whose first instruction faults again and again never gets anywhere."""
    computer.load("ud2")
    computer.memory.write_bytes(HANDLERS + 16 * UD, b"\x0f\x0b")
    computer.machine.run(100_000)
    assert computer.machine.outcome in ("livelock", "triple-fault")
    assert computer.machine.steps < 100_000


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 10_000])
def test_many_short_runs_are_one_long_run(size: int) -> None:
    source = "sti\n mov edi, 0x20000\n again: mov ecx, 5\n rep stosd\n hlt\n cmp ebx, 20\n jb again\n ud2"
    computer = with_timer(source, count=7)
    while computer.vector is None and computer.machine.outcome is None:
        computer.machine.run(size)
    whole = with_timer(source, count=7)
    whole.machine.run(computer.machine.steps)
    assert computer.machine.save() == whole.machine.save()
    assert computer.memory.digest() == whole.memory.digest()


def test_trace_changes_nothing() -> None:
    def run(trace: Trace) -> tuple[dict[str, Any], list[Event]]:
        events: list[Event] = []
        trace.observers.append(events.append)
        computer = with_timer("sti\n again: inc ecx\n hlt\n cmp ebx, 5\n jb again\n ud2", count=7)
        computer.machine.trace = trace
        while computer.vector is None:
            computer.step()
        return computer.machine.save(), events

    plain, none = run(Trace("none"))
    some, events = run(Trace("events"))
    most, all_events = run(Trace("instructions"))
    assert plain == some == most
    assert none == []
    assert events == [event for event in all_events if not isinstance(event, InstructionRetired)]
    traps = [event for event in events if isinstance(event, Trap)]
    assert [trap.vector for trap in traps[:-1]] == [TIMER] * 5
    last = traps[-1]
    assert (last.vector, last.name, last.error_code, last.from_ring, last.to_ring) == (UD, "#UD", None, 0, 0)
    assert len(all_events) == most["cpus"][0]["state"]["retired"] + most["events"]
    assert [event.step for event in all_events] == list(range(1, len(all_events) + 1))
    texts = [event.text for event in all_events if isinstance(event, InstructionRetired)]
    assert "hlt" in texts


def test_steps_are_retired_instructions_and_delivered_events(computer: Computer) -> None:
    computer.load("nop\n mov ds, ax\n nop", flags=2 | TF)
    computer.cpu.registers[EAX] = 0x1230
    computer.step()
    assert (computer.machine.steps, computer.cpu.retired) == (1, 1)
    computer.step()
    assert (computer.machine.steps, computer.cpu.retired, computer.vector) == (2, 1, 1)
    computer.load("mov ds, ax")
    computer.step()
    assert (computer.machine.steps, computer.cpu.retired, computer.vector) == (3, 1, GP)


def test_saved_machine_goes_on_as_the_first() -> None:
    source = "sti\n mov esi, 0x20000\n again: add eax, [esi]\n mov [esi], ebx\n hlt\n cmp ebx, 30\n jb again\n ud2"
    computer = with_timer(source, count=7)
    for steps in (1, 20, 39, 40, 41, 100):
        computer.machine.run(steps)
        saved, memory = computer.machine.save(), computer.memory.save()
        other = Machine(computer.memory.size)
        other.memory.load(memory)
        other.load(saved)
        assert other.save() == saved
        other.run(57)
        computer.machine.run(57)
        assert other.save() == computer.machine.save()
        assert other.memory.digest() == computer.memory.digest()


# -- memory-mapped devices --------------------------------------------------------------------------------------------------------------


def test_screen(computer: Computer) -> None:
    computer.load("mov dword [0xB8000], 0x07690748\n mov ax, [0xB8001]\n add byte [0xB8000], 1")
    computer.step(3)
    assert computer.machine.platform.screen.splitlines()[0].startswith("Ii")
    assert computer.cpu.registers[EAX] == 0x6907


def test_addresses_without_memory_read_as_ones(computer: Computer) -> None:
    computer.load("mov eax, [0x200000]\n mov dword [0x200000], 0\n mov ecx, [0x200000]\n movzx edx, byte [0xFFFFFFFF]")
    computer.step(4)
    cpu = computer.cpu
    assert (cpu.registers[EAX], cpu.registers[ECX], cpu.registers[2]) == (0xFFFF_FFFF, 0xFFFF_FFFF, 0xFF)


def test_code_at_an_address_without_memory_is_undefined(computer: Computer) -> None:
    computer.load("mov eax, 0x300000\n jmp eax")
    trap = computer.trap()
    assert (trap.vector, trap.ip) == (UD, 0x30_0000)


def test_reset_state_is_that_of_a_multiboot_loader() -> None:
    machine = Machine(1 << 20)
    assert machine.cpu.cpl == 0
    assert machine.cpu.visible()["cr0"] == 0x11
    assert (machine.steps, machine.outcome, machine.in_host) == (0, None, False)
    assert STACK < CODE < DATA
