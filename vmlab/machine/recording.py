"""A run that can be sought: events in order, checkpoints, and replay between them.

Nothing is stored of single instructions. To reach a step, the nearest checkpoint before it is restored and the
machine runs from there: a run is deterministic, so it is the same run. What comes from outside, what someone types, is
noted with the step at which it arrived and typed again there.

A recording can be open: it goes on at its end (`extend`), one types at the cursor (`send`), and typing in the past
begins another history, which takes the place of what followed.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.checkpoints import GAP, Checkpoints
from vmlab.machine.event_log import EventLog, check_kind
from vmlab.machine.recordable import NotCopied, Recordable, check_guest
from vmlab.machine.search import find
from vmlab.machine.trace import Input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmlab.machine.checkpoints import Checkpoint
    from vmlab.machine.search import Found
    from vmlab.machine.trace import Event, Trace
    from vmlab.machine.when import Condition

__all__ = ["Recording"]

DEVICES = ("serial", "keyboard")


def check_count(count: int) -> int:
    """Return a number of steps, checked."""
    if type(count) is not int or count < 0:
        raise OptionError(
            f"a number of steps is an int, not negative, and not {count!r}: step() and back() go two ways"
        )
    return count


class Recording(NotCopied):
    r"""A run from its start to its end, with a cursor that goes anywhere in it.

    Parameters
    ----------
    system : Recordable
        A system, new or in the middle of its life: step 0 of the recording is what it is now. It is run at once, to its
        end or for `max_steps`, then the cursor is set to the start.
    max_steps : int
        Most steps to record now; more can follow by `extend`.

    Raises
    ------
    OptionError
        `max_steps` is not an int, or negative.

    Attributes
    ----------
    system : Recordable
        The system as it is at the cursor: look at it, do not run it.
    events : EventLog
        Everything that happened, without single instructions: a sequence of events in order.
    length : int
        Steps in all.

    Examples
    --------
    A live system: record a while, type, record on, go back and type something else.

    >>> import vmlab
    >>> recording = vmlab.record(vmlab.guests.load("echo"), steps=10_000)
    >>> recording.seek(recording.length)
    >>> recording.send("hello\n"), recording.extend(10_000), recording.system.guests[0].console
    (0, 68, 'hello\n')
    >>> typed = recording.previous("input")
    >>> recording.seek(typed.step - 1)
    >>> recording.send("help\n"), recording.extend(10_000), recording.system.guests[0].console
    (69, 58, 'help\n')
    """

    def __init__(self, system: Any, *, max_steps: int = 50_000_000) -> None:  # noqa: ANN401 - any Recordable, with its own attributes
        if not isinstance(system, Recordable):
            raise OptionError(f"a Recording is made of a system, by vmlab.record(...), not of {type(system).__name__}")
        if type(max_steps) is not int or max_steps < 0:
            raise OptionError(f"the number of steps to record is an int, not negative, and not {max_steps!r}")
        self.system: Any = system
        self._origin: int = system.steps
        self.events = EventLog(self._origin)
        self.length = 0
        self._inputs: list[Input] = []
        self._sure = True  # the system is what the recording says that it is at the cursor
        system.trace.detail = "none"
        self._checkpoints = Checkpoints(system)
        self._over: bool = system.finished
        self.extend(max_steps)
        self.seek(0)

    @property
    def position(self) -> int:
        """The step at which the cursor stands: so many steps have been done."""
        steps: int = self.system.steps
        return steps - self._origin

    @property
    def ended(self) -> bool:
        """True where the system has come to its end at the end of the recording, so that `extend` has nothing to add."""
        return self._over

    # -- recording on --------------------------------------------------------------------------------------------------

    def extend(self, steps: int) -> int:
        """Go to the end and record on.

        Parameters
        ----------
        steps : int
            Most steps to add.

        Returns
        -------
        int
            Steps added: fewer where the system has come to its end, 0 where it had before. The cursor stands at the
            new end.

        Raises
        ------
        OptionError
            Not an int, or negative.
        """
        check_count(steps)
        self.seek(self.length)
        system, checkpoints, start = self.system, self._checkpoints, self.length
        goal = system.steps + steps
        trace: Trace = system.trace
        trace.detail = "events"
        trace.log = self.events
        try:
            while not system.finished and system.steps < goal:
                system.advance(min(goal, checkpoints.due) - system.steps)
                if system.steps >= checkpoints.due or system.finished:
                    checkpoints.append()
        except BaseException:  # as Ctrl-C, in the middle of anything: what was recorded before still holds
            trace.log, trace.detail = None, "none"
            checkpoints.restore(len(checkpoints.items) - 1)
            self._advance(max(start, self.position))
            self.events.truncate(self.position)
            raise
        finally:
            trace.log, trace.detail = None, "none"
            self.length, self._over = self.position, system.finished
        return self.length - start

    def send(self, text: str | bytes, *, guest: int = 0, device: str = "serial") -> int:
        """Type at the cursor. What was recorded behind the cursor is dropped: another history begins here.

        Parameters
        ----------
        text : str or bytes
            What is typed; a str as UTF-8.
        guest : int
            Index of the guest.
        device : {"serial", "keyboard"}
            Where it arrives: at the serial port, or by keys of a US keyboard.

        Returns
        -------
        int
            Steps that were dropped: 0 at the end of the recording. Nothing runs yet: see `extend`.

        Raises
        ------
        OptionError
            No such guest or device, no text, the guest has ended and nothing wakes it; nothing has changed then.
        """
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        if not isinstance(data, bytes):
            raise OptionError(f"send() types a str or bytes, not {type(text).__name__}")
        guests = self.system.guests
        check_guest(guest, len(guests))
        if device not in DEVICES:
            raise OptionError(f"there is no device {device!r} to type at: choose one of {', '.join(DEVICES)}")
        self.settle()
        woken = self._type(data, guest, device)
        dropped = self.length - self.position
        step = self.position
        self._checkpoints.truncate(self.system.steps)
        self._checkpoints.append(pinned=woken)
        self.events.truncate(step, woken=guest if woken else None)
        del self._inputs[bisect_right(self._inputs, step, key=_step_of) :]
        event = Input(step, guests[guest].instructions, guest, device, data)
        self._inputs.append(event)
        self.events.append(replace(event, step=step + self._origin))
        self.length, self._over = self.position, self.system.finished
        return dropped

    def _type(self, data: bytes, index: int, device: str) -> bool:
        """Type at a guest; say whether that woke it from a halt for good."""
        guest = self.system.guests[index]
        outcome = guest.outcome
        if outcome is None:
            self.system.send(data, index, device)
            return False
        before = self.system.save()
        if outcome == "halt":
            self.system.send(data, index, device)
        if guest.outcome is not None:
            self.system.load(before)
            raise OptionError(f"the guest has ended ({outcome}) and does not listen: seek() to a step before its end")
        return True

    # -- the cursor ----------------------------------------------------------------------------------------------------

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
        goal = step + self._origin
        checkpoints, system = self._checkpoints, self.system
        place = checkpoints.index(goal)
        if not self._sure or not checkpoints.items[place].step <= system.steps <= goal:
            self._sure = False
            checkpoints.restore(place)
        self._sure = False  # until it is there: Ctrl-C may come in the middle of anything
        while system.steps < goal:
            self._advance(checkpoints.approach(goal) - self._origin)
            if checkpoints.far(GAP if system.steps < goal else 4 * GAP):
                checkpoints.take()
        self._sure = True

    def settle(self) -> None:
        """Make sure that the system is what the recording says: after Ctrl-C in the middle of a seek it may not be."""
        if not self._sure:
            self.seek(min(self.position, self.length))

    def _advance(self, step: int) -> None:
        """Run to a step that is recorded, and type what was typed on the way."""
        inputs = self._inputs
        coming = bisect_right(inputs, self.position, key=_step_of)
        while self.position < step:
            stop = min(step, inputs[coming].step) if coming < len(inputs) else step
            self.system.advance(stop - self.position)
            while coming < len(inputs) and inputs[coming].step == self.position:
                event = inputs[coming]
                self.system.send(event.data, event.guest, event.device)
                coming += 1

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
        if kind is not None:
            check_kind(kind)
        return self._go(self.events.after(self.position, kind))

    def previous(self, kind: str | None = None) -> Event | None:
        """Go to the previous event (of a kind) and return it; None, without moving, where there is none."""
        if kind is not None:
            check_kind(kind)
        return self._go(self.events.before(self.position, kind))

    def _go(self, event: Event | None) -> Event | None:
        if event is not None:
            self.seek(event.step)
        return event

    def find(
        self, condition: Condition | Callable[[Any], object], *, backwards: bool = False, guest: int = 0
    ) -> Found | None:
        """Go to where a condition comes about, forwards or backwards from the cursor, and say where that is.

        Parameters
        ----------
        condition : Condition or callable
            As `vmlab.when.register("ebx", 5)`, `vmlab.when.writes("ticks")`, or a function of the system: see `vmlab.when`.
        backwards : bool
            Search for the last time before the cursor instead of the next time behind it.
        guest : int
            Index of the guest.

        Returns
        -------
        Found or None
            None, without moving, where there is none.

        Raises
        ------
        OptionError
            No condition, guest, processor, symbol or address.

        Examples
        --------
        >>> import vmlab
        >>> recording = vmlab.record(vmlab.guests.load("timer"))
        >>> found = recording.find(vmlab.when.writes("ticks", value=3))
        >>> print(found.describe())
        step 84, 0x100041 inc dword [0x100054]: a write of 0x3 to the 4 bytes at ticks: 0x2 → 0x3
        >>> recording.find(vmlab.when.executes("tick"), backwards=True).step < found.step
        True
        """
        return find(self, condition, backwards=backwards, guest=guest)

    # -- for searches ---------------------------------------------------------------------------------------------------

    def stretch(self, step: int) -> tuple[int, Checkpoint | None]:
        """Return the step of the next checkpoint behind a step, and it; at most the end, with None."""
        items = self._checkpoints.items
        place = self._checkpoints.index(step + self._origin) + 1
        if place == len(items):
            return self.length, None
        return items[place].step - self._origin, items[place]

    def checkpoint_before(self, step: int) -> int:
        """Return the step of the last checkpoint before a step."""
        return self._checkpoints.items[self._checkpoints.index(step - 1 + self._origin)].step - self._origin

    def replay(self, step: int) -> None:
        """Run on to a step that is recorded, though a checkpoint there were nearer: for who watches the steps themselves."""
        self._advance(min(step, self.length))
        place = self._checkpoints.index(self.system.steps)
        if self._checkpoints.items[place].step == self.system.steps:
            self._sure = False  # what is recorded here can be more than what a run leads to: see `Checkpoint.pinned`

    def events_at(self, step: int) -> list[Event]:
        """Return the events of one step; none where the recording has no such step."""
        if type(step) is not int:
            raise OptionError(f"a step is an int from 0 to {self.length}, not {step!r}")
        return self.events.at(step)

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
        position = self.position
        while True:
            self.seek(position)
            yield position, self.events_at(position), self.system
            if position >= stop:
                return
            position += 1


def _step_of(event: Input) -> int:
    return event.step
