"""Keys as the bytes that a terminal sends for them.

Keys are named as browsers name them (W3C, "UI Events KeyboardEvent key Values"): a character, or `Enter`, `ArrowUp` and
so on. Enter sends CR, Backspace DEL, Ctrl and a letter its control character, Alt an escape before; a modifier of a
cursor or function key is its second parameter (1 + shift + 2 alt + 4 ctrl).

Read more: XTerm Control Sequences (invisible-island.net), "PC-Style Function Keys".
"""

from __future__ import annotations

from vmlab.errors import OptionError

__all__ = ["KEYS", "encode_key", "encode_paste"]

PLAIN = {"Enter": "\r", "Backspace": "\x7f", "Tab": "\t", "Escape": "\x1b"}
CURSOR = {"ArrowUp": "A", "ArrowDown": "B", "ArrowRight": "C", "ArrowLeft": "D", "End": "F", "Home": "H"}
FIRST_FUNCTION = {"F1": "P", "F2": "Q", "F3": "R", "F4": "S"}
NUMBERED = {
    "Insert": 2, "Delete": 3, "PageUp": 5, "PageDown": 6, "F5": 15, "F6": 17, "F7": 18, "F8": 19, "F9": 20, "F10": 21,
    "F11": 23, "F12": 24,
}  # fmt: skip
KEYS = frozenset({*PLAIN, *CURSOR, *FIRST_FUNCTION, *NUMBERED})
"""Names of keys that are no characters."""

# Ctrl with a character that is no letter.
_CONTROL = {" ": 0, "@": 0, "2": 0, "[": 27, "3": 27, "\\": 28, "4": 28, "]": 29, "5": 29, "^": 30, "6": 30, "_": 31, "7": 31, "/": 31, "?": 127, "8": 127}  # fmt: skip


def encode_key(
    key: str, *, ctrl: bool = False, alt: bool = False, shift: bool = False, application: bool = False
) -> bytes:
    r"""Return what a terminal sends when a key is pressed.

    Parameters
    ----------
    key : str
        A character, or one of `KEYS`.
    ctrl, alt, shift : bool
        Modifiers; a character has its shift in it.
    application : bool
        Whether the program on the guest has set cursor keys to application mode.

    Raises
    ------
    OptionError
        There is no such key.

    Examples
    --------
    >>> encode_key("c", ctrl=True), encode_key("ArrowUp"), encode_key("Enter")
    (b'\x03', b'\x1b[A', b'\r')
    """
    if not isinstance(key, str):
        raise OptionError(f"a key is named by a str, as 'a' or 'Enter', not by {key!r}")
    modifiers = 1 + shift + 2 * alt + 4 * ctrl
    if key in CURSOR or key in FIRST_FUNCTION:
        final = CURSOR.get(key) or FIRST_FUNCTION[key]
        if modifiers > 1:
            return f"\x1b[1;{modifiers}{final}".encode()
        return f"\x1b{'O' if application or key in FIRST_FUNCTION else '['}{final}".encode()
    if key in NUMBERED:
        return f"\x1b[{NUMBERED[key]}{f';{modifiers}' if modifiers > 1 else ''}~".encode()
    if key == "Tab" and shift:
        return b"\x1b[Z"
    if key in PLAIN:
        text = "\b" if key == "Backspace" and ctrl else PLAIN[key]
    elif len(key) != 1:
        raise OptionError(f"no key is named {key!r}: give a character, or one of {', '.join(sorted(KEYS))}")
    elif ctrl and key.isascii() and key.isalpha():
        text = chr(ord(key.upper()) - 0x40)
    else:
        text = chr(_CONTROL[key]) if ctrl and key in _CONTROL else key
    return (f"\x1b{text}" if alt else text).encode()


def encode_paste(text: str, *, bracketed: bool = False) -> bytes:
    """Return what a terminal sends for a pasted text: its lines end in CR, and a program may want brackets around it."""
    data = text.replace("\r\n", "\r").replace("\n", "\r").encode()
    return b"\x1b[200~" + data.replace(b"\x1b", b"") + b"\x1b[201~" if bracketed else data
