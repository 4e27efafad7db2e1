"""Page-modification logging: the processor writes down which pages a guest writes to (Intel SDM vol. 3, 28.3.6).

Each time that a page walk is about to set a dirty bit of extended page tables, the guest-physical address of the page goes
into a buffer of 512 entries, from the last down to the first, at the place that the PML index names; where there is none
left, the access is a VM exit before it has changed anything.

Simplified: the exit comes where all that one walk would log does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.page_formats_host import EPT_DIRTY
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason, VmExit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmlab.machine.bus import Bus
    from vmlab.machine.nested_walk import NestedTranslation

__all__ = ["logged_walk"]

ENTRIES, ENTRY_BYTES = 512, 8
MOST = 6
"""Pages that one walk can make dirty: the tables of a guest, and the page itself."""


def newly_dirty(found: NestedTranslation) -> Iterator[int]:
    """Yield the guest-physical addresses of the pages whose dirty bit a walk sets."""
    tables = [step.address for step in found.guest.steps if not step.in_register] if found.guest else []
    for address, host in zip((*tables, found.guest_frame), found.hosts, strict=True):
        if host.dirty and not host.steps[-1].entry & EPT_DIRTY:
            yield address & -0x1000


def logged_walk(fields: dict[int, int], bus: Bus, walk: Callable[[bool], NestedTranslation]) -> NestedTranslation:
    """Walk, and log what becomes dirty; `walk(True)` marks entries, `walk(False)` does not."""
    index = fields[f.PML_INDEX]
    room = index + 1 if index < ENTRIES else 0
    if room < MOST and len(list(newly_dirty(walk(False)))) > room:
        raise VmExit(BasicReason.PML_FULL)
    found = walk(True)
    for address in newly_dirty(found):
        bus.write(fields[f.PML_ADDRESS] + ENTRY_BYTES * index, ENTRY_BYTES, address)
        index = index - 1 & 0xFFFF
    fields[f.PML_INDEX] = index
    return found
