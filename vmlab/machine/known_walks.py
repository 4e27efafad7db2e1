"""Walks that have been made before: one that would read the same entries again has the same result.

Nothing is told when a table changes: the entries are compared each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    Read = Callable[[int, int], int]
    Entry = tuple[int, int, int]

__all__ = ["KnownWalks"]

MOST = 4096
Found = TypeVar("Found")
"""What a walk results in."""


class KnownWalks(Generic[Found]):
    """Results of walks, by all that they depend on beside the entries."""

    __slots__ = ("_walks",)

    def __init__(self) -> None:
        self._walks: dict[Hashable, tuple[Found, tuple[Entry, ...]]] = {}

    def find(self, key: Hashable, read: Read) -> Found | None:
        """Return the result of a walk, None where it has to be made."""
        known = self._walks.get(key)
        if known is None:
            return None
        found, entries = known
        for address, size, entry in entries:
            if read(address, size) != entry:
                return None
        return found

    def keep(self, key: Hashable, found: Found, entries: Iterable[Entry], read: Read) -> None:
        """Keep the result of a walk that has read entries: address, bytes, value.

        One that has marked an entry would read another the next time, and is not kept.
        """
        kept = []
        for each in entries:
            address, size, entry = each
            if read(address, size) != entry:
                return
            kept.append(each)
        if len(self._walks) >= MOST:
            self._walks.clear()
        self._walks[key] = found, tuple(kept)
