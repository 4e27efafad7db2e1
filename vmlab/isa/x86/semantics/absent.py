"""Instructions of features that no processor model here has: undefined (#UD), as CPUID says.

An instruction leaves this file when a model gets its feature. Where to read more: Intel SDM vol. 2, section
"Exceptions" of each instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import undefined
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


@semantic("monitor", "mwait", "xgetbv", "xsetbv")
def absent(cpu: Processor, i: Instruction) -> None:
    """Raise #UD: the processor does not have this instruction."""
    raise undefined()
