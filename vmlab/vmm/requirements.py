"""Popek and Goldberg's three requirements of a virtual machine monitor, as three checks that run a guest.

    fidelity      what the guest sees is what it would see on the bare machine: two runs in lockstep, and their ends compared
    performance   most instructions run without the monitor: the share that it did not execute, and the slow-down in cycles
    safety        the monitor stays in control of the machine: the guest runs beside an innocent neighbour, and whenever it has
                  had the processor, what was written is looked at

Safety looks at four things. No frame was written, while the guest had the processor, that is another guest's or nobody's.
The tables that the processor walks for the guest lead to its own frames. The neighbour ends as it does alone. The code and the
tables of the monitor that nothing ever changes have not changed.

Simplified: of the frames of the monitor, which the processor itself writes to (its stack, accessed bits, a VMCS), those alone
are looked at that never change. A guest is caught that reaches something while it is being watched; that none could is what
the fuzzing in the tests is for.

Read more: Popek and Goldberg, CACM 17(7), 1974: efficiency, resource control, equivalence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.page_tables import table_entries
from vmlab.machine.program import assemble
from vmlab.vmm.compare import guest_differences, options_of
from vmlab.vmm.divergence_finder import find_divergence
from vmlab.vmm.page_walk import host_spaces, reader, shadows_of
from vmlab.vmm.run import Run, run
from vmlab.vmm.techniques import build, find_technique

if TYPE_CHECKING:
    from vmlab.machine.image import Image
    from vmlab.vmm.divergence import Divergence
    from vmlab.vmm.system import System

__all__ = ["Fidelity", "Performance", "Requirements", "Safety", "check_safety", "requirements"]

LIMIT = 1_000_000
FOREVER = 1 << 40
MOST_LINES = 6
NEIGHBOUR = """
bits 32                                 ; fills 256 KiB with a sequence, adds it up, and says so; over and over
org 0x100000
start:  mov esp, 0x90000
        mov ebx, 3
.again: mov edi, 0x110000
        mov ecx, 0x1000
        mov eax, ebx
.fill:  imul eax, eax, 1103515245
        add eax, 12345
        mov [edi], eax
        add esi, eax
        add edi, 64
        loop .fill
        mov dx, 0x3F8
        mov al, 'n'
        out dx, al
        dec ebx
        jnz .again
        mov al, 0
        out 0xF4, al
"""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What the guest saw.

    Attributes
    ----------
    differences : tuple of str
        What it could tell apart at the end, one line each.
    divergence : Divergence or None
        The first instruction at which it could, on the way.
    """

    differences: tuple[str, ...]
    divergence: Divergence | None

    @property
    def holds(self) -> bool:
        """True where there was nothing to tell apart."""
        return not self.differences and self.divergence is None


@dataclass(frozen=True, slots=True)
class Performance:
    """What it cost.

    Attributes
    ----------
    instructions, executed : int
        Instructions that the guest retired; those of them that the monitor executed for it.
    slow_down : float
        Cycles over those natively.
    """

    instructions: int
    executed: int
    slow_down: float

    @property
    def share(self) -> float:
        """Share of the instructions that ran without the monitor."""
        return 1 - self.executed / max(self.instructions, 1)

    @property
    def holds(self) -> bool:
        """True where that is "a statistically dominant subset": more than half."""
        return self.share > 0.5


@dataclass(frozen=True, slots=True)
class Safety:
    """What the guest reached.

    Attributes
    ----------
    outcome : str
        How it ended beside its neighbour.
    turns : int
        How often it had the processor.
    written : tuple of int
        Frames of others, or of nobody, that were written meanwhile.
    reachable : tuple of int
        Frames that are not the guest's and to which its tables lead.
    neighbour : tuple of str
        What its neighbour found different from a run alone.
    monitor_changed : bool
        True where code or fixed tables of the monitor have changed.
    """

    outcome: str
    turns: int
    written: tuple[int, ...]
    reachable: tuple[int, ...]
    neighbour: tuple[str, ...]
    monitor_changed: bool

    @property
    def holds(self) -> bool:
        """True where it reached nothing that is not its own."""
        return not (self.written or self.reachable or self.neighbour or self.monitor_changed)


@dataclass(frozen=True, slots=True)
class Requirements:
    """The three requirements for one guest under one technique."""

    name: str
    under: str
    fidelity: Fidelity
    performance: Performance
    safety: Safety

    @property
    def hold(self) -> bool:
        """True where all three do."""
        return self.fidelity.holds and self.performance.holds and self.safety.holds

    def describe(self) -> str:
        """Return the verdicts as text, each with its evidence."""
        fidelity, performance, safety = self.fidelity, self.performance, self.safety
        words = {True: "holds", False: "does not hold"}
        lines = [
            f"{self.name} under {self.under}",
            f"fidelity {words[fidelity.holds]}: "
            + ("the guest cannot tell" if fidelity.holds else "the guest can tell"),
            *(f"  {line}" for line in fidelity.differences[:MOST_LINES]),
        ]
        if fidelity.divergence:
            lines += [f"  {line}" for line in fidelity.divergence.describe().splitlines()]
        ran = f"{performance.share:.2%} of {performance.instructions:,} instructions ran without the monitor"
        reached = (
            f"it wrote to {len(safety.written)} frames that are not its own, and could reach {len(safety.reachable)}"
        )
        changed = "has" if safety.monitor_changed else "has not"
        lines += [
            f"performance {words[performance.holds]}: {ran}, {performance.slow_down:.2f} times the native cycles",
            f"safety {words[safety.holds]}: in {safety.turns:,} turns (it ended by {safety.outcome}) {reached}",
            f"  its neighbour noticed {len(safety.neighbour)} differences, the monitor {changed} changed",
            *(f"  {line}" for line in safety.neighbour[:MOST_LINES]),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def requirements(image: Image, under: str = "trap-and-emulate", **options: Any) -> Requirements:  # noqa: ANN401 - as of build()
    """Check Popek and Goldberg's three requirements for a guest under a technique.

    Parameters
    ----------
    image : Image
        What the guest boots.
    under : str
        Technique, as of `vmlab.compare`: `"vt-x/shadow"` says how memory is virtualized, too.
    **options
        As of `vmlab.run`.

    Returns
    -------
    Requirements

    Raises
    ------
    OptionError
        An option is not possible, or there is no hypervisor, or it wants other guests than the bare machine.

    Examples
    --------
    >>> import vmlab
    >>> found = requirements(vmlab.guests.load("popf"), memory=2 << 20)
    >>> found.fidelity.holds, found.performance.holds, found.safety.holds
    (False, True, True)
    """
    kind = find_technique(str(under).partition("/")[0])
    if kind.technique == "native" or kind.needs_port:
        why = "there is no monitor" if kind.technique == "native" else "its guests are ported, and do not run natively"
        raise OptionError(f"the requirements are of a monitor for unmodified guests: under {under!r} {why}")
    options = {"max_instructions": LIMIT, **options}
    name, own = options_of(str(under), options)
    _, bare = options_of("native", options)
    native, virtual = run(image, "native", **bare), run(image, name, **own)
    parting = find_divergence([build(image, "native", **bare), build(image, name, **own)], ("native", str(under)))
    return Requirements(
        image.name,
        str(under),
        Fidelity(tuple(guest_differences(native.guests[0], virtual.guests[0])), parting),
        _performance(native, virtual),
        check_safety(image, name, own),
    )


def _performance(native: Run, virtual: Run) -> Performance:
    executed = virtual.emulated.total() + getattr(virtual.system, "counters", {}).get("interpreted", 0)
    return Performance(virtual.instructions, executed, virtual.cycles / max(native.cycles, 1))


@cache
def _neighbour() -> Image:
    return assemble(NEIGHBOUR, "neighbour")


def check_safety(image: Image, under: str, options: dict[str, Any]) -> Safety:
    """Run a guest beside a neighbour, and look at what it writes whenever it has had the processor."""
    alone = build(_neighbour(), under, **options)
    alone.run()
    system = build([image, _neighbour()], under, **options)
    watched, fixed = system.guests[0], _fixed(system)
    before = _digest(system, fixed)
    forbidden = _forbidden(system)
    written: set[int] = set()
    turns, memory = 0, system.machine.memory
    while not system.finished:
        if system.in_vmm:
            system.advance(1)
            memory.take_changed()
            continue
        turn = system.current
        system.machine.run(FOREVER)
        changed = memory.take_changed()
        if turn == 0:
            turns += 1
            written.update(forbidden.intersection(changed))
    return Safety(
        str(watched.outcome),
        turns,
        tuple(sorted(written)),
        tuple(sorted(_reachable(system))),
        tuple(guest_differences(alone.guests[0], system.guests[1])),
        _digest(system, fixed) != before,
    )


def _forbidden(system: System) -> set[int]:
    """Return the frames that nobody may write while the first guest runs: all but its own and the monitor's."""
    monitor: Any = system
    held = monitor.host if system.assisted else monitor.switcher.host
    mine = {address >> PAGE_SHIFT for address in (*held.addresses, *held.free)}
    memory: Any = system.guests[0].memory
    return set(range(system.machine.memory.size >> PAGE_SHIFT)) - mine - set(memory.frames) | set(_fixed(system))


def _fixed(system: System) -> list[int]:
    """Return the frames of the monitor that nothing changes: its entry points, and its IDT where it has one of its own."""
    monitor: Any = system
    if system.assisted:
        return [monitor.host.idt >> PAGE_SHIFT, monitor.host.entry >> PAGE_SHIFT]
    host = monitor.switcher.host
    return [host.host_address(place) >> PAGE_SHIFT for place in (host.idt, host.entry)]


def _digest(system: System, frames: list[int]) -> list[bytes]:
    return [system.machine.memory.read_bytes(frame << PAGE_SHIFT, PAGE_SIZE) for frame in frames]


def _reachable(system: System) -> set[int]:
    """Return the frames that are not for the first guest and to which the tables lead that are walked for it."""
    memory: Any = system.guests[0].memory
    monitor: Any = system
    own, found = set(memory.frames), set[int]()
    for slot, space in enumerate(host_spaces(system, 0)):
        for entry in table_entries(space, reader(system.machine.cpu)):
            if entry.is_leaf:
                found.update(range(entry.target >> PAGE_SHIFT, entry.target + entry.span >> PAGE_SHIFT))
        found -= {address >> PAGE_SHIFT for address in monitor.memories[slot].lent}
    mask = (1 << system.machine.cpu.model.physical_bits - PAGE_SHIFT) - 1
    for shadow in shadows_of(system, 0):
        for table in shadow.tables():
            found |= {each.entry >> PAGE_SHIFT & mask for each in table.entries if each.leaf}
    return found - own
