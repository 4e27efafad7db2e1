"""Running a guest from start to end, recording it, and comparing techniques: what a notebook writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.machine.recording import Recording
from vmlab.vmm.techniques import build, check_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.image import Image
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.system import System

__all__ = ["Run", "record", "run"]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run. With several guests, the single figures are those of the first; see `guests`.

    Attributes
    ----------
    system : System
        The system as it was at the end.
    """

    system: System

    @property
    def guests(self) -> list[Guest]:
        """The guests."""
        return self.system.guests

    @property
    def under(self) -> str:
        """The technique."""
        return self.system.technique

    @property
    def memory_virtualization(self) -> str:
        """How guest-virtual addresses reach host memory: `"none"`, `"shadow"`."""
        return self.system.memory_virtualization

    @property
    def console(self) -> str:
        """What the guest sent to its serial port."""
        return self.guests[0].console

    @property
    def screen(self) -> str:
        """The text on the guest's CGA screen."""
        return self.guests[0].screen

    @property
    def outcome(self) -> str:
        """Why it ended: `"exit"`, `"halt"`, `"triple-fault"`, `"reset"`, `"livelock"`, `"limit"`."""
        return self.guests[0].outcome or "running"

    @property
    def status(self) -> int | None:
        """Exit status, after `"exit"`."""
        return self.guests[0].status

    @property
    def instructions(self) -> int:
        """Instructions that the guest retired."""
        return self.guests[0].instructions

    @property
    def cycles(self) -> int:
        """Host cycles, by the cost model of the processor."""
        return self.system.cycles

    @property
    def cycles_by_cause(self) -> dict[str, int]:
        """Host cycles by cause."""
        return self.system.cycles_by_cause()

    @property
    def exits(self) -> Counter[str]:
        """Exits to the hypervisor by reason."""
        return Counter(self.guests[0].exits)

    @property
    def emulated(self) -> Counter[str]:
        """Instructions that the hypervisor executed for the guest, by mnemonic."""
        return Counter(self.guests[0].emulated)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data, as `vmlab run --json` prints them."""
        return {
            "outcome": self.outcome,
            "status": self.status,
            "console": self.console,
            "screen": self.screen.rstrip(),
            "instructions": self.instructions,
            "cycles": self.cycles,
            "exits": dict(self.exits.most_common()),
            "under": self.under,
            "memory_virtualization": self.memory_virtualization,
        }

    def describe(self) -> str:
        """Return the figures as text."""
        status = "" if self.status is None else f" with status {self.status}"
        lines = [
            f"{self.guests[0].image.name} under {self.under}: {self.outcome}{status}",
            f"{self.instructions:,} instructions, {self.cycles:,} cycles, {self.exits.total():,} exits",
        ]
        lines += [f"{count:>9,}  {reason}" for reason, count in self.exits.most_common()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def run(image: Image | Sequence[Image], under: str = "native", **options: Any) -> Run:  # noqa: ANN401 - as of build()
    """Run a guest to its end.

    Parameters
    ----------
    image : Image or sequence of Image
        What the guests boot, one each.
    under : str
        Technique, as `"native"` or `"trap-and-emulate"`.
    **options
        As of `vmlab.vmm.techniques.build`: `memory`, `cpu`, `cpus`, `max_instructions`, `input`.

    Returns
    -------
    Run
    """
    check_options(options)
    options.setdefault("max_instructions", 50_000_000)
    system = build(image, under, **options)
    system.run()
    return Run(system)


def record(
    image: Image | Sequence[Image],
    under: str = "native",
    *,
    steps: int | None = None,
    **options: Any,  # noqa: ANN401 - as of build()
) -> Recording:
    """Run a guest and keep the run, to be sought forwards and backwards.

    Parameters
    ----------
    image, under, **options
        As of `run`.
    steps : int, optional
        Record so many steps now and let the recording be continued: see `Recording.extend` and `Recording.send`. If not
        given, the guest runs to its end (or 5 million instructions).

    Returns
    -------
    Recording
    """
    check_options(options)
    if steps is None:
        options.setdefault("max_instructions", 5_000_000)
    system = build(image, under, **options)
    return Recording(system) if steps is None else Recording(system, max_steps=steps)
