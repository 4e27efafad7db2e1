"""Translations by what they were made from: EIP and bytes.

A translated function is pure: it knows no processor and no memory but those it is called with. So the same code is
compiled once, however often checkpoints are restored, pages written, or the same guest run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.machine.translator import emit_arithmetic, emit_bits, emit_data
from vmlab.machine.translator.compiler import compile_region
from vmlab.machine.translator.emitters import Special, transfers, translatable
from vmlab.machine.translator.region import ENDING, Region, discover

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.translator.function import Run

__all__ = ["ORDINARY", "Translated", "is_kept", "known", "translate"]

MOST = 4096
"""Addresses of which translations are kept."""
VARIANTS = 4
"""Translations kept of one address: of different bytes there."""
OFFSET = 0xFFF
ORDINARY = Special()
OWN = Special(uncounted=frozenset())
_FAMILIES = (emit_arithmetic, emit_bits, emit_data)


@dataclass(slots=True)
class Translated:
    """A region as a function.

    Attributes
    ----------
    entry : int
        EIP.
    run : callable
        See `vmlab.machine.translator.function.Run`.
    longest : int
        The least budget for which `run` may be called.
    ranges : tuple of (int, bytes)
        The code: offsets within its page, and the bytes there.
    careful : Special
        Instructions written in another way than most.
    missed : int
        How often an instruction was left to the interpreter since.
    """

    entry: int
    run: Run
    longest: int
    ranges: tuple[tuple[int, bytes], ...]
    careful: Special
    missed: int = 0

    def contains(self, start: int, end: int) -> bool:
        """Say whether some of its code is between two offsets."""
        return any(first < end and first + len(code) > start for first, code in self.ranges)

    def is_of(self, page: bytes, uncounted: AbstractSet[int] | None) -> bool:
        """Say whether it was made from what is on a page now."""
        if any(page[start : start + len(code)] != code for start, code in self.ranges):
            return False
        return uncounted is None or self.careful.uncounted == _within(uncounted, self.entry & ~OFFSET, self.ranges)


_KEPT: dict[tuple[int, Special], list[Translated]] = {}


def known(instruction: Instruction) -> bool:
    """Say whether an instruction can be part of a region: all but repeated ones can, translated or performed."""
    return not instruction.repeat and instruction.mnemonic in SEMANTICS


def _is_worthwhile(region: Region, *, own: bool) -> bool:
    """Say whether a region begins with something that gains by translation."""
    _, first = region.blocks[0].code[0]
    gains = transfers if first.mnemonic in ENDING else translatable
    return len(region.blocks[0].code) > 1 or gains(first, own=own)


def is_kept(entry: int, *, own: bool = False) -> bool:
    """Say whether there may be a translation of an address already."""
    return (entry, OWN if own else ORDINARY) in _KEPT


def _within(places: AbstractSet[int], page: int, ranges: tuple[tuple[int, bytes], ...]) -> frozenset[int]:
    """Return those addresses that lie in some of the ranges of a page."""
    return frozenset(
        place for start, code in ranges for place in range(page + start, page + start + len(code)) if place in places
    )


def translate(
    page: bytes, entry: int, careful: Special = ORDINARY, executed: Mapping[int, Any] | None = None
) -> tuple[Translated | None, bool]:
    """Translate the region of an address.

    Parameters
    ----------
    page : bytes
        The 4096 bytes of the page of code.
    entry : int
        EIP.
    careful : Special
        See `Translated`.
    executed : mapping, optional
        See `vmlab.machine.translator.region.discover`.

    Returns
    -------
    Translated or None
        None where nothing can be gained.
    bool
        True where it was compiled just now.
    """
    uncounted = careful.uncounted
    key = entry, careful if uncounted is None else careful._replace(uncounted=frozenset())
    variants = _KEPT.pop(key, [])
    for found in variants:
        if found.is_of(page, uncounted):
            _KEPT[key] = variants
            return found, False
    region = discover(page, entry, known, executed)
    if region is None or not _is_worthwhile(region, own=uncounted is not None):
        if variants:
            _KEPT[key] = variants
        return None, False
    run, longest = compile_region(region, careful)
    ranges = tuple(
        (block.start & OFFSET, page[block.start & OFFSET :][: (block.end - block.start) & 0xFFFFFFFF])
        for block in region.blocks
    )
    if uncounted is not None:
        careful = careful._replace(uncounted=_within(uncounted, entry & ~OFFSET, ranges))
    found = Translated(entry, run, longest, ranges, careful)
    _KEPT[key] = [found, *variants[: VARIANTS - 1]]
    while len(_KEPT) > MOST:
        del _KEPT[next(iter(_KEPT))]
    return found, True
