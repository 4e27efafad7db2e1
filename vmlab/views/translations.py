"""What a binary translator has made: the guest's code and its translation side by side, and the units as a graph.

    guest                              translated
    00100022  cli                   |  ffc91013  mov dword [gs:0xffc80000], 0
    00100023  ret                   |  ffc9101e  mov [gs:0xffc80008], ecx            .
                                    |  ffc91025  pop ecx

A dot marks an instruction of the translator's own, in which no time of the guest passes. The generated code is read from the
simulated memory: a jump that has been chained shows where it leads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.isa.x86.disassembler import disassemble
from vmlab.machine.recordable import check_guest
from vmlab.views.layers import guest_names
from vmlab.vmm.binary_translation import BinaryTranslation
from vmlab.vmm.listing import Listings, labels_of
from vmlab.vmm.translation_code import CALL_OUT, JUMP_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import networkx as nx

    from vmlab.machine.recording import Recording
    from vmlab.vmm.run import Run
    from vmlab.vmm.system import System
    from vmlab.vmm.translation_cache import TranslationCache

__all__ = ["Line", "TranslatedUnit", "Translations", "translations"]

WIDTH = 36
COUNTED = (
    "translations",
    "instructions translated",
    "bytes in",
    "bytes out",
    "chains",
    "landings",
    "retranslations",
    "dropped",
    "flushes",
    "call-outs",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One generated instruction, or one of the guest's.

    Attributes
    ----------
    address : int
        Linear.
    text : str
        As the disassembler writes it.
    counts : bool
        False for one of the translator's own.
    """

    address: int
    text: str
    counts: bool = True

    def __str__(self) -> str:
        return f"{self.address:08x}  {self.text}"


@dataclass(frozen=True, slots=True)
class TranslatedUnit:
    """A translation unit.

    Attributes
    ----------
    ip : int
        Address of the guest's first instruction.
    address : int
        Where the unit is in the cache.
    place : str
        The guest's address by name, as `label+0x12`; empty if none is near.
    parts : tuple of (Line or None, tuple of Line)
        Each instruction of the guest's, and what it became; None for what the translator added.
    leads_to : tuple of int
        The guest's addresses to which its direct jumps lead.
    chained : tuple of int
        Those of them to which they lead already without the hypervisor.
    """

    ip: int
    address: int
    place: str
    parts: tuple[tuple[Line | None, tuple[Line, ...]], ...]
    leads_to: tuple[int, ...]
    chained: tuple[int, ...]

    def __str__(self) -> str:
        lines = [f"{self.place or hex(self.ip)}"]
        for original, became in self.parts:
            left = str(original) if original else ""
            for line in became:
                lines.append(f"{left:<{WIDTH}}|  {line!s:<{WIDTH + 12}}{'' if line.counts else '.'}".rstrip())
                left = ""
        return "\n".join(lines)

    __repr__ = __str__


class Translations:
    """What is in a guest's translation cache at an instant.

    Attributes
    ----------
    units : tuple of TranslatedUnit
        In the order in which they were translated.
    counters : dict of str to int
        What the translator did so far.
    cache_hits : int
        Entries into the cache that found a translation.
    labels : dict of str to int
        The guest's labels and their addresses.
    title : str
        Whose.
    """

    def __init__(
        self,
        units: tuple[TranslatedUnit, ...],
        counters: dict[str, int],
        cache_hits: int,
        labels: dict[str, int],
        title: str,
    ) -> None:
        self.units, self.counters, self.cache_hits = units, counters, cache_hits
        self.labels, self.title = labels, title

    @property
    def expansion(self) -> float:
        """Bytes of generated code for each of the guest's."""
        return self.counters["bytes out"] / max(1, self.counters["bytes in"])

    def __getitem__(self, place: str | int) -> TranslatedUnit:
        """Return the unit that begins with an instruction of the guest's, or holds it; by label or address, the latest one."""
        address = self.labels.get(place) if isinstance(place, str) else place
        holding = [unit for unit in self.units if any(line and line.address == address for line, _ in unit.parts)]
        begins = [unit for unit in self.units if unit.place == place or unit.ip == address]
        if begins or holding:
            return (begins or holding)[-1]
        known = ", ".join(dict.fromkeys(unit.place for unit in self.units if unit.place))
        shown = hex(place) if isinstance(place, int) else repr(place)
        raise OptionError(f"there is no translation of {shown}: give an address, or one of {known or 'none'}")

    def rows(self) -> list[dict[str, Any]]:
        """Return the units as rows of a table."""
        return [
            {
                "place": unit.place or hex(unit.ip),
                "cache": hex(unit.address),
                "instructions": sum(line is not None for line, _ in unit.parts),
                "generated": sum(len(became) for _, became in unit.parts),
                "leads to": [hex(goal) for goal in unit.leads_to],
                "chained": [hex(goal) for goal in unit.chained],
            }
            for unit in self.units
        ]

    def to_graph(self) -> nx.DiGraph:
        """Return the units as a graph: an edge for each direct jump, with whether it is chained.

        Returns
        -------
        networkx.DiGraph
            Nodes are the guest's addresses, with `place` and `translated`.
        """
        import networkx as nx

        graph = nx.DiGraph()
        for unit in self.units:
            graph.add_node(unit.ip, place=unit.place, translated=True)
        for unit in self.units:
            for goal in unit.leads_to:
                if goal not in graph:
                    graph.add_node(goal, place="", translated=False)
                graph.add_edge(unit.ip, goal, chained=goal in unit.chained)
        return graph

    def describe(self) -> str:
        """Say it in words."""
        count = self.counters
        return (
            f"{self.title}: {len(self.units)} translation units in the cache.\nSo far {count['translations']} were translated, "
            f"{count['instructions translated']} instructions, {count['bytes in']} bytes into {count['bytes out']} "
            f"({self.expansion:.1f} times as many);\n{count['chains']} jumps chained, {count['landings']} landings of indirect "
            f"jumps, {count['retranslations']} retranslations, {count['dropped']} units dropped."
        )

    def __str__(self) -> str:
        return self.describe()

    __repr__ = __str__


def translations(of: Run | Recording | System, guest: int = 0) -> Translations:
    """Return what the binary translator has made of a guest's kernel.

    Parameters
    ----------
    of : Run, Recording, or System
        Under binary translation; a recording as it stands.
    guest : int
        Index of the guest.

    Raises
    ------
    OptionError
        It is under another technique, or there is no such guest.

    Examples
    --------
    >>> import vmlab
    >>> found = translations(vmlab.run(vmlab.guests.load("hello"), under="binary-translation"))
    >>> len(found.units), found.counters["chains"]
    (4, 3)
    """
    system = getattr(of, "system", of)
    if not isinstance(system, BinaryTranslation):
        technique = getattr(system, "technique", type(of).__name__)
        raise OptionError(f"translations are of runs under binary-translation, not under {technique}")
    check_guest(guest, len(system.guests))
    slot, image = system.slots(guest)[system.guests[guest].platform.apics.current], system.guests[guest].image
    cache = system.caches[slot]
    labels = labels_of(image)
    names = Listings("", labels)
    units = tuple(_units(cache, names))
    counters = {name: cache.counters[name] for name in COUNTED}
    title = f"{guest_names(system)[guest]} at instruction {system.instructions(guest):,}"
    return Translations(units, counters, cache.counters["hits"], labels, title)


def _units(cache: TranslationCache, names: Listings) -> Iterator[TranslatedUnit]:
    for address, unit in cache.units.items():
        if not unit.starts:
            continue
        code = cache.code(address)
        starts = list(unit.starts.items())
        ends = [offset for _, offset in starts[1:]] + [len(code)]
        originals = {line.address: line.text for line in disassemble(unit.source, unit.ip, 32, names.labels)}
        parts: list[tuple[Line | None, tuple[Line, ...]]] = []
        for (ip, start), end in zip(starts, ends, strict=True):
            generated = _generated(cache, address, start, end)
            parts.append((Line(ip, originals.get(ip, "db")), generated))
        goals = [unit.jumps[offset] for offset in unit.jumps]
        chained = [unit.jumps[offset] for offset in unit.jumps if cache.is_chained(address + offset)]
        yield TranslatedUnit(unit.ip, address, names.place(unit.ip), tuple(parts), tuple(goals), tuple(chained))


def _generated(cache: TranslationCache, address: int, start: int, end: int) -> tuple[Line, ...]:
    """Disassemble generated instructions; a jump that is not chained says where it will lead."""
    unit, code = cache.units[address], cache.code(address)
    places = [offset for offset in unit.places if start <= offset < end]
    lines = []
    for offset, following in zip(places, [*places[1:], end], strict=True):
        text = disassemble(code[offset:following], address + offset)[0].text
        if offset in unit.jumps and code[offset : offset + 2] == CALL_OUT:
            text = f"ud2  → {unit.jumps[offset]:#x}"
        elif offset in unit.jumps:
            text = f"{disassemble(code[offset : offset + JUMP_BYTES], address + offset)[0].text}  → {unit.jumps[offset]:#x}"
        lines.append(Line(address + offset, text, offset not in unit.glue))
    return tuple(lines)
