"""The events of a recording, kept small: packed by the thousand, unpacked where someone looks.

A long run has millions of events, and an event as an object takes hundreds of bytes. Here they are rows of numbers and
words, compressed a chunk at a time to a few bytes each; a chunk says which steps and which kinds it holds, so that a
search passes over most of them.
"""

from __future__ import annotations

import marshal
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, overload

from vmlab.errors import OptionError
from vmlab.machine.trace import End, Event, InstructionRetired

__all__ = ["RECORDED", "EventLog", "check_kind"]

CHUNK = 2_000
UNPACKED = 8
"""Chunks that are kept unpacked, the last ones looked at."""

# A dataclass with slots is made twice; the second one of each is it.
_CLASSES = [
    each
    for kind, each in {each.kind: each for each in Event.__subclasses__()}.items()
    if kind != InstructionRetired.kind
]
_NUMBERS = {kind: number for number, kind in enumerate(_CLASSES)}
_NAMES = [[each.name for each in fields(kind)] for kind in _CLASSES]
_VALUES = [attrgetter(*names) for names in _NAMES]
RECORDED = {kind.kind: tuple(_NAMES[number]) for number, kind in enumerate(_CLASSES)}
"""Kinds of events that are recorded, all but single instructions, and the names of their fields."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Events next to each other: the index of the first one, the last step, how many of each kind, all of them packed."""

    start: int
    last: int
    kinds: Counter[str]
    data: bytes


def _events(values: list[Any]) -> Iterator[Event]:
    """Yield the events of a flat list: of each the number of its class, then the values of its fields."""
    place = 0
    while place < len(values):
        names = _NAMES[values[place]]
        end = place + 1 + len(names)
        yield _CLASSES[values[place]](**dict(zip(names, values[place + 1 : end], strict=True)))
        place = end


def check_kind(kind: object) -> None:
    """Refuse a kind of events that is not recorded."""
    if not isinstance(kind, str) or kind not in RECORDED:
        hint = "; step() goes on by one instruction" if kind == InstructionRetired.kind else ""
        raise OptionError(f"no events of kind {kind!r} are recorded: choose one of {', '.join(RECORDED)}{hint}")


class EventLog(Sequence[Event]):
    """Events in the order in which they happened.

    Parameters
    ----------
    origin : int
        Taken off from the steps of what is added: the step at which the recording began.

    Examples
    --------
    >>> from vmlab.machine.trace import End, Resume
    >>> log = EventLog()
    >>> for step in range(10_000):
    ...     log.append(Resume(step, step, 0, "user"))
    >>> len(log), log[-1].step, log.after(5_000).step, log.after(0, "end")
    (10000, 9999, 5001, None)
    """

    def __init__(self, origin: int = 0) -> None:
        self._origin = origin
        self._chunks: list[_Chunk] = []
        # What is not packed yet is one flat list (see `_events`): many small objects would keep Python's collector busy.
        self._tail: list[Any] = []
        self._numbers: list[int] = []
        self._made: list[Event] = []  # of the tail, if someone has looked
        self._unpacked: OrderedDict[int, list[Event]] = OrderedDict()

    def append(self, event: Event) -> None:
        """Add an event; its step is not below that of the last one."""
        kind = type(event)
        self.note(kind, _VALUES[_NUMBERS[kind]](event))

    def note(self, kind: type[Event], values: tuple[Any, ...]) -> None:
        """Add an event that nobody has made yet: its class, and the values of its fields in their order."""
        if self._origin:
            values = (values[0] - self._origin, *values[1:])
        number = _NUMBERS[kind]
        self._tail.append(number)
        self._tail += values
        self._numbers.append(number)
        if len(self._numbers) >= CHUNK:
            self._seal()

    def _seal(self) -> None:
        """Pack the tail."""
        kinds = Counter({_CLASSES[number].kind: count for number, count in Counter(self._numbers).items()})
        last = self._tail[-len(_NAMES[self._numbers[-1]])]
        data = zlib.compress(marshal.dumps(self._tail), 1)
        self._chunks.append(_Chunk(self._sealed, last, kinds, data))
        self._tail, self._numbers, self._made = [], [], []

    @property
    def _sealed(self) -> int:
        """How many events are packed."""
        return self._chunks[-1].start + self._chunks[-1].kinds.total() if self._chunks else 0

    def _part(self, number: int) -> list[Event]:
        """Return the events of a chunk; the one after the last chunk is what is not packed yet."""
        if number == len(self._chunks):
            if len(self._made) != len(self._numbers):
                self._made = [*_events(self._tail)]
            return self._made
        events = self._unpacked.get(number)
        if events is None:
            values = marshal.loads(zlib.decompress(self._chunks[number].data))  # noqa: S302 - our own, and never left here
            events = self._unpacked[number] = [*_events(values)]
            if len(self._unpacked) > UNPACKED:
                self._unpacked.popitem(last=False)
        else:
            self._unpacked.move_to_end(number)
        return events

    def __len__(self) -> int:
        return self._sealed + len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"event {index} of {len(self)}")
        if place >= self._sealed:
            return self._part(len(self._chunks))[place - self._sealed]
        number = bisect_right(self._chunks, place, key=lambda chunk: chunk.start) - 1
        return self._part(number)[place - self._chunks[number].start]

    def __iter__(self) -> Iterator[Event]:
        for number in range(len(self._chunks) + 1):
            yield from list(self._part(number))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.count().most_common())
        return f"<EventLog of {len(self):,} events{': ' if kinds else ''}{kinds}>"

    def count(self) -> Counter[str]:  # type: ignore[override]  # a list's count() of one event is of no use here
        """Return how many events there are of each kind, without unpacking them."""
        total: Counter[str] = Counter(_CLASSES[number].kind for number in self._numbers)
        for chunk in self._chunks:
            total.update(chunk.kinds)
        return total

    # -- by step -------------------------------------------------------------------------------------------------------

    def _holds(self, number: int, kind: str | None) -> bool:
        return kind is None or number == len(self._chunks) or kind in self._chunks[number].kinds

    def _first_with(self, step: int) -> int:
        """Return the first part that can hold events of a step."""
        return bisect_left(self._chunks, step, key=lambda chunk: chunk.last)

    def after(self, step: int, kind: str | None = None, fits: Callable[[Event], bool] = bool) -> Event | None:
        """Return the first event (of a kind, that fits) behind a step, or None."""
        for number in range(self._first_with(step + 1), len(self._chunks) + 1):
            if self._holds(number, kind):
                events = self._part(number)
                for event in events[bisect_right(events, step, key=_step) :]:
                    if (kind is None or event.kind == kind) and fits(event):
                        return event
        return None

    def before(self, step: int, kind: str | None = None, fits: Callable[[Event], bool] = bool) -> Event | None:
        """Return the last event (of a kind, that fits) before a step, or None."""
        for number in range(self._first_with(step), -1, -1):
            if self._holds(number, kind):
                events = self._part(number)
                for event in reversed(events[: bisect_left(events, step, key=_step)]):
                    if (kind is None or event.kind == kind) and fits(event):
                        return event
        return None

    def at(self, step: int) -> list[Event]:
        """Return the events of one step."""
        found: list[Event] = []
        for number in range(self._first_with(step), len(self._chunks) + 1):
            events = self._part(number)
            found += events[bisect_left(events, step, key=_step) : bisect_right(events, step, key=_step)]
            if number < len(self._chunks) and self._chunks[number].last > step:
                break
        return found

    def truncate(self, step: int, woken: int | None = None) -> None:
        """Drop the events behind a step, and at it the end of a guest that goes on after all."""
        number = self._first_with(step if woken is not None else step + 1)
        kept = [
            event
            for each in range(number, len(self._chunks) + 1)
            for event in self._part(each)
            if event.step <= step and not (event.step == step and isinstance(event, End) and event.guest == woken)
        ]
        del self._chunks[number:]
        for each in [each for each in self._unpacked if each >= number]:
            del self._unpacked[each]
        origin, self._origin = self._origin, 0
        self._tail, self._numbers, self._made = [], [], []
        for event in kept:
            self.append(event)
        self._origin = origin


def _step(event: Any) -> int:  # noqa: ANN401 - a key function
    step: int = event.step
    return step
