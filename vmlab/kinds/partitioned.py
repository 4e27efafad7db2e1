"""Type 0: firmware divides one server into partitions, each with processors, memory and devices of its own (textbook 18.5.2).

A partition's kernel runs on its own processor as on a bare machine: nothing of it is emulated, and no one takes the processor
away. The firmware keeps the partitions apart: a partition's addresses are those of its zone of memory, and it cannot name others.
What there are too few of is shared through a control partition (partition 0): it has the disk, and serves the other partitions'
virtual disks by channels of the firmware. A partition's kernel may be a hypervisor of its own, where the processors have
extensions for that.

Simplified: the zones are memories of their own here, of which the firmware says at which address of the server each begins; the
processors take turns of `TURN` steps. The system cannot be saved, recorded or rewound yet.

Read more: Borden, Hennessy and Rymarczyk, "Multiple Operating Systems on One Processor Complex", IBM Systems Journal 28(1), 1989
(PR/SM); Oracle VM Server for SPARC Administration Guide (control, service and guest domains; logical domain channels).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError, StateError
from vmlab.kinds.host_disk import joined
from vmlab.kinds.served import CONTROL, DiskService
from vmlab.machine.machine import Machine
from vmlab.machine.trace import Hop
from vmlab.vmm.guest import Guest
from vmlab.vmm.system import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image

__all__ = ["Partitioned"]

TURN = 1_000
CALL = "calls of the firmware"


class Partitioned(System):
    """A server in partitions.

    Attributes
    ----------
    machines : list of Machine
        Processor, memory and devices of each partition.
    zones : list of int
        Address of the server's memory at which each partition's zone begins.
    ways : Counter
        Calls of the firmware.
    """

    technique = "partitions"
    memory_virtualizations = ("none",)

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Divide the server."""
        if len(images) < 2:
            raise OptionError("a partitioned server has a control partition and others: give two images at least")
        own = [[disk for disk in self.copy_disks(image) if disk] for image in images]
        whole, starts = joined([disk for disks in own for disk in disks])
        self.service = DiskService(whole, self._requested, self._replied)
        self.ways: Counter[str] = Counter()
        self.machines: list[Machine] = []
        self.guests = []
        begin = iter(starts)
        for index, image in enumerate(images):
            places = [(disk, next(begin)) for disk in own[index]]
            disks = [whole] if index == CONTROL else [self.service.disk(index, disk, start) for disk, start in places]
            machine = Machine(memory_size, self.host_model, self.trace, disks, processors)
            machine.most_idle = self.most_idle
            machine.guest = index
            self.machines.append(machine)
            self.guests.append(Guest(image.name, image, machine.cpus, machine.platform))
        self.service.connect(self.machines[CONTROL].platform.add_channel())
        self.zones = [index * memory_size for index in range(len(images))]
        self._turn_end = TURN

    @property
    def machine(self) -> Machine:  # type: ignore[override] # there are several
        """The processor, memory and devices of the partition whose turn it is."""
        return self.machines[self.current]

    @property
    def computers(self) -> Sequence[Machine]:
        """Those of all partitions."""
        return self.machines

    # -- running ---------------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps of all machines."""
        return sum(machine.steps for machine in self.machines)

    @property
    def finished(self) -> bool:
        """True when no partition but the control partition can go on."""
        return all(guest.outcome is not None for guest in self.guests[CONTROL + 1 :])

    def can_run(self, index: int) -> bool:
        """Say whether a partition's processor has anything to do."""
        return self.service.can_run(index, self.guests[index])

    def concerns(self, index: int) -> bool:
        """Say whether what the present processor does next is for a partition: its own work, or what it waits for."""
        return self.current == index or self.service.is_waiting(index)

    def advance(self, steps: int) -> None:
        """Run the processors side by side."""
        goal = self.steps + steps
        while self.steps < goal and not self.finished:
            self.choose()
            machine, guest = self.machine, self.guests[self.current]
            left = min(goal - self.steps, self._turn_end - machine.steps, self.limit - machine.retired)
            if guest.outcome is None:
                machine.run(max(1, left))
            if machine.outcome:
                self.end_guest(self.current, machine.outcome, machine.status)
            elif machine.retired >= self.limit:
                self.end_guest(self.current, "limit")
            machine.in_host = False  # the firmware has done what it was called for

    def choose(self) -> None:
        """Go on to the next processor, where it is its turn."""
        if not self.can_run(self.current) or self.machine.steps >= self._turn_end:
            self._next()

    def _next(self) -> None:
        count = len(self.machines)
        for distance in range(1, count + 1):
            index = (self.current + distance) % count
            if self.can_run(index):
                self.current = index
                self._turn_end = self.machine.steps + TURN
                return
        for index, guest in enumerate(self.guests):
            if guest.outcome is None:
                self.end_guest(index, "halt")  # its disk will never answer: the control partition is gone

    def allow(self, instructions: int | None) -> None:
        """Let each partition retire so many instructions more."""
        super().allow(instructions)
        for machine in self.machines:
            machine.most_idle = self.most_idle

    def interrupted(self, guest: int) -> None:
        """Go on, if its processor has halted for good."""
        if self.machines[guest].outcome == "halt":
            self.machines[guest].outcome = None

    # -- the firmware ------------------------------------------------------------------------------------------------------

    def _requested(self, guest: int, sector: int) -> None:
        machine = self.machines[guest]
        machine.in_host, machine.cpu.horizon = True, 0
        self._go(f"guest{guest}/kernel", "firmware", f"its disk needs sector {sector}: a message into the channel")
        self._go("firmware", f"guest{CONTROL}/kernel", "the channel's interrupt")

    def _replied(self, guest: int, sector: int) -> None:
        self._go(f"guest{CONTROL}/kernel", "firmware", f"sector {sector} is in the channel")
        self._go("firmware", f"guest{guest}/kernel", "the sector is in the drive's buffer")

    def _go(self, origin: str, target: str, what: str) -> None:
        call = target == "firmware"
        self.ways[CALL] += call
        if self.trace.on:
            time = self.guest.instructions
            self.trace.emit(Hop(self.steps, time, self.current, origin, target, what, call * self.price))

    @property
    def price(self) -> int:
        """Return what a call of the firmware costs: as a hypercall does."""
        return self.host_model.costs.vmm_hypercall

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of all processors, and of the firmware."""
        found: Counter[str] = Counter()
        current = self.current
        for index in range(len(self.machines)):
            self.current = index
            found.update(self.hardware_cycles())
        self.current = current
        return dict(found) | {CALL: self.ways[CALL] * self.price}

    # -- state -----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Refuse: not yet."""
        raise StateError("a partitioned server cannot be saved or recorded yet: run it, and follow what happens")

    def load(self, state: dict[str, Any]) -> None:
        """Refuse: not yet."""
        raise StateError("a partitioned server cannot be loaded yet")
