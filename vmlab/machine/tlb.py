"""The translation look-aside buffer, as software feels it (Intel SDM vol. 3, 4.10).

An entry stays, right or stale, until it is invalidated or makes room: what a page table says is believed only on a
miss. Simplified: one buffer for code and data, fully associative, first in first out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vmlab.errors import StateError
from vmlab.machine.state import check_state

__all__ = ["Tlb", "TlbEntry"]


@dataclass(frozen=True, slots=True)
class TlbEntry:
    """A cached translation of one 4 KiB page: physical page address and rights."""

    frame: int
    writable: bool
    user: bool
    dirty: bool
    global_: bool


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
        """Drop the translation of one page, global or not (INVLPG)."""
        self.entries.pop(page, None)

    def save(self) -> dict[str, Any]:
        """Save as plain data, in order of age."""
        rows = [[p, e.frame, e.writable, e.user, e.dirty, e.global_] for p, e in self.entries.items()]
        return {"version": 1, "entries": rows, "misses": self.misses, "flushes": self.flushes}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged."""
        check_state(state, "TLB", {"entries": list, "misses": int, "flushes": int})
        if len(state["entries"]) > self.capacity:
            raise StateError(f"TLB: {len(state['entries'])} saved entries do not fit into {self.capacity}")
        self.entries = {row[0]: TlbEntry(*row[1:]) for row in state["entries"]}
        self.misses, self.flushes = state["misses"], state["flushes"]
