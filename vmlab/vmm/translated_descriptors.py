"""Segments of translated code: the guest's, without the hypervisor's window, and the hypervisor's own.

Translated code of the guest's kernel never loads a segment register (a call-out does), so that the kernel's shadow GDT need
not hold what the guest's holds: beside the hypervisor's segments there is one of code, of 4 GiB, for translated code runs in
the window; one of data, which ends where the window begins; and, for GS, one of data that does not. Whatever else a segment
register of the VCPU holds is a cached descriptor, cut off at the window, too. Where a kernel goes beyond that limit it traps,
and the instruction is executed on the VCPU, whose segments have no such limit.

Read more: Adams and Agesen, ASPLOS 2006, 3.2 (segment truncation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import CODE, CONFORMING_OR_DOWN, PRESENT, WIDE, encode_descriptor
from vmlab.isa.x86.registers import CS, GS
from vmlab.vmm.shadow_descriptors import HOST_TASK, ShadowDescriptors, hidden

if TYPE_CHECKING:
    from vmlab.isa.x86.descriptors import SegmentRegister
    from vmlab.vmm.host_memory import HostMemory
    from vmlab.vmm.shadow_descriptors import Hidden

__all__ = ["TranslatedDescriptors", "is_cut"]

CODE_SELECTOR, DATA_SELECTOR, OWN_SELECTOR = HOST_TASK + 8, HOST_TASK + 16, HOST_TASK + 24
CODE_USER, DATA_USER = 0xFB, 0xF3
FLAT = 0xFFFFFFFF
OWN = (0, FLAT, DATA_USER, True, False)
CUT = (0, WIDE - 1, DATA_USER, True, False)


class TranslatedDescriptors(ShadowDescriptors):
    """Shadow GDTs of which the one for virtual kernel mode is for translated code."""

    def __init__(self, host: HostMemory) -> None:
        super().__init__(host)
        table = self.tables[False]
        host.write(table + CODE_SELECTOR, 8, encode_descriptor(0, FLAT, CODE_USER))
        host.write(table + DATA_SELECTOR, 8, encode_descriptor(0, WIDE - 1, DATA_USER))
        host.write(table + OWN_SELECTOR, 8, encode_descriptor(0, FLAT, DATA_USER))

    def selector_for(self, index: int, register: SegmentRegister, *, user: bool) -> int:
        if user:
            return super().selector_for(index, register, user=True)
        if index == CS:
            return CODE_SELECTOR | 3
        if index == GS:
            return OWN_SELECTOR | 3
        if not register.access:
            return 0
        parts = self.hidden(index, register, user=False)
        return DATA_SELECTOR | 3 if parts == CUT else self._cache(index, self.tables[False], parts)

    def hidden(self, index: int, register: SegmentRegister, *, user: bool) -> Hidden:
        if user or index == CS:
            return hidden(register)
        return OWN if index == GS else cut(register)


def cut(register: SegmentRegister) -> Hidden:
    """Return what a real segment register holds for one of the VCPU, without the window.

    >>> from vmlab.isa.x86.descriptors import SegmentRegister
    >>> cut(SegmentRegister(0x10, 0xFFBF0000, 0xFFFFFFFF, 0x93, big=True))[1] == 0xFFFF
    True
    """
    base, limit, access, big, long = hidden(register)
    if access and base + limit >= WIDE:
        limit = WIDE - 1 - base
        if limit >= 1 << 20:  # in pages
            limit = limit + 1 & ~0xFFF
            limit -= 1
    return base, limit, access, big, long


def is_cut(register: SegmentRegister) -> bool:
    """Say whether a data segment can be cut off at the window: it begins below, and does not grow down."""
    grows_down = not register.access & CODE and register.access & CONFORMING_OR_DOWN
    return not register.access & PRESENT or (register.base < WIDE and not grows_down)
