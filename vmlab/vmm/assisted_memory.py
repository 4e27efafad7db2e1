"""How a hypervisor with hardware assistance virtualizes a guest's memory: by nested or by shadow page tables.

With *nested* paging the guest owns CR3, its tables and its TLB; what leads out of it are EPT violations. With *shadow*
paging the processor walks the hypervisor's tables: page faults, MOV CR3 and INVLPG lead out, paging is on and CR0.WP set
whatever the guest believes, and a guest in real mode cannot run at all (it is emulated).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from vmlab.isa.x86.faults import PF_FETCH, PF_USER, PF_WRITE, Fault
from vmlab.isa.x86.registers import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
)  # fmt: skip
from vmlab.isa.x86.semantics.system import operand_address
from vmlab.machine.state import COUNT, QUAD, check_state
from vmlab.machine.trace import NestedFill
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.shadow_paging import ShadowPaging

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.costs import CostModel
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.machine.trace import Event
    from vmlab.vmm.assisted_machine import AssistedMachine
    from vmlab.vmm.host_frames import HostFrames
    from vmlab.vmm.host_memory import HostMemory
    from vmlab.vmm.nested_paging import NestedPaging
    from vmlab.vmm.shadow_paging import ShadowPolicy
    from vmlab.vmm.shadow_writers import FrameWriters

__all__ = ["AssistedMemory", "NestedMemory", "Resolved", "ShadowMemory"]

TWO_LEVELS = 2
NOT_FILLED = {"traced": ExitReason.TRACED_WRITE, "window": ExitReason.WINDOW, "device": ExitReason.MMIO}


class Resolved(NamedTuple):
    """What became of an exit for memory: done, or to be emulated; what it counts as; a detail for the trace."""

    done: bool
    reason: ExitReason
    detail: str


class AssistedMemory(ABC):
    """The memory of one guest, as one of its VCPUs finds it.

    Attributes
    ----------
    vcpu : Processor
        The VCPU.
    name : str
        What its tables are called.
    is_the_guests : bool
        True where the guest owns CR3.
    """

    name: str
    is_the_guests: bool

    def __init__(self, vcpu: Processor) -> None:
        self.vcpu = vcpu

    @property
    def lent(self) -> frozenset[int]:
        """Host-physical addresses of pages beside the guest's memory that its tables lead to, and that are for it alone."""
        return frozenset()

    @abstractmethod
    def ask(self, machine: Any) -> None:  # noqa: ANN401 - the processor's make decides
        """Ask the processor for what this needs."""

    @abstractmethod
    def registers(self, machine: AssistedMachine) -> tuple[int, int, int, int]:
        """Return the real CR0, CR3, CR4 and IA32_EFER while the guest runs."""

    @abstractmethod
    def keep(self, machine: AssistedMachine) -> None:
        """Take into the VCPU what of paging the guest has changed without an exit."""

    @abstractmethod
    def resolve(self, machine: Any) -> Resolved:  # noqa: ANN401 - the processor's make decides
        """Do what an exit for memory asks for."""

    @abstractmethod
    def invalidate(self, machine: AssistedMachine) -> None:
        """Let the processor drop what it must not have cached any more, before the guest goes on."""

    def follow(self, instruction: Instruction) -> None:  # noqa: B027 - nothing to do where the guest owns its TLB
        """Follow what an instruction that was emulated did to translation."""

    def drop(self, linear: int) -> None:  # noqa: B027 - nothing to do where the guest owns its TLB
        """Note a true page fault, which invalidates the page."""

    @abstractmethod
    def news(self) -> list[tuple[type[Event], tuple[Any, ...]]]:
        """Return events that have not been told yet, and forget them."""

    @abstractmethod
    def cycles(self, costs: CostModel) -> int:
        """Return the cycles of the software that did all this."""

    @abstractmethod
    def save(self) -> dict[str, Any]:
        """Save the bookkeeping; the tables are in memory."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""


class NestedMemory(AssistedMemory):
    """Nested paging: see `vmlab.vmm.nested_paging`.

    Attributes
    ----------
    paging : NestedPaging
        The VCPU's nested page tables.
    """

    name = "nested page tables"
    reason: ExitReason
    is_the_guests = True

    def __init__(self, vcpu: Processor, paging: NestedPaging) -> None:
        super().__init__(vcpu)
        self.paging = paging
        self._flushes_seen = 0
        self._news: list[tuple[type[Event], tuple[Any, ...]]] = []

    def registers(self, machine: AssistedMachine) -> tuple[int, int, int, int]:
        vcpu = self.vcpu
        cr0, cr4 = machine.real_registers(vcpu.cr0, vcpu.cr4)
        return cr0, vcpu.cr3, cr4, vcpu.efer

    def keep(self, machine: AssistedMachine) -> None:
        vcpu = self.vcpu
        vcpu.cr3, vcpu.pdptes[:] = machine.tables()

    def invalidate(self, machine: AssistedMachine) -> None:
        """An instruction that was emulated has flushed the guest's TLB, as MOV CR0 does."""
        flushes = self.vcpu.tlb.flushes
        if flushes != self._flushes_seen:
            self._flushes_seen = flushes
            machine.invalidate()

    def log(self, machine: AssistedMachine, *, on: bool) -> None:
        """Note from now on which pages the guest writes to, or no more."""
        if on:
            self.paging.start_log()
        else:
            self.paging.stop_log()
        self.ask(machine)
        machine.invalidate()

    def collect(self, machine: AssistedMachine) -> set[int]:
        """Return the guest-physical page numbers written to since logging began, or since the last time."""
        machine.invalidate()
        return self.paging.collect()

    def fill(self, gpa: int, *, write: bool) -> Resolved:
        """Map the page that the guest uses for the first time; an access to what is no RAM is to be emulated."""
        found = self.paging.fill(gpa, write=write)
        if found is not None:
            self._news.append((NestedFill, (gpa, *found)))
        return Resolved(found is not None, self.reason, f"{gpa:#x}")

    def news(self) -> list[tuple[type[Event], tuple[Any, ...]]]:
        found, self._news = self._news, []
        return found

    def cycles(self, costs: CostModel) -> int:
        return self.paging.fills * costs.vmm_nested_fill

    def save(self) -> dict[str, Any]:
        return {"version": 1, "paging": self.paging.save(), "flushes": self._flushes_seen}

    def load(self, state: dict[str, Any]) -> None:
        check_state(state, self.name, {"paging": dict, "flushes": COUNT})
        self.paging.load(state["paging"])
        self._flushes_seen = state["flushes"]


class ShadowMemory(AssistedMemory):
    """Shadow paging, with the guest in its own rings: see `vmlab.vmm.shadow_paging`.

    Attributes
    ----------
    shadow : ShadowPaging
        The VCPU's shadow page tables.
    """

    name = "shadow page tables"
    is_the_guests = False

    def __init__(
        self, vcpu: Processor, window: MemoryWindow, host: HostFrames, policy: ShadowPolicy, writers: FrameWriters
    ) -> None:
        super().__init__(vcpu)
        # Of HostMemory it uses what HostFrames has, too, where the guest is not deprivileged.
        frames = cast("HostMemory", host)
        self.shadow = ShadowPaging(frames, vcpu, window, deprivileged=False, policy=policy, writers=writers)
        self._flushes_seen = 0
        self._root = 0

    def ask(self, machine: AssistedMachine) -> None:
        machine.use_shadow()

    def registers(self, machine: AssistedMachine) -> tuple[int, int, int, int]:
        vcpu, shadow = self.vcpu, self.shadow
        self._follow_flushes()  # a task switch flushes, too
        root = shadow.root(user=False)
        cr4 = vcpu.cr4 & ~(CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE)
        cr4 |= CR4_PAE if shadow.shape > TWO_LEVELS else 0
        # A guest in real mode may not be able to run so; the VM entry is to fail then, and it is emulated.
        paged = CR0_PG if vcpu.cr0 & CR0_PE or machine.runs_real_mode else 0
        cr0, cr4 = machine.real_registers(vcpu.cr0 | paged | CR0_WP, cr4)
        return cr0, root, cr4, vcpu.efer if vcpu.efer & EFER_LMA else vcpu.efer & ~EFER_LME

    def keep(self, machine: AssistedMachine) -> None:
        """CR3 is the host's, and so are the PDPTEs."""

    def invalidate(self, machine: AssistedMachine) -> None:
        shadow, root = self.shadow, machine.root
        if shadow.changed or root != self._root:
            machine.invalidate()
            shadow.flushed()
        else:
            for linear in shadow.invalid:
                machine.invalidate(linear)
            shadow.invalid.clear()
        self._root = root

    def resolve(self, machine: AssistedMachine) -> Resolved:
        linear, code = machine.page_fault()
        access = {"write": bool(code & PF_WRITE), "user": bool(code & PF_USER), "fetch": bool(code & PF_FETCH)}
        try:
            found = self.shadow.fault(linear, **access)
        except Fault:
            return Resolved(False, ExitReason.TRUE_PAGE_FAULT, f"{linear:#x}")
        if found.kind != "hidden":
            return Resolved(False, NOT_FILLED[found.kind], f"{linear:#x}")
        return Resolved(True, ExitReason.HIDDEN_PAGE_FAULT, f"{linear:#x}")

    def _follow_flushes(self) -> bool:
        flushes = self.vcpu.tlb.flushes
        if flushes == self._flushes_seen:
            return False
        self._flushes_seen = flushes
        self.shadow.flush()
        return True

    def follow(self, instruction: Instruction) -> None:
        if self._follow_flushes():
            return
        if instruction.mnemonic == "invlpg":
            self.shadow.drop(operand_address(self.vcpu, instruction))
        elif instruction.mnemonic == "invpcid":
            self.shadow.flush()

    def drop(self, linear: int) -> None:
        self.shadow.drop(linear)

    def news(self) -> list[tuple[type[Event], tuple[Any, ...]]]:
        found, self.shadow.traces.news = self.shadow.traces.news, []
        return found

    def cycles(self, costs: CostModel) -> int:
        return self.shadow.cycles(costs)

    def save(self) -> dict[str, Any]:
        return {"version": 1, "shadow": self.shadow.save(), "flushes": self._flushes_seen, "root": self._root}

    def load(self, state: dict[str, Any]) -> None:
        check_state(state, self.name, {"shadow": dict, "flushes": COUNT, "root": QUAD})
        self.shadow.load(state["shadow"])
        self._flushes_seen, self._root = state["flushes"], state["root"]
