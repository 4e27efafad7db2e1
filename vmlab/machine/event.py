"""What every event has: when it happened, and to whom. The kinds of events are in `vmlab.machine.trace`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

__all__ = ["Event"]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events.

    Attributes
    ----------
    step : int
        Number of the step in which it happened, from the start of the run.
    time : int
        Instructions that the guest had retired.
    guest : int
        Index of the guest.
    cpu : int
        Index of the processor, among those of the computer that runs the guest.
    """

    kind: ClassVar[str] = "event"
    step: int
    time: int
    guest: int
    cpu: int = field(default=0, kw_only=True)
