"""What executes an instruction, in a guest or not.

`semantic_of` gives an instruction its semantics; where it may lead out of a guest, with guards in front, one of each make of
processor, which have nothing to do outside of a guest. A guard raises a `GuestExit`, or does what the instruction does
otherwise in a guest, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import ControlRegister, DebugRegister
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.machine.svm import intercepts as svm
from vmlab.machine.vmx import intercepts as vmx

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics import Semantic
    from vmlab.machine.processor import Processor

    Guard = Callable[[Processor, Instruction], bool | None]

__all__ = ["semantic_of"]


def _no_guard(cpu: Processor, i: Instruction) -> None:
    """It leads out of no guest of this make."""


def _guarded(semantic: Semantic, intel: Guard, amd: Guard) -> Semantic:
    def act(cpu: Processor, i: Instruction) -> None:
        if not cpu.non_root or not (intel if cpu.svm.vmcb is None else amd)(cpu, i):
            semantic(cpu, i)

    return act  # type: ignore[return-value]  # what performs is always the whole processor


_GUARDED: dict[str, Semantic] = {
    name: _guarded(SEMANTICS[name], vmx.GUARDS.get(name, _no_guard), svm.GUARDS.get(name, _no_guard))
    for name in {**vmx.GUARDS, **svm.GUARDS}
}
_GUARDED_MOVE = _guarded(SEMANTICS["mov"], vmx.move, svm.move)


def semantic_of(instruction: Instruction) -> Semantic:
    """Return what executes an instruction, in a guest or not."""
    mnemonic = instruction.mnemonic
    if mnemonic == "mov":
        special = any(isinstance(each, (ControlRegister, DebugRegister)) for each in instruction.operands)
        return _GUARDED_MOVE if special else SEMANTICS["mov"]
    return _GUARDED.get(mnemonic) or SEMANTICS[mnemonic]
