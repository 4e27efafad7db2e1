"""Delivery of an interrupt or exception through the interrupt descriptor table (SDM vol. 3, 6.12).

The handler's frame, from high to low addresses: [SS, ESP where the ring changes,] EFLAGS, CS, EIP [, error code].
From virtual-8086 mode GS, FS, DS and ES come first, above SS. A task gate switches tasks instead. Long mode has its own
way, in `vmlab.isa.x86.semantics.interrupts_64`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import (
    INTERRUPT_GATE16,
    INTERRUPT_GATE32,
    TASK_GATE,
    TRAP_GATE16,
    TRAP_GATE32,
    Descriptor,
    Gate,
    SegmentRegister,
)
from vmlab.isa.x86.faults import ERROR_EXT, ERROR_IDT, NP, TS, Fault, general_protection
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.operands import MASKS
from vmlab.isa.x86.registers import AC, CR0_PE, CS, DS, ES, ESP, FS, GS, IF, NT, RF, SS, TF, VM
from vmlab.isa.x86.semantics.interrupts_64 import deliver_long
from vmlab.isa.x86.semantics.segments import checked_stack_segment, fill, mark_accessed, read_descriptor
from vmlab.isa.x86.semantics.stack import push
from vmlab.isa.x86.semantics.tasks import CALL, switch_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.isa.x86.semantics.processor import Processor

TASK_GATE_IN_IDT = 3  # see `vmlab.isa.x86.semantics.tasks.SOURCES`
GATES = frozenset({TASK_GATE, INTERRUPT_GATE16, INTERRUPT_GATE32, TRAP_GATE16, TRAP_GATE32})


class InnerStack:
    """The stack of an inner ring while a frame is built on it; `commit` makes it the current one."""

    def __init__(
        self, cpu: Processor, selector: int, pointer: int, descriptor: Descriptor, access: int, external: int
    ) -> None:
        self._cpu = cpu
        self._external = external
        self.register = SegmentRegister()
        fill(self.register, selector, descriptor, access)
        self.pointer = pointer

    def push(self, value: int, size: int) -> None:
        """Push `size` bits with supervisor privilege; #SS beyond the limit."""
        width = size >> 3
        mask = 0xFFFFFFFF if self.register.big else 0xFFFF
        offset = self.pointer - width & mask
        if not self.register.in_bounds(offset, width):
            raise Fault(STACK_FAULT, self.register.selector & 0xFFFC | self._external)
        self._cpu.write_system(self.register.base + offset, width, value & MASKS[size])
        self.pointer = self.pointer & ~mask | offset

    def commit(self) -> None:
        """Load SS:ESP."""
        self._cpu.segments[SS].copy_from(self.register)
        self._cpu.registers[ESP] = self.pointer


@contextmanager
def inner_stack(cpu: Processor, level: int, external: int) -> Iterator[InnerStack]:
    """Yield the stack that the TSS names for ring `level`; after a fault SS:ESP are as before."""
    wide = cpu.tr.access & 0x08
    width = 4 if wide else 2
    slot = 4 + level * 8 if wide else 2 + level * 4
    if slot + width + 1 > cpu.tr.limit:
        raise Fault(TS, cpu.tr.selector & 0xFFFC | external)
    pointer = cpu.read_system(cpu.tr.base + slot, width)
    selector = cpu.read_system(cpu.tr.base + slot + width, 2)
    descriptor, address = checked_stack_segment(cpu, selector, level, TS, external)
    stack = InnerStack(cpu, selector, pointer, descriptor, mark_accessed(cpu, descriptor, address), external)
    old_register, old_pointer = SegmentRegister(), cpu.registers[ESP]
    old_register.copy_from(cpu.segments[SS])
    try:
        yield stack
    except Fault:
        cpu.segments[SS].copy_from(old_register)
        cpu.registers[ESP] = old_pointer
        raise


def _deliver_real(cpu: Processor, vector: int) -> None:
    if vector * 4 + 3 > cpu.idtr_limit:
        raise general_protection(vector * 8 + ERROR_IDT)
    entry = cpu.read_system(cpu.idtr_base + vector * 4, 4)
    old_esp, code = cpu.registers[ESP], cpu.segments[CS]
    try:
        for value in (cpu.flags, code.selector, cpu.ip):
            push(cpu, value, 16)
    except Fault:
        cpu.registers[ESP] = old_esp
        raise
    cpu.flags &= ~(IF | TF | RF | AC)
    cpu.interrupt_shadow = False
    code.set(entry >> 16, (entry >> 16) << 4, code.limit, code.access, big=code.big)
    cpu.ip = entry & 0xFFFF
    cpu.delivered += 1
    cpu.code_changed()


def read_gate(cpu: Processor, vector: int, *, software: bool, external: int) -> Gate:
    """Return the IDT's gate of a vector, checked for type, privilege and presence."""
    error = vector * 8 + ERROR_IDT | external
    if vector * 8 + 7 > cpu.idtr_limit:
        raise general_protection(error)
    address = cpu.idtr_base + vector * 8
    gate = Gate(cpu.read_system(address, 4) | cpu.read_system(address + 4, 4) << 32)
    if gate.access & 0x10 or gate.type not in GATES:
        raise general_protection(error)
    if software and gate.dpl < cpu.cpl:
        raise general_protection(error)
    if not gate.present:
        raise Fault(NP, error)
    return gate


def _handler_code(cpu: Processor, gate: Gate, ext: int) -> tuple[Descriptor, int]:
    """Return the code segment of an interrupt or trap gate and its address, checked."""
    selector = gate.selector
    if not selector & 0xFFFC:
        raise general_protection(ext)
    descriptor, address = read_descriptor(cpu, selector, external=ext)
    error = selector & 0xFFFC | ext
    if not descriptor.is_code or descriptor.dpl > cpu.cpl:
        raise general_protection(error)
    if not descriptor.present:
        raise Fault(NP, error)
    if gate.offset > descriptor.limit:
        raise general_protection(ext)
    if cpu.flags & VM and (descriptor.is_conforming or descriptor.dpl):
        raise general_protection(error)
    return descriptor, address


def _push_within_ring(cpu: Processor, frame: list[int], size: int, ext: int) -> None:
    old_esp = cpu.registers[ESP]
    try:
        for value in frame:
            push(cpu, value, size)
    except Fault as failure:
        cpu.registers[ESP] = old_esp
        if failure.vector == STACK_FAULT:
            raise Fault(STACK_FAULT, ext) from None
        raise


def _push_on_inner_stack(cpu: Processor, level: int, frame: list[int], size: int, ext: int) -> None:
    segments = cpu.segments
    outer = [segments[SS].selector, cpu.registers[ESP]]
    virtual = cpu.flags & VM
    if virtual:
        outer = [*(segments[index].selector for index in (GS, FS, DS, ES)), *outer]
    with inner_stack(cpu, level, ext) as stack:
        for value in outer + frame:
            stack.push(value, size)
        stack.commit()
    if virtual:
        for index in (ES, DS, FS, GS):
            segments[index].set(0, 0, 0, 0, big=False)
        cpu.segment_changed()


def deliver(
    cpu: Processor, vector: int, error_code: int | None = None, *, software: bool = False, fault: bool = False
) -> None:
    """Enter the handler of a vector.

    Parameters
    ----------
    cpu : Processor
        With `ip` at the instruction to return to.
    vector : int
        0 to 255.
    error_code : int, optional
        Pushed where given.
    software : bool
        True for INT n, INT3 and INTO: the gate's DPL is checked, and EXT is clear in the error codes of further
        faults. It is set for events external to the program: interrupts, and exceptions too (SDM vol. 3, 6.13).
    fault : bool
        True for an exception of fault class: RF is set in the EFLAGS that are pushed (SDM vol. 3, 18.3.1.1).

    Raises
    ------
    Fault
        Where delivery fails; nothing has changed then.
    """
    if not cpu.cr0 & CR0_PE:
        _deliver_real(cpu, vector)
        return
    ext = 0 if software else ERROR_EXT
    if cpu.long_mode:
        deliver_long(cpu, vector, error_code, software=software, fault=fault, external=ext)
        return
    gate = read_gate(cpu, vector, software=software, external=ext)
    if gate.type == TASK_GATE:
        cpu.before_task_switch(gate.selector, TASK_GATE_IN_IDT)
        switch_task(cpu, gate.selector, CALL, external=ext, fault=fault, error_code=error_code)
        cpu.delivered += 1
        return
    descriptor, address = _handler_code(cpu, gate, ext)
    access = mark_accessed(cpu, descriptor, address)
    code = cpu.segments[CS]
    frame = [cpu.flags | (RF if fault else 0), code.selector, cpu.ip, *([] if error_code is None else [error_code])]
    size = 32 if gate.type & 8 else 16
    if descriptor.is_conforming or descriptor.dpl == cpu.cpl:
        level = cpu.cpl
        _push_within_ring(cpu, frame, size, ext)
    else:
        level = descriptor.dpl
        _push_on_inner_stack(cpu, level, frame, size, ext)
    fill(code, gate.selector & 0xFFFC | level, descriptor, access)
    cpu.ip = gate.offset
    cpu.flags &= ~(TF | NT | RF | VM)
    if gate.type in (INTERRUPT_GATE16, INTERRUPT_GATE32):
        cpu.flags &= ~IF
    cpu.interrupt_shadow = False
    cpu.delivered += 1
    cpu.code_changed()
