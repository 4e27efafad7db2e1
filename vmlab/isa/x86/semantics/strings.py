"""String instructions (SDM vol. 2).

One call does one element; with a REP prefix the instruction stays where it is until the count is used up, so that
interrupts, faults and the step limit find it between two elements, as the manual demands, and each element counts as
one retired step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import KEPT, MASKS
from vmlab.isa.x86.registers import DF, DS, EAX, ECX, EDI, EDX, ES, ESI, ZF
from vmlab.isa.x86.semantics.arithmetic import subtract_values
from vmlab.isa.x86.semantics.io import check_port
from vmlab.isa.x86.semantics.multiply import ACCUMULATOR
from vmlab.isa.x86.semantics.registry import Semantic, semantic

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


def _repeated(element: Callable[[Processor, Instruction], None]) -> Semantic:
    """Wrap the semantics of one element in the rules of REP, REPE and REPNE."""

    def execute(cpu: Processor, i: Instruction) -> None:
        if not i.repeat:
            element(cpu, i)
            return
        mask = MASKS[i.address_size]
        registers = cpu.registers
        count = registers[ECX] & mask
        if not count:
            return
        element(cpu, i)
        count -= 1
        registers[ECX] = registers[ECX] & KEPT[i.address_size] | count
        if not count:
            return
        compares = i.row.repeat == "repz"
        if compares and bool(cpu.flags & ZF) != (i.repeat == "rep"):
            return
        cpu.ip = cpu.ip - i.length & cpu.address_mask
        if cpu.repeat_quickly and not compares:
            cpu.repeat_quickly(cpu, i)

    return execute


def _advance(cpu: Processor, i: Instruction, *numbers: int) -> None:
    mask, kept, step = MASKS[i.address_size], KEPT[i.address_size], i.size >> 3
    if cpu.flags & DF:
        step = -step
    registers = cpu.registers
    for number in numbers:
        registers[number] = registers[number] & kept | registers[number] + step & mask


def _source(cpu: Processor, i: Instruction) -> int:
    segment = i.segment if i.segment >= 0 else DS
    return cpu.read(segment, cpu.registers[ESI] & MASKS[i.address_size], i.size >> 3)


def _destination(cpu: Processor, i: Instruction) -> int:
    return cpu.registers[EDI] & MASKS[i.address_size]


@semantic("movs")
@_repeated
def movs(cpu: Processor, i: Instruction) -> None:
    """MOVS: [EDI] = [ESI]."""
    cpu.write(ES, _destination(cpu, i), i.size >> 3, _source(cpu, i))
    _advance(cpu, i, ESI, EDI)


@semantic("stos")
@_repeated
def stos(cpu: Processor, i: Instruction) -> None:
    """STOS: [EDI] = accumulator."""
    cpu.write(ES, _destination(cpu, i), i.size >> 3, cpu.registers[EAX] & MASKS[i.size])
    _advance(cpu, i, EDI)


@semantic("lods")
@_repeated
def lods(cpu: Processor, i: Instruction) -> None:
    """LODS: accumulator = [ESI]."""
    ACCUMULATOR[i.size].write(cpu, _source(cpu, i))
    _advance(cpu, i, ESI)


@semantic("cmps")
@_repeated
def cmps(cpu: Processor, i: Instruction) -> None:
    """CMPS: flags of [ESI] - [EDI]."""
    left = _source(cpu, i)
    right = cpu.read(ES, _destination(cpu, i), i.size >> 3)
    cpu.flags = subtract_values(cpu, left, right, 0, i.size)
    _advance(cpu, i, ESI, EDI)


@semantic("scas")
@_repeated
def scas(cpu: Processor, i: Instruction) -> None:
    """SCAS: flags of accumulator - [EDI]."""
    right = cpu.read(ES, _destination(cpu, i), i.size >> 3)
    cpu.flags = subtract_values(cpu, cpu.registers[EAX] & MASKS[i.size], right, 0, i.size)
    _advance(cpu, i, EDI)


@semantic("ins")
@_repeated
def ins(cpu: Processor, i: Instruction) -> None:
    """INS: [EDI] = port DX. The destination is checked first: a port read cannot be taken back."""
    port, width = cpu.registers[EDX] & 0xFFFF, i.size >> 3
    check_port(cpu, port, width)
    offset = _destination(cpu, i)
    cpu.check(ES, offset, width, write=True)
    cpu.write(ES, offset, width, cpu.port_read(port, width))
    _advance(cpu, i, EDI)


@semantic("outs")
@_repeated
def outs(cpu: Processor, i: Instruction) -> None:
    """OUTS: port DX = [ESI]."""
    port, width = cpu.registers[EDX] & 0xFFFF, i.size >> 3
    check_port(cpu, port, width)
    cpu.port_write(port, width, _source(cpu, i))
    _advance(cpu, i, ESI)
