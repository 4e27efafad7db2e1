"""Keys and their scan codes: what a US keyboard sends, and what the keyboard controller makes of it.

A keyboard sends scan code set 2: a code when a key goes down, F0 and the code when it comes up, E0 before either for the
keys that were added to the AT's. The controller translates that to set 1, which PC software reads: a code, and the code
with bit 7 set.

Read more: IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101- and 102-Key)", scan code tables.
"""

from __future__ import annotations

__all__ = ["BREAK", "CHARACTERS", "EXTENDED", "KEYS", "TRANSLATION", "strokes"]

BREAK, EXTENDED = 0xF0, 0xE0

TRANSLATION = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59  65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b"
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d  69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f"
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61  6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76"
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f  52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54"
    "80 81 82 41 54"
) + bytes(range(0x85, 0x100))
"""The controller's table from set 2 to set 1; codes beyond the keys' stay as they are."""

# Rows of the keyboard: the characters without and with Shift, and the keys' codes in set 2.
_ROWS = (
    ("`1234567890-=", "~!@#$%^&*()_+", "0e 16 1e 26 25 2e 36 3d 3e 46 45 4e 55"),
    ("qwertyuiop[]\\", "QWERTYUIOP{}|", "15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5d"),
    ("asdfghjkl;'", 'ASDFGHJKL:"', "1c 1b 23 2b 34 33 3b 42 4b 4c 52"),
    ("zxcvbnm,./", "ZXCVBNM<>?", "1a 22 21 2a 32 31 3a 41 49 4a"),
    (" \t\n\b\x1b", "", "29 0d 5a 66 76"),
)

KEYS = {
    "shift": b"\x12", "right shift": b"\x59", "ctrl": b"\x14", "alt": b"\x11", "caps lock": b"\x58", "num lock": b"\x77",
    "scroll lock": b"\x7e", "enter": b"\x5a", "escape": b"\x76", "tab": b"\x0d", "backspace": b"\x66", "space": b"\x29",
    "up": b"\xe0\x75", "down": b"\xe0\x72", "left": b"\xe0\x6b", "right": b"\xe0\x74", "home": b"\xe0\x6c",
    "end": b"\xe0\x69", "page up": b"\xe0\x7d", "page down": b"\xe0\x7a", "insert": b"\xe0\x70", "delete": b"\xe0\x71",
    "right ctrl": b"\xe0\x14", "right alt": b"\xe0\x11",
    **{f"f{number}": bytes([code]) for number, code in enumerate(bytes.fromhex("05 06 04 0c 03 0b 83 0a 01 09 78 07"), 1)},
    **{
        character: bytes([code])
        for plain, _, codes in _ROWS
        for character, code in zip(plain, bytes.fromhex(codes), strict=True)
    },
}  # fmt: skip
"""Name of a key, or the character on it without Shift, to its set 2 code."""

_SHIFTED = {
    upper: bytes([code])
    for _, shifted, codes in _ROWS
    for upper, code in zip(shifted, bytes.fromhex(codes), strict=False)  # the last row has no characters with Shift
}
CHARACTERS = {
    TRANSLATION[code]: (lower, upper)
    for plain, shifted, codes in _ROWS
    for lower, upper, code in zip(plain, shifted, bytes.fromhex(codes), strict=False)
}
"""Set 1 code of a key with a character on it to that character without and with Shift."""

_CONTROL = {chr(ord(letter) - ord("a") + 1): letter for letter in "abcdefghijklmnopqrstuvwxyz"}


def press(code: bytes) -> bytes:
    """Return what the keyboard sends when a key goes down."""
    return code


def release(code: bytes) -> bytes:
    """Return what the keyboard sends when a key comes up."""
    return code[:-1] + bytes([BREAK, code[-1]])


def strokes(character: str) -> bytes | None:
    """Return what the keyboard sends when a character is typed, with Shift or Ctrl where it needs them.

    None for a character that is not on a US keyboard. A control character is Ctrl and its letter, but newline, tab,
    backspace and escape are keys of their own.
    """
    if character in KEYS and len(character) == 1:
        return press(KEYS[character]) + release(KEYS[character])
    for table, modifier in ((_SHIFTED, KEYS["shift"]), (_CONTROL, KEYS["ctrl"])):
        if character in table:
            found = table[character]
            code = KEYS[found] if isinstance(found, str) else found
            return press(modifier) + press(code) + release(code) + release(modifier)
    return None
