"""INT 10h: what stands on the screen, where the cursor is, what scrolls."""

from __future__ import annotations

import pytest

from tests.machine.firmware.booting import boot


def at(row, column, page=0):
    return f"mov ah, 2\n mov bh, {page}\n mov dx, {row << 8 | column}\n int 0x10\n"


def say(text, page=0):
    return "".join(f"mov ax, {0x0E00 | ord(letter)}\n mov bx, {page << 8 | 7}\n int 0x10\n" for letter in text)


WHERE = "mov ah, 3\n mov bh, 0\n int 0x10\n"


def cells(after, row, column, count):
    start = 2 * (80 * row + column)
    return bytes(after.guest.platform.cga.data[start : start + 2 * count])


def test_teletype_and_its_control_characters():
    after = boot(say("ab\bC\r\nd\a") + WHERE)
    assert after.screen[:2] == ["aC", "d"]
    assert after.dx == 0x0101
    assert boot(at(3, 0) + say("\b") + WHERE).dx == 0x0300, "backspace stays in its line"


def test_teletype_wraps_and_scrolls():
    after = boot(at(24, 78) + say("xyz") + WHERE)
    assert after.screen[23][78:] == "xy"
    assert after.screen[24] == "z"
    assert after.dx == 0x1801
    after = boot(say("top") + at(24, 0) + say("end\n") + WHERE)
    assert (after.screen[0], after.screen[23], after.dx) == ("", "end", 0x1803)


def test_teletype_keeps_attributes():
    after = boot("mov ax, 0x0920\n mov bx, 0x1f\n mov cx, 80\n int 0x10\n" + say("a"))
    assert cells(after, 0, 0, 2) == b"a\x1f \x1f"


def test_the_cursor():
    after = boot(at(5, 7) + "mov ah, 1\n mov cx, 0x0b0c\n int 0x10\n" + WHERE)
    assert (after.dx, after.cx) == (0x0507, 0x0B0C)
    assert after.guest.platform.cga.cursor() == (5, 7)
    assert boot("mov ah, 1\n mov cx, 0x2000\n int 0x10\n").guest.platform.cga.cursor() is None
    assert boot("nop").guest.platform.cga.cursor() == (0, 0)


def test_writing_characters_and_attributes():
    after = boot(at(2, 3) + "mov ax, 0x092a\n mov bx, 0x4e\n mov cx, 3\n int 0x10\n" + WHERE)
    assert cells(after, 2, 3, 4) == b"*\x4e" * 3 + b" \x07"
    assert after.dx == 0x0203, "the cursor does not move"
    after = boot(at(2, 3) + "mov ax, 0x0a2a\n mov bx, 0x4e\n mov cx, 1\n int 0x10\n")
    assert cells(after, 2, 3, 1) == b"*\x07"


def test_reading_a_cell():
    after = boot("mov ax, 0x0951\n mov bx, 0x1e\n mov cx, 1\n int 0x10\n mov ah, 8\n mov bh, 0\n int 0x10")
    assert after.ax == 0x1E51


LINES = "".join(say(f"{n}\r\n") for n in range(4))


@pytest.mark.parametrize(
    ("ax", "cx", "dx", "expected"),
    [
        (0x0601, 0x0000, 0x184F, ["1", "2", "3", ""]),
        (0x0602, 0x0000, 0x024F, ["2", "", "", "3"]),
        (0x0701, 0x0000, 0x034F, ["", "0", "1", "2"]),
        (0x0600, 0x0000, 0x184F, ["", "", "", ""]),
        (0x0609, 0x0100, 0x024F, ["0", "", "", "3"]),
        (0x0601, 0x0001, 0x184F, ["0", "1", "2", "3"]),
        (0x0601, 0x0300, 0xFFFF, ["0", "1", "2", ""]),
        (0x0601, 0x0200, 0x014F, ["0", "1", "2", "3"]),
    ],
)
def test_scrolling_a_window(ax, cx, dx, expected):
    after = boot(LINES + f"mov ax, {ax}\n mov bh, 0x17\n mov cx, {cx}\n mov dx, {dx}\n int 0x10")
    assert after.screen[:4] == expected
    if not any(expected):
        assert cells(after, 24, 79, 1) == b" \x17"


def test_setting_the_mode_clears():
    after = boot(say("text") + "mov ax, 3\n int 0x10\n" + WHERE)
    assert (after.screen[0], after.dx) == ("", 0)
    assert boot(say("text") + "mov ax, 0x83\n int 0x10\n").screen[0] == "text", "bit 7 keeps the screen"
    assert boot(say("text") + "mov ax, 0x13\n int 0x10\n").screen[0] == "text", "there are no graphics"
    after = boot("mov ah, 0x0f\n int 0x10")
    assert (after.al, after.ah, after.bh) == (3, 80, 0)


@pytest.mark.parametrize(("al", "cursor"), [(0, 0x0000), (1, 0x0407)])
def test_a_string(al, cursor):
    source = f"mov ax, {0x1300 | al}\n mov bx, 0x2f\n mov cx, 5\n mov dx, 0x0402\n mov bp, text\n int 0x10\n"
    after = boot(source + WHERE + "jmp done\ntext: db 'hello'\ndone:")
    assert after.screen[4] == "  hello"
    assert cells(after, 4, 2, 1) == b"h\x2f"
    assert after.dx == cursor


def test_a_string_with_attributes():
    source = "mov ax, 0x1303\n mov bx, 0\n mov cx, 2\n mov dx, 0\n mov bp, text\n int 0x10\n jmp done\n"
    assert cells(boot(source + "text: db 'a', 1, 'b', 2\ndone:"), 0, 0, 2) == b"a\x01b\x02"


def test_pages():
    after = boot(at(1, 1, page=1) + say("no") + "mov ax, 0x0501\n int 0x10\n" + say("yes"))
    assert after.screen[:2] == ["", " yes"]
    assert after.guest.platform.cga.cursor() is None or after.memory(0x462, 1) == b"\1"
    assert boot(say("back") + "mov ax, 0x0501\n int 0x10\n mov ax, 0x0500\n int 0x10").screen[0] == "back"


def test_what_the_adapter_is():
    after = boot("mov ax, 0x1a00\n int 0x10")
    assert (after.al, after.bl) == (0x1A, 8)
    after = boot("mov ah, 0x12\n mov bx, 0xff10\n int 0x10")
    assert (after.bh, after.bl) == (0, 3)
    after = boot("mov ax, 0x4f00\n int 0x10")
    assert after.ax == 0x4F00, "no VESA"
