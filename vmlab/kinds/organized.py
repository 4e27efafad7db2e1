"""What the hypervisors of all kinds share: a computer with a disk, guests whose disks lie on it, ways through host software.

A *way* is a step of control or of a request from one part of the system to another that costs something: a return to user mode,
a world switch, a switch of threads. It is counted by what it is; its cycles are a constant of the cost model for each, as
everywhere.

Here every guest's disk is a part of the computer's disk, and the hypervisor itself drives it: that is a type 1 hypervisor which
does all, as VMware ESX is. The others replace what is different with them.

Simplified: a sector is read at once, and no other guest runs as long.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.kinds.host_disk import HostDisk, ServedDisk, joined
from vmlab.machine.state import COUNT, Entries, check_state
from vmlab.machine.trace import Hop
from vmlab.vmm.hardware_assist import HardwareAssist

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.disk import Disk
    from vmlab.machine.image import Image

__all__ = ["CALL", "THREAD", "USER", "WAYS", "WORLD", "Organized"]

WORLD, USER, CALL, THREAD = (
    "world switches between VMM and host",
    "returns to user mode",
    "system calls of the host",
    "switches of threads",
)
WAYS = {WORLD: "host_world_switch", USER: "host_user_return", CALL: "host_system_call", THREAD: "host_scheduler"}
"""Kinds of ways, and the field of the cost model that says what one costs."""


class Organized(HardwareAssist):
    """A hypervisor and what is around it.

    Attributes
    ----------
    ways : Counter
        Ways gone, by their kind.
    """

    def build(self, images: Sequence[Image], *arguments: Any) -> None:  # noqa: ANN401 - as of the base
        """Build the computer with a disk that holds those of all guests."""
        self.ways: Counter[str] = Counter()
        self._own = [[disk for disk in super(Organized, self).copy_disks(image) if disk] for image in images]
        self._whole, self._starts = joined([disk for disks in self._own for disk in disks])
        super().build(images, *arguments)
        self.driver = HostDisk(self.machine, self._whole.sectors)

    def host_disks(self) -> Sequence[Disk | None]:
        """One disk."""
        return (self._whole,)

    def copy_disks(self, image: Image) -> list[Disk | None]:
        """Return disks for the guest that is being made, which lie on the computer's disk."""
        index = len(self.guests)
        starts = iter(self._starts[sum(map(len, self._own[:index])) :])
        return [self.serve(index, disk, next(starts)) for disk in self._own[index]]

    def serve(self, guest: int, disk: Disk, start: int) -> Disk:
        """Return a guest's disk that begins at a sector of the computer's."""
        return ServedDisk(disk, lambda sector: self.read_sector(guest, start + sector))

    def read_sector(self, guest: int, sector: int) -> bytes:
        """Read a sector of the computer's disk for a guest."""
        self.go(0, "vmm", "hardware/disk", f"the VMM's driver reads sector {sector}")
        return self.driver.read(sector)

    # -- ways ------------------------------------------------------------------------------------------------------------

    def go(self, count: int, origin: str, target: str, what: str, way: str = "") -> None:
        """Note a way: `count` of a kind of `WAYS`, or none where what it costs is counted by itself."""
        if way:
            self.ways[way] += count
        if self.trace.on:
            cycles = count * self.price(way) if way else 0
            time = self.guest.instructions
            self.trace.emit(Hop(self.steps, time, self.current, origin, target, what, cycles))

    def price(self, way: str) -> int:
        """Return what one way of a kind costs."""
        return int(getattr(self.machine.cpu.model.costs, WAYS[way]))

    def cycles_by_cause(self) -> dict[str, int]:
        """Add the ways."""
        return super().cycles_by_cause() | {way: count * self.price(way) for way, count in sorted(self.ways.items())}

    # -- state -----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the ways, too."""
        return {"version": 1, "hypervisor": super().save(), "ways": dict(self.ways)}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, self.technique, {"hypervisor": dict, "ways": Entries(str, COUNT)})
        super().load(state["hypervisor"])
        self.ways = Counter(state["ways"])
