"""The AArch64 guests: what they print, what the machine counts, saving on the way, and the door `vmlab.arm64`."""

from __future__ import annotations

import copy
import random

import pytest

import vmlab
from vmlab.errors import AssemblyError, ImageError, OptionError, StateError
from vmlab.guests import arm64 as guests
from vmlab.machine.arm64.exceptions import ExceptionReturn, ExceptionTaken
from vmlab.machine.costs import EMULATOR

DISK = vmlab.guests.workload_disk()
RESULT = "primes 303 disk e3ad8000 pages 36\n"
OFF = "ldr x0, =0x84000008\n hvc #0\n"


def hashed(data: bytes) -> int:
    """Java's String.hashCode, of unsigned bytes."""
    value = 0
    for byte in data:
        value = (value * 31 + byte) & 0xFFFF_FFFF
    return value


def test_the_workload():
    run = vmlab.arm64("workload", disk=DISK)
    assert f"primes 303 disk {hashed(DISK.read(0, 8)):08x} pages 36\n" == RESULT
    assert (run.console, run.outcome) == (RESULT, "exit")
    assert run.exceptions["SVC EL0>EL1"] >= 64 + 8 + 2
    assert run.exceptions["data abort EL0>EL1"] == 8 + 1 + 1 + 1  # pages; the sector's, the sieve's, the line's
    assert run.exceptions["IRQ EL0>EL1"] >= 2
    assert run.board.block.transfers == 8
    assert run.instructions == vmlab.arm64("workload", disk=DISK).instructions
    assert run.cycles == sum(run.cycles_by_cause().values()) > run.instructions * EMULATOR.instruction
    assert "workload on an emulated AArch64 machine: exit" in run.describe()


def test_the_thin_hypervisor():
    run = vmlab.arm64("el2", trace=True)
    assert run.outcome == "exit"
    assert run.console.splitlines() == [
        "EL2: the guest starts",
        "EL2: stage 2 maps 40000000",
        "EL1: hello",
        "EL2: hypercall 1",
        "EL2: stage 2 maps 40a00000",
        "EL2: the guest waits",
        "EL2: the guest writes a register, syndrome 62300420",
        "EL1: the sum is 42, the processor is the one promised: y",
        "EL2: the guest is done",
    ]
    taken = [event for event in run.trace if isinstance(event, ExceptionTaken)]
    returned = [event for event in run.trace if isinstance(event, ExceptionReturn)]
    assert (
        len(taken) == run.exceptions.total() == len(returned)
    )  # one return starts the guest, the last call is the end
    assert {(event.from_el, event.to_el) for event in taken} == {(1, 2)}
    hello = [event for event in taken if event.kind == "data abort" and event.far == 0x0900_0000]
    assert len(hello) == len("EL1: hello\nEL1: the sum is 42, the processor is the one promised: y\n")
    assert all(event.esr >> 24 & 1 for event in hello)  # ISV: the syndrome tells the access


@pytest.mark.parametrize(("name", "options"), [("workload", {"disk": DISK}), ("el2", {})])
def test_saving_on_the_way(name, options):
    """From any instant on, a saved machine does the same as one that was never saved; so does one run in pieces."""
    whole = guests.machine(name, **options).run().save()
    machine = guests.machine(name, **options)
    while not machine.finished:
        machine.advance(997 if name == "workload" else 113)
        other = guests.machine(name, **options)
        other.load(machine.save())
        assert other.save() == machine.save()
        if machine.steps % 7 == 0:
            other.run()
            assert other.save() == whole
        machine = other
    assert machine.save() == whole


def test_a_damaged_state_changes_nothing():
    machine = guests.machine("workload", disk=DISK)
    machine.advance(5000)
    before = machine.save()
    for place, value in (("steps", -1), ("cpu", {}), ("board", {}), ("el", 2), ("version", 9)):
        with pytest.raises(StateError):
            machine.load({**before, place: value})
    damaged = {**before, "cpu": {**before["cpu"], "state": {**before["cpu"]["state"], "el": 3}}}
    with pytest.raises(StateError, match="'el'"):
        machine.load(damaged)
    assert machine.save() == before
    assert machine.run().console == RESULT
    with pytest.raises(StateError, match="of a board with a disk"):
        guests.machine("el2").load({**before, "el": 2})


def test_states_damaged_anywhere():
    """Whatever stands in a saved state instead: it is refused and changes nothing, or the machine goes on from there."""
    machine = guests.machine("workload")
    machine.advance(30_000)
    whole = machine.save()
    memory = whole["board"].pop("memory")
    rng = random.Random(3)
    strange = (None, -1, 0, 1, 3, 1 << 63, 1 << 64, "x", b"", [], {}, [1], {"a": 1}, True, 1.5, 4095, 0x4000_0001)
    refused = 0
    for _ in range(60):
        state = copy.deepcopy(whole)
        place = state
        while True:
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.2:
                break
            place = place[key]
        place[key] = rng.choice(strange)
        if isinstance(state["board"], dict):
            state["board"]["memory"] = memory
        before = machine.save()
        try:
            machine.load(state)
        except StateError:
            refused += 1
            assert machine.save() == before
        machine.advance(20)
    assert 20 < refused < 60


def test_guests_are_described():
    assert guests.names() == ["el2", "workload"]
    for name in guests.names():
        assert len(guests.describe(name)) > 20
        assert guests.load(name).symbols["start"] == guests.load(name).origin


def test_source_and_code():
    run = vmlab.arm64("mov x0, #1\n" + OFF)
    assert (run.outcome, run.instructions) == ("exit", 3)
    assert vmlab.arm64(guests.load("el2").code, el=2).outcome == "exit"
    assert vmlab.arm64("b .\n", max_instructions=1000).outcome == "limit"
    assert vmlab.arm64("wfi\n" + OFF).outcome == "halt"
    assert vmlab.arm64("brk #1\n").outcome == "livelock"  # nothing handles it
    assert vmlab.arm64("ldr x0, =0x84000009\n hvc #0\n").outcome == "reset"


def test_a_listing():
    """The code as the level that runs sees it, through its tables; looking changes nothing."""
    machine = guests.machine("workload")
    assert [text.partition("#")[0] for _, text in machine.listing(count=3)] == ["ldr x0, ", "ldr x1, ", "str x1, [x0]"]
    while machine.state.el:
        machine.advance(1)
    before = machine.save()
    assert machine.listing(count=3)[1:] == [(0x40_0004, "mov x20, #0"), (0x40_0008, "mov w21, #0")]
    assert machine.listing(0x4008_0000) == []  # EL0 cannot see the kernel
    assert len(machine.listing(0x40_0FF8)) == 2
    assert machine.save() == before
    for wrong in ({"address": 2}, {"address": -4}, {"count": -1}, {"count": "1"}):
        with pytest.raises(OptionError):
            machine.listing(**wrong)


def test_typing():
    source = "ldr x1, =0x09000000\n1: ldr w0, [x1, #0x18]\n tbnz w0, #4, 1b\n ldr w0, [x1]\n str w0, [x1]\n" + OFF
    machine = guests.machine(source, max_instructions=10_000)
    machine.advance(100)
    assert not machine.finished
    machine.send("é")
    assert machine.run().board.uart.output == b"\xc3"
    with pytest.raises(OptionError, match="text or bytes"):
        machine.send(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("workloads",), "did you mean workload"),
        ((5,), "a program is bytes"),
        ((b"",), "empty"),
        ((bytes(1 << 20),), "do not fit"),
        ((b"0000", "memory", 5), "memory is a multiple"),
        ((b"0000", "el", 3), "EL1"),
        ((b"0000", "el", True), "EL1"),
        ((b"0000", "max_instructions", 0), "max_instructions"),
        ((b"0000", "cpu", 1), "no option 'cpu'"),
        ((b"0000", "disk", b""), "empty"),
        (("nop\nfrob",), "no instruction 'frob'"),
    ],
)
def test_misuse(arguments, message):
    program, *options = arguments
    options = dict([options]) if options else {"memory": 1 << 20}
    with pytest.raises((OptionError, ImageError, AssemblyError), match=message):
        vmlab.arm64(program, **options)
    with pytest.raises(OptionError, match="steps"):
        guests.machine("el2").advance(-1)
