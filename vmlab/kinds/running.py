"""A running system of some kind: what presets build, and what graphs, tables and widgets look at.

`Running` is the common face of systems that are very different: x86 computers with all sorts of hypervisors, a Java virtual
machine, an emulator of another processor. It says what has come out, what it cost, which parts there are now, and who has control.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from vmlab.errors import OptionError

if TYPE_CHECKING:
    from vmlab.kinds.journey import Journey
    from vmlab.kinds.part import Part
    from vmlab.kinds.presets import Preset

__all__ = ["Running"]


class Running(ABC):
    """A system built by a preset.

    Attributes
    ----------
    preset : Preset
        What it is.
    events : tuple of str
        What can be followed.
    modified : str
        What is not as on a real machine: `"nothing"`, `"the kernel"`, `"the program"`, `"the processor"`.
    """

    preset: Preset
    events: tuple[str, ...] = ()
    modified: str

    # -- going on ----------------------------------------------------------------------------------------------------------

    def advance(self, steps: int) -> None:
        """Run for at most so many steps, or until nothing can go on.

        Raises
        ------
        OptionError
            That is no number of steps.
        """
        if type(steps) is not int or steps < 0:
            raise OptionError(f"steps are a number from 0 on, as advance(5000), not {steps!r}")
        self._advance(steps)

    @abstractmethod
    def _advance(self, steps: int) -> None:
        """Do it."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """True where nothing can go on."""

    def run(self) -> Running:
        """Run to the end, and return the same system."""
        while not self.finished:
            self.advance(1 << 40)
        return self

    @abstractmethod
    def kill(self, name: str) -> None:
        """End a guest, a container or a process by the name of a part of it, at once.

        Raises
        ------
        OptionError
            There is no such part, or none that can be ended.
        """

    # -- what there is to see ------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def consoles(self) -> dict[str, str]:
        """What each guest, container or process has printed, by its name."""

    @property
    def results(self) -> dict[str, str]:
        """The workload's line of each that runs it, and has come so far."""
        lines = {name: text.splitlines() for name, text in self.consoles.items()}
        found = {name: [line for line in text if line.startswith("primes ")] for name, text in lines.items()}
        return {name: text[-1] for name, text in found.items() if text}

    @abstractmethod
    def cycles_by_cause(self) -> dict[str, int]:
        """Host cycles by cause."""

    @property
    def cycles(self) -> int:
        """Host cycles so far."""
        return sum(self.cycles_by_cause().values())

    @property
    @abstractmethod
    def is_up(self) -> bool:
        """True once the first guest's kernel has said that it is up."""

    @property
    def booting(self) -> bool:
        """True as long as some guest's kernel is not up."""
        return not self.is_up

    @property
    @abstractmethod
    def footprint(self) -> int:
        """Bytes of host memory that the guests have, and that are kept for them."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """Return the parts that there are now, from the top layer down."""

    @property
    @abstractmethod
    def in_control(self) -> str:
        """Name of the part that has the processor."""

    @abstractmethod
    def follow(self, event: str) -> Journey:
        """Follow one event through the layers of a fresh system of the same kind.

        Raises
        ------
        OptionError
            No such event here.
        """

    @abstractmethod
    def crash(self) -> tuple[int, int]:
        """Build the system anew, and let the kernel of one guest fall while two work; how many of how many others come to their result.

        Where there is nothing beside a guest that could be taken with it, of none.
        """

    def find(self, name: object) -> Part:
        """Return a part by its name; OptionError where there is none."""
        for part in self.parts():
            if part.name == name:
                return part
        raise OptionError(f"there is no part {name!r} now: there are {', '.join(part.name for part in self.parts())}")

    def describe(self) -> str:
        """Say in words what there is, layer by layer from the top."""
        lines = [f"{self.preset.name} ({self.preset.kind})"]
        layer = ""
        for part in self.parts():
            if part.layer != layer:
                layer = part.layer
                lines.append(f"{layer}:")
            mark = " <- in control" if part.name == self.in_control else ""
            facts = [part.privilege, *(f"{key} {value}" for key, value in part.state.items())]
            facts += [
                f"{word} {', '.join(names)}"
                for word, names in (("on", part.runs_on), ("traps to", part.traps_to))
                if names
            ]
            lines.append(
                f"  {part.name}: {part.label}{mark}" + (f" [{'; '.join(filter(None, facts))}]" if any(facts) else "")
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()
