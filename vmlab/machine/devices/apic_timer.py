"""The timer of a local APIC: a 32-bit counter that counts bus ticks down, through a divider.

A write of the initial count starts it. In one-shot mode it stops at zero; in periodic mode it is loaded again there and
goes on. Each time it reaches zero it *expires*, which the local APIC makes an interrupt if LVT timer is not masked.

The counter is not moved tick by tick: it holds the count at one instant, and the count at any later one follows.

Simplified: the bus runs at a fixed multiple of the processor's nominal speed, `BUS_TICKS_PER_INSTRUCTION`. No
TSC-deadline mode (later processors have it, and CPUID says so).

Read more: Intel SDM vol. 3, chapter "Advanced Programmable Interrupt Controller (APIC)", section "APIC Timer".
"""

from __future__ import annotations

from typing import Any

from vmlab.machine.clock import NOMINAL_HZ
from vmlab.machine.state import LONG, check_state

__all__ = ["BUS_HZ", "BUS_TICKS_PER_INSTRUCTION", "ApicTimer"]

BUS_TICKS_PER_INSTRUCTION = 8
"""Bus ticks in one unit of virtual time: our convention, so that the bus is that of a PC of the time (about 95 MHz)."""

BUS_HZ = NOMINAL_HZ * BUS_TICKS_PER_INSTRUCTION
"""Bus ticks in a nominal second."""

# Divide configuration register:  [ ... | D2 3 | 0 | D1 D0 1:0 ]: divide by 2, 4, 8, 16, 32, 64, 128, 1
DIVIDE_MASK = 0x0B


def _shift(divide: int) -> int:
    """Binary logarithm of the divisor that a divide configuration register means."""
    return ((divide >> 1 & 4 | divide & 3) + 1) & 7


class ApicTimer:
    """The counter; times are given and kept in bus ticks.

    Attributes
    ----------
    initial : int
        Initial-count register.
    divide : int
        Divide configuration register.
    periodic : bool
        Mode.
    """

    __slots__ = ("_count", "_since", "divide", "initial", "periodic")

    def __init__(self) -> None:
        self._count = 0  # at the tick `_since`; 0 is stopped
        self._since = 0
        self.initial = self.divide = 0
        self.periodic = False

    def run_to(self, tick: int) -> int:
        """Count down to a bus tick; return how often the counter has expired on the way."""
        if not self._count:
            return 0
        shift = _shift(self.divide)
        beyond = (tick - self._since >> shift) - self._count
        if beyond < 0:
            return 0
        if not self.periodic or not self.initial:
            self._count = 0
            return 1
        loads = beyond // self.initial
        self._since += self._count + loads * self.initial << shift
        self._count = self.initial
        return loads + 1

    def expiry(self) -> int | None:
        """Bus tick at which the counter will expire, None if it is stopped."""
        return self._since + (self._count << _shift(self.divide)) if self._count else None

    def count(self, tick: int) -> int:
        """Return the current count at a bus tick, to which `run_to` has been called."""
        return self._count - (tick - self._since >> _shift(self.divide)) if self._count else 0

    def start(self, initial: int, tick: int) -> None:
        """Write the initial count: start at a bus tick, or stop if it is zero."""
        self.initial = self._count = initial
        self._since = tick

    def set_divide(self, divide: int, tick: int) -> None:
        """Write the divide configuration: the counter goes on from its current count at the new speed."""
        self._count = self.count(tick)
        self._since = tick
        self.divide = divide & DIVIDE_MASK

    def save(self) -> dict[str, Any]:
        """Save the counter."""
        return {
            "version": 1,
            "initial": self.initial,
            "divide": self.divide,
            "periodic": self.periodic,
            "count": self._count,
            "since": self._since,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved counter; StateError if it is damaged."""
        fields = {
            "initial": LONG,
            "divide": (range(4), range(8, 12)),
            "periodic": bool,
            "count": LONG,
            "since": range(1 << 66),
        }
        check_state(state, "APIC timer", fields)
        for name in ("initial", "divide", "periodic"):
            setattr(self, name, state[name])
        self._count, self._since = state["count"], state["since"]
