"""No virtualization: the operating system owns the computer (Figure 18.1, left half). The measure of all techniques."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.machine import Machine
from vmlab.machine.state import check_state
from vmlab.machine.trace import ControlWrite
from vmlab.vmm.guest import Guest
from vmlab.vmm.system import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image

__all__ = ["Native"]


class Native(System):
    """One operating system on the bare computer."""

    technique = "native"
    memory_virtualizations = ("none",)

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer; the one guest is what runs on it."""
        if len(images) != 1:
            raise OptionError(f"natively one system runs on a computer, not {len(images)}: choose a hypervisor")
        self.machine = Machine(memory_size, self.host_model, self.trace, self.copy_disks(images[0]), processors)
        self.machine.most_idle = self.most_idle
        for index, cpu in enumerate(self.machine.cpus):
            cpu.on_control = partial(self._control, index)
        self.guests = [Guest(images[0].name, images[0], self.machine.cpus, self.machine.platform)]

    def _control(self, cpu: int, register: str, old: int, new: int) -> None:
        if self.trace.on:
            self.trace.emit(ControlWrite(self.steps + 1, self.machine.retired, 0, register, old, new, cpu=cpu))

    @property
    def steps(self) -> int:
        """Steps of the machine."""
        return self.machine.steps

    def advance(self, steps: int) -> None:
        """Run the machine."""
        machine = self.machine
        goal = machine.steps + steps
        while not self.finished and machine.steps < goal:
            machine.run(min(goal - machine.steps, self.limit - machine.retired))
            if machine.outcome:
                self.end_guest(0, machine.outcome, machine.status)
            elif machine.retired >= self.limit:
                self.end_guest(0, "limit")

    def allow(self, instructions: int | None) -> None:
        """Let the system retire so many instructions more."""
        super().allow(instructions)
        self.machine.most_idle = self.most_idle
        if self.machine.outcome == "limit":
            self.machine.outcome = None

    def interrupted(self, guest: int) -> None:
        """Go on, if the machine has halted for good."""
        if self.machine.outcome == "halt":
            self.machine.outcome = None

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of the hardware alone."""
        return self.hardware_cycles()

    def save(self) -> dict[str, Any]:
        """Save the machine and the guest's outcome."""
        guest = self.guests[0]
        return {"version": 1, "machine": self.machine.save(), "outcome": guest.outcome, "status": guest.status}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        none = type(None)
        check_state(state, "native system", {"machine": dict, "outcome": (str, none), "status": (int, none)})
        self.machine.load(state["machine"])
        self.guests[0].end(state["outcome"], state["status"])
