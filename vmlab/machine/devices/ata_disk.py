"""One ATA disk drive: its registers and its commands, in programmed input/output and by direct memory access.

A command is written, the drive is busy (BSY) for a while, then it is done, or it moves data through the data port in
blocks: with DRQ it asks for each, and in between it is busy again. It interrupts when a block can be read, when a block
has been written, and when a command without data is done. Where a bus master moves the data (READ DMA, WRITE DMA), it is the
same, sector by sector, with one interrupt in the end.

    status:  [ BSY 7 | DRDY 6 | DF 5 | DSC 4 | DRQ 3 | 2 1 obsolete | ERR 0 ]
    error:   [ 7 6 5 media | IDNF 4 | 3 | ABRT 2 | 1 0 ]
    device:  [ 1 | LBA 6 | 1 | DEV 4 | head or LBA 27:24 ]

Simplified: each stretch of work takes `COMMAND_TIME`, but a write asks for its first block at once. No Ultra DMA and no
queues, no packet commands, no security, no SMART. The medium never fails; sectors beyond its end are not found (IDNF).

Read more: ANSI INCITS 361-2002 (ATA/ATAPI-6): 7 (registers), 8 (commands), 9 (protocols).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.errors import StateError
from vmlab.machine.devices.ata_address import LBA, name_sector, sector_named
from vmlab.machine.devices.ata_identify import DEFAULT_HEADS, DEFAULT_SECTORS, MOST_MULTIPLE, cylinders, identify
from vmlab.machine.disk import SECTOR
from vmlab.machine.state import BYTE, COUNT, LONG, WORD, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.devices.bus_master import BusMaster
    from vmlab.machine.disk import Disk

__all__ = ["COMMAND_TIME", "AtaDisk"]

COMMAND_TIME = 100
"""Units of virtual time (instructions) for which a drive is busy with a command or block: our convention, some 8 µs."""

BSY, DRDY, DSC, DRQ, ERR = 0x80, 0x40, 0x10, 0x08, 0x01
READY = DRDY | DSC
IDNF, ABRT = 0x10, 0x04
DIAGNOSTIC_PASSED = 0x01  # in the error register after reset and diagnostics

# What the drive is at. Busy with: COMMAND, RESET, READING (the next block), WRITING (the last); asking for data: the rest,
# DMA_… the bus master.
IDLE, COMMAND, RESET, READING, DATA_IN, WRITING, DATA_OUT, DMA_IN, DMA_OUT = range(9)
DMA_COMMANDS = frozenset({0x25, 0x35, 0xC8, 0xC9, 0xCA, 0xCB})
FASTEST_DMA = 2
MULTIWORD_DMA = 0x20  # mode 0, in SET FEATURES

READS = frozenset({0x20, 0x21, 0x24, 0x25, 0x29, 0xC4, 0xC8, 0xC9})
"""Commands that read sectors."""

_FIELDS: dict[str, Any] = {
    "features": WORD, "count": WORD, "low": WORD, "middle": WORD, "high": WORD,  # two deep: previous byte, current byte
    "device": BYTE, "status": BYTE, "error": BYTE, "command": BYTE, "interrupt": bool, "phase": range(DMA_OUT + 1),
    "due": (COUNT, type(None)), "sector": range(1 << 49), "remaining": LONG, "block": range(1, MOST_MULTIPLE + 1),
    "multiple": range(MOST_MULTIPLE + 1), "heads": range(1, 17), "track": range(1, 256),
    "position": range(MOST_MULTIPLE * SECTOR + 1), "dma_mode": range(FASTEST_DMA + 1),
}  # fmt: skip


class AtaDisk:
    """A drive on a channel.

    Parameters
    ----------
    disk : Disk
        What is on it.
    number : int
        0 for the master, 1 for the slave.

    Attributes
    ----------
    interrupt : bool
        True where the drive asks for an interrupt; reading its status takes that back.
    due : int or None
        Clock time at which the drive will be done with what it is busy with, or will have the bus master.
    has_dma : bool
        Whether there is a bus master behind the channel.
    dma_mode : int
        The mode of Multiword DMA that software has chosen, at first firmware; all are as fast here.
    """

    __slots__ = ("_buffer", "disk", "has_dma", "number", *_FIELDS)

    def __init__(self, disk: Disk, number: int) -> None:
        self.disk, self.number = disk, number
        self._buffer = bytearray()
        self.features = self.device = self.command = self.sector = self.remaining = self.position = 0
        self.count = self.low = self.middle = self.high = 0
        self.interrupt = self.has_dma = False
        self.dma_mode = FASTEST_DMA
        self.due: int | None = None
        self.block, self.heads, self.track = 1, DEFAULT_HEADS, DEFAULT_SECTORS
        self._sign()

    def _sign(self) -> None:
        """Show what a drive shows after a reset: it has passed its diagnostics and is no packet device."""
        self.count = self.low = 1
        self.middle = self.high = self.device = self.multiple = 0
        self.phase, self.status, self.error = IDLE, READY, DIAGNOSTIC_PASSED

    # -- what the channel does ---------------------------------------------------------------------------------------

    def start(self, command: int, now: int) -> None:
        """Begin a command; one that was moving data is abandoned."""
        self.command, self.interrupt = command, False
        self._be_busy(COMMAND, now)
        if command in READS and (sector := sector_named(self, extended=self._extended)) is not None:
            self.disk.announce(sector, self._sectors())
        if self._COMMANDS.get(self.command) is AtaDisk._write:
            self.work()  # a drive's buffer is ready at once, and kernels send the first block without a look at DRQ

    def hold_reset(self) -> None:
        """Take the software reset: busy until it is released."""
        self.interrupt = False
        self.phase, self.status, self.due = RESET, BSY, None

    def release_reset(self, now: int) -> None:
        """Come out of the software reset."""
        self._be_busy(RESET, now)

    def work(self) -> None:
        """Be done with what the drive was busy with; the channel calls this at `due`."""
        self.due = None
        if self.phase == RESET:
            self._sign()
        elif self.phase == READING:
            self._read_block()
        elif self.phase == WRITING:
            self._write_block()
        elif self.phase == COMMAND:
            self.error, self.phase = 0, IDLE
            self._COMMANDS.get(self.command, AtaDisk._abort)(self)

    @property
    def available(self) -> int:
        """Bytes left in the block that the drive offers."""
        return len(self._buffer) - self.position if self.phase == DATA_IN else 0

    def data_in(self, length: int, now: int) -> bytes:
        """Take up to `length` bytes from the block that the drive offers; none if it offers none."""
        if self.phase != DATA_IN:
            return b""
        data = bytes(self._buffer[self.position : self.position + length])
        self._moved(len(data), now)
        return data

    def data_out(self, data: bytes, now: int) -> int:
        """Give bytes to the block that the drive asks for; return how many it has taken."""
        if self.phase != DATA_OUT:
            return 0
        taken = min(len(data), len(self._buffer) - self.position)
        self._buffer[self.position : self.position + taken] = data[:taken]
        self._moved(taken, now)
        return taken

    @property
    def wants_dma(self) -> bool:
        """True while the drive waits for the bus master."""
        return self.phase in (DMA_IN, DMA_OUT)

    @property
    def sends(self) -> bool:
        """True where what it wants to move is the disk's, to memory."""
        return self.phase == DMA_IN

    def move(self, master: BusMaster, now: int) -> None:
        """Let the bus master move what is left of the block, as far as it does."""
        if self.sends:
            self._moved(master.move_in(bytes(self._buffer[self.position :])), now)
        else:
            data = master.move_out(len(self._buffer) - self.position)
            self._buffer[self.position : self.position + len(data)] = data
            self._moved(len(data), now)

    def _moved(self, length: int, now: int) -> None:
        """Go on behind bytes of the block that have been moved."""
        self.position += length
        if self.position < len(self._buffer):
            return
        if self.phase in (DATA_OUT, DMA_OUT):
            self._be_busy(WRITING, now)
        elif self.remaining:
            self._be_busy(READING, now)
        elif self.sends:
            self._done()
        else:
            self.phase, self.status = IDLE, READY

    def _be_busy(self, phase: int, now: int) -> None:
        self.phase, self.status, self.due = phase, BSY, now + COMMAND_TIME

    # -- ends --------------------------------------------------------------------------------------------------------

    def _done(self) -> None:
        self.phase, self.status, self.interrupt = IDLE, READY, True

    def _fail(self, error: int) -> None:
        self._done()
        self.error = error
        self.status |= ERR

    def _abort(self) -> None:
        self._fail(ABRT)

    # -- sectors -----------------------------------------------------------------------------------------------------

    @property
    def _extended(self) -> bool:
        """True where the command has a 48-bit address."""
        return self.command in (0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0x42)

    @property
    def _by_dma(self) -> bool:
        return self.command in DMA_COMMANDS

    def _sectors(self) -> int:
        """Return how many sectors the registers ask for."""
        return self.count or 0x1_0000 if self._extended else self.count & 0xFF or 0x100

    def _begin(self) -> bool:
        """Read the address and count of a command that goes over sectors; False if it fails at once."""
        multiple = self.command in (0xC4, 0xC5, 0x29, 0x39)
        if (multiple and not self.multiple) or (self._by_dma and not self.has_dma):
            self._abort()
            return False
        self.block = self.multiple if multiple else 1
        self.remaining = self._sectors()
        sector = sector_named(self, extended=self._extended)
        if sector is None:
            self._fail(IDNF)
            return False
        self.sector = sector
        return self._block_size() > 0

    def _block_size(self) -> int:
        """Sectors in the next block; 0 where the next sector is not found, and the command has failed by that."""
        size = min(self.block, self.remaining, self.disk.sectors - self.sector)
        if size <= 0:
            self._fail(IDNF)
            name_sector(self, self.sector, extended=self._extended)
            return 0
        return size

    def _pass(self, sectors: int) -> None:
        """Go on behind sectors that have been read or written."""
        self.sector += sectors
        self.remaining -= sectors
        self.count = self.remaining & (0xFFFF if self._extended else 0xFF)
        name_sector(self, self.sector - 1, extended=self._extended)

    def _read(self) -> None:
        if self._begin():
            self._read_block()

    def _read_block(self) -> None:
        size = self._block_size()
        if size:
            self._offer(self.disk.read(self.sector, size))
            self._pass(size)

    def _offer(self, data: bytes) -> None:
        self._buffer, self.position = bytearray(data), 0
        self.phase, self.status, self.interrupt = (DMA_IN if self._by_dma else DATA_IN), READY | DRQ, not self._by_dma

    def _write(self) -> None:
        if self._begin():
            self._ask()

    def _ask(self) -> None:
        size = self._block_size()
        if size:
            self._buffer, self.position = bytearray(size * SECTOR), 0
            self.phase, self.status = (DMA_OUT if self._by_dma else DATA_OUT), READY | DRQ

    def _write_block(self) -> None:
        self.disk.write(self.sector, bytes(self._buffer))
        self._pass(len(self._buffer) // SECTOR)
        if self.remaining:
            self.interrupt = not self._by_dma
            self._ask()
        else:
            self._done()

    def _verify(self) -> None:
        if not self._begin():
            return
        self._pass(min(self.remaining, self.disk.sectors - self.sector))
        if self.remaining:
            self._block_size()  # fails: the rest is beyond the end
        else:
            self._done()

    # -- other commands ----------------------------------------------------------------------------------------------

    def _identify(self) -> None:
        self.remaining = 0
        mode = self.dma_mode if self.has_dma else None
        self._offer(identify(self.number, self.disk.sectors, self.heads, self.track, self.multiple, mode))

    def _set_multiple(self) -> None:
        sectors = self.count & 0xFF
        if sectors > MOST_MULTIPLE or sectors & (sectors - 1):
            self.multiple = 0
            self._abort()
        else:
            self.multiple = sectors
            self._done()

    def _set_geometry(self) -> None:
        if not self.count & 0xFF:
            self._abort()
            return
        self.heads, self.track = (self.device & 0xF) + 1, self.count & 0xFF
        self._done()

    def _diagnose(self) -> None:
        multiple = self.multiple
        self._sign()
        self.multiple = multiple
        self.interrupt = self.number == 0  # the master speaks for both

    def _set_features(self) -> None:
        transfer_mode = self.count & 0xFF
        mode_is_pio = transfer_mode in (0, 1) or transfer_mode in range(8, 13)
        feature = self.features & 0xFF
        if feature == 0x03 and self.has_dma and transfer_mode - MULTIWORD_DMA in range(FASTEST_DMA + 1):
            self.dma_mode = transfer_mode - MULTIWORD_DMA
            self._done()
        elif feature in (0x02, 0x82, 0x55, 0xAA, 0x66, 0xCC) or (feature == 0x03 and mode_is_pio):
            self._done()  # caches and look-ahead make no difference here
        else:
            self._abort()

    def _check_power(self) -> None:
        self.count = 0xFF  # active
        self._done()

    def _seek(self) -> None:
        sector = sector_named(self)
        if sector is None or sector >= self.disk.sectors:
            self._fail(IDNF)
        else:
            self._done()

    def _native_max(self) -> None:
        self.device |= LBA
        name_sector(self, min(self.disk.sectors, 1 << 28) - 1)
        self._done()

    _COMMANDS: ClassVar[dict[int, Callable[[AtaDisk], None]]] = {
        # SECTORS, EXT, MULTIPLE EXT, MULTIPLE; DMA EXT, DMA
        **dict.fromkeys((0x20, 0x21, 0x24, 0x29, 0xC4, 0x25, 0xC8, 0xC9), _read),
        **dict.fromkeys((0x30, 0x31, 0x34, 0x39, 0xC5, 0x35, 0xCA, 0xCB), _write),
        **dict.fromkeys((0x40, 0x41, 0x42), _verify),
        **dict.fromkeys(range(0x10, 0x20), _done),  # RECALIBRATE
        **dict.fromkeys(range(0x70, 0x80), _seek),
        **dict.fromkeys((0xE0, 0xE1, 0xE2, 0xE3, 0xE6), _done),  # STANDBY, IDLE, SLEEP
        **dict.fromkeys((0xE7, 0xEA), _done),  # FLUSH CACHE, EXT
        0x90: _diagnose,
        0x91: _set_geometry,
        0xC6: _set_multiple,
        0xE5: _check_power,
        0xEC: _identify,
        0xEF: _set_features,
        0xF8: _native_max,
    }

    # -- state -------------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """One line: size and geometry."""
        count = cylinders(self.disk.sectors, self.heads, self.track)
        return f"{self.disk.name}: {self.disk.sectors} sectors, {count} cylinders × {self.heads} heads × {self.track} sectors"

    def save(self) -> dict[str, Any]:
        """Save registers, buffer and what was written to the disk."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {"version": 2} | fields | {"buffer": bytes(self._buffer), "disk": self.disk.save()}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError if it is damaged or was saved with another disk image."""
        check_state(state, "ATA disk", _FIELDS | {"buffer": bytes, "disk": dict}, version=2)
        sectors, odd = divmod(len(state["buffer"]), SECTOR)
        if odd or sectors > MOST_MULTIPLE or state["position"] > len(state["buffer"]):
            raise StateError("ATA disk: saved buffer must be up to 16 sectors, and its position in it")
        writing = state["phase"] in (DATA_OUT, DMA_OUT, WRITING)
        if writing and (not sectors or sectors > state["remaining"] or state["sector"] + sectors > self.disk.sectors):
            raise StateError("ATA disk: the saved block that is being written does not lie on the disk")
        self.disk.load(state["disk"])
        for name in _FIELDS:
            setattr(self, name, state[name])
        self._buffer = bytearray(state["buffer"])
