"""ELF: the executable files that a C compiler and linker make.

Reads little-endian executables for x86 and x86-64, of the 32-bit or the 64-bit class: the header says where the program
headers stand, each loadable one says which bytes of the file go to which addresses, and the symbol table, if the file
kept it, names addresses.

A segment has two addresses: the virtual one that the code was linked for, and the physical one (LMA) where a loader
puts it while paging is off. A kernel linked for high addresses has both.

A kernel of the 64-bit class starts in 32-bit protected mode all the same, as a multiboot loader leaves it, and enters long
mode by itself (GRUB 2 loads such kernels in this way too).

Simplified: no relocation, no dynamic linking, no compressed sections.

Read more: System V ABI, chapter 4 "Object Files"; System V ABI Intel386 and AMD64 supplements, chapter 4.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vmlab.errors import ImageError

__all__ = ["MAGIC", "ElfFile", "ElfSegment", "parse_elf"]

MAGIC = b"\x7fELF"

# e_ident:  magic 0-3, class 4, data 5, version 6
CLASS32, CLASS64 = 1, 2
LITTLE, BIG = 1, 2
# The rest of the header: type, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize,
# shnum, shstrndx
# Program header: type, offset, vaddr, paddr, filesz, memsz, flags, align; of 64 bits: type, flags, offset, ...
# Section header: name, type, flags, addr, offset, size, link, info, addralign, entsize
# Symbol: name, value, size, info, other, shndx; of 64 bits: name, info, other, shndx, value, size


class _Class(NamedTuple):
    """How the tables of a class of ELF are laid out, and in which order their fields are taken."""

    machine: int
    header: struct.Struct
    program: struct.Struct
    program_fields: tuple[int, ...]
    section: struct.Struct
    symbol: struct.Struct
    symbol_fields: tuple[int, ...]


X86, X86_64 = 3, 62
_CLASSES = {
    CLASS32: _Class(
        X86, struct.Struct("<16xHHIIIIIHHHHHH"), struct.Struct("<8I"), (0, 1, 2, 3, 4, 5),
        struct.Struct("<10I"), struct.Struct("<IIIBBH"), (0, 1, 3, 5),
    ),
    CLASS64: _Class(
        X86_64, struct.Struct("<16xHHIQQQIHHHHHH"), struct.Struct("<2I6Q"), (0, 2, 3, 4, 5, 6),
        struct.Struct("<2I4Q2I2Q"), struct.Struct("<IBBHQQ"), (0, 4, 1, 3),
    ),
}  # fmt: skip

PT_LOAD, PT_INTERP = 1, 3
SHT_SYMTAB = 2
STT_SECTION, STT_FILE = 3, 4
STB_LOCAL = 0
SHARED = 1 << 20  # bytes of the file that several segments may have in common, beside each of them once
MOST_SYMBOLS, LONGEST_NAME = 1 << 20, 1024

_TYPES = {
    0: "no type",
    1: "a relocatable object: link it, for instance with ld -m elf_i386",
    3: "a shared object or position-independent executable: link it with -static -no-pie",
    4: "a core dump",
}
_MACHINES = {
    2: "SPARC", 4: "Motorola 68000", 6: "Intel 80486", 8: "MIPS", 15: "PA-RISC", 18: "SPARC32+", 20: "PowerPC",
    21: "64-bit PowerPC", 22: "IBM S/390", 40: "Arm", 42: "SuperH", 43: "SPARC V9", 50: "Itanium", 62: "x86-64",
    83: "AVR", 94: "Xtensa", 183: "Arm64 (AArch64)", 243: "RISC-V", 247: "BPF", 258: "LoongArch",
}  # fmt: skip


class ElfSegment(NamedTuple):
    """A loadable segment."""

    virtual: int
    physical: int
    data: bytes
    memory_size: int


class ElfFile(NamedTuple):
    """What a loader needs of an executable; `bits` is its class. Symbols are virtual addresses."""

    entry: int
    segments: tuple[ElfSegment, ...]
    symbols: dict[str, int]
    bits: int = 32


def parse_elf(data: bytes, name: str = "image") -> ElfFile:
    """Read an executable.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        What messages call it.

    Raises
    ------
    ImageError
        Not an ELF executable for x86 or x86-64, truncated or damaged.
    """
    if data[:4] != MAGIC:
        raise ImageError(f"{name}: not an ELF file")
    _check_ident(data, name)
    layout = _CLASSES[data[4]]
    size = layout.header.size
    if len(data) < size:
        raise ImageError(f"{name}: truncated: an ELF header takes {size} bytes, the file has {len(data)}")
    kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, _ = layout.header.unpack_from(data)
    if machine != layout.machine:
        foreign = _MACHINES.get(machine, f"machine number {machine}")
        raise ImageError(f"{name}: built for {foreign}; vmlab runs x86: compile with gcc -m32, or -m64")
    if kind != 2:
        raise ImageError(f"{name}: not an executable but {_TYPES.get(kind, f'ELF type {kind}')}")
    segments: list[ElfSegment] = []
    total = 0
    reach = 1 << (64 if data[4] == CLASS64 else 32)
    for header in _table(data, name, "program header", phoff, phnum, phentsize, layout.program):
        segment_type, offset, virtual, physical, file_size, memory_size = (header[n] for n in layout.program_fields)
        if segment_type == PT_INTERP:
            raise ImageError(f"{name}: dynamically linked, and there is no loader below a kernel: link it with -static")
        if segment_type == PT_LOAD and memory_size:
            where = f"segment {len(segments)}"
            if file_size > memory_size:
                raise ImageError(
                    f"{name}: damaged: {where} has {file_size} bytes in the file and {memory_size} in memory"
                )
            if physical + memory_size > 1 << 32 or virtual + memory_size > reach:
                raise ImageError(f"{name}: damaged: {where} at {physical:#x} goes beyond the 4 GiB of addresses")
            total += file_size
            if total > 2 * len(data) + SHARED:
                raise ImageError(f"{name}: damaged: its segments have {total} bytes, the file {len(data)}")
            contents = _slice(data, name, where, offset, file_size)
            segments.append(ElfSegment(virtual, physical, contents, memory_size))
    if not segments:
        raise ImageError(f"{name}: no loadable segment: there is nothing to run")
    sections = _table(data, name, "section header", shoff, shnum, shentsize, layout.section)
    return ElfFile(entry, tuple(segments), _symbols(data, name, sections, layout), 64 if data[4] == CLASS64 else 32)


def _check_ident(data: bytes, name: str) -> None:
    """Check class and byte order, which decide how the rest of the header is read."""
    if len(data) < 16:
        raise ImageError(f"{name}: truncated: only {len(data)} bytes of an ELF header")
    if data[4] not in _CLASSES:
        raise ImageError(f"{name}: damaged: ELF class {data[4]}, must be 1 (32-bit) or 2 (64-bit)")
    if data[5] == BIG:
        number = int.from_bytes(data[18:20], "big")
        machine = f" for {_MACHINES[number]}" if number in _MACHINES else ""
        raise ImageError(f"{name}: a big-endian ELF file{machine}; x86 is little-endian: compile with gcc -m32")
    if data[5] != LITTLE:
        raise ImageError(f"{name}: damaged: ELF byte order {data[5]}, must be 1 (little-endian)")


def _table(
    data: bytes, name: str, what: str, offset: int, count: int, entry_size: int, layout: struct.Struct
) -> list[tuple[int, ...]]:
    """Read a table of equal entries."""
    if count == 0 or offset == 0:
        return []
    if entry_size < layout.size:
        raise ImageError(f"{name}: damaged: a {what} of {entry_size} bytes, must be {layout.size}")
    table = _slice(data, name, f"{what} table", offset, count * entry_size)
    return [layout.unpack_from(table, index * entry_size) for index in range(count)]


def _slice(data: bytes, name: str, what: str, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ImageError(
            f"{name}: truncated: the {what} ends at byte {offset + size}, the file has {len(data)}: copy or link it anew"
        )
    return data[offset : offset + size]


def _symbols(data: bytes, name: str, sections: list[tuple[int, ...]], layout: _Class) -> dict[str, int]:
    """Read the symbol table: of names that occur several times the global one counts, else the first."""
    symbols: dict[str, int] = {}
    strong: set[str] = set()
    table = next((section for section in sections if section[1] == SHT_SYMTAB), None)  # there is one at most
    if table is None:
        return symbols
    _, _, _, _, offset, size, link, _, _, entry_size = table
    if link >= len(sections):
        raise ImageError(f"{name}: damaged: the symbol table's names are in section {link} of {len(sections)}")
    entry_size = entry_size or layout.symbol.size  # some tools leave it out
    count = min(size // entry_size, MOST_SYMBOLS)
    names = _slice(data, name, "symbol names", sections[link][4], sections[link][5])
    for symbol in _table(data, name, "symbol", offset, count, entry_size, layout.symbol):
        label, value, info, section = (symbol[n] for n in layout.symbol_fields)
        if not section or info & 15 in (STT_SECTION, STT_FILE) or not 0 < label < len(names):
            continue
        end = names.find(b"\0", label, label + LONGEST_NAME)
        text = names[label : end if end >= 0 else label + LONGEST_NAME].decode("utf-8", "replace")
        is_global = info >> 4 != STB_LOCAL
        if text and (text not in symbols or (is_global and text not in strong)):
            symbols[text] = value
            if is_global:
                strong.add(text)
    return symbols
