"""Searching for the value of a register: an engine of its own looks at it after each instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import FLAG_BITS, SEGMENT_NAMES
from vmlab.machine.search.base import Search
from vmlab.machine.when import CONTROLS, READERS, TABLE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.processor import Processor
    from vmlab.machine.recording import Recording
    from vmlab.machine.when import RegisterIs

__all__ = ["RegisterSearch"]

MIXED = frozenset(("eflags", "rflags"))
"""Registers that a guest below a hypervisor shares with it, bit by bit."""
DIRECT = frozenset(
    name
    for name in READERS
    if name not in MIXED and name not in (*SEGMENT_NAMES, *CONTROLS, *TABLE_NAMES, "ldtr", "tr")
) - {"if", "vm", "rf", "vif", "vip"}
"""Registers and flags that it changes itself, in the real processor."""
UNSTEADY = frozenset(
    ("ip", "eip", "rip", "sp", "esp", "rsp", "spl", "eflags", "rflags", *(name.lower() for name in FLAG_BITS))
)


class RegisterSearch(Search):
    """A register gets a value; the search itself is the engine."""

    def __init__(self, recording: Recording, condition: RegisterIs, guest: int) -> None:
        super().__init__(recording, condition, guest)
        if condition.cpu >= len(self.guest.vcpus):
            raise OptionError(f"the guest has no processor {condition.cpu}: it has {len(self.guest.vcpus)}")
        machine = self.system.machine
        self.virtual = bool(machine.host_entry)
        self._engine = machine.engine
        self.last = self.seen = 0
        self._touched = False

    def begin(self) -> None:
        self.system.machine.engine = self  # it has run(), as an engine has

    def end(self) -> None:
        self.system.machine.engine = self._engine

    def look(self) -> int:
        value: int = self.condition.read(self.system.cpu_state(self.index, self.condition.cpu))
        return value

    def decide(self, before: int, after: int) -> tuple[int, int] | None:
        return (before, after) if self.condition.fits(before, after) else None

    def touched(self) -> bool:
        self._note()
        found, self._touched = self._touched, False
        return found

    def _note(self) -> None:
        """Compare with what was seen last; between two looks several steps may have passed outside of `run`."""
        value, steps = self.look(), self.system.steps
        if self.condition.fits(self.last, value) or (steps - self.seen > 1 and not (self.virtual and self._steady)):
            self._touched = True
        self.last, self.seen = value, steps

    @property
    def _steady(self) -> bool:
        """True for a register that a hypervisor's handling of an exit gives one new value at most."""
        return self.condition.name not in UNSTEADY

    def run(self, cpu: Processor, until: int, go_on: Callable[[], int]) -> None:
        """Execute as `Processor.run`, looking; never past the first end."""
        self._note()
        if cpu.attention:
            return
        cpu.horizon, cpu.deadline = until, cpu.platform.clock.deadline
        read, fits, value = self.condition.read, self.condition.fits, self.last
        watched = cpu is self.guest.vcpus[self.condition.cpu]
        if self.virtual:  # what the guest does not change itself stands in the VCPU alone, and changes outside of here
            name = self.condition.name
            watched = self.system.current == self.index and (name in DIRECT or name in MIXED)
            read = read if name in DIRECT else lambda _: self.look()
        try:
            while cpu.retired < cpu.horizon:
                cpu.execute()
                if watched:
                    new = read(cpu)
                    if new != value:
                        if fits(value, new):
                            self._touched = True
                        value = new
        finally:
            self.last, self.seen = value, self.system.steps
