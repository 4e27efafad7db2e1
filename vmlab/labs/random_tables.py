"""Random page tables in two dimensions, some entries missing and some read-only, and accesses with what comes of them.

The guest's tables lie here and there in guest-physical memory, and that lies here and there in the host's. What comes of
an access is not written down but walked, by `walk_nested`.

Simplified: supervisor accesses alone, CR0.WP set, no reserved bits, nothing marked accessed or dirty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.faults import Fault
from vmlab.machine.memory import PhysicalMemory
from vmlab.machine.nested_walk import NestedStep, walk_nested
from vmlab.machine.page_format_names import FORMATS
from vmlab.machine.page_tables import PageTables
from vmlab.machine.paging import PAGE, walk
from vmlab.machine.walk_faults import EptViolation, HostFault, NestedPageFault

if TYPE_CHECKING:
    import random

__all__ = ["DENIED", "HOST_PAGE", "HOST_TABLE", "MISSING", "Access", "RandomTables"]

PAGE_FAULT = "page fault"
FAULT_NAMES: dict[type[Exception], str] = {
    Fault: PAGE_FAULT, EptViolation: "EPT violation", NestedPageFault: "nested page fault"
}  # fmt: skip
"""What the fault of a walk is called."""

# Host-physical memory:   1 MiB … 7 MiB tables and pages of 4 KiB, in any order | 8 MiB … 10 MiB one page of 2 MiB
# Guest-physical memory:  0 … 2 MiB in pages of 4 KiB | 2 MiB … 4 MiB in the page of 2 MiB | nothing behind
MIB = 1 << 20
LARGE = 2 * MIB
MEMORY = 10 * MIB
SMALL_FRAMES, LARGE_FRAME = range(MIB, 7 * MIB, PAGE), 8 * MIB
GUEST_MEMORY = 2 * LARGE
REGIONS, PAGES, ACCESSES = 6, 8, 40

MISSING, DENIED, HOST_TABLE, HOST_PAGE = "missing", "denied", "host-table", "host-page"
WANTED = {"": 12, MISSING: 5, DENIED: 5, HOST_TABLE: 5, HOST_PAGE: 6}
"""How many accesses shall end in which way, where there are so many."""
LEAST = 2


class Access(NamedTuple):
    """An access, and what the processor makes of it.

    Attributes
    ----------
    address : int
        The guest's linear address.
    is_write : bool
        Whether it writes.
    result : int or tuple of (str, int)
        The host-physical address; or the guest's page fault with its error code, or the host's fault with the
        guest-physical address.
    ending : str
        `""` for an address, else `"missing"` or `"denied"` for a page fault, `"host-table"` or `"host-page"` for a fault
        of the host's.
    steps : tuple of NestedStep
        The entries read, in order.
    """

    address: int
    is_write: bool
    result: int | tuple[str, int]
    ending: str
    steps: tuple[NestedStep, ...]


class _GuestMemory:
    """Guest-physical memory, as the builder of the guest's tables needs it: found through the host's tables."""

    def __init__(self, host: PageTables, memory: PhysicalMemory) -> None:
        self._host, self._memory = host, memory
        self._frames: dict[int, int] = {}

    def _place(self, address: int) -> int:
        page, offset = address & -PAGE, address & PAGE - 1
        if page not in self._frames:
            format_, root, registers = self._host.space
            self._frames[page] = walk(format_, root, page, self._memory.read, None, registers=registers).frame
        return self._frames[page] | offset

    def read(self, address: int, size: int) -> int:
        return self._memory.read(self._place(address), size)

    def write(self, address: int, size: int, value: int) -> None:
        self._memory.write(self._place(address), size, value)


class RandomTables:
    """Tables of a guest and of its host in one memory, and accesses.

    Parameters
    ----------
    guest, host : str
        Names of formats.
    chance : random.Random
        Draws them.

    Attributes
    ----------
    memory : PhysicalMemory
        The host's memory.
    guest, host : PageTables
        The tables.
    accesses : list of Access
        The first one is a read that works.
    """

    def __init__(self, guest: str, host: str, chance: random.Random) -> None:
        self._chance = chance
        self.memory = PhysicalMemory(MEMORY)
        frames = chance.sample(SMALL_FRAMES, len(SMALL_FRAMES))
        self.host = PageTables(FORMATS[host], self.memory, lambda _: frames.pop())
        for physical in range(0, LARGE, PAGE):
            self.host.map(physical, frames.pop())
        self.host.map(LARGE, LARGE_FRAME, LARGE)
        self._free = chance.sample(range(PAGE, GUEST_MEMORY, PAGE), GUEST_MEMORY // PAGE - 1)
        self._inside = _GuestMemory(self.host, self.memory)
        self.guest = PageTables(FORMATS[guest], self._inside, lambda _: self._free.pop())
        pages = self._map()
        self._break(pages)
        self.accesses = self._draw(pages)

    def _map(self) -> dict[int, int]:
        """Map pages of the guest in some regions; return their addresses, and where they lie."""
        chance, guest = self._chance, self.guest
        bases = [self._extended(chance.randrange(1 << self._width - 21) << 21) for _ in range(REGIONS)]
        pages = {}
        for n, base in enumerate(bases):
            whole = n == 0 and LARGE in guest.sizes
            where = chance.choice((0, LARGE))
            if whole:
                guest.map(base, where, LARGE)
            for slot in chance.sample(range(LARGE // PAGE), PAGES):
                address, physical = base + slot * PAGE, where + slot * PAGE
                if not whole:
                    physical = self._free.pop()
                    guest.map(address, physical, writable=chance.random() < 0.8)
                pages[address] = physical
        return pages

    @property
    def _width(self) -> int:
        """Bits of a linear address that index a table, and those of the offset."""
        top = self.guest.format.levels[0]
        return top.shift + top.bits

    def _extended(self, address: int) -> int:
        """Return an address with its highest bit in all bits above, where the format wants that."""
        format_ = self.guest.format
        if format_.tops is None or address >> format_.top_shift in format_.tops:
            return address
        return address | -1 << format_.top_shift & (1 << 64) - 1

    def _break(self, pages: dict[int, int]) -> None:
        """Take pages away, and rights, in both dimensions."""
        chance, guest, host = self._chance, self.guest, self.host
        format_, root, _ = guest.space
        tables = {*guest.tables}
        small = [address for address, physical in pages.items() if physical < LARGE and physical not in tables]
        above = walk(format_, root, chance.choice(small), self._inside.read, None).steps[-2]
        self._inside.write(above.address, format_.entry_bytes, above.entry & ~format_.writable)
        for address in chance.sample(sorted(pages), 4):
            guest.unmap(address)
        frames = sorted({pages[address] for address in small})
        for frame in chance.sample(frames, min(8, len(frames))):
            if chance.random() < 0.5:
                host.unmap(frame)
            else:
                host.protect(frame, writable=False)
        for table in [table for table in guest.tables[-1:0:-1] if table < LARGE][:1]:
            host.unmap(table)

    def _draw(self, pages: dict[int, int]) -> list[Access]:
        """Draw accesses, some of which end in each way."""
        chance = self._chance
        tried = [(address | chance.randrange(PAGE), is_write) for address in pages for is_write in (False, True)]
        tried += [(self._extended(chance.randrange(1 << self._width)), False) for _ in range(2)]
        found = [self._access(*each) for each in tried]
        chance.shuffle(found)
        found.sort(
            key=lambda access: access.is_write or access.ending != ""
        )  # a stable sort: a read that works is first
        first, *others = found
        chosen = [first]
        for ending, wanted in WANTED.items():
            chosen += [access for access in others if access.ending == ending][:wanted]
        chosen += [access for access in others if access not in chosen][: ACCESSES - len(chosen)]
        others = chosen[1:]
        chance.shuffle(others)
        return [first, *others]

    @property
    def is_varied(self) -> bool:
        """Whether some accesses end in each way."""
        endings = [access.ending for access in self.accesses]
        return all(endings.count(ending) >= LEAST for ending in WANTED)

    def _access(self, address: int, is_write: bool) -> Access:
        """Walk for an access."""
        steps: list[NestedStep] = []
        result: int | tuple[str, int]
        guest, host, read = self.guest.space, self.host.space, self.memory.read
        try:
            found = walk_nested(guest, host, address, read, None, is_write=is_write, trail=steps)
            result, ending = found.frame | address & PAGE - 1, ""
        except Fault as fault:
            code = fault.error_code or 0
            result, ending = (PAGE_FAULT, code), DENIED if code & 1 else MISSING
        except HostFault as fault:
            result = FAULT_NAMES[type(fault)], fault.guest_physical
            ending = HOST_TABLE if fault.access and fault.access.table else HOST_PAGE
        return Access(address, is_write, result, ending, tuple(steps))
