"""Breakpoints: what a debugger stops at, on the way forwards and backwards.

Each is a condition for which the recording is searched (see `vmlab.machine.when`). All but events can also be told from
two instants in a row, which a debugger does where it steps anyway.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.machine import when

if TYPE_CHECKING:
    from vmlab.vmm.condition import Condition
    from vmlab.vmm.viewpoint import Viewpoint

__all__ = ["AtAddress", "Breakpoint", "OnEvent", "OnWrite", "Watched", "WhenTrue"]

EQUALITY = re.compile(r"\s*(?P<name>[A-Za-z]\w*)\s*==\s*(?P<value>0[xX][0-9a-fA-F]+|[0-9]+)\s*\Z")


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

    @abstractmethod
    def condition(self, at: Viewpoint) -> when.Condition:
        """Return what the recording is searched for."""

    def __repr__(self) -> str:
        return f"{self.number}: {self.text}"


class Watched(Breakpoint):
    """A breakpoint that can be told from two instants."""

    @abstractmethod
    def look(self, at: Viewpoint) -> object:
        """Return what matters of an instant."""

    @abstractmethod
    def hit(self, before: Any, now: Any) -> bool:  # noqa: ANN401 - what `look` gave of two instants in a row
        """Whether to stop at the second of two instants."""


class AtAddress(Watched):
    """Stop where the guest's next instruction is at an address."""

    kind = "address"

    def __init__(self, number: int, text: str, address: int) -> None:
        super().__init__(number, text)
        self.address = address

    def condition(self, at: Viewpoint) -> when.Condition:
        return when.executes(self.address)

    def look(self, at: Viewpoint) -> bool:
        return at.address == self.address and at.runs

    def hit(self, before: bool, now: bool) -> bool:
        return now


class WhenTrue(Watched):
    """Stop where a condition becomes true that was not."""

    kind = "condition"

    def __init__(self, number: int, condition: Condition) -> None:
        super().__init__(number, f"when {condition.text}")
        self.expression = condition

    def condition(self, at: Viewpoint) -> when.Condition:
        simple = EQUALITY.match(self.expression.text)
        if simple and simple["name"].lower() in when.READERS and len(at.guest.vcpus) == 1:
            return when.register(simple["name"], int(simple["value"], 0))  # a recording finds these quickly
        return when.becomes(lambda _: self.expression.holds(at))

    def look(self, at: Viewpoint) -> bool:
        return self.expression.holds(at)

    def hit(self, before: bool, now: bool) -> bool:
        return now and not before


class OnWrite(Watched):
    """Stop after memory was written."""

    kind = "write"

    def __init__(self, number: int, text: str, address: int, size: int) -> None:
        super().__init__(number, text)
        self.address, self.size = address, size

    def condition(self, at: Viewpoint) -> when.Condition:
        return when.writes(self.address, self.size)

    def look(self, at: Viewpoint) -> bytes:
        return at.read(self.address, self.size)

    def hit(self, before: bytes, now: bytes) -> bool:
        return before != now


class OnEvent(Breakpoint):
    """Stop after an event of a kind, perhaps with some values."""

    kind = "event"

    def __init__(self, number: int, event: str, values: dict[str, object]) -> None:
        self._condition = when.event(event, **values)
        wanted = "".join(
            f" {name}={value:#x}" if type(value) is int else f" {name}={value}" for name, value in values.items()
        )
        super().__init__(number, f"on {event}{wanted}")

    def condition(self, at: Viewpoint) -> when.Condition:
        return self._condition
