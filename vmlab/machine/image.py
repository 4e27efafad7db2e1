"""Images: what a machine boots.

`load()` reads a file: an ELF executable as gcc and ld make it, with or without a multiboot 1 header, a file with a
multiboot header that says itself where it is to be loaded, a boot disk, or a flat binary. `flat()` makes an image of bytes,
such as the assembler's, `from_disk()` one of a disk. `vmlab.machine.loader` puts it into memory.

Read more: Multiboot Specification 0.6.96; `vmlab.machine.elf`, `vmlab.machine.multiboot`, `vmlab.machine.firmware.boot`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any

from vmlab.errors import ImageError, OptionError
from vmlab.machine.disk import SECTOR, Disk
from vmlab.machine.elf import MAGIC, parse_elf
from vmlab.machine.multiboot import MultibootHeader, find_header
from vmlab.machine.state_file import MAGIC as STATE_MAGIC

if TYPE_CHECKING:
    import os

__all__ = [
    "BOOT_ADDRESS", "BOOT_SIGNATURE", "DEFAULT_ORIGIN", "Image", "Module", "Segment", "check_name", "flat", "from_disk",
    "is_boot_disk", "load",
]  # fmt: skip

DEFAULT_ORIGIN = 0x10_0000
BOOT_ADDRESS = 0x7C00
"""Where firmware puts the first sector of the disk that it boots from."""
BOOT_SIGNATURE = b"\x55\xaa"  # the last two bytes of that sector
FLAT_SUFFIXES = frozenset({".bin", ".com", ".flat", ".img", ".raw"})
ADDRESSES = 1 << 32
LARGEST_FILE = 1 << 30


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes at a physical address, followed by zeros up to `memory_size`."""

    address: int
    data: bytes
    memory_size: int

    @property
    def end(self) -> int:
        """The address after the segment."""
        return self.address + self.memory_size


@dataclass(frozen=True, slots=True)
class Module:
    """A file that the boot loader hands to the kernel; `string` is its command line."""

    data: bytes
    string: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A program that a machine can boot.

    Attributes
    ----------
    name : str
        For titles and messages.
    entry : int
        Physical address of the first instruction.
    segments : tuple of Segment
        What is loaded where.
    symbols : mapping
        Name to (linear) address.
    multiboot : MultibootHeader or None
        The header, if the image has one: then it is started as the specification says.
    modules : tuple of Module
        Modules that always come with the image.
    bits : int
        Operand size of the code at the entry.
    disk : Disk or None
        The disk that it is booted from, by firmware; its first sector is the one segment.
    """

    name: str
    entry: int
    segments: tuple[Segment, ...]
    symbols: Mapping[str, int] = field(default_factory=dict)
    multiboot: MultibootHeader | None = None
    modules: tuple[Module, ...] = ()
    bits: int = 32
    disk: Disk | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over entry, segments and modules, in hexadecimal: equal images have equal digests."""
        hasher = hashlib.sha256(f"{self.entry} {self.bits} {self.multiboot}".encode())
        for segment in self.segments:
            hasher.update(f" {segment.address} {segment.memory_size} {len(segment.data)} ".encode() + segment.data)
        for module in self.modules:
            hasher.update(f" {module.string!r} {len(module.data)} ".encode() + module.data)
        if self.disk is not None:
            hasher.update(self.disk.contents_digest().encode())
        return hasher.hexdigest()

    @property
    def end(self) -> int:
        """The address after the highest segment."""
        return max(segment.end for segment in self.segments)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it by its fields; a `mappingproxy` cannot be pickled."""
        values = [getattr(self, each.name) for each in fields(self)]
        return _rebuild, tuple(dict(each) if isinstance(each, Mapping) else each for each in values)

    def describe(self) -> str:
        """Several lines: name, kind, entry, segments, symbols."""
        kind = "boot disk" if self.disk else "multiboot 1" if self.multiboot else "plain"
        lines = [f"{self.name}: {self.bits}-bit x86, {kind}, entry {self.entry:#x}, {len(self.symbols)} symbols"]
        lines += [
            f"  {segment.address:08x}-{segment.end - 1:08x} {len(segment.data)} bytes"
            + (f" + {segment.memory_size - len(segment.data)} zero" if segment.memory_size > len(segment.data) else "")
            for segment in self.segments
        ]
        if self.disk is not None:
            lines.append(f"  disk of {self.disk.sectors} sectors")
        lines += [f"  module {module.string!r} {len(module.data)} bytes" for module in self.modules]
        return "\n".join(lines)


def _rebuild(name: str, entry: int, segments: tuple[Segment, ...], symbols: Mapping[str, int], *rest: Any) -> Image:  # noqa: ANN401
    return Image(name, entry, segments, MappingProxyType(dict(symbols)), *rest)


def _check_address(what: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < ADDRESSES:
        shown = f"{value:#x}" if type(value) is int else repr(value)
        raise OptionError(f"{what} is a physical address from 0 to 0xffffffff, not {shown}")
    return value


def check_name(name: object) -> str:
    """Return the name of an image; OptionError if it is no text."""
    if not isinstance(name, str):
        raise OptionError(f"an image's name is text (a str), not {type(name).__name__}")
    return name


def flat(
    data: bytes,
    origin: int = DEFAULT_ORIGIN,
    entry: int | None = None,
    name: str = "flat",
    symbols: Mapping[str, int] | None = None,
    bits: int = 32,
) -> Image:
    """Make an image of bytes that are loaded at `origin` as they are.

    Parameters
    ----------
    data : bytes
        Code and data.
    origin : int
        Physical address of the first byte.
    entry : int, optional
        Physical address of the first instruction; `origin` if not given.
    name : str
        For titles and messages.
    symbols : mapping, optional
        Name to address.
    bits : int
        Operand size of the code, 16, 32 or 64.

    Raises
    ------
    ImageError
        There are no bytes, or they go beyond the address space.
    OptionError
        An address or `bits` is not allowed.
    """
    origin = _check_address("origin", origin)
    start = origin if entry is None else _check_address("entry", entry)
    if not isinstance(data, (bytes, bytearray)):
        raise OptionError(f"an image is made of bytes, not of {type(data).__name__}: for a file use load()")
    if not isinstance(symbols, (Mapping, NoneType)):
        raise OptionError(f"symbols map names to addresses, and are no {type(symbols).__name__}")
    if bits not in (16, 32, 64):
        raise OptionError(f"bits is 16, 32 or 64, not {bits!r}")
    if not data:
        raise ImageError(f"{name}: empty: there is nothing to run")
    if origin + len(data) > ADDRESSES:
        raise ImageError(f"{name}: {len(data)} bytes at {origin:#x} go beyond the 4 GiB of addresses")
    if not origin <= start < origin + len(data):
        raise ImageError(f"{name}: entry {start:#x} lies outside its bytes at {origin:#x}-{origin + len(data) - 1:#x}")
    header = find_header(data, name)
    segment = Segment(origin, bytes(data), len(data))
    return Image(check_name(name), start, (segment,), MappingProxyType(dict(symbols or {})), header, (), bits)


def is_boot_disk(data: bytes) -> bool:
    """Say whether bytes are whole sectors, of which the first ends in 55 AA."""
    return len(data) % SECTOR == 0 and data[SECTOR - 2 : SECTOR] == BOOT_SIGNATURE


def from_disk(disk: Disk, symbols: Mapping[str, int] | None = None) -> Image:
    """Make an image that a machine boots from the first sector of a disk, as a BIOS does.

    Parameters
    ----------
    disk : Disk
        It becomes the machine's first disk.
    symbols : mapping, optional
        Name to address.

    Raises
    ------
    ImageError
        The first sector does not end in 55 AA.
    OptionError
        It is no disk.
    """
    if not isinstance(disk, Disk):
        raise OptionError(f"a machine boots from a Disk, not from {type(disk).__name__}")
    sector = disk.read(0)
    if not is_boot_disk(sector):
        raise ImageError(
            f"{disk.name}: not bootable: its first sector ends in {sector[-2:].hex(' ')}, a boot sector in 55 aa"
        )
    segment = Segment(BOOT_ADDRESS, sector, SECTOR)
    names = MappingProxyType(dict(symbols or {}))
    return Image(disk.name, BOOT_ADDRESS, (segment,), names, None, (), 16, disk)


def load(path: str | os.PathLike[str], origin: int | None = None) -> Image:
    """Read an image file.

    Parameters
    ----------
    path : path
        An ELF executable for 32-bit x86, a file with a multiboot header that holds its addresses, a boot disk (whole
        sectors of 512 bytes, of which the first ends in 55 AA), or a flat binary.
    origin : int, optional
        Load a flat binary at this physical address. Without it, only files with a suffix of flat binaries
        (`.bin`, `.com`, `.flat`, `.img`, `.raw`) are taken as such, and go to 1 MiB.

    Raises
    ------
    ImageError
        The file is missing, unreadable, truncated, foreign or no image at all.
    """
    try:
        file = Path(path)
    except TypeError:
        raise OptionError(f"an image is loaded from a path, not from {path!r}: for bytes use flat()") from None
    data = _read_file(file)
    name = file.name
    if data.startswith(STATE_MAGIC):
        raise ImageError(f"{name}: a saved state, not an image: vmlab.load_state({str(file)!r}) reads it")
    if data[:4] == MAGIC:
        return _from_elf(data, name)
    if origin is None and is_boot_disk(data):  # even with a multiboot header, which a boot loader on it may carry
        return from_disk(Disk.of(data, file))
    header = find_header(data, name)
    if header and header.has_addresses and origin is None:
        return _from_addresses(data, name, header, {})
    if origin is None and file.suffix.lower() not in FLAT_SUFFIXES:
        if MAGIC.startswith(data[:4]):
            raise ImageError(f"{name}: truncated: only {len(data)} bytes of an ELF header")
        raise ImageError(
            f"{name}: neither ELF nor multiboot; for a flat binary give its origin, or name it {file.stem}.bin"
        )
    return flat(data, DEFAULT_ORIGIN if origin is None else origin, name=name)


def _read_file(file: Path) -> bytes:
    try:
        if file.is_dir():
            raise ImageError(f"{file}: a directory; give the image file in it")
        if not file.exists():
            raise ImageError(f"{file}: no such file")
        if not file.is_file():
            raise ImageError(f"{file}: not a regular file")
        if file.stat().st_size > LARGEST_FILE:
            raise ImageError(f"{file}: larger than {LARGEST_FILE >> 30} GiB: no image for a 32-bit machine")
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{file}: cannot be read: {reason}") from None
    if not data:
        raise ImageError(f"{file}: empty: there is nothing to run")
    return data


def _from_elf(data: bytes, name: str) -> Image:
    elf = parse_elf(data, name)
    header = find_header(data, name)
    if elf.bits == 64 and not header:
        raise ImageError(
            f"{name}: a 64-bit ELF file without a multiboot header, so that no loader would know in which mode to start it: "
            "give it a multiboot 1 header, and enter long mode in the code that it starts with; or compile with gcc -m32"
        )
    if header and header.has_addresses:  # the specification: these rule, even in an ELF file
        return _from_addresses(data, name, header, elf.symbols)
    segments = tuple(Segment(each.physical, each.data, each.memory_size) for each in elf.segments)
    _check_overlap(name, segments)
    entry = elf.entry
    if not any(segment.address <= entry < segment.end for segment in segments):
        # A kernel for high addresses whose entry is the linked (virtual) one: paging is off, so start at its copy.
        for each in elf.segments:
            if each.virtual <= entry < each.virtual + each.memory_size:
                entry = each.physical + entry - each.virtual
                break
        else:
            raise ImageError(f"{name}: entry {entry:#x} lies in no loadable segment: give the linker -e SYMBOL")
    return Image(name, entry, segments, MappingProxyType(elf.symbols), header)


def _from_addresses(data: bytes, name: str, header: MultibootHeader, symbols: Mapping[str, int]) -> Image:
    """Load as the multiboot header's address fields say (the "a.out kludge")."""
    before = header.header_address - header.load_address
    start = header.offset - before
    length = header.load_end - header.load_address if header.load_end else len(data) - start
    if before < 0 or start < 0 or length <= 0:
        raise ImageError(
            f"{name}: damaged: multiboot addresses: header {header.header_address:#x}, load {header.load_address:#x}, "
            f"load end {header.load_end:#x} do not fit the header's place at byte {header.offset}"
        )
    if start + length > len(data):
        raise ImageError(f"{name}: truncated: multiboot wants {start + length} bytes, the file has {len(data)}")
    size = max(length, header.bss_end - header.load_address) if header.bss_end else length
    segment = Segment(header.load_address, data[start : start + length], size)
    if segment.end > ADDRESSES:
        raise ImageError(f"{name}: damaged: the multiboot load area ends beyond the 4 GiB of addresses")
    if not segment.address <= header.entry < segment.end:
        raise ImageError(f"{name}: damaged: multiboot entry {header.entry:#x} lies outside the load area")
    return Image(name, header.entry, (segment,), MappingProxyType(dict(symbols)), header)


def _check_overlap(name: str, segments: tuple[Segment, ...]) -> None:
    """Refuse files whose segments' bytes would overwrite each other."""
    filled = sorted((each for each in segments if each.data), key=lambda each: each.address)
    for lower, upper in pairwise(filled):
        if lower.address + len(lower.data) > upper.address:
            raise ImageError(
                f"{name}: segments at {lower.address:#x} and {upper.address:#x} overlap in physical memory: "
                "check AT() in the linker script"
            )
