"""Walks that have been made before: one that would read the same entries again has the same result.

Nothing is told when a table changes: the entries are compared each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vmlab.machine.paging import Translation

    Read = Callable[[int, int], int]

__all__ = ["KnownWalks"]

MOST = 4096


class KnownWalks:
    """Results of walks, by all that they depend on beside the entries."""

    __slots__ = ("_walks",)

    def __init__(self) -> None:
        self._walks: dict[Hashable, tuple[Translation, tuple[tuple[int, int, int], ...]]] = {}

    def find(self, key: Hashable, read: Read) -> Translation | None:
        """Return the result of a walk, None where it has to be made."""
        known = self._walks.get(key)
        if known is None:
            return None
        found, entries = known
        for address, size, entry in entries:
            if read(address, size) != entry:
                return None
        return found

    def keep(self, key: Hashable, found: Translation, size: int, read: Read) -> None:
        """Keep the result of a walk over entries of so many bytes; one that has marked an entry differs from what it read."""
        entries = tuple((step.address, size, step.entry) for step in found.steps)
        if all(read(address, size) == entry for address, _, entry in entries):
            if len(self._walks) >= MOST:
                self._walks.clear()
            self._walks[key] = found, entries
