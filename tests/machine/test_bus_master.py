"""The bus master of the IDE controller: its registers, its transfers, and every wild thing that software may ask of it.

Worked from Intel's Programming Interface for Bus Master IDE Controller 1.0 (status bits: its table of interrupt and active).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine.test_ata import BSY, COMMAND, CONTROL, COUNT, DRQ, ERR, IDNF, READY, STATUS, sector
from tests.machine.test_ata import Rig as AtaRig
from tests.machine.test_pci import Rig as PciRig
from vmlab.errors import StateError
from vmlab.machine.devices.ata_disk import COMMAND_TIME
from vmlab.machine.devices.bus_master import BusMaster
from vmlab.machine.disk import SECTOR
from vmlab.machine.memory import PhysicalMemory

BASE = 0xC000
ENGINE, STATE, TABLE = BASE, BASE + 2, BASE + 4
START, READ = 1, 8
ACTIVE, ERROR, INTERRUPT, CAN = 1, 2, 4, 0x20
READ_DMA, READ_DMA_EXT, WRITE_DMA, WRITE_DMA_EXT = 0xC8, 0x25, 0xCA, 0x35
SIZE = 1 << 17
PRDS, BUFFER, HIDDEN = 0x1000, 0x2000, 0x8000
END = 1 << 31


class Screen:
    """A device that hides a page of memory."""

    name = "screen"

    def read(self, offset, size):
        return 0

    write = read


class Rig(AtaRig, PciRig):
    """A disk whose sectors hold their numbers, a bus master, 128 KiB of memory with a hole of a device's; bus mastering is on."""

    def __init__(self, **disks):
        AtaRig.__init__(self, **disks)
        bus = self.bus
        PciRig.__init__(self)
        self.pci.attach(bus)
        self.bus = bus
        self.memory = bus.memory = PhysicalMemory(SIZE)
        bus.ram_pages = bytearray(b"\1" * (SIZE >> 12))
        bus.add_mmio(Screen(), HIDDEN, 0x1000)
        self.transfers = []
        bus.on_transfer = lambda *facts: self.transfers.append(facts)
        self.master = BusMaster(self.pci, self.channel)
        self.master.attach(bus)
        self.write(1, 1, 4, 2, 5)

    def prds(self, *regions, at=PRDS):
        """Write descriptors: (address, bytes); the last one ends the table."""
        for number, (address, size) in enumerate(regions):
            last = END if number == len(regions) - 1 else 0
            self.memory.write(at + 8 * number, 4, address)
            self.memory.write(at + 8 * number + 4, 4, size & 0xFFFF | last)

    def name(self, command, number, count):
        """Name sectors in the registers, as a command wants it."""
        if command in (READ_DMA_EXT, WRITE_DMA_EXT):
            for register in range(COUNT, COUNT + 4):
                self.out(register, 0)  # the previous bytes
        self.address(number, count)

    def start(self, direction=READ, table=PRDS):
        self.bus.port_write(TABLE, 4, table)
        self.out(STATE, ERROR | INTERRUPT)
        self.out(ENGINE, direction)
        self.out(ENGINE, direction | START)

    def finish(self):
        """Pass the time until nothing is to come any more; return the status of the engine and of the drive."""
        while self.clock.deadline is not None:
            self.run(self.clock.deadline)
        return self.inb(STATE) & ~CAN, self.inb(CONTROL)


@pytest.fixture
def rig():
    return Rig()


DONE = INTERRUPT, READY
STOPPED = ERROR, READY | DRQ


# -- transfers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [READ_DMA, 0xC9, READ_DMA_EXT])
def test_reading_sectors_into_memory(rig, command):
    rig.prds((BUFFER, 3 * SECTOR))
    rig.name(command, 7, 3)
    rig.out(COMMAND, command)
    rig.start()
    assert (rig.inb(STATE) & ~CAN, rig.inb(CONTROL)) == (ACTIVE, BSY)
    for number in (7, 8, 9):
        assert rig.edges == []
        rig.run(rig.clock.now + COMMAND_TIME - 1)
        assert rig.memory.read_bytes(BUFFER + (number - 7) * SECTOR, SECTOR) == bytes(SECTOR)
        rig.run(rig.clock.now + 1)
        assert rig.memory.read_bytes(BUFFER + (number - 7) * SECTOR, SECTOR) == sector(number)
    assert rig.finish() == DONE
    assert rig.edges == [(3 * COMMAND_TIME, True)], "one interrupt in the end"
    assert (rig.where(), rig.inb(COUNT)) == (9, 0)
    assert rig.memory.read_bytes(BUFFER + 3 * SECTOR, SECTOR) == bytes(SECTOR)
    rig.inb(STATUS)
    assert rig.inb(STATE) & INTERRUPT, "reading the drive's status does not clear it"
    rig.out(STATE, INTERRUPT)
    assert rig.inb(STATE) == 0


@pytest.mark.parametrize("command", [WRITE_DMA, 0xCB, WRITE_DMA_EXT])
def test_writing_sectors_from_memory(rig, command):
    data = bytes(n * 7 & 0xFF for n in range(2 * SECTOR))
    rig.memory.write_bytes(BUFFER, data)
    rig.prds((BUFFER, 2 * SECTOR))
    rig.name(command, 20, 2)
    rig.out(COMMAND, command)
    assert rig.inb(CONTROL) == READY | DRQ
    assert rig.clock.deadline is None, "it waits for the engine"
    rig.start(direction=0)
    assert rig.finish() == DONE
    assert rig.edges == [(rig.clock.now, True)]
    assert rig.clock.now == 3 * COMMAND_TIME, "one until the bus is granted, and one for each sector"
    assert rig.channel.drives[0].disk.read(20, 3) == data + sector(22)


def test_regions_are_gathered_and_scattered(rig):
    """Regions of any even size, across sectors, and one that is reached twice."""
    regions = [(BUFFER + 2, 6), (0x5000, 1000), (BUFFER + 0x900, 16), (BUFFER + 0x900, 2)]
    rig.prds(*regions)
    rig.address(1, 2)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    assert rig.finish() == DONE
    data = sector(1) + sector(2)
    assert rig.memory.read_bytes(BUFFER + 2, 6) == data[:6]
    assert rig.memory.read_bytes(0x5000, 1000) == data[6:1006]
    assert rig.memory.read_bytes(BUFFER + 0x900, 18) == data[1022:1024] + data[1008:1022] + bytes(2)


def test_sixty_four_kibibytes_are_a_count_of_zero(rig):
    rig.prds((0x10000, 0))
    rig.address(0, 128)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    assert rig.finish() == DONE
    assert rig.memory.read_bytes(0x10000, 0x10000) == b"".join(sector(n) for n in range(128))


def test_longer_regions_leave_it_active(rig):
    rig.prds((BUFFER, 2 * SECTOR))
    rig.address(5)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    assert rig.finish() == (INTERRUPT | ACTIVE, READY)
    rig.out(ENGINE, READ)
    assert rig.inb(STATE) & ~CAN == INTERRUPT


def test_shorter_regions_stop_it_and_another_table_goes_on(rig):
    rig.prds((BUFFER, 512 + 100))
    rig.address(5, 2)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    assert rig.finish() == (0, READY | DRQ), "neither active nor an interrupt, and no error: regions were shorter"
    assert rig.edges == []
    rig.prds((BUFFER + 612, 412))
    rig.start()
    assert rig.finish() == DONE
    assert rig.memory.read_bytes(BUFFER, 2 * SECTOR) == sector(5) + sector(6)


def test_what_the_drive_does_not_find_is_its_error(rig):
    rig.prds((BUFFER, 2 * SECTOR))
    rig.address(16 * 63 * 3 - 1, 2)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    assert rig.finish() == (INTERRUPT | ACTIVE, READY | ERR)
    assert rig.inb(0x1F1) == IDNF
    assert rig.memory.read_bytes(BUFFER, 2 * SECTOR) == sector(16 * 63 * 3 - 1) + bytes(SECTOR)


# -- who waits for whom ------------------------------------------------------------------------------------------------


def test_the_engine_may_come_first_or_last(rig):
    rig.prds((BUFFER, SECTOR))
    rig.start()
    rig.run(10_000)
    assert rig.inb(STATE) & ~CAN == ACTIVE
    rig.address(3)
    rig.out(COMMAND, READ_DMA)
    assert rig.finish() == DONE
    assert rig.edges == [(10_000 + COMMAND_TIME, True)]
    rig.address(4)
    rig.out(COMMAND, READ_DMA)
    assert rig.finish()[1] == READY | DRQ
    rig.run(20_000)
    rig.start()
    assert rig.finish() == DONE
    assert rig.edges[-1] == (20_000 + COMMAND_TIME, True)
    assert rig.memory.read_bytes(BUFFER, SECTOR) == sector(4)


def test_nothing_moves_without_the_right_to_master_the_bus(rig):
    rig.write(1, 1, 4, 2, 1)
    rig.prds((BUFFER, SECTOR))
    rig.address(3)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    assert rig.finish() == (ACTIVE, READY | DRQ)
    assert rig.transfers == []
    rig.write(1, 1, 4, 2, 5)
    assert rig.finish() == DONE
    assert rig.transfers == [(BUFFER, SECTOR, SECTOR, True, "ide-dma")]


def test_nothing_moves_the_wrong_way(rig):
    rig.memory.write_bytes(BUFFER, b"x" * SECTOR)
    rig.prds((BUFFER, SECTOR))
    for command, wrong in ((READ_DMA, 0), (WRITE_DMA, READ)):
        rig.address(3)
        rig.out(COMMAND, command)
        rig.start(direction=wrong)
        assert rig.finish() == (ACTIVE, READY | DRQ)
    assert rig.transfers == []
    assert rig.channel.drives[0].disk.read(3, 1) == sector(3)


def test_a_drive_that_is_not_selected_waits():
    rig = Rig(slave=b"".join(sector(100 + n) for n in range(10)))
    assert rig.inb(STATE) == 3 * CAN
    rig.prds((BUFFER, SECTOR))
    rig.address(3)
    rig.out(COMMAND, READ_DMA)
    rig.wait()
    rig.out(0x1F6, 0xF0)
    rig.start()
    assert rig.finish()[0] & 0x1F == ACTIVE
    assert rig.transfers == []
    rig.out(0x1F6, 0xE0)
    rig.finish()
    assert rig.memory.read_bytes(BUFFER, SECTOR) == sector(3)
    rig.address(4, device=0xF0)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    rig.finish()
    assert rig.memory.read_bytes(BUFFER, SECTOR) == sector(104)


def test_a_reset_or_another_command_ends_it(rig):
    rig.prds((BUFFER, SECTOR))
    for end in ((CONTROL, 4), (COMMAND, 0x40)):
        rig.address(3)
        rig.out(COMMAND, READ_DMA)
        rig.wait()
        rig.out(*end)
        rig.out(CONTROL, 0)
        rig.start()
        rig.finish()
        assert rig.transfers == []
        assert rig.inb(CONTROL) == READY
        rig.out(ENGINE, 0)


def test_the_data_port_has_no_part_in_it(rig):
    rig.prds((BUFFER, SECTOR))
    rig.address(3)
    rig.out(COMMAND, READ_DMA)
    rig.wait()
    assert rig.take(2, 4) == bytes(4)
    rig.start()
    assert rig.finish() == DONE
    assert rig.memory.read_bytes(BUFFER, SECTOR) == sector(3)


# -- wild addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regions", "written"),
    [
        ([(SIZE, SECTOR)], []),
        ([(0xFFFFFFFE, SECTOR)], []),
        ([(0xFEE00000, SECTOR)], []),
        ([(SIZE - 256, SECTOR)], [(SIZE - 256, 256)]),
        ([(HIDDEN - 2, SECTOR)], [(HIDDEN - 2, 2)]),
        ([(HIDDEN, SECTOR)], []),
        ([(BUFFER, 100), (0x40000000, 100)], [(BUFFER, 100)]),
        ([(0x1F000, 0)], [(0x1F000, 0x1000)]),
    ],
)
def test_where_nothing_answers_it_stops(rig, regions, written):
    before = rig.memory.read_bytes(0, SIZE)
    rig.prds(*regions)
    expected = bytearray(rig.memory.read_bytes(0, SIZE))
    data, place = b"".join(sector(n) for n in range(256)), 0
    for address, size in written:
        expected[address : address + size] = data[place : place + size]
        place += size
    rig.address(0, 256)
    rig.out(COMMAND, READ_DMA)
    rig.start()
    assert rig.finish() == STOPPED
    assert rig.memory.read_bytes(0, SIZE) == expected != before
    assert rig.edges == []
    assert rig.read(1, 1, 6, 2) == 0x2280, "received master abort"
    rig.write(1, 1, 6, 2, 0x2000)
    rig.out(STATE, ERROR)
    assert rig.read(1, 1, 6, 2) == 0x0280
    assert rig.inb(STATE) & ~CAN == 0


@pytest.mark.parametrize("table", [SIZE, 0xFFFFFFFC, HIDDEN, SIZE - 4, HIDDEN + 0x8000_0000])
def test_a_table_where_nothing_answers(rig, table):
    rig.address(3)
    rig.out(COMMAND, WRITE_DMA)
    rig.start(direction=0, table=table)
    assert rig.finish() == STOPPED
    assert rig.transfers == []
    assert rig.channel.drives[0].disk.read(3, 1) == sector(3)


def test_a_table_without_an_end(rig):
    """Descriptors of two bytes each, all over memory and then nothing: the drive has had what it needs long before."""
    for at in range(0, SIZE, 8):
        if not HIDDEN <= at < HIDDEN + 0x1000:
            rig.memory.write_bytes(at, (at & 0xFFFF).to_bytes(4, "little") + (2).to_bytes(4, "little"))
    rig.memory.write_bytes(SIZE - 16, (BUFFER).to_bytes(4, "little") + (2).to_bytes(4, "little"))
    rig.address(0, 1)
    rig.out(COMMAND, WRITE_DMA)
    rig.start(direction=0, table=0x10000)
    assert rig.finish() == (INTERRUPT | ACTIVE, READY)
    assert len(rig.transfers) == 256
    rig.address(0, 0)  # 256 sectors: longer than the table
    rig.out(COMMAND, WRITE_DMA)
    rig.start(direction=0, table=SIZE - 16)
    assert rig.finish() == STOPPED


def test_odd_addresses_and_counts_lose_their_lowest_bit(rig):
    rig.prds((BUFFER + 1, SECTOR + 1))
    rig.address(3)
    rig.out(COMMAND, READ_DMA)
    rig.start(table=PRDS + 3)
    assert rig.bus.port_read(TABLE, 4) == PRDS
    assert rig.finish() == DONE
    assert rig.memory.read_bytes(BUFFER, SECTOR) == sector(3)


# -- registers ----------------------------------------------------------------------------------------------------------


def test_registers(rig):
    rig.bus.port_write(BASE, 4, 0xFFFFFFFF)
    assert rig.bus.port_read(BASE, 4) == 0x00610009
    rig.bus.port_write(BASE, 4, 0)
    assert rig.bus.port_read(BASE, 4) == 0
    rig.bus.port_write(TABLE + 1, 2, 0xABCD)
    assert rig.bus.port_read(TABLE, 4) == 0xABCD00
    rig.bus.port_write(BASE + 12, 4, 0x12345678)
    assert rig.bus.port_read(BASE + 12, 4) == 0x12345678
    rig.out(BASE + 8, 9)
    assert rig.inb(BASE + 10) == ACTIVE, "the second channel has no drive, and waits"
    rig.finish()


def test_the_ports_are_where_configuration_space_says(rig):
    def places():
        return [each.describe() for each in rig.bus.describe() if each.owner == "ide-dma"]

    assert places() == ["port c000-c00f ide-dma"]
    rig.write(1, 1, 0x20, 4, 0xD00F)
    assert places() == ["port d000-d00f ide-dma"]
    rig.bus.port_write(0xD004, 4, 0x5000)
    assert (rig.bus.port_read(0xC004, 4), rig.bus.port_read(0xD004, 4)) == (0xFFFFFFFF, 0x5000)
    rig.write(1, 1, 4, 2, 4)
    assert places() == []
    assert rig.bus.port_read(0xD004, 4) == 0xFFFFFFFF
    rig.write(1, 1, 4, 2, 5)
    rig.write(1, 1, 0x20, 4, 0x1F0)
    assert places() == ["port 01f8-01ff ide-dma"], "the drives' ports are theirs"
    assert rig.bus.port_read(0x1FC, 4) == 0, "of the second channel, the table"
    assert rig.inb(STATUS) == READY
    rig.write(1, 1, 0x20, 4, 0xFFF0)
    assert places() == ["port fff0-ffff ide-dma"]


def test_the_drive_says_what_it_can(rig):
    def words():
        rig.out(COMMAND, 0xEC)
        rig.wait()
        data = rig.take()
        return [int.from_bytes(data[2 * n : 2 * n + 2], "little") for n in (49, 63, 65, 66, 88)]

    assert words() == [0x0300, 0x0407, 120, 120, 0]
    rig.out(0x1F1, 3)
    rig.out(COUNT, 0x21)
    assert rig.command(0xEF) == READY
    assert words() == [0x0300, 0x0207, 120, 120, 0]
    for mode in (0x23, 0x10, 0x40):
        rig.out(0x1F1, 3)
        rig.out(COUNT, mode)
        assert rig.command(0xEF) == READY | ERR
    alone = AtaRig()
    alone.out(COMMAND, 0xEC)
    alone.wait()
    data = alone.take()
    assert (data[99], data[126:128], data[130:134]) == (2, bytes(2), bytes(4)), "without a bus master there is no DMA"
    for command in (READ_DMA, WRITE_DMA, READ_DMA_EXT, WRITE_DMA_EXT):
        alone.address(0)
        assert alone.command(command) == READY | ERR


# -- saving -------------------------------------------------------------------------------------------------------------

_ports = st.sampled_from(
    [BASE, BASE, STATE, TABLE, TABLE + 1, BASE + 8, COMMAND, COMMAND, COUNT, CONTROL, 0x1F6, 0x1F0]
)
_actions = st.lists(
    st.one_of(
        st.tuples(st.just("port"), _ports, st.sampled_from([1, 1, 2, 4]), st.sampled_from([0, 1, 4, 8, 9, 0xC8, 0xCA, 0x25, 0x20, 0xE0, 0xF0, 0x1000, 0xFFFF_FFFF])),
        st.tuples(st.just("config"), st.sampled_from([4, 6, 0x20]), st.sampled_from([1, 2, 4]), st.sampled_from([0, 1, 4, 5, 0xFFFF, 0xC000, 0x3F0])),
        st.tuples(st.just("prd"), st.integers(0, 3), st.sampled_from([BUFFER, 0, SIZE - 2, HIDDEN - 6, 0xFFFFFFFF, PRDS]), st.sampled_from([0, 2, 100, SECTOR, END, END | 2, END | 3 * SECTOR])),
        st.tuples(st.just("wait"), st.sampled_from([1, 50, COMMAND_TIME, 1000]), st.just(0), st.just(0)),
    ),
    max_size=40,
)  # fmt: skip


def act(rig, actions):
    seen = []
    for kind, a, b, c in actions:
        if kind == "port":
            rig.bus.port_write(a, b, c)
            seen.append(rig.bus.port_read(a, b))
        elif kind == "config":
            rig.write(1, 1, a, b, c)
        elif kind == "prd":
            rig.memory.write(PRDS + 8 * a, 4, b)
            rig.memory.write(PRDS + 8 * a + 4, 4, c)
        else:
            rig.run(rig.clock.now + a)
    return seen, rig.transfers, rig.edges, rig.memory.digest()


def copied(rig):
    """Return another rig, which has loaded what this one has saved."""
    other = Rig()
    other.memory.load(rig.memory.save())
    other.clock.load(rig.clock.save())
    for name in ("channel", "pci", "master"):
        getattr(other, name).load(getattr(rig, name).save())
    other.clock.refresh()
    other.transfers, other.edges = list(rig.transfers), list(rig.edges)
    return other


@given(before=_actions, after=_actions)
def test_a_loaded_bus_master_goes_on_as_the_saved_one(before, after):
    rig = Rig()
    rig.prds((BUFFER, 700), (0x5000, 2000))
    rig.bus.port_write(TABLE, 4, PRDS)
    act(rig, before)
    other = copied(rig)
    assert act(other, after) == act(rig, after)
    assert other.master.save() == rig.master.save()
    assert other.channel.save() == rig.channel.save()
    assert other.bus.describe() == rig.bus.describe()


def test_however_late_the_channel_is_served_the_drive_has_taken_its_time():
    rig, late = Rig(), Rig()
    for each in (rig, late):
        each.prds((BUFFER, 700), (0x5000, 2000))
        each.bus.port_write(TABLE, 4, PRDS)
        each.address(3, 5)
        each.out(COMMAND, READ_DMA)
        each.start()
    rig.run(2000)
    late.clock.now = 2000
    late.clock.service()
    assert late.channel.save() == rig.channel.save()
    assert late.master.save() == rig.master.save()
    assert late.transfers == rig.transfers
    assert late.memory.digest() == rig.memory.digest()


def test_damaged_states_are_refused(rig):
    good = rig.master.save()
    first = good["channels"][0]
    for change in ({"command": 2}, {"status": 256}, {"left": 0x10001}, {"last": 1}, {"next": -1}, {"more": 0}):
        with pytest.raises(StateError, match="ide-dma"):
            rig.master.load(good | {"channels": [first | change, first]})
    with pytest.raises(StateError, match="ide-dma"):
        rig.master.load(good | {"version": 2})
    assert rig.master.save() == good
