"""Two systems in lockstep on virtual time, that is, on the instructions that their guest has retired.

Devices tick on virtual time, so that at each count of instructions a guest should find the same registers and the same
memory under each technique, however many steps of the hardware lie between. What a guest could see is compared at
*meetings*, instants at which both guests have just retired as many instructions: registers as `cpu_state` gives them, the
console, and those pages of guest-physical memory that either side has written since the last meeting.

Between meetings nothing is looked at: a difference that has healed by the next one is not found.

Nothing here disturbs a run. A system is advanced by steps; no exit is forced on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.memory import PAGE_SIZE, ZERO_PAGE, MemoryWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmlab.machine.processor import Processor
    from vmlab.vmm.system import System

__all__ = ["Lockstep", "Side"]


class Side:
    """One of the two systems, with an *anchor*, an instant to which it can go back.

    Parameters
    ----------
    system : System
        Newly built, with one guest.

    Attributes
    ----------
    anchored : int
        The system's step at its anchor.
    look : callable or None
        Where it is given, the side runs by single steps, and this is called with it before each.
    """

    look: Callable[[Side], None] | None = None

    def __init__(self, system: System) -> None:
        self.system = system
        self.guest = system.guests[0]
        self.memory = system.machine.memory
        window = self.guest.memory
        frames = window.frames if isinstance(window, MemoryWindow) else range(window.size // PAGE_SIZE)
        self._pages = {frame: page for page, frame in enumerate(frames)}
        self._frames = frames
        self._known = self.memory.contents()
        self._since: set[int] = set()
        self._compared = 0
        self.memory.take_changed()
        self.anchor()

    @property
    def time(self) -> int:
        """Instructions that the guest has retired."""
        return self.system.instructions()

    @property
    def cpu(self) -> Processor:
        """The processor whose turn it is, as the guest would find it."""
        return self.system.cpu_state(cpu=self.guest.platform.apics.current)

    @property
    def ended(self) -> bool:
        """True where the guest has come to its end."""
        return self.system.finished

    def reach(self, time: int) -> None:
        """Run until the guest has just retired so many instructions, or has ended."""
        system = self.system
        while not system.finished and (system.instructions() < time or not system.exact):
            self._advance(max(1, time - system.instructions()))

    def end(self) -> None:
        """Run to the end, where nothing keeps the guest from it but steps of the hardware: until it retires one more."""
        time = self.time
        while not self.ended and self.time <= time:
            self._advance(1)

    def _advance(self, steps: int) -> None:
        if self.look is not None:
            self.look(self)
            steps = 1
        self.system.advance(steps)

    def seen(self) -> dict[str, int | str | None]:
        """Return the registers, those of a second processor as `cpu 1 eax`, and how the guest has ended."""
        guest, system = self.guest, self.system
        values: dict[str, int | str | None] = dict(system.cpu_state().visible())
        for index in range(1, len(guest.vcpus)):
            visible = system.cpu_state(cpu=index).visible()
            values |= {f"cpu {index} {name}": value for name, value in visible.items()}
        return {**values, "outcome": guest.outcome, "status": guest.status}

    def sent(self) -> bytes:
        """Return what the guest has sent to its serial port since the last meeting."""
        return bytes(self.guest.platform.uart.output[self._compared :])

    def written(self) -> set[int]:
        """Return the guest-physical pages that may have been written since the last meeting."""
        changed = self.memory.take_changed()
        self._since.update(changed)
        self._compared = len(self.guest.platform.uart.output)
        return {self._pages[frame] for frame in changed if frame in self._pages}

    def page(self, number: int) -> bytes:
        """Return the contents of a guest-physical page."""
        return self.memory.page(self._frames[number])

    def anchor(self) -> None:
        """Remember this instant."""
        self._since.update(self.memory.take_changed())
        for frame in self._since:
            self._known[frame] = self.memory.page(frame)
        self._since = set()
        self._state: dict[str, Any] = self.system.save()
        self.anchored = self.system.steps

    def restore(self) -> None:
        """Go back to the anchor."""
        self._since.update(self.memory.take_changed())
        self.memory.replace({frame: self._known.get(frame, ZERO_PAGE) for frame in self._since})
        self.system.load(self._state)
        self._since = set()
        self._compared = len(self.guest.platform.uart.output)


class Lockstep:
    """Two systems that run the same guest.

    Parameters
    ----------
    systems : iterable of System
        Two of them, newly built.

    Attributes
    ----------
    sides : tuple of Side
        In the order given.
    """

    def __init__(self, systems: Iterable[System]) -> None:
        first, other = (Side(system) for system in systems)
        self.sides = first, other
        self.pages: set[int] = set(range(first.guest.memory.size // PAGE_SIZE))

    @property
    def ended(self) -> bool:
        """True where both guests have come to their end."""
        return all(side.ended for side in self.sides)

    def meet(self, time: int) -> None:
        """Let both run to the first instant from `time` on at which they have retired equally many; or one has ended."""
        first, other = self.sides
        first.reach(time)
        other.reach(first.time)
        while other.time > first.time and not first.ended:
            first.reach(other.time)
            other.reach(first.time)
        for side, ahead in ((first, other), (other, first)):
            if ahead.ended and side.time <= ahead.time:
                side.end()

    def differ(self) -> bool:
        """Say whether the guests could tell the sides apart; what has been written before counts as compared then."""
        first, other = self.sides
        if first.time != other.time or first.seen() != other.seen() or first.sent() != other.sent():
            return True
        self.pages |= first.written() | other.written()
        if any(first.page(number) != other.page(number) for number in self.pages):
            return True
        self.pages = set()
        return False

    def anchor(self) -> None:
        """Remember this instant, at which the sides do not differ."""
        for side in self.sides:
            side.anchor()

    def restore(self) -> None:
        """Go back to where both were anchored."""
        for side in self.sides:
            side.restore()
        self.pages = set()

    def all_written(self) -> list[int]:
        """Return the pages that have been written since the last meeting at which nothing differed, ascending."""
        first, other = self.sides
        self.pages |= first.written() | other.written()
        return sorted(self.pages)
