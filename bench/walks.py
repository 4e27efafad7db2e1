"""What a TLB miss costs in two dimensions against one: the same million accesses through both, in the same run.

The pages are strewn over the address space so that all levels of both tables are walked, and lie, like the tables, in
a `PhysicalMemory`. Nothing is cached: each access makes 24 memory references in two dimensions, and 4 in one. The word
at the address is read at the end, and the sums of both must be equal. Seconds are the processor's.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator

from bench.sampling import noise, ratio, take_turns
from vmlab.machine.memory import PAGE_SIZE, MemoryWindow, PhysicalMemory
from vmlab.machine.nested_walk import walk_nested
from vmlab.machine.page_format_names import FORMATS
from vmlab.machine.page_tables import PageTables
from vmlab.machine.paging import walk

__all__ = ["measure"]

ROUNDS, ACCESSES = 5, 200_000
PAGES, REGIONS = 8192, 64
MIB = 1 << 20
GUEST_BYTES, HOST_BYTES, HOST_TABLES = 48 * MIB, 96 * MIB, 16 * MIB
GOAL = 10


def _allocator(start: int) -> Callable[[int], int]:
    places = iter(range(start, HOST_BYTES, PAGE_SIZE))

    def allocate(size: int) -> int:
        assert size == PAGE_SIZE
        return next(places)

    return allocate


class Workload:
    """A guest with its tables and pages in guest-physical memory, the host's tables, and the same tables in one dimension."""

    def __init__(self) -> None:
        chance = random.Random(7)
        self.memory = memory = PhysicalMemory(HOST_BYTES)
        frames = list(range(HOST_TABLES // PAGE_SIZE, HOST_BYTES // PAGE_SIZE))
        chance.shuffle(frames)
        frames = frames[: GUEST_BYTES // PAGE_SIZE]
        guest_memory = MemoryWindow(memory, frames)
        self.host = PageTables(FORMATS["ept"], memory, _allocator(PAGE_SIZE))
        for number, frame in enumerate(frames):
            self.host.map(number * PAGE_SIZE, frame * PAGE_SIZE)
        self.guest = PageTables(FORMATS["4-level"], guest_memory, _allocator(0))
        self.plain = PageTables(FORMATS["4-level"], memory, _allocator(4 * MIB))
        self.pages = [self._page(chance, n) for n in range(PAGES)]
        for number, page in enumerate(self.pages, start=GUEST_BYTES // PAGE_SIZE - PAGES):
            self.guest.map(page, number * PAGE_SIZE)
            self.plain.map(page, frames[number] * PAGE_SIZE)
            guest_memory.write(number * PAGE_SIZE, 8, number)
        self._chance = chance
        self.addresses: list[int] = []
        self.sums: list[int] = []

    @staticmethod
    def _page(chance: random.Random, number: int) -> int:
        """Return a page of one of a few regions, which are anywhere: as programs are, with code, heap, libraries, stacks."""
        region = number % REGIONS
        return (region * 0x1F0_4020_0000 | chance.randrange(1 << 11) << 12) & 0x7FFF_FFFF_F000

    def draw(self) -> None:
        """Draw the addresses of a round."""
        self.addresses = [
            page | self._chance.randrange(512) << 3 for page in self._chance.choices(self.pages, k=ACCESSES)
        ]

    def one_dimension(self) -> float:
        """Walk the plain tables for each address of a new round; return the seconds."""
        self.draw()
        memory, total = self.memory, 0
        read, write, (format_, root, _) = memory.read, memory.write, self.plain.space
        start = time.process_time()
        for address in self.addresses:
            total += read(walk(format_, root, address, read, write).frame, 8)
        seconds = time.process_time() - start
        self.sums.append(total)
        return seconds

    def two_dimensions(self) -> float:
        """Walk in two dimensions for the addresses of the last round; return the seconds."""
        memory, total = self.memory, 0
        read, write, guest, host = memory.read, memory.write, self.guest.space, self.host.space
        start = time.process_time()
        for address in self.addresses:
            total += read(walk_nested(guest, host, address, read, write).frame, 8)
        seconds = time.process_time() - start
        assert total == self.sums[-1]
        return seconds


def measure() -> Iterator[str]:
    """Yield the figures."""
    work = Workload()
    peer, ours = take_turns(work.one_dimension, work.two_dimensions, ROUNDS)
    sample = work.addresses[0]
    memory = work.memory
    nested = walk_nested(work.guest.space, work.host.space, sample, memory.read, None).references
    plain = walk(work.plain.format, work.plain.root, sample, memory.read, None).references
    times = ratio(ours, peer)
    yield (
        f"{ROUNDS * ACCESSES:,} walks with {nested} references {statistics.median(ours) / ACCESSES * 1e6:.1f} µs each "
        f"({noise(ours)}) against {plain} references {statistics.median(peer) / ACCESSES * 1e6:.1f} µs ({noise(peer)}): "
        f"{times:.1f} x the time (goal: at most {GOAL} x), {times * plain / nested:.2f} x a reference"
    )
