"""Shifts and rotates (SDM vol. 2).

The count is taken modulo 32, or 64 for operands of 64 bits; a count of 0 changes neither the value of the destination
nor the flags. Where the manual leaves OF undefined (counts above 1) it is computed as for the last single step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import MASKS
from vmlab.isa.x86.registers import CF, OF
from vmlab.isa.x86.semantics.arithmetic import KEEP, status
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.operands import Operand
    from vmlab.isa.x86.semantics.processor import Processor

KEEP_ROTATE = ~(CF | OF)


def _finish(cpu: Processor, result: int, size: int, carry: int, overflow: int) -> None:
    cpu.flags = cpu.flags & KEEP | status(result, size) | carry | (OF if overflow else 0)


def _unshifted(cpu: Processor, destination: Operand, value: int) -> None:
    """Do what a count of 0 does: in 64-bit mode the upper half of a register is cleared by it too."""
    if not destination.writes_memory:
        destination.write(cpu, value)


@semantic("shl")
def shl(cpu: Processor, i: Instruction) -> None:
    """SHL: CF is the last bit shifted out on the left."""
    destination, source = i.operands
    size = i.size
    count = source.read(cpu) & (63 if size == 64 else 31)
    value = destination.modify(cpu)
    if count:
        wide = value << count
        r = wide & MASKS[size]
        carry = wide >> size & 1
        destination.write(cpu, r)
        _finish(cpu, r, size, carry, (r ^ value << (count - 1)) >> (size - 1) & 1)
    else:
        _unshifted(cpu, destination, value)


@semantic("shr")
def shr(cpu: Processor, i: Instruction) -> None:
    """SHR: CF is the last bit shifted out on the right; OF the old sign, as for one step."""
    destination, source = i.operands
    size = i.size
    count = source.read(cpu) & (63 if size == 64 else 31)
    value = destination.modify(cpu)
    if count:
        before = value >> (count - 1)
        r = before >> 1
        destination.write(cpu, r)
        _finish(cpu, r, size, before & 1, (before ^ r) >> (size - 1) & 1)
    else:
        _unshifted(cpu, destination, value)


@semantic("sar")
def sar(cpu: Processor, i: Instruction) -> None:
    """SAR: the sign is kept."""
    destination, source = i.operands
    size = i.size
    count = source.read(cpu) & (63 if size == 64 else 31)
    value = destination.modify(cpu)
    if count:
        signed = value - (value >> (size - 1) << size)
        before = signed >> (count - 1)
        r = before >> 1 & MASKS[size]
        destination.write(cpu, r)
        _finish(cpu, r, size, before & 1, 0)
    else:
        _unshifted(cpu, destination, value)


@semantic("rol")
def rol(cpu: Processor, i: Instruction) -> None:
    """ROL: CF is the bit that came round to the bottom."""
    destination, source = i.operands
    size = i.size
    count = source.read(cpu) & (63 if size == 64 else 31)
    value = destination.modify(cpu)
    if count:
        turn = count % size
        r = (value << turn | value >> (size - turn)) & MASKS[size]
        destination.write(cpu, r)
        carry = r & 1
        cpu.flags = cpu.flags & KEEP_ROTATE | carry | (OF if r >> (size - 1) ^ carry else 0)
    else:
        _unshifted(cpu, destination, value)


@semantic("ror")
def ror(cpu: Processor, i: Instruction) -> None:
    """ROR: CF is the bit that came round to the top."""
    destination, source = i.operands
    size = i.size
    count = source.read(cpu) & (63 if size == 64 else 31)
    value = destination.modify(cpu)
    if count:
        turn = count % size
        r = (value >> turn | value << (size - turn)) & MASKS[size]
        destination.write(cpu, r)
        top = r >> (size - 1)
        cpu.flags = cpu.flags & KEEP_ROTATE | top | (OF if top ^ r >> (size - 2) & 1 else 0)
    else:
        _unshifted(cpu, destination, value)


@semantic("rcl")
def rcl(cpu: Processor, i: Instruction) -> None:
    """RCL: rotate left through CF, a ring of size + 1 bits."""
    destination, source = i.operands
    size = i.size
    count = (source.read(cpu) & (63 if size == 64 else 31)) % (size + 1)
    value = destination.modify(cpu)
    if count:
        ring = value | (cpu.flags & CF) << size
        ring = ring << count | ring >> (size + 1 - count)
        r = ring & MASKS[size]
        carry = ring >> size & 1
        destination.write(cpu, r)
        cpu.flags = cpu.flags & KEEP_ROTATE | carry | (OF if r >> (size - 1) ^ carry else 0)
    else:
        _unshifted(cpu, destination, value)


@semantic("rcr")
def rcr(cpu: Processor, i: Instruction) -> None:
    """RCR: rotate right through CF."""
    destination, source = i.operands
    size = i.size
    count = (source.read(cpu) & (63 if size == 64 else 31)) % (size + 1)
    value = destination.modify(cpu)
    if count:
        ring = value | (cpu.flags & CF) << size
        ring = ring >> count | ring << (size + 1 - count)
        r = ring & MASKS[size]
        destination.write(cpu, r)
        top = r >> (size - 1)
        cpu.flags = cpu.flags & KEEP_ROTATE | ring >> size & 1 | (OF if top ^ r >> (size - 2) & 1 else 0)
    else:
        _unshifted(cpu, destination, value)


@semantic("shld")
def shld(cpu: Processor, i: Instruction) -> None:
    """SHLD: shift left, filled from the top of the second operand. 16 bits with a count above 16: undefined, as a ring."""
    destination, source, amount = i.operands
    size = i.size
    count = amount.read(cpu) & (63 if size == 64 else 31)
    value, fill = destination.modify(cpu), source.read(cpu)
    if count:
        chain = (value << size | fill) << size | value
        wide = chain >> (2 * size - count)
        r = wide & MASKS[size]
        destination.write(cpu, r)
        previous = chain >> (2 * size - count + 1)
        _finish(cpu, r, size, wide >> size & 1, (r ^ previous) >> (size - 1) & 1)
    else:
        _unshifted(cpu, destination, value)


@semantic("shrd")
def shrd(cpu: Processor, i: Instruction) -> None:
    """SHRD: shift right, filled from the bottom of the second operand."""
    destination, source, amount = i.operands
    size = i.size
    count = amount.read(cpu) & (63 if size == 64 else 31)
    value, fill = destination.modify(cpu), source.read(cpu)
    if count:
        chain = (value << size | fill) << size | value
        before = chain >> (count - 1)
        r = before >> 1 & MASKS[size]
        destination.write(cpu, r)
        _finish(cpu, r, size, before & 1, (before ^ r) >> (size - 1) & 1)
    else:
        _unshifted(cpu, destination, value)
