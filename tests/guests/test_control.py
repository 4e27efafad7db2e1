"""The control domain's kernel: it reads its disk for others, and lets its own process run beside that."""

from __future__ import annotations

import random

import pytest

from tests.vmm.harness import differences, seen
from vmlab import guests
from vmlab.isa.x86.registers import ECX
from vmlab.machine.disk import SECTOR, Disk
from vmlab.machine.trace import Trap
from vmlab.vmm.techniques import build

READY = "control domain: ready\n"
KERNEL_STACK = 0x11_4000
UNDER = ["trap-and-emulate", "binary-translation", "vt-x/nested", "vt-x/shadow", "amd-v/nested", "amd-v/shadow"]


class Rig:
    """A system with the kernel and a channel; `replies` is what came back."""

    def __init__(self, under="native", *, disks=None, limit=100_000, engine="auto", **constants):
        technique, _, memory = under.partition("/")
        self.image = guests.load("control", **constants)
        self.disk = guests.workload_disk()
        self.system = build(
            self.image,
            technique,
            disks=[self.disk] if disks is None else disks,
            memory=8 << 20,
            max_instructions=limit,
            memory_virtualization=memory or None,
            detail="events",
            engine=engine,
        )
        self.guest = self.system.guests[0]
        self.channel = self.guest.platform.add_channel()
        self.replies, self.traps = [], []
        self.channel.on_reply = lambda *reply: self.replies.append(reply)
        self.system.trace.observers.append(lambda event: self.traps.append(event) if isinstance(event, Trap) else None)

    def word(self, name):
        return self.guest.memory.read(self.image.symbols[name], 4)

    def expected(self, *requests):
        return [(client, n, self.disk.read(n) if n < self.disk.sectors else None) for client, n in requests]


def test_it_reads_what_it_is_asked_for():
    rig = Rig()
    asked = [(0, 0), (3, 7), (1, 8), (2, 1 << 28), (0xFFFF_FFFF, 0xFFFF_FFFF), (1, 7), (0, 1)]
    for each in asked:
        rig.channel.post(*each)
    rig.system.run()
    assert rig.replies == rig.expected(*asked)
    assert [data is None for _, _, data in rig.replies] == [False, False, True, True, True, False, False]
    assert (rig.guest.console, rig.guest.outcome) == (READY, "limit")
    assert rig.word("served") == 4


def test_it_answers_whenever_it_is_asked():
    rng, rig, asked = random.Random(5), Rig(), []
    while not rig.system.finished:
        rig.system.advance(rng.randrange(1, 4000))
        for _ in range(rng.choice((0, 0, 1, 3))):
            asked.append((rng.randrange(4), rng.randrange(10)))
            rig.channel.post(*asked[-1])
    answered = len(rig.replies)
    assert answered > 20
    assert rig.replies == rig.expected(*asked[:answered])
    assert answered + rig.channel.waiting == len(asked)


def chained(under):
    """Run with requests of which each answer makes the next, so that all come at the same instants of the guest's time."""
    rig = Rig(under, limit=40_000)

    def reply(client, sector, data):
        rig.replies.append((client, sector, data))
        if len(rig.replies) < 12:
            rig.channel.post(client + 1, (sector + 5) % 10)

    rig.channel.on_reply = reply
    rig.channel.post(0, 3)
    rig.system.run()
    return rig


@pytest.fixture(scope="module")
def native():
    return chained("native")


@pytest.mark.parametrize("under", UNDER)
def test_it_is_the_same_under_every_technique(under, native):
    virtual = chained(under)
    assert len(native.replies) == 12
    assert native.replies == virtual.replies
    assert not differences(seen(native.guest), seen(virtual.guest))


@pytest.mark.parametrize("under", ["native", *UNDER])
def test_a_request_wakes_it(under):
    rig = Rig(under, PERIOD=0xFFFF)  # else the timer would
    while not rig.guest.is_halted or rig.guest.console != READY:
        rig.system.advance(1)
    rig.channel.post(1, 2)
    rig.system.advance(4000)
    assert rig.replies == rig.expected((1, 2))


def test_its_process_runs_in_ring_3_once_a_tick_and_requests_go_first():
    rig = Rig(limit=40_000, COUNTS=100)
    rig.system.run()
    ticks = [trap for trap in rig.traps if trap.vector == 32]
    # One round after each tick; the last may not be at its end.
    assert rig.word("counted") // 100 in (len(ticks) - 1, len(ticks))
    assert len(ticks) > 50
    busy = Rig(limit=40_000, COUNTS=100)
    busy.channel.on_reply = lambda client, sector, _: busy.channel.post(client, sector)
    busy.channel.post(0, 0)
    busy.system.run()
    assert busy.word("counted") == 0
    assert busy.word("served") > 20


def test_a_tick_and_a_request_interrupt_the_process():
    rig = Rig(limit=60_000, COUNTS=5_000, PERIOD=300)
    counted, asked = [], 0
    while not rig.system.finished:
        rig.system.advance(500)
        if rig.guest.mode == "user":
            rig.channel.post(0, asked % 8)
            asked += 1
        counted.append(rig.word("counted"))
    assert counted == sorted(counted)
    assert rig.replies == rig.expected(*((0, n % 8) for n in range(len(rig.replies))))
    assert len(rig.replies) > 20
    ring_3 = {trap.vector for trap in rig.traps if trap.from_ring == 3}
    assert ring_3 >= {32, 42}
    # Interrupted as it was, it has left nothing out: what it has still to count of 5,000 is in its ECX.
    left = (
        rig.guest.vcpu.registers[ECX] if rig.guest.mode == "user" else rig.guest.memory.read(KERNEL_STACK - 60 + 24, 4)
    )
    assert (rig.word("counted") + left) % 5_000 in (0, 1)  # 1 between INC and LOOP
    assert rig.word("counted") > 10_000


@pytest.mark.parametrize("disks", [[], [Disk(bytes(SECTOR))]])
def test_what_it_cannot_read_it_says(disks):
    rig = Rig(disks=disks)
    rig.channel.post(7, 1)
    rig.system.run()
    assert rig.replies == [(7, 1, None)]
    assert (rig.word("served"), rig.guest.console) == (0, READY)


def test_its_disk_may_be_the_slave():
    rig = Rig(disks=[Disk(bytes(SECTOR)), guests.workload_disk()], DRIVE=0xF0)
    rig.channel.post(7, 1)
    rig.system.run()
    assert rig.replies == rig.expected((7, 1))


def test_it_is_saved_in_the_middle_of_its_work():
    one, other = Rig(limit=60_000), Rig(limit=60_000)
    for client in range(4):
        one.channel.post(client, client)
    while not one.guest.platform.bus.port_accesses[0x52C]:
        one.system.advance(1)  # within the answer to the first
    one.system.advance(50)
    assert (len(one.replies), one.channel.waiting) == (0, 4)
    memory = one.system.machine.memory
    other.system.load(one.system.save())
    other.system.machine.memory.write_bytes(0, memory.read_bytes(0, memory.size))
    for rig in (one, other):
        rig.system.run()
    assert one.replies == other.replies == one.expected(*((n, n) for n in range(4)))
    assert not differences(seen(one.guest), seen(other.guest))


def test_without_a_channel_it_halts():
    system = build(guests.load("control"), "native", disks=[guests.workload_disk()], max_instructions=100_000)
    system.run()
    assert (system.guests[0].console, system.guests[0].outcome) == ("control domain: there is no channel\n", "halt")
