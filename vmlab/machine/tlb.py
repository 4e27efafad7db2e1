"""The translation look-aside buffer, as software feels it (Intel SDM vol. 3, 4.10).

An entry stays, right or stale, until it is invalidated or makes room: what a page table says is believed only on a
miss. Simplified: one buffer for code and data, fully associative, first in first out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vmlab.errors import StateError
from vmlab.machine.state import COUNT, LONG, Items, check_state

__all__ = ["Tlb", "TlbEntry"]

PARTS = {"page": range(1 << 20), "frame": LONG} | dict.fromkeys(("writable", "user", "dirty", "global", "large"), bool)


@dataclass(frozen=True, slots=True)
class TlbEntry:
    """A cached translation of one 4 KiB page: physical page address and rights; `large` where a 4 MiB page holds it."""

    frame: int
    writable: bool
    user: bool
    dirty: bool
    global_: bool
    large: bool = False


@dataclass(slots=True)
class Tlb:
    """Cached translations by linear page number, oldest first.

    Attributes
    ----------
    capacity : int
        Entries that it holds.
    misses, flushes : int
        Counts since the start.
    """

    capacity: int = 64
    entries: dict[int, TlbEntry] = field(default_factory=dict)
    misses: int = 0
    flushes: int = 0

    def insert(self, page: int, entry: TlbEntry) -> int | None:
        """Enter a translation; return the page that had to make room, if any."""
        victim = None
        if page in self.entries:
            del self.entries[page]
        elif len(self.entries) >= self.capacity:
            victim = next(iter(self.entries))
            del self.entries[victim]
        self.entries[page] = entry
        return victim

    def flush(self, *, keep_global: bool = False) -> None:
        """Drop all entries, or all but the global ones."""
        self.flushes += 1
        kept = {page: entry for page, entry in self.entries.items() if entry.global_} if keep_global else {}
        self.entries = kept

    def drop(self, page: int) -> None:
        """Drop the translation of one page, global or not."""
        self.entries.pop(page, None)

    def parts(self, page: int) -> list[int]:
        """Return the other pages held of the 4 MiB page around this one: INVLPG drops them too (SDM vol. 3, 4.10.4.1)."""
        return [other for other, entry in self.entries.items() if entry.large and other >> 10 == page >> 10]

    def save(self) -> dict[str, Any]:
        """Save as plain data, in order of age."""
        rows = [[p, e.frame, e.writable, e.user, e.dirty, e.global_, e.large] for p, e in self.entries.items()]
        return {"version": 1, "entries": rows, "misses": self.misses, "flushes": self.flushes}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged."""
        fields = {"entries": Items(Items((LONG, bool), len(PARTS))), "misses": COUNT, "flushes": COUNT}
        check_state(state, "TLB", fields)
        rows = state["entries"]
        if len(rows) > self.capacity:
            raise StateError(f"TLB: {len(rows)} saved entries do not fit into {self.capacity}")
        for row in rows:
            check_state({"version": 1} | dict(zip(PARTS, row, strict=True)), "TLB entry", PARTS)
        self.entries = {row[0]: TlbEntry(*row[1:]) for row in rows}
        self.misses, self.flushes = state["misses"], state["flushes"]
