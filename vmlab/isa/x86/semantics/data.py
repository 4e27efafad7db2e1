"""Moving data: MOV and its kin, PUSH, POP, LEA, XCHG, conversions (SDM vol. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import undefined
from vmlab.isa.x86.operands import KEPT, MASKS, ControlRegister, DebugRegister, Memory, SegmentOperand
from vmlab.isa.x86.registers import DS, EAX, EBP, EBX, EDX, ESP, SS
from vmlab.isa.x86.semantics.control import CONDITIONS, Condition
from vmlab.isa.x86.semantics.control_registers import move_control, move_debug
from vmlab.isa.x86.semantics.multiply import ACCUMULATOR, HIGH, signed
from vmlab.isa.x86.semantics.registry import Semantic, semantic
from vmlab.isa.x86.semantics.segments import load_segment
from vmlab.isa.x86.semantics.stack import drop, peek, pop, push, set_stack_pointer, stack_mask

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


@semantic("mov")
def mov(cpu: Processor, i: Instruction) -> None:
    """MOV in all its forms; a segment register is loaded with its descriptor, SS with an interrupt shadow."""
    destination, source = i.operands
    if isinstance(destination, SegmentOperand):
        load_segment(cpu, destination.index, source.read(cpu) & 0xFFFF)
        if destination.index == SS:
            cpu.interrupt_shadow = True
    elif isinstance(destination, ControlRegister) or isinstance(source, ControlRegister):
        move_control(cpu, destination, source)
    elif isinstance(destination, DebugRegister) or isinstance(source, DebugRegister):
        move_debug(cpu, destination, source)
    else:
        destination.write(cpu, source.read(cpu))


@semantic("movzx")
def movzx(cpu: Processor, i: Instruction) -> None:
    """MOVZX."""
    destination, source = i.operands
    destination.write(cpu, source.read(cpu))


@semantic("movsx", "movsxd")
def movsx(cpu: Processor, i: Instruction) -> None:
    """MOVSX, MOVSXD."""
    destination, source = i.operands
    destination.write(cpu, signed(source.read(cpu), source.size) & MASKS[destination.size])


@semantic("lea")
def lea(cpu: Processor, i: Instruction) -> None:
    """LEA: the address itself."""
    destination, source = i.operands
    if not isinstance(source, Memory):
        raise undefined()
    destination.write(cpu, source.offset(cpu) & MASKS[destination.size])


@semantic("xchg")
def xchg(cpu: Processor, i: Instruction) -> None:
    """XCHG: the memory side is written first, so that a fault leaves the register."""
    left, right = i.operands
    if right.writes_memory:
        left, right = right, left
    a, b = left.modify(cpu), right.read(cpu)
    left.write(cpu, b)
    right.write(cpu, a)


@semantic("push")
def push_(cpu: Processor, i: Instruction) -> None:
    """PUSH: the value before ESP moves; a selector is zero-extended."""
    push(cpu, i.operands[0].read(cpu), i.size)


@semantic("pop")
def pop_(cpu: Processor, i: Instruction) -> None:
    """POP: a memory destination is addressed with ESP already raised."""
    (destination,) = i.operands
    old = cpu.registers[ESP]
    value = pop(cpu, i.size)
    try:
        if isinstance(destination, SegmentOperand):
            load_segment(cpu, destination.index, value & 0xFFFF)
            if destination.index == SS:
                cpu.interrupt_shadow = True
        else:
            destination.write(cpu, value)
    except BaseException:
        cpu.registers[ESP] = old
        raise


@semantic("pusha")
def pusha(cpu: Processor, i: Instruction) -> None:
    """PUSHA: EAX ECX EDX EBX, ESP as it was, EBP ESI EDI."""
    old = cpu.registers[ESP]
    width = i.size >> 3
    mask = stack_mask(cpu)
    # The last store is checked first: it is the lowest address, and nothing may be half done.
    cpu.check(SS, old - 8 * width & mask, width, write=True)
    for number, register in enumerate(cpu.registers[:8], 1):
        cpu.write(SS, old - number * width & mask, width, register & MASKS[i.size])
    set_stack_pointer(cpu, old - 8 * width)


@semantic("popa")
def popa(cpu: Processor, i: Instruction) -> None:
    """POPA: the slot of ESP is skipped."""
    values = [peek(cpu, index, i.size) for index in range(8)]
    keep = ~MASKS[i.size]
    registers = cpu.registers
    for number, value in zip(range(7, -1, -1), values, strict=True):
        if number != ESP:
            registers[number] = registers[number] & keep | value
    drop(cpu, 8, i.size)


@semantic("enter")
def enter(cpu: Processor, i: Instruction) -> None:
    """ENTER: build a stack frame, with the display of `level` outer frames."""
    room, level = i.operands[0].read(cpu), i.operands[1].read(cpu) & 31
    registers, width, mask = cpu.registers, i.size >> 3, stack_mask(cpu)
    old_esp, old_ebp = registers[ESP], registers[EBP]
    try:
        push(cpu, registers[EBP], i.size)
        frame = registers[ESP]
        for outer in range(1, level):
            push(cpu, cpu.read(SS, old_ebp - outer * width & mask, width), i.size)
        if level:
            push(cpu, frame, i.size)
        final = registers[ESP] - room & mask
        cpu.check(SS, final, width, write=True)
    except BaseException:
        registers[ESP] = old_esp
        raise
    set_stack_pointer(cpu, final)
    registers[EBP] = registers[EBP] & KEPT[i.size] | frame & MASKS[i.size]


@semantic("leave")
def leave(cpu: Processor, i: Instruction) -> None:
    """LEAVE: ESP = EBP, pop EBP."""
    registers = cpu.registers
    width = i.size >> 3
    base = registers[EBP] & stack_mask(cpu)
    value = cpu.read(SS, base, width)
    set_stack_pointer(cpu, base + width)
    registers[EBP] = registers[EBP] & KEPT[i.size] | value


@semantic("cbw")
def cbw(cpu: Processor, i: Instruction) -> None:
    """CBW: AL to AX."""
    ACCUMULATOR[16].write(cpu, signed(cpu.registers[EAX] & 0xFF, 8) & 0xFFFF)


@semantic("cwde")
def cwde(cpu: Processor, i: Instruction) -> None:
    """CWDE: AX to EAX."""
    cpu.registers[EAX] = signed(cpu.registers[EAX] & 0xFFFF, 16) & 0xFFFFFFFF


@semantic("cwd")
def cwd(cpu: Processor, i: Instruction) -> None:
    """CWD: the sign of AX into DX."""
    HIGH[16].write(cpu, 0xFFFF if cpu.registers[EAX] & 0x8000 else 0)


@semantic("cdq")
def cdq(cpu: Processor, i: Instruction) -> None:
    """CDQ: the sign of EAX into EDX."""
    cpu.registers[EDX] = 0xFFFFFFFF if cpu.registers[EAX] >> 31 & 1 else 0


@semantic("cdqe")
def cdqe(cpu: Processor, i: Instruction) -> None:
    """CDQE: EAX to RAX."""
    cpu.registers[EAX] = signed(cpu.registers[EAX] & 0xFFFFFFFF, 32) & MASKS[64]


@semantic("cqo")
def cqo(cpu: Processor, i: Instruction) -> None:
    """CQO: the sign of RAX into RDX."""
    cpu.registers[EDX] = MASKS[64] if cpu.registers[EAX] >> 63 else 0


@semantic("xlat")
def xlat(cpu: Processor, i: Instruction) -> None:
    """XLAT: AL = [EBX + AL]."""
    registers = cpu.registers
    offset = registers[EBX] + (registers[EAX] & 0xFF) & MASKS[i.address_size]
    value = cpu.read(i.segment if i.segment >= 0 else DS, offset, 1)
    registers[EAX] = registers[EAX] & ~0xFF | value


def _conditional_move(holds: Condition) -> Semantic:
    def cmov(cpu: Processor, i: Instruction) -> None:
        destination, source = i.operands
        value = source.read(cpu)  # read, and fault, in either case
        if holds(cpu.flags):
            destination.write(cpu, value)
        elif i.size == 32:
            destination.write(cpu, destination.read(cpu))  # clears the upper half in 64-bit mode in either case

    return cmov


def _conditional_set(holds: Condition) -> Semantic:
    def setcc(cpu: Processor, i: Instruction) -> None:
        i.operands[0].write(cpu, 1 if holds(cpu.flags) else 0)

    return setcc


for _suffix, _holds in CONDITIONS.items():
    semantic(f"cmov{_suffix}")(_conditional_move(_holds))
    semantic(f"set{_suffix}")(_conditional_set(_holds))
