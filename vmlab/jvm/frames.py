"""Frames: one for each method that is being executed.

A frame of the interpreter holds local variables and operand stack in Python, words as signed numbers, a long as its value and a
word that nobody looks at. Frames of compiled code lie on the stack in the simulated memory; a *segment* stands for a run of
them, from the one that the interpreter has called to the last.

Read more: JVMS 2.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.jvm.process import STACK_TOP

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.classes import Method

    Operation = tuple[Callable[[Any, "Frame", Any], None], Any]

__all__ = ["Frame", "Segment"]


class Frame:
    """A method in the interpreter.

    Attributes
    ----------
    operations : list of (callable, object)
        What each instruction does, and with what: shared by all frames of the method.
    locals, stack : list of int
        Local variables and operand stack.
    next : int
        Index of the next instruction: while one is executed, of that behind it.
    again : bool
        True where the next instruction has been begun, and waits for a static initialiser to be begun anew.
    """

    __slots__ = ("again", "locals", "method", "next", "operations", "stack")

    def __init__(self, method: Method, operations: list[Operation], local: list[int]) -> None:
        self.method, self.operations, self.locals = method, operations, local
        self.stack: list[int] = []
        self.next = 0
        self.again = False

    @property
    def index(self) -> int:
        """Index of the instruction that is executed, that a call was made by, or that waits to be begun anew."""
        return self.next if self.again else self.next - 1

    def wait(self) -> None:
        """Begin the present instruction anew, when what is called now has ended."""
        self.next -= 1
        self.again = True

    def give(self, words: tuple[int, ...]) -> None:
        """Take the result of a method that was called."""
        self.stack += words


class Segment:
    """Frames of compiled code, one above the other.

    Attributes
    ----------
    base : int
        ESP above all of it: what its first method's caller had.
    ip, stack, frame : int
        EIP, ESP and EBP with which it goes on.
    result : int
        EAX with which it goes on.
    kind : str
        Type of what its first method returns.
    running : bool
        True where its instructions were used up: it goes on in the midst of them.
    """

    __slots__ = ("base", "frame", "ip", "kind", "result", "running", "stack")

    def __init__(self, base: int = STACK_TOP) -> None:
        self.base = self.stack = base
        self.ip = self.frame = self.result = 0
        self.kind = "V"
        self.running = False

    def give(self, words: tuple[int, ...]) -> None:
        """Take the result of a method that was called: compiled code calls no method that returns a long."""
        if words:
            self.result = words[0] & 0xFFFFFFFF
