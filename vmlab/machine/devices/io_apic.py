"""The I/O APIC: 24 interrupt input pins, each of which becomes a message to local APICs.

A pin's redirection entry says which: vector, delivery mode, destination, trigger mode, mask. An edge-triggered pin sends a
message at each rising edge. A level-triggered one sends it while asserted, then holds back (remote IRR) until the local
APIC's end of interrupt for that vector comes back, and sends again if the pin is asserted still.

On a PC, ISA interrupt n is at pin n, but the timer's IRQ 0 at pin 2; `line()` takes the IRQ, `pin()` the pin.

Bus range: memory 0xFEC00000-0xFEC00FFF: IOREGSEL at 0x00 selects a register, IOWIN at 0x10 is it.

    redirection entry:  [ destination 63:56 | MASK 16 | LEVEL 15 | REMOTE_IRR 14 | POLARITY 13 | STATUS 12 | LOGICAL 11 |
                          mode 10:8 | vector 7:0 ]

Simplified: a message is sent at once, so delivery status always reads idle; one that nobody accepts is lost if
edge-triggered, and tried again at the pin's or entry's next change if level-triggered. Polarity is stored: a pin driven
high means asserted.

Read more: Intel 82093AA I/O APIC data sheet, order number 290566-001; the pins: MultiProcessor Specification 1.4, D.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.devices.apic_bus import Delivery, Message
from vmlab.machine.state import BYTE, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["IO_APIC_BASE", "PINS", "TIMER_PIN", "IoApic"]

IO_APIC_BASE = 0xFEC0_0000
PINS = 24
TIMER_PIN = 2  # where IRQ 0 is
IOREGSEL, IOWIN = 0x00, 0x10
IDENTIFIER, VERSION, ARBITRATION, ENTRIES = 0x00, 0x01, 0x02, 0x10
VERSION_VALUE = (PINS - 1) << 16 | 0x11

MASK, LEVEL, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11
LOW_BITS = 0x1AFFF  # what can be written of an entry's low half: all but remote IRR and delivery status
HIGH_BITS = 0xFF00_0000

_RANGE = range(1 << 64)


class IoApic:
    """The I/O APIC.

    Parameters
    ----------
    send : callable
        Takes a `Message` to the local APICs, says whether one accepted it: `ApicBus.send`. Let `ApicBus.on_end` know
        `end_of_interrupt`.
    identifier : int
        APIC ID as firmware sets it, 0-15.

    Attributes
    ----------
    entries : list of int
        The redirection table.
    pins : int
        Levels of the pins, one bit each.
    """

    __slots__ = ("_send", "entries", "identifier", "name", "pins", "selected")

    def __init__(self, send: Callable[[Message], bool], identifier: int = 0, name: str = "io-apic") -> None:
        if type(identifier) is not int or not 0 <= identifier < 16:
            raise OptionError(f"an I/O APIC's ID is an int from 0 to 15, not {identifier!r}")
        self.name = name
        self._send = send
        self.identifier = identifier
        self.selected = self.pins = 0
        self.entries = [MASK] * PINS

    def attach(self, bus: Bus) -> None:
        """Claim a PC's standard page."""
        bus.add_mmio(self, IO_APIC_BASE, 0x1000)

    # -- pins --------------------------------------------------------------------------------------------------------

    def pin(self, number: int) -> Callable[[bool], None]:
        """Return the function that drives a pin.

        Raises
        ------
        OptionError
            There is no such pin.
        """
        if type(number) is not int or not 0 <= number < PINS:
            raise OptionError(f"I/O APIC pin {number!r}: there are pins 0-{PINS - 1}")

        def drive(high: bool) -> None:
            self.set_pin(number, high)

        return drive

    def line(self, irq: int) -> Callable[[bool], None]:
        """Return the function that drives the pin of an ISA interrupt: 0-15 without 2; IRQ 0 is at pin 2.

        Raises
        ------
        OptionError
            There is no such line.
        """
        if type(irq) is not int or not 0 <= irq < 16 or irq == TIMER_PIN:
            raise OptionError(f"interrupt line {irq!r}: a PC has lines 0-15, and 2 joins its other controllers")
        return self.pin(TIMER_PIN if irq == 0 else irq)

    def set_pin(self, number: int, high: bool) -> None:
        """Drive a pin."""
        bit = 1 << number
        rising = high and not self.pins & bit
        self.pins = self.pins | bit if high else self.pins & ~bit
        entry = self.entries[number]
        if entry & MASK:
            return  # an edge on a masked pin is lost
        if entry & LEVEL:
            self._assert(number)
        elif rising:
            self._message(entry)

    def _message(self, entry: int) -> bool:
        mode = entry >> 8 & 7
        if mode == Delivery.STARTUP:
            return False  # reserved here
        level = bool(entry & LEVEL) and mode in (Delivery.FIXED, Delivery.LOWEST_PRIORITY)
        return self._send(Message(mode, entry & 0xFF, entry >> 56, bool(entry & LOGICAL), level))

    def _assert(self, number: int) -> None:
        """Send the message of a level-triggered pin that is asserted, unless one is under way."""
        entry = self.entries[number]
        if self.pins >> number & 1 and entry & LEVEL and not entry & (MASK | REMOTE_IRR):
            self.entries[number] |= REMOTE_IRR  # before: the message may end at once
            if not self._message(entry):
                self.entries[number] &= ~REMOTE_IRR

    def end_of_interrupt(self, vector: int) -> None:
        """Take a local APIC's broadcast end of interrupt."""
        for number, entry in enumerate(self.entries):
            if entry & REMOTE_IRR and entry & 0xFF == vector:
                self.entries[number] &= ~REMOTE_IRR
                self._assert(number)

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read IOREGSEL or IOWIN, or a part of them."""
        register = offset & ~3
        value = self.selected if register == IOREGSEL else self._read_selected() if register == IOWIN else 0
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write IOREGSEL, or IOWIN as a whole."""
        if offset == IOREGSEL:
            self.selected = value & 0xFF
        elif offset == IOWIN and size == 4:
            self._write_selected(value & 0xFFFF_FFFF)

    def _read_selected(self) -> int:
        if self.selected == VERSION:
            return VERSION_VALUE
        if self.selected in (IDENTIFIER, ARBITRATION):
            return self.identifier << 24
        number, high = divmod(self.selected - ENTRIES, 2)
        if not 0 <= number < PINS:
            return 0
        return self.entries[number] >> (32 if high else 0) & 0xFFFF_FFFF

    def _write_selected(self, value: int) -> None:
        number, high = divmod(self.selected - ENTRIES, 2)
        if self.selected == IDENTIFIER:
            self.identifier = value >> 24 & 0xF
        elif 0 <= number < PINS:
            entry = self.entries[number]
            if high:
                entry = entry & 0xFFFF_FFFF | (value & HIGH_BITS) << 32
            else:
                # An edge-triggered entry has no interrupt under way: this is how kernels clear a remote IRR.
                kept = REMOTE_IRR if value & LEVEL else 0
                entry = entry & (HIGH_BITS << 32 | kept) | value & LOW_BITS
            self.entries[number] = entry
            self._assert(number)

    def save(self) -> dict[str, Any]:
        """Save registers and pins."""
        return {
            "version": 1,
            "identifier": self.identifier,
            "selected": self.selected,
            "pins": self.pins,
            "entries": list(self.entries),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError if it is damaged."""
        fields = {"identifier": range(16), "selected": BYTE, "pins": range(1 << PINS), "entries": Items(_RANGE, PINS)}
        check_state(state, self.name, fields)
        self.identifier, self.selected, self.pins = state["identifier"], state["selected"], state["pins"]
        self.entries = list(state["entries"])
