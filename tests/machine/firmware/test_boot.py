"""From power-on to the boot sector: what the BIOS hands over, how a disk is recognised, and the way on from there."""

from __future__ import annotations

import struct

import pytest

import vmlab
from tests.machine.firmware.booting import After, boot, sectors
from vmlab.errors import AssemblyError, ImageError, OptionError
from vmlab.machine.disk import Disk
from vmlab.machine.image import from_disk, load
from vmlab.machine.recording import Recording
from vmlab.vmm.techniques import build

SIGNED = bytes.fromhex("fa f4").ljust(510, b"\0") + b"\x55\xaa"
HELLO = r"""
    mov si, text
next:
    lodsb
    test al, al
    jz done
    mov ah, 0x0e
    int 0x10
    jmp next
text: db "Hello", 13, 10, 0
done:
"""


def fresh(**options):
    return build(vmlab.boot_sector("hlt"), **options)


def test_the_state_that_is_handed_over():
    system = fresh()
    cpu = system.machine.cpu
    assert (cpu.ip, cpu.segments[1].selector, cpu.segments[1].base) == (0x7C00, 0, 0)
    assert not cpu.cr0 & 0x8000_0001
    assert cpu.fetch_bits == 16
    assert [each.key[:5] for each in cpu.segments if each is not cpu.segments[1]] == [(0, 0, 0xFFFF, 0x93, False)] * 5
    assert cpu.registers[2] == 0x80, "DL"
    assert cpu.registers[4] == 0x7C00
    assert cpu.flags == 0x202
    assert (cpu.idtr_base, cpu.idtr_limit) == (0, 0x3FF)
    assert system.machine.platform.keyboard.output_port & 2, "A20"


def test_interrupt_vectors_lead_into_the_rom():
    after = After(fresh())
    vectors = [after.word(4 * n, 4) for n in range(256)]
    for vector in (0, 6, 8, 9, 0x0D, *range(0x10, 0x1B), 0x70, 0x76):
        assert vectors[vector] >> 16 == 0xF000
        assert vectors[vector] & 0xFFFF >= 0xE000
    assert vectors[0x60] == 0xF000_FF53
    assert after.memory(0xFFF53, 1) == b"\xcf", "IRET"
    assert after.memory(0xFFFF0, 1) == b"\xea", "a far jump, where the processor starts"
    assert after.memory(0xFFFFE, 1) == b"\xfc", "an AT"
    parameters = (vectors[0x1E] >> 16 << 4) + (vectors[0x1E] & 0xFFFF)
    assert after.memory(parameters + 3, 2) == bytes([2, 18]), "bytes a sector, sectors a track"


def test_the_data_area():
    after = After(fresh())
    words = {0x400: 0x3F8, 0x402: 0, 0x40E: 0x9FC0, 0x410: 0x0220, 0x413: 639, 0x41A: 0x1E, 0x41C: 0x1E, 0x44A: 80,
             0x463: 0x3D4, 0x480: 0x1E, 0x482: 0x3E}  # fmt: skip
    assert {place: after.word(place) for place in words} == words
    assert after.memory(0x449, 1) == b"\x03"
    assert after.memory(0x475, 1) == b"\x01", "fixed disks"
    assert after.word(0x46C, 4) == 0
    assert after.memory(0x484, 1) == b"\x18"


@pytest.mark.parametrize("under", ["native", "trap-and-emulate", "binary-translation"])
@pytest.mark.parametrize("engine", ["interpreter", "translator"])
def test_a_boot_sector_says_hello(under, engine):
    after = boot(HELLO, under=under, engine=engine)
    assert after.screen[0] == "Hello"


def test_a_disk_image_is_recognised(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(SIGNED + bytes(1024))
    image = load(path)
    assert (image.name, image.entry, image.bits, image.end) == ("disk.img", 0x7C00, 16, 0x7E00)
    assert image.disk.sectors == 3
    assert image.disk.path == path
    assert "boot disk" in image.describe()
    assert load(path, origin=0x10000).disk is None, "an origin asks for a flat binary"
    loader = struct.pack("<8I", 0x1BADB002, 0x1_0000, -0x1BAE_B002 & 0xFFFF_FFFF, 0x10_0200, 0x10_0000, 0, 0, 0x10_0000)
    path.write_bytes(SIGNED + loader.ljust(1024, b"\0"))
    assert load(path).disk is not None, "a boot loader, which another may load by multiboot"
    path.write_bytes(SIGNED + bytes(1023))
    assert load(path).disk is None, "no whole sectors: a flat binary, by its suffix"
    path.write_bytes(bytes(512))
    assert load(path).disk is None


def test_images_of_different_disks_differ():
    plain, same, other = (from_disk(Disk(SIGNED + bytes([n]) * 512)) for n in (0, 0, 1))
    assert plain.digest == same.digest != other.digest


def test_what_is_no_boot_disk():
    with pytest.raises(ImageError, match="ends in 00 00, a boot sector in 55 aa"):
        from_disk(Disk(bytes(512)))
    with pytest.raises(OptionError, match="from a Disk"):
        from_disk(b"")
    with pytest.raises(OptionError, match="boots from the first: give 1 more"):
        vmlab.run(from_disk(Disk(SIGNED)), disks=[Disk(SIGNED)] * 2)


def test_source_becomes_a_boot_sector():
    source = "bits 16\norg 0x7c00\nstart: hlt\ntimes 510-($-$$) db 0\ndw 0xaa55\n"
    image = vmlab.assemble(source)
    assert image.disk.contents() == b"\xf4".ljust(510, b"\0") + b"\x55\xaa"
    assert image.symbols["start"] == 0x7C00
    assert vmlab.assemble(source.replace("org 0x7c00", "")).symbols["start"] == 0, "as NASM"
    assert vmlab.assemble(source.replace("0x7c00", "0x8000")).disk is None
    long = vmlab.boot_sector(source + "db 1\n")
    assert long.disk.contents()[512:] == b"\1".ljust(512, b"\0")
    assert vmlab.boot_sector("times 510 db 0x90").disk.sectors == 1
    for length in (511, 512, 513, 2000):
        with pytest.raises(ImageError, match="510 bytes of code"):
            vmlab.boot_sector(f"times {length} db 0x90")
    with pytest.raises(AssemblyError):
        vmlab.boot_sector("no such thing")
    with pytest.raises(OptionError, match="text"):
        vmlab.boot_sector(None)


def test_exceptions_without_a_handler_are_told():
    after = boot("xor ax, ax\n div ax")
    assert after.screen[1] == "#DE at 0000:7C02, and no handler for it."
    assert "#UD at 0000:7C00" in boot("ud2").screen[1]
    assert "#GP at 0000:7C03" in boot("mov bx, 0xffff\n mov ax, [bx]").screen[1]


def test_the_end():
    assert boot("int 0x18").screen[0] == "No bootable disk."
    boot("int 0x19", outcome="reset")
    boot("jmp 0xffff:0", outcome="reset")
    boot("mov al, 0xfe\n out 0x64, al\n", outcome="reset")
    boot("mov al, 0xfe\n out 0x64, al\n", outcome="reset", under="trap-and-emulate")


def test_sleeping_for_ever_comes_to_an_end():
    after = boot("again: hlt\n jmp again", outcome="limit")
    assert after.guest.instructions < 10_000
    assert after.guest.platform.idle > 20 * 2_000_000
    assert boot("again: hlt\n jmp again", outcome="limit", under="trap-and-emulate").guest.instructions < 10_000


PROTECTED = """
    cli
    lgdt [table]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp 8:inside
    align 8
gdt: dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
table: dw 23
    dd gdt
bits 32
inside:
    mov ax, 16
    mov ds, ax
    mov ss, ax
    mov esp, 0x7000
    mov dword [0x123000], 0xcafe
    mov ebx, [0x123000]
"""


def test_on_to_protected_mode():
    assert boot(PROTECTED).ebx == 0xCAFE


def test_and_back():
    source = PROTECTED.replace("0x00cf93000000ffff", "0x00cf93000000ffff, 0x00009b000000ffff, 0x000093000000ffff")
    source = (
        source.replace("dw 23", "dw 39")
        + """
    jmp 24:narrow
bits 16
narrow:
    mov ax, 32
    mov ds, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    jmp 0:real
real:
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7c00
    sti
    mov ax, 0x0e42
    int 0x10
    """
    )
    assert boot(source).screen[0] == "B"


TWO_STAGES = """
    mov ax, 0x0203
    mov cx, 2
    xor dh, dh
    mov bx, 0x8000
    int 0x13
    jc failed
    jmp 0:0x8000
failed:
    mov al, '!'
    out 0xf4, al
"""


@pytest.mark.parametrize("under", ["native", "trap-and-emulate", "binary-translation"])
def test_a_loader_in_two_stages(under):
    second = vmlab.boot_sector("org 0x8000\n mov al, 'S'\n mov dx, 0x3f8\n out dx, al\n mov al, 2\n out 0xf4, al\n")
    after = boot(TWO_STAGES, disk=second.segments[0].data[:510] + bytes(2) + sectors(2), outcome="exit", under=under)
    assert (after.guest.console, after.guest.status) == ("S", 5)
    assert after.word(0x8200, 4) == 1


def test_other_disks_follow(tmp_path):
    path = tmp_path / "fs.img"
    path.write_bytes(sectors(4, start=100))
    after = boot("mov ax, 0x0201\n mov cx, 1\n mov dx, 0x81\n mov bx, 0x9000\n int 0x13", disks=[path])
    assert after.word(0x9000, 4) == 100
    assert after.memory(0x475, 1) == b"\x02"


def test_techniques_and_engines_agree():
    source = HELLO + "mov ah, 0x88\n int 0x15\n mov [0x9000], ax\n"
    image = vmlab.boot_sector(source + "cli\n hlt")
    comparison = vmlab.compare(image, keys="abc", max_instructions=100_000)
    assert comparison.faithful, comparison
    digests = set()
    for engine in ("interpreter", "translator"):
        system = build(image, engine=engine, max_instructions=100_000)
        system.run()
        digests.add((system.machine.memory.digest(), system.steps, str(system.save())))
    assert len(digests) == 1


def test_calls_are_recorded_and_rewound():
    recording = Recording(build(vmlab.boot_sector(HELLO + "cli\n hlt")))
    calls = [event for event in recording.events if event.kind == "firmware"]
    assert [(event.vector, event.ax) for event in calls] == [(0x10, 0x0E00 | letter) for letter in b"Hello\r\n"]
    recording.seek(recording.length)
    assert recording.system.guests[0].screen.startswith("Hello\n")
    third = calls[2]
    recording.seek(third.step)
    assert recording.system.guests[0].screen.startswith("Hel\n")
    assert recording.previous("firmware").step == calls[1].step
    assert recording.system.guests[0].screen.startswith("He\n")
    assert recording.system.machine.cpu.linear_ip == 0xFE002, "behind the OUT"


def test_only_the_rom_can_call():
    after = boot("mov ax, 0x0e41\n out 0xb2, al\n in al, 0xb2")
    assert after.al == 0x41
    assert not after.screen[0]
