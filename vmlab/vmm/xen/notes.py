"""How a guest says that it is ported: Xen's notes in its image.

A note is that of ELF: the lengths of name and contents, a type, the name `Xen`, the contents, each part padded to 4 bytes.
The notes tell the domain builder how to start the kernel. Without them an image is not ported, and is refused.

Simplified: notes are found by their form wherever they lie in a segment, so that a flat image can have them, too.

Read more: Xen, xen/include/public/elfnote.h; System V ABI, "Note Section".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.errors import ImageError, OptionError

if TYPE_CHECKING:
    from vmlab.machine.image import Image

__all__ = ["PortNotes", "find_notes", "is_ported", "require_notes"]

NAME = b"Xen\0"
HEADER = struct.Struct("<III")  # length of the name, length of the contents, type
MOST = 256

# Types of notes
ENTRY, VIRT_BASE, PADDR_OFFSET, XEN_VERSION, GUEST_OS, PAE_MODE = 1, 3, 4, 5, 6, 9
INTERFACE = "xen-3.0"


@dataclass(frozen=True, slots=True)
class PortNotes:
    """What a ported kernel says of itself.

    Attributes
    ----------
    entry : int
        Linear address of its first instruction.
    base : int
        Linear address at which the guest's first frame is to be mapped.
    offset : int
        What is to be taken off from the addresses of its segments.
    system : str
        Its name.
    """

    entry: int
    base: int = 0
    offset: int = 0
    system: str = ""


def is_ported(image: Image) -> bool:
    """Say whether an image has Xen's notes, whatever they say."""
    return any(kind == XEN_VERSION for segment in image.segments for kind, _ in _notes(segment.data))


def find_notes(image: Image) -> PortNotes | None:
    """Return the notes of an image; None where it is not ported.

    Raises
    ------
    ImageError
        It is ported to another interface.
    """
    if not is_ported(image):
        return None
    notes = {kind: contents for segment in image.segments for kind, contents in _notes(segment.data)}
    version, pae = _text(notes[XEN_VERSION]), _text(notes.get(PAE_MODE, b"no"))
    if version != INTERFACE:
        raise ImageError(
            f"{image.name}: ported to the interface {version!r}; here is {INTERFACE!r}, of Xen 3 on 32 bits"
        )
    if pae != "no":
        raise ImageError(
            f"{image.name}: wants page tables of PAE mode ({pae!r}); this hypervisor has those of two levels"
        )
    numbers = {kind: _number(notes[kind]) for kind in (ENTRY, VIRT_BASE, PADDR_OFFSET) if kind in notes}
    return PortNotes(
        numbers.get(ENTRY, image.entry),
        numbers.get(VIRT_BASE, 0),
        numbers.get(PADDR_OFFSET, 0),
        _text(notes.get(GUEST_OS, b"")),
    )


def require_notes(image: Image) -> PortNotes:
    """Return the notes of an image; OptionError where it is not ported."""
    notes = find_notes(image)
    if notes is None:
        raise OptionError(
            f"{image.name} is not ported to paravirtualization: it has no Xen notes (XEN_VERSION), so it would use privileged "
            "instructions where hypercalls are wanted; take a ported kernel, as vmlab.guests.load('minios_pv'), or run this one "
            "under another technique"
        )
    return notes


def _notes(data: bytes) -> list[tuple[int, bytes]]:
    """Return type and contents of each note in a segment."""
    found = []
    place = data.find(NAME)
    while place >= 0:
        start = place - HEADER.size
        if start >= 0 and start % 4 == 0:
            name_length, length, kind = HEADER.unpack_from(data, start)
            contents = data[place + len(NAME) : place + len(NAME) + length]
            if name_length == len(NAME) and length <= MOST and len(contents) == length:
                found.append((kind, contents))
        place = data.find(NAME, place + 1)
    return found


def _text(contents: bytes) -> str:
    return contents.partition(b"\0")[0].decode("ascii", "replace")


def _number(contents: bytes) -> int:
    return int.from_bytes(contents[:8], "little") & 0xFFFFFFFF
