"""A compiled method: its code in memory, and what the runtime must know of places in it.

Read more: Paleczny, Vick and Click, "The Java HotSpot Server Compiler", JVM 2001 (what a compiler tells its runtime).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.disassembler import disassemble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.isa.x86.disassembler import Line
    from vmlab.jvm.classes import Method
    from vmlab.jvm.verifier import Verified

__all__ = ["BOUNDS", "CALL", "OVERFLOW", "RETURN", "SERVICE", "CompiledMethod", "Layout", "Site"]

CALL, RETURN, BOUNDS, OVERFLOW, SERVICE = range(0x40, 0x45)
"""Vectors by which compiled code asks for the runtime: to call the method in EAX; to return to the interpreter; an index is outside of
its array (array in EAX, index in ECX); the stack is full; to do what the site says."""


class Site(NamedTuple):
    """A place in compiled code at which the runtime may get control.

    Attributes
    ----------
    code : CompiledMethod
        Whose place it is.
    instruction : int
        Its index.
    depth : int
        Words of the operand stack that are in the frame then.
    kind : str
        `"call"`, `"fault"`, `"bounds"`; or what is asked for: `"bytecode"` to do the instruction as the interpreter does, `"interface"` to find the
        method of an interface, `"cast"`, `"leave"` to go on in the interpreter.
    cell : int
        Address of two words in which the site keeps what was found.
    """

    code: CompiledMethod
    instruction: int
    depth: int
    kind: str
    cell: int = 0


class Layout(NamedTuple):
    """Where a frame of compiled code has its words, relative to EBP.

        +8 + ...  parameters, the first deepest      +4 return address      +0 EBP of the caller
        -4 - ...  other local variables              below: operand stack

    Attributes
    ----------
    parameters, others : int
        Words of both kinds of local variables.
    """

    parameters: int
    others: int

    def local(self, index: int) -> int:
        """Return the place of a local variable."""
        if index < self.parameters:
            return 8 + 4 * (self.parameters - 1 - index)
        return -4 * (index - self.parameters + 1)

    def stack(self, slot: int) -> int:
        """Return the place of a word of the operand stack."""
        return -4 * (self.others + slot + 1)

    def top(self, depth: int) -> int:
        """Return where ESP points with so many words on the operand stack."""
        return -4 * (self.others + depth)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledMethod:
    """A method in machine code.

    Attributes
    ----------
    method : Method
        What was compiled.
    verified : Verified
        Its bytecode.
    start : int
        Address of its code.
    code : bytes
        Its code as it was made.
    places : mapping of int to int
        Address of the code of each instruction that is reached, by index.
    """

    method: Method
    verified: Verified
    start: int
    code: bytes
    places: Mapping[int, int] = field(repr=False)

    @property
    def layout(self) -> Layout:
        """Where its frames have their words."""
        assert self.method.code is not None
        return Layout(self.method.words, self.method.code.max_locals - self.method.words)

    def disassemble(self) -> list[Line]:
        """Return its code as text."""
        return disassemble(self.code, self.start)
