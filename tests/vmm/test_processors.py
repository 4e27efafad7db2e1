"""Guests with several processors: the option, the guest that shares its work, recordings."""

from __future__ import annotations

import json
import random

import pytest

import vmlab
from tests.vmm.harness import same, vectors
from vmlab.cli import main
from vmlab.errors import OptionError
from vmlab.vmm.techniques import build

SQUARES = sum(n * n for n in range(1001))


def shares(run, count):
    symbols = run.guests[0].image.symbols
    return [run.system.machine.memory.read(symbols["shares"] + 4 * n, 4) for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_processors_share_the_work(count):
    run = vmlab.run(vmlab.guests.load("two_cpus"), cpus=count, engine="auto")
    assert (run.console, run.outcome, run.status) == (f"processors: {count}\nsum of squares: {SQUARES}\n", "exit", 1)
    done = shares(run, count)
    assert sum(done) == 1000
    assert len([each for each in done if each]) > count // 2
    assert run.instructions == sum(cpu.retired for cpu in run.system.machine.cpus)
    assert len(run.system.machine.cpus) == count


def test_cycles_are_those_of_all_processors():
    run = vmlab.run(vmlab.guests.load("two_cpus"), cpus=2)
    costs = run.system.machine.cpu.model.costs
    assert run.cycles_by_cause["instructions"] == run.instructions * costs.instruction
    assert all(cpu.retired for cpu in run.system.machine.cpus)


def test_the_limit_of_instructions_is_that_of_all_processors():
    run = vmlab.run(vmlab.guests.load("two_cpus"), cpus=2, max_instructions=20_000)
    assert (run.outcome, run.instructions) == ("limit", 20_000)


@pytest.mark.parametrize("cpus", [0, -1, 17, 1 << 70, 2.0, "2", None, True])
def test_absurd_numbers_of_processors(cpus):
    with pytest.raises(OptionError, match="1 to 16 processors"):
        vmlab.run(vmlab.guests.load("hello"), cpus=cpus)


def test_under_paravirtualization_a_guest_has_one_processor():
    with pytest.raises(OptionError, match="2 processors is not possible under paravirtualization"):
        vmlab.run(vmlab.guests.load("minios_pv"), under="paravirtualization", cpus=2)


def test_the_command_line_takes_a_number_of_processors(capsys):
    assert main(["run", "guest:two_cpus", "--cpus", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["console"].startswith("processors: 3\n")
    for wrong in ("0", "17", "two", "-1"):
        assert main(["run", "guest:two_cpus", f"--cpus={wrong}"]) == 2
        error = capsys.readouterr().err
        assert "processors" in error
        assert error.count("\n") == 1


def test_a_recording_goes_back_over_turns():
    """Every instant is that of a straight run, and an event says on which processor it happened."""
    image = vmlab.guests.load("two_cpus")
    recording = vmlab.record(image, cpus=2)
    generator = random.Random(11)
    straight = build(image, cpus=2)
    for step in sorted(generator.sample(range(1, recording.length), 12)):
        straight.advance(step - straight.steps)
        recording.seek(generator.randrange(recording.length))
        recording.seek(step)
        assert recording.system.save() == straight.save()
        assert recording.system.machine.memory.digest() == straight.machine.memory.digest()
    names = [(event.name, event.cpu) for event in recording.events if event.kind == "signal"]
    assert names == [("INIT", 1), ("STARTUP", 1)]
    recording.seek(0)
    started = [recording.next("signal"), recording.next("signal")][-1]
    assert started is not None
    assert recording.position == started.step
    seen = set()
    for _ in range(3000):
        seen.add(recording.system.machine.turns.index)
        recording.step(7)
    assert seen == {0, 1}
    before = recording.system.save()
    recording.back(5)
    recording.step(5)
    assert recording.system.save() == before


@pytest.mark.parametrize("asleep", [False, True])
def test_a_guest_cannot_tell_where_its_nmis_come_from(asleep):
    """To oneself by the local APIC: a second one waits for IRET; one that comes from the timer wakes a deaf processor."""
    send = "mov dword [0xFEE00310], 0\n mov dword [0xFEE00300], 0x4400\n"
    timer = """
        mov dword [0xFEC00000], 0x14            ; pin 2, the timer: NMI to processor 0
        mov dword [0xFEC00010], 0x400
        mov al, 0x30
        out 0x43, al
        mov al, 200
        out 0x40, al
        mov al, 0
        out 0x40, al
        sti
        hlt
    """
    hook = f"again: cmp dword [{{events}}], 1\n ja .done\n {send} mov dword [0x280000], 7\n .done: ret"
    source = f"main: mov dword [hooks + 8], again\n {timer if asleep else send} nop\n nop\n jmp near quit\n"
    native, _ = same(source + hook.format(events="events"))
    assert vectors(native) == [2, 2]
