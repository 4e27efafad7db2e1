"""A process of a host's operating system: an address space, registers, and what its kernel keeps of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vmlab.machine.state import COUNT, LONG, Entries, Items, check_state

__all__ = ["BASE", "END", "Process"]

BASE = 0x400000
"""Where a program lies in its address space; what it asks for later is mapped behind it."""
END = 0x800000
NEVER = 1 << 62


@dataclass(slots=True)
class Process:
    """A process.

    Attributes
    ----------
    name : str
        For display.
    pid : int
        Its number.
    root : int
        Host-physical address of its page tables' root.
    pages : dict
        Host-physical frame of each of its pages, by linear address.
    brk : int
        End of the memory that it may use: a page below it is mapped when it is touched.
    registers : list of int
        EAX to EDI.
    ip, flags : int
        Where it goes on, and with which flags.
    wake : int
        Virtual time (instructions of the host's processor) from which on it may run.
    output : bytearray
        What it has printed.
    calls : Counter
        Its system calls, by name.
    outcome : str or None
        `"exit"`, `"killed"`, or None while it lives.
    instructions : int
        That it has retired.
    """

    name: str
    pid: int
    root: int
    brk: int = BASE
    pages: dict[int, int] = field(default_factory=dict)
    registers: list[int] = field(default_factory=lambda: [0] * 8)
    ip: int = BASE
    flags: int = 0x202
    wake: int = 0
    output: bytearray = field(default_factory=bytearray)
    calls: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    outcome: str | None = None
    instructions: int = 0

    @property
    def console(self) -> str:
        """What it has printed, as text."""
        return self.output.decode("utf-8", "replace")

    def save(self) -> dict[str, Any]:
        """Save as plain data; its pages are in memory."""
        return {
            "version": 1,
            "pages": dict(self.pages),
            "registers": list(self.registers),
            "output": bytes(self.output),
            "calls": dict(self.calls),
            "outcome": self.outcome,
            **{name: getattr(self, name) for name in ("brk", "ip", "flags", "wake", "faults", "instructions")},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        numbers = {
            "brk": LONG,
            "ip": LONG,
            "flags": LONG,
            "wake": range(NEVER + 1),
            "faults": COUNT,
            "instructions": COUNT,
        }
        parts = {
            "pages": Entries(LONG, COUNT),
            "registers": Items(LONG, 8),
            "output": bytes,
            "calls": Entries(str, COUNT),
        }
        check_state(state, "process", {**numbers, **parts, "outcome": (str, type(None))})
        self.pages, self.registers = dict(state["pages"]), list(state["registers"])
        self.output, self.calls = bytearray(state["output"]), Counter(state["calls"])
        for name in (*numbers, "outcome"):
            setattr(self, name, state[name])
