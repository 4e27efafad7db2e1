"""Direct memory access under hypervisors: the guest's device writes to the guest's memory, and to nothing else; all see it.

A device writes behind the processor's back. What a hypervisor keeps of a guest's memory must follow it all the same: shadow page
tables, shadow descriptor tables, translated code, decoded instructions, the log of dirty pages.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vmlab
from tests.vmm.dma import BMIDE, CALL, POKE, READ_DMA, SECTOR, TABLE, WAIT, WRITE_DMA, Script, looks, results
from tests.vmm.harness import (
    MEMORY,
    differences,
    dirty_pages,
    finish,
    first_memory_difference,
    goes_back,
    goes_on_elsewhere,
    seen,
)
from tests.vmm.hostile import UNDER, neighbour, own_frames
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import encode_descriptor
from vmlab.machine.bus import Bus
from vmlab.machine.disk import Disk
from vmlab.vmm.techniques import build

FREE, CODE = 0x280000, 0x2A0000
DONE, STOPPED = (4, 0x50, 0x0280), (2, 0x58, 0x2280)


def padded(*sectors: bytes) -> Disk:
    return Disk(b"".join(each.ljust(SECTOR, b"\xcc") for each in sectors))


def native_and(way, image, disk, **options):
    """Run a guest natively and under a hypervisor; assert that it saw the same; return both systems."""
    options = {"max_instructions": 60_000, "disks": [disk]} | options
    native, other = finish(image, "native", **options), finish(image, **UNDER[way], **options)
    found = differences(seen(native.guests[0]), seen(other.guests[0]))
    if any(line.startswith("memory") for line in found):
        found.append(first_memory_difference(native.guests[0].memory, other.guests[0].memory))
    assert not found, "\n".join(found)
    return native, other


# -- what stands where it writes ------------------------------------------------------------------------------------------

NUMBERS = "one: mov eax, 1\n ret"


@pytest.mark.parametrize("way", UNDER)
def test_code_that_has_run(way):
    """Functions come from the disk, one over the other; the same instructions run, are translated, and become others."""
    disk = padded(
        *(assemble(f"org {CODE}\nbits 32\nmov eax, {value}\nadd eax, eax\nret").code for value in (5, 70, 900))
    )
    script = Script()
    for sector in (0, 1, 2, 0):
        script.read(sector, (CODE, SECTOR)).do(CALL, CODE).do(CALL, CODE)
    _, other = native_and(way, script.kernel(begin="call paging_on"), disk)
    assert results(other.guests[0], 12)[1::3] == [10, 140, 1800, 10]
    assert results(other.guests[0], 12)[2::3] == [10, 140, 1800, 10]
    assert looks(other.guests[0], 1) == [DONE]


@pytest.mark.parametrize("way", UNDER)
def test_code_that_waits_for_it(way):
    """The kernel spins on an instruction that the device replaces at an instant that only it knows."""
    spin = assemble(f"org {CODE}\nbits 32\nmov ecx, 0\n.a: inc ecx\n jmp .a").code
    through = assemble(f"org {CODE}\nbits 32\nmov ecx, 0\n.a: inc ecx\n mov eax, ecx\n ret").code
    disk = padded(spin, through)
    script = Script().read(0, (CODE, SECTOR)).prds((CODE, SECTOR)).transfer(1, wait=1).do(CALL, CODE).do(WAIT, 10)
    _, other = native_and(way, script.kernel(), disk)
    assert results(other.guests[0], 3)[2] > 20


@pytest.mark.parametrize("way", UNDER)
def test_page_tables(way):
    """A sector of page-table entries maps 4 MiB and up to other frames, or to none."""
    entries = [(0x500000 + 0x1000 * n | 7).to_bytes(4, "little") for n in range(128)]
    disk = padded(b"".join(entries), bytes(SECTOR), b"".join(reversed(entries)))
    peek = "peek: mov eax, cr3\n mov cr3, eax\n mov eax, [0x400000]\n inc dword [0x401000]\n ret"
    gone = "gone: mov eax, cr3\n mov cr3, eax\n xor eax, eax\n try mov eax, [0x402000]\n ret"
    script = Script()
    for number, value in ((0x500000, 11), (0x501000, 22), (0x57F000, 33), (0x400000, 44)):
        script.do(POKE, number, value)
    for sector in (None, 0, 2):
        if sector is not None:
            script.read(sector, ("TABLE_1", SECTOR))
        script.do(CALL, "peek").do(CALL, "gone")
    script.read(1, ("TABLE_1", SECTOR)).do(CALL, "gone").read(0, ("TABLE_1", SECTOR)).do(CALL, "peek")
    native, other = native_and(way, script.kernel(begin="call paging_on", more=peek + "\n" + gone), disk)
    found = results(other.guests[0], 12)
    assert [found[n] for n in (0, 3, 6, 11)] == [44, 11, 33, 11]
    assert native.guests[0].memory.read(0x501000, 4) == 24
    assert native.guests[0].vcpu.delivered == other.guests[0].vcpu.delivered


@pytest.mark.parametrize("way", UNDER)
def test_descriptor_tables(way):
    """The device writes the descriptor of a segment, and a gate."""
    segments = [encode_descriptor(base, 0xFFF, 0x93).to_bytes(8, "little") for base in (0x300000, 0x310000)]
    more = """
load:   mov eax, SPARE
        mov fs, eax
        mov eax, [fs:0]
        mov ecx, KERNEL_DATA
        mov fs, ecx
        ret
ask:    int 0x81
        ret
align 16
first:  mov eax, 111
        iret
align 16
second: mov eax, 222
        iret
"""
    script = Script().do(POKE, 0x300000, 1000).do(POKE, 0x310000, 2000)
    for place, word in (("spare", segments[1][:4]), ("spare + 4", segments[1][4:])):
        script.do(POKE, place, int.from_bytes(word, "little"))
    script.do(CALL, "load").do(CALL, "load")  # known to the hypervisor before the device writes
    for sector in (0, 1, 0):
        script.read(sector, ("spare", 8), ("idt + 0x81 * 8", 8), (FREE, SECTOR - 16)).do(CALL, "load").do(CALL, "ask")
    image = script.kernel(begin="call paging_on", more=more)
    gates = [
        (image.symbols[name] & 0xFFFF | 0x08 << 16 | 0x8E00 << 32 | image.symbols[name] >> 16 << 48).to_bytes(
            8, "little"
        )
        for name in ("first", "second")
    ]
    _, other = native_and(way, image, padded(*(a + b for a, b in zip(segments, gates, strict=True))))
    found = results(other.guests[0], 11)
    assert found[:2] == [2000, 2000]
    assert [found[n : n + 2] for n in (3, 6, 9)] == [[1000, 111], [2000, 222], [1000, 111]]


@pytest.mark.parametrize("way", UNDER)
def test_interrupts_come_when_the_data_are_there(way):
    """With interrupts on, asleep: the drive's interrupt wakes the kernel, which finds the last sector; and writes it elsewhere."""
    disk = padded(*(bytes([n]) * SECTOR for n in range(1, 9)))
    more = "sleep: sti\n hlt\n cli\n mov eax, [0x400000 + 3 * 512]\n ret"
    script = Script().prds((0x400000, 4 * SECTOR)).transfer(0, 4, wait=1).do(CALL, "sleep")
    script.transfer(4, 4, command=WRITE_DMA, wait=1).do(CALL, "sleep").do(POKE, 0x400000, 0).transfer(4, 4)
    native, other = native_and(way, script.kernel(more=more), disk)
    assert results(other.guests[0], 2)[1] == 0x04040404
    assert native.guests[0].memory.read(0x400000, 4) == 0x01010101
    assert other.guests[0].platform.ata.drives[0].disk.read(4, 4) == b"".join(bytes([n]) * SECTOR for n in range(1, 5))
    assert len(looks(other.guests[0], 1)) == 1


# -- who else sees it -----------------------------------------------------------------------------------------------------


def reading():
    """Return a kernel that reads four sectors, and its disk."""
    script = Script().prds((0x400000, 2 * SECTOR), (0x4FFE00, 2 * SECTOR)).transfer(0, 4).do(WAIT, 100)
    return script.kernel(begin="call paging_on"), padded(*(bytes([n]) * SECTOR for n in range(1, 5)))


@pytest.mark.parametrize("options", [{"under": "vt-x", "host_cpu": "westmere"}, {"under": "vt-x", "host_cpu": "broadwell"}, {"under": "amd-v"}])  # fmt: skip
def test_written_pages_are_dirty(options):
    image, disk = reading()
    pages = dirty_pages(build(image, memory=MEMORY, disks=[disk], **options), 50)
    assert {0x400, 0x4FF, 0x500} <= pages
    assert 0x401 not in pages


@pytest.mark.parametrize("way", UNDER)
def test_saved_in_the_middle_it_goes_on_elsewhere(way):
    image, disk = reading()

    def make():
        return build(image, memory=MEMORY, disks=[disk], **UNDER[way])

    goes_on_elsewhere(make, lambda system: seen(system.guests[0]), start=300, places=7)


@pytest.mark.parametrize("options", [{}, {"under": "vt-x"}, {"under": "binary-translation"}])
def test_recordings_tell_of_it_and_go_back_over_it(options):
    image, disk = reading()
    recording = vmlab.record(image, memory=MEMORY, disks=[disk], **options)
    found = [event for event in recording.events if event.kind == "dma"]
    assert [(event.address, event.size, event.done, event.write, event.device) for event in found] == [
        (place, SECTOR, SECTOR, True, "ide-dma") for place in (0x400000, 0x400200, 0x4FFE00, 0x500000)
    ]
    recording.seek(0)
    memory = recording.system.guests[0].memory
    for event in found:
        assert recording.next("dma") == event
        assert memory.read_bytes(event.address, SECTOR) == bytes([found.index(event) + 1]) * SECTOR
        recording.seek(event.step - 1)
        assert memory.read_bytes(event.address, SECTOR) == bytes(SECTOR)
        recording.seek(event.step)
    goes_back(recording)
    when = vmlab.when.event("dma", address=0x500000)
    recording.seek(0)
    assert recording.find(when).step == found[-1].step


def test_both_engines_see_the_same():
    image, disk = reading()
    one, other = (finish(image, "native", disks=[disk], engine=engine) for engine in ("interpreter", "translator"))
    assert differences(seen(one.guests[0]), seen(other.guests[0])) == []


# -- hostile guests ---------------------------------------------------------------------------------------------------------

WILD = {
    "behind its memory": [(MEMORY, SECTOR)],
    "over the end of its memory": [(MEMORY - 128, SECTOR)],
    "the end of the address space": [(0xFFFFFE00, SECTOR)],
    "around the address space": [(0xFFFFFFF0, 0)],
    "the hypervisor's window": [(0xFFC00000, SECTOR)],
    "the hypervisor's frames": [(0x110000, SECTOR)],
    "a VMCS": [(0x10E000, SECTOR)],
    "the screen": [(0xB8000, SECTOR)],
    "up to the screen": [(0xB7F00, 0)],
    "the local APIC": [(0xFEE00000, SECTOR)],
    "the I/O APIC": [(0xFEC00000, SECTOR)],
    "64 KiB over the end": [(MEMORY - 0x1000, 0)],
    "good, then bad": [(FREE, 256), (0x80000000, 256)],
    "into its own table": [(TABLE, 16), (FREE, SECTOR - 16)],
    "nothing at all": [(0, 2)],
}


def wild_script() -> Script:
    """Return a script that tries all of it, in both directions; and tables in all wrong places."""
    script = Script()
    for regions in WILD.values():
        for command in (READ_DMA, WRITE_DMA):
            script.prds(*regions).transfer(1, 2, command=command).reset()
    for table in (MEMORY, MEMORY - 4, 0xFFFFFFFC, 0xFFC00000, 0xB8000, 0xFEE00000, 0x9FFF8, 0x10E000, 3):
        script.transfer(2, 2, table=table).reset()
    regions = [(FREE + 0x1000 + 4 * n, 2) for n in range(300)]
    return script.prds(*regions, end=False).transfer(0, 1).reset().transfer(0, 5, command=WRITE_DMA)


DISK = padded(*(bytes([n]) * SECTOR for n in range(64)))


@pytest.mark.parametrize("way", UNDER)
def test_wild_transfers_end_in_the_same_way(way):
    native, _ = native_and(way, wild_script().kernel(), DISK)
    guest = native.guests[0]
    assert guest.outcome == "exit"
    found = dict(zip(WILD, zip(*(iter(looks(guest, 2 * len(WILD))),) * 2, strict=True), strict=True))
    assert {name for name, (into, _) in found.items() if into == STOPPED} == {
        "behind its memory", "over the end of its memory", "the end of the address space", "around the address space",
        "the hypervisor's window", "the screen", "up to the screen", "the local APIC", "the I/O APIC", "good, then bad", "into its own table",
    }  # fmt: skip
    assert guest.memory.read_bytes(MEMORY - 128, 128) == b"\1" * 128
    assert guest.memory.read_bytes(0xB7F00, 256) == b"\1" * 256


@pytest.fixture
def short_slices(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 700)


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize("way", UNDER)
def test_the_neighbour_and_the_hypervisor_do_not_notice(way):
    options = UNDER[way] | {"max_instructions": 40_000, "disks": [DISK]}
    alone = finish(neighbour(), **options)
    for place in (0, 1):
        images = [neighbour(), wild_script().kernel(begin="call paging_on")]
        system = finish(images if place else images[::-1], **options)
        victim = system.guests[1 - place]
        assert differences(seen(alone.guests[0]), seen(victim)) == []
        assert victim.exits == alone.guests[0].exits
        assert own_frames(system) == own_frames(alone)
        assert system.machine.outcome is None


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize("way", ["nested", "amd-v, nested", "trap-and-emulate"])
def test_a_transfer_writes_to_the_guests_own_frames_alone(way, monkeypatch):
    """Around each transfer, what has been written to in the computer's memory; without paging there is no shadow to follow."""
    seen_frames = set()
    transfer = Bus.transfer_in

    def watched(bus, address, data, device):
        host = bus.memory.host
        host.take_dirty()
        done = transfer(bus, address, data, device)
        written = set(host.take_dirty())
        assert written <= set(bus.memory.frames)
        assert bool(written) == bool(done)
        seen_frames.update(written)
        return done

    monkeypatch.setattr(Bus, "transfer_in", watched)
    system = finish([neighbour(), wild_script().kernel()], **UNDER[way], max_instructions=40_000, disks=[DISK])
    assert system.guests[1].outcome == "exit"
    assert len(seen_frames) > 5


OWN_VMCS, OWN_EPT, OWN_DIRECTORY, OWN_GUEST = 0x91000, 0x95000, 0x80000, 0x200000  # of the guest thin_hypervisor


@pytest.mark.parametrize("under", ["native", "vt-x"])
@pytest.mark.parametrize("seed", range(6))
def test_what_a_guests_own_hypervisor_keeps(seed, under):
    """A device writes over the VMCS, the EPT, the page directory, the guest of a hypervisor that is a guest, while they are used."""
    chance = random.Random(seed)
    noise = Disk(
        bytes(chance.choice((0, 0, 0, 1, 3, 7, 0x80, 0xFF, chance.randrange(256))) for _ in range(64 * SECTOR))
    )
    options = {"cpu": "westmere", "memory": MEMORY, "max_instructions": 8_000, "disks": [noise]}
    system = build(vmlab.guests.load("thin_hypervisor"), under, **options)
    guest = system.guests[0]
    bus, drive = guest.platform.bus, guest.platform.ata.drives[0]
    transfers = []
    bus.on_transfer = lambda *facts: transfers.append(facts)
    system.advance(chance.randrange(100, 1200))
    frames = own_frames(system) if under == "vt-x" else None
    bus.port_write(0xCF8, 4, 0x80000904)
    bus.port_write(0xCFC, 2, 5)
    for place in chance.sample([OWN_VMCS, OWN_EPT, OWN_DIRECTORY, OWN_GUEST], 4):
        guest.memory.write(TABLE, 4, place)
        guest.memory.write(TABLE + 4, 4, 1 << 31 | chance.choice([64, SECTOR, 8 * SECTOR]))
        bus.port_write(BMIDE + 4, 4, TABLE)
        for port, value in ((BMIDE, 0), (0x1F6, 0xE0), (0x1F2, 8), (0x1F3, chance.randrange(50)), (0x1F4, 0), (0x1F5, 0), (0x1F7, READ_DMA), (BMIDE, 9)):  # fmt: skip
            bus.port_write(port, 1, value)
        while drive.due is not None and not system.finished:
            drive.due = guest.platform.clock.now + 1  # a quick disk: it is among what is done with these tables
            guest.platform.clock.refresh()
            system.advance(chance.randrange(1, 20))
    assert transfers
    system.run()
    assert guest.outcome is not None
    if frames:
        assert own_frames(system) == frames


def test_a_paravirtualized_guest_has_no_such_device():
    """Its platform stands on the memory of the computer, in which no device may write for it."""
    system = build(vmlab.guests.load("minios_pv"), "paravirtualization", memory=2 << 20)
    assert "ide-dma" not in system.guests[0].device_names
    assert "ide-dma" in system.machine.platform.devices


ADDRESSES = [
    FREE,
    FREE + 2,
    0x9FFFE,
    MEMORY - 2,
    MEMORY,
    0xB8000,
    0x110000,
    0x10E000,
    0xFFC00000,
    0xFFFFFFFE,
    0x7FFFFFFE,
    0x200000,
    TABLE,
]
SIZES = [0, 2, 6, 254, SECTOR, SECTOR + 2, 0xFFFE]
REGION = st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(SIZES))


@st.composite
def scripts(draw):
    script = Script()
    for _ in range(draw(st.integers(1, 6))):
        script.prds(*draw(st.lists(REGION, min_size=1, max_size=5)), end=draw(st.booleans()))
        script.transfer(
            draw(st.integers(0, 70)),
            draw(st.integers(1, 4)),
            command=draw(st.sampled_from([READ_DMA, WRITE_DMA])),
            table=draw(st.sampled_from([TABLE, TABLE, TABLE, TABLE + 8, MEMORY - 8, 0x9FFF8, 0xFFC00000])),
            wait=draw(st.sampled_from([None, None, 1, 90, 250])),
        )
        if draw(st.booleans()):
            script.reset()
    return script


@given(scripts(), st.sampled_from(sorted(UNDER)))
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_random_transfers(script, way):
    """What the log, the tables and the kernel itself are overwritten with is the guest's own affair: it is the same anywhere."""
    native_and(way, script.kernel(), DISK, max_instructions=20_000)
