"""MOV to and from control and debug registers: privileged, and checked as the manual says (SDM vol. 3, 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import DB, Fault, general_protection, undefined
from vmlab.isa.x86.operands import MASKS, ControlRegister, DebugRegister, Operand
from vmlab.isa.x86.registers import (
    CR0_AM,
    CR0_CD,
    CR0_EM,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_DE,
    DR7_GD,
)  # fmt: skip

if TYPE_CHECKING:
    from vmlab.isa.x86.semantics.processor import Processor

CR0_DEFINED = (
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG
)  # fmt: skip
DR6_BD = 1 << 13


def require_ring_0(cpu: Processor) -> None:
    """Raise #GP(0) outside ring 0: what makes an instruction privileged."""
    if cpu.cpl:
        raise general_protection()


def checked_cr0(value: int) -> int:
    """Return the value that CR0 takes; #GP(0) for combinations that the manual forbids."""
    if value >> 32 or (value & CR0_PG and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
        raise general_protection()
    return value & CR0_DEFINED | CR0_ET


def move_control(cpu: Processor, destination: Operand, source: Operand) -> None:
    """MOV between a control register and a general one."""
    require_ring_0(cpu)
    if isinstance(source, ControlRegister):
        destination.write(cpu, getattr(cpu, source.name) & MASKS[destination.size])
        return
    if not isinstance(destination, ControlRegister):
        raise undefined()
    value = source.read(cpu)
    if destination.index == 0:
        cpu.set_cr0(checked_cr0(value))
    elif destination.index == 2:
        cpu.cr2 = value
    elif destination.index == 3:
        cpu.set_cr3(value)
    elif destination.index == 4:
        cpu.set_cr4(value)
    elif destination.index == 8:
        if value >> 4:
            raise general_protection()
        cpu.cr8 = value
    else:
        raise undefined()


def move_debug(cpu: Processor, destination: Operand, source: Operand) -> None:
    """MOV between a debug register and a general one; DR4 and DR5 stand for DR6 and DR7 unless CR4.DE."""
    require_ring_0(cpu)
    register = source if isinstance(source, DebugRegister) else destination
    if not isinstance(register, DebugRegister):
        raise undefined()
    index = register.index
    if index in (4, 5):
        if cpu.cr4 & CR4_DE:
            raise undefined()
        index += 2
    if cpu.debug[7] & DR7_GD:
        cpu.debug[6] |= DR6_BD
        raise Fault(DB)
    if register is source:
        destination.write(cpu, cpu.debug[index] & MASKS[destination.size])
    else:
        value = source.read(cpu)
        if index >= 6 and value >> 32:
            raise general_protection()
        if index == 6:
            value = value & 0xE00F | 0xFFFF0FF0
        elif index == 7:
            value = value & 0xFFFF2FFF | 0x400
        cpu.debug[index] = value
        cpu.flags_changed()
