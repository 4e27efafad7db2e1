"""The divergence finder: runs two techniques to the first instruction after which their guest sees something different.

Two runs of the same guest go in lockstep on virtual time (`vmlab.vmm.lockstep`) and meet every so many instructions. Where
they differ at a meeting, both go back, and step through the instructions since the meeting before.

On a processor that fulfils Popek and Goldberg's condition there would be nothing to find under trap-and-emulate.

Simplified: a difference that has come and gone between two meetings is not found (`every=1` finds it, slowly), nor is one
in devices, as long as the guest has not looked at them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.instruction import Privilege
from vmlab.isa.x86.registers import describe_flags
from vmlab.machine.trace import Inject, Trap
from vmlab.vmm.divergence import Difference, Divergence, Place
from vmlab.vmm.listing import read_code
from vmlab.vmm.lockstep import Lockstep, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.trace import Event
    from vmlab.vmm.system import System

__all__ = ["EVERY", "find_divergence"]

EVERY = 1_000
"""Instructions from one meeting to the next."""
ANCHORS = 20_000
"""Instructions from one anchor to the next: so much is run again where something was found."""
BEFORE = 6
"""Instructions that are shown before the one to blame."""
MOST = 8
"""Words of memory that are listed."""
LONGEST = 15
WORD = 4
FLAGS = ("eflags", "rflags")


class _Watch:
    """What the two sides do from one instruction to the next, step by step."""

    def __init__(self, pair: Lockstep) -> None:
        self.places: tuple[list[Place], list[Place]] = ([], [])
        self.events: tuple[list[str], list[str]] = ([], [])
        self._pair = pair
        for index, side in enumerate(pair.sides):
            side.look = self._looker(self.places[index])
            side.system.trace.observers.append(self._observer(side.system, self.events[index]))
            side.system.trace.detail = "events"

    @staticmethod
    def _looker(places: list[Place]) -> Callable[[Side], None]:
        return lambda side: places.append(_place(side))

    @staticmethod
    def _observer(system: System, names: list[str]) -> Callable[[Event], None]:
        def observe(event: Event) -> None:
            if isinstance(event, Inject) or (isinstance(event, Trap) and not system.machine.in_host):
                names.append(event.name)

        return observe

    def clear(self) -> None:
        """Begin at the next instruction."""
        for each in (*self.places, *self.events):
            each.clear()

    def end(self) -> None:
        """Let both run freely again."""
        for side in self._pair.sides:
            side.look = None
            side.system.trace.observers.pop()
            side.system.trace.detail = "none"


def find_divergence(
    systems: Sequence[System], names: tuple[str, str], *, every: int = EVERY, anchors: int = ANCHORS
) -> Divergence | None:
    """Run two systems in lockstep to where their guest finds a difference.

    Parameters
    ----------
    systems : sequence of System
        Two of them, newly built, of the same guest.
    names : tuple of str
        What to call them.
    every : int
        Instructions from one meeting to the next.
    anchors : int
        Instructions from one anchor to the next.

    Returns
    -------
    Divergence or None
        None where the guest found none up to its end.

    Raises
    ------
    OptionError
        `every` is no positive int.
    """
    if type(every) is not int or every < 1:
        raise OptionError(f"every= is a number of instructions, an int from 1 on, not {every!r}")
    pair = Lockstep(systems)
    first = pair.sides[0]
    good = anchored = first.time
    if pair.differ():  # the guest is not given the same computer
        at = _place(first), _place(pair.sides[1])
        return Divergence(names, good, at[0], at, (), ((), ()), tuple(_differences(pair, None)), (), pair.sides)
    while not pair.ended:
        pair.meet(good + every)
        if pair.differ():
            return _locate(pair, names, (max(anchored, good - BEFORE), anchored))
        good = first.time
        if good - anchored >= anchors:
            pair.anchor()
            anchored = good
    return None


def _locate(pair: Lockstep, names: tuple[str, str], starts: Iterable[int]) -> Divergence:
    """Go back, and step through the instructions from an instant at which nothing differs, of some the first."""
    first = pair.sides[0]
    for start in starts:
        pair.restore()
        pair.meet(start)
        if not pair.differ():  # a difference that healed by the next meeting may be there
            break
    else:
        raise AssertionError("a run that begins anew is the same run")
    watch = _Watch(pair)
    before: deque[Place] = deque(maxlen=BEFORE)
    try:
        while True:
            time = first.time
            pair.meet(time + 1)
            if pair.differ():
                break
            assert not pair.ended, "what differed when it was run at once differs step by step"
            before.append(watch.places[0][-1])
            watch.clear()
    finally:
        watch.end()
    places, others = watch.places
    if first.ended and not places:  # it did nothing more, and the other did
        places.append(others[0])
    place = places[0]
    if first.time > time + 1:  # one side can stop between some instructions alone: the first that may be to blame
        place = _to_blame(places)
    return Divergence(
        names=names,
        instructions=time,
        place=place,
        at=(_last(places, place), _last(others or places, place)),
        executed=(places[-1], (others or places)[-1]),
        events=(tuple(watch.events[0]), tuple(watch.events[1])),
        differences=tuple(_differences(pair, place.instruction)),
        before=tuple(before),
        _sides=pair.sides,
    )


def _last(places: Sequence[Place], place: Place) -> Place:
    """Return where a side came upon an instruction last, just before it executed it; or else its last place."""
    return next((each for each in reversed(places) if each.address == place.address), places[-1])


def _to_blame(places: Sequence[Place]) -> Place:
    """Return of several instructions the first that is sensitive and unprivileged, or privileged, or just the first."""
    for wanted in (Privilege.SENSITIVE, Privilege.PRIVILEGED):
        for place in places:
            if place.instruction is not None and place.instruction.privilege is wanted:
                return place
    return places[0]


def _place(side: Side) -> Place:
    """Return the instruction that a side is about to execute."""
    cpu = side.cpu
    code = read_code(side.guest, cpu.linear_ip, LONGEST, cpu)
    return Place(cpu.linear_ip, code, cpu.fetch_bits, side.system.steps)


def _differences(pair: Lockstep, instruction: Instruction | None) -> list[Difference]:
    """Return what differs now: registers, how it ended, what was sent, words of memory."""
    first, other = pair.sides
    has_flags = instruction is not None and instruction.row.group == "flags"

    def note(what: str, one: object, two: object) -> str:
        is_flags = what.endswith(FLAGS) or (has_flags and what.startswith("["))
        if not is_flags or type(one) is not int or type(two) is not int:
            return ""
        return " ".join(flag.partition("=")[0] for flag in describe_flags(one ^ two).split())

    seen, others = first.seen(), other.seen()
    values = [(name, value, others.get(name)) for name, value in seen.items() if value != others.get(name)]
    if first.time != other.time:
        values.append(("instructions", first.time, other.time))
    if first.sent() != other.sent():
        values.append(("console", first.sent().decode("latin-1"), other.sent().decode("latin-1")))
    return [Difference(what, one, two, note(what, one, two)) for what, one, two in (*values, *_words(pair))]


def _words(pair: Lockstep) -> list[tuple[str, int, int]]:
    """Return the first words of memory that differ."""
    first, other = pair.sides
    found: list[tuple[str, int, int]] = []
    for number in pair.all_written():
        left, right = first.page(number), other.page(number)
        if left == right:
            continue
        for offset in range(0, len(left), WORD):
            one, two = (int.from_bytes(page[offset : offset + WORD], "little") for page in (left, right))
            if one != two:
                found.append((f"[{number * len(left) + offset:#x}]", one, two))
            if len(found) == MOST:
                return found
    return found
