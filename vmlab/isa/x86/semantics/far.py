"""Far transfers: JMP and CALL between segments, through gates and to tasks; software interrupts (SDM vol. 3, 5.8, 6.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import CALL_GATE16, CALL_GATE32, CALL_GATE64, Descriptor, Gate
from vmlab.isa.x86.faults import BP, DB, NP, Fault, general_protection
from vmlab.isa.x86.faults import OF as OVERFLOW_VECTOR
from vmlab.isa.x86.operands import MASKS, FarPointer, Memory
from vmlab.isa.x86.registers import CS, ESP, OF, SS
from vmlab.isa.x86.semantics.flags import require_iopl_3
from vmlab.isa.x86.semantics.interrupts import deliver, inner_stack
from vmlab.isa.x86.semantics.long_mode import (
    RING_STACKS,
    check_target,
    check_width,
    enter_inner_stack,
    push_frame,
    require_64_bit,
    task_stack,
)
from vmlab.isa.x86.semantics.registry import semantic
from vmlab.isa.x86.semantics.segments import fill, has_real_segments, mark_accessed, read_descriptor
from vmlab.isa.x86.semantics.stack import peek, push
from vmlab.isa.x86.semantics.tasks import CALL, JUMP, is_task, transfer

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


def far_target(cpu: Processor, i: Instruction) -> tuple[int, int]:
    """Return selector and offset of a far operand, immediate or in memory."""
    operand = i.operands[0]
    if isinstance(operand, FarPointer):
        return operand.selector, operand.offset
    if not isinstance(operand, Memory):
        raise general_protection()
    start, width = operand.offset(cpu), i.size >> 3
    offset = cpu.read(operand.segment, start, width)
    return cpu.read(operand.segment, start + width & MASKS[i.address_size], 2), offset


def check_code(cpu: Processor, descriptor: Descriptor, selector: int) -> None:
    """Raise the fault of a direct far jump or call to this code segment."""
    error = selector & 0xFFFC
    cpl = cpu.cpl
    fits = descriptor.dpl <= cpl if descriptor.is_conforming else selector & 3 <= cpl and descriptor.dpl == cpl
    if not fits:
        raise general_protection(error)
    check_width(cpu, descriptor, error)
    if not descriptor.present:
        raise Fault(NP, error)


def enter_code(cpu: Processor, selector: int, descriptor: Descriptor, address: int, level: int, offset: int) -> None:
    """Load CS at privilege `level` and jump."""
    check_target(cpu, descriptor, offset)
    access = mark_accessed(cpu, descriptor, address)
    fill(cpu.segments[CS], selector & 0xFFFC | level, descriptor, access)
    cpu.ip = offset
    cpu.code_changed()


def enter_real(cpu: Processor, selector: int, offset: int) -> None:
    """Load CS with a paragraph number and jump."""
    code = cpu.segments[CS]
    if offset > code.limit:
        raise general_protection()
    code.set(selector, selector << 4, code.limit, code.access, big=code.big)
    cpu.ip = offset
    cpu.code_changed()


def resolve(cpu: Processor, selector: int) -> tuple[Descriptor, int]:
    """Return the descriptor of a far transfer and its address; #GP for none."""
    if not selector & 0xFFFC:
        raise general_protection()
    return read_descriptor(cpu, selector)


def _gate(cpu: Processor, selector: int, descriptor: Descriptor) -> Gate:
    """Return the call gate that a selector names; #GP where it names none that this code may use."""
    gate = Gate(descriptor.raw)
    if descriptor.is_segment or gate.type not in ((CALL_GATE64,) if cpu.long_mode else (CALL_GATE16, CALL_GATE32)):
        raise general_protection(selector & 0xFFFC)
    if gate.dpl < max(cpu.cpl, selector & 3):
        raise general_protection(selector & 0xFFFC)
    if not gate.present:
        raise Fault(NP, selector & 0xFFFC)
    if cpu.long_mode:
        whole, _ = read_descriptor(cpu, selector, wide=True)
        if whole.upper_type:
            raise general_protection(selector & 0xFFFC)
        gate = Gate(whole.raw)
    return gate


@semantic("jmpf")
def jump_far(cpu: Processor, i: Instruction) -> None:
    """JMP far: direct, through a call gate (which never raises privilege on a jump), or to another task."""
    selector, offset = far_target(cpu, i)
    if has_real_segments(cpu):
        enter_real(cpu, selector, offset)
        return
    descriptor, address = resolve(cpu, selector)
    if is_task(descriptor) and not cpu.long_mode:
        transfer(cpu, selector, descriptor, JUMP)
        return
    if not descriptor.is_code:
        gate = _gate(cpu, selector, descriptor)
        selector, offset = gate.selector & 0xFFFC, gate.offset
        descriptor, address = resolve(cpu, selector)
        if not descriptor.is_code:
            raise general_protection(selector)
        if cpu.long_mode:
            require_64_bit(cpu, descriptor, selector)
    check_code(cpu, descriptor, selector)
    enter_code(cpu, selector, descriptor, address, cpu.cpl, offset)


@semantic("callf")
def call_far(cpu: Processor, i: Instruction) -> None:
    """CALL far: direct, through a call gate, or to another task, nested in this one."""
    selector, offset = far_target(cpu, i)
    old = cpu.registers[ESP], cpu.ip, cpu.segments[CS].selector
    if has_real_segments(cpu):
        try:
            push(cpu, old[2], i.size)
            push(cpu, old[1], i.size)
            enter_real(cpu, selector, offset)
        except Fault:
            cpu.registers[ESP] = old[0]
            raise
        return
    descriptor, address = resolve(cpu, selector)
    if is_task(descriptor) and not cpu.long_mode:
        transfer(cpu, selector, descriptor, CALL)
        return
    if not descriptor.is_code:
        _call_gate(cpu, _gate(cpu, selector, descriptor))
        return
    check_code(cpu, descriptor, selector)
    try:
        push(cpu, old[2], i.size)
        push(cpu, old[1], i.size)
        enter_code(cpu, selector, descriptor, address, cpu.cpl, offset)
    except Fault:
        cpu.registers[ESP] = old[0]
        raise


def _call_gate(cpu: Processor, gate: Gate) -> None:
    """Call through a gate: to an inner ring with its stack from the TSS, or within the ring."""
    selector, size = gate.selector & 0xFFFC, 64 if cpu.long_mode else 32 if gate.type & 8 else 16
    descriptor, address = resolve(cpu, selector)
    if not descriptor.is_code or descriptor.dpl > cpu.cpl:
        raise general_protection(selector)
    if cpu.long_mode:
        require_64_bit(cpu, descriptor, selector)
    if not descriptor.present:
        raise Fault(NP, selector)
    return_to = (cpu.segments[CS].selector, cpu.ip)
    old_esp = cpu.registers[ESP]
    if descriptor.is_conforming or descriptor.dpl == cpu.cpl:
        try:
            for value in return_to:
                push(cpu, value, size)
            enter_code(cpu, selector, descriptor, address, cpu.cpl, gate.offset)
        except Fault:
            cpu.registers[ESP] = old_esp
            raise
        return
    if cpu.long_mode:
        frame = [cpu.segments[SS].selector, old_esp, *return_to]
        check_target(cpu, descriptor, gate.offset)
        pointer = task_stack(cpu, RING_STACKS + 8 * descriptor.dpl, 0)
        top = push_frame(cpu, pointer, frame, descriptor.dpl, 0)
        enter_code(cpu, selector, descriptor, address, descriptor.dpl, gate.offset)
        enter_inner_stack(cpu, descriptor.dpl)
        cpu.registers[ESP] = top
        return
    parameters = [peek(cpu, index, size) for index in reversed(range(gate.parameters))]
    level, outer_ss = descriptor.dpl, cpu.segments[SS].selector
    with inner_stack(cpu, level, external=0) as stack:
        for value in (outer_ss, old_esp, *parameters, *return_to):
            stack.push(value, size)
        stack.commit()
        enter_code(cpu, selector, descriptor, address, level, gate.offset)


@semantic("int")
def int_(cpu: Processor, i: Instruction) -> None:
    """INT n: through the gate, whose DPL must admit this ring."""
    require_iopl_3(cpu)
    deliver(cpu, i.operands[0].read(cpu), software=True)


@semantic("int3")
def int3(cpu: Processor, i: Instruction) -> None:
    """INT3: the breakpoint."""
    deliver(cpu, BP, software=True)


@semantic("int1")
def int1(cpu: Processor, i: Instruction) -> None:
    """INT1: #DB, without the check of the gate's DPL."""
    deliver(cpu, DB)


@semantic("into")
def into(cpu: Processor, i: Instruction) -> None:
    """INTO: #OF where OF is set."""
    if cpu.flags & OF:
        deliver(cpu, OVERFLOW_VECTOR, software=True)
