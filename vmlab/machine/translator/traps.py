"""INT, IRET and loads of data segments as kernels use them all day, without the long way through every check.

A descriptor is a number of 64 bits; what follows from one is worked out once and kept. Only the plain case is done here:
protected mode of 32 bits, present flat segments with their accessed bit set, aligned tables and stacks in RAM that nobody
watches. As soon as anything is not plain it is left to the semantics, which are the definition. Until then everything is
looked at in their order, so that misses of the TLB and page faults are the same.

Read more: Intel SDM vol. 3, 5.8 and 6.12.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import (
    ACCESSED,
    CONFORMING_OR_DOWN,
    INTERRUPT_GATE32,
    PRESENT,
    SYSTEM_OR_CODE_DATA,
    TABLE_INDICATOR,
    TRAP_GATE32,
    Descriptor,
    Gate,
    SegmentRegister,
)
from vmlab.isa.x86.registers import (
    CR0_PE,
    CR0_PG,
    CS,
    DS,
    EFER_LMA,
    ES,
    ESP,
    FIXED,
    FS,
    GS,
    IF,
    IOPL,
    NT,
    RF,
    SS,
    TF,
    VIF,
    VIP,
    VM,
)
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.isa.x86.semantics.flags import ANY_RING, ANY_RING_HIGH
from vmlab.machine.memory import WRITTEN
from vmlab.machine.vmx.virtual_apic import look_at_apic

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics import Semantic
    from vmlab.machine.processor import Processor

__all__ = ["DATA_SEGMENTS", "QUICK", "deliver", "load", "look"]

PAGE = 0x1000
WHOLE = PRESENT | SYSTEM_OR_CODE_DATA | ACCESSED
MASK = 0xFFFFFFFF
BITS = 32
TSS_OF_32 = 8
DATA_SEGMENTS = (ES, DS, FS, GS)


@lru_cache(maxsize=1024)
def _segment(raw: int) -> SegmentRegister | None:
    """Return what a descriptor loads; None for all but present, accessed segments of 4 GiB that do not grow down or conform."""
    found = Descriptor(raw)
    if found.access & (WHOLE | CONFORMING_OR_DOWN) != WHOLE or found.long or not found.big:
        return None
    if found.base or found.limit != MASK:
        return None
    return SegmentRegister(0, 0, MASK, found.access, big=True)


@lru_cache(maxsize=1024)
def _gate(raw: int) -> tuple[int, int, int, int] | None:
    """Return selector, offset, DPL of an interrupt or trap gate of 32 bits, and the flags that it clears."""
    gate = Gate(raw)
    if gate.access & SYSTEM_OR_CODE_DATA or not gate.present or gate.type not in (INTERRUPT_GATE32, TRAP_GATE32):
        return None
    cleared = TF | NT | RF | VM | (IF if gate.type == INTERRUPT_GATE32 else 0)
    return gate.selector, gate.offset, gate.dpl, ~cleared


def _is_plain(cpu: Processor) -> bool:
    return (
        cpu.fetch_bits == BITS
        and not cpu.strict
        and bool(cpu.cr0 & CR0_PE)
        and not cpu.flags & VM
        and not cpu.efer & EFER_LMA
    )


def _readable(cpu: Processor, linear: int) -> int | None:
    """Return where the page of a system structure begins in RAM; one that the TLB has not is looked up, if there is room for it.

    Otherwise it might take the place of one that the semantics, if it comes to them, would look up once more.
    """
    place = cpu.system_readable.get(linear >> 12)
    if place is None and cpu.tlb.has_room(linear >> 12):
        cpu.translate(linear, write=False, user=False, implicit=True)
        place = cpu.system_readable.get(linear >> 12)
    return place


def _read(cpu: Processor, linear: int) -> int | None:
    """Read 64 bits of a table, where that concerns nobody else."""
    if linear & 3 or linear & PAGE - 1 > PAGE - 8:
        return None
    place = _readable(cpu, linear)
    if place is None:
        return None
    view, at = cpu.ram.view32, (place | linear & PAGE - 1) >> 2
    return view[at] | view[at + 1] << 32


def _descriptor(cpu: Processor, selector: int) -> SegmentRegister | None:
    """Return what a selector of the GDT loads, if that is plain."""
    index = selector & 0xFFF8
    if selector & TABLE_INDICATOR or not index or index + 7 > cpu.gdtr_limit:
        return None
    linear = cpu.gdtr_base + index & MASK
    place = cpu.system_readable.get(linear >> 12)
    if place is None or linear & 3 or linear & PAGE - 1 > PAGE - 8:
        raw = _read(cpu, linear)
        return None if raw is None else _segment(raw)
    view, at = cpu.ram.view32, (place | linear & PAGE - 1) >> 2
    return _segment(view[at] | view[at + 1] << 32)


def _take(register: SegmentRegister, selector: int, found: SegmentRegister) -> None:
    """Load a segment register; only the type makes a difference between flat ones."""
    register.selector, register.base, register.limit, register.access = selector, 0, MASK, found.access
    register.big, register.long, register.flat_code = True, False, found.flat_code
    register.flat_read, register.flat_write, register.mask = found.flat_read, found.flat_write, MASK
    register.wide = found.wide


def _inner_stack(cpu: Processor, inner: int) -> tuple[int, int, SegmentRegister] | None:
    """Return pointer, selector and segment of the stack that the TSS names for an inner ring."""
    task = cpu.tr
    slot = task.base + 4 + inner * 8 & MASK
    if not task.access & TSS_OF_32 or 10 + inner * 8 > task.limit or slot & 3 or slot & PAGE - 1 > PAGE - 8:
        return None
    place = _readable(cpu, slot)
    if place is None:
        return None
    view, at = cpu.ram.view32, (place | slot & PAGE - 1) >> 2
    pointer, selector = view[at], view[at + 1] & 0xFFFF
    found = _descriptor(cpu, selector)
    if found is None or not found.flat_write or selector & 3 != inner or found.access >> 5 & 3 != inner:
        return None
    return pointer, selector, found


def _push(cpu: Processor, top: int, frame: list[int]) -> bool:
    """Write a frame, lowest address first, below `top`, or return False."""
    low = top - 4 * len(frame)
    if low < 0 or low & 3 or low >> 12 != top - 1 >> 12:
        return False
    place = cpu.system_writable.get(low >> 12)
    if place is None and cpu.tlb.has_room(low >> 12):
        cpu.translate(top - 4, write=True, user=False, implicit=True)
        place = cpu.system_writable.get(low >> 12)
    if place is None or cpu.ram.pages[place >> 12] != WRITTEN:
        return False
    view, at = cpu.ram.view32, (place | low & PAGE - 1) >> 2
    for value in frame:
        view[at] = value
        at += 1
    cpu.registers[ESP] = low
    return True


def deliver(
    cpu: Processor, vector: int, error_code: int | None = None, *, software: bool = False, fault: bool = False
) -> bool:
    """Enter the handler of a vector as `vmlab.isa.x86.semantics.interrupts.deliver` does, or return False."""
    if not _is_plain(cpu) or vector * 8 + 7 > cpu.idtr_limit:
        return False
    raw = _read(cpu, cpu.idtr_base + vector * 8 & MASK)
    gate = None if raw is None else _gate(raw)
    if gate is None:
        return False
    selector, offset, dpl, kept = gate
    code, stack, level = cpu.segments[CS], cpu.segments[SS], cpu.ring
    if software and dpl < level:
        return False
    handler = _descriptor(cpu, selector)
    if handler is None or not handler.flat_code:
        return False
    inner, frame = handler.access >> 5 & 3, [cpu.ip, code.selector, cpu.flags | RF if fault else cpu.flags]
    if error_code is not None:
        frame.insert(0, error_code)
    if inner < level:
        found = _inner_stack(cpu, inner)
        if found is None:
            return False
        frame += (cpu.registers[ESP], stack.selector)
        pointer, new_selector, new_stack = found
        if not _push(cpu, pointer, frame):
            return False
        _take(stack, new_selector, new_stack)
    elif level or inner or not stack.flat_write or not stack.big or not _push(cpu, cpu.registers[ESP], frame):
        return False
    _take(code, selector & 0xFFFC | inner, handler)
    cpu.ip = offset
    cpu.flags &= kept
    cpu.interrupt_shadow = False
    cpu.delivered += 1
    cpu.ring_changed(inner)
    return True


def _return(cpu: Processor, i: Instruction) -> bool:
    """IRET."""
    segments, registers, level = cpu.segments, cpu.registers, cpu.ring
    stack, code = segments[SS], segments[CS]
    top = registers[ESP]
    if not _is_plain(cpu):
        return False
    cpu.end_nmi()
    if i.size != 32 or cpu.flags & NT or not stack.flat_read or not stack.big:
        return False
    if top & 3 or top & PAGE - 1 > PAGE - 20:
        return False
    place = cpu.readable_place(top >> 12)
    if place is None and cpu.tlb.has_room(top >> 12):
        cpu.translate(top, write=False, user=level == 3)
        place = cpu.readable_place(top >> 12)
    if place is None:
        return False
    view, at = cpu.ram.view32, (place | top & PAGE - 1) >> 2
    offset, selector, flags = view[at], view[at + 1] & 0xFFFF, view[at + 2]
    if level == 0 and flags & VM:
        return False
    found, outer = _descriptor(cpu, selector), selector & 3
    if found is None or not found.flat_code or found.access >> 5 & 3 != outer or outer < level:
        return False
    if outer == level:
        registers[ESP] = top + 12 & MASK
    else:
        pointer, new_selector = view[at + 3], view[at + 4] & 0xFFFF
        new_stack = _descriptor(cpu, new_selector)
        if new_stack is None or not new_stack.flat_write:
            return False
        if new_selector & 3 != outer or new_stack.access >> 5 & 3 != outer:
            return False
        registers[ESP] = pointer
        _take(stack, new_selector, new_stack)
        for index in DATA_SEGMENTS:
            register = segments[index]
            access = register.access
            if access and access & 0x1C != 0x1C and access >> 5 & 3 < outer:
                register.set(0, 0, 0, 0, big=False)
                cpu.segment_changed()
    changed = ANY_RING | ANY_RING_HIGH
    if level <= cpu.flags >> 12 & 3:
        changed |= IF
    if level == 0:
        changed |= IOPL | VIF | VIP
    _take(code, selector, found)
    cpu.ip = offset
    cpu.flags = cpu.flags & ~changed | flags & changed | FIXED
    cpu.ring_changed(outer)
    return True


def load(cpu: Processor, index: int, selector: int) -> bool:
    """Load DS, ES, FS or GS as MOV does, or return False: where the table's page is not at hand, too."""
    selector &= 0xFFFF
    if cpu.gdtr_base + (selector & 0xFFF8) >> 12 not in cpu.system_readable or not _is_plain(cpu):
        return False
    found = _descriptor(cpu, selector)
    if found is None or not found.flat_write or found.access >> 5 & 3 < max(selector & 3, cpu.ring):
        return False  # a segment that cannot be written would change what translated code counts on
    register = cpu.segments[index]
    if register.selector != selector or register.access != found.access or not register.flat_write or not register.big:
        _take(register, selector, found)
    return True


def look(cpu: Processor, linear: int, retired: int) -> int | None:
    """Read a device's register of 32 bits after so many retired instructions; None where that takes more than a look."""
    user = cpu.ring == 3
    if linear & 3 or not 0 <= linear <= MASK or cpu.strict:
        return None
    if cpu.cr0 & CR0_PG:
        entry = cpu.tlb.find(linear >> 12)
        if entry is None or entry.user != user:
            return None
    physical = cpu.translate(linear, write=False, user=user)
    if physical & -0x1000 == cpu.apic_page:
        return look_at_apic(cpu, physical & 0xFFF, 4)
    if cpu.bus.is_ram(physical):
        return None
    cpu.retired = retired
    cpu.platform.now(retired)
    return cpu.bus.read(physical, 4)


def _interrupt(cpu: Processor, i: Instruction) -> bool:
    """INT n."""
    return deliver(cpu, i.operands[0].read(cpu), software=True)


def _or(quick: Callable[[Processor, Instruction], bool], slow: Semantic) -> Semantic:
    def act(cpu: Processor, i: Instruction) -> None:
        if not quick(cpu, i):
            slow(cpu, i)

    return act  # type: ignore[return-value]  # what performs is always the whole processor


QUICK: dict[str, Semantic] = {
    mnemonic: _or(quick, SEMANTICS[mnemonic]) for mnemonic, quick in {"int": _interrupt, "iret": _return}.items()
}
"""Semantics that try the plain case first."""
