"""INT 9 and INT 16h: from keys to words, as IBM's table of keyboard codes says."""

from __future__ import annotations

import pytest

import vmlab
from tests.machine.firmware.booting import LIMIT, After, boot
from vmlab.machine.devices.keyboard_codes import KEYS
from vmlab.vmm.techniques import build

READ = "mov ah, 0x10\n int 0x16\n"


def press(*keys, function=0x10):
    """Press keys (`+shift` holds one down), and return the word that is read."""
    system = build(vmlab.boot_sector(f"mov ah, {function}\n int 0x16\n cli\n hlt"), max_instructions=LIMIT)
    keyboard = system.machine.platform.keyboard
    for key in keys:
        keyboard.press(key.removeprefix("+"))
        if not key.startswith("+"):
            keyboard.press(key, down=False)
    keyboard.press("f5")
    system.run()
    return After(system).ax


END, LAST = 0, (0x3F00, 0x5800, 0x6200, 0x6C00)  # F5 comes where a key gives nothing

CODES = [  # key: alone, with Shift, Ctrl, Alt
    ("a", 0x1E61, 0x1E41, 0x1E01, 0x1E00),
    ("z", 0x2C7A, 0x2C5A, 0x2C1A, 0x2C00),
    ("1", 0x0231, 0x0221, END, 0x7800),
    ("2", 0x0332, 0x0340, 0x0300, 0x7900),
    ("6", 0x0736, 0x075E, 0x071E, 0x7D00),
    ("-", 0x0C2D, 0x0C5F, 0x0C1F, 0x8200),
    ("=", 0x0D3D, 0x0D2B, END, 0x8300),
    ("[", 0x1A5B, 0x1A7B, 0x1A1B, 0x1A00),
    ("\\", 0x2B5C, 0x2B7C, 0x2B1C, 0x2B00),
    (";", 0x273B, 0x273A, END, 0x2700),
    ("/", 0x352F, 0x353F, END, 0x3500),
    ("space", 0x3920, 0x3920, 0x3920, 0x3920),
    ("enter", 0x1C0D, 0x1C0D, 0x1C0A, 0x1C00),
    ("escape", 0x011B, 0x011B, 0x011B, 0x0100),
    ("backspace", 0x0E08, 0x0E08, 0x0E7F, 0x0E00),
    ("tab", 0x0F09, 0x0F00, 0x9400, 0xA500),
    ("f1", 0x3B00, 0x5400, 0x5E00, 0x6800),
    ("f10", 0x4400, 0x5D00, 0x6700, 0x7100),
    ("f11", 0x8500, 0x8700, 0x8900, 0x8B00),
    ("f12", 0x8600, 0x8800, 0x8A00, 0x8C00),
    ("up", 0x48E0, 0x48E0, 0x8DE0, 0x9800),
    ("left", 0x4BE0, 0x4BE0, 0x73E0, 0x9B00),
    ("home", 0x47E0, 0x47E0, 0x77E0, 0x9700),
    ("delete", 0x53E0, 0x53E0, 0x93E0, 0xA300),
    ("page down", 0x51E0, 0x51E0, 0x76E0, 0xA100),
]


@pytest.mark.parametrize(("key", "alone", "shift", "control", "alternate"), CODES, ids=[row[0] for row in CODES])
def test_keyboard_codes(key, alone, shift, control, alternate):
    def then(modifier):
        word = press(f"+{modifier}", key)
        return END if word in LAST else word

    assert press(key) == alone
    assert (then("shift"), then("ctrl"), then("alt")) == (shift, control, alternate)


def test_the_other_shift_keys():
    assert press("+right shift", "a") == 0x1E41
    assert press("+right ctrl", "a") == 0x1E01
    assert press("+right alt", "a") == 0x1E00


def test_caps_lock_is_for_letters():
    assert press("caps lock", "a") == 0x1E41
    assert press("caps lock", "+shift", "a") == 0x1E61
    assert press("caps lock", "1") == 0x0231
    assert press("caps lock", "caps lock", "a") == 0x1E61


def test_the_old_functions_know_the_old_keys():
    assert press("up", function=0) == 0x4800
    assert press("f11", "b", function=0) == 0x3062, "F11 did not exist"
    assert press("up") == 0x48E0


def test_looking_takes_nothing():
    source = "sti\nwait: mov ah, 1\n int 0x16\n jz wait\n mov bx, ax\n mov ah, 0\n int 0x16\n"
    after = boot(source, keys="k")
    assert (after.bx, after.ax) == (0x256B, 0x256B)
    after = boot("mov ah, 1\n int 0x16")
    assert after.zero


def test_shift_flags():
    system = build(vmlab.boot_sector(READ + "mov ah, 2\n int 0x16\n mov bx, ax\n mov ah, 0x12\n int 0x16\n cli\n hlt"))
    for key in ("caps lock", "shift", "right ctrl", "alt", "a"):
        system.machine.platform.keyboard.press(key)
    system.run()
    after = After(system)
    assert after.bl == 0x40 | 0x02 | 0x04 | 0x08
    assert after.al == after.bl
    assert after.ah == 0x40 | 0x02 | 0x04, "Caps Lock, left Alt, right Ctrl are down"


def test_putting_a_key_in():
    after = boot("mov ah, 5\n mov cx, 0x1234\n int 0x16\n mov bl, al\n" + READ)
    assert (after.bl, after.ax) == (0, 0x1234)
    after = boot("mov di, 16\nmore: mov ah, 5\n mov cx, di\n int 0x16\n dec di\n jnz more\n")
    assert after.al == 1, "fifteen keys fill the buffer"


def test_no_typed_key_is_lost():
    text = "the quick brown fox jumps over the lazy dog"
    wait = "mov cx, 2000\nidle: sti\n hlt\n loop idle\n"  # the keys come meanwhile, and the buffer holds fifteen
    read = f"mov di, 0x9000\n mov cx, {len(text)}\nnext: mov ah, 0\n int 0x16\n stosb\n loop next\n"
    after = boot(wait.replace("2000", "60") + read, keys=text)
    assert after.memory(0x9000, len(text)) == text.encode()


def test_keys_come_at_their_times():
    source = f"{READ}\n mov bx, [0x46c]\n {READ}\n mov cx, [0x46c]\n"
    after = boot(source, keys=[(2_000_000, "a"), (9_000_000, "b")])
    assert (after.bx, after.cx) == (2_000_000 // 655_360, 9_000_000 // 655_360)


def test_control_break():
    hook = "mov word [4 * 0x1b], broken\n mov word [4 * 0x1b + 2], 0\nrest: sti\n hlt\n jmp rest\nbroken: cli\n hlt\n"
    system = build(vmlab.boot_sector(hook), max_instructions=LIMIT)
    keyboard = system.machine.platform.keyboard
    system.advance(10)
    KEYS["break"] = b"\xe0\x7e"
    try:
        keyboard.press("ctrl")
        keyboard.press("break")
    finally:
        del KEYS["break"]
    system.run()
    assert system.guests[0].outcome == "halt"
    assert After(system).memory(0x471, 1) == b"\x80"


def test_control_alt_delete():
    system = build(vmlab.boot_sector("rest: hlt\n jmp rest"), max_instructions=LIMIT)
    for key in ("ctrl", "alt", "delete"):
        system.machine.platform.keyboard.press(key)
    system.run()
    assert system.guests[0].outcome == "reset"


def test_a_program_may_intercept_scan_codes():
    hook = """
    cli
    mov ax, [4 * 0x15]
    mov [old], ax
    mov ax, [4 * 0x15 + 2]
    mov [old + 2], ax
    mov word [4 * 0x15], hook
    mov word [4 * 0x15 + 2], 0
    jmp go
hook: cmp ah, 0x4f
    jne pass
    cmp al, 0x1e        ; A becomes B
    jne pass
    mov al, 0x30
    stc
    retf 2
pass: jmp far [cs:old]
old: dd 0
go: sti
"""
    assert boot(hook + READ, keys="a").ax == 0x3062
