"""Images: ELF by hand and by gcc, multiboot, flat; placing; every malformed file is one clear ImageError."""

from __future__ import annotations

import itertools
import random
import struct
import subprocess
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmlab.errors import ImageError, OptionError
from vmlab.machine.image import Module, flat, load
from vmlab.machine.loader import place
from vmlab.machine.memory import MemoryWindow, PhysicalMemory
from vmlab.machine.multiboot import find_header, memory_map

MIB = 1 << 20
CODE = bytes.fromhex("b82a000000f4")  # mov eax, 42; hlt


def multiboot(flags=3, *addresses, checksum=None):
    magic = 0x1BADB002
    checksum = -(magic + flags) & 0xFFFF_FFFF if checksum is None else checksum
    return struct.pack(f"<{3 + len(addresses)}I", magic, flags, checksum, *addresses)


def segment(data=CODE, virtual=MIB, physical=None, memory_size=None, kind=1):
    return (
        kind,
        virtual,
        virtual if physical is None else physical,
        data,
        len(data) if memory_size is None else memory_size,
    )


def elf(segments=None, entry=MIB, symbols=(), *, kind=2, machine=3, elf_class=1, order=1):
    """Build an ELF32 file: header, program headers, contents, symbol table, section headers."""
    segments = [segment()] if segments is None else segments
    head = 52 + 32 * len(segments)
    body, programs = b"", b""
    for kind_, virtual, physical, data, memory_size in segments:
        programs += struct.pack("<8I", kind_, head + len(body), virtual, physical, len(data), memory_size, 5, 4)
        body += data + bytes(-len(data) % 4)
    sections, shoff, shnum = b"", 0, 0
    if symbols:
        names, table = b"\0", bytes(16)
        for name, value, info, index in symbols:
            table += struct.pack("<IIIBBH", len(names), value, 0, info, 0, index)
            names += name.encode() + b"\0"
        table_at = head + len(body)
        body += table + names + bytes(-len(names) % 4)
        sections = bytes(40)
        sections += struct.pack("<10I", 0, 2, 0, 0, table_at, len(table), 2, 1, 4, 16)
        sections += struct.pack("<10I", 0, 3, 0, 0, table_at + len(table), len(names), 0, 0, 1, 0)
        shoff, shnum = head + len(body), 3
    ident = b"\x7fELF" + bytes([elf_class, order, 1]) + bytes(9)
    header = ident + struct.pack(
        "<HHIIIIIHHHHHH", kind, machine, 1, entry, 52, shoff, 0, 52, 32, len(segments), 40, shnum, 0
    )
    return header + programs + body + sections


def elf_64(segments=None, entry=MIB, *, machine=62):
    """Build an ELF64 file without sections, from segments as `segment` makes them."""
    segments = [segment()] if segments is None else segments
    head = 64 + 56 * len(segments)
    body, programs = b"", b""
    for kind, virtual, physical, data, memory_size in segments:
        programs += struct.pack("<2I6Q", kind, 5, head + len(body), virtual, physical, len(data), memory_size, 8)
        body += data + bytes(-len(data) % 8)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    return (
        ident
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
        + programs
        + body
    )


@pytest.fixture
def write(tmp_path):
    def write_file(data, name="kernel.elf"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write_file


# -- ELF ------------------------------------------------------------------------------------------------------------------


def test_a_plain_executable(write):
    image = load(write(elf([segment(memory_size=100)])))
    assert (image.name, image.entry, image.bits, image.multiboot) == ("kernel.elf", MIB, 32, None)
    (only,) = image.segments
    assert (only.address, only.data, only.memory_size, only.end) == (MIB, CODE, 100, MIB + 100)
    with pytest.raises(FrozenInstanceError):
        image.entry = 0


def test_symbols_are_named_and_global_ones_win(write):
    symbols = [
        ("file.c", 0, 0x04, 0xFFF1),
        ("helper", 0x100010, 0x02, 1),
        ("helper", 0x100020, 0x12, 1),
        ("helper", 0x100030, 0x02, 1),
        ("outside", 0, 0x10, 0),
        ("constant", 0x42, 0x10, 0xFFF1),
        ("_start", MIB, 0x10, 1),
    ]
    image = load(write(elf(symbols=symbols)))
    assert dict(image.symbols) == {"helper": 0x100020, "constant": 0x42, "_start": MIB}
    with pytest.raises(TypeError):
        image.symbols["new"] = 1


def test_a_kernel_for_high_addresses_starts_at_its_physical_entry(write):
    high = segment(virtual=0xC010_0000, physical=MIB)
    image = load(write(elf([high], entry=0xC010_0001)))
    assert image.entry == MIB + 1
    assert image.segments[0].address == MIB
    assert load(write(elf([high], entry=MIB + 1))).entry == MIB + 1, "an entry that is physical already stays"


def test_a_kernel_of_64_bits_for_high_addresses(write):
    high = 0xFFFF_FFFF_8010_0000
    image = load(write(elf_64([segment(multiboot() + CODE, high, MIB)], entry=high + 12)))
    assert (image.entry, image.bits, image.segments[0].address) == (MIB + 12, 32, MIB)
    assert image.multiboot


def test_an_executable_of_64_bits_without_a_multiboot_header_is_refused(write):
    with pytest.raises(ImageError, match="multiboot 1 header"):
        load(write(elf_64([segment()])))


def test_segments_that_are_not_loaded_are_left_out(write):
    note = segment(b"note", virtual=0, kind=4)
    image = load(write(elf([note, segment(), segment(b"", virtual=0x200000)])))
    assert len(image.segments) == 1


FOREIGN = {
    "Arm": elf(machine=40),
    "RISC-V": elf(machine=243),
    "machine number 4242": elf(machine=4242),
    "built for x86-64": elf(machine=62),  # x32
    "built for Arm64": elf(machine=183, elf_class=2),
    "built for machine number 3": elf_64(machine=3),
    "big-endian ELF file": elf(order=2),
    "gcc -m32": elf(machine=62),
}


@pytest.mark.parametrize("words", FOREIGN)
def test_foreign_executables_are_named(write, words):
    with pytest.raises(ImageError, match=words):
        load(write(FOREIGN[words]))


DAMAGED = {
    "relocatable object: link it": elf(kind=1),
    "-static -no-pie": elf(kind=3),
    "core dump": elf(kind=4),
    "not an executable but ELF type 77": elf(kind=77),
    "ELF class 9": elf(elf_class=9),
    "byte order 0": elf(order=0),
    "no loadable segment": elf([]),
    "no loadable segment: there": elf([segment(b"note", kind=4)]),
    "dynamically linked": elf([segment(b"/lib/ld.so", kind=3), segment()]),
    "6 bytes in the file and 2 in memory": elf([segment(memory_size=2)]),
    "beyond the 4 GiB": elf([segment(virtual=0xFFFF_FFFC)]),
    "lies in no loadable segment": elf(entry=0x5000),
    "overlap in physical memory": elf([segment(), segment(virtual=MIB + 3)]),
    "truncated: the segment 0": elf()[:-4],
    "truncated: the program header table": elf()[:60],
    "truncated: an ELF header takes 52": elf()[:40],
    "truncated: only 9 bytes": elf()[:9],
    "truncated: only 2 bytes": elf()[:2],
    "truncated: the section header table": elf(symbols=[("a", 0, 16, 1)])[:-8],
    "empty": b"",
    "neither ELF nor multiboot": b"#!/bin/sh\necho no kernel\n",
}


@pytest.mark.parametrize("words", DAMAGED)
def test_malformed_files_get_one_clear_line(write, words):
    with pytest.raises(ImageError, match=words) as caught:
        load(write(DAMAGED[words]))
    message = str(caught.value)
    assert "kernel.elf: " in message
    assert "\n" not in message


def test_a_damaged_symbol_table(write):
    data = bytearray(elf(symbols=[("a", 1, 16, 1)]))
    shoff = struct.unpack_from("<I", data, 32)[0]
    bad_link = bytearray(data)
    struct.pack_into("<I", bad_link, shoff + 40 + 24, 50)
    with pytest.raises(ImageError, match="section 50 of 3"):
        load(write(bad_link))
    struct.pack_into("<I", data, shoff + 40 + 36, 3)
    with pytest.raises(ImageError, match="a symbol of 3 bytes"):
        load(write(data))


def test_paths_that_are_no_files(tmp_path):
    for path, words in (
        (tmp_path / "none.elf", "no such file"),
        (tmp_path, "directory"),
        ("a\0b", "no such file|cannot"),
    ):
        with pytest.raises(ImageError, match=words):
            load(path)
    with pytest.raises(OptionError, match="path"):
        load(42)


def test_a_file_that_may_not_be_read(write, monkeypatch):
    path = write(elf())

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        load(path)


# -- multiboot ------------------------------------------------------------------------------------------------------------


def test_the_multiboot_header_is_found_by_magic_and_checksum(write):
    body = multiboot(checksum=5) + bytes(2) + multiboot() + bytes(6) + multiboot(1) + CODE
    image = load(write(elf([segment(body)])))
    assert image.multiboot.flags == 1, "a wrong checksum and an odd place do not count"
    assert image.multiboot.offset == 84 + 12 + 2 + 12 + 6
    assert image.multiboot.aligns_modules
    assert not image.multiboot.has_addresses


def test_a_header_beyond_8192_bytes_does_not_count():
    assert find_header(bytes(8180) + multiboot()) is not None
    assert find_header(bytes(8184) + multiboot()) is None
    assert find_header(multiboot()[:10]) is None


def test_requirements_that_cannot_be_met_are_refused():
    with pytest.raises(ImageError, match="video mode"):
        flat(multiboot(7), name="k")
    with pytest.raises(ImageError, match=r"k: .*flag bits 3, 5"):
        flat(multiboot(0x28), name="k")
    assert flat(multiboot(0xF000_0000)).multiboot, "bits 16 to 31 are optional features"


def addressed(load_end=0, bss_end=0, entry=0x20_0024, header=0x20_0004, base=0x20_0000, lead=b"skip" + bytes(4)):
    return lead + multiboot(0x1_0000, header, base, load_end, bss_end, entry) + CODE


def test_address_fields_say_where_a_file_goes(write):
    image = load(write(addressed(), "kernel.aout"))
    (only,) = image.segments
    assert (only.address, image.entry) == (0x20_0000, 0x20_0024)
    assert only.data == addressed()[4:], "the file is loaded from 4 bytes before the header on"
    image = load(write(addressed(load_end=0x20_0026, bss_end=0x20_1000), "kernel.aout"))
    assert (len(image.segments[0].data), image.segments[0].memory_size) == (0x26, 0x1000)


def test_address_fields_rule_in_an_elf_file_too(write):
    data = elf([segment(multiboot(0x1_0000, 0x30_0054, 0x30_0000, 0, 0, 0x30_0074) + CODE)], symbols=[("a", 5, 16, 1)])
    image = load(write(data))
    assert (image.segments[0].address, image.entry, image.symbols["a"]) == (0x30_0000, 0x30_0074, 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"header": 0x1F_0000}, "do not fit"),
        ({"header": 0x20_1000}, "do not fit"),
        ({"load_end": 0x1F_0000}, "do not fit"),
        ({"load_end": 0x20_8000}, "truncated"),
        ({"entry": 0x10}, "entry 0x10 lies outside"),
        ({"base": 0xFFFF_FFF0, "header": 0xFFFF_FFF4, "entry": 0xFFFF_FFF8}, "beyond the 4 GiB"),
    ],
)
def test_address_fields_that_cannot_be(write, change, words):
    with pytest.raises(ImageError, match=words):
        load(write(addressed(**change), "kernel.aout"))


def test_truncated_address_fields(write):
    with pytest.raises(ImageError, match="truncated: the multiboot header"):
        load(write(addressed()[:24], "kernel.aout"))


# -- flat -----------------------------------------------------------------------------------------------------------------


def test_flat_images():
    image = flat(CODE, origin=0x7C00, entry=0x7C05, name="tiny", symbols={"here": 0x7C05}, bits=16)
    assert (image.entry, image.bits, image.symbols["here"]) == (0x7C05, 16, 0x7C05)
    assert image.segments[0].address == 0x7C00
    assert flat(CODE).entry == MIB
    for arguments, error in (
        ({"data": b""}, ImageError),
        ({"data": CODE, "origin": -1}, OptionError),
        ({"data": CODE, "origin": "0x7c00"}, OptionError),
        ({"data": CODE, "origin": 1 << 32}, OptionError),
        ({"data": CODE, "origin": (1 << 32) - 2}, ImageError),
        ({"data": CODE, "entry": MIB + 6}, ImageError),
        ({"data": CODE, "bits": 8}, OptionError),
    ):
        with pytest.raises(error):
            flat(**arguments)


def test_flat_files_are_known_by_suffix_or_origin(write):
    assert load(write(CODE, "boot.bin")).entry == MIB
    assert load(write(CODE, "boot.BIN"), origin=0x7C00).entry == 0x7C00
    assert load(write(CODE, "boot"), origin=0x7C00).entry == 0x7C00
    with pytest.raises(ImageError, match=r"boot.bin"):
        load(write(CODE, "boot"))


def test_digests_tell_images_apart():
    assert flat(CODE).digest == flat(CODE, name="other", symbols={"a": 1}).digest
    assert (
        len({flat(CODE).digest, flat(CODE, origin=0).digest, flat(CODE + b"\0").digest, flat(CODE, bits=16).digest})
        == 4
    )


def test_describe(write):
    assert load(write(elf([segment(memory_size=100)]))).describe() == (
        "kernel.elf: 32-bit x86, plain, entry 0x100000, 0 symbols\n  00100000-00100063 6 bytes + 94 zero"
    )


# -- placing --------------------------------------------------------------------------------------------------------------


def test_a_plain_image_starts_with_cleared_registers():
    memory = PhysicalMemory(2 * MIB)
    boot = place(flat(CODE), memory)
    assert (boot.eip, boot.eax, boot.ebx, boot.end) == (MIB, 0, 0, MIB + 6)
    assert memory.read_bytes(MIB, 6) == CODE
    assert memory.save()["pages"].keys() == {0x100}, "nothing else is written"


def test_zeros_are_written_and_spare_other_segments(write):
    memory = PhysicalMemory(2 * MIB)
    memory.write_bytes(MIB, b"\xff" * 200)
    image = load(write(elf([segment(b"late", virtual=MIB + 50), segment(memory_size=100)])))
    place(image, memory)
    assert memory.read_bytes(MIB, 101) == CODE + bytes(44) + b"late" + bytes(46) + b"\xff"


def read_info(memory, address):
    words = struct.unpack("<17I", memory.read_bytes(address, 68))
    names = ["flags", "lower", "upper", "device", "command", "module_count", "modules", *"abcd"]
    return dict(zip([*names, "map_length", "map", "drives", "drives_at", "config", "loader"], words, strict=True))


def text_at(memory, address):
    return memory.read_bytes(address, 64).split(b"\0")[0].decode()


@pytest.mark.parametrize("windowed", [False, True])
def test_multiboot_information(windowed):
    memory = PhysicalMemory(8 * MIB)
    if windowed:
        frames = list(range(len(memory.pages) // 2))
        random.Random(1).shuffle(frames)
        memory = MemoryWindow(memory, frames)
    else:
        memory = PhysicalMemory(4 * MIB)
    modules = [Module(b"first module", "one --a"), Module(b"x" * 5000, "two")]
    boot = place(flat(multiboot() + CODE, entry=MIB + 12), memory, "kernel root=1", modules)
    assert (boot.eip, boot.eax) == (MIB + 12, 0x2BADB002)
    info = read_info(memory, boot.ebx)
    assert info["flags"] == 0b10_0100_1101
    assert (info["lower"], info["upper"]) == (639, 3 * 1024)
    assert text_at(memory, info["command"]) == "kernel root=1"
    assert text_at(memory, info["loader"]) == "vmlab"
    assert info["module_count"] == 2
    for index, module in enumerate(modules):
        start, end, string, reserved = struct.unpack("<4I", memory.read_bytes(info["modules"] + 16 * index, 16))
        assert (start, end) == boot.modules[index]
        assert memory.read_bytes(start, end - start) == module.data
        assert text_at(memory, string) == module.string
        assert reserved == 0
        assert start % 4096 == 0
    entries = struct.iter_unpack("<IQQI", memory.read_bytes(info["map"], info["map_length"]))
    assert [entry[1:] for entry in entries] == memory_map(4 * MIB)
    assert boot.end == boot.modules[-1][1]


@pytest.mark.parametrize("size", [1 << 16, 640 << 10, MIB, 16 * MIB])
def test_the_memory_map_is_disjoint_and_ends_with_memory(size):
    entries = memory_map(size)
    for (base, length, _), (following, _, _) in itertools.pairwise(entries):
        assert base + length <= following
    available = [(base, base + length) for base, length, kind in entries if kind == 1]
    assert all(end <= size for _, end in available)
    assert sum(end - base for base, end in available) == min(size, 0x9FC00) + max(0, size - MIB)


def test_the_information_avoids_image_and_modules():
    data = multiboot() + bytes(0x2_0000)
    for origin in (0x8000, 0x9010, 0x500, 0x9FC00 - len(data), MIB):
        memory = PhysicalMemory(2 * MIB)
        boot = place(flat(data, origin=origin), memory, modules=[Module(b"m" * 100)])
        spans = [(origin, origin + len(data)), *boot.modules]
        assert all(boot.ebx + 400 <= start or end <= boot.ebx for start, end in spans)
        assert memory.read_bytes(origin, len(data)) == data
    memory = PhysicalMemory(2 * MIB)
    full = flat(multiboot() + bytes(0x9_8BE0), origin=0x7000)
    assert place(full, memory).ebx == MIB, "low memory is full"


def test_modules_of_the_image_come_first():
    memory = PhysicalMemory(2 * MIB)
    image = flat(multiboot() + CODE)
    image = type(image)(image.name, image.entry, image.segments, {}, image.multiboot, (Module(b"own"),))
    boot = place(image, memory, modules=[Module(b"given")])
    assert [memory.read_bytes(start, end - start) for start, end in boot.modules] == [b"own", b"given"]
    assert "module" in image.describe()


def test_small_machines_can_boot_multiboot():
    memory = PhysicalMemory(1 << 16)
    boot = place(flat(multiboot() + CODE, origin=0x1000), memory, modules=[Module(b"mod")])
    assert read_info(memory, boot.ebx)["lower"] == 64
    assert boot.modules == ((0x2000, 0x2003),)


def test_what_does_not_fit_says_how_much_memory_is_needed():
    small = PhysicalMemory(2 * MIB)
    with pytest.raises(ImageError, match=r"needs 4 MiB of memory, the machine has 2 MiB: give --memory 4M"):
        place(flat(CODE, origin=4 * MIB - 100), small)
    with pytest.raises(ImageError, match="module 'big' needs 3 MiB"):
        place(flat(multiboot()), small, modules=[Module(bytes(MIB), "big")])
    with pytest.raises(ImageError, match="the machine has 64 KiB"):
        place(flat(CODE), PhysicalMemory(1 << 16))
    with pytest.raises(ImageError, match="boot information"):
        place(flat(multiboot() + bytes(0xFFE0), origin=0), PhysicalMemory(1 << 16))


def test_the_video_memory_is_no_place_for_code():
    with pytest.raises(ImageError, match="video memory"):
        place(flat(CODE, origin=0xA0000 - 2), PhysicalMemory(MIB))


def test_command_line_and_modules_need_multiboot():
    for arguments in ({"command_line": "x"}, {"modules": [Module(b"x")]}):
        with pytest.raises(ImageError, match="no multiboot header"):
            place(flat(CODE), PhysicalMemory(2 * MIB), **arguments)


# -- gcc ------------------------------------------------------------------------------------------------------------------

SOURCE = """
__attribute__((section(".multiboot"), used))
static const unsigned header[] = {0x1BADB002, 3, -(0x1BADB002 + 3)};
int counter = 7;
int zeros[1000];
int twice(int x) { return 2 * x; }
void _start(void) { zeros[1] = twice(counter); for (;;) __asm__("hlt"); }
"""
SCRIPT = """
ENTRY(_start)
SECTIONS {
  . = BASE + 1M;
  .text : AT(ADDR(.text) - BASE) { *(.multiboot) *(.text*) }
  .data : AT(ADDR(.data) - BASE) { *(.data*) }
  .bss : AT(ADDR(.bss) - BASE) { *(.bss*) }
  /DISCARD/ : { *(.comment) *(.eh_frame*) *(.note*) }
}
"""


def build(folder, base="0", options=()):
    (folder / "kernel.c").write_text(SOURCE)
    (folder / "kernel.ld").write_text(SCRIPT.replace("BASE", base))
    flags = ["-m32", "-O2", "-ffreestanding", "-fno-pic", "-no-pie", "-nostdlib", "-static", "-Wl,--build-id=none"]
    command = ["gcc", *flags, *options, "-Wl,-z,max-page-size=4096", "-T", "kernel.ld", "-o", "kernel.elf", "kernel.c"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "kernel.elf"


@pytest.mark.parametrize(("base", "virtual"), [("0", 0), ("0xC0000000", 0xC000_0000)])
def test_a_kernel_made_by_gcc(tmp_path, base, virtual):
    image = load(build(tmp_path, base))
    assert image.multiboot is not None
    assert image.multiboot.offset < 8192
    assert {"counter", "zeros", "twice", "_start"} <= set(image.symbols)
    assert image.entry == image.symbols["_start"] - virtual
    memory = PhysicalMemory(2 * MIB)
    memory.write_bytes(MIB, b"\xff" * 0x8000)
    boot = place(image, memory)
    assert boot.eax == 0x2BADB002
    assert memory.read(image.symbols["counter"] - virtual, 4) == 7
    assert memory.read_bytes(image.symbols["zeros"] - virtual, 4000) == bytes(4000)
    assert memory.read(MIB, 4) == 0x1BADB002


def test_an_object_file_made_by_gcc(tmp_path):
    (tmp_path / "kernel.c").write_text(SOURCE)
    subprocess.run(["gcc", "-m32", "-c", "kernel.c"], cwd=tmp_path, check=True, capture_output=True)
    with pytest.raises(ImageError, match="link it"):
        load(tmp_path / "kernel.o")


# -- fuzz -----------------------------------------------------------------------------------------------------------------

VICTIM = elf(
    [segment(multiboot() + CODE, memory_size=200), segment(b"data" * 20, virtual=0xC020_0000, physical=0x20_0000)],
    symbols=[("_start", MIB, 16, 1), ("data", 0xC020_0000, 17, 2), ("file.c", 0, 4, 0xFFF1)],
)
ADDRESSED = elf([segment(multiboot(0x1_0003, 0x30_0054, 0x30_0000, 0, 0, 0x30_0074) + CODE)])


def try_to_boot(path):
    complaint = "none"
    try:
        place(load(path), PhysicalMemory(1 << 22))
    except ImageError as error:
        complaint = str(error)
    assert complaint.strip()
    assert "\n" not in complaint


def test_the_victim_is_sound(write):
    assert place(load(write(VICTIM)), PhysicalMemory(1 << 22)).eax == 0x2BADB002
    assert load(write(ADDRESSED)).entry == 0x30_0074


def test_every_truncation_is_an_image_error_or_boots(write):
    for length in range(len(VICTIM)):
        try_to_boot(write(VICTIM[:length]))


def test_a_file_that_claims_a_thousand_times_its_size(write):
    """Many segments of the same bytes, many symbol tables, names without an end: no more work than the file is worth."""
    many = 2000
    header = bytearray(elf([segment()])[:52])
    struct.pack_into("<HH", header, 42, 32, many)
    programs = b"".join(struct.pack("<8I", 1, 52, MIB * n, MIB * n, 60_000, 60_000, 5, 4) for n in range(1, many + 1))
    with pytest.raises(ImageError, match=r"its segments have .* bytes, the file 64052"):
        load(write(bytes(header) + programs))
    symbols = b"".join(struct.pack("<IIIBBH", 1 + n % 1000, MIB, 0, 16, 0, 1) for n in range(many))
    names = b"\0" + b"n" * 60_000
    base = elf([segment()])
    tables = struct.pack("<10I", 0, 2, 0, 0, len(base), len(symbols), 1, 1, 4, 16)
    tables += struct.pack("<10I", 0, 3, 0, 0, len(base) + len(symbols), len(names), 0, 0, 1, 0)
    tables += struct.pack("<10I", 0, 2, 0, 0, len(base), len(symbols), 1, 1, 4, 16) * many
    data = bytearray(base + symbols + names + tables)
    struct.pack_into("<I", data, 32, len(base) + len(symbols) + len(names))
    struct.pack_into("<HH", data, 46, 40, many + 2)
    image = load(write(bytes(data)))
    assert set(image.symbols) == {"n" * 1024}


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=1600),
    st.sampled_from([b"", b"\x7fELF", b"\x7fELF\1\1\1", multiboot(), multiboot(0x1_0003)[:12]]),
)
def test_any_bytes_at_all(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(start + data)
    try_to_boot(path)
    path.write_bytes((start + data).ljust(510, b"\0")[:510] + b"\x55\xaa" + data)
    try_to_boot(path)


@settings(max_examples=300, deadline=None)
@given(
    victim=st.sampled_from([VICTIM, ADDRESSED]),
    flips=st.lists(st.tuples(st.integers(0, len(VICTIM) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    head=st.lists(st.tuples(st.integers(0, 84), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, len(VICTIM))),
)
def test_byte_flips_raise_nothing_but_image_errors(tmp_path_factory, victim, flips, head, cut):
    data = bytearray(victim)
    for place_, value in [*flips, *head]:
        data[place_ % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "flipped.elf"
    path.write_bytes(data[:cut])
    try_to_boot(path)
