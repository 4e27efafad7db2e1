"""PCI configuration space, mechanism #1: what is on bus 0, for a kernel that scans it.

A write to port 0xCF8 says which bus, device, function and register; the data port 0xCFC-0xCFF is that register. On bus
0 there are the functions of an Intel 440FX PC: the host bridge (device 0), the ISA bridge and the IDE controller
(device 1, functions 0 and 1). What is not there reads as all ones.

Bus range: ports 0xCF8-0xCFF, up to four bytes at once. Port 0xCF9 is the chip set's reset control.

    address:  [ ENABLE 31 | bus 23:16 | device 15:11 | function 10:8 | register 7:2 | 0 0 ]

Simplified: one function alone claims ports through a base address, the IDE controller, for its bus master
(`vmlab.machine.devices.bus_master`); its drives sit at the ports of a PC/AT, always, and interrupt on IRQ 14 and 15. What else
can be written is stored and has no effect.

Read more: PCI Local Bus Specification 3.0, 3.2.2.3.2 and 6; Intel 82441FX (290549) and 82371SB (290550) data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.state import LONG, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["BASE_4", "COMMAND", "IDE", "IO_SPACE", "MASTER", "MASTER_ABORTED", "STATUS", "PciBus", "PciFunction"]

ADDRESS, RESET_CONTROL, DATA = 0, 1, 4
ENABLE, ADDRESS_BITS = 1 << 31, 0x80FF_FFFC
FULL_RESET, RESET_CPU = 0x02, 0x04
SIZE = 256

VENDOR, DEVICE, COMMAND, STATUS, REVISION, INTERFACE, SUBCLASS, CLASS, HEADER, BASE_4, LINE = (
    0x00, 0x02, 0x04, 0x06, 0x08, 0x09, 0x0A, 0x0B, 0x0E, 0x20, 0x3C,
)  # fmt: skip
IDE = (1, 1)
"""Device and function number of the IDE controller."""
INTEL = 0x8086
IO_SPACE, MEMORY_SPACE, MASTER = 1, 2, 4  # in the command register
MEDIUM_DEVSEL, MASTER_ABORTED = 0x0200, 0x2000  # in the status register
ABORTS = MASTER_ABORTED | 0x1800  # target aborts, received and signalled
BASE_IS_PORTS = 1  # in a base address
FIRST_BASE = 0xC000  # where firmware puts the bus master's ports
MULTIFUNCTION = 0x80


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One function, as it is after firmware.

    Attributes
    ----------
    name : str
        What it is.
    place : tuple
        Device and function number on bus 0.
    contents : dict
        Register to (size in bytes, value).
    writable : dict
        Register to (size in bytes, mask of the bits that can be written).
    clearable : dict
        The same of bits that a write of 1 clears.
    """

    name: str
    place: tuple[int, int]
    contents: dict[int, tuple[int, int]]
    writable: dict[int, tuple[int, int]]
    clearable: dict[int, tuple[int, int]] = field(default_factory=dict)


def _identity(device: int, class_code: int, revision: int = 0) -> dict[int, tuple[int, int]]:
    return {VENDOR: (2, INTEL), DEVICE: (2, device), REVISION: (1, revision), INTERFACE: (3, class_code)}


_FUNCTIONS = (
    PciFunction(
        "82441FX host bridge",
        (0, 0),
        _identity(0x1237, 0x06_00_00, 2) | {COMMAND: (2, MASTER | MEMORY_SPACE), STATUS: (2, MEDIUM_DEVSEL | 0x80)},
        {COMMAND: (2, 0x0140), 0x0D: (1, 0xF8), 0x59: (7, (1 << 56) - 1), 0x70: (4, 0xFFFF_FFFF)},
    ),
    PciFunction(
        "82371SB ISA bridge",
        (1, 0),
        _identity(0x7000, 0x06_01_00)
        | {COMMAND: (2, MASTER | MEMORY_SPACE | IO_SPACE), STATUS: (2, MEDIUM_DEVSEL), HEADER: (1, MULTIFUNCTION)}
        | {0x60: (4, 0x8080_8080)},  # PCI interrupts are routed nowhere
        {COMMAND: (2, 0x0108), 0x4C: (4, 0xFFFF_FFFF), 0x60: (4, 0x8F8F_8F8F)},
    ),
    PciFunction(
        "82371SB IDE controller",
        IDE,
        _identity(0x7010, 0x01_01_80)
        | {COMMAND: (2, IO_SPACE), STATUS: (2, MEDIUM_DEVSEL | 0x80), 0x40: (4, 0x8000_8000)}  # both channels on
        | {BASE_4: (4, FIRST_BASE | BASE_IS_PORTS)},
        {
            COMMAND: (2, IO_SPACE | MASTER),
            0x0D: (1, 0xF0),
            LINE: (1, 0xFF),
            0x40: (4, 0xF3FF_F3FF),
            BASE_4: (4, 0xFFF0),
        },
        {STATUS: (2, ABORTS)},
    ),
)


class PciBus:
    """Bus 0 and the ports that lead to its configuration spaces.

    Attributes
    ----------
    address : int
        The configuration address register.
    functions : tuple of PciFunction
        What is on the bus.
    on_reset : callable or None
        Called without arguments when the guest resets the computer through port 0xCF9.
    on_write : callable or None
        Called with the place of a function whose configuration space was written to.
    """

    __slots__ = (
        "_clears",
        "_masks",
        "_spaces",
        "address",
        "functions",
        "name",
        "on_reset",
        "on_write",
        "reset_control",
    )

    def __init__(self, name: str = "pci") -> None:
        self.name = name
        self.address = self.reset_control = 0
        self.on_reset: Callable[[], object] | None = None
        self.on_write: Callable[[tuple[int, int]], object] | None = None
        self.functions = _FUNCTIONS
        self._spaces = {each.place: _layout(each.contents) for each in _FUNCTIONS}
        self._masks = {each.place: _layout(each.writable) for each in _FUNCTIONS}
        self._clears = {each.place: _layout(each.clearable) for each in _FUNCTIONS}

    def attach(self, bus: Bus) -> None:
        """Claim the configuration ports."""
        bus.add_ports(self, 0xCF8, 8, width=4)

    def _selected(self) -> tuple[int, int] | None:
        """Place of the function that the address names, if it is there."""
        place = self.address >> 11 & 0x1F, self.address >> 8 & 7
        there = self.address & ENABLE and not self.address >> 16 & 0xFF
        return place if there and place in self._spaces else None

    def _register(self, offset: int) -> int:
        return self.address & 0xFC | offset & 3

    def read(self, offset: int, size: int) -> int:
        """Read the address, as a whole, or the data of the register that it names."""
        ones = (1 << 8 * size) - 1
        if offset < DATA:
            if offset == RESET_CONTROL and size == 1:
                return self.reset_control
            return self.address if offset == ADDRESS and size == 4 else ones
        place = self._selected()
        if place is None:
            return ones
        return self.get(place, self._register(offset), size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the address, as a whole, the data of the register that it names, or the reset control."""
        if offset == ADDRESS and size == 4:
            self.address = value & ADDRESS_BITS
        elif offset == RESET_CONTROL and size == 1:
            rising = value & ~self.reset_control & RESET_CPU
            self.reset_control = value & (FULL_RESET | RESET_CPU)
            if rising and self.on_reset is not None:
                self.on_reset()
        elif offset >= DATA and (place := self._selected()) is not None:
            space, mask, clears = self._spaces[place], self._masks[place], self._clears[place]
            register = self._register(offset)
            for at in range(register, min(register + size, SIZE)):
                byte = value >> 8 * (at - register) & 0xFF
                space[at] = space[at] & ~(mask[at] | byte & clears[at]) | byte & mask[at]
            if self.on_write is not None:
                self.on_write(place)

    def get(self, place: tuple[int, int], register: int, size: int) -> int:
        """Return what is in a register of a function, for the function itself."""
        return int.from_bytes(self._spaces[place][register : register + size], "little")

    def note(self, place: tuple[int, int], bits: int) -> None:
        """Set bits in the status register of a function: what has happened to it on the bus."""
        status = self.get(place, STATUS, 2) | bits
        self._spaces[place][STATUS : STATUS + 2] = status.to_bytes(2, "little")

    def save(self) -> dict[str, Any]:
        """Save the ports' registers and every configuration space."""
        return {
            "version": 1,
            "address": self.address,
            "reset_control": self.reset_control,
            "spaces": [bytes(space) for space in self._spaces.values()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError if it is damaged."""
        fields = {"address": LONG, "reset_control": range(8), "spaces": Items(bytes, len(self._spaces))}
        check_state(state, self.name, fields)
        for each, (place, space), saved in zip(self.functions, self._spaces.items(), state["spaces"], strict=True):
            changes = zip(saved, space, self._masks[place], self._clears[place], strict=True)
            if len(saved) != SIZE or any((new ^ old) & ~(mask | clears) for new, old, mask, clears in changes):
                raise StateError(f"{self.name}: the saved configuration space is not one of the {each.name}")
        self.address, self.reset_control = state["address"], state["reset_control"]
        for space, saved in zip(self._spaces.values(), state["spaces"], strict=True):
            space[:] = saved


def _layout(fields: dict[int, tuple[int, int]]) -> bytearray:
    space = bytearray(SIZE)
    for register, (size, value) in fields.items():
        space[register : register + size] = value.to_bytes(size, "little")
    return space
