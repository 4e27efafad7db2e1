"""Running a guest from start to end, recording it, and comparing techniques: what a notebook writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.recording import Recording
from vmlab.machine.tlb import TlbCounts
from vmlab.vmm.snapshot import Snapshot, go_on
from vmlab.vmm.techniques import build, check_options
from vmlab.vmm.xen.notes import is_ported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.image import Image
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.system import System

__all__ = ["Run", "record", "run"]

DEFAULT_LIMIT = 50_000_000
"""Instructions that a guest may retire in a run, if nothing else is said."""
PIECE = 1_000
"""Steps after which a run that is to stop at a text looks at the console."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run. With several guests, the single figures are those of the first; see `guests`.

    Attributes
    ----------
    system : System
        The system as it was at the end.
    reached : bool
        True where it was stopped since its console had shown what it was to run until.
    """

    system: System
    reached: bool = False

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
        """How guest-virtual addresses reach host memory: `"none"`, `"shadow"`, `"nested"`."""
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
        """Why it ended: `"exit"`, `"halt"`, `"triple-fault"`, `"reset"`, `"livelock"`, `"limit"`, or `"until"`."""
        return self.guests[0].outcome or ("until" if self.reached else "running")

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

    @property
    def tlb(self) -> TlbCounts:
        """What the TLBs of the physical processors have done: `misses`, `fills`, `evictions`, `flushes`, `dropped` by cause."""
        return sum((cpu.tlb.counts for cpu in self.system.machine.cpus), TlbCounts())

    @property
    def walk_references(self) -> int:
        """Memory references of page walks."""
        return sum(cpu.walk_references for cpu in self.system.machine.cpus)

    @property
    def advice(self) -> list[str]:
        """What may have been wrong, where the guest did not end well: features of a processor that it asked for in vain."""
        if self.outcome in ("exit", "until"):
            return []
        wanted = {feature: by for guest in self.guests for feature, by in guest.vcpu.lacked.items()}
        if self.outcome == "triple-fault" and not self.system.needs_port and is_ported(self.guests[0].image):
            return [f"{self.guests[0].image.name} is ported to a hypervisor: try under='paravirtualization'"]
        name = self.guests[0].vcpu.model.name
        able = {feature: [each.name for each in CPU_MODELS.values() if each.has(feature)] for feature in wanted}
        return [
            f"the guest asked for {by}, which the CPU model {name} has not: try cpu={able[feature][0]!r}"
            for feature, by in wanted.items()
            if able[feature]
        ]

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
        lines += [f"hint: {line}" for line in self.advice]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def run(
    image: Image | Sequence[Image] | Snapshot,
    under: str | None = None,
    *,
    until: str | bytes | None = None,
    **options: Any,  # noqa: ANN401 - as of build()
) -> Run:
    """Run a guest to its end, or until its console shows a text.

    Parameters
    ----------
    image : Image, sequence of Image, or Snapshot
        What the guests boot, one each; or the saved system that goes on.
    under : str, optional
        Technique: a key of `vmlab.TECHNIQUES`, `"native"` if not given. A saved system goes on under its own.
    until : str or bytes, optional
        Stop soon (at most 1000 steps) after the first guest has sent this to its serial port in this run.
    **options
        As of `vmlab.vmm.techniques.build`: `memory`, `cpu`, `cpus`, `max_instructions`, `input`, `memory_virtualization`. A saved system takes
        `input`, `keys`, `max_instructions` (more from here), `engine`.

    Returns
    -------
    Run
    """
    text: Any = until.encode("utf-8", "replace") if isinstance(until, str) else until
    if text is not None and (not isinstance(text, bytes) or not text):
        raise OptionError(f"until is a text that the console shows, as '$ ', not {until!r}")
    system = start(image, under, DEFAULT_LIMIT, options)
    if text is None:
        system.run()
        return Run(system)
    return Run(system, reached=_run_until(system, text))


def start(
    image: Image | Sequence[Image] | Snapshot, under: str | None, limit: int | None, options: dict[str, Any]
) -> System:
    """Build a system, or let a saved one go on; `limit` where the options say nothing of `max_instructions`."""
    check_options(options)
    if limit is not None:
        options.setdefault("max_instructions", limit)
    if isinstance(image, Snapshot):
        return go_on(image, under, options)
    return build(image, "native" if under is None else under, **options)


def _run_until(system: System, text: bytes) -> bool:
    """Run until the console has shown a text since now; False where the system ended before."""
    output = system.guests[0].platform.uart.output
    seen = len(output)
    while not system.finished:
        known = len(output)
        system.advance(PIECE)
        if len(output) > known and output.find(text, max(seen, known - len(text) + 1)) >= 0:
            return True
    return False


def record(
    image: Image | Sequence[Image] | Snapshot,
    under: str | None = None,
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
        Its step 0 is the start, or the instant that was saved.
    """
    system = start(image, under, 5_000_000 if steps is None else None, options)
    return Recording(system) if steps is None else Recording(system, max_steps=steps)
