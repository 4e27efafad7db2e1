"""Delivery of an interrupt or exception in long mode, from 64-bit and from compatibility code (SDM vol. 3, 6.14).

Gates have 16 bytes and lead to 64-bit code alone. The stack is that of the interrupt stack table which the gate names,
or that of the inner ring, or stays; it is aligned to 16 bytes. The frame, from high to low addresses, always holds
SS, RSP, RFLAGS, CS, RIP [, error code], of 8 bytes each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import INTERRUPT_GATE64, TRAP_GATE64, Descriptor, Gate
from vmlab.isa.x86.faults import ERROR_IDT, NP, Fault, general_protection
from vmlab.isa.x86.registers import CS, ESP, IF, NT, RF, SS, TF
from vmlab.isa.x86.semantics.long_mode import (
    INTERRUPT_STACKS,
    RING_STACKS,
    check_target,
    enter_inner_stack,
    push_frame,
    require_64_bit,
    task_stack,
)
from vmlab.isa.x86.semantics.segments import fill, mark_accessed, read_descriptor

if TYPE_CHECKING:
    from vmlab.isa.x86.semantics.processor import Processor


def read_long_gate(cpu: Processor, vector: int, *, software: bool, external: int) -> Gate:
    """Return the gate of a vector, checked for type, privilege and presence."""
    error = vector * 8 + ERROR_IDT | external
    if vector * 16 + 15 > cpu.idtr_limit:
        raise general_protection(error)
    address = cpu.idtr_base + vector * 16
    gate = Gate(cpu.read_system(address, 8) | cpu.read_system(address + 8, 8) << 64)
    if gate.access & 0x10 or gate.type not in (INTERRUPT_GATE64, TRAP_GATE64):
        raise general_protection(error)
    if software and gate.dpl < cpu.cpl:
        raise general_protection(error)
    if not gate.present:
        raise Fault(NP, error)
    return gate


def _handler_code(cpu: Processor, gate: Gate, ext: int) -> tuple[Descriptor, int]:
    """Return the code segment of a gate and its address, checked."""
    if not gate.selector & 0xFFFC:
        raise general_protection(ext)
    descriptor, address = read_descriptor(cpu, gate.selector, external=ext)
    error = gate.selector & 0xFFFC | ext
    if not descriptor.is_code or descriptor.dpl > cpu.cpl:
        raise general_protection(error)
    require_64_bit(cpu, descriptor, error)
    if not descriptor.present:
        raise Fault(NP, error)
    check_target(cpu, descriptor, gate.offset, ext)
    return descriptor, address


def deliver_long(
    cpu: Processor, vector: int, error_code: int | None, *, software: bool, fault: bool, external: int
) -> None:
    """Enter the handler of a vector, as `vmlab.isa.x86.semantics.interrupts.deliver` does in the other modes."""
    gate = read_long_gate(cpu, vector, software=software, external=external)
    descriptor, address = _handler_code(cpu, gate, external)
    code, stack, old = cpu.segments[CS], cpu.segments[SS], cpu.registers[ESP]
    level = cpu.cpl if descriptor.is_conforming else descriptor.dpl
    if gate.stack:
        pointer = task_stack(cpu, INTERRUPT_STACKS + 8 * gate.stack, external)
    elif level < cpu.cpl:
        pointer = task_stack(cpu, RING_STACKS + 8 * level, external)
    else:
        pointer = old
    frame = [stack.selector, old, cpu.flags | (RF if fault else 0), code.selector, cpu.ip]
    if error_code is not None:
        frame.append(error_code)
    access = mark_accessed(cpu, descriptor, address)
    top = push_frame(cpu, pointer & ~15, frame, level, external)
    if level < cpu.cpl:
        enter_inner_stack(cpu, level)
    fill(code, gate.selector & 0xFFFC | level, descriptor, access)
    cpu.ip, cpu.registers[ESP] = gate.offset, top
    cpu.flags &= ~(TF | NT | RF)
    if gate.type == INTERRUPT_GATE64:
        cpu.flags &= ~IF
    cpu.interrupt_shadow = False
    cpu.delivered += 1
    cpu.code_changed()
