"""Repeated string instructions in bulk: as many elements at once as lie in RAM, in one page each, within the budget.

Each element counts as one retired instruction, as in the interpreter; what it does otherwise (faults, devices, elements
across two pages, writes to code or to what someone watches, copies onto half an element) is left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import KEPT, MASKS
from vmlab.isa.x86.registers import DF, DS, EAX, ECX, EDI, ES, ESI
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.machine.memory import WATCHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics import Semantic
    from vmlab.machine.processor import Processor

__all__ = ["BULK", "repeat"]

PAGE = 0x1000
WORTH = 4
"""Elements from which on this is quicker."""


def _room(cpu: Processor, i: Instruction, segment: int, number: int) -> int:
    """Return how many elements, from that of a register on, lie in one page and before the offset wraps around."""
    mask, width = MASKS[i.address_size], i.size >> 3
    offset = cpu.registers[number] & mask
    inside = cpu.linear_address(segment, offset) & PAGE - 1
    if not cpu.flags & DF:
        return min(PAGE - inside, mask + 1 - offset) // width
    if inside + width > PAGE or offset + width > mask + 1:
        return 0
    return min(inside, offset) // width + 1


def _place(cpu: Processor, i: Instruction, segment: int, number: int, count: int, *, write: bool) -> int | None:
    """Return where in RAM the lowest of so many elements begins; None where the interpreter is to reach it."""
    offset, width = cpu.registers[number] & MASKS[i.address_size], i.size >> 3
    if cpu.flags & DF:
        offset -= (count - 1) * width
    place, size = cpu.place(segment, offset, count * width, write=write), count * width
    if place is None or not write:
        return place
    page, ram = place >> 12, cpu.ram
    if ram.pages[page] & WATCHED or ram.is_code(page, place & PAGE - 1, size):
        return None  # who watches sees each write; what has been decoded may be this very instruction
    return place


def _done(cpu: Processor, i: Instruction, count: int, *numbers: int) -> bool:
    values, mask, kept, step = cpu.registers, MASKS[i.address_size], KEPT[i.address_size], count * (i.size >> 3)
    if cpu.flags & DF:
        step = -step
    for number in numbers:
        values[number] = values[number] & kept | values[number] + step & mask
    left = (values[ECX] & mask) - count
    values[ECX] = values[ECX] & kept | left
    cpu.retired += count
    if not left:
        cpu.ip = cpu.ip + i.length & cpu.address_mask
    return True


def _fill(cpu: Processor, i: Instruction, most: int) -> bool:
    """STOS."""
    count = min(most, _room(cpu, i, ES, EDI))
    if count < WORTH:
        return False
    place = _place(cpu, i, ES, EDI, count, write=True)
    if place is None:
        return False
    value = (cpu.registers[EAX] & MASKS[i.size]).to_bytes(i.size >> 3, "little")
    cpu.ram.write_bytes(place, value * count)
    return _done(cpu, i, count, EDI)


def _copy(cpu: Processor, i: Instruction, most: int) -> bool:
    """MOVS."""
    segment, width = i.segment if i.segment >= 0 else DS, i.size >> 3
    count = min(most, _room(cpu, i, segment, ESI), _room(cpu, i, ES, EDI))
    if count < WORTH:
        return False
    origin = _place(cpu, i, segment, ESI, count, write=False)
    place = _place(cpu, i, ES, EDI, count, write=True)
    if origin is None or place is None:
        return False
    size, down = count * width, cpu.flags & DF
    data = bytes(cpu.ram.data[origin : origin + size])
    ahead = origin - place if down else place - origin
    if 0 < ahead < size:  # it reads what it has written: the same again and again
        if ahead < width:
            return False
        times = size // ahead + 1
        data = (data[-ahead:] * times)[-size:] if down else (data[:ahead] * times)[:size]
    cpu.ram.write_bytes(place, data)
    return _done(cpu, i, count, ESI, EDI)


def _within(bulk: Callable[[Processor, Instruction, int], bool]) -> Callable[[Processor, Instruction, int], bool]:
    """Wrap what does up to a number of elements, so that it keeps to the count and to a budget."""

    def some(cpu: Processor, i: Instruction, budget: int) -> bool:
        most = min(cpu.registers[ECX] & MASKS[i.address_size], budget)
        return bool(i.repeat) and most >= WORTH and bulk(cpu, i, most)

    return some


BULK: dict[Semantic, Callable[[Processor, Instruction, int], bool]] = {
    SEMANTICS["stos"]: _within(_fill),
    SEMANTICS["movs"]: _within(_copy),
}
"""Semantics of one element → many, within a budget; False where the interpreter is to do the next one."""


def repeat(cpu: Processor, i: Instruction) -> None:
    """Do more elements of an instruction that `Processor.run` is in the middle of, one of which it is about to count."""
    if cpu.place(ES, cpu.registers[EDI] & MASKS[i.address_size], i.size >> 3, write=True) is None:
        return  # a device, most often
    decoded = cpu.kept  # not any more, if that element has written over it, or taken its page from the TLB
    bulk = BULK.get(decoded[0]) if decoded else None
    if bulk:
        bulk(cpu, i, cpu.horizon - cpu.retired - 1)
