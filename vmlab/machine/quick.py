"""What translated code knows of pages: dictionaries from linear addresses to places in RAM.

A key is the linear address of a page, for reads, or of a line of 256 bytes, for writes; what is found is added to a linear
address to get the place in RAM. They are a part of the dictionaries over the TLB (see `vmlab.machine.address_translation`).
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LINE", "Quick", "QuickMaps"]

LINE = 0x100


class Quick(dict[int, int]):
    """One of the dictionaries. What is not there is looked up as the access does; KeyError where that is not plain.

    Parameters
    ----------
    fill : callable
        Of a processor: returns what belongs to a key, after it has entered it, or raises KeyError.
    write : bool
        What for.
    """

    __slots__ = ("fill", "write")

    def __init__(self, fill: Callable[[Quick, int, bool], int], *, write: bool) -> None:
        super().__init__()
        self.fill = fill
        self.write = write

    def __missing__(self, key: int) -> int:
        return self.fill(self, key, self.write)


QuickMaps = tuple[Quick, Quick, set[int]]
"""Reads, writes, and the numbers of the pages that are in them."""
