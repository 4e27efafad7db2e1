"""What happened, as values: one frozen event for each thing that a processor or a hypervisor did.

A `Trace` hands events to its observers at a chosen detail. Nothing is recorded that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol

from vmlab.errors import OptionError
from vmlab.machine.event import Event
from vmlab.machine.paging_events import NestedFill, ShadowFill, ShadowRoot, ShadowSync, ShadowUnsync, ShadowWrite

__all__ = [
    "KINDS", "ControlWrite", "Detail", "Dma", "Emulate", "End", "Event", "EventSink", "Exit", "FirmwareCall", "HardwareExit", "Hop", "Hypercall",
    "Inject", "Input", "InstructionRetired", "NestedFill", "PortAccess", "Resume",
    "ShadowFill", "ShadowRoot", "ShadowSync", "ShadowUnsync", "ShadowWrite", "Signal", "Switch", "Trace", "Trap", "make",
]  # fmt: skip

Detail = Literal["none", "events", "instructions"]
DETAILS: tuple[Detail, ...] = ("none", "events", "instructions")


@dataclass(frozen=True, slots=True)
class InstructionRetired(Event):
    """An instruction completed."""

    kind: ClassVar[str] = "instruction"
    address: int
    text: str


@dataclass(frozen=True, slots=True)
class Trap(Event):
    """The hardware delivered an exception or interrupt through the interrupt descriptor table.

    Attributes
    ----------
    vector : int
        0 to 255.
    name : str
        As `"#GP"`, or the source of an interrupt.
    error_code : int or None
        For exceptions that have one.
    address : int
        Linear address of the instruction that faulted, or that was next.
    from_ring, to_ring : int
        Privilege level before and after.
    cr2 : int or None
        Faulting address of a page fault.
    """

    kind: ClassVar[str] = "trap"
    vector: int
    name: str
    error_code: int | None
    address: int
    from_ring: int
    to_ring: int
    cr2: int | None = None


@dataclass(frozen=True, slots=True)
class Signal(Event):
    """A processor obeyed `"INIT"` or `"STARTUP"`; `address` is where it goes on."""

    kind: ClassVar[str] = "signal"
    name: str
    address: int


@dataclass(frozen=True, slots=True)
class Exit(Event):
    """A hypervisor found out why it got control: one per trap out of a guest."""

    kind: ClassVar[str] = "exit"
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Emulate(Event):
    """A hypervisor executed an instruction on the VCPU for the guest."""

    kind: ClassVar[str] = "emulate"
    address: int
    text: str


@dataclass(frozen=True, slots=True)
class Inject(Event):
    """A hypervisor delivered an exception or interrupt to the guest, through the guest's own table."""

    kind: ClassVar[str] = "inject"
    vector: int
    name: str


@dataclass(frozen=True, slots=True)
class HardwareExit(Event):
    """A processor left VMX non-root operation: a VM exit, as the hardware does it.

    Attributes
    ----------
    reason : str
        Basic exit reason, as in the manual.
    qualification : int
        Exit qualification.
    address : int
        Linear address of the guest's next instruction.
    ring : int
        The guest's privilege level.
    """

    kind: ClassVar[str] = "vm-exit"
    reason: str
    qualification: int
    address: int
    ring: int


@dataclass(frozen=True, slots=True)
class Hypercall(Event):
    """A paravirtualized guest asked its hypervisor for something, alone or in a list; a negative result is an error."""

    kind: ClassVar[str] = "hypercall"
    name: str
    arguments: str
    result: int


@dataclass(frozen=True, slots=True)
class Resume(Event):
    """A hypervisor gave the CPU back to a guest, in virtual kernel or user mode."""

    kind: ClassVar[str] = "resume"
    mode: Literal["kernel", "user"]


@dataclass(frozen=True, slots=True)
class Switch(Event):
    """A hypervisor took the CPU from one guest for another."""

    kind: ClassVar[str] = "switch"
    previous: int


@dataclass(frozen=True, slots=True)
class Hop(Event):
    """Control or a request went from one layer to another, in host software around a hypervisor.

    Attributes
    ----------
    origin, target : str
        Nodes of the layer graph.
    what : str
        Why, in a few words.
    cycles : int
        What the way costs.
    """

    kind: ClassVar[str] = "hop"
    origin: str
    target: str
    what: str
    cycles: int


@dataclass(frozen=True, slots=True)
class PortAccess(Event):
    """An access to an I/O port, real or virtual."""

    kind: ClassVar[str] = "port"
    port: int
    size: int
    value: int
    write: bool
    device: str | None


@dataclass(frozen=True, slots=True)
class Dma(Event):
    """A device, real or virtual, read or wrote memory by itself; memory has answered for `done` of `size` bytes."""

    kind: ClassVar[str] = "dma"
    address: int
    size: int
    done: int
    write: bool
    device: str


@dataclass(frozen=True, slots=True)
class ControlWrite(Event):
    """A control register changed: the guest's, as the guest sees it."""

    kind: ClassVar[str] = "control"
    register: str
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class FirmwareCall(Event):
    """A guest called a service of the BIOS, which host software does for it.

    Attributes
    ----------
    vector : int
        The service: INT 10h and so on.
    ax : int
        AX at the call; AH names the function.
    """

    kind: ClassVar[str] = "firmware"
    vector: int
    ax: int


@dataclass(frozen=True, slots=True)
class Input(Event):
    """Someone typed: at this boundary between two steps, `data` arrived at a device of the guest.

    Attributes
    ----------
    device : {"serial", "keyboard"}
        Where it arrived.
    data : bytes
        What was typed; a text as UTF-8.
    """

    kind: ClassVar[str] = "input"
    device: str
    data: bytes


@dataclass(frozen=True, slots=True)
class End(Event):
    """A guest ended."""

    kind: ClassVar[str] = "end"
    outcome: str
    status: int | None


KINDS = tuple(dict.fromkeys(kind.kind for kind in Event.__subclasses__()))
"""Kinds of events."""


class EventSink(Protocol):
    """What a recording has for events, cheaper than an observer."""

    def append(self, event: Event) -> None:
        """Take an event."""

    def note(self, kind: type[Event], values: tuple[Any, ...]) -> None:
        """Take an event that nobody has made yet: its class, and the values of its fields in their order."""


@dataclass(slots=True)
class Trace:
    """Distributes events to observers.

    Attributes
    ----------
    detail : {"none", "events", "instructions"}
        `"none"`: nothing; `"events"`: all but single instructions; `"instructions"`: those too.
    observers : list of callable
        Each gets every event.
    log : EventSink or None
        The recording that is made.
    on_switch : callable or None
        Called when the detail has changed.
    """

    on_switch: Callable[[], None] | None = field(default=None, init=False, repr=False, compare=False)
    detail: Detail = "none"
    observers: list[Callable[[Event], None]] = field(default_factory=list)
    log: EventSink | None = None

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name == "detail" and self.on_switch is not None:
            self.on_switch()

    def __post_init__(self) -> None:
        if self.detail not in DETAILS:
            raise OptionError(f"unknown trace detail {self.detail!r}: choose one of {', '.join(DETAILS)}")

    @property
    def on(self) -> bool:
        """True where events are wanted."""
        return self.detail != "none"

    def emit(self, event: Event) -> None:
        """Hand an event to every observer."""
        if self.log is not None:
            self.log.append(event)
        for observer in self.observers:
            observer(event)

    def note(self, kind: type[Event], *values: Any) -> None:  # noqa: ANN401 - as the fields are
        """Do the same for what happens often: the event, all its fields given in their order, is made for observers alone."""
        if self.log is not None:
            self.log.note(kind, values)
        if self.observers:
            event = make(kind, values)
            for observer in self.observers:
                observer(event)


def make(kind: type[Event], values: Sequence[Any]) -> Event:
    """Make an event of its class and the values of its fields, in their order."""
    return kind(**dict(zip((each.name for each in fields(kind)), values, strict=True)))
