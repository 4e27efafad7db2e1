"""Returns between segments: RET far and IRET, to the same or an outer ring, to virtual-8086 mode, to another task, and in long mode.

Read more: SDM vol. 2, RET and IRET; vol. 3, 5.8.6 and 20.2.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import Descriptor
from vmlab.isa.x86.faults import NP, Fault, general_protection
from vmlab.isa.x86.registers import (  # fmt: skip
    CR0_PE,
    CS,
    DR7_ENABLED,
    DS,
    ES,
    ESP,
    FIXED,
    FS,
    GS,
    IOPL,
    NT,
    RF,
    SS,
    VIF,
    VIP,
    VM,
)
from vmlab.isa.x86.semantics.far import enter_code, enter_real, resolve
from vmlab.isa.x86.semantics.flags import require_iopl_3, writable_flags
from vmlab.isa.x86.semantics.long_mode import check_target, check_width, is_64_bit
from vmlab.isa.x86.semantics.registry import semantic
from vmlab.isa.x86.semantics.segments import (
    checked_stack_segment,
    fill,
    has_real_segments,
    is_null_stack,
    mark_accessed,
    set_virtual_8086,
)
from vmlab.isa.x86.semantics.stack import drop, peek, set_stack_pointer
from vmlab.isa.x86.semantics.tasks import RETURN, switch_task

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

NO_DESCRIPTOR = Descriptor(0)
REAL_FLAGS = {16: 0x7FD5, 32: 0x247FD5}
"""What IRET takes from the stack in real mode, by operand size."""


def _drop_outer_segments(cpu: Processor, level: int) -> None:
    """Null the data segments that a return to an outer ring may not keep."""
    for index in (ES, DS, FS, GS):
        register = cpu.segments[index]
        conforming = register.access & 0x1C == 0x1C
        if register.access and not conforming and register.dpl < level:
            register.set(0, 0, 0, 0, big=False)


def _return_code(cpu: Processor, selector: int) -> tuple[Descriptor, int]:
    """Return the code segment that a far return goes to, checked."""
    descriptor, address = resolve(cpu, selector)
    error, level = selector & 0xFFFC, selector & 3
    fits = descriptor.dpl <= level if descriptor.is_conforming else descriptor.dpl == level
    if not descriptor.is_code or level < cpu.cpl or not fits:
        raise general_protection(error)
    check_width(cpu, descriptor, error)
    if not descriptor.present:
        raise Fault(NP, error)
    return descriptor, address


def _far_return(
    cpu: Processor, offset: int, selector: int, slots: int, size: int, extra: int = 0, *, stacked: bool = False
) -> None:
    """Leave to `selector:offset` with `slots` stack entries used, and the outer SS:ESP above `extra` bytes.

    `stacked`: there are SS and ESP even if the ring stays, as for IRET in 64-bit mode.
    """
    descriptor, address = _return_code(cpu, selector)
    level = selector & 3
    if level == cpu.cpl and not stacked:
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
    null = is_null_stack(ss, level, code_64=is_64_bit(cpu, descriptor))
    stack, stack_address = (NO_DESCRIPTOR, 0) if null else checked_stack_segment(cpu, ss, level)
    check_target(cpu, descriptor, offset)
    stack_access = 0 if null else mark_accessed(cpu, stack, stack_address)
    if level != cpu.cpl:
        _drop_outer_segments(cpu, level)
    enter_code(cpu, selector, descriptor, address, level, offset)
    fill(cpu.segments[SS], ss, stack, stack_access)
    set_stack_pointer(cpu, esp + extra)


@semantic("retf")
def return_far(cpu: Processor, i: Instruction) -> None:
    """RET far, to the same or an outer ring."""
    offset, selector = peek(cpu, 0, i.size), peek(cpu, 1, i.size) & 0xFFFF
    extra = i.operands[0].read(cpu) if i.operands else 0
    if has_real_segments(cpu):
        enter_real(cpu, selector, offset)
        drop(cpu, 2, i.size)
        drop(cpu, extra, 8)
    else:
        _far_return(cpu, offset, selector, 2, i.size, extra)


@semantic("iret")
def iret(cpu: Processor, i: Instruction) -> None:
    """IRET: return from an interrupt to the same or an outer ring. Sensitive, and not privileged."""
    require_iopl_3(cpu)
    cpu.end_nmi()
    size = i.size
    if cpu.long_mode:
        _return_in_long_mode(cpu, size)
        return
    if not has_real_segments(cpu) and cpu.flags & NT:
        link = cpu.read_system(cpu.tr.base, 2)
        switch_task(cpu, link, RETURN)
        return
    offset, selector, flags = peek(cpu, 0, size), peek(cpu, 1, size) & 0xFFFF, peek(cpu, 2, size)
    if has_real_segments(cpu):
        changed = REAL_FLAGS[size] & (~IOPL if cpu.cr0 & CR0_PE else -1)
        enter_real(cpu, selector, offset)
        drop(cpu, 3, size)
        _set_flags(cpu, flags, changed)
        return
    # What may change is decided by the privilege level *before* the return.
    changed = writable_flags(cpu, size) | _resume(cpu, size)
    if cpu.cpl == 0 and size == 32:
        changed |= VIF | VIP
        if flags & VM:
            _return_to_virtual_8086(cpu, offset, selector, flags, changed)
            return
    _far_return(cpu, offset, selector, 3, size)
    _set_flags(cpu, flags, changed)


def _return_in_long_mode(cpu: Processor, size: int) -> None:
    """Do IRET in long mode: no tasks, no virtual-8086 mode; in 64-bit code SS and RSP are always taken back."""
    if cpu.flags & NT:
        raise general_protection()
    offset, selector, flags = peek(cpu, 0, size), peek(cpu, 1, size) & 0xFFFF, peek(cpu, 2, size)
    changed = writable_flags(cpu, size) | _resume(cpu, size)
    if cpu.cpl == 0 and size >= 32:
        changed |= VIF | VIP
    _far_return(cpu, offset, selector, 3, size, stacked=cpu.code_64)
    _set_flags(cpu, flags, changed)


def _resume(cpu: Processor, size: int) -> int:
    """Return RF where IRET takes it back: without breakpoints it would be gone after one instruction, unseen."""
    return RF if size > 16 and cpu.debug[7] & DR7_ENABLED else 0


def _set_flags(cpu: Processor, flags: int, changed: int) -> None:
    cpu.flags = cpu.flags & ~changed | flags & changed | FIXED
    cpu.flags_changed()


def _return_to_virtual_8086(cpu: Processor, offset: int, selector: int, flags: int, changed: int) -> None:
    """Enter virtual-8086 mode: the frame goes on with ESP, SS, ES, DS, FS and GS."""
    esp, *others = (peek(cpu, index, 32) for index in range(3, 9))
    if offset > 0xFFFF:
        raise general_protection()
    for index, value in zip((SS, ES, DS, FS, GS, CS), (*others, selector), strict=True):
        set_virtual_8086(cpu.segments[index], value & 0xFFFF)
    cpu.registers[ESP], cpu.ip = esp, offset
    _set_flags(cpu, flags, changed | VM)
    cpu.code_changed()
    cpu.segment_changed()
