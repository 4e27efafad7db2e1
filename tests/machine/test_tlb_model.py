"""The TLB against a model that is only a list: whatever is entered, flushed and dropped, both hold the same (SDM vol. 3, 4.10)."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vmlab.machine.tlb import SPACE_SHIFT, Tlb, TlbEntry

PCIDS = st.sampled_from([0, 1, 2, 0xFFF])
PAGES = st.integers(0, 5) | st.sampled_from([0x1FF, 0x200, 0x201, 0x3_FFFF, 0x4_0000, 0xF_FFFF_8000_0000])
SPANS = st.sampled_from([0x1000, 0x1000, 0x20_0000, 0x4000_0000])


class Held(NamedTuple):
    """A translation as the model has it."""

    space: int | None  # None: global
    page: int
    entry: TlbEntry

    def in_space(self, pcid: int) -> bool:
        return self.space in (None, pcid)

    def covers(self, page: int) -> bool:
        return page << 12 & -self.entry.span == self.page << 12 & -self.entry.span


class TlbModel(RuleBasedStateMachine):
    """Enter, flush, drop; look at everything after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.tlb = Tlb(capacity=5)
        self.held: list[Held] = []
        self.pcid = self.frames = 0

    @rule(pcid=PCIDS)
    def enter_space(self, pcid: int) -> None:
        self.pcid, self.tlb.tag = pcid, pcid << SPACE_SHIFT

    @rule(page=PAGES, span=SPANS, is_global=st.booleans())
    def walk(self, page: int, span: int, is_global: bool) -> None:
        """What the processor does at a miss: the old goes, the new comes in, the oldest makes room."""
        self.frames += 1
        entry = TlbEntry(self.frames << 12, True, True, True, True, is_global, span)
        self.tlb.drop(page)
        victim = self.tlb.insert(page, entry)
        self.held = [each for each in self.held if not (each.page == page and each.in_space(self.pcid))]
        expected = self.held.pop(0).page if len(self.held) == 5 else None
        assert victim == expected
        self.held.append(Held(None if is_global else self.pcid, page, entry))

    @rule(keep_global=st.booleans())
    def flush(self, keep_global: bool) -> None:
        self.tlb.flush(keep_global=keep_global)
        self.held = [each for each in self.held if keep_global and each.space is None]

    @rule(pcid=PCIDS)
    def flush_space(self, pcid: int) -> None:
        self.tlb.flush_space(pcid)
        self.held = [each for each in self.held if each.space != pcid]

    @rule(page=PAGES)
    def invlpg(self, page: int) -> None:
        for part in {page, *self.tlb.parts(page)}:
            self.tlb.drop(part)
        self.held = [each for each in self.held if not (each.in_space(self.pcid) and each.covers(page))]

    @rule(pcid=PCIDS, page=PAGES)
    def drop_from(self, pcid: int, page: int) -> None:
        self.tlb.drop_from(pcid, page)
        self.held = [each for each in self.held if not (each.space == pcid and each.covers(page))]

    @rule()
    def save_and_load(self) -> None:
        other = Tlb(capacity=5)
        other.load(self.tlb.save())
        other.tag = self.tlb.tag
        assert other == self.tlb
        self.tlb = other

    @invariant()
    def both_hold_the_same(self) -> None:
        assert list(self.tlb.entries.values()) == [each.entry for each in self.held]
        for page in {each.page for each in self.held} | {0, 0x200}:
            mine = [each.entry for each in self.held if each.page == page and each.in_space(self.pcid)]
            found = self.tlb.find(page)
            assert found in mine if mine else found is None


TestTlbModel = TlbModel.TestCase
