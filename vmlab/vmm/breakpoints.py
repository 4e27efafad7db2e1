"""Breakpoints: what a debugger stops at, on the way forwards and backwards.

Each kind answers one question about an instant: is the next instruction at this address, did such an event happen in
the step that led here, has this condition just become true, has this memory just changed. Events are known from the
recording; the others are found by replaying it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.errors import OptionError
from vmlab.machine.event_log import RECORDED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmlab.machine.recording import Recording
    from vmlab.machine.trace import Event
    from vmlab.vmm.condition import Condition
    from vmlab.vmm.viewpoint import Viewpoint

__all__ = ["AtAddress", "Breakpoint", "OnEvent", "OnWrite", "WhenTrue", "check_event"]


class Breakpoint(ABC):
    """Something to stop at.

    Attributes
    ----------
    number : int
        By which it is removed.
    text : str
        What it is, in words.
    """

    kind: ClassVar[str]

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        self.text = text

    def __repr__(self) -> str:
        return f"{self.number}: {self.text}"


class Replayed(Breakpoint):
    """A breakpoint that is found by looking at each instant."""

    @abstractmethod
    def look(self, at: Viewpoint) -> object:
        """Return what matters of an instant."""

    @abstractmethod
    def hit(self, before: Any, now: Any) -> bool:  # noqa: ANN401 - what `look` gave of two instants in a row
        """Whether to stop at the second of two instants."""


class AtAddress(Replayed):
    """Stop where the guest's next instruction is at an address."""

    kind = "address"

    def __init__(self, number: int, text: str, address: int) -> None:
        super().__init__(number, text)
        self.address = address

    def look(self, at: Viewpoint) -> bool:
        return at.address == self.address and at.runs

    def hit(self, before: bool, now: bool) -> bool:
        return now


class WhenTrue(Replayed):
    """Stop where a condition becomes true that was not."""

    kind = "condition"

    def __init__(self, number: int, condition: Condition) -> None:
        super().__init__(number, f"when {condition.text}")
        self.condition = condition

    def look(self, at: Viewpoint) -> bool:
        return self.condition.holds(at)

    def hit(self, before: bool, now: bool) -> bool:
        return now and not before


class OnWrite(Replayed):
    """Stop after memory has changed."""

    kind = "write"

    def __init__(self, number: int, text: str, address: int, size: int) -> None:
        super().__init__(number, text)
        self.address, self.size = address, size

    def look(self, at: Viewpoint) -> bytes:
        return at.read(self.address, self.size)

    def hit(self, before: bytes, now: bytes) -> bool:
        return before != now


class OnEvent(Breakpoint):
    """Stop after an event of a kind, perhaps with some values."""

    kind = "event"

    def __init__(self, number: int, event: str, values: dict[str, object]) -> None:
        wanted = "".join(
            f" {name}={value:#x}" if type(value) is int else f" {name}={value}" for name, value in values.items()
        )
        super().__init__(number, f"on {event}{wanted}")
        self.event, self.values = event, values

    def matches(self, event: Event) -> bool:
        """Whether an event of the kind has the values."""
        return all(getattr(event, name) == value for name, value in self.values.items())

    def find(self, recording: Recording, step: int, *, forward: bool) -> Event | None:
        """Return the next such event after a step, or the last one before it."""
        log = recording.events
        event = log.after(step, self.event) if forward else log.before(step, self.event)
        while event is not None:
            found = self._pick(log.at(event.step), forward=forward)
            if found is not None:
                return found
            event = log.after(event.step, self.event) if forward else log.before(event.step, self.event)
        return None

    def _pick(self, events: Iterable[Event], *, forward: bool) -> Event | None:
        matching = [each for each in events if each.kind == self.event and self.matches(each)]
        return matching[0 if forward else -1] if matching else None


def check_event(kind: object, values: dict[str, object], fields: dict[str, tuple[str, ...]]) -> None:
    """Refuse a kind of event that is not recorded, or a value that such events have not."""
    if kind not in RECORDED:
        raise OptionError(f"no events of kind {kind!r} are recorded: choose one of {', '.join(RECORDED)}")
    for name in values:
        if name not in fields[str(kind)]:
            raise OptionError(f"a {kind} has no {name!r}: choose from {', '.join(fields[str(kind)])}")
