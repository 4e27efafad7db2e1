"""The generic timer: one counter, and three timers that compare with it.

    CNTx_CTL:  2 ISTATUS, the condition holds | 1 IMASK | 0 ENABLE        the condition: count >= CNTx_CVAL
    CNTx_TVAL: CVAL - count, as a signed number of 32 bits; writing it sets CVAL to count + TVAL

The counter goes up by one for each `INSTRUCTIONS_PER_TICK` of virtual time, at CNTFRQ_EL0 = 1 MHz a processor of 10 MIPS.
The virtual count is the physical one less CNTVOFF_EL2.

Read more: Arm ARM (DDI 0487), D11 (the generic timer), D17.11 (its registers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.state import QUAD, Entries, check_state

if TYPE_CHECKING:
    from vmlab.machine.arm64.gic import Gic
    from vmlab.machine.clock import Clock

__all__ = ["INSTRUCTIONS_PER_TICK", "INTERRUPTS", "GenericTimer"]

INSTRUCTIONS_PER_TICK = 10
"""Instructions in one tick of the counter: as on the PC of this laboratory."""
INTERRUPTS = {"cnthp": 26, "cntv": 27, "cntp": 30}
"""Private interrupts, as on QEMU's `virt`."""
ENABLE, IMASK, ISTATUS = 1, 2, 4
ALL = (1 << 64) - 1
NEVER = 1 << 62


class GenericTimer:
    """Counter and timers.

    Parameters
    ----------
    clock : Clock
        Virtual time.
    gic : Gic
        Where their interrupts go.
    system : dict
        The processor's system registers, for CNTVOFF_EL2.
    """

    def __init__(self, clock: Clock, gic: Gic, system: dict[str, int]) -> None:
        self._clock, self._gic, self._system = clock, gic, system
        self.control = dict.fromkeys(INTERRUPTS, 0)
        self.compare = dict.fromkeys(INTERRUPTS, 0)

    def attach(self, system: dict[str, int]) -> None:
        """Take other system registers, after these were loaded."""
        self._system = system
        self.changed()

    def count(self, timer: str = "cntp") -> int:
        """Return the count that a timer compares with."""
        ticks = self._clock.now // INSTRUCTIONS_PER_TICK
        return ticks - self._system["cntvoff_el2"] & ALL if timer == "cntv" else ticks

    def _holds(self, timer: str) -> bool:
        return bool(self.control[timer] & ENABLE) and self.count(timer) >= self.compare[timer]

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, name: str) -> int:
        """Read CNTPCT, CNTVCT, or a register of a timer."""
        if name.startswith(("cntpct", "cntvct")):
            return self.count("cntv" if name[3] == "v" else "cntp")
        timer, part, _ = name.split("_")
        if part == "ctl":
            return self.control[timer] | (ISTATUS if self._holds(timer) else 0)
        if part == "cval":
            return self.compare[timer]
        return self.compare[timer] - self.count(timer) & 0xFFFF_FFFF

    def write(self, name: str, value: int) -> None:
        """Write a register of a timer."""
        timer, part, _ = name.split("_")
        if part == "ctl":
            self.control[timer] = value & (ENABLE | IMASK)
        elif part == "cval":
            self.compare[timer] = value
        else:
            distance = (value & 0xFFFF_FFFF ^ 1 << 31) - (1 << 31)
            self.compare[timer] = self.count(timer) + distance & ALL
        self.changed()

    def changed(self) -> None:
        """Look again at the conditions."""
        self.advance(self._clock.now)
        self._clock.refresh()

    # -- time --------------------------------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """Return when a condition comes to hold."""
        times = []
        for timer in INTERRUPTS:
            if self.control[timer] & ENABLE and not self._holds(timer):
                left = self.compare[timer] - self.count(timer)
                now = self._clock.now // INSTRUCTIONS_PER_TICK
                times.append((now + left) * INSTRUCTIONS_PER_TICK)
        time = min(times, default=NEVER)
        return time if time < NEVER else None

    def advance(self, now: int) -> None:
        """Drive the interrupt lines."""
        for timer, number in INTERRUPTS.items():
            self._gic.line(number, self._holds(timer) and not self.control[timer] & IMASK)

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the timers."""
        return {"version": 1, "control": dict(self.control), "compare": dict(self.compare)}

    def load(self, state: dict[str, Any]) -> None:
        """Load saved timers.

        Raises
        ------
        StateError
            The state is damaged.
        """
        check_state(state, "generic timer", {"control": Entries(str, range(4)), "compare": Entries(str, QUAD)})
        self.control = {timer: state["control"].get(timer, 0) for timer in INTERRUPTS}
        self.compare = {timer: state["compare"].get(timer, 0) for timer in INTERRUPTS}
        self.changed()
