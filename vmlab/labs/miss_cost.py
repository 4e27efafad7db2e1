"""Exercise: what does this TLB miss cost? Memory references and cycles of a seeded configuration, counted by a walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.costs import PENTIUM_4
from vmlab.machine.page_format_names import FORMATS
from vmlab.machine.walk_caches import NestedCaches, NestedTlb, WalkCache
from vmlab.vmm.walk_lab import WalkLab, sizes_of

if TYPE_CHECKING:
    import random

__all__ = ["MissCost"]

PARTS = ("references", "cycles")
NATIVE, SHADOW, NESTED = "native", "shadow", "nested"

# Formats that belong together, guest's and host's; the guest's may be None: paging is off there.
PAIRS = (
    ("4-level", "ept"), ("5-level", "ept"), ("5-level", "ept-5"), ("4-level", "npt"), ("ia32", "ept"), ("pae", "npt"),
    ("ia32-pse", "npt"), (None, "ept"), ("aarch64-stage1", "aarch64-stage2"), ("sv39", "sv39x4"),
)  # fmt: skip
SMALL = "4 KiB"
REFERENCE = PENTIUM_4.walk_reference

CACHES = {
    "guest": "a cache of those entries of the program's tables that point to tables, by linear address",
    "host": "a cache of those entries of the host's tables that point to tables, by guest-physical address",
    "nested_tlb": "a nested TLB: the host-physical pages of 16 guest-physical ones that a walk has asked for",
}
FRESH = {"guest": WalkCache, "host": WalkCache, "nested_tlb": NestedTlb}


class MissCost(Exercise):
    """Formats, page sizes and walk caches."""

    name = "miss-cost"

    def draw(self, chance: random.Random) -> None:
        """Draw the configuration, and walk it."""
        guest, host = chance.choice(PAIRS)
        how = chance.choice((NESTED, NESTED, NESTED, SHADOW, NATIVE) if guest else (NESTED,))
        guest_page = chance.choice(sizes_of(guest)) if guest else SMALL
        host_page = chance.choice(sizes_of(host))
        kinds = [*CACHES] if how == NESTED else ["guest"]
        self._kinds = [kind for kind in kinds if chance.random() < 0.5 and (guest or kind != "guest")]
        # The tables that a processor walks under shadow paging are the hypervisor's, in the guest's format, of small pages.
        self._page = SMALL if how == SHADOW else guest_page if guest else host_page
        self._guest, self._host = guest, host if how == NESTED else None
        self._host_page = host_page
        lines = [self._tables(how, guest_page, host_page), self._caches(), f"A reference costs {REFERENCE} cycles."]
        self.question = (
            "A program reads a byte, and the TLB has no entry for its page. All tables are there and allow it.\n"
            + "\n".join(f"  - {line}" for line in lines)
            + "\nAnswer with a dict:\n"
            "  'references': how many entries the processor reads from memory to fill the TLB,\n"
            "  'cycles': what they cost."
        )

    def _tables(self, how: str, guest_page: str, host_page: str) -> str:
        """Say whose tables there are."""
        name = FORMATS[self._guest].name if self._guest else ""
        if how == NATIVE:
            return f"{name}, on the bare machine; the page has {guest_page}."
        if how == SHADOW:
            return (
                f"A guest in {name}, where the page has {guest_page}, under shadow paging. The shadow is of the same\n"
                f"    format, with pages of {SMALL}, and has this one already."
            )
        inside = f"A guest in {name}, where the page has {guest_page}" if self._guest else "A guest whose paging is off"
        return f"{inside}, over {FORMATS[self._host or ''].name} with pages of {host_page}."

    def _caches(self) -> str:
        """Say what the processor remembers."""
        if not self._kinds:
            return "The processor has no caches for page walks."
        before = (
            f"The page {self._page} below has just been read; the caches were empty then. The processor has\n      "
        )
        return before + ",\n      ".join(CACHES[kind] for kind in self._kinds) + "."

    def _count(self, kinds: list[str]) -> int:
        """Count the references: build the tables, read one page if there are caches, and then the next."""
        caches = NestedCaches(**{kind: FRESH[kind]() for kind in kinds})
        lab = WalkLab(self._guest, self._host, guest_page=self._page, host_page=self._host_page, caches=caches)
        step = lab.guest_page or lab.host_page
        if kinds:
            lab.access(lab.address)
        found = lab.access(lab.address + step)
        assert found, "the TLB has no entry of this page"
        return found.references

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a dict
        """Compare with the walk."""
        if not isinstance(answer, dict) or set(answer) != set(PARTS):
            return Verdict(correct=False, message=f"Give a dict with the keys {', '.join(map(repr, PARTS))}.")
        for part in PARTS:
            if type(answer[part]) is not int:
                return Verdict(correct=False, message=f"{part!r} is a number.")
        references = self._count(self._kinds)
        cycles = references * REFERENCE
        if answer == {"references": references, "cycles": cycles}:
            return Verdict(correct=True, message=self._fact(references))
        given = answer["references"]
        if given == references:
            return self.hint("The references are right; what does one of them cost?")
        direction = "fewer" if given > references else "more"
        return self.hint(f"There are {direction} references.", f"There are {direction} references. {self._advice()}")

    def _advice(self) -> str:
        if self._kinds:
            return "Write down what the walk before has read, and strike out what the caches know of this one."
        if self._host:
            return "Each table of the guest lies at a guest-physical address, and so does the page: how many walks of the host?"
        return "Which tables does the processor itself walk, and which of their entries does it hold in registers?"

    def _fact(self, references: int) -> str:
        """Return a fact to remember."""
        plain = self._count([])
        if plain > references:
            return f"Without these caches it would be {plain} references: {plain / references:.1f} times as many."
        if self._guest and self._host:
            one = FORMATS[self._guest].references
            return (
                f"On the bare machine, with pages of {SMALL}, it would be {one}: a walk in two dimensions multiplies."
            )
        return "One reference a table: in one dimension a walk is as long as the table is deep."
