"""CPUID: what a processor says of itself, computed from its model and its place among others.

All processors of a computer are one package's: cores, or on a model without leaf 0BH hyper-threads. Caches are told
as the real processor has them; simulated is none, and they cost no time.

Read more: Intel SDM vol. 2, CPUID; vol. 3, 9.9.5 (topology); AMD APM vol. 3, appendix E.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.machine.cpu_features import FEATURES, flags_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.cpu_model import CpuModel

__all__ = ["AMD", "INTEL", "Cache", "Place", "cpuid"]

Leaf = tuple[int, int, int, int]

INTEL, AMD = "GenuineIntel", "AuthenticAMD"
"""Makers of processors, as leaf 0 names them."""
EXTENDED = 0x8000_0000
BRAND = 0x8000_0002
BRAND_BYTES = 48
NOTHING = (0, 0, 0, 0)

# Leaf 1: EBX [ initial APIC ID 31:24 | logical processors 23:16 ], EDX [ HTT 28 ]
HTT = 1 << 28
REPEATED = 0x0183_F3FF  # flags of leaf 1 in leaf 80000001H (AMD APM vol. 3, appendix E.4.2)
THREADS, CORES = 1, 2  # level types of leaf 0BH


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache, as leaf 4 describes it.

    Attributes
    ----------
    kind : int
        1 data, 2 instructions, 3 both.
    level : int
        Distance from the core.
    ways, sets : int
        Its organization; lines have 64 bytes.
    shared : bool
        True where all cores share it.
    """

    kind: int
    level: int
    ways: int
    sets: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a processor stands.

    Attributes
    ----------
    apic_id : int
        Its APIC ID after reset.
    processors : int
        How many the computer has.
    apic_enabled : bool
        IA32_APIC_BASE's enable bit, which the APIC feature flag shows.
    limited : bool
        True where IA32_MISC_ENABLE limits the basic leaves to 2.
    """

    apic_id: int = 0
    processors: int = 1
    apic_enabled: bool = True
    limited: bool = False


def _bits_for(count: int) -> int:
    """Return how many bits number so many things."""
    return (count - 1).bit_length()


def _words(text: bytes, start: int) -> Leaf:
    one, two, three, four = (int.from_bytes(text[n : n + 4], "little") for n in range(start, start + 16, 4))
    return one, two, three, four


def _nothing(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    return NOTHING


def _vendor(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    last = min(model.last_leaf, 2) if place.limited else model.last_leaf
    ebx, edx, ecx, _ = _words(model.vendor.encode() + bytes(4), 0)
    return last, ebx, ecx, edx


def _identity(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    _, _, ecx, edx = flags_of(1, model.features)
    if not place.apic_enabled:
        edx &= ~FEATURES["apic"].bit
    ebx = place.apic_id << 24
    if place.processors > 1:
        edx |= HTT
        ebx |= min(place.processors, 0xFF) << 16
    return model.signature, ebx, ecx, edx


def _descriptors(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    return model.cache_descriptors


def _caches(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    if subleaf >= len(model.caches):
        return NOTHING
    cache = model.caches[subleaf]
    ids = (1 << _bits_for(place.processors)) - 1
    eax = cache.kind | cache.level << 5 | 1 << 8 | (ids << 14 if cache.shared else 0) | min(ids, 63) << 26
    return eax, 63 | cache.ways - 1 << 22, cache.sets - 1, 0


def _more_features(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    return flags_of(7, model.features) if subleaf == 0 else NOTHING


def _topology(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    if subleaf == 0:
        return 0, 1, THREADS << 8, place.apic_id
    if subleaf == 1:
        return _bits_for(place.processors), place.processors, CORES << 8 | 1, place.apic_id
    return 0, 0, subleaf & 0xFF, place.apic_id


def _last_extended(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    """On AMD's the maker's name once more."""
    return (model.last_extended_leaf, *(_vendor(model, subleaf, place)[1:] if model.vendor == AMD else NOTHING[1:]))


def _extended_features(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    """On AMD's the signature, and many flags of leaf 1, once more."""
    eax, ebx, ecx, edx = flags_of(0x8000_0001, model.features)
    if model.vendor == AMD:
        eax, _, _, again = _identity(model, subleaf, place)
        edx |= again & REPEATED
    return eax, ebx, ecx, edx


def _brand(part: int) -> Callable[[CpuModel, int, Place], Leaf]:
    def leaf(model: CpuModel, subleaf: int, place: Place) -> Leaf:
        return _words(model.brand_string.encode().ljust(BRAND_BYTES, b"\0"), 16 * part)

    return leaf


def _first_level(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    """On AMD's the first-level caches of data and of instructions: KiB, ways, lines a tag, bytes of a line."""
    if model.vendor != AMD:
        return NOTHING
    data, code = (next(each for each in model.caches if each.level == 1 and each.kind == kind) for kind in (1, 2))
    ecx, edx = (each.ways * each.sets * 64 // 1024 << 24 | each.ways << 16 | 1 << 8 | 64 for each in (data, code))
    return 0, 0, ecx, edx


def _second_level(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    """Size in KiB, associativity (4: 4 ways, 6: 8, 8: 16) and line size of the second-level cache."""
    cache = next((each for each in model.caches if each.level == 2), None)
    if cache is None:
        return NOTHING
    code = {4: 4, 8: 6, 16: 8}.get(cache.ways, 6)
    lines = 1 << 8 if model.vendor == AMD else 0  # a tag
    return 0, 0, cache.ways * cache.sets * 64 // 1024 << 16 | code << 12 | lines | 64, 0


def _secure_virtual_machine(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    """The revision of SVM, how many address-space identifiers there are, and its features."""
    return (1, model.asids, 0, flags_of(EXTENDED + 0xA, model.features)[3]) if model.has("svm") else NOTHING


def _power(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    return flags_of(0x8000_0007, model.features)


def _address_sizes(model: CpuModel, subleaf: int, place: Place) -> Leaf:
    cores = place.processors - 1 if model.vendor == AMD else 0
    return model.physical_bits | (48 if "lm" in model.features else 32) << 8, 0, cores, 0


LEAVES: dict[int, Callable[[CpuModel, int, Place], Leaf]] = {
    0: _vendor,
    1: _identity,
    2: _descriptors,
    4: _caches,
    7: _more_features,
    0xB: _topology,
    EXTENDED: _last_extended,
    EXTENDED + 1: _extended_features,
    **{BRAND + part: _brand(part) for part in range(3)},
    EXTENDED + 5: _first_level,
    EXTENDED + 6: _second_level,
    EXTENDED + 7: _power,
    EXTENDED + 8: _address_sizes,
    EXTENDED + 0xA: _secure_virtual_machine,
}
"""The leaves that say something; those between and below the last read as zeros."""


NOT_AMDS = frozenset({2, 4, 0xB})
"""Leaves that tell nothing on AMD's processors of the years that are modelled."""


def cpuid(model: CpuModel, leaf: int, subleaf: int, place: Place = Place()) -> Leaf:
    """Return EAX, EBX, ECX, EDX of a leaf; beyond the last of its range on Intel's those of the last basic leaf, on AMD's zeros.

    Examples
    --------
    >>> from vmlab.machine.cpu_model import CPU_MODELS
    >>> cpuid(CPU_MODELS["pentium-4"], 0, 0)[0]
    2
    """
    last = min(model.last_leaf, 2) if place.limited else model.last_leaf
    known = EXTENDED <= leaf <= model.last_extended_leaf if leaf & EXTENDED else leaf <= last
    if model.vendor == AMD and (not known or leaf in NOT_AMDS):
        return NOTHING
    return LEAVES.get(leaf if known else last, _nothing)(model, subleaf, place)
