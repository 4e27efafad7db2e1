"""The translation look-aside buffer, as software feels it (Intel SDM vol. 3, 4.10).

An entry stays, right or stale, until it is invalidated or makes room: what a page table says is believed only on a
miss. An entry belongs to one address space, by its process-context identifier (0 without CR4.PCIDE), or is global and
serves them all. Simplified: one buffer for code and data, fully associative, first in first out; a large page is
entered in parts of 4 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vmlab.errors import StateError
from vmlab.machine.state import COUNT, QUAD, Items, check_state

__all__ = ["PAGE_MASK", "SPACE_SHIFT", "Tlb", "TlbEntry", "covers"]

# The key of an entry:  [ GLOBAL 64 | PCID 63:52 | linear page number 51:0 ]
SPACE_SHIFT = 52
PAGE_MASK = (1 << SPACE_SHIFT) - 1
GLOBAL = 1 << 64

PARTS = {
    "key": range(GLOBAL << 1), "frame": QUAD, "writable": bool, "user": bool, "executable": bool, "dirty": bool,
    "global": bool, "span": QUAD,
}  # fmt: skip


class TlbEntry(NamedTuple):
    """A cached translation of one 4 KiB page: physical page address, rights, and the size of the page it is part of."""

    frame: int
    writable: bool
    user: bool
    executable: bool
    dirty: bool
    global_: bool
    span: int = 0x1000


@dataclass(slots=True)
class Tlb:
    """Cached translations, oldest first.

    Attributes
    ----------
    capacity : int
        Entries that it holds.
    entries : dict
        Translations by key: PCID and linear page number; without PCIDs the page number alone. A global one has its own.
    tag : int
        Process-context identifier of the present address space, at its place in a key.
    misses, flushes : int
        Counts since the start.
    """

    capacity: int = 64
    entries: dict[int, TlbEntry] = field(default_factory=dict)
    tag: int = 0
    misses: int = 0
    flushes: int = 0

    def find(self, page: int) -> TlbEntry | None:
        """Return the translation of a page in the present address space, if it is held."""
        return self.entries.get(page | self.tag) or self.entries.get(page | GLOBAL)

    def victim(self) -> int | None:
        """Return the page that would have to make room for another, if any."""
        return next(iter(self.entries)) & PAGE_MASK if len(self.entries) >= self.capacity else None

    def insert(self, page: int, entry: TlbEntry) -> int | None:
        """Enter a translation of a page that is not held; return the page that had to make room, if any."""
        victim, entries = None, self.entries
        if len(entries) >= self.capacity:
            oldest = next(iter(entries))
            del entries[oldest]
            victim = oldest & PAGE_MASK
        entries[page | (GLOBAL if entry.global_ else self.tag)] = entry
        return victim

    def flush(self, *, keep_global: bool = False) -> None:
        """Drop all entries of all address spaces, or all but the global ones."""
        self.flushes += 1
        kept = {key: entry for key, entry in self.entries.items() if entry.global_} if keep_global else {}
        self.entries = kept

    def flush_space(self, pcid: int) -> None:
        """Drop the entries of one address space that are not global."""
        self.flushes += 1
        self.entries = {key: entry for key, entry in self.entries.items() if key >> SPACE_SHIFT != pcid}

    def drop(self, page: int) -> None:
        """Drop the translation of one page in the present address space, global or not."""
        self.entries.pop(page | self.tag, None)
        self.entries.pop(page | GLOBAL, None)

    def drop_from(self, pcid: int, page: int) -> None:
        """Drop the translation of a page, and of the other parts of its large page, from one address space."""
        self.entries = {
            key: entry
            for key, entry in self.entries.items()
            if key >> SPACE_SHIFT != pcid or not covers(entry, key, page)
        }

    def parts(self, page: int) -> list[int]:
        """Return the pages held here of the large page around this one: INVLPG drops them too (SDM vol. 3, 4.10.4.1)."""
        spaces = (self.tag >> SPACE_SHIFT, GLOBAL >> SPACE_SHIFT)
        return [
            key & PAGE_MASK
            for key, entry in self.entries.items()
            if key >> SPACE_SHIFT in spaces and covers(entry, key, page)
        ]

    def save(self) -> dict[str, Any]:
        """Save as plain data, in order of age."""
        rows = [
            [key, e.frame, e.writable, e.user, e.executable, e.dirty, e.global_, e.span]
            for key, e in self.entries.items()
        ]
        return {"version": 2, "entries": rows, "misses": self.misses, "flushes": self.flushes}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged. The tag is the processor's to set."""
        fields = {"entries": Items(Items((range(GLOBAL << 1), bool), len(PARTS))), "misses": COUNT, "flushes": COUNT}
        check_state(state, "TLB", fields, version=2)
        rows = state["entries"]
        if len(rows) > self.capacity:
            raise StateError(f"TLB: {len(rows)} saved entries do not fit into {self.capacity}")
        for row in rows:
            check_state({"version": 1} | dict(zip(PARTS, row, strict=True)), "TLB entry", PARTS)
        self.entries = {row[0]: TlbEntry(*row[1:]) for row in rows}
        self.misses, self.flushes = state["misses"], state["flushes"]


def covers(entry: TlbEntry, key: int, page: int) -> bool:
    """Say whether an entry is a part of the page, large or not, around this one."""
    pages = entry.span >> 12
    return (key & PAGE_MASK) // pages == page // pages
