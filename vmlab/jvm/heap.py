"""The heap: objects and arrays in the simulated memory, and how one is allocated.

    an object   +0 record of its class   +4 bytes, bit 0 the mark   +8 fields: four bytes each, a long eight
    an array    +0 record of its class   +4 bytes, bit 0 the mark   +8 length   +12 elements
    free        +0 zero                  +4 bytes

All sizes are multiples of 8, and one follows the other, so that the heap can be walked from end to end. An allocation takes from
the front of the *open* gap, between two cells that compiled code moves by itself; where that is too small the first gap that is
large enough is opened, and cleared.

Simplified: objects stay where they are. What a collection finds is in `vmlab.jvm.collector`.

Read more: Jones, Hosking and Moss, "The Garbage Collection Handbook", 2012, chapter 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.jvm.descriptors import ELEMENT_SIZES
from vmlab.jvm.process import HEAP
from vmlab.machine.state import LONG, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.classes import JavaClass
    from vmlab.jvm.process import Process

__all__ = ["ELEMENTS", "LENGTH", "Heap", "element_size"]

LENGTH, ELEMENTS = 8, 12
"""Offsets in arrays."""
MARK = 1


def element_size(element: str) -> int:
    """Return the bytes of an array's element: of a reference 4."""
    return ELEMENT_SIZES.get(element, 4)


def signed(value: int, bits: int = 32) -> int:
    """Return the number that the lowest bits of a value are.

    >>> signed(0xFFFFFFFF), signed(0x80, 8)
    (-1, -128)
    """
    return (value & (1 << bits) - 1) - ((value & 1 << bits - 1) << 1)


class Heap:
    """Objects and arrays.

    Attributes
    ----------
    start, end : int
        Its addresses.
    open_cell, limit_cell : int
        Addresses of the words that hold where the open gap begins and ends.
    gaps : list of [int, int]
        Address and bytes of the other gaps, by address.
    allocated : int
        Objects and arrays that the runtime has allocated; those of compiled code are counted by a collection.
    """

    def __init__(self, process: Process) -> None:
        self.memory = process.memory
        self.start, self.end = HEAP, HEAP + process.heap_size
        self.open_cell, self.limit_cell = process.reserve(4), process.reserve(4)
        self.gaps: list[list[int]] = []
        self.memory.write(self.open_cell, 4, self.start)
        self.memory.write(self.limit_cell, 4, self.end)

    # -- allocation --------------------------------------------------------------------------------------------------------

    def allocate(self, record: int, size: int) -> int:
        """Take cleared memory for an object; return its address, or 0 where there is no gap large enough."""
        memory = self.memory
        address = memory.read(self.open_cell, 4)
        if size > memory.read(self.limit_cell, 4) - address:
            if not self._open(size):
                return 0
            address = memory.read(self.open_cell, 4)
        memory.write(self.open_cell, 4, address + size)
        memory.write(address, 4, record)
        memory.write(address + 4, 4, size)
        return address

    def _open(self, size: int) -> bool:
        """Open the first gap that is large enough, and close the one that was open."""
        for index, (address, length) in enumerate(self.gaps):
            if length >= size:
                del self.gaps[index]
                self.close()
                self.memory.write_bytes(address, bytes(length))
                self.memory.write(self.open_cell, 4, address)
                self.memory.write(self.limit_cell, 4, address + length)
                return True
        return False

    def close(self) -> None:
        """Close the open gap: what remains of it is free."""
        address, end = self.memory.read(self.open_cell, 4), self.memory.read(self.limit_cell, 4)
        if address < end:
            self.free(address, end - address)
            if not any(start == address for start, _ in self.gaps):
                self.gaps.append([address, end - address])
                self.gaps.sort()
        self.memory.write(self.limit_cell, 4, address)

    def free(self, address: int, size: int) -> None:
        """Make memory free."""
        self.memory.write(address, 4, 0)
        self.memory.write(address + 4, 4, size)

    # -- what is in them -----------------------------------------------------------------------------------------------------

    def record(self, reference: int) -> int:
        """Return the address of the record of an object's class."""
        return self.memory.read(reference, 4)

    def length(self, array: int) -> int:
        """Return the length of an array."""
        return self.memory.read(array + LENGTH, 4)

    def get(self, address: int, descriptor: str) -> int:
        """Read a field, as it is on the operand stack: what is smaller than an int is an int in memory, too."""
        if descriptor == "J":
            return signed(self.memory.read(address, 8), 64)
        value = self.memory.read(address, 4)
        return value - ((value & 0x80000000) << 1)

    def set(self, address: int, descriptor: str, value: int) -> None:
        """Write a field."""
        if descriptor in "BSCZ":
            value = NARROW[descriptor](value)
        self.memory.write(address, 8 if descriptor == "J" else 4, value)

    def bytes_of(self, array: int, element: int) -> bytes:
        """Return the elements of an array, of so many bytes each."""
        return self.memory.read_bytes(array + ELEMENTS, self.length(array) * element)

    def size_of_array(self, found: JavaClass, length: int) -> int:
        """Return the bytes of an array."""
        size = ELEMENTS + length * element_size(found.element)
        return size + -size % 8

    def save(self) -> dict[str, Any]:
        """Save where gaps are; what is between them is in memory."""
        return {"version": 1, "gaps": [list(gap) for gap in self.gaps]}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, "heap", {"gaps": Items(Items(LONG, 2))})
        self.gaps = [list(gap) for gap in state["gaps"]]


NARROW: dict[str, Callable[[int], int]] = {
    "B": lambda value: signed(value, 8),
    "S": lambda value: signed(value, 16),
    "C": lambda value: value & 0xFFFF,
    "Z": lambda value: value & 1,
}
"""What becomes of an int that is stored in a field of a smaller type."""
