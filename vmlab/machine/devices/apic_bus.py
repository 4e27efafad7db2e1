"""The interrupt messages of a PC with APICs: who sends them, and which local APICs take them.

I/O APIC and local APICs talk over the system bus. A message names a delivery mode, a vector and a destination:
physical (an APIC ID, 0xFF for all) or logical (a mask that each local APIC compares with its LDR and DFR). Lowest
priority picks one of those addressed. An end of interrupt of a level-triggered vector goes back to the I/O APICs.

Every processor finds its own local APIC at the same physical address, 0xFEE00000. So one device, this one, claims that
page, and hands each access to `current`: the local APIC of the processor that runs.

Bus range: memory 0xFEE00000-0xFEE00FFF.

Simplified: a message arrives at once. Among equal candidates for lowest priority the one with the lowest APIC ID is
taken (hardware rotates), and a processor that has the vector in service already is not preferred.

Read more: Intel SDM vol. 3, chapter "Advanced Programmable Interrupt Controller (APIC)", sections "Determining IPI
Destination", "Lowest Priority Delivery Mode"; vol. 3, "Handling Interrupts", EOI.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.state import COUNT, Items, check_state, rollback

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus
    from vmlab.machine.devices.local_apic import LocalApic

__all__ = ["LOCAL_APIC_BASE", "ApicBus", "Delivery", "Message"]

LOCAL_APIC_BASE = 0xFEE0_0000
PAGE = 0x1000


class Delivery(IntEnum):
    """Delivery mode, as ICR, LVT and redirection entries encode it."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


@dataclass(frozen=True, slots=True)
class Message:
    """One interrupt message.

    Attributes
    ----------
    mode : int
        A `Delivery`; reserved values are delivered to nobody.
    vector : int
        Interrupt vector; for STARTUP the page number at which to start.
    destination : int
        APIC ID or logical mask, 8 bits.
    logical : bool
        How to read the destination.
    level : bool
        True for a level-triggered interrupt, whose end is told to the I/O APICs.
    """

    mode: int
    vector: int
    destination: int
    logical: bool = False
    level: bool = False


class ApicBus:
    """The local APICs of a computer and the messages between APICs.

    Attributes
    ----------
    local_apics : list of LocalApic
        In the order of the processors.
    current : int
        Index of the processor that runs: it sees its own local APIC at 0xFEE00000. Set at each switch of processors.
    on_end : list of callable
        Called with the vector when a level-triggered interrupt ends: the I/O APICs.
    """

    __slots__ = ("current", "local_apics", "name", "on_end")

    def __init__(self, name: str = "local-apics") -> None:
        self.name = name
        self.local_apics: list[LocalApic] = []
        self.current = 0
        self.on_end: list[Callable[[int], None]] = []

    def attach(self, bus: Bus) -> None:
        """Claim the local APICs' page."""
        bus.add_mmio(self, LOCAL_APIC_BASE, PAGE)

    def add(self, apic: LocalApic) -> None:
        """Join a local APIC; it calls this itself.

        Raises
        ------
        OptionError
            Its identifier is taken.
        """
        if any(apic.identifier == other.identifier for other in self.local_apics):
            raise OptionError(f"two local APICs with identifier {apic.identifier}: each processor needs its own")
        self.local_apics.append(apic)

    # -- messages ----------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Deliver a message to all whom it addresses; say whether any took it."""
        return self.deliver(message, [each for each in self.local_apics if each.addressed(message)])

    def deliver(self, message: Message, apics: list[LocalApic]) -> bool:
        """Deliver a message to these local APICs, or in lowest-priority mode to one of them."""
        mode = message.mode
        if mode == Delivery.LOWEST_PRIORITY:
            ready = [each for each in apics if each.software_enabled]
            apics = [min(ready, key=lambda each: (each.ppr, each.identifier))] if ready else []
            mode = Delivery.FIXED
        taken = [each.deliver(mode, message.vector, level=message.level) for each in apics]
        return any(taken)

    def end(self, vector: int) -> None:
        """Tell the I/O APICs of the end of a level-triggered interrupt."""
        for callback in self.on_end:
            callback(vector)

    # -- bus ---------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register of the running processor's local APIC."""
        return self.local_apics[self.current].read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register of the running processor's local APIC."""
        self.local_apics[self.current].write(offset, size, value)

    def save(self) -> dict[str, Any]:
        """Save every local APIC."""
        return {"version": 1, "current": self.current, "local_apics": [each.save() for each in self.local_apics]}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave (load the clock first); StateError if it is damaged, and nothing has changed then."""
        count = len(self.local_apics)
        check_state(state, self.name, {"current": range(count) if count else COUNT, "local_apics": Items(dict, count)})
        with rollback(self):
            for apic, saved in zip(self.local_apics, state["local_apics"], strict=True):
                apic.load(saved)
        self.current = state["current"]
