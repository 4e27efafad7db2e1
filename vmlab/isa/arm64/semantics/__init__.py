"""What instructions do: the table of makers, filled by the modules of this package."""

from __future__ import annotations

from vmlab.isa.arm64.semantics import arithmetic, branches, logic, memory, multiply, system
from vmlab.isa.arm64.semantics.registry import SEMANTICS, Operation, Processor, operation

__all__ = [
    "SEMANTICS",
    "Operation",
    "Processor",
    "arithmetic",
    "branches",
    "logic",
    "memory",
    "multiply",
    "operation",
    "system",
]
