"""A run that can be sought: events in order, checkpoints, and replay between them.

Nothing is stored of single instructions. To reach a step, the nearest checkpoint before it is restored and the
machine runs from there: a run is deterministic, so it is the same run. Checkpoints share the pages of memory that did
not change between them, and their spacing doubles when there are many, so that a step back costs no more late in a
run than early.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vmlab.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.machine.machine import Machine
    from vmlab.machine.trace import Event, Trace

__all__ = ["Recordable", "Recording"]

SPACING = 2_000
MOST_CHECKPOINTS = 400


class Recordable(Protocol):
    """What can be recorded: a deterministic system that can be saved and loaded."""

    machine: Machine
    trace: Trace

    @property
    def steps(self) -> int:
        """Steps since the start."""

    @property
    def finished(self) -> bool:
        """True when nothing can go on."""

    def advance(self, steps: int) -> None:
        """Run for at most `steps` steps."""

    def save(self) -> dict[str, Any]:
        """Save all but physical memory."""

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The whole system at one step."""

    step: int
    state: dict[str, Any]
    pages: dict[int, bytes]


class Recording:
    """A run from its start to its end, with a cursor that goes anywhere in it.

    Parameters
    ----------
    system : Recordable
        A system that has not run yet. It is run to its end at once, then the cursor is set to the start.
    max_steps : int
        Most steps to record.

    Attributes
    ----------
    system : Recordable
        The system as it is at the cursor: look at it, do not run it.
    events : list of Event
        Everything that happened, without single instructions.
    length : int
        Steps in all.
    """

    def __init__(self, system: Any, *, max_steps: int = 50_000_000) -> None:  # noqa: ANN401 - any Recordable, with its own attributes
        if type(max_steps) is not int or max_steps <= 0:
            raise OptionError(f"the number of steps to record is a positive int, not {max_steps!r}")
        self.system = system
        self.events: list[Event] = []
        self._checkpoints: list[Checkpoint] = []
        self._spacing = SPACING
        trace: Trace = system.trace
        trace.detail = "events"
        trace.observers.append(self.events.append)
        self._checkpoint()
        while not system.finished and system.steps < max_steps:
            system.advance(min(self._spacing, max_steps - system.steps))
            self._checkpoint()
        trace.observers.remove(self.events.append)
        trace.detail = "none"
        self.length: int = system.steps
        self._event_steps = [event.step for event in self.events]
        self.seek(0)

    def _checkpoint(self) -> None:
        previous = self._checkpoints[-1].pages if self._checkpoints else None
        system = self.system
        self._checkpoints.append(Checkpoint(system.steps, system.save(), system.machine.memory.checkpoint(previous)))
        if len(self._checkpoints) > MOST_CHECKPOINTS:
            del self._checkpoints[1:-1:2]
            self._spacing *= 2

    @property
    def position(self) -> int:
        """The step at which the cursor stands: so many steps have been done."""
        steps: int = self.system.steps
        return steps

    def seek(self, step: int) -> None:
        """Set the cursor to a step.

        Parameters
        ----------
        step : int
            0 (before the first step) to `length`.

        Raises
        ------
        OptionError
            The recording has no such step.
        """
        if type(step) is not int or not 0 <= step <= self.length:
            raise OptionError(f"step {step!r} is not in this recording: give an int from 0 to {self.length}")
        checkpoint = self._checkpoints[bisect_right([each.step for each in self._checkpoints], step) - 1]
        if not checkpoint.step <= self.position <= step:
            self.system.machine.memory.restore(checkpoint.pages)
            self.system.load(checkpoint.state)
        if self.position < step:
            self.system.advance(step - self.position)

    def step(self, count: int = 1) -> int:
        """Go forward, at most to the end; return the new position."""
        self.seek(min(self.length, self.position + count))
        return self.position

    def back(self, count: int = 1) -> int:
        """Go backward, at most to the start; return the new position."""
        self.seek(max(0, self.position - count))
        return self.position

    def next(self, kind: str | None = None) -> Event | None:
        """Go to the next event (of a kind, as `"trap"`) and return it; None, without moving, where there is none."""
        for event in self.events[bisect_right(self._event_steps, self.position) :]:
            if kind is None or event.kind == kind:
                self.seek(event.step)
                return event
        return None

    def previous(self, kind: str | None = None) -> Event | None:
        """Go to the previous event (of a kind) and return it; None, without moving, where there is none."""
        for event in reversed(self.events[: bisect_left(self._event_steps, self.position)]):
            if kind is None or event.kind == kind:
                self.seek(event.step)
                return event
        return None

    def events_at(self, step: int) -> list[Event]:
        """Return the events of one step."""
        return self.events[bisect_left(self._event_steps, step) : bisect_right(self._event_steps, step)]

    def frames(self, start: int, stop: int) -> Iterator[tuple[int, list[Event], Any]]:
        """Replay a part once, yielding `(step, events of that step, system)` after each step.

        The system is live: copy what is to be kept. The cursor ends at `stop`.

        Parameters
        ----------
        start, stop : int
            First and last step, both included; step 0 is the state before the first step.
        """
        self.seek(start)
        stop = min(stop, self.length)
        while True:
            position = self.position
            yield position, self.events_at(position), self.system
            if position >= stop:
                return
            if self.position != position:
                self.seek(position)
            self.system.advance(1)
