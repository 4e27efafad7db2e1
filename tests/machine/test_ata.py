"""ATA channels and drives, rule by rule from ATA/ATAPI-6."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.clock import Clock
from vmlab.machine.devices.ata import SECONDARY, AtaChannel
from vmlab.machine.devices.ata_disk import COMMAND_TIME
from vmlab.machine.disk import SECTOR, Disk
from vmlab.machine.memory import PhysicalMemory

DATA, ERROR, COUNT, LOW, MIDDLE, HIGH, DEVICE, STATUS = range(0x1F0, 0x1F8)
FEATURES, COMMAND, CONTROL = ERROR, STATUS, 0x3F6
READ, READ_EXT, READ_MULTIPLE, READ_MULTIPLE_EXT = 0x20, 0x24, 0xC4, 0x29
WRITE, WRITE_EXT, WRITE_MULTIPLE, WRITE_MULTIPLE_EXT = 0x30, 0x34, 0xC5, 0x39
BSY, READY, DRQ, ERR = 0x80, 0x50, 0x08, 0x01
IDNF, ABRT = 0x10, 0x04
LBA, SLAVE = 0xE0, 0x10
SIZE = 16 * 63 * 3


def sector(value):
    return bytes([value & 0xFF, value >> 8 & 0xFF]) * (SECTOR // 2)


IMAGE = b"".join(sector(number) for number in range(SIZE))


class Rig:
    """A channel with a disk whose sectors hold their numbers; `edges` are the interrupts as (clock time, level)."""

    def __init__(self, master=IMAGE, slave=None):
        self.clock = Clock()
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.edges = []
        disks = [None if image is None else Disk(image) for image in (master, slave)]
        self.channel = AtaChannel(self.clock, lambda level: self.edges.append((self.clock.now, level)), *disks)
        self.channel.attach(self.bus)

    def out(self, port, *values):
        for value in values:
            self.bus.port_write(port, 1, value)

    def inb(self, port):
        return self.bus.port_read(port, 1)

    def run(self, now):
        while self.clock.deadline is not None and self.clock.deadline <= now:
            assert self.clock.deadline > self.clock.now
            self.clock.now = self.clock.deadline
            self.clock.service()
        self.clock.now = now

    def wait(self):
        self.run(self.clock.now + COMMAND_TIME)

    def address(self, number, count=1, device=LBA):
        self.out(COUNT, count & 0xFF)
        self.out(LOW, number & 0xFF)
        self.out(MIDDLE, number >> 8 & 0xFF)
        self.out(HIGH, number >> 16 & 0xFF)
        self.out(DEVICE, device | number >> 24 & 0xF)

    def command(self, value):
        """Give a command, wait, and return the status."""
        self.out(COMMAND, value)
        self.wait()
        return self.inb(CONTROL)

    def take(self, size=2, length=SECTOR):
        return b"".join(self.bus.port_read(DATA, size).to_bytes(size, "little") for _ in range(length // size))

    def give(self, data, size=2):
        for place in range(0, len(data), size):
            self.bus.port_write(DATA, size, int.from_bytes(data[place : place + size], "little"))

    def where(self):
        low, middle, high, device = (self.inb(port) for port in (LOW, MIDDLE, HIGH, DEVICE))
        return (device & 0xF) << 24 | high << 16 | middle << 8 | low


@pytest.fixture
def rig():
    return Rig()


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4])
def test_reading_a_sector(rig, size):
    rig.address(0x234)
    rig.out(COMMAND, READ)
    assert rig.inb(CONTROL) == BSY
    rig.run(COMMAND_TIME - 1)
    assert rig.inb(CONTROL) == BSY
    assert rig.edges == []
    rig.run(COMMAND_TIME)
    assert rig.inb(CONTROL) == READY | DRQ
    assert rig.edges == [(COMMAND_TIME, True)]
    assert rig.inb(STATUS) == READY | DRQ
    assert rig.edges[1:] == [(COMMAND_TIME, False)]
    assert rig.take(size) == sector(0x234)
    assert rig.inb(STATUS) == READY
    assert len(rig.edges) == 2, "no interrupt after the last block"
    assert (rig.where(), rig.inb(COUNT), rig.inb(ERROR)) == (0x234, 0, 0)


def test_reading_several_sectors_interrupts_for_each(rig):
    rig.address(7, 3)
    rig.out(COMMAND, READ)
    for number in (7, 8, 9):
        assert rig.inb(STATUS) == BSY
        rig.wait()
        assert rig.edges[-1] == (rig.clock.now, True)
        assert rig.inb(STATUS) == READY | DRQ
        assert rig.inb(COUNT) == 9 - number
        assert rig.take() == sector(number)
    assert rig.inb(STATUS) == READY
    assert rig.where() == 9


def test_a_count_of_zero_is_256(rig):
    rig.address(0, 0)
    rig.command(READ)
    for number in range(256):
        assert rig.take(4) == sector(number)
        rig.wait()
    assert rig.inb(STATUS) == READY
    assert rig.where() == 255


def test_chs_addresses(rig):
    cylinder, head, place = 2, 5, 63
    rig.address(cylinder << 8 | place, 2, 0xA0 | head)
    rig.command(READ)
    number = (cylinder * 16 + head) * 63 + place - 1
    assert rig.take() == sector(number)
    rig.wait()
    assert rig.take() == sector(number + 1)
    assert (rig.inb(LOW), rig.inb(MIDDLE), rig.inb(HIGH), rig.inb(DEVICE)) == (1, 2, 0, 0xA6)


@pytest.mark.parametrize(("low", "device"), [(0, 0xA0), (64, 0xA0)])
def test_places_that_the_geometry_lacks(rig, low, device):
    rig.address(low, 1, device)
    assert rig.command(READ) == READY | ERR
    assert rig.inb(ERROR) == IDNF


def test_a_new_geometry(rig):
    rig.address(0, 10, 0xA3)
    assert rig.command(0x91) == READY
    rig.address(1 << 8 | 10, 1, 0xA3)
    rig.command(READ)
    assert rig.take() == sector((1 * 4 + 3) * 10 + 9)
    rig.address(1, 1, 0xA4)
    assert rig.command(READ) == READY | ERR, "there are four heads"
    rig.address(0, 0, 0xA3)
    assert rig.command(0x91) == READY | ERR


def test_lba48(rig):
    rig.out(COUNT, 0, 2)
    rig.out(LOW, 0, 0x21)
    rig.out(MIDDLE, 0, 0x03)
    rig.out(HIGH, 0, 0)
    rig.out(DEVICE, 0x40)
    rig.command(READ_EXT)
    assert rig.take() == sector(0x321)
    rig.wait()
    assert rig.take() == sector(0x322)
    assert [rig.inb(port) for port in (COUNT, LOW, MIDDLE, HIGH)] == [0, 0x22, 3, 0]
    rig.out(LOW, 0x77, 0x66)
    rig.out(CONTROL, 0x80)
    assert rig.inb(LOW) == 0x77, "the previous value"
    rig.out(MIDDLE, 0)
    assert rig.inb(LOW) == 0x66, "a write takes HOB back"
    assert rig.command(READ_EXT) == READY | ERR
    assert rig.inb(ERROR) == IDNF


def test_lba48_addresses_are_whole():
    rig = Rig()
    for port, values in {COUNT: (0, 1), LOW: (0x40, 1), MIDDLE: (0x50, 2), HIGH: (0x60, 3)}.items():
        rig.out(port, *values)
    rig.out(DEVICE, 0x40)
    assert rig.command(READ_EXT) == READY | ERR
    assert rig.channel.drives[0].sector == 0x605040030201
    assert [rig.inb(port) for port in (LOW, MIDDLE, HIGH)] == [1, 2, 3]
    rig.out(CONTROL, 0x80)
    assert [rig.inb(port) for port in (LOW, MIDDLE, HIGH)] == [0x40, 0x50, 0x60]


def test_the_end_of_the_disk(rig):
    rig.address(SIZE - 1, 3)
    rig.command(READ)
    assert rig.take() == sector(SIZE - 1)
    rig.wait()
    assert rig.inb(STATUS) == READY | ERR
    assert (rig.inb(ERROR), rig.where(), rig.inb(COUNT)) == (IDNF, SIZE, 2)
    assert rig.edges[-2][1], "an error interrupts"
    rig.address(0)
    assert rig.command(READ) == READY | DRQ
    assert rig.inb(ERROR) == 0


def test_reads_beyond_a_block_give_zeros(rig):
    rig.address(5)
    rig.command(READ)
    rig.take()
    assert rig.take(4, 8) == bytes(8)


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4])
def test_writing_sectors(rig, size):
    rig.address(100, 2)
    assert rig.command(WRITE) == READY | DRQ
    assert rig.edges == [], "no interrupt for the first block"
    rig.give(sector(0xAAAA), size)
    assert rig.inb(CONTROL) == BSY
    rig.wait()
    assert rig.edges[-1] == (rig.clock.now, True)
    assert rig.inb(STATUS) == READY | DRQ
    rig.give(sector(0xBBBB), size)
    rig.wait()
    assert rig.edges[-1] == (rig.clock.now, True)
    assert rig.inb(STATUS) == READY
    assert rig.channel.drives[0].disk.read(99, 4) == sector(99) + sector(0xAAAA) + sector(0xBBBB) + sector(102)
    assert (rig.where(), rig.inb(COUNT)) == (101, 0)
    assert rig.command(0xE7) == READY
    assert rig.channel.drives[0].disk.written == 2


def test_writing_beyond_the_end(rig):
    rig.address(SIZE, 1)
    assert rig.command(WRITE) == READY | ERR
    assert rig.inb(ERROR) == IDNF
    rig.address(SIZE - 1, 2)
    rig.command(WRITE)
    rig.give(sector(1))
    rig.wait()
    assert rig.inb(STATUS) == READY | ERR
    assert rig.channel.drives[0].disk.read(SIZE - 1) == sector(1)


def test_a_new_command_abandons_a_transfer(rig):
    rig.address(100)
    rig.command(WRITE)
    rig.give(sector(1)[:100])
    rig.address(5)
    rig.command(READ)
    assert rig.take() == sector(5)
    assert rig.channel.drives[0].disk.written == 0


def test_blocks_of_several_sectors(rig):
    rig.address(0, 4)
    assert rig.command(READ_MULTIPLE) == READY | ERR, "off at first"
    assert rig.inb(ERROR) == ABRT
    assert rig.command(0xC6) == READY
    rig.address(10, 6)
    rig.command(READ_MULTIPLE)
    assert rig.take(4, 4 * SECTOR) == b"".join(map(sector, range(10, 14)))
    rig.wait()
    assert rig.take(4, 2 * SECTOR) == sector(14) + sector(15)
    assert rig.inb(STATUS) == READY
    for command in (WRITE_MULTIPLE, WRITE_MULTIPLE_EXT):
        rig.address(0, 0)
        rig.address(20, 5)
        rig.command(command)
        rig.give(sector(9) * 4, 4)
        rig.wait()
        assert rig.inb(STATUS) == READY | DRQ
        rig.give(sector(9), 4)
        rig.wait()
        assert rig.inb(STATUS) == READY
    assert rig.channel.drives[0].disk.read(19, 7) == sector(19) + sector(9) * 5 + sector(25)


def test_set_multiple(rig):
    for count, works in ((1, True), (16, True), (3, False), (32, False), (0, True)):
        rig.out(COUNT, count)
        assert rig.command(0xC6) == (READY if works else READY | ERR)
        assert rig.channel.drives[0].multiple == (count if works else 0)


def test_bulk_access_is_the_same_as_single_accesses(rig):
    rig.address(3, 2)
    rig.command(READ)
    assert rig.take(2, 4) == sector(3)[:4]
    assert rig.channel.data_in(1000, 4) == sector(3)[4:]
    assert rig.channel.data_in(128, 4) == b""
    assert rig.inb(STATUS) == BSY
    rig.wait()
    rig.take(1, 1)
    assert len(rig.channel.data_in(128, 4)) == 508
    assert rig.take(4, 4) == sector(4)[-3:] + b"\0"
    assert rig.inb(STATUS) == READY
    rig.address(3, 1)
    rig.command(WRITE)
    rig.give(b"ab")
    assert rig.channel.data_out(b"c" * 1000) == 510
    assert rig.channel.data_out(b"d") == 0
    rig.wait()
    assert rig.channel.drives[0].disk.read(3) == b"ab" + b"c" * 510


# -- interrupts and registers --------------------------------------------------------------------------------------------


def test_interrupts_can_be_off(rig):
    rig.out(CONTROL, 2)
    rig.address(0)
    rig.command(READ)
    assert rig.edges == []
    rig.out(CONTROL, 0)
    assert rig.edges == [(rig.clock.now, True)], "it was pending"
    rig.inb(CONTROL)
    assert len(rig.edges) == 1, "the alternate status leaves it"


def test_a_new_command_takes_the_interrupt_back(rig):
    rig.address(0)
    rig.command(READ)
    rig.out(COMMAND, READ)
    assert [level for _, level in rig.edges] == [True, False]


def test_a_busy_drive_shows_its_status_and_loses_writes(rig):
    rig.address(0x123456)
    rig.out(COMMAND, READ)
    assert [rig.inb(port) for port in range(ERROR, STATUS + 1)] == [BSY] * 7
    rig.out(LOW, 0x99)
    rig.out(COMMAND, 0xEC)
    rig.wait()
    assert rig.inb(LOW) == 0x56
    assert rig.inb(STATUS) == READY | ERR, "sector 0x123456 is not there"


def test_wide_accesses_to_registers_are_bytes(rig):
    rig.bus.port_write(COUNT, 4, 0x04030201)
    rig.bus.port_write(HIGH, 2, 0xE504)
    assert rig.bus.port_read(COUNT, 4) == 0x04030201
    assert rig.bus.port_read(HIGH, 2) == 0xE504


def test_unknown_commands_are_aborted(rig):
    for command in (0x00, 0x25, 0xA0, 0xA1, 0xC8, 0xCA, 0xFF):
        assert rig.command(command) == READY | ERR
        assert rig.inb(ERROR) == ABRT
        assert rig.edges[-1][1]
        rig.inb(STATUS)


def test_commands_without_data(rig):
    rig.address(SIZE - 1)
    for command in (0x10, 0x70, 0xE0, 0xE1, 0xE2, 0xE3, 0xE5, 0xE6, 0xE7, 0xEA, 0x40):
        rig.out(LOW, (SIZE - 1) & 0xFF)
        rig.out(COUNT, 1)
        assert rig.command(command) == READY
        assert rig.edges[-1] == (rig.clock.now, True)
        assert rig.inb(STATUS) == READY
    rig.command(0xE5)
    assert rig.inb(COUNT) == 0xFF
    rig.address(0)
    assert rig.command(0xF8) == READY
    assert rig.where() == SIZE - 1
    rig.address(SIZE)
    assert rig.command(0x70) == READY | ERR
    rig.address(SIZE - 2, 3)
    assert rig.command(0x40) == READY | ERR
    assert (rig.inb(ERROR), rig.where()) == (IDNF, SIZE)


@pytest.mark.parametrize(
    ("feature", "count", "works"),
    [(0x02, 0, 1), (0x82, 0, 1), (3, 8, 1), (3, 12, 1), (3, 0x22, 0), (3, 0x42, 0), (0x99, 0, 0)],
)
def test_set_features(rig, feature, count, works):
    rig.out(FEATURES, feature)
    rig.out(COUNT, count)
    assert rig.command(0xEF) == (READY if works else READY | ERR)


def test_identify():
    rig = Rig(slave=IMAGE[: 100 * SECTOR])
    rig.out(COUNT, 8)
    rig.command(0xC6)
    rig.command(0xEC)
    data = rig.take()
    word = [int.from_bytes(data[place : place + 2], "little") for place in range(0, SECTOR, 2)]
    assert (word[1], word[3], word[6]) == (3, 16, 63)
    assert (word[54], word[55], word[56], word[57] | word[58] << 16) == (3, 16, 63, SIZE)
    assert word[60] | word[61] << 16 == SIZE == word[100] | word[101] << 16
    assert word[49] & 0x300 == 0x200, "LBA, no DMA"
    assert word[83] & 0xC400 == 0x4400, "valid, LBA48"
    assert word[59] == 0x108
    text = b"".join(value.to_bytes(2, "big") for value in word[27:47])
    assert text.decode() == "vmlab disk".ljust(40)
    rig.out(DEVICE, 0xB0)
    rig.command(0xEC)
    other = rig.take()
    assert other[20:40] != data[20:40], "serial numbers differ"
    assert int.from_bytes(other[120:124], "little") == 100
    assert other[2] == 1, "a small disk has one cylinder"


# -- two drives, resets ------------------------------------------------------------------------------------------------


def test_dev_selects_the_drive():
    rig = Rig(slave=sector(0x5555) * 2)
    rig.address(1, 1, LBA | SLAVE)
    rig.command(READ)
    assert rig.inb(DEVICE) == 0xF0
    assert rig.take() == sector(0x5555)
    assert rig.inb(STATUS) == READY
    rig.address(1, 1)
    rig.command(READ)
    assert rig.take() == sector(1)
    rig.out(DEVICE, 0xB0)
    assert not rig.edges[-1][1], "only the selected drive interrupts"


def test_an_absent_drive_reads_as_zeros(rig):
    rig.out(DEVICE, 0xF0)
    assert [rig.inb(port) for port in (*range(DATA, STATUS + 1), CONTROL)] == [0] * 9
    assert rig.bus.port_read(DATA, 4) == 0
    rig.out(COMMAND, READ)
    rig.bus.port_write(DATA, 4, 5)
    assert rig.clock.deadline is None
    rig.out(DEVICE, 0xE0)
    assert rig.inb(STATUS) == READY


def test_an_empty_channel():
    rig = Rig(None)
    for value in (4, 0):
        rig.out(CONTROL, value)
    rig.address(0)
    assert rig.command(0x90) == 0
    assert rig.channel.data_out(b"1") == 0


def test_software_reset():
    rig = Rig(slave=sector(1))
    rig.address(0x44, 5, LBA | SLAVE)
    rig.out(COMMAND, READ)
    rig.out(CONTROL, 4)
    rig.run(1000)
    assert rig.inb(CONTROL) == BSY
    rig.out(CONTROL, 0)
    assert rig.inb(CONTROL) == BSY
    rig.wait()
    assert rig.inb(DEVICE) == 0xA0, "the master is selected"
    for device in (0xA0, 0xB0):
        rig.out(DEVICE, device)
        assert [rig.inb(port) for port in (ERROR, COUNT, LOW, MIDDLE, HIGH, STATUS)] == [1, 1, 1, 0, 0, READY]
    assert rig.edges == []


def test_diagnostics_are_of_both_drives():
    rig = Rig(slave=sector(1))
    rig.address(0x44, 5, LBA | SLAVE)
    assert rig.command(0x90) == READY
    assert rig.edges == [(COMMAND_TIME, True)]
    assert [rig.inb(port) for port in (ERROR, COUNT, LOW, DEVICE)] == [1, 1, 1, 0xA0]


def test_two_channels():
    rig = Rig()
    secondary = AtaChannel(rig.clock, lambda level: None, Disk(sector(7)), name="ata1")
    secondary.attach(rig.bus, SECONDARY)
    for port, value in zip(range(0x172, 0x178), (1, 0, 0, 0, 0xE0, READ), strict=True):
        rig.out(port, value)
    rig.wait()
    assert rig.inb(0x376) == READY | DRQ
    assert rig.bus.port_read(0x170, 4) == 0x00070007
    assert rig.inb(CONTROL) == READY


# -- saving ------------------------------------------------------------------------------------------------------------

_commands = [
    READ,
    READ_EXT,
    READ_MULTIPLE,
    WRITE,
    WRITE_MULTIPLE,
    WRITE_EXT,
    0x40,
    0x90,
    0x91,
    0xC6,
    0xEC,
    0xEF,
    0xF8,
    0x00,
]
_actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("address"),
            st.sampled_from([0, 1, 60, 70, SIZE - 2, SIZE]),
            st.integers(0, 6),
            st.sampled_from([LBA, 0xA0, LBA | SLAVE]),
        ),
        st.tuples(st.just("command"), st.sampled_from(_commands)),
        st.tuples(st.just("out"), st.just(COMMAND), st.integers(0, 255)),
        st.tuples(st.just("out"), st.sampled_from([ERROR, COUNT, LOW, DEVICE, CONTROL]), st.integers(0, 255)),
        st.tuples(st.just("inb"), st.sampled_from([*range(DATA, STATUS + 1), CONTROL])),
        st.tuples(st.just("take"), st.sampled_from([1, 2, 4]), st.sampled_from([4, SECTOR, 3 * SECTOR])),
        st.tuples(st.just("give"), st.sampled_from([sector(0x77), b"abcd", sector(1) * 4])),
        st.tuples(st.just("wait")),
    ),
    max_size=25,
)


def act(rig, actions):
    results = []
    for name, *values in actions:
        results.append(getattr(rig, name)(*values))
    return results


@given(before=_actions, after=_actions)
def test_a_loaded_channel_goes_on_as_the_saved_one(before, after):
    rig, other = Rig(slave=IMAGE[:SECTOR]), Rig(slave=IMAGE[:SECTOR])
    act(rig, before)
    other.clock.load(rig.clock.save())
    other.channel.load(rig.channel.save())
    rig.edges.clear()
    assert act(other, after) == act(rig, after)
    assert other.edges == rig.edges
    assert other.channel.save() == rig.channel.save()


@given(actions=_actions)
def test_status_makes_sense_whatever_is_done(actions):
    rig = Rig()
    for action in actions:
        act(rig, [action])
        status = rig.channel.drives[0].status
        assert status in (BSY, READY, READY | DRQ, READY | ERR)
        drive = rig.channel.drives[0]
        assert rig.channel._high == (drive.interrupt and not rig.channel.control & 2 and not rig.channel.selected)


def test_damaged_states_are_refused_and_change_nothing():
    rig = Rig(slave=sector(1))
    rig.address(5, 2)
    rig.command(WRITE)
    good = rig.channel.save()
    master, slave = good["drives"]
    for change in (
        {"version": 1}, {"phase": 9}, {"dma_mode": 3}, {"heads": 0}, {"track": 0}, {"block": 0}, {"buffer": bytes(100)}, {"position": 513},
        {"buffer": b""}, {"sector": SIZE}, {"remaining": 0}, {"disk": master["disk"] | {"digest": "x"}}, {"due": -1}, {"u": 1},
    ):  # fmt: skip
        with pytest.raises(StateError, match=r"ATA disk|disk:"):
            rig.channel.load(good | {"drives": [master | change, slave]})
        assert rig.channel.save() == good
    for drives in ([master, None], [master], [slave | {"count": 9}, slave]):
        with pytest.raises(StateError):
            rig.channel.load(good | {"drives": drives})
        assert rig.channel.save() == good
    single = Rig()
    with pytest.raises(StateError, match="absent here"):
        single.channel.load(good)
    for change in ({"version": None}, {"control": 256}, {"selected": 2}):
        with pytest.raises(StateError, match="ata0"):
            rig.channel.load(good | change)
    assert rig.channel.save() == good
