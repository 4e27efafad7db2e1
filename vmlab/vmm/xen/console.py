"""The paravirtual console: a ring of characters in a page that the guest gives, and its back end.

The guest writes characters into the ring, moves the producer's index, and notifies: one hypercall for as many characters as
there are, where a serial port takes two accesses for each. What the guest has sent goes on to its serial port's wire, so that
its console is looked at as that of any other guest.

Simplified: the back end is a part of the hypervisor (in Xen it is a program in domain 0), and works at once.

Read more: Xen, xen/include/public/io/console.h, io/ring.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.vmm.xen.abi import (
    IN_CONSUMER,
    IN_PRODUCER,
    OUT_CONSUMER,
    OUT_PRODUCER,
    RING_IN,
    RING_OUT,
)

if TYPE_CHECKING:
    from vmlab.machine.memory import PhysicalMemory
    from vmlab.machine.platform import Platform

__all__ = ["ConsoleRing"]

DATA = 0x3F8


class ConsoleRing:
    """The back end of one guest's console.

    Parameters
    ----------
    memory : PhysicalMemory
        The computer's.
    platform : Platform
        Of the guest, with the serial port behind the console.
    ring : int
        Machine address of the ring's page.
    """

    def __init__(self, memory: PhysicalMemory, platform: Platform, ring: int) -> None:
        self._memory = memory
        self._platform = platform
        self.ring = ring

    def _filled(self, producer: int, consumer: int, size: int) -> int:
        """Return how many characters lie in a ring; a guest that says more than there can be has none."""
        count = self._memory.read(self.ring + producer, 4) - self._memory.read(self.ring + consumer, 4) & 0xFFFFFFFF
        return count if count <= size else 0

    def drain(self) -> int:
        """Send what lies in the ring; return how many characters."""
        memory, count = self._memory, self._filled(OUT_PRODUCER, OUT_CONSUMER, RING_OUT)
        start = memory.read(self.ring + OUT_CONSUMER, 4)
        for place in range(start, start + count):
            self._platform.bus.port_write(DATA, 1, memory.read(self.ring + RING_IN + place % RING_OUT, 1))
        memory.write(self.ring + OUT_CONSUMER, 4, memory.read(self.ring + OUT_PRODUCER, 4))
        return count

    @property
    def room(self) -> int:
        """How many characters fit into the ring to the guest."""
        return RING_IN - self._filled(IN_PRODUCER, IN_CONSUMER, RING_IN)

    @property
    def can_feed(self) -> bool:
        """True where something was typed that fits."""
        return self._platform.uart.has_input and self.room > 0

    def feed(self) -> int:
        """Put what was typed into the ring, as far as there is room; return how many characters."""
        memory, bus, count, room = self._memory, self._platform.bus, 0, self.room
        while self._platform.uart.has_input and count < room:
            place = memory.read(self.ring + IN_PRODUCER, 4)
            memory.write(self.ring + place % RING_IN, 1, bus.port_read(DATA, 1))
            memory.write(self.ring + IN_PRODUCER, 4, place + 1)
            count += 1
        return count
