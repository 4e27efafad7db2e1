"""Repeated string instructions in bulk: as many elements at once as lie in RAM, in one page each, within the budget.

Each element counts as one retired instruction, as in the interpreter; what it does otherwise (faults, devices, copies
onto themselves, anything backwards) is left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import CS, DF, EAX, ECX, EDI, ES, ESI, FS, GS
from vmlab.isa.x86.semantics import SEMANTICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics import Semantic
    from vmlab.machine.processor import Processor

__all__ = ["BULK"]

PAGE = 0x1000
WORTH = 4
"""Elements from which on this is quicker."""


def _room(cpu: Processor, i: Instruction, budget: int, *registers: int) -> int:
    """Return how many elements can be done at once."""
    if not i.repeat or i.address_size != 32 or i.segment in (CS, ES, FS, GS) or cpu.flags & DF:
        return 0
    width = i.size >> 3
    count = min(cpu.registers[ECX], budget)
    for register in registers:
        count = min(count, (PAGE - (cpu.registers[register] & PAGE - 1)) // width)
    return count if count >= WORTH else 0


def _writes_code(cpu: Processor, place: int, size: int) -> bool:
    """Say whether a write would change what has been decoded: it may be this very instruction."""
    return cpu.ram.is_code(place >> 12, place & PAGE - 1, size)


def _done(cpu: Processor, i: Instruction, count: int, *registers: int) -> bool:
    values = cpu.registers
    for register in registers:
        values[register] = values[register] + count * (i.size >> 3) & 0xFFFFFFFF
    values[ECX] -= count
    cpu.retired += count
    if not values[ECX]:
        cpu.ip = cpu.ip + i.length & 0xFFFFFFFF
    return True


def _fill(cpu: Processor, i: Instruction, budget: int) -> bool:
    """STOS."""
    count, width = _room(cpu, i, budget, EDI), i.size >> 3
    start = cpu.registers[EDI]
    place = cpu.writable_place(start >> 12)
    if not count or place is None or _writes_code(cpu, place | start & PAGE - 1, count * width):
        return False
    value = (cpu.registers[EAX] & (1 << i.size) - 1).to_bytes(width, "little")
    cpu.ram.write_bytes(place | start & PAGE - 1, value * count)
    return _done(cpu, i, count, EDI)


def _copy(cpu: Processor, i: Instruction, budget: int) -> bool:
    """MOVS."""
    count, width = _room(cpu, i, budget, ESI, EDI), i.size >> 3
    source, target = cpu.registers[ESI], cpu.registers[EDI]
    origin, place = cpu.readable_place(source >> 12), cpu.writable_place(target >> 12)
    if not count or origin is None or place is None:
        return False
    origin, place = origin | source & PAGE - 1, place | target & PAGE - 1
    if origin < place < origin + count * width:
        return False  # it copies what it has just written
    if _writes_code(cpu, place, count * width):
        return False
    cpu.ram.write_bytes(place, bytes(cpu.ram.data[origin : origin + count * width]))
    return _done(cpu, i, count, ESI, EDI)


BULK: dict[Semantic, Callable[[Processor, Instruction, int], bool]] = {
    SEMANTICS["stos"]: _fill,
    SEMANTICS["movs"]: _copy,
}
"""Semantics of one element → many, within a budget; False where the interpreter is to do the next one."""
