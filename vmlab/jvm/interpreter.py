"""The interpreter's loop: fetch an instruction, find what it does in the table, do it.

The definition of what bytecode means here; compiled code must come to the same.

Read more: JVMS 2.11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.jvm.frames import Frame, Segment
from vmlab.jvm.throwing import Raise, Thrown, make, unwind

if TYPE_CHECKING:
    from vmlab.jvm.runtime import Runtime

__all__ = ["run"]


def run(vm: Runtime, limit: int) -> bool:
    """Run a program until it ends, or has executed so many instructions: True where it has ended.

    Parameters
    ----------
    vm : Runtime
        The program.
    limit : int
        Bytecodes that the interpreter has executed and instructions of compiled code, together, since the beginning.
    """
    while vm.frames:
        budget = limit - vm.bytecodes - vm.process.compiled_instructions
        frame = vm.frames[-1]
        if budget <= 0:
            if isinstance(frame, Frame):
                frame.again = True  # its next instruction is the present one, for whoever looks
            return False
        try:
            if isinstance(frame, Segment):
                vm.compiled.run(frame, budget)
            else:
                _interpret(vm, frame, budget)
        except Raise as raised:
            unwind(vm, make(vm, raised))
        except Thrown as thrown:
            unwind(vm, thrown.reference)
    return True


def _interpret(vm: Runtime, frame: Frame, budget: int) -> None:
    """Execute instructions of a frame until another is the innermost, or the budget is used up."""
    operations = frame.operations
    vm.switched = frame.again = False
    count = 0
    try:
        while count < budget and not vm.switched:
            function, operand = operations[frame.next]
            frame.next += 1
            count += 1
            function(vm, frame, operand)
    finally:
        vm.bytecodes += count
