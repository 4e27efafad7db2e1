"""Who owns which frame of the computer's memory: the hypervisor, a guest, several guests; and what is in it.

Read from the running system: the frames behind each guest's memory, the tables that its address spaces use, the tables
that the hypervisor keeps for it, and what the hypervisor has not given out. Nothing changes.

Simplified: of a guest's page tables those are known that belong to its present address space, and to those in which its
user mode has run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.nested_walk import AddressSpace
from vmlab.machine.page_tables import table_entries
from vmlab.vmm.page_walk import guest_space, host_spaces, reader, shadows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.vmm.system import System

__all__ = ["KINDS", "FrameRange", "frame_map", "table_frames"]

KINDS = {
    "nobody": "not in use",
    "host": "the hypervisor's own",
    "free": "the hypervisor's, free",
    "shadow": "shadow page tables",
    "nested": "nested page tables",
    "memory": "guest memory",
    "mapped": "guest memory, mapped by user mode",
    "tables": "the guest's page tables",
    "shared": "shared by guests",
}
"""Kinds of frames, in words."""


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Neighbouring frames of one owner and kind.

    Attributes
    ----------
    first, count : int
        Host page number of the first frame, and how many there are.
    kind : str
        A key of `KINDS`.
    guests : tuple of int
        Whose, or for whom.
    guest_page : int or None
        Guest-physical page number of the first; None where it is no guest's, or several guests'.
    """

    first: int
    count: int
    kind: str
    guests: tuple[int, ...]
    guest_page: int | None


Frame = tuple[str, tuple[int, ...], int | None]


def _spaces(system: System, guest: int) -> Iterator[AddressSpace]:
    """Yield the address spaces of a guest that are known."""
    vcpu, space = guest_space(system, guest)
    if space is None:
        return
    yield space
    for root in vcpu.user_spaces:
        if root != space.root and not space.format.levels[0].in_registers:
            yield AddressSpace(space.format, root, space.registers)


def table_frames(system: System, guest: int) -> tuple[set[int], set[int]]:
    """Return the guest-physical pages that hold its page tables, and those that its user mode can reach."""
    tables: set[int] = set()
    mapped: set[int] = set()
    vcpu, _ = guest_space(system, guest)
    read = reader(vcpu)
    pages = vcpu.memory.size >> PAGE_SHIFT
    for space in _spaces(system, guest):
        tables.add(space.top >> PAGE_SHIFT)
        allowed = {0: True}  # by level: what the entries above allow
        for entry in table_entries(space, read):
            level = space.format.levels[entry.level]
            user = allowed[entry.level] and (not level.grants or bool(entry.entry & space.format.user))
            allowed[entry.level + 1] = user
            if not entry.is_leaf:
                tables.add(entry.target >> PAGE_SHIFT)
            elif user:
                first = entry.target >> PAGE_SHIFT
                mapped.update(range(first, min(first + (entry.span >> PAGE_SHIFT), pages)))
    return {page for page in tables if page < pages}, mapped - tables


def _guests(system: System, frames: dict[int, Frame]) -> None:
    """Enter the frames behind the guests' memories."""
    for index, guest in enumerate(system.guests):
        tables, mapped = table_frames(system, index)
        memory: Any = guest.memory
        own = memory.frames if hasattr(memory, "frames") else range(memory.size >> PAGE_SHIFT)
        direct = system.memory_virtualization == "direct"  # its tables hold machine addresses
        for page, frame in enumerate(own):
            place = frame if direct else page
            kind = "tables" if place in tables else "mapped" if place in mapped else "memory"
            known = frames.get(frame)
            if known and known[1] and known[1] != (index,):
                frames[frame] = "shared", (*known[1], index), None
            else:
                frames[frame] = kind, (index,), page


def _hypervisor(system: System, frames: dict[int, Frame]) -> None:
    """Enter the hypervisor's frames."""
    virtual: Any = system
    held = virtual.host if hasattr(system, "host") else virtual.switcher.host
    for address in held.addresses:
        frames[address >> PAGE_SHIFT] = "host", (), None
    for address in held.free:
        frames[address >> PAGE_SHIFT] = "free", (), None
    for index in range(len(system.guests)):
        for table in [table for shadow in shadows_of(system, index) for table in shadow.tables()]:
            frames[table.address >> PAGE_SHIFT] = "shadow", (index,), None
        read = reader(system.machine.cpu)
        for host in host_spaces(system, index):
            addresses = [host.top, *(each.target for each in table_entries(host, read) if not each.is_leaf)]
            frames |= dict.fromkeys((address >> PAGE_SHIFT for address in addresses), ("nested", (index,), None))


def frame_map(system: System) -> list[FrameRange]:
    """Return all frames of a computer's memory, in ranges.

    Parameters
    ----------
    system : System
        What runs.

    Returns
    -------
    list of FrameRange
        In the order of their addresses.
    """
    frames: dict[int, Frame] = {}
    _guests(system, frames)
    if hasattr(system, "vmm"):
        _hypervisor(system, frames)
    ranges: list[FrameRange] = []
    for number in range(system.machine.memory.size >> PAGE_SHIFT):
        kind, guests, page = frames.get(number, ("nobody", (), None))
        last = ranges[-1] if ranges else None
        follows = last and (last.kind, last.guests) == (kind, guests)
        if last and follows and (page is None or page == (last.guest_page or 0) + last.count):
            ranges[-1] = FrameRange(last.first, last.count + 1, kind, guests, last.guest_page)
        else:
            ranges.append(FrameRange(number, 1, kind, guests, page))
    return ranges
