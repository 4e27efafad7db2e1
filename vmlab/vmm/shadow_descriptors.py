"""Shadow descriptor tables: the GDT that the hardware sees in place of the guest's.

A deprivileged guest loads segment registers without a trap, so the real GDT must hold descriptors that work in ring 3
and give nothing away. There are two copies, for virtual kernel and virtual user mode:

- an ordinary segment that the guest may use in that mode has its DPL changed to 3;
- anything else is *not present*, so that using it traps, and the instruction is executed on the VCPU, on the guest's
  own table: system descriptors, segments of another ring (an IRET to user mode is caught so), segments whose accessed
  bit is still clear (it must be set in the guest's table).

The top of the table belongs to the hypervisor: its code, its stack, its TSS, and six *cached* descriptors, for
segment registers that hold something which is in the guest's table no more. A cached descriptor is in the table only
while the hypervisor loads it: a guest that names it traps.

Simplified: there is no shadow of an LDT; every load from it traps and uses a cached descriptor. A load that does not
trap leaves the accessed bit of the page table entry behind the guest's table as it is.

Not faithful, as ring compression is not: to the hardware the kernel's CPL is 3, so that it cannot check a selector's
RPL for the kernel. A selector with RPL 3 loads where a real kernel gets #GP.

Read more: Adams and Agesen, ASPLOS 2006, 2.3 and 3.2; Robin and Irvine, USENIX Security 2000, 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import ACCESSED, TSS32, Descriptor, SegmentRegister, encode_descriptor
from vmlab.isa.x86.registers import CS, SS
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.state import check_state
from vmlab.vmm.host_memory import TSS_BYTES

if TYPE_CHECKING:
    from vmlab.vmm.host_memory import HostMemory

__all__ = ["HOST_CODE", "HOST_STACK", "HOST_TASK", "ShadowDescriptors", "hidden"]

TABLE_BYTES = 0x10000
HOST_FIRST = TABLE_BYTES - 16 * 8
"""Selectors from here on are the hypervisor's."""
HOST_CODE, HOST_STACK, HOST_TASK = HOST_FIRST, HOST_FIRST + 8, HOST_FIRST + 16
CACHED_FIRST = HOST_FIRST + 64
DPL_3 = 3 << 5
Hidden = tuple[int, int, int, bool, bool]
CODE_KERNEL, DATA_KERNEL = 0x9B, 0x93
BLOCK = 0x100
"""Bytes of the guest's table that are compared at once: a table of 64 KiB in which one descriptor changed is quick."""


class ShadowDescriptors:
    """The two shadow GDTs of one guest.

    Attributes
    ----------
    tables : tuple of int
        Linear addresses of the tables for virtual kernel and virtual user mode, in the hypervisor's window.
    """

    def __init__(self, host: HostMemory) -> None:
        self._host = host
        pages = TABLE_BYTES // PAGE_SIZE
        self.tables = (host.map_new(pages), host.map_new(pages))
        self._entries = b""
        self._level = 0
        self._cached: list[int] = []
        for table in self.tables:
            flat = 0xFFFFFFFF
            host.write(table + HOST_CODE, 8, encode_descriptor(0, flat, CODE_KERNEL))
            host.write(table + HOST_STACK, 8, encode_descriptor(0, flat, DATA_KERNEL))
            host.write(table + HOST_TASK, 8, encode_descriptor(host.tss, TSS_BYTES - 1, 0x80 | TSS32, big=False))

    def rebuild(self, entries: bytes, level: int) -> None:
        """Shadow the guest's table.

        Parameters
        ----------
        entries : bytes
            The guest's table as far as it is mapped, 8 bytes a descriptor.
        level : int
            Virtual privilege level, 0 to 2, of the table for kernel mode.
        """
        entries = entries[: min(len(entries) & ~7, HOST_FIRST)]
        old, length = self._entries, max(len(entries), len(self._entries))
        for start in range(0, length, BLOCK):
            if level == self._level and entries[start : start + BLOCK] == old[start : start + BLOCK]:
                continue
            for offset in range(start, min(start + BLOCK, length), 8):
                self._shadow(offset, Descriptor(int.from_bytes(entries[offset : offset + 8], "little")), level)
        self._entries, self._level = entries, level

    def _shadow(self, offset: int, descriptor: Descriptor, level: int) -> None:
        for table, ring in zip(self.tables, (level, 3), strict=True):
            self._host.write(table + offset, 8, shadow(descriptor, ring) if offset else 0)

    def source(self, selector: int) -> Descriptor:
        """Return the guest's descriptor behind a selector, as it was when it was shadowed."""
        start = selector & 0xFFF8
        return Descriptor(int.from_bytes(self._entries[start : start + 8], "little"))

    def selector_for(self, index: int, register: SegmentRegister, *, user: bool) -> int:
        """Return the real selector that gives a real segment register the contents of a VCPU's.

        Where the shadow table holds no such descriptor, a cached one is written for it, until `conceal`.
        """
        if not register.access:
            return register.selector & 3
        table = self.tables[user]
        selector = register.selector
        ring = 3 if index in (CS, SS) else selector & 3
        if selector & 0xFFFC and not selector & 4 and selector & 0xFFF8 < HOST_FIRST:
            found = Descriptor(self._host.read(table + (selector & 0xFFF8), 8))
            if (found.base, found.limit, found.access, found.big, found.long) == hidden(register):
                return selector & 0xFFF8 | ring
        return self._cache(index, table, hidden(register))

    def _cache(self, index: int, table: int, parts: Hidden) -> int:
        """Write a cached descriptor into a table, until `conceal`; return its selector."""
        cached = CACHED_FIRST + index * 8
        base, limit, access, big, long = parts
        self._host.write(table + cached, 8, encode_descriptor(base, limit, access, big=big, long=long))
        self._cached.append(table + cached)
        return cached | 3

    def hidden(self, index: int, register: SegmentRegister, *, user: bool) -> Hidden:
        """Return base, limit, access byte, D/B and L that a real segment register holds for one of a VCPU."""
        return hidden(register)

    def conceal(self) -> None:
        """Take the cached descriptors out of the tables, now that the segment registers hold them."""
        for place in self._cached:
            self._host.write(place, 8, 0)
        self._cached.clear()

    def save(self) -> dict[str, object]:
        """Save what is not in memory."""
        return {"version": 1, "entries": self._entries, "level": self._level}

    def load(self, state: dict[str, object]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        checked = check_state(state, "shadow descriptors", {"entries": bytes, "level": range(3)})
        self._entries, self._level = checked["entries"], checked["level"]


def shadow(descriptor: Descriptor, level: int) -> int:
    """Return the shadow of a guest's descriptor for a virtual privilege level; 0 (not present) where use must trap.

    >>> kernel_code = Descriptor(0x00CF9B000000FFFF)
    >>> hex(shadow(kernel_code, 0)), shadow(kernel_code, 3)
    ('0xcffb000000ffff', 0)
    """
    if not descriptor.is_segment or not descriptor.present or not descriptor.access & ACCESSED:
        return 0
    usable = descriptor.dpl == level if descriptor.is_code else descriptor.dpl >= level
    return descriptor.raw | DPL_3 << 40 if usable else 0


def hidden(register: SegmentRegister) -> Hidden:
    """Return base, limit, access byte, D/B and L that the real segment register holds for one of a VCPU."""
    access = register.access and register.access | DPL_3
    return register.base, register.limit, access, register.big, register.long
