"""PCI configuration space, mechanism #1: what is on bus 0, for a kernel that scans it.

A write to port 0xCF8 says which bus, device, function and register; the data port 0xCFC-0xCFF is that register. On bus
0 there are the functions of an Intel 440FX PC: the host bridge (device 0), the ISA bridge and the IDE controller
(device 1, functions 0 and 1). What is not there reads as all ones.

Bus range: ports 0xCF8-0xCFF, up to four bytes at once. Port 0xCF9 is the chip set's reset control.

    address:  [ ENABLE 31 | bus 23:16 | device 15:11 | function 10:8 | register 7:2 | 0 0 ]

Simplified: no function claims memory or ports through base addresses: the IDE controller sits at the ports of a PC/AT,
interrupts on IRQ 14 and 15, and has no bus mastering. What can be written is stored and has no effect.

Read more: PCI Local Bus Specification 3.0, 3.2.2.3.2 and 6; Intel 82441FX (290549) and 82371SB (290550) data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.state import LONG, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["PciBus", "PciFunction"]

ADDRESS, RESET_CONTROL, DATA = 0, 1, 4
ENABLE, ADDRESS_BITS = 1 << 31, 0x80FF_FFFC
FULL_RESET, RESET_CPU = 0x02, 0x04
SIZE = 256

VENDOR, DEVICE, COMMAND, STATUS, REVISION, INTERFACE, SUBCLASS, CLASS, HEADER, LINE = (
    0x00, 0x02, 0x04, 0x06, 0x08, 0x09, 0x0A, 0x0B, 0x0E, 0x3C,
)  # fmt: skip
INTEL = 0x8086
IO_SPACE, MEMORY_SPACE, MASTER = 1, 2, 4  # in the command register
MEDIUM_DEVSEL = 0x0200  # in the status register
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
    """

    name: str
    place: tuple[int, int]
    contents: dict[int, tuple[int, int]]
    writable: dict[int, tuple[int, int]]


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
        (1, 1),
        _identity(0x7010, 0x01_01_00)
        | {COMMAND: (2, IO_SPACE), STATUS: (2, MEDIUM_DEVSEL | 0x80), 0x40: (4, 0x8000_8000)},  # both channels on
        {COMMAND: (2, 0x0005), 0x0D: (1, 0xF0), LINE: (1, 0xFF), 0x40: (4, 0xF3FF_F3FF)},
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
    """

    __slots__ = ("_masks", "_spaces", "address", "functions", "name", "on_reset", "reset_control")

    def __init__(self, name: str = "pci") -> None:
        self.name = name
        self.address = self.reset_control = 0
        self.on_reset: Callable[[], object] | None = None
        self.functions = _FUNCTIONS
        self._spaces = {each.place: _layout(each.contents) for each in _FUNCTIONS}
        self._masks = {each.place: _layout(each.writable) for each in _FUNCTIONS}

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
        register = self._register(offset)
        return int.from_bytes(self._spaces[place][register : register + size], "little")

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
            space, mask = self._spaces[place], self._masks[place]
            register = self._register(offset)
            for index in range(min(size, SIZE - register)):
                writable = mask[register + index]
                byte = value >> 8 * index & 0xFF
                space[register + index] = space[register + index] & ~writable | byte & writable

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
            mask = self._masks[place]
            if len(saved) != SIZE or any(
                (new ^ old) & ~bits for new, old, bits in zip(saved, space, mask, strict=True)
            ):
                raise StateError(f"{self.name}: the saved configuration space is not one of the {each.name}")
        self.address, self.reset_control = state["address"], state["reset_control"]
        for space, saved in zip(self._spaces.values(), state["spaces"], strict=True):
            space[:] = saved


def _layout(fields: dict[int, tuple[int, int]]) -> bytearray:
    space = bytearray(SIZE)
    for register, (size, value) in fields.items():
        space[register : register + size] = value.to_bytes(size, "little")
    return space
