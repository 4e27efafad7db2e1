"""The timer of a PC: an 8254 with three counters, and the port that gates the third.

Counter 0 drives IRQ 0, counter 1 once refreshed memory, counter 2 feeds the speaker; kernels use counter 2 to measure
time, through port 0x61. One tick of the timer is `INSTRUCTIONS_PER_PIT_TICK` units of virtual time: tick n comes at
clock time n × INSTRUCTIONS_PER_PIT_TICK, and a write made before that is seen by that tick.

Bus ranges: ports 0x40-0x43 (offsets 0-3), port 0x61 (offset 4).

    port 0x61:  [ 0 0 | OUT2 5 | REFRESH 4 | 3 2 stored | SPEAKER 1 | GATE2 0 ]

Simplified: no firmware has programmed counter 0: it stands still until the guest writes to it. Port 0x61's refresh bit
toggles every 18 ticks (15.1 µs) whatever counter 1 does. No speaker.

Read more: Intel 82C54 data sheet, order number 231244-006; IBM PC/AT Technical Reference (port 0x61).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.clock import INSTRUCTIONS_PER_PIT_TICK
from vmlab.machine.devices.pit_counter import PitCounter
from vmlab.machine.state import check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus
    from vmlab.machine.clock import Clock

__all__ = ["Pit"]

CONTROL, PORT_B = 3, 4
READ_BACK = 3  # the "counter" number of the read-back command
# Read-back command:  [ 1 1 | /COUNT 5 | /STATUS 4 | CNT2 3 | CNT1 2 | CNT0 1 | 0 ]
NOT_COUNT, NOT_STATUS = 0x20, 0x10
GATE2, REFRESH, OUT2, STORED = 0x01, 0x10, 0x20, 0x0F
TICKS_PER_REFRESH = 18


class Pit:
    """The interval timer.

    Parameters
    ----------
    clock : Clock
        Virtual time; the timer registers itself there.
    line : callable
        Drives the interrupt request line of counter 0.

    Attributes
    ----------
    counters : tuple of PitCounter
        The three counters, for views.
    """

    __slots__ = ("_clock", "counters", "name", "port_b")

    def __init__(self, clock: Clock, line: Callable[[bool], None], name: str = "pit") -> None:
        self.name = name
        self._clock = clock
        self.counters = (PitCounter(), PitCounter(), PitCounter(gate=False))
        self.counters[0].on_out = line
        line(self.counters[0].out)
        self.port_b = 0
        clock.add(self)

    def attach(self, bus: Bus) -> None:
        """Claim a PC's standard ports."""
        bus.add_ports(self, 0x40, 4)
        bus.add_ports(self, 0x61, 1, offset=PORT_B)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """Clock time at which counter 0 may next change its output."""
        ticks = self.counters[0].ticks_to_event()
        return None if ticks is None else (self.counters[0].tick + ticks) * INSTRUCTIONS_PER_PIT_TICK

    def advance(self, now: int) -> None:
        """Count up to a clock time."""
        tick = now // INSTRUCTIONS_PER_PIT_TICK
        for counter in self.counters:
            counter.run_to(tick)

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a counter, or port B; the control word cannot be read."""
        self.advance(self._clock.now)
        if offset == PORT_B:
            refresh = REFRESH if self.counters[2].tick // TICKS_PER_REFRESH & 1 else 0
            return self.port_b | refresh | (OUT2 if self.counters[2].out else 0)
        return self.counters[offset].read() if offset < CONTROL else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a counter, the control word, or port B."""
        self.advance(self._clock.now)
        if offset == PORT_B:
            self.port_b = value & STORED
            self.counters[2].set_gate(bool(value & GATE2))
        elif offset == CONTROL:
            self._control(value & 0xFF)
        else:
            self.counters[offset].write(value & 0xFF)
        self._clock.refresh()

    def _control(self, value: int) -> None:
        selected = value >> 6
        access = value >> 4 & 3
        if selected == READ_BACK:
            for number, counter in enumerate(self.counters):
                if value & (2 << number):
                    if not value & NOT_COUNT:
                        counter.latch_count()
                    if not value & NOT_STATUS:
                        counter.latch_status()
        elif access == 0:
            self.counters[selected].latch_count()
        else:
            self.counters[selected].control(access, value >> 1 & 7, bool(value & 1))

    def save(self) -> dict[str, Any]:
        """Save the counters and port B."""
        return {"version": 1, "counters": [counter.save() for counter in self.counters], "port_b": self.port_b}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state (load the clock first); StateError if it is damaged."""
        check_state(state, self.name, {"counters": list, "port_b": range(STORED + 1)})
        fresh = [PitCounter() for _ in self.counters]
        if len(state["counters"]) != len(fresh):
            raise StateError(
                f"{self.name}: saved state has {len(state['counters'])} counters, an 8254 has {len(fresh)}"
            )
        for counter, saved in zip(fresh, state["counters"], strict=True):
            counter.load(saved)  # all are good, or none is changed
        for counter, saved in zip(self.counters, state["counters"], strict=True):
            counter.load(saved)
        self.port_b = state["port_b"]
        self._clock.refresh()
