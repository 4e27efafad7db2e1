"""A guest's CR8 without VM exits: the TPR shadow, which VT-x has had from the start (Intel SDM vol. 3, 29.3).

The guest reads and writes the task priority in a page of the hypervisor's. Only a write that lets an interrupt in which
waits, one of a class above the new priority, leads out. Where the whole local APIC is virtualized (`vmlab.vmm.virtual_apic`),
the same page serves both.

Read more: Adams and Agesen, ASPLOS 2006, 6.3 (`cr8wr`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.virtual_apic import TPR

if TYPE_CHECKING:
    from vmlab.machine.devices.local_apic import LocalApic
    from vmlab.machine.memory import MemoryWindow, PhysicalMemory

__all__ = ["TaskPriority", "threshold"]


def threshold(apic: LocalApic) -> int:
    """Return the task priority below which an interrupt gets in that waits; 0 where there is none, or it gets in already."""
    waiting = max(apic.irr.bit_length() - 1, 0) >> 4
    return waiting if waiting <= apic.tpr >> 4 else 0


class TaskPriority:
    """The page of one guest's task priority.

    Parameters
    ----------
    memory : PhysicalMemory or MemoryWindow
        The host's.
    page : int
        Host-physical address.
    apic : LocalApic
        The guest's.
    """

    def __init__(self, memory: PhysicalMemory | MemoryWindow, page: int, apic: LocalApic) -> None:
        self._memory, self.page, self._apic = memory, page, apic

    def show(self, fields: dict[int, int]) -> None:
        """Show the priority as it is, before the guest goes on."""
        self._memory.write(self.page + TPR, 4, self._apic.tpr)
        fields[f.TPR_THRESHOLD] = threshold(self._apic)

    def keep(self) -> None:
        """Take the priority that the guest has written, after a VM exit."""
        priority = self._memory.read(self.page + TPR, 1)
        if priority != self._apic.tpr:
            self._apic.set_tpr(priority)
