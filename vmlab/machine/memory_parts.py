"""Parts of `vmlab.machine.memory`: what every memory offers, and which bytes of a page are code.

Data and code often share a page, in small kernels above all. So that a write to the data does not cost the page its
decoded and translated instructions, the bytes that these depend on are noted one by one.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["CodeBytes", "Memory"]

PAGE_SIZE = 0x1000


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

    __slots__ = ("_free", "_marks")

    def __init__(self) -> None:
        self._marks: dict[int, bytearray] = {}
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
        self._free.clear()
