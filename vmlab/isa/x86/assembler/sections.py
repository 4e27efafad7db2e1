"""Sections of a flat image: where each begins, and the image they make.

The order is that of NASM's `bin` format: `.text` first, the others as they appear, those without contents
(`.bss`, or `nobits`) last and not in the image. Each but the first begins at a multiple of its alignment.
Where to read more: NASM manual, chapter 8.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Section", "Sections"]

DEFAULT_ALIGNMENT = 4


@dataclass(slots=True)
class Section:
    """A section, in one pass.

    Attributes
    ----------
    name : str
        As written, with its dot.
    nobits : bool
        True if it only reserves space.
    alignment : int
        Of its first byte, in bytes.
    base : int
        Address of its first byte, as known from the pass before.
    size : int
        Bytes so far in this pass.
    chunks : list of bytes
        Its contents, in the last pass.
    """

    name: str
    nobits: bool = False
    alignment: int = 1
    base: int = 0
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)


class Sections:
    """All sections of a program.

    Attributes
    ----------
    origin : int
        Address of the first byte of the image.
    """

    __slots__ = ("_sections", "origin")

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self._sections = {".text": Section(".text", base=origin)}

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def get(self, name: str) -> Section:
        """Return a section, making it if it is new."""
        section = self._sections.get(name)
        if section is None:
            section = self._sections[name] = Section(name, name == ".bss", DEFAULT_ALIGNMENT)
        return section

    def begin_pass(self) -> None:
        """Empty all sections; their bases and alignments stay."""
        for section in self._sections.values():
            section.size = 0
            section.chunks.clear()

    def ordered(self) -> list[Section]:
        """Return the sections as they lie in memory."""
        sections = self._sections.values()
        return [s for s in sections if not s.nobits] + [s for s in sections if s.nobits]

    def place(self) -> bool:
        """Give each section its base; return whether any moved."""
        address = self.origin
        moved = False
        for section in self.ordered():
            if section.name != ".text":
                address += -address % section.alignment
            moved |= section.base != address
            section.base = address
            address += section.size
        return moved

    @property
    def size(self) -> int:
        """Bytes of memory from the origin to the end of the last section."""
        last = self.ordered()[-1]
        return last.base + last.size - self.origin

    def image(self) -> bytes:
        """Return the contents of all sections that have any, with zeros between them."""
        image = bytearray()
        for section in self.ordered():
            if section.nobits or not section.size:
                continue
            image.extend(bytes(section.base - self.origin - len(image)))
            for chunk in section.chunks:
                image += chunk
        return bytes(image)
