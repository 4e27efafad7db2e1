"""The boot loader: how an image gets into memory, and with which registers the processor starts.

`place()` writes segments, modules and boot information into memory, as a multiboot loader does.

Simplified: all this happens before the first instruction; so does what a BIOS does before the boot sector's.

Read more: Multiboot Specification 0.6.96; `vmlab.machine.multiboot`; `vmlab.machine.firmware.boot`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.errors import ImageError
from vmlab.machine.multiboot import BOOT_MAGIC, HIGH, LOW_END, VIDEO, boot_information

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.image import Image, Module
    from vmlab.machine.memory import Memory

__all__ = ["BootState", "place"]

VIDEO_END = 0xC_0000
INFO_START = 0x9000  # above what kernels use for real-mode and second-processor code
PAGE_SIZE = 0x1000


@dataclass(frozen=True, slots=True)
class BootState:
    """With which registers the processor starts, and what the loader put where.

    Attributes
    ----------
    eip, eax, ebx : int
        Entry, multiboot magic, address of the boot information; EAX and EBX are 0 for an image without multiboot.
    modules : tuple
        Start and end address of each module.
    end : int
        The address after the highest byte that the loader wrote.
    """

    eip: int
    eax: int = 0
    ebx: int = 0
    modules: tuple[tuple[int, int], ...] = ()
    end: int = 0


def place(image: Image, memory: Memory, command_line: str = "", modules: Sequence[Module] = ()) -> BootState:
    """Write an image into memory as a boot loader does.

    Parameters
    ----------
    image : Image
        What to boot.
    memory : Memory
        Physical memory of a machine, or a guest's window.
    command_line : str
        For a multiboot kernel: its arguments.
    modules : sequence of Module
        Loaded after the image's own modules, above the image, each on a page of its own.

    Returns
    -------
    BootState
        The registers to start with.

    Raises
    ------
    ImageError
        Something does not fit into memory.
    """
    taken = [(segment.address, segment.end) for segment in image.segments if segment.memory_size]
    for start, end in taken:
        if end > memory.size:
            raise ImageError(_too_large(f"{image.name}: the segment at {start:#x}", end, memory.size))
        if start < VIDEO_END and end > VIDEO:
            raise ImageError(
                f"{image.name}: the segment at {start:#x}-{end - 1:#x} lies in the video memory at "
                f"{VIDEO:#x}-{VIDEO_END - 1:#x}: link it below or from {HIGH:#x}"
            )
    for segment in image.segments:  # zeros first: one segment's zeros may not wipe out another one's bytes
        memory.write_bytes(segment.address, bytes(segment.memory_size))
    for segment in image.segments:
        memory.write_bytes(segment.address, segment.data)
    if image.multiboot is None:
        if modules or image.modules or command_line:
            raise ImageError(f"{image.name}: takes no modules and no command line: it has no multiboot header")
        return BootState(image.entry, end=image.end)
    loaded: list[tuple[int, int, str]] = []
    top = max(image.end, HIGH if memory.size > HIGH else 0)
    for module in (*image.modules, *modules):
        start = (top + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
        top = start + len(module.data)
        if top > memory.size or (start < VIDEO_END and top > VIDEO):
            raise ImageError(_too_large(f"{image.name}: module {module.string!r}", top, memory.size))
        memory.write_bytes(start, module.data)
        loaded.append((start, top, module.string))
        taken.append((start, top))
    info_at = _find_room(len(boot_information(0, memory.size, command_line, loaded)), taken, memory.size)
    if info_at is None:
        raise ImageError(_too_large(f"{image.name}: the boot information", top + PAGE_SIZE, memory.size))
    info = boot_information(info_at, memory.size, command_line, loaded)
    memory.write_bytes(info_at, info)
    places = tuple((start, end) for start, end, _ in loaded)
    return BootState(image.entry, BOOT_MAGIC, info_at, places, max(info_at + len(info), *(end for _, end in taken)))


def _find_room(size: int, taken: list[tuple[int, int]], memory_size: int) -> int | None:
    """The lowest free place for the boot information: in low memory, else after all that is loaded."""
    start = INFO_START
    for low, high in sorted(taken):
        if low < start + size and start < high:
            start = (high + 15) & ~15
    if start + size <= min(LOW_END, memory_size):
        return start
    start = max(HIGH, *((high + 15) & ~15 for _, high in taken))
    return start if start + size <= memory_size else None


def _too_large(what: str, end: int, size: int) -> str:
    needed = -(-end >> 20) if end > 1 << 20 else 1
    has = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    return f"{what} needs {needed} MiB of memory, the machine has {has}: give --memory {needed}M (in Python memory={needed} << 20) or more"
