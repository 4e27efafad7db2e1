"""The shadow tables of a guest as data: what a picture of them is drawn from, beside the guest's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.paging import WRITABLE
from vmlab.vmm.shadow_roles import Role, View

if TYPE_CHECKING:
    from vmlab.vmm.shadow_pages import ShadowPages
    from vmlab.vmm.shadow_tracing import TableTraces

__all__ = ["ShadowEntry", "ShadowTable", "shadow_tables"]


class ShadowEntry(NamedTuple):
    """One entry of a shadow page, for a picture.

    Attributes
    ----------
    slot : int
        Its place.
    entry : int
        What the hardware reads.
    source, now : int
        The guest's entry from which it derives, and that which stands there now: where they differ, it may be stale.
    target : int
        Guest-physical address of the page that it maps, or host-physical address of the shadow page that it leads to.
    leaf, writable : bool
        True at the last level; True where the hardware may write.
    """

    slot: int
    entry: int
    source: int
    now: int
    target: int
    leaf: bool
    writable: bool


class ShadowTable(NamedTuple):
    """One shadow page, for a picture.

    Attributes
    ----------
    address : int
        Host-physical.
    role : Role
        What it shadows: guest-physical address, level, and so on.
    view : View
        Whose rights it grants.
    out_of_step : bool
        True where the guest writes to its table unseen.
    entries : tuple of ShadowEntry
        What is present.
    parents : tuple of (int, int)
        Host-physical address and slot of each entry that leads here.
    """

    address: int
    role: Role
    view: View
    out_of_step: bool
    entries: tuple[ShadowEntry, ...]
    parents: tuple[tuple[int, int], ...]


def shadow_tables(pages: ShadowPages, traces: TableTraces) -> tuple[ShadowTable, ...]:
    """Return all shadow pages and their entries; nothing changes."""
    found = []
    for page in pages.pages.values():
        role, entries = page.role, []
        for slot, (source, target) in sorted(page.entries.items()):
            now = source if role.frame is None else traces.guest_entry(role, slot)
            leaf = role.level == 1
            entry = pages.entry(page, slot)
            place = target << PAGE_SHIFT if leaf else target
            entries.append(ShadowEntry(slot, entry, source, now, place, leaf, bool(entry & WRITABLE)))
        out_of_step = role.frame in traces.out_of_step
        found.append(
            ShadowTable(page.address, role, View(role.view), out_of_step, tuple(entries), tuple(sorted(page.parents)))
        )
    return tuple(found)
