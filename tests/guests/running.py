"""Runs a guest on the bare machine and says how it ended; `run` is where another technique comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmlab.isa.x86.registers import EAX, EBX
from vmlab.machine.loader import place
from vmlab.machine.machine import Machine
from vmlab.machine.trace import Trace, Trap

MEMORY = 8 << 20


@dataclass
class Ran:
    """How a run ended; `traps` are the events that hardware delivered."""

    console: str
    outcome: str | None
    status: int | None
    machine: Machine
    traps: list[Trap] = field(default_factory=list)


def run_native(image, steps=2_000_000):
    """Boot an image on the bare machine."""
    traps = []
    trace = Trace(detail="events")
    trace.observers.append(lambda event: traps.append(event) if isinstance(event, Trap) else None)
    machine = Machine(MEMORY, trace=trace)
    boot = place(image, machine.memory)
    machine.cpu.ip = boot.eip
    machine.cpu.registers[EAX], machine.cpu.registers[EBX] = boot.eax, boot.ebx
    machine.run(steps)
    return Ran(machine.platform.console, machine.outcome, machine.status, machine, traps)
