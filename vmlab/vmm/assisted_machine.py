"""What a hypervisor with hardware assistance asks of the processor for one guest, whatever the processor's make.

The processor keeps a guest in a structure of its own: a VMCS (`vmlab.vmm.virtual_machine`), or a VMCB
(`vmlab.vmm.vmcb_machine`). The hypervisor sees it by what it needs: to enter the guest and to leave it, to learn why it has
left, to have its memory virtualized.

An event to inject is what both makes call so, in the same format but for its bit 31 and up: type and vector of an
interruption information (Intel SDM vol. 3, table 24-15), and an error code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.machine.state import LONG, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmlab.machine.processor import Decoded, Processor
    from vmlab.vmm.assisted_memory import AssistedMemory

__all__ = ["AssistedMachine"]


class AssistedMachine(ABC):
    """One guest, as the processor holds it.

    Parameters
    ----------
    cpu : Processor
        The real processor, which the host has.
    vcpu : Processor
        The guest's.

    Attributes
    ----------
    event : tuple of int or None
        Interruption information and error code of the event that the next entry injects.
    event_length : int
        Bytes of the instruction that it comes from, if one has asked for it.
    memory_reasons : dict
        Reasons of exits that are for the virtualization of memory, by its name.
    runs_real_mode : bool
        True where a guest in real mode can run on shadow page tables.
    """

    memory_reasons: ClassVar[Mapping[str, frozenset[int]]]
    runs_real_mode: ClassVar[bool]

    def __init__(self, cpu: Processor, vcpu: Processor) -> None:
        self._cpu, self._vcpu = cpu, vcpu
        self.event: tuple[int, int] | None = None

    @abstractmethod
    def select(self) -> None:
        """Make it the one that the processor works on."""

    # -- memory ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def use_shadow(self) -> None:
        """Ask for the exits of shadow paging: page faults, MOV CR3, INVLPG."""

    @abstractmethod
    def real_registers(self, cr0: int, cr4: int) -> tuple[int, int]:
        """Return CR0 and CR4 with the bits that the processor needs in a guest, whatever the guest believes."""

    @abstractmethod
    def page_fault(self) -> tuple[int, int]:
        """Return linear address and error code of the page fault that was the exit."""

    @property
    @abstractmethod
    def root(self) -> int:
        """The CR3 with which the guest is entered."""

    @abstractmethod
    def tables(self) -> tuple[int, Sequence[int]]:
        """Return CR3 and PDPTEs as the guest that runs has them, or has left them at the exit."""

    @abstractmethod
    def invalidate(self, linear: int | None = None) -> None:
        """Drop what the processor has cached for the guest, of one address or all."""

    # -- in and out --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def enter(self, memory: AssistedMemory) -> None:
        """Load the VCPU into the processor, and enter the guest; or find out by an exit that it cannot be."""

    @abstractmethod
    def reason(self) -> tuple[int, bool]:
        """Return why the guest has left, and whether it has run at all."""

    @abstractmethod
    def port_access(self) -> Decoded | None:
        """Return IN or OUT that was the reason of the exit; None where the processor has not told all of it."""

    @abstractmethod
    def leave(self, memory: AssistedMemory) -> None:
        """Save the processor into the VCPU after an exit."""

    @abstractmethod
    def look(self, memory: AssistedMemory) -> Processor:
        """Return a copy of the VCPU as it is in the processor, while the guest runs or right after its exit."""

    @property
    def event_length(self) -> int:
        return 0

    # -- saving ------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what is neither in the processor nor in memory."""
        return {"version": 1, "event": None if self.event is None else list(self.event)}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        event = check_state(state, "virtual machine", {"event": (Items(LONG, 2), type(None))})["event"]
        self.event = None if event is None else (event[0], event[1])
