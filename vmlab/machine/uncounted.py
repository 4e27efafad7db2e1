"""Instructions that are executed and not counted: a hypervisor's own, in the midst of its guest's.

A performance counter may be told which instructions it is to leave out, by their addresses or their opcodes (Itanium's do
both). The counter of retired instructions here is such a one. Virtual time
stands still in such instructions, and the counter never stops the processor behind one.

Read more: Intel, Itanium 2 Processor Reference Manual, Performance Monitoring (instruction address range check, opcode match).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from vmlab.machine.intercepts import semantic_of

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics import Semantic
    from vmlab.machine.processor import Processor

__all__ = ["Uncounted", "leaving_out"]


@dataclass(slots=True)
class Uncounted:
    """What a processor does not count.

    Attributes
    ----------
    code : range
        Linear addresses of code that a hypervisor has generated.
    places : set of int
        Linear addresses, there, of instructions that are not counted.
    executed : int
        How many of these have been executed.
    """

    code: range = range(0)
    places: set[int] = field(default_factory=set)
    executed: int = 0

    def semantic_of(self, instruction: Instruction, linear: int) -> Semantic:
        """Return what executes the instruction at an address."""
        semantic = semantic_of(instruction)
        return leaving_out(semantic) if linear in self.places else semantic


@cache
def leaving_out(semantic: Semantic) -> Semantic:
    """Return what executes an instruction that is not counted: whoever executes it counts it afterwards."""

    def act(cpu: Processor, instruction: Instruction) -> None:
        semantic(cpu, instruction)
        cpu.retired -= 1
        cpu.uncounted.executed += 1

    return act  # type: ignore[return-value]  # what executes is always the whole processor
