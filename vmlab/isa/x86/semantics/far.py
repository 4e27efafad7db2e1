"""Far transfers: JMP, CALL and RET between segments, IRET, and the software interrupts (SDM vol. 3, 5.8 and 6.12).

Simplified: no transfer through a task gate or a TSS descriptor yet (#GP, as for a wrong type), no virtual-8086 mode.
RF in EFLAGS is always 0 (in the frame of a fault it is 1): it holds back instruction breakpoints, which are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import CALL_GATE16, CALL_GATE32, Descriptor, Gate
from vmlab.isa.x86.faults import BP, DB, NP, TS, Fault, general_protection
from vmlab.isa.x86.faults import OF as OVERFLOW_VECTOR
from vmlab.isa.x86.operands import MASKS, FarPointer, Memory
from vmlab.isa.x86.registers import (
    CR0_PE,
    CS,
    DS,
    ES,
    ESP,
    FIXED,
    FS,
    GS,
    NT,
    OF,
    SS,
    VIF,
    VIP,
    VM,
)  # fmt: skip
from vmlab.isa.x86.semantics.flags import writable_flags
from vmlab.isa.x86.semantics.interrupts import deliver, inner_stack
from vmlab.isa.x86.semantics.registry import semantic
from vmlab.isa.x86.semantics.segments import checked_stack_segment, fill, mark_accessed, read_descriptor
from vmlab.isa.x86.semantics.stack import drop, peek, push, set_stack_pointer

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


def check_code(descriptor: Descriptor, selector: int, cpl: int) -> None:
    """Raise the fault of a direct far jump or call to this code segment."""
    error = selector & 0xFFFC
    fits = descriptor.dpl <= cpl if descriptor.is_conforming else selector & 3 <= cpl and descriptor.dpl == cpl
    if not fits:
        raise general_protection(error)
    if not descriptor.present:
        raise Fault(NP, error)


def enter_code(cpu: Processor, selector: int, descriptor: Descriptor, address: int, level: int, offset: int) -> None:
    """Load CS at privilege `level` and jump."""
    if offset > descriptor.limit:
        raise general_protection()
    access = mark_accessed(cpu, descriptor, address)
    fill(cpu.segments[CS], selector & 0xFFFC | level, descriptor, access)
    cpu.ip = offset
    cpu.code_changed()


def _enter_real(cpu: Processor, selector: int, offset: int) -> None:
    code = cpu.segments[CS]
    if offset > code.limit:
        raise general_protection()
    code.set(selector, selector << 4, code.limit, code.access, big=code.big)
    cpu.ip = offset
    cpu.code_changed()


def _resolve(cpu: Processor, selector: int) -> tuple[Descriptor, int]:
    if not selector & 0xFFFC:
        raise general_protection()
    return read_descriptor(cpu, selector)


def _gate(cpu: Processor, selector: int, descriptor: Descriptor) -> Gate:
    """Return the call gate that a selector names; #GP where it names none that this code may use."""
    gate = Gate(descriptor.raw)
    if descriptor.is_segment or gate.type not in (CALL_GATE16, CALL_GATE32):
        raise general_protection(selector & 0xFFFC)
    if gate.dpl < max(cpu.cpl, selector & 3):
        raise general_protection(selector & 0xFFFC)
    if not gate.present:
        raise Fault(NP, selector & 0xFFFC)
    return gate


@semantic("jmpf")
def jump_far(cpu: Processor, i: Instruction) -> None:
    """JMP far, directly or through a call gate (which never raises privilege on a jump)."""
    selector, offset = far_target(cpu, i)
    if not cpu.cr0 & CR0_PE:
        _enter_real(cpu, selector, offset)
        return
    descriptor, address = _resolve(cpu, selector)
    if not descriptor.is_code:
        gate = _gate(cpu, selector, descriptor)
        selector, offset = gate.selector & 0xFFFC, gate.offset
        descriptor, address = _resolve(cpu, selector)
        if not descriptor.is_code:
            raise general_protection(selector)
    check_code(descriptor, selector, cpu.cpl)
    enter_code(cpu, selector, descriptor, address, cpu.cpl, offset)


@semantic("callf")
def call_far(cpu: Processor, i: Instruction) -> None:
    """CALL far, directly or through a call gate."""
    selector, offset = far_target(cpu, i)
    old = cpu.registers[ESP], cpu.ip, cpu.segments[CS].selector
    if not cpu.cr0 & CR0_PE:
        try:
            push(cpu, old[2], i.size)
            push(cpu, old[1], i.size)
            _enter_real(cpu, selector, offset)
        except Fault:
            cpu.registers[ESP] = old[0]
            raise
        return
    descriptor, address = _resolve(cpu, selector)
    if not descriptor.is_code:
        _call_gate(cpu, _gate(cpu, selector, descriptor))
        return
    check_code(descriptor, selector, cpu.cpl)
    try:
        push(cpu, old[2], i.size)
        push(cpu, old[1], i.size)
        enter_code(cpu, selector, descriptor, address, cpu.cpl, offset)
    except Fault:
        cpu.registers[ESP] = old[0]
        raise


def _call_gate(cpu: Processor, gate: Gate) -> None:
    """Call through a gate: to an inner ring with its stack from the TSS, or within the ring."""
    selector, size = gate.selector & 0xFFFC, 32 if gate.type & 8 else 16
    descriptor, address = _resolve(cpu, selector)
    if not descriptor.is_code or descriptor.dpl > cpu.cpl:
        raise general_protection(selector)
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
    parameters = [peek(cpu, index, size) for index in reversed(range(gate.parameters))]
    level, outer_ss = descriptor.dpl, cpu.segments[SS].selector
    with inner_stack(cpu, level, external=0) as stack:
        for value in (outer_ss, old_esp, *parameters, *return_to):
            stack.push(value, size)
        stack.commit()
        enter_code(cpu, selector, descriptor, address, level, gate.offset)


def _drop_outer_segments(cpu: Processor, level: int) -> None:
    """Null the data segments that a return to an outer ring may not keep."""
    for index in (ES, DS, FS, GS):
        register = cpu.segments[index]
        conforming = register.access & 0x1C == 0x1C
        if register.access and not conforming and register.dpl < level:
            register.set(0, 0, 0, 0, big=False)


def _return_code(cpu: Processor, selector: int) -> tuple[Descriptor, int]:
    """Return the code segment that a far return goes to, checked."""
    descriptor, address = _resolve(cpu, selector)
    error, level = selector & 0xFFFC, selector & 3
    fits = descriptor.dpl <= level if descriptor.is_conforming else descriptor.dpl == level
    if not descriptor.is_code or level < cpu.cpl or not fits:
        raise general_protection(error)
    if not descriptor.present:
        raise Fault(NP, error)
    return descriptor, address


def _far_return(cpu: Processor, offset: int, selector: int, slots: int, size: int, extra: int = 0) -> None:
    """Leave to `selector:offset` with `slots` stack entries used, and the outer SS:ESP above `extra` bytes."""
    descriptor, address = _return_code(cpu, selector)
    level = selector & 3
    if level == cpu.cpl:
        enter_code(cpu, selector, descriptor, address, level, offset)
        drop(cpu, slots, size)
        drop(cpu, extra, 8)
        return
    base = cpu.registers[ESP]
    set_stack_pointer(cpu, base + extra)
    try:
        esp, ss = peek(cpu, slots, size), peek(cpu, slots + 1, size) & 0xFFFF
    finally:
        cpu.registers[ESP] = base
    stack, stack_address = checked_stack_segment(cpu, ss, level)
    if offset > descriptor.limit:
        raise general_protection()
    stack_access = mark_accessed(cpu, stack, stack_address)
    enter_code(cpu, selector, descriptor, address, level, offset)
    fill(cpu.segments[SS], ss, stack, stack_access)
    set_stack_pointer(cpu, esp + extra)
    _drop_outer_segments(cpu, level)


@semantic("retf")
def return_far(cpu: Processor, i: Instruction) -> None:
    """RET far, to the same or an outer ring."""
    offset, selector = peek(cpu, 0, i.size), peek(cpu, 1, i.size) & 0xFFFF
    extra = i.operands[0].read(cpu) if i.operands else 0
    if cpu.cr0 & CR0_PE:
        _far_return(cpu, offset, selector, 2, i.size, extra)
    else:
        _enter_real(cpu, selector, offset)
        drop(cpu, 2, i.size)
        drop(cpu, extra, 8)


@semantic("iret")
def iret(cpu: Processor, i: Instruction) -> None:
    """IRET: return from an interrupt to the same or an outer ring. Sensitive, and not privileged."""
    if cpu.flags & NT and cpu.cr0 & CR0_PE:
        raise Fault(TS, cpu.tr.selector & 0xFFFC)  # a task return: there are no task switches yet
    size = i.size
    offset, selector, flags = peek(cpu, 0, size), peek(cpu, 1, size) & 0xFFFF, peek(cpu, 2, size)
    if not cpu.cr0 & CR0_PE:
        _enter_real(cpu, selector, offset)
        drop(cpu, 3, size)
        changed = 0x7FD5 if size == 16 else 0x247FD5
        cpu.flags = cpu.flags & ~changed | flags & changed | FIXED
        cpu.flags_changed()
        return
    # What may change is decided by the privilege level *before* the return.
    # RF is not taken back: with no instruction breakpoints it would be gone after one instruction, unseen.
    changed = writable_flags(cpu, size)
    if cpu.cpl == 0 and size == 32:
        changed |= VIF | VIP
        if flags & VM:
            raise general_protection()  # no virtual-8086 mode yet
    _far_return(cpu, offset, selector, 3, size)
    cpu.flags = cpu.flags & ~changed | flags & changed | FIXED
    cpu.flags_changed()


@semantic("int")
def int_(cpu: Processor, i: Instruction) -> None:
    """INT n: through the gate, whose DPL must admit this ring."""
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
