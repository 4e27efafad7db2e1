"""The translation look-aside buffer, as software feels it (Intel SDM vol. 3, 4.10).

An entry stays, right or stale, until it is invalidated or makes room: what a page table says is believed only on a
miss. An entry belongs to one address space, by its process-context identifier (0 without CR4.PCIDE), or is global and
serves them all. A large page is one entry, where an array holds its size: see `vmlab.machine.tlb_geometry`.

What drops entries, and which:

    MOV CR3                those of the new address space that are not global (all that are not, without CR4.PGE and PCIDE)
    CR0.PG/PE/WP, CR4.PSE/PAE/PGE, EFER.NXE        all
    INVLPG, a page fault   the page's in the present address space, and its global ones; INVLPG all parts of a large page
    INVPCID                0: one page of one PCID, 1: one PCID (neither global), 2: all, 3: all but global
    INVVPID, INVEPT        a virtual processor's, a guest's: see `vmlab.machine.vmx.operation`
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import StateError
from vmlab.machine.state import COUNT, QUAD, Entries, Items, check_state
from vmlab.machine.tlb_geometry import PENTIUM_4_TLB, TlbGeometry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SPACE_SHIFT", "Pages", "Tlb", "TlbCounts", "TlbEntry"]

# The key of an entry:  [ log2 of 4 KiB pages 69:65 | GLOBAL 64 | PCID 63:52 | number 51:0 of the page, of that size ]
SPACE_SHIFT, GLOBAL_SHIFT, SIZE_SHIFT = 52, 64, 65
PAGE_MASK = (1 << SPACE_SHIFT) - 1
SPACE_MASK = (1 << SIZE_SHIFT - SPACE_SHIFT) - 1
GLOBAL = 1 << GLOBAL_SHIFT
PAGE_SHIFT = 12

PARTS = {
    "key": range(1 << SIZE_SHIFT + 5), "frame": QUAD, "writable": bool, "user": bool, "executable": bool, "dirty": bool,
    "global": bool, "span": QUAD,
}  # fmt: skip

# The generator of random replacement (Knuth's MMIX).
MULTIPLIER, INCREMENT, DRAWN = 6364136223846793005, 1442695040888963407, 33

NUMBERS = ("hits", "misses", "fills", "evictions", "flushes")

Pages = tuple[int, int]
"""Consecutive pages of 4 KiB: the number of the first, and how many."""


class TlbEntry(NamedTuple):
    """A cached translation: physical address, rights, and the size of the page that the tables map there."""

    frame: int
    writable: bool
    user: bool
    executable: bool
    dirty: bool
    global_: bool
    span: int = 0x1000


@dataclass(slots=True)
class TlbCounts:
    """What a TLB has done since the start.

    Attributes
    ----------
    hits : int
        Accesses that found what they needed; 0 where those are not counted.
    misses, fills, evictions, flushes : int
        Accesses that did not; entries made; entries that made room; invalidations of a whole address space or more.
    dropped : Counter
        Entries invalidated, by what did it.
    """

    hits: int = 0
    misses: int = 0
    fills: int = 0
    evictions: int = 0
    flushes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: TlbCounts) -> TlbCounts:
        numbers = {name: getattr(self, name) + getattr(other, name) for name in NUMBERS}
        return TlbCounts(**numbers, dropped=self.dropped + other.dropped)

    def describe(self) -> str:
        """Say it in words."""
        lines = [f"{getattr(self, name):>9,}  {name}" for name in NUMBERS if name != "hits" or self.hits]
        return "\n".join([*lines, *(f"{count:>9,}  dropped by {cause}" for cause, count in self.dropped.most_common())])


class _Place(NamedTuple):
    """Where pages of one size are held: log2 of how many of 4 KiB they are, sets, mask of a set's number, ways."""

    shift: int
    sets: tuple[dict[int, TlbEntry], ...]
    mask: int
    ways: int


class Tlb:
    """Cached translations.

    Parameters
    ----------
    geometry : TlbGeometry
        Its arrays.
    counts : TlbCounts, optional
        Where it counts; its own, if not given.

    Attributes
    ----------
    tag : int
        Process-context identifier of the present address space, at its place in a key.
    """

    __slots__ = ("_by_span", "_draws", "_in_parts", "_places", "_touches", "_used", "counts", "geometry", "tag")

    def __init__(self, geometry: TlbGeometry = PENTIUM_4_TLB, counts: TlbCounts | None = None) -> None:
        self.geometry = geometry
        self.counts = counts or TlbCounts()
        self.tag = self._draws = 0
        self._touches = geometry.replacement == "lru"
        self._in_parts = False  # whether there may be parts of a page larger than its array holds
        places = []
        for array in geometry.arrays:
            sets: tuple[dict[int, TlbEntry], ...] = tuple({} for _ in range(array.sets))
            places += [
                _Place((span >> PAGE_SHIFT).bit_length() - 1, sets, array.sets - 1, array.ways) for span in array.spans
            ]
        self._places = tuple(sorted(places, key=lambda place: place.shift))
        self._by_span: dict[int, _Place] = {}
        self._used = self._places[:1]  # those of sizes that there may be entries of

    # -- looking up --------------------------------------------------------------------------------------------------------

    def find(self, page: int) -> TlbEntry | None:
        """Return the translation of a page of 4 KiB in the present address space, if it is held."""
        for shift, sets, mask, _ in self._used:
            number = page >> shift
            held, key = sets[number & mask], number | shift << SIZE_SHIFT
            entry = held.get(key | self.tag)
            if entry is None:
                entry = held.get(key | GLOBAL)
                if entry is None:
                    continue
                key |= GLOBAL
            else:
                key |= self.tag
            if self._touches:
                held[key] = held.pop(key)
            return entry._replace(frame=entry.frame | (page & (1 << shift) - 1) << PAGE_SHIFT) if shift else entry
        return None

    def peek(self, page: int) -> TlbEntry | None:
        """Return the same; that is no use of the entry."""
        touches, self._touches = self._touches, False
        try:
            return self.find(page)
        finally:
            self._touches = touches

    @property
    def capacity(self) -> int:
        """How many entries it can hold."""
        return self.geometry.entries

    @property
    def held(self) -> int:
        """How many entries it holds."""
        return sum(map(len, self._all()))

    @property
    def entries(self) -> dict[int, TlbEntry]:
        """All entries by their keys, set by set, oldest first."""
        return {key: entry for held in self._all() for key, entry in held.items()}

    @property
    def misses(self) -> int:
        """How many accesses did not find what they needed."""
        return self.counts.misses

    @property
    def flushes(self) -> int:
        """How many times a whole address space or more was dropped."""
        return self.counts.flushes

    def pages(self) -> Iterator[tuple[int, int, TlbEntry]]:
        """Give the first page of 4 KiB, how many, and the entry, for all that the present address space may use."""
        spaces = self.tag >> SPACE_SHIFT, GLOBAL >> SPACE_SHIFT
        for key, entry in self.entries.items():
            if key >> SPACE_SHIFT & SPACE_MASK in spaces:
                yield (*_pages_of(key), entry)

    def _all(self) -> Iterator[dict[int, TlbEntry]]:
        seen = None
        for place in self._places:
            if place.sets is not seen:
                yield from place.sets
            seen = place.sets

    # -- making room -------------------------------------------------------------------------------------------------------

    def _place_of(self, span: int) -> _Place:
        """Return where a page of so many bytes is held: whole, or else in the largest parts that there is an array for."""
        place = self._by_span.get(span)
        if place is None:
            place = [each for each in self._places if 1 << each.shift + PAGE_SHIFT <= span][-1]
            self._by_span[span] = place
        return place

    def has_room(self, page: int) -> bool:
        """Say whether a translation of a page, of whatever size, could be entered without another's making room."""
        return all(len(sets[page >> shift & mask]) < ways for shift, sets, mask, ways in self._places)

    def victim(self, page: int, span: int = 0x1000) -> Pages | None:
        """Return the pages whose entry would have to make room for another, if any."""
        shift, sets, mask, ways = self._place_of(span)
        held = sets[page >> shift & mask]
        return _pages_of(self._choose(held)) if len(held) >= ways else None

    def _draw(self) -> int:
        return (self._draws * MULTIPLIER + INCREMENT) % (1 << 64)

    def _choose(self, held: dict[int, TlbEntry]) -> int:
        """Return the key of the entry of a set that makes room."""
        if self.geometry.replacement == "random":
            return next(islice(held, (self._draw() >> DRAWN) % len(held), None))
        return next(iter(held))

    def insert(self, page: int, entry: TlbEntry, size: int | None = None) -> Pages | None:
        """Enter a translation of a page that is not held; return the pages whose entry had to make room, if any.

        Parameters
        ----------
        page : int
            Number of the page of 4 KiB that was accessed.
        entry : TlbEntry
            Its translation, with the frame of 4 KiB.
        size : int, optional
            Bytes around it that are translated alike, where that is less than `entry.span` (a guest's page in a host's
            smaller ones).
        """
        victim = None
        place = self._place_of(entry.span if size is None else size)
        shift, sets, mask, ways = place
        number = page >> shift
        held = sets[number & mask]
        self.counts.fills += 1
        if len(held) >= ways:
            chosen = self._choose(held)
            self._draws = self._draw()
            del held[chosen]
            self.counts.evictions += 1
            victim = _pages_of(chosen)
        if shift:
            entry = entry._replace(frame=entry.frame & -1 << shift + PAGE_SHIFT)
            if place not in self._used:
                self._used = tuple(each for each in self._places if each in self._used or each == place)
        if entry.span >> PAGE_SHIFT > 1 << shift:
            self._in_parts = True
        held[number | shift << SIZE_SHIFT | (GLOBAL if entry.global_ else self.tag)] = entry
        return victim

    # -- dropping ----------------------------------------------------------------------------------------------------------

    def drop(self, page: int, cause: str = "page fault") -> list[Pages]:
        """Drop what translates one page of 4 KiB in the present address space, global or not; return what that was for."""
        dropped = []
        for shift, sets, mask, _ in self._used:
            number = page >> shift
            held, key = sets[number & mask], number | shift << SIZE_SHIFT
            gone = [held.pop(key | space, None) for space in (self.tag, GLOBAL)]
            dropped += [(number << shift, 1 << shift) for each in gone if each is not None]
        if dropped:
            self.counts.dropped[cause] += len(dropped)
        return dropped

    def drop_page(self, page: int, cause: str = "INVLPG") -> list[Pages]:
        """Drop the same, and the other parts of a large page around it (SDM vol. 3, 4.10.4.1)."""
        if not self._in_parts:
            return self.drop(page, cause)
        spaces = self.tag >> SPACE_SHIFT, GLOBAL >> SPACE_SHIFT
        return self._drop_if(lambda key, entry: _space(key) in spaces and _covers(entry, key, page), cause)

    def drop_from(self, pcid: int | None, page: int, cause: str = "INVPCID") -> list[Pages]:
        """Drop a page, and all parts of its large page, from one address space, but for global pages; None for all spaces."""
        return self._drop_if(
            lambda key, entry: (pcid is None or _space(key) == pcid) and _covers(entry, key, page), cause
        )

    def flush(self, cause: str = "flush", *, keep_global: bool = False) -> int:
        """Drop all entries of all address spaces, or all but the global ones; return how many."""
        self.counts.flushes += 1
        if keep_global:
            return len(self._drop_if(lambda _, entry: not entry.global_, cause))
        count = self.clear()
        if count:
            self.counts.dropped[cause] += count
        return count

    def flush_space(self, pcid: int, cause: str = "MOV CR3") -> int:
        """Drop the entries of one address space that are not global; return how many."""
        self.counts.flushes += 1
        return len(self._drop_if(lambda key, _: _space(key) == pcid, cause))

    def clear(self) -> int:
        """Drop all entries, and count nothing; return how many there were."""
        count = self.held
        if count:
            for held in self._all():
                held.clear()
        self._used = self._places[:1]
        self._in_parts = False
        return count

    def _drop_if(self, test: Callable[[int, TlbEntry], bool], cause: str) -> list[Pages]:
        dropped = []
        for held in self._all():
            for key in [key for key, entry in held.items() if test(key, entry)]:
                del held[key]
                dropped.append(_pages_of(key))
        if dropped:
            self.counts.dropped[cause] += len(dropped)
        return dropped

    # -- state -------------------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tlb) and self.tag == other.tag and self.save() == other.save()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def save(self) -> dict[str, Any]:
        """Save as plain data, in order of age."""
        counts = self.counts
        rows = [
            [key, e.frame, e.writable, e.user, e.executable, e.dirty, e.global_, e.span]
            for held in self._all()
            for key, e in held.items()
        ]
        return {
            "version": 3,
            "entries": rows,
            "draws": self._draws,
            **{name: getattr(counts, name) for name in NUMBERS},
            "dropped": dict(counts.dropped),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged. The tag is the processor's to set."""
        rows = Items(Items((PARTS["key"], bool), len(PARTS)))
        fields = {"entries": rows, "draws": QUAD, **dict.fromkeys(NUMBERS, COUNT), "dropped": Entries(str, COUNT)}
        check_state(state, "TLB", fields, version=3)
        fresh = Tlb(self.geometry)
        for row in state["entries"]:
            check_state({"version": 1} | dict(zip(PARTS, row, strict=True)), "TLB entry", PARTS)
            fresh._take(row[0], TlbEntry(*row[1:]))
        self.clear()
        for mine, loaded in zip(self._all(), fresh._all(), strict=True):
            mine.update(loaded)
        self._used, self._in_parts, self._draws = self._places, True, state["draws"]
        for name in NUMBERS:
            setattr(self.counts, name, state[name])
        self.counts.dropped = Counter(state["dropped"])

    def _take(self, key: int, entry: TlbEntry) -> None:
        """Take a saved entry."""
        place = next((each for each in self._places if each.shift == key >> SIZE_SHIFT), None)
        if place is None:
            raise StateError(f"TLB: it holds no pages of {0x1000 << (key >> SIZE_SHIFT)} bytes, as a saved entry has")
        held = place.sets[key & PAGE_MASK & place.mask]
        held[key] = entry
        if len(held) > place.ways:
            raise StateError(f"TLB: {len(held)} saved entries do not fit into a set of {place.ways}")


def _space(key: int) -> int:
    """Return the PCID of a key, or what stands for global ones there."""
    return key >> SPACE_SHIFT & SPACE_MASK


def _pages_of(key: int) -> Pages:
    shift = key >> SIZE_SHIFT
    return (key & PAGE_MASK) << shift, 1 << shift


def _covers(entry: TlbEntry, key: int, page: int) -> bool:
    """Say whether an entry is a part of the page, large or not, around this one."""
    shift = max((entry.span >> PAGE_SHIFT).bit_length() - 1, key >> SIZE_SHIFT)
    return _pages_of(key)[0] >> shift == page >> shift
