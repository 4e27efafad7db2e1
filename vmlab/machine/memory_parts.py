"""Parts of `vmlab.machine.memory`: what every memory offers, which bytes of a page are code, who wants to know of writes.

Data and code often share a page, in small kernels above all. So that a write to the data does not cost the page its
decoded and translated instructions, the bytes that these depend on are noted one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CodeBytes", "Listeners", "Memory"]

PAGE_SIZE = 0x1000
REGIONS = 0x10000
"""Keys of a page's decoded instructions below this are offsets; from here on they are translated regions, or tell of them."""
LONGEST_WRITE, MOST_WRITES = 16, 64
"""Bytes of a write that may leave other instructions of a page decoded, and how many such writes there may be."""


class Memory(Protocol):
    """What a loader or a view needs of a memory, host's or guest's."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, address: int, size: int) -> int:
        """Read a little-endian integer of 1, 2, 4 or 8 bytes."""

    def write(self, address: int, size: int, value: int) -> None:
        """Write a little-endian integer of 1, 2, 4 or 8 bytes."""

    def read_bytes(self, address: int, length: int) -> bytes:
        """Read a run of bytes."""

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write a run of bytes."""

    def digest(self) -> str:
        """SHA-256 of the contents, in hexadecimal."""


class CodeBytes:
    """Which bytes of pages were decoded."""

    __slots__ = ("_free", "_marks", "_writes")

    def __init__(self) -> None:
        self._marks: dict[int, bytearray] = {}
        self._writes: dict[int, int] = {}  # how many have left others decoded, by page
        self._free: dict[tuple[int, int], list[int]] = {}  # what `others` found

    def mark(self, page: int, offset: int, size: int) -> None:
        """Note bytes of a page; from the first note on, the others do not count."""
        marks = self._marks.get(page)
        if marks is None:
            marks = self._marks[page] = bytearray(PAGE_SIZE)
        marks[offset : offset + size] = b"\1" * min(size, PAGE_SIZE - offset)
        self._free.clear()

    def holds(self, page: int, offset: int, size: int) -> bool:
        """Say whether any of these bytes counts: of a page without a note, all do."""
        marks = self._marks.get(page)
        return marks is None or marks.find(1, offset, offset + size) >= 0

    def others(self, page: int, size: int) -> list[int]:
        """Return where runs of `size` bytes begin in which none counts."""
        found = self._free.get((page, size))
        if found is None:
            lines = range(0, PAGE_SIZE, size)
            found = self._free[page, size] = [line for line in lines if not self.holds(page, line, size)]
        return found

    def drop(self, page: int) -> None:
        """Forget a page."""
        self._marks.pop(page, None)
        self._writes.pop(page, None)
        self._free.clear()

    def survivors(self, page: int, decoded: dict[int, Any], offset: int, size: int) -> dict[int, Any]:
        """Return what a write to bytes of a page leaves true of what was decoded; nothing where it is better all anew.

        Code that is patched here and there keeps the rest of its page; a page that is overwritten word by word does not pay
        for each of them.
        """
        marks, writes = self._marks.get(page), self._writes.get(page, 0)
        if marks is None or size > LONGEST_WRITE or writes >= MOST_WRITES:
            return {}
        self._writes[page] = writes + 1
        end = offset + size
        marks[offset:end] = bytes(min(size, PAGE_SIZE - offset))
        self._free.clear()
        kept = decoded.copy()
        for key in [key for key, value in decoded.items() if _depends(key, value, offset, end)]:
            del kept[key]
        return kept


def _depends(key: int, value: Any, offset: int, end: int) -> bool:  # noqa: ANN401 - an instruction, a region, or a number
    """Say whether what is kept with a page may be another after a write from one offset to another."""
    if key < REGIONS:
        at = key & PAGE_SIZE - 1
        return at < end and at + value[2] > offset
    if value is None:  # what was not worth translating may be now
        return True
    return value.__class__ is not int and value.contains(offset, end)


class Listeners:
    """Who wants to know of writes, by page: watchers are called with the page, spies with the bytes, too."""

    __slots__ = ("spies", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[int, list[Callable[[int], None]]] = {}
        self.spies: dict[int, list[Callable[[int, int, int], None]]] = {}

    def call(self, page: int, offset: int, size: int) -> None:
        """Tell of a write."""
        for watcher in tuple(self.watchers.get(page, ())):
            watcher(page)
        for spy in tuple(self.spies.get(page, ())):
            spy(page, offset, size)

    def remove(self, page: int, callback: object) -> bool:
        """Remove a watcher or a spy; say whether nobody wants to know of the page any more."""
        kinds: tuple[dict[int, list[Any]], ...] = (self.watchers, self.spies)
        for each in kinds:
            callbacks = each.get(page, [])
            if callback in callbacks:
                callbacks.remove(callback)
            if not callbacks:
                each.pop(page, None)
        return page not in self.watchers and page not in self.spies
