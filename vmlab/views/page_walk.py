"""A page walk to look at: each reference with its decoded entry, what came of it, in words, as a table, graph and figure.

`walk` takes it from a running system, from a recording at its cursor, or from a `WalkLab`, and changes nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.views.fault_words import FaultWords, fault_words
from vmlab.views.walk_references import references_of
from vmlab.vmm.page_walk import Sight, check_access, look_at
from vmlab.vmm.system import System
from vmlab.vmm.walk_lab import WalkLab

if TYPE_CHECKING:
    import networkx as nx
    import plotly.graph_objects as go

    from vmlab.machine.nested_walk import NestedTranslation
    from vmlab.machine.paging import Translation
    from vmlab.machine.recording import Recording
    from vmlab.views.walk_references import Reference
    from vmlab.vmm.run import Run

__all__ = ["PageWalk", "walk"]

WORDS = {"read": "a read", "write": "a write", "fetch": "an instruction fetch"}


@dataclass(frozen=True)
class PageWalk:
    """A walk as it would be taken now.

    Attributes
    ----------
    kind : {"native", "shadow", "nested", "host"}
        One dimension; one beside the hardware's; two; the host's alone.
    title : str
        Whose tables.
    sight : Sight
        What was looked at.
    steps : tuple of Reference
        Of the guest's walk, in both dimensions under nested paging.
    shadow_steps : tuple of Reference
        Of the walk that the hardware makes under shadow paging.
    """

    kind: str
    title: str
    sight: Sight
    steps: tuple[Reference, ...]
    shadow_steps: tuple[Reference, ...] = ()

    @property
    def address(self) -> int:
        """Where to."""
        return self.sight.guest.address

    @property
    def access(self) -> str:
        """The access in words."""
        who = "user" if self.sight.guest.user else "supervisor"
        return f"{WORDS[self.sight.guest.access]} by the {who}"

    @property
    def found(self) -> Translation | NestedTranslation | None:
        """What came of the guest's walk."""
        return self.sight.guest.found

    @property
    def physical(self) -> int | None:
        """The host-physical address that the guest's tables mean; None after a fault, and where there is no RAM."""
        return self.sight.expected

    @property
    def references(self) -> int:
        """Memory references that the hardware makes after a miss in the TLB."""
        walked = self.sight.shadow or self.sight.guest
        return walked.references

    @property
    def cached(self) -> int:
        """Entries that walk caches gave instead of memory."""
        return sum(step.served in ("cache", "nested TLB") for step in self.steps)

    @property
    def fault(self) -> FaultWords | None:
        """The fault of the guest's walk."""
        fault = self.sight.guest.fault
        return fault_words(fault) if fault else None

    @property
    def shadow_fault(self) -> FaultWords | None:
        """The fault of the walk that the hardware makes under shadow paging."""
        fault = self.sight.shadow and self.sight.shadow.fault
        return fault_words(fault) if fault else None

    @property
    def verdict(self) -> str:
        """What would become of the access."""
        if self.kind == "shadow":
            return self._shadow_verdict()
        if self.fault:
            return f"{self.fault.text}: the {self.fault.owner} has to handle it."
        return f"Allowed: {self._result()}."

    def _result(self) -> str:
        place = "no RAM there" if self.physical is None else f"physical address {self.physical:#x}"
        found = self.found
        if found is None:
            return f"{place}; paging is off, so that no table is read"
        rights = [word for word, has in (("read", found.readable), ("write", found.writable), ("fetch", found.executable)) if has]  # fmt: skip
        user = "user and supervisor" if found.user else "supervisor only"
        byte = "" if self.sight.byte is None else f", where the byte {self.sight.byte:#04x} lies"
        return f"{place}{byte}; page of {_size(found.page_size)}; the path allows {', '.join(rights)}; {user}"

    def _shadow_verdict(self) -> str:
        guest, shadow = self.sight.guest, self.sight.shadow
        assert shadow
        place = "" if guest.physical is None else f"Guest-physical address {guest.physical:#x}."
        if self.fault and shadow.fault:
            return f"A true page fault: the guest's own tables refuse it, and the VMM delivers it to the guest: {self.fault.text}."
        if self.fault:
            return f"The guest's tables refuse it by now ({self.fault.text}), but the shadow still allows it, as a stale TLB would."
        if shadow.fault and self.physical is None:
            return (
                f"No RAM is there, so that the shadow maps nothing: the access traps, and the VMM emulates it. {place}"
            )
        if shadow.fault:
            return f"A hidden page fault: the guest's tables allow it, the shadow does not (yet); the VMM sees to it, and the guest never knows. In the end: {self._result()}."  # fmt: skip
        if shadow.physical != self.physical:
            return f"The shadow is out of step: it leads to {shadow.physical:#x}, as a stale TLB would. By the guest's tables: {self._result()}."
        off = "" if guest.found else " (paging is off in the guest: the shadow maps its physical addresses)"
        return f"Both agree{off}: {self._result()}."

    @property
    def tlb(self) -> str:
        """What the TLB holds for the page, in words."""
        entry, state = self.sight.tlb, self.sight.tlb_state
        if state == "none":
            return "no TLB"
        if state == "other":
            return "not known: another guest or the hypervisor has the processor"
        if entry is None:
            return "miss: the tables have to be walked"
        rights = f"{'writable' if entry.writable else 'read only'}, {'user' if entry.user else 'supervisor'}, {'dirty' if entry.dirty else 'clean'}"  # fmt: skip
        held = f"page at {entry.frame:#x}, {rights}{', global' if entry.global_ else ''}"
        if state == "rights":
            return f"held ({held}), but that does not allow this access: the tables have to be walked"
        return f"hit ({held}): no table is read"

    def rows(self) -> list[dict[str, Any]]:
        """Return the references as rows of a table."""
        return [
            {
                "reference": step.number if step.served == "memory" else step.served,
                "dimension": step.dimension,
                "table": step.level,
                "bits": f"{step.high}:{step.low}",
                "slot": step.slot,
                "at": f"{step.address:#x}",
                "entry": f"{step.entry:#0{2 + 2 * step.entry_bytes}x}",
                "fields": step.said,
                "leads to": "" if step.target is None else f"{step.target:#x}",
            }
            for step in (*self.steps, *self.shadow_steps)
        ]

    def describe(self) -> str:
        """Say in words what the walk is: the text twin of its pictures."""
        lines = [f"{self.title}: {self.access} at {self.address:#x}", f"TLB: {self.tlb}"]
        for steps, of in ((self.steps, "guest"), (self.shadow_steps, "shadow")):
            if self.kind == "shadow":
                lines.append({"guest": "the guest's own tables:", "shadow": "what the hardware walks:"}[of])
            lines += [_line(step) for step in steps]
        cached = f", {self.cached} more from caches" if self.cached else ""
        lines.append(f"{self.references} memory reference{'' if self.references == 1 else 's'}{cached}")
        lines.append(self.verdict)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()

    def to_graph(self) -> nx.DiGraph:
        """Return tables and pages as nodes, and the entries that were used as edges; see `vmlab.views.walk_graph`."""
        from vmlab.views.walk_graph import walk_graph

        return walk_graph(self)

    def figure(self, mode: str = "light") -> go.Figure:
        """Draw it as a plotly figure, whose frames replay it step by step; `mode` is `"light"` or `"dark"`."""
        from vmlab.views.walk_figure import walk_figure

        return walk_figure(self, mode)


def _size(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >> shift:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"


def _line(step: Reference) -> str:
    number = f"{step.number:>3}" if step.served == "memory" else f"{'·':>3}"
    indent = "" if step.dimension != "host" else "  "
    to = "" if step.target is None else f" -> {step.target:#x}"
    served = "" if step.served == "memory" else f" (from a {step.served})"
    where = (
        f"{step.short}[{step.slot}] at {step.address:#x}" if step.served == "memory" else f"{step.short}[{step.slot}]"
    )
    return f"{number} {indent}{step.dimension} {where}: {step.entry:#x}{to}  {step.said}{served}"


def walk(
    of: System | Run | Recording | WalkLab,
    address: int,
    *,
    guest: int = 0,
    access: str = "read",
    user: bool | None = None,
) -> PageWalk:
    """Walk the page tables for an address, and keep each step. Nothing changes: no accessed bit, no TLB entry.

    Parameters
    ----------
    of : System, Run, Recording or WalkLab
        Whose tables: a finished run, a recording at its cursor, a running system, or a laboratory.
    address : int
        A linear address of the guest.
    guest : int
        Which guest.
    access : {"read", "write", "fetch"}
        What for.
    user : bool, optional
        Whether by code of CPL 3. If not given: as the guest runs now; in a laboratory, True.

    Returns
    -------
    PageWalk

    Raises
    ------
    OptionError
        No address, no access, no guest, or nothing with page tables.

    Examples
    --------
    >>> import vmlab
    >>> run = vmlab.run(vmlab.guests.load("minios"))
    >>> vmlab.walk(run, 0x400000, user=True).references
    2
    """
    if isinstance(of, WalkLab):
        return _lab_walk(of, address, access, user)
    holder: Any = of
    system = getattr(holder, "system", holder)
    if not isinstance(system, System):
        raise OptionError(f"walk takes a Run, a Recording, a System or a WalkLab, not {type(of).__name__}")
    sight = look_at(system, address, guest=guest, access=access, user=user)
    walked = sight.guest
    kind = (
        "nested" if walked.host and walked.guest else "host" if walked.host else "shadow" if sight.shadow else "native"
    )
    names = [space.format.name for space in (walked.guest, walked.host) if space]
    title = f"{' over '.join(names) if names else 'no paging'}, {system.guests[guest].name} under {system.technique}"
    columns = len(walked.host.format.levels) if walked.host else 0
    shadow = references_of(sight.shadow, "shadow", 0) if sight.shadow else ()
    return PageWalk(kind, title, sight, references_of(walked, "guest", columns), shadow)


def _lab_walk(lab: WalkLab, address: int, access: str, user: bool | None) -> PageWalk:
    check_access(address, access, user)
    is_user = user is not False
    walked = lab.look(address, access, user=is_user)
    entry, state = lab.held(address, access, user=is_user)
    physical = walked.physical
    byte = None if physical is None else lab.memory.read(physical, 1)
    sight = Sight(walked, None, physical, entry, state, byte, 64)
    kind = "nested" if walked.host and walked.guest else "host" if walked.host else "native"
    names = [space.format.name for space in (walked.guest, walked.host) if space]
    columns = len(walked.host.format.levels) if walked.host and walked.guest else 0
    return PageWalk(kind, " over ".join(names), sight, references_of(walked, "guest", columns))
