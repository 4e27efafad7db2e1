"""Hypervisors with a privileged domain: XenServer and its domain 0, Hyper-V and its root partition.

The hypervisor has no drivers. Guest 0 has the disk, and serves the others (`vmlab.kinds.served`): a disk read of a guest is a
world switch to domain 0, the work of its kernel, and a world switch back.

Simplified: the control domain's accesses to the disk's ports lead out to the hypervisor, too, which passes each on to the device;
so they cost an exit beside the access.

Read more: Barham et al., SOSP 2003; Microsoft, "Hyper-V Architecture".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.kinds.organized import Organized
from vmlab.kinds.served import CONTROL, DiskService
from vmlab.machine.state import COUNT, check_state
from vmlab.vmm.vt_x import VtX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.disk import Disk
    from vmlab.machine.image import Image
    from vmlab.machine.memory import MemoryWindow
    from vmlab.vmm.guest import Guest

__all__ = ["ControlDomain"]

DISK_PORTS = (*range(0x1F0, 0x1F8), 0x3F6)


class ControlDomain(Organized, VtX):
    """A hypervisor whose guest 0 drives the disk for the others.

    Attributes
    ----------
    service : DiskService
        What guests have asked of the control domain.
    disk_accesses : int
        Accesses of the control domain's to the disk's ports.
    """

    name = "hypervisor"

    def host_disks(self) -> Sequence[Disk | None]:
        """None: the disk is assigned to the control domain."""
        self.service = DiskService(self._whole, self._requested, self._replied)
        self.disk_accesses = 0
        return ()

    def copy_disks(self, image: Image) -> list[Disk | None]:
        """Return the whole disk for the control domain; for others, disks that it serves."""
        return [self._whole] if len(self.guests) == CONTROL else super().copy_disks(image)

    def serve(self, guest: int, disk: Disk, start: int) -> Disk:
        """Return a guest's disk, which the control domain serves."""
        return self.service.disk(guest, disk, start)

    def make_guest(self, name: str, image: Image, memory: MemoryWindow, model: CpuModel, processors: int) -> Guest:
        """Give the control domain its end of the channel."""
        guest = super().make_guest(name, image, memory, model, processors)
        if len(self.guests) == CONTROL:
            self.service.connect(guest.platform.add_channel())
        return guest

    def _requested(self, guest: int, sector: int) -> None:
        self.go(
            0,
            "vmm",
            f"guest{CONTROL}/kernel",
            f"guest {guest} asks for sector {sector}: an event for the control domain",
        )

    def _replied(self, guest: int, sector: int) -> None:
        self.go(0, f"guest{CONTROL}/kernel", "vmm", f"sector {sector} for guest {guest}")

    # -- scheduling ------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when no guest but the control domain can go on."""
        return all(guest.outcome is not None for guest in self.guests[CONTROL + 1 :])

    def can_run(self, guest: Guest) -> bool:
        """Say whether a guest can be given a turn."""
        return self.service.can_run(self.guests.index(guest), guest)

    def can_enter(self, guest: Guest) -> bool:
        """Say the same of one that has had its turn."""
        return self.can_run(guest)

    def stand_still(self) -> None:
        """End the guests whose disk will never answer: the control domain is gone."""
        for index, guest in enumerate(self.guests):
            if guest.outcome is None and index != CONTROL:
                self.end_guest(index, "halt")

    def answer(self, guest: Guest, reason: int) -> None:
        """Count the control domain's accesses to the disk."""
        counts = guest.platform.bus.port_accesses
        before = sum(counts[port] for port in DISK_PORTS)
        super().answer(guest, reason)
        if self.current == CONTROL:
            self.disk_accesses += sum(counts[port] for port in DISK_PORTS) - before

    def cycles_by_cause(self) -> dict[str, int]:
        """Add those accesses, since it is a real disk."""
        found = super().cycles_by_cause()
        cycles = self.disk_accesses * self.machine.cpu.model.costs.port_access
        return found | {"port accesses": found["port accesses"] + cycles}

    # -- state -----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what is on the way, too."""
        parts = {"organized": super().save(), "service": self.service.save()}
        return {"version": 1, **parts, "disk_accesses": self.disk_accesses}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, "control domain", {"organized": dict, "service": dict, "disk_accesses": COUNT})
        super().load(state["organized"])
        self.service.load(state["service"])
        self.disk_accesses = state["disk_accesses"]
