"""Multiboot 1: how a boot loader finds a kernel's wishes and tells it what machine it is on.

The kernel carries a header in its first 8 KiB: what it needs, and perhaps where it is to be loaded. The loader leaves
an information structure in memory: memory map, command line, modules, its own name. The kernel starts in 32-bit
protected mode without paging, EAX = 0x2BADB002, EBX = address of that structure.

Simplified: no boot device, drives, APM or VBE information; a kernel that requires a video mode is refused.

Read more: Multiboot Specification version 0.6.96, sections 3.1 (header) and 3.3 (boot information).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vmlab.errors import ImageError

__all__ = ["BOOT_MAGIC", "HEADER_MAGIC", "MultibootHeader", "boot_information", "find_header", "memory_map"]

HEADER_MAGIC = 0x1BADB002
BOOT_MAGIC = 0x2BADB002
SEARCH = 8192  # the header lies in the first 8192 bytes
LOADER_NAME = b"vmlab\0"

# Header flags: bits 0-15 are requirements, a loader that does not know one must refuse
ALIGN_MODULES, NEED_MEMORY, NEED_VIDEO, HAS_ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 1 << 16
UNSUPPORTED = 0xFFFF & ~(ALIGN_MODULES | NEED_MEMORY)

# Information flags: which fields are valid
INFO_MEMORY, INFO_COMMAND_LINE, INFO_MODULES, INFO_MAP, INFO_LOADER = 1 << 0, 1 << 2, 1 << 3, 1 << 6, 1 << 9
# flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr,
# drives_length, drives_addr, config_table, boot_loader_name, then APM and VBE, all zero
_INFO = struct.Struct("<17I48x")
_MODULE = struct.Struct("<4I")  # start, end, string, reserved
_MAP_ENTRY = struct.Struct("<IQQI")  # size of the rest, base, length, type
AVAILABLE, RESERVED = 1, 2

# A PC's first MiB: RAM below the extended BIOS data area, then that, the video hole and the BIOS.
LOW_END, VIDEO, BIOS, HIGH = 0x9FC00, 0xA0000, 0xF0000, 0x10_0000


@dataclass(frozen=True, slots=True)
class MultibootHeader:
    """The header that a kernel carries.

    Attributes
    ----------
    offset : int
        Where it stands in the file.
    flags : int
        What the kernel requires, and which of the fields below are valid.
    header_address, load_address, load_end, bss_end, entry : int
        Where to load a file that is no ELF (flag bit 16), physical addresses; 0 without that flag.
    """

    offset: int
    flags: int
    header_address: int = 0
    load_address: int = 0
    load_end: int = 0
    bss_end: int = 0
    entry: int = 0

    @property
    def has_addresses(self) -> bool:
        """Whether the load addresses are valid."""
        return bool(self.flags & HAS_ADDRESSES)

    @property
    def aligns_modules(self) -> bool:
        """Whether modules must begin on a page."""
        return bool(self.flags & ALIGN_MODULES)


def find_header(data: bytes, name: str = "image") -> MultibootHeader | None:
    """Find the multiboot 1 header in a file; None if there is none.

    Raises
    ------
    ImageError
        The header is cut off, or requires what this loader does not have.
    """
    magic = HEADER_MAGIC.to_bytes(4, "little")
    offset = data.find(magic, 0, SEARCH)
    while offset >= 0:
        if offset % 4 == 0 and offset + 12 <= min(len(data), SEARCH):
            flags, checksum = struct.unpack_from("<II", data, offset + 4)
            if (HEADER_MAGIC + flags + checksum) & 0xFFFF_FFFF == 0:
                return _read_header(data, name, offset, flags)
        offset = data.find(magic, offset + 1, SEARCH)
    return None


def _read_header(data: bytes, name: str, offset: int, flags: int) -> MultibootHeader:
    if flags & NEED_VIDEO:
        raise ImageError(f"{name}: its multiboot header requires a video mode (flag bit 2); vmlab has 80x25 text only")
    if flags & UNSUPPORTED:
        bits = ", ".join(str(bit) for bit in range(16) if flags & UNSUPPORTED & (1 << bit))
        raise ImageError(f"{name}: its multiboot header requires flag bits {bits}; multiboot 1 knows bits 0 to 2")
    if not flags & HAS_ADDRESSES:
        return MultibootHeader(offset, flags)
    if offset + 32 > len(data):
        raise ImageError(
            f"{name}: truncated: the multiboot header ends at byte {offset + 32}, the file has {len(data)}"
        )
    return MultibootHeader(offset, flags, *struct.unpack_from("<5I", data, offset + 12))


def memory_map(size: int) -> list[tuple[int, int, int]]:
    """The memory map of a PC with `size` bytes of RAM: (base, length, type), type 1 available, 2 reserved."""
    entries = [(0, min(size, LOW_END), AVAILABLE), (LOW_END, VIDEO - LOW_END, RESERVED), (BIOS, HIGH - BIOS, RESERVED)]
    if size > HIGH:
        entries.append((HIGH, size - HIGH, AVAILABLE))
    return entries


def boot_information(address: int, memory_size: int, command_line: str, modules: list[tuple[int, int, str]]) -> bytes:
    """Build the information structure and all that it points to.

    Parameters
    ----------
    address : int
        Where it will stand: its pointers are physical addresses.
    memory_size : int
        Bytes of RAM.
    command_line : str
        The kernel's command line.
    modules : list
        (start, end, command line) of each module that was loaded.
    """
    tail = bytearray()
    start = address + _INFO.size

    def add(data: bytes) -> int:
        place = start + len(tail)
        tail.extend(data)
        tail.extend(bytes(-len(tail) % 4))
        return place

    entries = memory_map(memory_size)
    map_at = add(b"".join(_MAP_ENTRY.pack(_MAP_ENTRY.size - 4, *entry) for entry in entries))
    map_length = len(entries) * _MAP_ENTRY.size
    names = [add(text.encode() + b"\0") for _, _, text in modules]
    modules_at = add(
        b"".join(_MODULE.pack(begin, end, text, 0) for (begin, end, _), text in zip(modules, names, strict=True))
    )
    command_at = add(command_line.encode() + b"\0")
    loader_at = add(LOADER_NAME)
    flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MAP | INFO_LOADER
    lower = min(memory_size, LOW_END) >> 10
    upper = max(memory_size - HIGH, 0) >> 10
    info = _INFO.pack(
        flags, lower, upper, 0, command_at, len(modules), modules_at, 0, 0, 0, 0, map_length, map_at, 0, 0, 0, loader_at
    )  # fmt: skip
    return info + bytes(tail)
