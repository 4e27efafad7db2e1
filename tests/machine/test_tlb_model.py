"""The TLB against a model that is only a list: whatever is entered, flushed and dropped, both hold the same (SDM vol. 3, 4.10)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vmlab.machine.tlb import SPACE_SHIFT, Tlb, TlbEntry
from vmlab.machine.tlb_geometry import TlbArray, TlbGeometry

PCIDS = st.sampled_from([0, 1, 2, 0xFFF])
PAGES = st.integers(0, 9) | st.sampled_from([0x1FF, 0x200, 0x201, 0x400, 0x600, 0x3_FFFF, 0x4_0000, 0xF_FFFF_8000_0000])
KILO, MEGA, FOUR, GIGA = 0x1000, 0x20_0000, 0x40_0000, 0x4000_0000
SPANS = st.sampled_from([KILO, KILO, MEGA, MEGA, FOUR, GIGA])


class Held(NamedTuple):
    """A translation as the model has it: of `size` bytes from `first`, a part of a page of `entry.span` bytes."""

    space: int | None  # None: global
    first: int
    size: int
    entry: TlbEntry

    def in_space(self, pcid: int) -> bool:
        return self.space in (None, pcid)

    def translates(self, page: int) -> bool:
        return self.first <= page << 12 < self.first + self.size

    def belongs_to(self, page: int) -> bool:
        span = max(self.size, self.entry.span)
        return page << 12 & -span == self.first & -span

    @property
    def pages(self) -> tuple[int, int]:
        return self.first >> 12, self.size >> 12


class TlbModel(RuleBasedStateMachine):
    """Enter, use, flush, drop; look at everything after each step."""

    geometry: ClassVar = TlbGeometry((TlbArray(1, 5, (KILO, MEGA, FOUR)),))

    def __init__(self) -> None:
        super().__init__()
        self.tlb = Tlb(self.geometry)
        self.held: list[Held] = []
        self.pcid = self.frames = self.fills = self.evictions = self.flushes = self.dropped = 0

    def array_of(self, size: int) -> TlbArray:
        return next(array for array in self.geometry.arrays if size in array.spans)

    def drop(self, test: object) -> set[tuple[int, int]]:
        """Drop what a test holds of; return which pages that was."""
        gone = [each for each in self.held if test(each)]
        self.held = [each for each in self.held if each not in gone]
        self.dropped += len(gone)
        return {each.pages for each in gone}

    @rule(pcid=PCIDS)
    def enter_space(self, pcid: int) -> None:
        self.pcid, self.tlb.tag = pcid, pcid << SPACE_SHIFT

    @rule(page=PAGES, span=SPANS, is_global=st.booleans(), smaller=st.booleans())
    def walk(self, page: int, span: int, is_global: bool, smaller: bool) -> None:
        """What the processor does at a miss: the old goes, the new comes in, one of its set makes room."""
        if self.tlb.find(page):
            self.drop_it(page)
        self.frames += 1
        frame = self.frames << 40 | (page << 12 & span - 1)
        entry = TlbEntry(frame, True, True, True, True, is_global, span)
        whole = KILO if smaller else span
        size = max(each for array in self.geometry.arrays for each in array.spans if each <= whole)
        array, number = self.array_of(size), (page << 12) // size
        mates = [
            each for each in self.held
            if self.array_of(each.size) is array and each.first // each.size % array.sets == number % array.sets
        ]  # fmt: skip
        assert self.tlb.has_room(page) <= (len(mates) < array.ways)
        foreseen = self.tlb.victim(page, whole)
        victim = self.tlb.insert(page, entry, whole if smaller else None)
        assert victim == foreseen
        self.fills += 1
        if len(mates) < array.ways:
            assert victim is None
        else:
            going = [each for each in mates if each.pages == victim]
            gone = going[0] if self.geometry.replacement == "random" else mates[0]
            assert gone in going
            if (
                self.geometry.replacement == "random"
            ):  # of several with these pages, the one that the TLB has not any more
                left = list(self.tlb.entries.values())
                gone = next(each for each in going if each.entry not in left)
            self.held.remove(gone)
            self.evictions += 1
        self.held.append(
            Held(None if is_global else self.pcid, number * size, size, entry._replace(frame=frame & -size))
        )

    @rule(page=PAGES, which=st.integers(0, 4))
    def use(self, page: int, which: int) -> None:
        if which < len(self.held):
            page = self.held[which].first >> 12
        found = self.tlb.find(page)
        if found and self.geometry.replacement == "lru":
            used = next(each for each in self.mine(page) if each.entry.frame == found.frame & -each.size)
            self.held.remove(used)
            self.held.append(used)

    @rule(keep_global=st.booleans())
    def flush(self, keep_global: bool) -> None:
        count = self.tlb.flush("test", keep_global=keep_global)
        assert count == len([each for each in self.held if not (keep_global and each.space is None)])
        self.drop(lambda each: not (keep_global and each.space is None))
        self.flushes += 1

    @rule(pcid=PCIDS)
    def flush_space(self, pcid: int) -> None:
        assert self.tlb.flush_space(pcid) == len([each for each in self.held if each.space == pcid])
        self.drop(lambda each: each.space == pcid)
        self.flushes += 1

    @rule(page=PAGES)
    def drop_it(self, page: int) -> None:
        gone = self.tlb.drop(page)
        assert set(gone) == self.drop(lambda each: each.in_space(self.pcid) and each.translates(page))

    @rule(page=PAGES)
    def invlpg(self, page: int) -> None:
        gone = self.tlb.drop_page(page)
        assert set(gone) == self.drop(lambda each: each.in_space(self.pcid) and each.belongs_to(page))

    @rule(pcid=PCIDS | st.none(), page=PAGES)
    def drop_from(self, pcid: int | None, page: int) -> None:
        gone = self.tlb.drop_from(pcid, page)
        assert set(gone) == self.drop(lambda each: pcid in (None, each.space) and each.belongs_to(page))

    @rule()
    def save_and_load(self) -> None:
        other = Tlb(self.geometry)
        other.load(self.tlb.save())
        other.tag = self.tlb.tag
        assert other == self.tlb
        self.tlb = other

    def mine(self, page: int) -> list[Held]:
        """What the present address space may use for a page."""
        return [each for each in self.held if each.in_space(self.pcid) and each.translates(page)]

    @invariant()
    def both_hold_the_same(self) -> None:
        assert sorted(self.tlb.entries.values()) == sorted(each.entry for each in self.held)
        assert sorted(self.tlb.pages()) == sorted(
            (*each.pages, each.entry) for each in self.held if each.in_space(self.pcid)
        )
        for page in {each.first >> 12 for each in self.held} | {0, 3, 0x200, 0x201}:
            found = self.tlb.peek(page)
            frames = [each.entry.frame | (page << 12) - each.first for each in self.mine(page)]
            assert found.frame in frames if found else not frames

    @invariant()
    def all_is_counted(self) -> None:
        counts = self.tlb.counts
        assert (counts.fills, counts.evictions, counts.flushes) == (self.fills, self.evictions, self.flushes)
        assert counts.dropped.total() == self.dropped
        assert self.tlb.held == len(self.held) == self.fills - self.evictions - self.dropped


class SetsModel(TlbModel):
    """Sets, and an array for large pages; those of 1 GiB are entered in parts of 4 MiB."""

    geometry = TlbGeometry((TlbArray(2, 2, (KILO,)), TlbArray(2, 2, (MEGA, FOUR))))


class LruModel(TlbModel):
    """Least recently used, with an array for 1 GiB."""

    geometry = TlbGeometry((TlbArray(2, 2, (KILO, MEGA, FOUR)), TlbArray(1, 2, (GIGA,))), "lru")


class RandomModel(TlbModel):
    """Random replacement, small pages alone: large ones are entered in parts."""

    geometry = TlbGeometry((TlbArray(1, 4, (KILO,)),), "random")


TestFifo, TestSets, TestLru, TestRandom = (model.TestCase for model in (TlbModel, SetsModel, LruModel, RandomModel))
