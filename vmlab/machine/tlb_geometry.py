"""What a TLB looks like: arrays with sets and ways, the page sizes that they hold, and which entry makes room.

Real processors differ here, and CPUID leaf 2 says how; so it is data of the CPU model, and can be chosen.

Simplified: one level, and one buffer for code and data: the first-level data TLB's, where a processor has more.

Read more: Intel SDM vol. 2, CPUID leaf 2 (table of descriptors); Hennessy and Patterson, Computer Architecture, appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmlab.errors import OptionError

__all__ = [
    "BROADWELL_TLB",
    "BULLDOZER_TLB",
    "CORE_2_TLB",
    "K8_TLB",
    "K10_TLB",
    "PENTIUM_4_TLB",
    "REPLACEMENTS",
    "WESTMERE_TLB",
    "TlbArray",
    "TlbGeometry",
    "read_tlb",
]  # fmt: skip

REPLACEMENTS = ("fifo", "lru", "random")
"""Which entry of a set makes room: the one that came first, the one used least recently, or a drawn one."""

KILO, MEGA, GIGA = 1 << 12, 1 << 21, 1 << 30
LARGE = (MEGA, 1 << 22)
SPANS = {"4 KiB": KILO, "2 MiB": MEGA, "4 MiB": 1 << 22, "1 GiB": GIGA}
NAMES = {span: name for name, span in SPANS.items()}
MOST = 1 << 16


@dataclass(frozen=True, slots=True)
class TlbArray:
    """One array of a TLB.

    Attributes
    ----------
    sets, ways : int
        How many sets, a power of 2, which the low bits of the page number choose; how many entries each holds.
    spans : tuple of int
        Bytes of the pages that it holds.
    """

    sets: int
    ways: int
    spans: tuple[int, ...] = (KILO, *LARGE)

    def describe(self) -> str:
        """Say it in words."""
        kind = "fully associative" if self.sets == 1 else f"{self.sets} sets of {self.ways}"
        return f"{self.sets * self.ways} entries for {', '.join(NAMES[span] for span in self.spans)} ({kind})"


@dataclass(frozen=True, slots=True)
class TlbGeometry:
    """The arrays of a TLB, and how they are used.

    A page larger than any array holds is entered in parts of the largest size that one does, as processors do.

    Attributes
    ----------
    arrays : tuple of TlbArray
        One of them holds pages of 4 KiB; no two hold pages of the same size.
    replacement : {"fifo", "lru", "random"}
        Which entry of a set makes room. Random is drawn from a generator that always begins alike.
    counts_hits : bool
        Count accesses that hit, too.

    Notes
    -----
    To know which entry was used last, or to count hits, each access must be seen: the short ways around the TLB that make
    the simulation fast are closed then. It runs some 20 times as long, with either engine.
    """

    arrays: tuple[TlbArray, ...] = (TlbArray(1, 64),)
    replacement: str = "fifo"
    counts_hits: bool = False

    @property
    def sees_all(self) -> bool:
        """True where each access is seen."""
        return self.counts_hits or self.replacement == "lru"

    @property
    def entries(self) -> int:
        """How many entries there are in all."""
        return sum(array.sets * array.ways for array in self.arrays)

    def describe(self) -> str:
        """Say it in words."""
        order = {"fifo": "first in, first out", "lru": "least recently used", "random": "random"}[self.replacement]
        return f"{'; '.join(array.describe() for array in self.arrays)}; replacement: {order}"


def small_and_large(sets: int, ways: int, large_sets: int, large_ways: int, huge: int = 0) -> TlbGeometry:
    """Return a geometry with an array for 4 KiB, one for 2 and 4 MiB, and a fully associative one for 1 GiB, if any."""
    arrays = (TlbArray(sets, ways, (KILO,)), TlbArray(large_sets, large_ways, LARGE))
    return TlbGeometry((*arrays, TlbArray(1, huge, (GIGA,))) if huge else arrays)


# The first-level data TLBs, by the descriptors of CPUID leaf 2 (SDM vol. 2, table 3-12):
#  5BH (Pentium 4) 64 entries for 4 KiB and 4 MiB | B4H, 05H (Core 2) 256 entries, 4-way; 32 for 4 MiB, 4-way
#  03H, 5AH (Westmere) 64 entries, 4-way; 32 for 2 and 4 MiB, 4-way | 63H adds 4 entries for 1 GiB
PENTIUM_4_TLB = TlbGeometry()
CORE_2_TLB = small_and_large(64, 4, 8, 4)
WESTMERE_TLB = small_and_large(16, 4, 8, 4)
BROADWELL_TLB = small_and_large(16, 4, 8, 4, 4)
# AMD's, by its software optimization guides (25112, 40546, 47414, each in the section on TLBs): K8 32 entries for 4 KiB and 8 for
# 2 MiB, both fully associative; family 10h 48 entries for all sizes; family 15h 32.
K8_TLB = small_and_large(1, 32, 1, 8)
K10_TLB = TlbGeometry((TlbArray(1, 48, (KILO, *LARGE, GIGA)),))
BULLDOZER_TLB = TlbGeometry((TlbArray(1, 32, (KILO, *LARGE, GIGA)),))

FIELDS = ("sets", "ways", "replacement", "counts_hits", "large_sets", "large_ways")


def read_tlb(given: object, usual: TlbGeometry) -> TlbGeometry:
    """Return the geometry that a user asks for.

    Parameters
    ----------
    given : TlbGeometry, mapping or None
        A whole geometry; or some of `sets`, `ways` (of the array for 4 KiB), `large_sets`, `large_ways` (of one for 2 and
        4 MiB alone; without them large pages share the first array), `replacement`, `counts_hits`; None for the usual.
    usual : TlbGeometry
        That of the CPU model: what is not given is as there.

    Raises
    ------
    OptionError
        There can be no such TLB.

    Examples
    --------
    >>> read_tlb({"sets": 16, "ways": 4, "replacement": "lru"}, PENTIUM_4_TLB).describe()
    '64 entries for 4 KiB, 2 MiB, 4 MiB (16 sets of 4); replacement: least recently used'
    """
    if given is None:
        return usual
    if isinstance(given, TlbGeometry):
        return _checked(given)
    if not isinstance(given, Mapping):
        raise OptionError(
            f"a TLB is a dict, as {{'sets': 16, 'ways': 4, 'replacement': 'lru'}}, or a TlbGeometry, not {given!r}"
        )
    for name in given:
        if name not in FIELDS:
            raise OptionError(f"a TLB has no {name!r}: give some of {', '.join(FIELDS)}")
    arrays = usual.arrays
    if "sets" in given or "ways" in given:
        first = arrays[0]
        size = given.get("sets", first.sets), given.get("ways", first.ways)
        apart = "large_sets" in given or "large_ways" in given
        arrays = (TlbArray(*size, (KILO,)) if apart else TlbArray(*size),)
    if "large_sets" in given or "large_ways" in given:
        small = TlbArray(arrays[0].sets, arrays[0].ways, (KILO,))
        arrays = small, TlbArray(given.get("large_sets", 1), given.get("large_ways", 4), LARGE)
    replacement = given.get("replacement", usual.replacement)
    return _checked(TlbGeometry(arrays, replacement, given.get("counts_hits", usual.counts_hits)))


def _checked(geometry: TlbGeometry) -> TlbGeometry:
    spans = [span for array in geometry.arrays for span in array.spans]
    if KILO not in spans or len(set(spans)) != len(spans) or any(span not in NAMES for span in spans):
        raise OptionError(
            f"the arrays of a TLB hold pages of {', '.join(SPANS)}, each size in one array, 4 KiB in one at least; "
            f"given: {[NAMES.get(span, span) for span in spans]}"
        )
    for array in geometry.arrays:
        for what, number in (("sets", array.sets), ("ways", array.ways)):
            if type(number) is not int or not 0 < number <= MOST:
                raise OptionError(f"a TLB has a number of {what} from 1 to {MOST}, not {number!r}")
        if array.sets & array.sets - 1:
            raise OptionError(f"bits of the page number choose a TLB's set: 1, 2, 4, … sets, not {array.sets}")
    if geometry.replacement not in REPLACEMENTS:
        raise OptionError(f"unknown replacement {geometry.replacement!r}: choose one of {', '.join(REPLACEMENTS)}")
    if type(geometry.counts_hits) is not bool:
        raise OptionError(f"counts_hits is True or False, not {geometry.counts_hits!r}")
    return geometry
