"""A run that can be sought: events in order, checkpoints, and replay between them.

Nothing is stored of single instructions. To reach a step, the nearest checkpoint before it is restored and the
machine runs from there: a run is deterministic, so it is the same run. Checkpoints share the pages of memory that did
not change between them. Their spacing doubles when there are many; on the way through such a long stretch, more are
taken around the cursor, so that a step back costs no more in a long run than in a short one, nor late than early.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vmlab.errors import OptionError
from vmlab.machine.trace import KINDS, InstructionRetired

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.machine.machine import Machine
    from vmlab.machine.trace import Event, Trace

__all__ = ["Recordable", "Recording"]

SPACING = 2_000
MOST_CHECKPOINTS = 400
RECORDED = tuple(kind for kind in KINDS if kind != InstructionRetired.kind)


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


def last_before(checkpoints: list[Checkpoint], step: int) -> Checkpoint:
    """Return the last checkpoint that is not after a step; the list is in order."""
    return checkpoints[bisect_right(checkpoints, step, key=lambda each: each.step) - 1]


def check_count(count: int) -> int:
    """Return a number of steps, checked."""
    if type(count) is not int or count < 0:
        raise OptionError(
            f"a number of steps is an int, not negative, and not {count!r}: step() and back() go two ways"
        )
    return count


class Recording:
    """A run from its start to its end, with a cursor that goes anywhere in it.

    Parameters
    ----------
    system : Recordable
        A system that has not run yet. It is run to its end at once, then the cursor is set to the start.
    max_steps : int
        Most steps to record.

    Raises
    ------
    OptionError
        The system has run already, or `max_steps` is not a positive int.

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
        if system.steps or system.finished:
            raise OptionError("a recording begins before the first step: build the system anew")
        self.system = system
        self.events: list[Event] = []
        self._checkpoints: list[Checkpoint] = []
        self._near: list[Checkpoint] = []
        self._spacing = SPACING
        trace: Trace = system.trace
        trace.detail = "events"
        record = self.events.append
        trace.observers.append(record)
        self._checkpoints.append(self._checkpoint(None))
        while not system.finished and system.steps < max_steps:
            system.advance(min(self._spacing, max_steps - system.steps))
            self._checkpoints.append(self._checkpoint(self._checkpoints[-1]))
            if len(self._checkpoints) > MOST_CHECKPOINTS:
                del self._checkpoints[1:-1:2]
                self._spacing *= 2
        trace.observers.remove(record)
        trace.detail = "none"
        self.length: int = system.steps
        kinds: dict[str | None, list[Event]] = {None: self.events}
        for event in self.events:
            kinds.setdefault(event.kind, []).append(event)
        self._kinds = {kind: (events, [event.step for event in events]) for kind, events in kinds.items()}
        self.seek(0)

    def _checkpoint(self, previous: Checkpoint | None) -> Checkpoint:
        system = self.system
        pages = system.machine.memory.checkpoint(previous.pages if previous else None)
        return Checkpoint(system.steps, system.save(), pages)

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
        coarse = last_before(self._checkpoints, step)
        if not (self._near and self._near[0] is coarse):
            self._near = [coarse]
        checkpoint = last_before(self._near, step)
        if not checkpoint.step <= self.position <= step:
            self.system.machine.memory.restore(checkpoint.pages)
            self.system.load(checkpoint.state)
        while self.position < step:
            self.system.advance(min(step - self.position, SPACING - self.position % SPACING))
            if not self.position % SPACING and self.position > self._near[-1].step:
                self._near.append(self._checkpoint(self._near[-1]))

    def step(self, count: int = 1) -> int:
        """Go forward, at most to the end; return the new position. OptionError for a negative count."""
        self.seek(min(self.length, self.position + check_count(count)))
        return self.position

    def back(self, count: int = 1) -> int:
        """Go backward, at most to the start; return the new position. OptionError for a negative count."""
        self.seek(max(0, self.position - check_count(count)))
        return self.position

    def next(self, kind: str | None = None) -> Event | None:
        """Go to the next event (of a kind, as `"trap"`) and return it; None, without moving, where there is none."""
        events, steps = self._of_kind(kind)
        return self._go(events, bisect_right(steps, self.position))

    def previous(self, kind: str | None = None) -> Event | None:
        """Go to the previous event (of a kind) and return it; None, without moving, where there is none."""
        events, steps = self._of_kind(kind)
        return self._go(events, bisect_left(steps, self.position) - 1)

    def _of_kind(self, kind: str | None) -> tuple[list[Event], list[int]]:
        """Return the events of a kind and their steps; OptionError where there is no such kind."""
        if kind is not None and kind not in RECORDED:
            hint = "; step() goes on by one instruction" if kind == InstructionRetired.kind else ""
            raise OptionError(f"no events of kind {kind!r} are recorded: choose one of {', '.join(RECORDED)}{hint}")
        return self._kinds.get(kind, ([], []))

    def _go(self, events: list[Event], index: int) -> Event | None:
        if not 0 <= index < len(events):
            return None
        self.seek(events[index].step)
        return events[index]

    def events_at(self, step: int) -> list[Event]:
        """Return the events of one step."""
        events, steps = self._kinds[None]
        return events[bisect_left(steps, step) : bisect_right(steps, step)]

    def frames(self, start: int, stop: int) -> Iterator[tuple[int, list[Event], Any]]:
        """Replay a part once, yielding `(step, events of that step, system)` after each step.

        The system is live: copy what is to be kept. The cursor ends at `stop`.

        Parameters
        ----------
        start, stop : int
            First and last step, both included; step 0 is the state before the first step. A `stop` beyond the end
            is the end.

        Raises
        ------
        OptionError
            The recording has no step `start`, or `stop` lies before it.
        """
        if type(stop) is not int or type(start) is not int or stop < start:
            raise OptionError(f"frames from {start!r} to {stop!r}: give two ints, the second not below the first")
        self.seek(start)
        return self._replay(min(stop, self.length))

    def _replay(self, stop: int) -> Iterator[tuple[int, list[Event], Any]]:
        while True:
            position = self.position
            yield position, self.events_at(position), self.system
            if position >= stop:
                return
            if self.position != position:
                self.seek(position)
            self.system.advance(1)
