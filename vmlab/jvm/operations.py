"""The interpreter's table: what each instruction does, by name.

An operation is a function of the runtime, the frame and the instruction's operand; the frame's `next` stands behind the
instruction already. An operation that has looked something up in the constant pool puts a quicker one in its own place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.jvm import operations_control, operations_numbers, operations_objects
from vmlab.jvm.bytecode import BRANCHES

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.classes import Method
    from vmlab.jvm.frames import Frame, Operation
    from vmlab.jvm.runtime import Runtime
    from vmlab.jvm.verifier import Verified

__all__ = ["OPERATIONS", "operations_of"]

OPERATIONS: dict[str, Callable[[Any, Frame, Any], None]] = {
    **operations_numbers.OPERATIONS,
    **operations_control.OPERATIONS,
    **operations_objects.OPERATIONS,
}


def operations_of(method: Method, verified: Verified) -> list[Operation]:
    """Return what the instructions of a method do; the list is made once, and changes as constants are looked up."""
    if method.operations is None:
        method.operations = []
        for index, code in enumerate(verified.code):
            function = OPERATIONS.get(code.name, _never)
            if code.opcode.operand in BRANCHES and code.opcode.operand in "jw" and code.operand <= index:
                method.operations.append((operations_control.loop, (function, code.operand)))
            else:
                method.operations.append((function, code.operand))
    return method.operations


def _never(vm: Runtime, frame: Frame, operand: Any) -> None:  # noqa: ANN401 - of any instruction
    """Stand for instructions that the verifier refuses where they can be reached."""
    raise AssertionError(frame.method.title)
