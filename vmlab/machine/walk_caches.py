"""What saves references of a page walk: paging-structure caches, and a nested TLB (Intel SDM vol. 3, 4.10.3 and 29.4).

A paging-structure cache remembers, for the upper bits of an address, the table that they lead to and the rights on the
way there, so that a walk begins further down. A nested TLB remembers host-physical pages by guest-physical ones, so that
a walk in two dimensions need not walk the host's tables for each table of the guest. As in a TLB, an entry stays, right
or stale, until it is invalidated or makes room, and belongs to the address space whose `tag` was set when it was made.

Simplified: fully associative, first in first out; a large page of the host is entered in parts of 4 KiB. The cache of a
guest holds guest-physical addresses of tables, as AMD describes; Intel's combined ones hold the host-physical address,
which is what a hit in both gives.

Read more: Barr, Cox and Rixner, ISCA 2010 (translation caching); Bhargava et al., ASPLOS 2008 (the nested TLB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import OptionError, StateError
from vmlab.machine.paging import Translation, WalkStep
from vmlab.machine.state import COUNT, QUAD, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.paging import Level, PageTableFormat

__all__ = ["NestedCaches", "NestedTlb", "WalkCache", "WalkCacheSizes", "read_walk_caches"]

# The key of an entry:  [ tag | upper bits of the address 63:0 ]
TAG_SHIFT = 64
TAG = range(1 << 64)
KEY = range(1 << 2 * TAG_SHIFT)
PAGE_SHIFT = 12
LEVELS = 4  # of tables that point to tables
LOWEST, LEVEL_BITS = 21, 9

PLACE = {"shift": range(64), "key": KEY, "table": QUAD, "rights": range(-(1 << 64), 1 << 64), "steps": Items(list)}
PAGE = {
    "key": KEY, "frame": QUAD, "writable": bool, "user": bool, "executable": bool, "dirty": bool, "global": bool,
    "span": QUAD, "steps": Items(list), "readable": bool,
}  # fmt: skip
STEP = {"level": str, "slot": QUAD, "address": QUAD, "entry": QUAD, "in_register": bool, "cached": bool}


class Place(NamedTuple):
    """Where a walk may begin: the table, the rights so far, and the steps that led there."""

    table: int
    rights: int
    steps: tuple[WalkStep, ...]


def _as_cached(steps: Sequence[WalkStep]) -> tuple[WalkStep, ...]:
    return tuple(step._replace(cached=True) for step in steps)


def _load_steps(rows: list[list[Any]]) -> tuple[WalkStep, ...]:
    return tuple(WalkStep(*_checked(row, "step of a page walk", STEP)) for row in rows)


def _checked(row: list[Any], owner: str, fields: dict[str, Any]) -> list[Any]:
    """Return a row of a saved state, checked."""
    if len(row) != len(fields):
        raise StateError(f"{owner}: a saved row has {len(row)} fields; it must have {len(fields)}")
    check_state({"version": 1} | dict(zip(fields, row, strict=True)), owner, fields)
    return row


def _check_size(size: object, what: str) -> None:
    if type(size) is not int or size < 0:
        raise OptionError(f"{what} has a number of entries, 0 or more, not {size!r}")


@dataclass(slots=True)
class WalkCache:
    """Paging-structure caches of one dimension, one a level.

    Attributes
    ----------
    sizes : sequence of int
        How many entries each holds: that of page directories (whose entries point to page tables) first, then that of
        page-directory-pointer tables, and of the tables above.
    tag : int
        Identifies the present address space: a PCID, a VPID, an EPT root.
    hits, misses : int
        Walks that began further down, and those that began at the root.
    entries : dict
        Places by the lowest bit that indexes the table they were read from, and by tag and upper bits of the address.

    Raises
    ------
    OptionError
        A size is no number of entries.
    """

    sizes: Sequence[int] = (32, 4, 2)
    tag: int = 0
    hits: int = 0
    misses: int = 0
    entries: dict[int, dict[int, Place]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for size in self.sizes:
            _check_size(size, "a paging-structure cache")

    def begin(
        self, format_: PageTableFormat, table: int, linear: int, steps: list[WalkStep]
    ) -> tuple[tuple[Level, ...], int, int]:
        """Find where a walk may begin; return the levels left, the first's table, and the rights so far."""
        levels, tag = format_.levels, self.tag << TAG_SHIFT
        for n in range(len(levels) - 1, 0, -1):
            shift = levels[n - 1].shift
            known = shift in self.entries and self.entries[shift].get(tag | linear >> shift)
            if known:
                self.hits += 1
                steps += known.steps
                return levels[n:], known.table, known.rights
        self.misses += 1
        return levels, table, ~0

    def enter(self, level: Level, linear: int, table: int, rights: int, steps: Sequence[WalkStep]) -> None:
        """Remember the table that an entry of a level points to."""
        n = (level.shift - LOWEST) // LEVEL_BITS
        if level.in_registers or n >= len(self.sizes) or not self.sizes[n]:
            return
        entries = self.entries.setdefault(level.shift, {})
        if len(entries) >= self.sizes[n]:
            del entries[next(iter(entries))]
        entries[self.tag << TAG_SHIFT | linear >> level.shift] = Place(table, rights, _as_cached(steps))

    def drop(self, linear: int) -> int:
        """Drop what an address of the present address space uses; return the number of entries."""
        tag = self.tag << TAG_SHIFT
        return sum(entries.pop(tag | linear >> shift, None) is not None for shift, entries in self.entries.items())

    def drop_space(self, tag: int) -> int:
        """Drop the entries of one address space; return their number."""
        before = self.held
        for shift, entries in self.entries.items():
            self.entries[shift] = {key: place for key, place in entries.items() if key >> TAG_SHIFT != tag}
        return before - self.held

    def flush(self) -> int:
        """Drop all entries of all address spaces; return their number."""
        count = self.held
        self.entries = {}
        return count

    @property
    def held(self) -> int:
        """How many entries there are."""
        return sum(map(len, self.entries.values()))

    def save(self) -> dict[str, Any]:
        """Save as plain data, in order of age."""
        rows = [
            [shift, key, place.table, place.rights, [list(step) for step in place.steps]]
            for shift, entries in self.entries.items()
            for key, place in entries.items()
        ]
        return {"version": 1, "tag": self.tag, "hits": self.hits, "misses": self.misses, "entries": rows}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged."""
        check_state(
            state, "paging-structure cache", {"tag": QUAD, "hits": COUNT, "misses": COUNT, "entries": Items(list)}
        )
        loaded: dict[int, dict[int, Place]] = {}
        for row in state["entries"]:
            shift, key, table, rights, steps = _checked(row, "paging-structure cache entry", PLACE)
            loaded.setdefault(shift, {})[key] = Place(table, rights, _load_steps(steps))
        for shift, entries in loaded.items():
            n = (shift - LOWEST) // LEVEL_BITS
            if not 0 <= n < len(self.sizes) or len(entries) > self.sizes[n]:
                raise StateError(f"paging-structure cache: {len(entries)} saved entries of bit {shift} do not fit")
        self.entries = loaded
        self.tag, self.hits, self.misses = state["tag"], state["hits"], state["misses"]


@dataclass(slots=True)
class NestedTlb:
    """Host-physical pages by guest-physical ones.

    Attributes
    ----------
    size : int
        How many entries it holds.
    tag : int
        Identifies the present host's table: an EPT root.
    hits, misses : int
        Addresses found, and not found.
    entries : dict
        Translations by tag and guest-physical page number.

    Raises
    ------
    OptionError
        The size is no number of entries.
    """

    size: int = 16
    tag: int = 0
    hits: int = 0
    misses: int = 0
    entries: dict[int, Translation] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_size(self.size, "a nested TLB")

    def _key(self, physical: int) -> int:
        return self.tag << TAG_SHIFT | physical >> PAGE_SHIFT

    def find(self, physical: int, *, is_write: bool, is_fetch: bool) -> Translation | None:
        """Return the translation of a guest-physical address, where it is held and allows the access."""
        known = self.entries.get(self._key(physical))
        if known:
            if known.executable if is_fetch else known.writable and known.dirty if is_write else known.readable:
                self.hits += 1
                return known
            self.drop(physical)
        self.misses += 1
        return None

    def enter(self, physical: int, found: Translation) -> None:
        """Remember a translation that is not held."""
        if not self.size:
            return
        if len(self.entries) >= self.size:
            del self.entries[next(iter(self.entries))]
        self.entries[self._key(physical)] = found._replace(steps=_as_cached(found.steps))

    def drop(self, physical: int) -> int:
        """Drop the translation of a guest-physical page; return the number of entries."""
        return self.entries.pop(self._key(physical), None) is not None

    def drop_space(self, tag: int) -> int:
        """Drop the entries of one host's table; return their number."""
        before = len(self.entries)
        self.entries = {key: found for key, found in self.entries.items() if key >> TAG_SHIFT != tag}
        return before - len(self.entries)

    def flush(self) -> int:
        """Drop all entries; return their number."""
        count = len(self.entries)
        self.entries = {}
        return count

    def save(self) -> dict[str, Any]:
        """Save as plain data, in order of age."""
        rows = [
            [key, *found[:7], [list(step) for step in found.steps], found.readable]
            for key, found in self.entries.items()
        ]
        return {"version": 1, "tag": self.tag, "hits": self.hits, "misses": self.misses, "entries": rows}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged."""
        check_state(state, "nested TLB", {"tag": QUAD, "hits": COUNT, "misses": COUNT, "entries": Items(list)})
        if len(state["entries"]) > self.size:
            raise StateError(f"nested TLB: {len(state['entries'])} saved entries do not fit into {self.size}")
        loaded = {}
        for row in state["entries"]:
            parts = _checked(row, "nested TLB entry", PAGE)
            loaded[parts[0]] = Translation._make([*parts[1:8], _load_steps(parts[8]), parts[9]])
        self.entries = loaded
        self.tag, self.hits, self.misses = state["tag"], state["hits"], state["misses"]


@dataclass(slots=True)
class NestedCaches:
    """What `walk_nested` may use: caches of the guest's and of the host's tables, and a nested TLB; None for none."""

    guest: WalkCache | None = None
    host: WalkCache | None = None
    nested_tlb: NestedTlb | None = None

    @property
    def parts(self) -> dict[str, WalkCache | NestedTlb]:
        """Those that there are, by their names."""
        named = {"guest": self.guest, "host": self.host, "nested_tlb": self.nested_tlb}
        return {name: part for name, part in named.items() if part is not None}

    def enter_space(self, guest: int, host: int) -> None:
        """Go on with entries of the present address spaces: the guest's (VPID and PCID), and the root of the host's table."""
        if self.guest:
            self.guest.tag = guest
        for part in (self.host, self.nested_tlb):
            if part:
                part.tag = host

    def drop(self, linear: int) -> None:
        """Drop what an address of the guest uses of its tables (a page fault)."""
        if self.guest:
            self.guest.drop(linear)

    def drop_space(self, guest: int | None = None) -> None:
        """Drop what is held of the guest's tables, by its tag or that of the present address space."""
        if self.guest:
            self.guest.drop_space(self.guest.tag if guest is None else guest)

    def flush_guests(self) -> None:
        """Drop what is held of the tables of all guests."""
        if self.guest:
            self.guest.flush()

    def flush(self) -> None:
        """Drop everything."""
        for part in self.parts.values():
            part.flush()

    def save(self) -> dict[str, Any]:
        """Save as plain data."""
        return {"version": 1, **{name: part.save() for name, part in self.parts.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` of the same caches gave; StateError where it is damaged."""
        check_state(state, "walk caches", dict.fromkeys(self.parts, dict))
        for name, part in self.parts.items():
            part.load(state[name])


@dataclass(frozen=True, slots=True)
class WalkCacheSizes:
    """What walk caches a processor has.

    Attributes
    ----------
    guest, host : tuple of int
        Entries of the paging-structure caches of each dimension, as `WalkCache.sizes`.
    nested_tlb : int
        Entries of the nested TLB.

    Notes
    -----
    32, 4 and 2 entries (of page directories, page-directory-pointer tables, page maps) were measured in a Sandy Bridge or
    later; 16 is the nested TLB that Bhargava et al. simulate at least.
    """

    guest: tuple[int, ...] = (32, 4, 2)
    host: tuple[int, ...] = (32, 4, 2)
    nested_tlb: int = 16

    def make(self) -> NestedCaches:
        """Make such caches, empty."""
        return NestedCaches(WalkCache(self.guest), WalkCache(self.host), NestedTlb(self.nested_tlb))


def read_walk_caches(given: object) -> WalkCacheSizes | None:
    """Return the walk caches that a user asks for.

    Parameters
    ----------
    given : bool, None, WalkCacheSizes or mapping
        True for the usual ones, False or None for none, or some of `guest`, `host` and `nested_tlb`: the others are absent.

    Raises
    ------
    OptionError
        There can be no such caches.

    Examples
    --------
    >>> read_walk_caches({"nested_tlb": 64})
    WalkCacheSizes(guest=(), host=(), nested_tlb=64)
    """
    if given is None or given is False:
        return None
    if given is True:
        return WalkCacheSizes()
    if isinstance(given, Mapping):
        for name in given:
            if name not in ("guest", "host", "nested_tlb"):
                raise OptionError(f"there is no walk cache {name!r}: give some of guest, host, nested_tlb")
        sizes = [given.get(name, ()) for name in ("guest", "host")]
        if not all(isinstance(each, (list, tuple)) and len(each) <= LEVELS for each in sizes):
            raise OptionError(
                f"paging-structure caches are a list of at most {LEVELS} sizes, as [32, 4, 2], not {sizes!r}"
            )
        given = WalkCacheSizes(tuple(sizes[0]), tuple(sizes[1]), given.get("nested_tlb", 0))
    if not isinstance(given, WalkCacheSizes):
        raise OptionError(
            f"walk caches are True, False or a dict, as {{'guest': [32, 4, 2], 'nested_tlb': 16}}, not {given!r}"
        )
    given.make()  # which looks at the sizes
    return given
