"""The bus master of an IDE controller (BMIDE): it moves a drive's data to and from memory while the processor does other things.

Software puts a table of physical region descriptors (PRDs) into memory, its address into a register, gives the drive a DMA
command, and starts the engine, which goes from region to region as the drive's data comes, or is asked for.

    descriptor:  [ address 31:1 | 0 ] [ END 31 | reserved | bytes 15:1, 0 for 64 KiB | 0 ]

Bus range: sixteen ports from base address 4 of the PCI function on, eight for each channel (`vmlab.machine.devices.pci`).

    offset  register             bits
    0       command              [ READ 3 (of the drive, into memory) | START 0 ]
    2       status               [ drive 1 can 6 | drive 0 can 5 | INTERRUPT 2 | ERROR 1 | ACTIVE 0 ]; 2 and 1: writing 1 clears
    4-7     descriptor table     address, in four bytes

    INTERRUPT  ACTIVE
    0          1       it goes on
    1          0       done: the regions were as long as what the drive had
    1          1       done: the regions were longer
    0          0       the regions were shorter; or, with ERROR, nothing answered at an address (PCI: master abort)

Only RAM answers. At the first address where none is, the engine stops; what came before has been moved, and the drive waits.
It waits, too, as long as the function must not master the bus (bit 2 of its command register), or moves the other way.

Simplified: a region may cross 64 KiB, and so may the table. A stretch of the drive's data, one sector, moves at once, at the
instant at which the drive has it, or wants it; the time that this takes is the drive's.

Read more: Intel, Programming Interface for Bus Master IDE Controller 1.0 (1994); 82371SB data sheet (290550).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from vmlab.machine.devices.pci import BASE_4, COMMAND, IDE, IO_SPACE, MASTER, MASTER_ABORTED
from vmlab.machine.state import BYTE, LONG, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.machine.bus import Bus
    from vmlab.machine.devices.ata import AtaChannel
    from vmlab.machine.devices.pci import PciBus

__all__ = ["BusMaster"]

PORTS, CHANNEL_PORTS, CHANNELS = 16, 8, 2
COMMAND_AT, STATUS_AT, TABLE_AT = 0, 2, 4
START, READ = 0x01, 0x08
ACTIVE, ERROR, INTERRUPT, DRIVE_0_CAN = 0x01, 0x02, 0x04, 0x20
CLEARED_BY_ONE, WRITABLE = ERROR | INTERRUPT, 0x60
DESCRIPTOR, LARGEST = 8, 0x1_0000
END = 1 << 31
MASK = 0xFFFF_FFFF


@dataclass(slots=True)
class _Engine:
    """What one channel has: its registers, where the next descriptor is, and the rest of the present region."""

    command: int = 0
    status: int = 0
    table: int = 0
    next: int = 0
    address: int = 0
    left: int = 0
    last: bool = False


_FIELDS: dict[str, Any] = {each.name: LONG for each in fields(_Engine)} | {
    "command": (range(START + 1), range(READ, READ + START + 1)), "status": BYTE, "left": range(LARGEST + 1), "last": bool,
}  # fmt: skip


class BusMaster:
    """The bus master of the IDE function, for both channels; behind the second there is no drive.

    Parameters
    ----------
    pci : PciBus
        Where its function is.
    primary : AtaChannel
        The first channel.
    """

    __slots__ = ("_bus", "_engines", "_pci", "_primary", "name")

    def __init__(self, pci: PciBus, primary: AtaChannel, name: str = "ide-dma") -> None:
        self.name = name
        self._pci, self._primary = pci, primary
        self._engines = [_Engine() for _ in range(CHANNELS)]
        for number, drive in enumerate(primary.drives):
            if drive is not None:
                self._engines[0].status |= DRIVE_0_CAN << number  # as firmware says
        pci.on_write = self._configured
        primary.connect(self)

    def attach(self, bus: Bus) -> None:
        """Claim the ports, and master the bus."""
        self._bus = bus
        self._place()

    # -- configuration -------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Take the ports that configuration space names."""
        claims = self._pci.get(IDE, COMMAND, 2) & IO_SPACE
        base = self._pci.get(IDE, BASE_4, 4) & 0xFFF0
        self._bus.move_ports(self, base if claims else None, PORTS, width=4)

    def _configured(self, place: tuple[int, int]) -> None:
        if place == IDE:
            self._place()
            self._primary.grant()

    # -- registers -------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read registers; what is reserved reads as zero."""
        data = b"".join(
            bytes((each.command, 0, each.status, 0)) + each.table.to_bytes(4, "little") for each in self._engines
        )
        return int.from_bytes(data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write registers, byte by byte."""
        for at in range(offset, min(offset + size, PORTS)):
            self._write_byte(self._engines[at // CHANNEL_PORTS], at % CHANNEL_PORTS, value & 0xFF)
            value >>= 8
        self._primary.grant()

    def _write_byte(self, engine: _Engine, at: int, value: int) -> None:
        if at == COMMAND_AT:
            changed = engine.command ^ value
            engine.command = value & (START | READ)
            if changed & START:
                engine.status = engine.status & ~ACTIVE | (ACTIVE if value & START else 0)
                engine.next, engine.left, engine.last = engine.table, 0, False
        elif at == STATUS_AT:
            kept = engine.status & (ACTIVE | CLEARED_BY_ONE & ~value)
            engine.status = kept | value & WRITABLE
        elif at >= TABLE_AT:
            shift = 8 * (at - TABLE_AT)
            engine.table = engine.table & ~(0xFF << shift) | (value << shift & ~3)

    # -- what the channel asks for ----------------------------------------------------------------------------------------

    def interrupted(self) -> None:
        """Note that the interrupt line of the channel has risen."""
        self._engines[0].status |= INTERRUPT

    def is_ready(self, *, inwards: bool) -> bool:
        """Say whether data can be moved now, into memory or out of it."""
        engine = self._engines[0]
        can = engine.status & ACTIVE and self._pci.get(IDE, COMMAND, 2) & MASTER
        return bool(can) and bool(engine.command & READ) == inwards

    def move_in(self, data: bytes) -> int:
        """Move a drive's data into memory; return how many bytes of it, fewer where the engine has stopped."""
        moved = 0
        for engine, size in self._regions(len(data)):
            done = self._bus.transfer_in(engine.address, data[moved : moved + size], self.name)
            moved += done
            self._pass(engine, size, done)
        return moved

    def move_out(self, length: int) -> bytes:
        """Move data for a drive out of memory; fewer bytes than asked for where the engine has stopped."""
        pieces = []
        for engine, size in self._regions(length):
            pieces.append(self._bus.transfer_out(engine.address, size, self.name))
            self._pass(engine, size, len(pieces[-1]))
        return b"".join(pieces)

    def _regions(self, length: int) -> Iterator[tuple[_Engine, int]]:
        """Yield for so many bytes where they go, or come from: the engine, and the bytes that its region takes."""
        engine = self._engines[0]
        while length and engine.status & ACTIVE:
            if not engine.left:
                self._fetch(engine)
            size = min(engine.left, length)
            length -= size
            if size:
                yield engine, size

    def _fetch(self, engine: _Engine) -> None:
        """Read the next descriptor."""
        size = self._bus.reach(engine.next, DESCRIPTOR)
        if size < DESCRIPTOR:
            self._abort(engine)
            return
        address, words = (self._bus.memory.read(engine.next + at, 4) for at in (0, 4))
        engine.address, engine.left = address & ~1, words & 0xFFFE or LARGEST
        engine.last = bool(words & END)
        engine.next = engine.next + DESCRIPTOR & MASK

    def _pass(self, engine: _Engine, size: int, done: int) -> None:
        """Go on behind bytes that have been moved; stop at the end of the last region, or where memory has ended."""
        engine.address = engine.address + done & MASK
        engine.left -= done
        if done < size:
            self._abort(engine)
        elif not engine.left and engine.last:
            engine.status &= ~ACTIVE

    def _abort(self, engine: _Engine) -> None:
        engine.status = engine.status & ~ACTIVE | ERROR
        engine.left = 0
        self._pci.note(IDE, MASTER_ABORTED)

    # -- state ------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the registers of both channels, and how far they are."""
        return {"version": 1, "channels": [asdict(engine) for engine in self._engines]}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave (load the PCI bus first); StateError where it is damaged."""
        check_state(state, self.name, {"channels": Items(dict, CHANNELS)})
        for saved in state["channels"]:
            check_state({"version": 1} | saved, self.name, _FIELDS)
        self._engines = [_Engine(**saved) for saved in state["channels"]]
        self._place()
