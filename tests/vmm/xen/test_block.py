"""The block ring: what it promises, what a hostile guest may write into it, and the workload that reads by it."""

from __future__ import annotations

import pickle
import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vmlab
from tests.guests.oracle import DATA, LINE
from tests.vmm.xen.ported import SHUT, audit, frame_of, started, word
from tests.vmm.xen.test_hostile_ported import host_digest
from vmlab import guests
from vmlab.errors import OptionError, StateError
from vmlab.machine.devices.ata_disk import COMMAND_TIME
from vmlab.machine.disk import SECTOR, Disk

UNDER = "paravirtualization"
CONSOLE = "workload: paging is on\n" + LINE
DONE, ERROR, UNSUPPORTED = 0, -1, -2
UNTOUCHED = 99

# The ring is as the test has written it. Then, so often, another one comes from a page of data, and an event is sent.
ASKER = """
main:   mov esi, [info]
        mov eax, [esi + 1116]
        mov [block_port], eax
        mov eax, [esi + 1112]
        mov eax, [M2P + eax * 4]
        shl eax, 12
        mov [block], eax
        mov byte [shared + 1], 0        ; events may come
send:   hypercall 32, 4, block_port
        mov [sent], eax
        mov ecx, [patience]
.wait:  loop .wait
        cmp dword [more], 0
        je quit
        dec dword [more]
        mov esi, page_1
        mov edi, [block]
        mov ecx, 1024
        rep movsd
        jmp send
block:  dd 0
block_port: dd 0
sent:   dd 0x55
patience: dd 4000
more:   dd 0
"""


def asker(count=1, **options):
    """Return a system whose first guest has a ring, not run yet, and that guest."""
    system = started(ASKER, count, **{"disks": [guests.workload_disk()]} | options)
    return system, system.domains[0]


def request(operation=0, segments=1, handle=0, number=0, sector=0, frame=0, first=0, last=None):
    """Return a request's bytes, laid out as blkif.h does for 32-bit x86."""
    last = first if last is None else last
    return struct.pack("<BBHQQIBB", operation, segments, handle, number, sector, frame, first, last)


def fill(system, domain, requests, *, put=None, event=1):
    """Write the ring as a front end would: indices, then requests in their slots."""
    memory, ring = system.machine.memory, domain.block.ring
    memory.write_bytes(ring, struct.pack("<IIII", len(requests) if put is None else put, 1, 0, event))
    for number, each in enumerate(requests):
        memory.write_bytes(ring + 64 + 108 * number, each)


def indices(system, domain):
    return struct.unpack("<IIII", system.machine.memory.read_bytes(domain.block.ring, 16))


def answers(system, domain, count):
    """Return the answers in the first slots: number, operation, status."""
    memory, ring = system.machine.memory, domain.block.ring
    rows = [memory.read_bytes(ring + 64 + 108 * number, 12) for number in range(count)]
    return [struct.unpack("<QBxh", row) for row in rows]


# -- what it promises -----------------------------------------------------------------------------------------------------


def test_a_sector_comes_to_its_place_in_a_frame():
    system, domain = asker()
    fill(system, domain, [request(number=0xDEADBEEF_12345678, sector=3, frame=frame_of(domain, "page_2"), first=5)])
    before = domain.memory.read_bytes(domain.image.symbols["page_1"], 4 * 4096)
    system.run()
    after = bytearray(before)
    after[4096 + 5 * SECTOR : 4096 + 6 * SECTOR] = DATA[3 * SECTOR : 4 * SECTOR]
    assert domain.memory.read_bytes(domain.image.symbols["page_1"], 4 * 4096) == after
    assert answers(system, domain, 1) == [(0xDEADBEEF_12345678, 0, DONE)]
    assert indices(system, domain) == (1, 2, 1, 1)
    assert word(domain, "pending") == 1 << word(domain, "block_port")
    assert (domain.outcome, domain.status) == SHUT


def test_as_many_requests_as_slots_are_answered_one_after_the_other():
    system, domain = asker()
    frame = frame_of(domain, "page_1")
    fill(system, domain, [request(number=n, sector=n % 8, frame=frame, first=(n + 3) % 8) for n in range(32)], event=32)
    seen, sent = [], None
    while not system.finished:
        system.advance(1)
        if sent is None and word(domain, "sent") == 0:
            sent = domain.vcpu.retired
        done = indices(system, domain)[2]
        if done != len(seen):
            seen.append(system.instructions())
    assert answers(system, domain, 32) == [(n, 0, DONE) for n in range(32)]
    page = domain.memory.read_bytes(domain.image.symbols["page_1"], 4096)
    assert page == b"".join(DATA[n * SECTOR : (n + 1) * SECTOR] for n in (5, 6, 7, 0, 1, 2, 3, 4))
    gaps = {later - earlier for earlier, later in pairwise(seen)}
    assert gaps == {COMMAND_TIME}
    assert word(domain, "upcalls") == 1, "it was to be told of the last alone"


def test_who_does_not_ask_for_an_event_gets_none():
    system, domain = asker()
    fill(system, domain, [request(frame=frame_of(domain, "page_1"))], event=7)
    system.run()
    assert answers(system, domain, 1)[0][2] == DONE
    assert (word(domain, "upcalls"), word(domain, "pending")) == (0, 0)


def test_the_start_info_tells_of_the_ring_and_of_none():
    system, domain = asker()
    system.run()
    info = word(domain, "info")
    assert domain.memory.read(info + 1112, 4) == domain.block.ring >> 12
    assert domain.channels.bound[domain.memory.read(info + 1116, 4)] == (2, 0, 1)
    assert "block" in domain.device_names
    other = started("main: jmp quit\n")
    other.run()
    info = word(other.domains[0], "info")
    assert [other.domains[0].memory.read(info + place, 4) for place in (1112, 1116)] == [0, 0]
    assert other.domains[0].block is None
    assert "block" not in other.domains[0].device_names


def test_one_disk_and_no_keyboard():
    image = guests.load("workload_pv")
    disk = guests.workload_disk()
    with pytest.raises(OptionError, match="one disk at most"):
        vmlab.run(image, under=UNDER, disks=[disk, disk])
    assert vmlab.run(image, under=UNDER, disks=[None, disk]).console == CONSOLE


# -- a guest that means harm ----------------------------------------------------------------------------------------------


def hostile_requests(system, domain):
    """Return requests by what is wrong with them, and the status that each must get."""
    good, tables = frame_of(domain, "page_1"), domain.base >> 12
    table = system.machine.memory.read(domain.base, 4) >> 12
    other = system.domains[1]
    frames = {
        "a neighbour's frame": frame_of(other, "page_1"), "a neighbour's shared page": other.shared >> 12,
        "a neighbour's ring": other.block.ring >> 12, "its page directory": tables, "its page table": table,
        "the hypervisor's first frame": 0, "a frame of the hypervisor": 0x100,
        "the window's table": system.switcher.reserved[0] >> 12, "no frame": system.machine.memory.size >> 12,
        "no frame at all": 0xFFFFFFFF, "the highest address": 0xFFFFF,
    }  # fmt: skip
    rows = {name: (request(frame=frame), ERROR) for name, frame in frames.items()}
    for name, change in {
        "a ninth sector of a page": {"first": 8}, "the last possible place": {"first": 255},
        "a range": {"first": 0, "last": 1}, "a range backwards": {"first": 1, "last": 0}, "no segment": {"segments": 0},
        "two segments": {"segments": 2}, "all segments": {"segments": 255}, "a sector too far": {"sector": 8},
        "a sector of 64 bits": {"sector": (1 << 64) - 1}, "a sector that would fit if cut": {"sector": 1 << 32},
    }.items():  # fmt: skip
        rows[name] = request(**{"frame": good} | change), ERROR
    for operation in (1, 2, 3, 255):
        rows[f"operation {operation}"] = request(operation=operation, frame=good), UNSUPPORTED
    return rows


def test_wrong_requests_are_answered_and_touch_nothing():
    system, domain = asker(2)
    rows = hostile_requests(system, domain)
    fill(system, domain, [each for each, _ in rows.values()])
    page = domain.memory.read_bytes(domain.image.symbols["page_1"], 4096)
    system.end_guest(1, "halt")
    neighbour, host = system.guests[1].memory.digest(), host_digest(system)
    system.run()
    found = {name: status for name, (_, _, status) in zip(rows, answers(system, domain, len(rows)), strict=True)}
    assert found == {name: status for name, (_, status) in rows.items()}
    assert indices(system, domain)[2] == len(rows)
    assert domain.memory.read_bytes(domain.image.symbols["page_1"], 4096) == page
    assert system.guests[1].memory.digest() == neighbour
    assert host_digest(system) == host
    audit(system)
    assert (domain.outcome, domain.status) == SHUT


@pytest.mark.parametrize("put", [33, 100, 1 << 31, (1 << 32) - 1])
def test_more_requests_than_slots_are_not_served(put):
    system, domain = asker()
    fill(system, domain, [request(frame=frame_of(domain, "page_1"))], put=put)
    # A ring as it should be, and once more an event: it comes too late.
    ring = struct.pack("<IIII", 1, 1, 0, 1) + bytes(48) + request(frame=frame_of(domain, "page_1"), first=7)
    domain.memory.write_bytes(domain.image.symbols["page_1"], ring)
    domain.memory.write(domain.image.symbols["more"], 4, 1)
    system.run()
    assert domain.block.broken
    assert domain.memory.read_bytes(domain.image.symbols["page_1"], 4096) == ring.ljust(4096, b"\0")
    assert (word(domain, "sent"), indices(system, domain)) == (0, (1, 1, 0, 1))
    assert (domain.outcome, domain.status) == SHUT


def test_the_indices_may_pass_their_end():
    system, domain = asker()
    domain.block.taken = (1 << 32) - 2
    frame = frame_of(domain, "page_1")
    fill(system, domain, [], put=2, event=2)
    for number in (-2, -1, 0, 1):
        place = domain.block.ring + 64 + 108 * (number % 32)
        system.machine.memory.write_bytes(place, request(number=number % 32, sector=1, frame=frame))
    system.run()
    assert indices(system, domain) == (2, 3, 2, 2)
    assert answers(system, domain, 2) == [(0, 0, DONE), (1, 0, DONE)]
    assert word(domain, "upcalls") == 1


def test_the_ring_and_the_shared_page_may_be_overwritten_by_their_guest():
    for name in ("ring", "shared", "console"):
        system, domain = asker()
        page = {"ring": domain.block.ring, "shared": domain.shared, "console": domain.console_ring.ring}[name]
        fill(system, domain, [request(frame=page >> 12, sector=n, first=n) for n in range(8)])
        domain.memory.write(domain.image.symbols["more"], 4, 2)
        system.run()
        assert domain.outcome is not None
        audit(system)


def test_answers_come_without_an_event_when_its_port_is_closed():
    close = ASKER.replace("mov [sent], eax", "mov [sent], eax\n hypercall 32, 3, block_port")
    system = started(close, disks=[guests.workload_disk()])
    domain = system.domains[0]
    fill(system, domain, [request(frame=frame_of(domain, "page_1"))])
    domain.memory.write(domain.image.symbols["more"], 4, 1)
    system.run()
    assert word(domain, "pending") == 0
    assert word(domain, "sent") == (1 << 32) - 22, "and to send on it is refused"
    assert domain.memory.read_bytes(domain.image.symbols["page_1"], 4) == DATA[:4]
    assert (domain.outcome, domain.status) == SHUT


def harm(seed):
    """Let a guest fill its ring with rubbish of every kind, three times; nothing but its own pages may suffer."""
    chance = random.Random(seed)
    system, domain = asker(2, detail="events")
    rows = [each for each, _ in hostile_requests(system, domain).values()]
    own = [frame_of(domain, f"page_{n}") for n in range(2, 5)] + [
        domain.block.ring >> 12,
        domain.console_ring.ring >> 12,
    ]

    def ring():
        put = chance.choice((0, 1, 8, 31, 32, chance.randrange(40), 33, chance.getrandbits(32)))
        page = bytearray(
            struct.pack("<IIII", put, *(chance.choice((1, put, chance.getrandbits(32))) for _ in range(3)))
        )
        page += bytes(48)
        for _ in range(32):
            good = request(
                sector=chance.randrange(9),
                frame=chance.choice(own),
                first=chance.randrange(9),
                number=chance.getrandbits(64),
            )
            each = chance.choice((good, good, chance.choice(rows), chance.randbytes(26)))
            page += each.ljust(108, b"\0")
        return bytes(page.ljust(4096, b"\0"))

    system.machine.memory.write_bytes(domain.block.ring, ring())
    domain.memory.write_bytes(domain.image.symbols["page_1"], ring())
    domain.memory.write(domain.image.symbols["more"], 4, 2)
    domain.memory.write(domain.image.symbols["patience"], 4, chance.choice((1, 50, 300, 4000)))
    system.end_guest(1, "halt")
    neighbour, host = system.guests[1].memory.digest(), host_digest(system)
    system.trace.observers.append(lambda event: audit(system) if event.kind == "hypercall" else None)
    system.run()
    audit(system)
    assert system.guests[1].memory.digest() == neighbour
    assert host_digest(system) == host
    state = system.save()
    system.load(state)
    assert system.save() == state


def test_random_rings():
    for seed in range(12):
        harm(seed)


@pytest.mark.long
@given(st.integers(0, 1 << 32))
@settings(max_examples=200)
def test_many_random_rings(seed):
    harm(seed)


# -- saving ----------------------------------------------------------------------------------------------------------------


def fresh():
    return vmlab.vmm.techniques.build(
        [guests.load("workload_pv")] * 2, UNDER, disks=[guests.workload_disk()], memory=4 << 20, max_instructions=80_000
    )


def end(system):
    system.run()
    return [(guest.console, guest.outcome, guest.instructions, guest.memory.digest()) for guest in system.guests]


def test_it_is_saved_in_the_middle_of_its_work():
    whole = fresh()
    places = []
    while not whole.finished:
        whole.advance(67)
        if whole.domains[0].block.due is not None or whole.domains[1].block.due is not None:
            places.append(whole.steps)
    expected = end(whole)
    assert [console for console, *_ in expected] == [CONSOLE] * 2
    for place in sorted(random.Random(1).sample(places, 2)):
        first = fresh()
        first.advance(place)
        saved = pickle.loads(pickle.dumps({"system": first.save(), "memory": first.machine.memory.save()}))
        other = fresh()
        other.machine.memory.load(saved["memory"])
        other.load(saved["system"])
        assert other.save() == saved["system"]
        audit(other)
        assert end(other) == expected


def test_damaged_states_are_refused_whole():
    system = fresh()
    while system.domains[0].block.due is None:
        system.advance(10)
    good = system.save()
    block = good["guests"][0]["domain"]["block"]
    assert len(block["request"]) == 26
    for wrong in (
        None,
        block | {"request": b""},
        block | {"request": bytes(27)},
        block | {"due": None},
        block | {"due": -1},
        block | {"taken": 1 << 32},
        block | {"broken": 0},
        block | {"version": 2},
    ):
        bad = pickle.loads(pickle.dumps(good))
        bad["guests"][0]["domain"]["block"] = wrong
        with pytest.raises(StateError):
            system.load(bad)
        assert system.save() == good
    for channel in ([5, 2, 0, 2], [5, 2, 0, 9]):  # back ends that there are not
        bad = pickle.loads(pickle.dumps(good))
        bad["guests"][0]["domain"]["channels"]["bound"].append(channel)
        with pytest.raises(StateError, match="no other end"):
            system.load(bad)
        assert system.save() == good


# -- the workload ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ported():
    return vmlab.run(guests.load("workload_pv"), under=UNDER, disks=[guests.workload_disk()], max_instructions=200_000)


def test_the_port_prints_the_same_line(ported):
    assert (ported.console, ported.outcome, ported.status) == (CONSOLE, "exit", 1)
    symbols, memory = guests.load("workload_pv").symbols, ported.guests[0].memory
    assert [memory.read(symbols[name], 4) for name in ("faults", "calls", "sum")] == [8, 8 + 1 + 64 + 3, 64]
    assert ported.exits["true page fault"] == 8
    assert ported.system.domains[0].block.taken == 8
    audit(ported.system)


def test_its_program_is_the_same_bytes():
    def program(name):
        image = guests.load(name)
        (segment,) = image.segments
        start, end = (image.symbols[label] - segment.address for label in ("program", "program_end"))
        return segment.data[start:end]

    assert program("workload_pv") == program("workload")


def test_the_port_has_fewer_exits_than_the_original(ported):
    original = vmlab.run(guests.load("workload"), under="trap-and-emulate", disks=[guests.workload_disk()])
    assert original.console == ported.console
    assert ported.exits.total() * 5 < original.exits.total()


def test_compare_takes_the_port_in_the_guests_place():
    found = vmlab.compare(
        guests.load("workload"), ["native", UNDER], ported=guests.load("workload_pv"), disks=[guests.workload_disk()]
    )
    assert found.faithful


def test_without_a_disk_and_with_a_short_one_it_says_so():
    for disks in ([], [Disk(bytes(7 * SECTOR))]):
        run = vmlab.run(guests.load("workload_pv"), under=UNDER, disks=disks)
        assert (run.console, run.status) == ("workload: paging is on\nworkload: the disk cannot be read\n", 3)


def test_rounds_and_several_guests():
    image = guests.load("workload_pv", ROUNDS=2)
    run = vmlab.run([image, image], under=UNDER, disks=[guests.workload_disk()], memory=4 << 20)
    assert [guest.console for guest in run.guests] == ["workload: paging is on\n" + 2 * LINE] * 2


def instants(label, offsets):
    """Return clock times at which the kernel is about to execute instructions at a label, each for the first time."""
    system = fresh()
    domain, places = system.domains[0], {}
    system.end_guest(1, "halt")
    wanted = {domain.image.symbols[label] + offset for offset in offsets}
    while wanted - set(places):
        assert not system.finished
        system.advance(1)
        cpu = system.cpu_state()
        if cpu.ip in wanted and cpu.ip not in places and system.exact:
            places[cpu.ip] = system.instructions() + domain.platform.idle
    return places.items()


@pytest.mark.parametrize(
    ("label", "offsets"),
    [
        ("resume", (0, 1)),
        ("resume.open", (0, 7, 9)),
        ("system_call_stub", (0, 2)),
        ("trap", (0, 1, 6, 8)),
        ("take_events", (0,)),
    ],
)
def test_an_event_may_come_at_any_step_on_the_way_into_the_kernel_and_back(label, offsets):
    for address, instant in instants(label, offsets):
        system = fresh()
        system.end_guest(1, "halt")
        system.domains[0].timer.set_single(instant)
        while system.instructions() + system.domains[0].platform.idle < instant or not system.exact:
            system.advance(1)
        assert system.cpu_state().ip == address
        while system.cpu_state().cpl != 3 or not system.exact:
            system.advance(1)
        assert not system.domains[0].channels.masked, "the program would run without events"
        system.run()
        assert (system.domains[0].console, system.domains[0].status) == (CONSOLE, 1)


def test_a_recording_goes_back():
    recording = vmlab.record(guests.load("workload_pv"), under=UNDER, disks=[guests.workload_disk()], memory=4 << 20)
    seen = {}
    generator = random.Random(3)
    for step in sorted(generator.sample(range(recording.length), 5)):
        recording.seek(step)
        seen[step] = recording.system.save(), recording.system.machine.memory.digest()
    for step in generator.sample(sorted(seen), 5):
        recording.seek(step)
        assert (recording.system.save(), recording.system.machine.memory.digest()) == seen[step]
