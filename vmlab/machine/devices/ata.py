"""An ATA (IDE) channel: the registers through which a PC drives two disks.

Both drives see every write to the command block; the DEV bit of the device register says which of them answers and
obeys. Data moves through the 16- or 32-bit data port, one block at a time, or by the bus master, if the controller has one
(`vmlab.machine.devices.bus_master`). A status read takes the interrupt back.

Bus ranges, primary channel: ports 0x1F0-0x1F7 (command block, offsets 0-7), port 0x3F6 (control block, offset 8);
secondary: 0x170-0x177 and 0x376. Interrupts: IRQ 14 and IRQ 15.

    offset  read               write           offset  read               write
    0       data               data            5       LBA 23:16, cylinder high
    1       error              features        6       device
    2       sector count                       7       status             command
    3       LBA 7:0, sector                    8       alternate status   device control
    4       LBA 15:8, cylinder low

    device control:  [ HOB 7 | 0 | SRST 2 | nIEN 1 | 0 ]

Simplified: an absent drive reads as zeros and swallows writes. While the selected drive is busy every register reads as
its status, and writes to the command block are lost.

Read more: ANSI INCITS 361-2002 (ATA/ATAPI-6), 7 and 9; the ports: ANSI INCITS 370 (ATA host adapter standards).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.devices.ata_disk import BSY, COMMAND_TIME, AtaDisk
from vmlab.machine.state import BYTE, Items, check_state, rollback

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus
    from vmlab.machine.clock import Clock
    from vmlab.machine.devices.bus_master import BusMaster
    from vmlab.machine.disk import Disk

__all__ = ["PRIMARY", "SECONDARY", "AtaChannel"]

PRIMARY, SECONDARY = (0x1F0, 0x3F6), (0x170, 0x376)
"""Command and control block of each channel."""

DATA, ERROR, COUNT, LOW, MIDDLE, HIGH, DEVICE, STATUS, CONTROL = range(9)
_TWO_DEEP = {ERROR: "features", COUNT: "count", LOW: "low", MIDDLE: "middle", HIGH: "high"}
HOB, SRST, NO_INTERRUPT = 0x80, 0x04, 0x02
DEV, ALWAYS_ONE = 0x10, 0xA0  # in the device register
DIAGNOSTIC = 0x90


class AtaChannel:
    """A channel with up to two drives.

    Parameters
    ----------
    clock : Clock
        Virtual time; the channel registers itself there.
    line : callable
        Drives the interrupt request line.
    master, slave : Disk, optional
        The disks.

    Attributes
    ----------
    drives : tuple
        The two `AtaDisk`, None for an absent one.
    """

    __slots__ = ("_clock", "_high", "_line", "_master", "control", "drives", "name", "selected")

    def __init__(
        self,
        clock: Clock,
        line: Callable[[bool], None],
        master: Disk | None = None,
        slave: Disk | None = None,
        name: str = "ata0",
    ) -> None:
        self.name = name
        self._clock, self._line = clock, line
        self._high = False
        self._master: BusMaster | None = None
        self.drives = tuple(
            None if disk is None else AtaDisk(disk, number) for number, disk in enumerate((master, slave))
        )
        self.control = self.selected = 0
        clock.add(self)

    def attach(self, bus: Bus, ports: tuple[int, int] = PRIMARY) -> None:
        """Claim a channel's ports."""
        command, control = ports
        bus.add_ports(self, command, 8, width=4)
        bus.add_ports(self, control, 1, offset=CONTROL)

    def connect(self, master: BusMaster) -> None:
        """Let a bus master serve the drives' DMA commands, which they have from now on."""
        self._master = master
        for drive in self.drives:
            if drive is not None:
                drive.has_dma = True

    @property
    def _drive(self) -> AtaDisk | None:
        return self.drives[self.selected]

    # -- time and interrupt ------------------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """Clock time at which a drive will be done."""
        return min((each.due for each in self.drives if each and each.due is not None), default=None)

    def advance(self, now: int) -> None:
        """Let the drives finish whose time has come."""
        for drive in self.drives:
            while drive and (due := drive.due) is not None and due <= now:
                drive.work()
                if drive.wants_dma and (master := self._ready_for(drive)):
                    drive.move(master, due)  # the time is when it was due, however late we come
        self._update()

    def _ready_for(self, drive: AtaDisk) -> BusMaster | None:
        """Return the bus master where it is ready for a drive; it sees the one that is selected."""
        master = self._master
        return master if master and drive is self._drive and master.is_ready(inwards=drive.sends) else None

    def grant(self) -> None:
        """Let a drive that waits for the bus master have the bus soon, if that is ready now."""
        drive = self._drive
        if drive is not None and drive.wants_dma and drive.due is None and self._ready_for(drive):
            drive.due = self._clock.now + COMMAND_TIME
        self._clock.refresh()

    def _update(self) -> None:
        drive = self._drive
        high = drive is not None and drive.interrupt and not self.control & NO_INTERRUPT
        if high != self._high:
            self._high = high
            if high and self._master is not None:
                self._master.interrupted()
            self._line(high)

    # -- the data port -----------------------------------------------------------------------------------------------

    def data_in(self, count: int, size: int) -> bytes:
        """Take from the data port at once what up to `count` reads of `size` bytes would give.

        For REP INS. Returns whole reads' bytes, up to the end of the drive's block: fewer, or none, where the rest must
        be read one by one (and gives zeros).
        """
        drive = self._settled()
        if drive is None:
            return b""
        whole = max(1, drive.available // size)  # a block may end within a read after reads of odd sizes
        data = drive.data_in(min(count, whole) * size, self._clock.now)
        if drive.due is not None:
            self._clock.refresh()
        return data

    def data_out(self, data: bytes) -> int:
        """Give the data port at once what a run of writes would; return how many bytes the drive's block took.

        For REP OUTS. The rest must be written one by one (and is lost).
        """
        drive = self._settled()
        if drive is None:
            return 0
        taken = drive.data_out(data, self._clock.now)
        if drive.due is not None:
            self._clock.refresh()
        return taken

    def _settled(self) -> AtaDisk | None:
        """The selected drive, brought up to now; quick, since every access of the data port passes here."""
        drive = self._drive
        if drive is not None and drive.due is not None:
            self.advance(self._clock.now)
        return drive

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read the data port, 1, 2 or 4 bytes wide, or registers, a byte each."""
        if offset == DATA:
            return int.from_bytes(self.data_in(1, size), "little")
        self.advance(self._clock.now)
        return sum(self._read_register(offset + place) << 8 * place for place in range(size))

    def _read_register(self, offset: int) -> int:
        drive = self._drive
        if drive is None:
            return 0
        if offset == STATUS:
            drive.interrupt = False
            self._update()
        if offset in (STATUS, CONTROL) or drive.status & BSY:
            return drive.status
        if offset == DEVICE:
            return drive.device | ALWAYS_ONE | (DEV if self.selected else 0)
        if offset == ERROR:
            return drive.error
        value: int = getattr(drive, _TWO_DEEP[offset])
        return value >> 8 if self.control & HOB else value & 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the data port, 1, 2 or 4 bytes wide, or registers, a byte each."""
        if offset == DATA:
            self.data_out((value & (1 << 8 * size) - 1).to_bytes(size, "little"))
            return
        self.advance(self._clock.now)
        for place in range(size):
            self._write_register(offset + place, value >> 8 * place & 0xFF)
        self._update()
        self.grant()

    def _write_register(self, offset: int, value: int) -> None:
        if offset == CONTROL:
            self._write_control(value)
            return
        self.control &= ~HOB
        drive = self._drive
        if drive is not None and drive.status & BSY:
            return
        if offset == STATUS:
            self._command(value)
            return
        if offset == DEVICE:
            self.selected = 1 if value & DEV else 0
        for each in self.drives:
            if each is None:
                continue
            if offset == DEVICE:
                each.device = value & 0x4F
            else:
                name = _TWO_DEEP[offset]
                setattr(each, name, (getattr(each, name) << 8 | value) & 0xFFFF)

    def _command(self, value: int) -> None:
        now = self._clock.now
        if value == DIAGNOSTIC:  # for both drives, whichever is selected; the master is after it
            self.selected = 0
            for each in self.drives:
                if each is not None:
                    each.start(value, now)
        elif (drive := self._drive) is not None:
            drive.start(value, now)

    def _write_control(self, value: int) -> None:
        changed = self.control ^ value
        self.control = value & (HOB | SRST | NO_INTERRUPT)
        if not changed & SRST:
            return
        for drive in self.drives:
            if drive is None:
                continue
            if value & SRST:
                drive.hold_reset()
            else:
                drive.release_reset(self._clock.now)
        self.selected = 0

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save registers and drives, with what was written to their disks."""
        drives = [None if drive is None else drive.save() for drive in self.drives]
        return {"version": 1, "control": self.control, "selected": self.selected, "drives": drives}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave (load the clock first); StateError where it is damaged, and nothing has changed then."""
        check_state(
            state,
            self.name,
            {"control": BYTE, "selected": range(2), "drives": Items((dict, type(None)), len(self.drives))},
        )
        with rollback(self):
            for drive, saved in zip(self.drives, state["drives"], strict=True):
                if drive is not None:
                    drive.load(saved)
                elif saved is not None:
                    raise StateError(f"{self.name}: the state was saved with a drive that is absent here")
        self.control, self.selected = state["control"], state["selected"]
        drive = self._drive
        # The interrupt controller saves the level of its line itself.
        self._high = drive is not None and drive.interrupt and not self.control & NO_INTERRUPT
        self._clock.refresh()
