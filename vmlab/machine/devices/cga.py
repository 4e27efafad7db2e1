"""The screen: the text buffer of a CGA or VGA adapter in mode 3.

80 columns by 25 lines; each cell is a character (code page 437) and an attribute byte. The buffer is the adapter's own
memory at 0xB8000, 32 KiB, of which the CRT controller shows a part.

Bus ranges: memory 0xB8000-0xBFFFF (offsets 0-0x7FFF), ports 0x3D4-0x3D5, CRT controller index and data
(offsets 0x8000-0x8001).

Simplified: text mode 3 alone; the CRT controller's timing registers are stored, its start address and cursor are used.

Read more: IBM Color/Graphics Monitor Adapter (Technical Reference, 1984); Motorola MC6845 data sheet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import StateError
from vmlab.machine.state import BYTE, check_state

if TYPE_CHECKING:
    from vmlab.machine.bus import Bus

__all__ = ["COLUMNS", "ROWS", "Cell", "Cga"]

COLUMNS, ROWS = 80, 25
BASE, LENGTH = 0xB8000, 0x8000
INDEX, DATA = LENGTH, LENGTH + 1

# MC6845 registers; R12-R15 are 14-bit cell addresses, high byte first
CURSOR_START, START, CURSOR = 0x0A, 0x0C, 0x0E
CURSOR_OFF = 0x20  # in R10
REGISTERS = 0x19  # a VGA has these; the CGA's 6845 the first 0x12
GREY_ON_BLACK = 0x07

# What the adapter draws for codes that are control characters elsewhere.
_GLYPHS = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼" + bytes(range(32, 127)).decode() + "⌂" + bytes(range(128, 256)).decode("cp437")
)


class Cell(NamedTuple):
    """One cell of the screen."""

    character: str
    attribute: int


class Cga:
    """The text screen.

    Attributes
    ----------
    data : bytearray
        The adapter's memory: character and attribute bytes in turn.
    registers : bytearray
        The CRT controller's registers.
    """

    __slots__ = ("data", "index", "name", "registers")

    def __init__(self, name: str = "cga") -> None:
        self.name = name
        self.data = bytearray(bytes([0x20, GREY_ON_BLACK]) * (LENGTH // 2))
        self.registers = bytearray(REGISTERS)
        self.index = 0

    def attach(self, bus: Bus) -> None:
        """Claim a PC's standard ranges."""
        bus.add_mmio(self, BASE, LENGTH)
        bus.add_ports(self, 0x3D4, 2, offset=INDEX)

    def read(self, offset: int, size: int) -> int:
        """Read the buffer, or the CRT controller's index or data port."""
        if offset < LENGTH:
            return int.from_bytes(self.data[offset : offset + size], "little")
        if offset == INDEX:
            return self.index
        return self.registers[self.index] if self.index < REGISTERS else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the buffer, or the CRT controller's index or data port."""
        if offset < LENGTH:
            value &= (1 << (8 * size)) - 1
            self.data[offset : offset + size] = value.to_bytes(size, "little")
        elif offset == INDEX:
            self.index = value & 0xFF
        elif self.index < REGISTERS:
            self.registers[self.index] = value & 0xFF

    def _address(self, register: int) -> int:
        """A 14-bit cell address from a pair of registers."""
        return (self.registers[register] & 0x3F) << 8 | self.registers[register + 1]

    def cells(self) -> list[list[Cell]]:
        """What the screen shows: 25 rows of 80 cells."""
        start = self._address(START)
        flat: list[Cell] = []
        for index in range(ROWS * COLUMNS):
            place = 2 * (start + index) % LENGTH
            flat.append(Cell(_GLYPHS[self.data[place]], self.data[place + 1]))
        return [flat[row * COLUMNS : (row + 1) * COLUMNS] for row in range(ROWS)]

    def text(self) -> str:
        """What the screen shows: 25 lines, without the blanks at their ends."""
        return "\n".join("".join(cell.character for cell in row).rstrip() for row in self.cells())

    def cursor(self) -> tuple[int, int] | None:
        """Row and column of the cursor, None if it is switched off or outside the screen."""
        if self.registers[CURSOR_START] & CURSOR_OFF:
            return None
        place = self._address(CURSOR) - self._address(START)
        return divmod(place, COLUMNS) if 0 <= place < ROWS * COLUMNS else None

    def save(self) -> dict[str, Any]:
        """Save memory and registers."""
        return {"version": 1, "data": bytes(self.data), "registers": bytes(self.registers), "index": self.index}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError if it is damaged."""
        check_state(state, self.name, {"data": bytes, "registers": bytes, "index": BYTE})
        if len(state["data"]) != LENGTH or len(state["registers"]) != REGISTERS:
            raise StateError(f"{self.name}: saved memory must be {LENGTH} bytes and registers {REGISTERS}")
        self.data[:] = state["data"]
        self.registers[:] = state["registers"]
        self.index = state["index"]
