"""Programming-environment virtualization (textbook 18.5.6): a program of bytecode on a managed runtime.

The runtime is `vmlab.jvm`: an interpreter, a compiler, a garbage collector, in a process of a computer. A virtual machine of this
kind virtualizes no hardware: the program was written for it, and has no kernel of its own.

One step is one bytecode, or one instruction of compiled code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError, VmlabError
from vmlab.guests import workload_disk
from vmlab.jvm.java_machine import THRESHOLD, JavaMachine
from vmlab.kinds.journey import DISK_READ, SYSTEM_CALL, Journey, Leg
from vmlab.kinds.part import Part
from vmlab.kinds.running import Running

if TYPE_CHECKING:
    from vmlab.kinds.presets import Preset

__all__ = ["AT_ONCE", "USUAL", "JavaRunning"]

USUAL, AT_ONCE = THRESHOLD, 1
"""After how many calls a method is compiled."""
PROGRAM, RUNTIME, SYSTEM = "program", "runtime", "host/kernel"
NATIVE = {SYSTEM_CALL: "vmlab.Machine.process()", DISK_READ: "vmlab.Machine.read(int, byte[])"}
PORTS = "port accesses"
SYSTEM_CAUSES = ("system", "system calls", "traps", "page walks")


class JavaRunning(Running):
    """A Java program on its virtual machine.

    Parameters
    ----------
    preset : Preset
        What it is.
    threshold : int
        Calls, or rounds of its loops, after which a method is compiled.

    Attributes
    ----------
    machine : JavaMachine
        What runs.
    """

    events = (SYSTEM_CALL, DISK_READ)
    modified = "the program"

    def __init__(self, preset: Preset, threshold: int) -> None:
        self.preset = preset
        self.threshold = threshold
        self.machine = JavaMachine("Workload", threshold=threshold, disk=workload_disk())
        self._killed = False

    # -- going on ----------------------------------------------------------------------------------------------------------

    def _advance(self, steps: int) -> None:
        done = self.machine.bytecodes + self.machine.instructions
        if steps and not self.finished:
            self.machine.run(done + steps)

    @property
    def finished(self) -> bool:
        return self._killed or self.machine.outcome == "exit"

    def kill(self, name: str) -> None:
        """End the program; the runtime goes with it, as a process does."""
        if self.find(name).name not in (PROGRAM, RUNTIME):
            raise OptionError(f"{name!r} cannot be ended: choose {PROGRAM!r} or {RUNTIME!r}")
        self._killed = True

    # -- what there is to see ------------------------------------------------------------------------------------------------

    @property
    def consoles(self) -> dict[str, str]:
        return {} if self._killed else {PROGRAM: self.machine.console}

    def cycles_by_cause(self) -> dict[str, int]:
        return dict(self.machine.cycles_by_cause)

    @property
    def in_control(self) -> str:
        """The program, as long as it can go on; between its steps the runtime has nothing left to do."""
        return SYSTEM if self._killed else RUNTIME if self.finished else PROGRAM

    @property
    def is_up(self) -> bool:
        return bool(self.machine.bytecodes)

    @property
    def footprint(self) -> int:
        return int(self.machine.process.machine.memory.size)

    def crash(self) -> tuple[int, int]:
        """There is nothing beside it."""
        return 0, 0

    def parts(self) -> list[Part]:
        system = self.machine.process.machine
        cpu = system.cpu
        software = [] if self._killed else self._software()
        return [
            *software,
            Part(SYSTEM, self.preset.words["host"], "host kernel", "ring 0", ("hardware/cpu",)),
            Part(
                "hardware/cpu",
                "CPU",
                "hardware",
                f"ring {cpu.cpl}",
                state={"model": cpu.model.name},
                counters={"instructions": cpu.retired},
            ),
            Part("hardware/memory", "memory", "hardware", state={"size": f"{system.memory.size >> 20} MiB"}),
            Part("hardware/disk", "disk", "hardware", assigned_to=SYSTEM),
        ]

    def _software(self) -> list[Part]:
        machine, words = self.machine, self.preset.words
        outcome = {"outcome": machine.outcome} if self.finished else {}
        program = Part(
            PROGRAM, f"{machine.main}: {words['guest']}", "processes", "checked by the runtime", (RUNTIME,), (RUNTIME,),
            state=outcome, counters={"bytecodes": machine.bytecodes, "compiled instructions": machine.instructions},
        )  # fmt: skip
        state = {"compiled methods": len(machine.compiled), "collections": len(machine.collections)}
        return [program, Part(RUNTIME, words["vmm"], "runtime", "ring 3", (SYSTEM,), (SYSTEM,), state=state)]

    # -- events ------------------------------------------------------------------------------------------------------------

    def follow(self, event: str) -> Journey:
        """Follow one call of a native method: interpreted, so that its bytecode is one step."""
        if event not in self.events:
            raise OptionError(
                f"there is no {event!r} to follow in a program of bytecode: choose one of {', '.join(self.events)}"
            )
        machine = JavaMachine("Workload", jit=False, disk=workload_disk())
        name = NATIVE[event]
        while machine.outcome != "exit":
            before, calls = machine.cycles_by_cause, machine.runtime.calls[name]
            machine.run(machine.bytecodes + 1)
            if machine.runtime.calls[name] > calls:
                return Journey(event, self._legs(name, before, machine.cycles_by_cause))
        raise VmlabError(f"the program has ended without a {event}")

    @staticmethod
    def _legs(name: str, before: dict[str, int], after: dict[str, int]) -> tuple[Leg, ...]:
        """Divide what a bytecode has cost among the layers by its causes."""
        spent = {cause: cycles - before.get(cause, 0) for cause, cycles in after.items()}
        ports, bytecode = spent.pop(PORTS, 0), spent.pop("interpretation", 0)
        system = sum(spent.pop(cause, 0) for cause in SYSTEM_CAUSES)
        disk = (Leg("hardware/disk", "words through a port", ports),) if ports else ()
        back = (Leg(SYSTEM, "gives the bytes", 0),) if ports else ()
        return (
            Leg(PROGRAM, f"bytecode: invokestatic {name}", bytecode),
            Leg(RUNTIME, "native method: checks its arguments, and asks the system", sum(spent.values())),
            Leg(SYSTEM, "system call", system),
            *disk,
            *back,
            Leg(RUNTIME, "gives the result", 0),
            Leg(PROGRAM, "the program goes on", 0),
        )
