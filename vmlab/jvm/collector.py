"""The garbage collector: mark what the program can still reach, sweep the rest.

It begins at the *roots*: static fields, the strings of constant pools, what the runtime holds, and the words of all frames that
are references by what the verifier has found. From there it follows the references of objects and arrays, and marks each that it
meets in its header. Then it walks the heap from end to end: what is not marked is free, and joined with what is free beside it.

Simplified: the program stands still meanwhile; all of the heap is looked at each time.

Read more: McCarthy, "Recursive functions of symbolic expressions", CACM 1960; Jones, Hosking and Moss, 2012, chapter 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.errors import StateError
from vmlab.jvm.heap import ELEMENTS, LENGTH, MARK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmlab.jvm.heap import Heap
    from vmlab.jvm.loader import ClassLoader

__all__ = ["Collection", "check_heap", "collect"]

SMALLEST_GAP = 16


class Collection(NamedTuple):
    """What a collection has found: objects that live, and that were freed; bytes of both."""

    live: int
    freed: int
    live_bytes: int
    freed_bytes: int


def collect(heap: Heap, loader: ClassLoader, roots: Iterable[int]) -> Collection:
    """Free what cannot be reached from the roots.

    Parameters
    ----------
    heap : Heap
        What is swept.
    loader : ClassLoader
        Knows where an object's references are.
    roots : iterable of int
        References; null is allowed.
    """
    heap.close()
    _mark(heap, loader, roots)
    return _sweep(heap)


def _mark(heap: Heap, loader: ClassLoader, roots: Iterable[int]) -> None:
    memory, by_record = heap.memory, loader.by_record
    pending = [each for each in roots if each]
    while pending:
        reference = pending.pop()
        size = memory.read(reference + 4, 4)
        if size & MARK:
            continue
        memory.write(reference + 4, 4, size | MARK)
        found = by_record[memory.read(reference, 4)]
        if found.element[:1] in ("L", "["):
            first = reference + ELEMENTS >> 2
            pending += filter(None, memory.view32[first : first + memory.read(reference + LENGTH, 4)])
        else:
            pending += [each for offset in found.references if (each := memory.read(reference + offset, 4))]


def _sweep(heap: Heap) -> Collection:
    memory = heap.memory
    gaps: list[list[int]] = []
    live = freed = live_bytes = freed_bytes = 0
    address, end = heap.start, heap.end
    while address < end:
        size = memory.read(address + 4, 4)
        if size & MARK:
            size &= ~MARK
            memory.write(address + 4, 4, size)
            live, live_bytes = live + 1, live_bytes + size
        else:
            if memory.read(address, 4):
                freed, freed_bytes = freed + 1, freed_bytes + size
            if gaps and sum(gaps[-1]) == address:
                gaps[-1][1] += size
            else:
                gaps.append([address, size])
        address += size
    for start, size in gaps:
        heap.free(start, size)
    heap.gaps = [gap for gap in gaps if gap[1] >= SMALLEST_GAP]
    return Collection(live, freed, live_bytes, freed_bytes)


def check_heap(heap: Heap, loader: ClassLoader, roots: Iterable[int]) -> None:
    """See that the heap can be walked from end to end, and that all references lead to objects.

    Raises
    ------
    StateError
        It cannot, or one does not.
    """
    memory, objects, address = heap.memory, set(), heap.start
    gap = range(memory.read(heap.open_cell, 4), memory.read(heap.limit_cell, 4))
    while address < heap.end:
        size = gap.stop - address if gap and address == gap.start else memory.read(address + 4, 4)
        record = 0 if gap and address == gap.start else memory.read(address, 4)
        if size <= 0 or size % 8 or address + size > heap.end or (record and record not in loader.by_record):
            raise StateError(f"heap: there is no object at {address:#x}: the saved state is damaged")
        if record:
            objects.add(address)
            if loader.by_record[record].element and memory.read(address + LENGTH, 4) > size:
                raise StateError(
                    f"heap: the array at {address:#x} is longer than its memory: the saved state is damaged"
                )
        address += size
    found = [each for each in roots if each]
    for each in objects:
        kind = loader.by_record[memory.read(each, 4)]
        if kind.element[:1] in ("L", "["):
            first = each + ELEMENTS >> 2
            found += filter(None, memory.view32[first : first + memory.read(each + LENGTH, 4)])
        else:
            found += [value for offset in kind.references if (value := memory.read(each + offset, 4))]
    wrong = next((each for each in found if each not in objects), None)
    if wrong is not None:
        raise StateError(f"heap: a reference leads to {wrong:#x}, where there is no object: the saved state is damaged")
