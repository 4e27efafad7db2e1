"""The virtual timer: a guest asks for an event at a time, or again and again.

Time is the guest's virtual time, in nanoseconds of the nominal clock (`vmlab.machine.clock`).

Read more: Xen, xen/include/public/vcpu.h (VCPUOP_set_periodic_timer), xen.h (set_timer_op).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.clock import NOMINAL_HZ
from vmlab.machine.state import COUNT, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.clock import Clock

__all__ = ["VirtualTimer", "nanoseconds", "units"]

SECOND = 1_000_000_000


def nanoseconds(time: int) -> int:
    """Return a time of the clock in nanoseconds.

    >>> nanoseconds(NOMINAL_HZ)
    1000000000
    """
    return time * SECOND // NOMINAL_HZ


def units(duration: int) -> int:
    """Return nanoseconds in units of the clock, rounded up: a timer is never early.

    >>> units(1)
    1
    """
    return -(-duration * NOMINAL_HZ // SECOND)


class VirtualTimer:
    """A timer of one guest: a device of its clock.

    Parameters
    ----------
    clock : Clock
        The guest's.
    fire : callable
        Sends the event.

    Attributes
    ----------
    deadline : int or None
        When it fires once.
    period, next : int
        Units between two events, 0 for none; when the next one is due.
    """

    def __init__(self, clock: Clock, fire: Callable[[], None]) -> None:
        self._clock = clock
        self._fire = fire
        self.deadline: int | None = None
        self.period = self.next = 0
        clock.add(self)

    def set_single(self, time: int | None) -> None:
        """Fire once, at a time of the clock (now, where it has passed); None for never."""
        self.deadline = time
        self._clock.refresh()

    def set_periodic(self, period: int) -> None:
        """Fire every so many units from now on; 0 for no more."""
        self.period = period
        self.next = self._clock.now + period
        self._clock.refresh()

    def next_event(self) -> int | None:
        """Clock time of the next event."""
        times = [time for time in (self.deadline, self.next if self.period else None) if time is not None]
        return min(times, default=None)

    def advance(self, now: int) -> None:
        """Send what is due: of several periods that have passed, one event."""
        fired = False
        if self.deadline is not None and self.deadline <= now:
            self.deadline, fired = None, True
        if self.period and self.next <= now:
            self.next += (now - self.next) // self.period * self.period + self.period
            fired = True
        if fired:
            self._fire()

    def save(self) -> dict[str, Any]:
        """Save when it fires."""
        return {"version": 1, "deadline": self.deadline, "period": self.period, "next": self.next}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, "virtual timer", {"deadline": (COUNT, type(None)), "period": COUNT, "next": COUNT})
        self.deadline, self.period, self.next = state["deadline"], state["period"], state["next"]
        self._clock.refresh()
