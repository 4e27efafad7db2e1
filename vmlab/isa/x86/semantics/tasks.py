"""Hardware task switches: by far jumps and calls, IRET with NT, interrupts through task gates (SDM vol. 3, chapter 8).

A switch saves the registers in the present task-state segment and loads them from another. What may fail before the
new task runs is checked first, and faults in the old task; what the new task's own registers name is checked after
the switch, and faults in the new task, before its first instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import LDT as LDT_TYPE
from vmlab.isa.x86.descriptors import TABLE_INDICATOR, TASK_GATE, TSS16, TSS16_BUSY, TSS32, TSS32_BUSY, Descriptor, Gate
from vmlab.isa.x86.faults import GP, NP, TS, Fault, general_protection
from vmlab.isa.x86.registers import CR0_PG, CR0_TS, CS, DR6_TASK_SWITCH, DS, ES, FIXED, FS, GS, NT, RF, SS, VM
from vmlab.isa.x86.semantics.segments import (
    checked_stack_segment,
    fill,
    mark_accessed,
    read_descriptor,
    set_virtual_8086,
)
from vmlab.isa.x86.semantics.stack import push

if TYPE_CHECKING:
    from vmlab.isa.x86.semantics.processor import Processor

JUMP, CALL, RETURN = "jump", "call", "return"
SOURCES = {CALL: 0, RETURN: 1, JUMP: 2}
"""As the exit qualification of a task switch tells them (SDM vol. 3, table 28-2); 3 is a task gate in the IDT."""
"""How a task is left: an interrupt leaves it as a call does."""

FLAGS_MASK = 0x003F_7FD7


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a task-state segment holds what, in bytes (SDM vol. 3, figures 8-2 and 8-10).

    Attributes
    ----------
    width : int
        Bytes of a register.
    slot : int
        Bytes from one selector to the next.
    limit : int
        Least limit of the segment.
    first : int
        Where what a switch saves starts: EIP, EFLAGS, the general registers.
    segments : int
        Where the selectors stand, ES first.
    count : int
        How many there are.
    table : int
        Where the LDT's selector stands.
    """

    width: int
    slot: int
    limit: int
    first: int
    segments: int
    count: int
    table: int


TASK16 = Layout(2, 2, 0x2B, 0x0E, 0x22, 4, 0x2A)
TASK32 = Layout(4, 4, 0x67, 0x20, 0x48, 6, 0x60)
CR3_PLACE, TRAP_PLACE = 0x1C, 0x64


def layout(access: int) -> Layout:
    """Return the layout of a task-state segment with this access byte."""
    return TASK32 if access & 8 else TASK16


def is_task(descriptor: Descriptor) -> bool:
    """Say whether a far jump or call to this descriptor switches tasks."""
    return not descriptor.is_segment and descriptor.type in (TSS16, TSS16_BUSY, TSS32, TSS32_BUSY, TASK_GATE)


def transfer(cpu: Processor, selector: int, descriptor: Descriptor, how: str) -> None:
    """Jump or call to a task, named by its TSS or by a task gate."""
    error = selector & 0xFFFC
    if descriptor.dpl < max(cpu.cpl, selector & 3):
        raise general_protection(error)
    if descriptor.type == TASK_GATE:
        if not descriptor.present:
            raise Fault(NP, error)
        selector = Gate(descriptor.raw).selector
    switch_task(cpu, selector, how)


def _find(cpu: Processor, selector: int, *, busy: bool, vector: int, external: int) -> tuple[Descriptor, int]:
    """Return the descriptor of a TSS and its address."""
    error = selector & 0xFFFC | external
    if selector & TABLE_INDICATOR or not selector & 0xFFFC:
        raise Fault(vector, error)
    descriptor, address = read_descriptor(cpu, selector, vector, external)
    if descriptor.is_segment or descriptor.type not in ((TSS16_BUSY, TSS32_BUSY) if busy else (TSS16, TSS32)):
        raise Fault(vector, error)
    if not descriptor.present:
        raise Fault(NP, error)
    if descriptor.limit < layout(descriptor.access).limit:
        raise Fault(TS, error)
    return descriptor, address


def _words(cpu: Processor, start: int, width: int, slot: int, count: int) -> list[int]:
    return [cpu.read_system(start + slot * n, width) for n in range(count)]


def _save(cpu: Processor, flags: int) -> None:
    """Save the registers in the present TSS."""
    kind, base = layout(cpu.tr.access), cpu.tr.base
    if cpu.tr.limit < kind.limit:
        raise Fault(TS, cpu.tr.selector & 0xFFFC)
    mask = (1 << 8 * kind.width) - 1
    values = (cpu.ip, flags, *cpu.registers[:8])
    for number, value in enumerate(values):
        cpu.write_system(base + kind.first + number * kind.width, kind.width, value & mask)
    for number in range(kind.count):
        place = base + kind.segments + number * kind.slot
        cpu.write_system(place, 2, cpu.segments[number].selector)


def _set_busy(cpu: Processor, selector: int, *, busy: bool) -> None:
    """Set or clear the busy bit of a TSS in the GDT."""
    address = cpu.gdtr_base + (selector & 0xFFF8) + 5
    access = cpu.read_system(address, 1)
    cpu.write_system(address, 1, access | 2 if busy else access & ~2)


def switch_task(
    cpu: Processor, selector: int, how: str, *, external: int = 0, error_code: int | None = None, fault: bool = False
) -> None:
    """Switch to the task of a TSS.

    Parameters
    ----------
    cpu : Processor
        With `ip` at the instruction that the old task goes on with.
    selector : int
        Of the TSS.
    how : str
        `JUMP`, `CALL` (which nests: the new task can return) or `RETURN`.
    external : int
        `ERROR_EXT` where an event and not an instruction switches.
    error_code : int, optional
        Pushed on the new task's stack.
    fault : bool
        True for an exception of fault class: the old task is saved with RF set.

    Raises
    ------
    Fault
        In the old task with nothing changed, or in the new one: then `ip` of the fault is set.
    """
    descriptor, _ = _find(cpu, selector, busy=how == RETURN, vector=TS if how == RETURN else GP, external=external)
    cpu.before_task_switch(selector, SOURCES[how])
    kind, base = layout(descriptor.access), descriptor.base
    wide = kind is TASK32
    ip, flags, *general = _words(cpu, base + kind.first, kind.width, kind.width, 10)
    selectors = [word & 0xFFFF for word in _words(cpu, base + kind.segments, 2, kind.slot, kind.count)]
    table = cpu.read_system(base + kind.table, 2)
    root = cpu.read_system(base + CR3_PLACE, 4) if wide else 0
    trap = cpu.read_system(base + TRAP_PLACE, 1) & 1 if wide else 0

    saved = cpu.flags | RF if fault else cpu.flags
    _save(cpu, saved & ~NT if how == RETURN else saved)
    old = cpu.tr.selector
    if how == CALL:
        cpu.write_system(base, 2, old)
        flags |= NT
    else:
        _set_busy(cpu, old, busy=False)
    if how != RETURN:
        _set_busy(cpu, selector, busy=True)

    cpu.tr.set(selector, base, descriptor.limit, descriptor.access | 2, big=False)
    cpu.ip = ip
    cpu.flags = flags & FLAGS_MASK & ~RF | FIXED
    high = 0 if wide else 0xFFFF_0000
    cpu.registers[:8] = [value | high for value in general]
    cpu.set_cr0(cpu.cr0 | CR0_TS)
    cpu.interrupt_shadow = False
    try:
        if wide and cpu.cr0 & CR0_PG:
            cpu.set_cr3(root)
        _load_segments(cpu, selectors + [0] * (6 - len(selectors)), table, external)
        if cpu.ip > cpu.segments[CS].limit:
            raise general_protection(external)
        if error_code is not None:
            push(cpu, error_code, 8 * kind.width)
    except Fault as failure:
        failure.ip = cpu.ip
        raise
    finally:
        cpu.code_changed()
        cpu.segment_changed()
        cpu.flags_changed()
    if trap:
        cpu.debug_trap(DR6_TASK_SWITCH)


def _load_segments(cpu: Processor, selectors: list[int], table: int, external: int) -> None:
    """Load LDTR and the segment registers of the new task, each with its checks (SDM vol. 3, table 8-1)."""
    cpu.ldtr.set(table, 0, 0, 0, big=False)
    virtual = bool(cpu.flags & VM)
    for register, selector in zip(cpu.segments, selectors, strict=True):
        if virtual:
            set_virtual_8086(register, selector)
        else:
            register.set(selector, 0, 0, 0, big=False)
    level = 3 if virtual else selectors[CS] & 3
    if not virtual:
        # Not usable yet, but its privilege is the new task's, whatever fault comes next.
        cpu.segments[CS].set(selectors[CS], 0, 0, 0x1B | level << 5, big=False)
    cpu.code_changed()
    _load_table(cpu, table, external)
    if virtual:
        return
    _load_code(cpu, selectors[CS], external)
    stack, address = checked_stack_segment(cpu, selectors[SS], level, TS, external)
    fill(cpu.segments[SS], selectors[SS], stack, mark_accessed(cpu, stack, address))
    for index in (ES, DS, FS, GS):
        _load_data(cpu, index, selectors[index], level, external)


def _load_table(cpu: Processor, selector: int, external: int) -> None:
    if not selector & 0xFFFC:
        return
    error = selector & 0xFFFC | external
    if selector & TABLE_INDICATOR:
        raise Fault(TS, error)
    descriptor, _ = read_descriptor(cpu, selector, TS, external)
    if descriptor.is_segment or descriptor.type != LDT_TYPE or not descriptor.present:
        raise Fault(TS, error)
    cpu.ldtr.set(selector, descriptor.base, descriptor.limit, descriptor.access, big=False)


def _load_code(cpu: Processor, selector: int, external: int) -> None:
    error = selector & 0xFFFC | external
    if not selector & 0xFFFC:
        raise Fault(TS, error)
    descriptor, address = read_descriptor(cpu, selector, TS, external)
    level = selector & 3
    fits = descriptor.dpl <= level if descriptor.is_conforming else descriptor.dpl == level
    if not descriptor.is_code or not fits:
        raise Fault(TS, error)
    if not descriptor.present:
        raise Fault(NP, error)
    fill(cpu.segments[CS], selector, descriptor, mark_accessed(cpu, descriptor, address))


def _load_data(cpu: Processor, index: int, selector: int, level: int, external: int) -> None:
    if not selector & 0xFFFC:
        return
    error = selector & 0xFFFC | external
    descriptor, address = read_descriptor(cpu, selector, TS, external)
    if not descriptor.is_readable or (not descriptor.is_conforming and descriptor.dpl < max(selector & 3, level)):
        raise Fault(TS, error)
    if not descriptor.present:
        raise Fault(NP, error)
    fill(cpu.segments[index], selector, descriptor, mark_accessed(cpu, descriptor, address))


__all__ = ["CALL", "JUMP", "RETURN", "is_task", "switch_task", "transfer"]
