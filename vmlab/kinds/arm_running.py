"""An emulator of another processor (textbook 18.5.7): an AArch64 computer, interpreted on the host.

The guest is a whole computer with a kernel at EL1 and a program at EL0 (`vmlab/guests/arm64/workload.s`); the host's processor
executes none of its instructions. Whoever has control in the guest, it is the emulator that works.

One step is a guest instruction, or an exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError, VmlabError
from vmlab.guests.arm64 import machine
from vmlab.kinds.journey import DISK_READ, EVENTS, PAGE_FAULT, SYSTEM_CALL, TIMER, Journey, Leg
from vmlab.kinds.part import Part
from vmlab.kinds.running import Running

if TYPE_CHECKING:
    from collections import Counter

    from vmlab.kinds.presets import Preset
    from vmlab.machine.arm64.machine import Arm64Machine

__all__ = ["ArmRunning"]

USER, KERNEL, EMULATOR = "guest0/user", "guest0/kernel", "vmm"
KINDS = {SYSTEM_CALL: "SVC", PAGE_FAULT: "data abort", TIMER: "IRQ", DISK_READ: "SVC"}
FEW = 100  # steps of a system call that is not a read


class ArmRunning(Running):
    """An emulated AArch64 computer.

    Attributes
    ----------
    machine : Arm64Machine
        What is emulated.
    """

    events = EVENTS
    modified = "nothing; the processor is another"

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.machine = machine("workload")
        self._killed = False

    # -- going on ----------------------------------------------------------------------------------------------------------

    def _advance(self, steps: int) -> None:
        if not self.finished:
            self.machine.advance(steps)

    @property
    def finished(self) -> bool:
        return self._killed or self.machine.finished

    def kill(self, name: str) -> None:
        """End the guest, with its emulator: it is a process of the host's."""
        if self.find(name).name not in (USER, KERNEL, EMULATOR):
            raise OptionError(f"{name!r} cannot be ended: choose {KERNEL!r}")
        self._killed = True

    # -- what there is to see ------------------------------------------------------------------------------------------------

    @property
    def consoles(self) -> dict[str, str]:
        return {} if self._killed else {"guest0": self.machine.console}

    def cycles_by_cause(self) -> dict[str, int]:
        return self.machine.cycles_by_cause()

    @property
    def in_control(self) -> str:
        """Who would have the processor, were there one of the guest's kind."""
        if self._killed:
            return "hardware/cpu"
        return _level(self.machine)

    @property
    def is_up(self) -> bool:
        return not self.machine.state.el or self.machine.finished

    @property
    def footprint(self) -> int:
        return int(self.machine.board.memory.size)

    def crash(self) -> tuple[int, int]:
        """There is nothing beside it."""
        return 0, 0

    def parts(self) -> list[Part]:
        guest = self.machine
        hardware = [
            Part("hardware/cpu", "CPU", "hardware", state={"model": "an x86 processor"}),
            Part("hardware/disk", "disk", "hardware", assigned_to=None if self._killed else EMULATOR),
        ]
        if self._killed:
            return hardware
        outcome = {"outcome": guest.outcome} if guest.outcome else {}
        state = {"memory": f"{guest.board.memory.size >> 20} MiB", "cycles an instruction": self._each}
        return [
            Part(USER, "process", "processes", "EL0, emulated", (KERNEL,), (KERNEL,), state=outcome),
            Part(
                KERNEL, f"AArch64 kernel: {guest.name}", "guest kernel", "EL1, emulated", (EMULATOR,),
                state=outcome, counters={"instructions": guest.instructions, **dict(guest.exceptions)},
            ),
            Part(EMULATOR, self.preset.words["vmm"], "vmm", "ring 3", ("hardware/cpu",), state=state, counters=self.cycles_by_cause()),
            *hardware,
        ]  # fmt: skip

    @property
    def _each(self) -> str:
        """Host cycles for each guest instruction."""
        done = self.machine.instructions
        return f"{self.machine.cycles / done:.1f}" if done else "-"

    # -- events ------------------------------------------------------------------------------------------------------------

    def follow(self, event: str) -> Journey:
        """Follow an exception from EL0 to EL1 and back: all of it is the emulator's work, and its cycles are the host's."""
        if event not in self.events:
            raise OptionError(f"there is no event {event!r} to follow: choose one of {', '.join(self.events)}")
        guest = machine("workload")
        while not guest.finished:
            found = self._one(guest, event)
            if found:
                return Journey(event, tuple(found))
        raise VmlabError(f"the guest has ended without a {event}")

    @staticmethod
    def _one(guest: Arm64Machine, event: str) -> list[Leg]:
        """Run until EL0 has been left for EL1 once, and is back; return the legs, if it was for the event."""
        while not guest.finished and guest.state.el:
            guest.advance(1)
        before, transfers, user = _taken(guest.exceptions, event), guest.board.block.transfers, guest.cycles
        while not guest.finished and not guest.state.el:
            user = guest.cycles
            guest.advance(1)
        began, start = guest.cycles, guest.steps
        while not guest.finished and guest.state.el:
            guest.advance(1)
        reads = guest.board.block.transfers > transfers
        right = _taken(guest.exceptions, event) > before and reads == (event == DISK_READ)
        if not right or (event == SYSTEM_CALL and guest.steps - start > FEW):
            return []
        return [
            Leg(USER, f"{KINDS[event]}: EL0 to EL1, by the emulator", began - user),
            Leg(KERNEL, f"{guest.steps - start} steps, each of them interpreted", guest.cycles - began),
            Leg(USER, "the program goes on", 0),
        ]


def _level(guest: Arm64Machine) -> str:
    return KERNEL if guest.state.el else USER


def _taken(exceptions: Counter[str], event: str) -> int:
    """Return how many exceptions of the event's kind have left EL0."""
    return exceptions[f"{KINDS[event]} EL0>EL1"]
