"""One event followed through the layers: who has control, hop by hop, and what each costs.

A system runs step by step until a guest's program makes a system call, touches a page that is not there, reads the disk, or is
interrupted by its timer; from there until the program goes on, the part that has control is looked at after each step. A *leg* is
the time in which it stays the same; its cycles are the difference of the system's cycles. What host software does within one step
it tells itself (`vmlab.machine.trace.Hop`).

Nothing here knows how a system is organized: that is seen from where control is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmlab.errors import OptionError, VmlabError
from vmlab.machine.trace import Emulate, Exit, Hop, Hypercall, Inject, NestedFill, PortAccess, ShadowFill, Trap
from vmlab.vmm.viewpoint import Viewpoint
from vmlab.vmm.xen.domain import Domain
from vmlab.vmm.xen.handlers import UPCALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vmlab.machine.trace import Event
    from vmlab.vmm.system import System

__all__ = ["DISK_READ", "EVENTS", "PAGE_FAULT", "SYSTEM_CALL", "TIMER", "Journey", "Leg", "follow_guest"]

SYSTEM_CALL, PAGE_FAULT, TIMER, DISK_READ = "system call", "page fault", "timer interrupt", "disk read"
EVENTS = (SYSTEM_CALL, PAGE_FAULT, TIMER, DISK_READ)
"""What can be followed."""

CALL_VECTOR, PAGE_FAULT_VECTOR = 0x80, 14
NUMBERS = {SYSTEM_CALL: 3, DISK_READ: 6}
"""System calls of the guest `workload`: GETPID, READ."""
CALLS = {SYSTEM_CALL: "INT 80h: a system call", DISK_READ: "INT 80h: a system call"}
SILENT = {"guest": "runs its own code", "host": "passes it on"}
"""What is said of a leg in which nothing was traced, by the beginning of its part's name."""
LONGEST = 500_000
LONGEST_SEQUENCE = 6
BEFORE, SHORTLY = 2_000, 300
DRIVE_COMMAND = 0x1F7
EVENT = -1  # not a vector: the handler that a ported guest has for events
USER = 3


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch in which control stays where it is.

    Attributes
    ----------
    part : str
        Who has control: a name of the layer graph.
    what : str
        What happens, in a few words.
    cycles : int
        Of the host's processors.
    times : int
        How often, where a pair of legs repeats.
    """

    part: str
    what: str
    cycles: int
    times: int = 1


@dataclass(frozen=True, slots=True, repr=False)
class Journey:
    """An event's way.

    Attributes
    ----------
    event : str
        One of `EVENTS`.
    legs : tuple of Leg
        In their order; the first and the last are in the program, or where the event began.
    """

    event: str
    legs: tuple[Leg, ...]

    @property
    def cycles(self) -> int:
        """What it costs in all."""
        return sum(leg.cycles * leg.times for leg in self.legs)

    @property
    def hops(self) -> int:
        """How often control or a request goes from one part to another."""
        return sum(leg.times for leg in self.legs) - 1

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts on the way, in the order of their first appearance."""
        return tuple(dict.fromkeys(leg.part for leg in self.legs))

    def rows(self) -> list[dict[str, object]]:
        """Return the legs as rows of a table."""
        return [{"part": leg.part, "what": leg.what, "cycles": leg.cycles, "times": leg.times} for leg in self.legs]

    def describe(self) -> str:
        """Say the way in words, a leg a line."""
        lines = [f"{self.event}: {self.hops} hops, {self.cycles:,} cycles"]
        for leg in self.legs:
            times = f" × {leg.times}" if leg.times > 1 else ""
            lines.append(f"{leg.cycles:>10,}{times:<6} {leg.part}: {leg.what}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


class _Watch:
    """A system that is being followed."""

    def __init__(self, system: System, guest: int, numbers: Mapping[str, int]) -> None:
        self.system, self.guest, self.numbers = system, guest, numbers
        self.view = Viewpoint(system, guest)
        self.events: list[Event] = []
        self.handlers: dict[int, int] = {}

    @property
    def in_user(self) -> bool:
        """True where the guest's program is about to execute an instruction."""
        system = self.system
        if system.in_vmm or system.current != self.guest or not self.view.runs:
            return False
        return system.guest_level == USER

    @property
    def in_kernel(self) -> bool:
        """True where an instruction of its kernel is next; not of a hypervisor that it has brought along."""
        system = self.system
        if not self.view.runs or not system.exact or system.guest_level == USER:
            return False
        return not system.in_control.endswith("/vmm")

    def handler(self, vector: int) -> int:
        """Return where the guest's own table sends a vector; a ported guest has told its hypervisor."""
        guest = self.system.guests[self.guest]
        if isinstance(guest, Domain):
            return guest.event_handler if vector == EVENT else guest.traps.get(vector, (0, 0))[1]
        if vector not in self.handlers:
            base = self.system.cpu_state(self.guest).idtr_base
            gate = self.view.read(base + 8 * vector, 8)
            self.handlers[vector] = int.from_bytes(gate[:2] + gate[6:], "little")
        return self.handlers[vector]


def follow_guest(
    build: Callable[[], System], event: str, guest: int = 0, numbers: Mapping[str, int] = NUMBERS
) -> Journey:
    """Run a system until an event of a guest's has gone its way.

    Parameters
    ----------
    build : callable
        Returns the system, at its start and the same each time. It is run twice, fast to where the event is near, and then step
        by step.
    event : str
        One of `EVENTS`.
    guest : int
        Whose.
    numbers : mapping
        What the system calls have in EAX: `"system call"`, for the cheapest one, and `"disk read"`.

    Raises
    ------
    OptionError
        No such event.
    VmlabError
        The guest has ended, or has run for very long, without it.
    """
    if event not in EVENTS:
        raise OptionError(f"there is no event {event!r} to follow: choose one of {', '.join(EVENTS)}")
    near = _near(build(), event, guest)
    system = build()
    system.advance(near)
    watch = _Watch(system, guest, numbers)
    for machine in system.computers:
        machine.engine = None  # single steps are the interpreter's
    system.trace.detail = "events"
    system.trace.observers.append(watch.events.append)
    first, *others = _legs(watch, event)
    first = replace(first, what=first.what or CALLS.get(event, ""))
    said = [leg if leg.what else replace(leg, what=SILENT.get(leg.part.partition("/")[0][:5], "")) for leg in others]
    return Journey(event, _compressed([first, *said]))


def _near(system: System, event: str, guest: int) -> int:
    """Return a step before the first event of a kind, as near as the trace tells; 0 where it tells nothing."""
    found: list[int] = []

    def observe(seen: Event) -> None:
        if seen.guest != guest:
            return
        if isinstance(seen, PortAccess):
            if event == DISK_READ and (seen.port, seen.write) == (DRIVE_COMMAND, True):
                found.append(seen.step)
        elif isinstance(seen, (Trap, Inject)) and event != DISK_READ:
            base = system.guests[guest].platform.pic.master.base
            timer = UPCALL if isinstance(system.guests[guest], Domain) else base
            if seen.vector == (timer if event == TIMER else PAGE_FAULT_VECTOR):
                found.append(seen.step)

    system.trace.detail = "events"
    system.trace.observers.append(observe)
    while not system.finished and (event == SYSTEM_CALL or not found):  # calls come behind the last of the page faults
        system.advance(BEFORE)
    before = SHORTLY if event == DISK_READ else BEFORE
    return max(0, found[-1 if event == SYSTEM_CALL else 0] - before) if found else 0


def _begins(watch: _Watch, event: str, number: int) -> bool:
    """Say whether the event has begun, where the program had a number in EAX before it was interrupted."""
    guest = watch.system.guests[watch.guest]
    if event in watch.numbers:
        return number == watch.numbers[event] and watch.view.cpu.ip == watch.handler(CALL_VECTOR)
    timer = EVENT if isinstance(guest, Domain) else guest.platform.pic.master.base
    return watch.view.cpu.ip == watch.handler(PAGE_FAULT_VECTOR if event == PAGE_FAULT else timer)


def _legs(watch: _Watch, event: str) -> list[Leg]:
    """Run until the event is over; return who had control from the program's last instruction before it on."""
    system, number, begun, started = watch.system, 0, False, False
    legs: list[Leg] = []
    end = system.steps + LONGEST
    while system.steps < end and not system.finished:
        if watch.in_user:
            if begun:
                return [*legs, Leg(system.in_control, "the program goes on", 0)]
            legs, number, started = [], watch.view.cpu.registers[0], True
        system.choose()
        before, part = system.cycles, system.in_control
        concerned = system.concerns(watch.guest)
        watch.events.clear()
        system.advance(1)
        if concerned:
            _add(legs, part, system.cycles - before, watch.events)
        if started and watch.in_kernel:
            begun, started = begun or _begins(watch, event, number), False
    raise VmlabError(f"no {event} of guest {watch.guest} in {LONGEST:,} steps: is it one that makes any?")


def _add(legs: list[Leg], part: str, cycles: int, events: Sequence[Event]) -> None:
    """Add what a step did: to the last leg, or as one of its own.

    Where it had ways to go, what was done belongs to the device that was driven, or to the end of the last way.
    """
    hops = [event for event in events if isinstance(event, Hop)]
    own = cycles - sum(hop.cycles for hop in hops)
    if not hops:
        _append(legs, Leg(part, _said(events), own))
        return
    _append(legs, Leg(part, _said([event for event in events if isinstance(event, WHY)]), 0))
    done = _said([event for event in events if not isinstance(event, WHY)])
    worker = next((hop for hop in hops if hop.target.startswith("hardware")), hops[-1])
    for hop in hops:
        if hop.origin != legs[-1].part:
            _append(legs, Leg(hop.origin, "", 0))
        here = hop is worker
        what = "; ".join(filter(None, (hop.what, done if here else "")))
        _append(legs, Leg(hop.target, what, hop.cycles + (own if here else 0)))


def _append(legs: list[Leg], leg: Leg) -> None:
    """Add a leg, to the last one where control stays."""
    if legs and legs[-1].part == leg.part:
        last = legs.pop()
        what = "; ".join(dict.fromkeys(filter(None, (last.what, leg.what))))
        leg = replace(leg, what=what, cycles=last.cycles + leg.cycles)
    legs.append(leg)


WHY = (Exit, Trap)
SAID = {
    Exit: lambda event: f"exit: {event.reason}" + (f" ({event.detail})" if event.detail else ""),
    Emulate: lambda event: f"emulates {event.text}",
    Inject: lambda event: f"injects {event.name}",
    Trap: lambda event: f"{event.name}: ring {event.from_ring} to ring {event.to_ring}",
    NestedFill: lambda event: f"fills a nested entry for {event.gpa:#x}",
    ShadowFill: lambda event: f"fills a shadow entry for {event.gva:#x}",
    Hypercall: lambda event: f"hypercall {event.name}",
}


def _said(events: Sequence[Event]) -> str:
    """Say what events tell, in a few words."""
    return "; ".join(dict.fromkeys(SAID[type(event)](event) for event in events if type(event) in SAID))


def _compressed(legs: list[Leg]) -> tuple[Leg, ...]:
    """Join sequences of legs that repeat, as a poll of a device's status does: each leg's cycles are the mean then, rounded up."""
    found: list[Leg] = []
    index = 0
    while index < len(legs):
        length, count = _repeats(legs, index)
        for offset in range(length):
            cycles = sum(leg.cycles for leg in legs[index + offset : index + length * count : length])
            found.append(replace(legs[index + offset], cycles=-(-cycles // count), times=count))
        index += length * count
    return tuple(found)


def _repeats(legs: list[Leg], index: int) -> tuple[int, int]:
    """Return how long the sequence at an index is that repeats at once, and how often it comes; 1 and 1 where none does."""
    for length in range(2, LONGEST_SEQUENCE + 1):
        first = [(leg.part, leg.what) for leg in legs[index : index + length]]
        count = 1
        while [(leg.part, leg.what) for leg in legs[index + length * count : index + length * (count + 1)]] == first:
            count += 1
        if count > 1:
            return length, count
    return 1, 1
