"""A guest's local APIC in a page that the processor reads for it: see `vmlab.machine.vmx.virtual_apic`.

The local APIC itself is the virtual platform's. Before each VM entry the page is made to show what its registers read as;
that stays so until the next VM exit, for virtual devices act only then. What the guest writes goes to the local APIC when
the VM exit tells of it, at the virtual time of the instruction; the task priority, of which none tells, at the next exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.devices.apic_bus import LOCAL_APIC_BASE
from vmlab.machine.devices.local_apic_registers import READERS
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.state import check_state
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.virtual_apic import READABLE, TPR
from vmlab.vmm.task_priority import threshold

if TYPE_CHECKING:
    from vmlab.machine.page_tables import PageTables
    from vmlab.machine.processor import Processor
    from vmlab.vmm.host_frames import HostFrames
    from vmlab.vmm.virtual_machine import VirtualMachine

__all__ = ["VirtualApic"]

SHOWN = sorted(READABLE & READERS.keys())


class VirtualApic:
    """The virtual-APIC page and the APIC-access page of a guest.

    Parameters
    ----------
    vcpu : Processor
        The guest's.
    host : HostFrames
        Gives the pages.
    tables : PageTables
        The guest's extended page tables, which lead its local APIC to the APIC-access page.

    Attributes
    ----------
    access_page : int
        Host-physical address of that.
    """

    def __init__(self, vcpu: Processor, host: HostFrames, tables: PageTables) -> None:
        self._vcpu, self._memory, self._tables = vcpu, host.memory, tables
        self._apic = vcpu.platform.local_apics[vcpu.number]
        self._page, self.access_page = host.allocate(), host.allocate()
        self._shown: tuple[Any, ...] | None = None
        self._is_mapped = False

    def ask(self, machine: VirtualMachine) -> None:
        """Tell the processor where the pages are."""
        machine.write(f.VIRTUAL_APIC_ADDRESS, self._page)
        machine.write(f.APIC_ACCESS_ADDRESS, self.access_page)

    def prepare(self, machine: VirtualMachine) -> None:
        """Show the registers as they are, before the guest goes on."""
        apic, timer = self._apic, self._apic.timer
        if apic.enabled != self._is_mapped:
            self._map(machine)
        shown = (
            apic.identifier, apic.tpr, apic.ldr, apic.dfr, apic.svr, apic.isr, apic.tmr, apic.irr, apic.esr, apic.icr,
            apic.icr_high, *apic.lvt, timer.initial, timer.divide,
        )  # fmt: skip
        if shown == self._shown:
            return
        self._shown = shown
        for offset in SHOWN:
            self._memory.write(self._page + offset, 4, READERS[offset](apic, offset))
        machine.write(f.TPR_THRESHOLD, threshold(apic))

    def _map(self, machine: VirtualMachine) -> None:
        """Lead the local APIC's page to the APIC-access page, or nowhere while the guest has switched its local APIC off."""
        if self._apic.enabled:
            self._tables.map(LOCAL_APIC_BASE, self.access_page, PAGE_SIZE)
        else:
            self._tables.unmap(LOCAL_APIC_BASE)
        self._is_mapped = self._apic.enabled
        machine.invalidate()

    def keep(self) -> None:
        """Take the task priority that the guest has written without an exit, after a VM exit."""
        priority = self._memory.read(self._page + TPR, 1)
        if self._shown is not None and priority != self._apic.tpr:
            self._apic.set_tpr(priority)

    def written(self, offset: int) -> str:
        """Write to the local APIC what the guest's last instruction has written to the page; return a text for the trace."""
        vcpu, value = self._vcpu, self._memory.read(self._page + offset, 4)
        vcpu.platform.now(vcpu.retired - 1)
        self._apic.write(offset, 4, value)
        self._shown = None
        return f"register {offset:#x}: {value:#x}"

    def save(self) -> dict[str, Any]:
        """Save the bookkeeping; the pages are in memory."""
        return {"version": 1, "mapped": self._is_mapped, "shown": self._shown is not None}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, "virtual APIC", {"mapped": bool, "shown": bool})
        self._is_mapped = state["mapped"]
        self._shown = () if state["shown"] else None  # shown once more
