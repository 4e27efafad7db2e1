"""Virtual time: one clock that counts retired guest instructions.

`Clock.now` grows by one with each instruction that retires, and jumps to the next timed event when the processor idles
in HLT. Devices tick on it and on nothing else: no wall clock anywhere, so that a run is the same each time and a guest
sees the same history natively and under every hypervisor.

Simplified: every instruction takes the same virtual time. What a run *costs* is counted elsewhere, in cycles.

Read more: VMware, "Timekeeping in VMware Virtual Machines" (apparent time); Intel SDM vol. 3, 18.17 (the TSC).
"""

from __future__ import annotations

from typing import Any, Protocol

from vmlab.errors import OptionError
from vmlab.machine.state import check_state

__all__ = ["INSTRUCTIONS_PER_PIT_TICK", "NOMINAL_HZ", "PIT_HZ", "Clock", "TimedDevice"]

PIT_HZ = 1_193_182
"""Input frequency of a PC's 8254 timer: a third of the 3.579545 MHz NTSC colour subcarrier."""

INSTRUCTIONS_PER_PIT_TICK = 10
"""Instructions that retire during one tick of the timer: our convention, small enough for a lecture's runs."""

NOMINAL_HZ = PIT_HZ * INSTRUCTIONS_PER_PIT_TICK
"""Units of `Clock.now` in a nominal second: a processor of 11.93182 MIPS."""


class TimedDevice(Protocol):
    """A device whose outputs change with time alone."""

    def next_event(self) -> int | None:
        """Clock time of the next change of an output; None if there will be none until it is reprogrammed."""

    def advance(self, now: int) -> None:
        """Bring the device up to `now`, driving its interrupt line through each change on the way."""


class Clock:
    """Virtual time and the devices that depend on it.

    Attributes
    ----------
    now : int
        Retired instructions plus idle time. The processor advances it; it must be current when a device is accessed.
    deadline : int or None
        When `service()` is next due: once `now >= deadline`. None if no device waits for anything.
    """

    __slots__ = ("_devices", "_events", "deadline", "now")

    def __init__(self) -> None:
        self.now = 0
        self.deadline: int | None = None
        self._devices: list[TimedDevice] = []
        self._events: list[int | None] = []

    def add(self, device: TimedDevice) -> None:
        """Register a timed device.

        Raises
        ------
        OptionError
            It is registered already.
        """
        if any(device is each for each in self._devices):
            raise OptionError(f"{device!r} is registered with this clock already")
        self._devices.append(device)
        self.refresh()

    def refresh(self) -> None:
        """Recompute `deadline`; a device calls this when it has been reprogrammed."""
        self._events = [device.next_event() for device in self._devices]
        self.deadline = min((event for event in self._events if event is not None), default=None)

    def service(self) -> None:
        """Advance the devices whose time has come, in the order in which they were added."""
        now = self.now
        for number, device in enumerate(self._devices):
            event = self._events[number]
            if event is not None and event <= now:
                device.advance(now)
        self.refresh()

    def save(self) -> dict[str, Any]:
        """Save the time; the devices save themselves."""
        return {"version": 1, "now": self.now}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved time. Load the clock first, then its devices: each calls `refresh()`.

        Raises
        ------
        StateError
            The state is damaged.
        """
        check_state(state, "clock", {"now": range(1 << 63)})
        self.now = state["now"]
        self.refresh()
