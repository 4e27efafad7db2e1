"""AND, OR, XOR, NOT, TEST: CF and OF cleared, AF (undefined in the manual) cleared too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import MASKS
from vmlab.isa.x86.semantics.arithmetic import KEEP, status
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


@semantic("and")
def and_(cpu: Processor, i: Instruction) -> None:
    """AND."""
    destination, source = i.operands
    r = destination.modify(cpu) & source.read(cpu)
    destination.write(cpu, r)
    cpu.flags = cpu.flags & KEEP | status(r, i.size)


@semantic("or")
def or_(cpu: Processor, i: Instruction) -> None:
    """OR."""
    destination, source = i.operands
    r = destination.modify(cpu) | source.read(cpu)
    destination.write(cpu, r)
    cpu.flags = cpu.flags & KEEP | status(r, i.size)


@semantic("xor")
def xor(cpu: Processor, i: Instruction) -> None:
    """XOR."""
    destination, source = i.operands
    r = destination.modify(cpu) ^ source.read(cpu)
    destination.write(cpu, r)
    cpu.flags = cpu.flags & KEEP | status(r, i.size)


@semantic("test")
def test(cpu: Processor, i: Instruction) -> None:
    """TEST: flags of the AND."""
    left, right = i.operands
    cpu.flags = cpu.flags & KEEP | status(left.read(cpu) & right.read(cpu), i.size)


@semantic("not")
def not_(cpu: Processor, i: Instruction) -> None:
    """NOT: no flags."""
    (destination,) = i.operands
    destination.write(cpu, destination.modify(cpu) ^ MASKS[i.size])
