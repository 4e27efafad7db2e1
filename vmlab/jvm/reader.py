"""Bytes of a class file from first to last, big-endian, each read checked against the end.

Read more: The Java Virtual Machine Specification, Java SE 8 edition (JVMS), 4.1.
"""

from __future__ import annotations

from vmlab.errors import ImageError

__all__ = ["Reader"]


class Reader:
    """A place in a run of bytes.

    Parameters
    ----------
    data : bytes
        What is read.
    name : str
        Of the file, for messages.

    Examples
    --------
    >>> reader = Reader(bytes.fromhex("cafe0001"), "A.class")
    >>> hex(reader.u2()), reader.u2()
    ('0xcafe', 1)
    """

    __slots__ = ("data", "name", "place")

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.place = 0

    def bytes(self, count: int) -> bytes:
        """Read a run of bytes.

        Raises
        ------
        ImageError
            The file ends before.
        """
        end = self.place + count
        if end > len(self.data):
            raise ImageError(
                f"{self.name}: truncated: {count} bytes are needed at {self.place}, the file has {len(self.data)}: "
                "compile it again"
            )
        found = self.data[self.place : end]
        self.place = end
        return found

    def _number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.bytes(size), "big", signed=signed)

    def u1(self) -> int:
        """Read an unsigned byte."""
        return self._number(1)

    def u2(self) -> int:
        """Read an unsigned number of two bytes."""
        return self._number(2)

    def u4(self) -> int:
        """Read an unsigned number of four bytes."""
        return self._number(4)

    def s1(self) -> int:
        """Read a signed byte."""
        return self._number(1, signed=True)

    def s2(self) -> int:
        """Read a signed number of two bytes."""
        return self._number(2, signed=True)

    def s4(self) -> int:
        """Read a signed number of four bytes."""
        return self._number(4, signed=True)

    def s8(self) -> int:
        """Read a signed number of eight bytes."""
        return self._number(8, signed=True)

    def part(self, count: int) -> Reader:
        """Return a reader of the next bytes alone."""
        return Reader(self.bytes(count), self.name)

    @property
    def at_end(self) -> bool:
        """True where all has been read."""
        return self.place == len(self.data)
