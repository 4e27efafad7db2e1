"""INT 9 and INT 16h: from scan codes to keys in the BIOS data area, and from there to the caller.

INT 9 keeps the shift keys' state and puts a word for each key into a ring of sixteen: ASCII code, and above it the scan
code. INT 16h takes them out; a caller that waits for a key sleeps in the ROM until the next interrupt.

    16h:  00 10 read     01 11 look     02 12 shift keys     03 typematic rate     05 put a key in

Simplified: a US keyboard, no typematic repeat, no keys by Alt and number pad. Where the ring is full, the keyboard is
switched off until there is room again, so that no typed key is lost.

Read more: IBM PS/2 and PC BIOS Interface Technical Reference, INT 09h, INT 16h, keyboard codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.devices.keyboard_codes import CHARACTERS

if TYPE_CHECKING:
    from vmlab.machine.firmware.call import Call

__all__ = ["END", "ENHANCED", "HEAD", "RING_END", "RING_START", "START", "TAIL", "key", "keyboard"]

# BIOS data area: flags, ring, and what the last bytes were
FLAGS, MORE_FLAGS, HEAD, TAIL, START, END, BREAKS, STATES = 0x17, 0x18, 0x1A, 0x1C, 0x80, 0x82, 0x71, 0x96
RING_START, RING_END = 0x1E, 0x3E

# 40:17   [ INSERT 7 | CAPS 6 | NUM 5 | SCROLL 4 | ALT 3 | CTRL 2 | LEFT_SHIFT 1 | RIGHT_SHIFT 0 ]   40:18 pressed keys
RIGHT_SHIFT, LEFT_SHIFT, CTRL, ALT, SCROLL, NUM, CAPS, INSERT = (1 << bit for bit in range(8))
SHIFT = LEFT_SHIFT | RIGHT_SHIFT
LEFT_CTRL, LEFT_ALT = 0x01, 0x02  # in 40:18
# 40:96   [ 4 ENHANCED | 3 RIGHT_ALT | 2 RIGHT_CTRL | 1 E0 came | 0 E1 came ]
E1_CAME, E0_CAME, RIGHT_CTRL, RIGHT_ALT, ENHANCED = 0x01, 0x02, 0x04, 0x08, 0x10

SHIFTS = {0x2A: LEFT_SHIFT, 0x36: RIGHT_SHIFT}
TOGGLES = {0x3A: CAPS, 0x45: NUM, 0x46: SCROLL}
CTRL_KEY, ALT_KEY, DELETE_KEY, INSERT_KEY, SCROLL_KEY, ENTER_KEY, SLASH_KEY = 0x1D, 0x38, 0x53, 0x52, 0x46, 0x1C, 0x35
RELEASED = 0x80
EXTENDED = 0xE0
MOST_KEYS = 128
KEYBOARD_OFF, KEYBOARD_ON = 0xAD, 0xAE  # commands of the controller

# Scan code to the words without a modifier, with Shift, with Ctrl and with Alt; None where there is no key then
Words = tuple[int | None, int | None, int | None, int | None]
_SPECIAL: dict[int, Words] = {
    0x01: (0x011B, 0x011B, 0x011B, 0x0100),  # escape
    0x0E: (0x0E08, 0x0E08, 0x0E7F, 0x0E00),  # backspace
    0x0F: (0x0F09, 0x0F00, 0x9400, 0xA500),  # tab
    ENTER_KEY: (0x1C0D, 0x1C0D, 0x1C0A, 0x1C00),
    0x39: (0x3920, 0x3920, 0x3920, 0x3920),  # space
    0x37: (0x372A, 0x372A, 0x9600, 0x3700),  # * of the number pad
    0x4A: (0x4A2D, 0x4A2D, 0x8E00, 0x4A00),  # -
    0x4E: (0x4E2B, 0x4E2B, 0x9000, 0x4E00),  # +
    0x57: (0x8500, 0x8700, 0x8900, 0x8B00),  # F11
    0x58: (0x8600, 0x8800, 0x8A00, 0x8C00),
    **{0x3B + n: (0x3B00 + n * 0x100, 0x5400 + n * 0x100, 0x5E00 + n * 0x100, 0x6800 + n * 0x100) for n in range(10)},
}
_PAD = dict(zip(range(0x47, 0x54), "789-456+1230.", strict=True))
_PAD_CTRL = dict(zip(range(0x47, 0x54), b"\x77\x8d\x84\x8e\x73\x8f\x74\x90\x75\x91\x76\x92\x93", strict=True))
_CURSOR_ALT = dict(zip(range(0x47, 0x54), b"\x97\x98\x99\x4a\x9b\x00\x9d\x4e\x9f\xa0\xa1\xa2\xa3", strict=True))
_CTRL_DIGITS = {"2": 0x00, "6": 0x1E, "-": 0x1F}
_ALT_DIGITS = {character: 0x78 + place for place, character in enumerate("1234567890-=")}


def _character(code: int, flags: int) -> int | None:
    """Return the word of a key with a character on it."""
    plain, shifted = CHARACTERS[code]
    if flags & ALT:
        return _ALT_DIGITS.get(plain, code) << 8
    if flags & CTRL:
        if plain.isalpha() or plain in "[\\]":
            return code << 8 | ord(plain) & 0x1F
        return code << 8 | _CTRL_DIGITS[plain] if plain in _CTRL_DIGITS else None
    upper = bool(flags & SHIFT) ^ (plain.isalpha() and bool(flags & CAPS))
    return code << 8 | ord(shifted if upper else plain)


def _pad(code: int, flags: int, *, extended: bool) -> int | None:
    """Return the word of a key of the number pad, or of its grey twin."""
    mark = EXTENDED if extended else 0
    if flags & ALT:
        return _CURSOR_ALT[code] << 8 if extended else None
    if flags & CTRL:
        return _PAD_CTRL[code] << 8 | mark
    if not extended and bool(flags & NUM) ^ bool(flags & SHIFT):
        return code << 8 | ord(_PAD[code])
    return code << 8 | mark


def _word(code: int, flags: int, *, extended: bool) -> int | None:
    """Return what a key that went down puts into the ring."""
    if code in _SPECIAL or (extended and code == SLASH_KEY):
        which = 3 if flags & ALT else 2 if flags & CTRL else 1 if flags & SHIFT else 0
        if code == SLASH_KEY:
            return (0xE02F, 0xE02F, 0x9500, 0xA400)[which]
        word = _SPECIAL[code][which]
        return 0xE000 | (word or 0) & 0xFF if extended and code == ENTER_KEY and which < 3 else word
    if code in _PAD:
        return _pad(code, flags, extended=extended)
    return _character(code, flags) if code in CHARACTERS else None


# -- the ring ----------------------------------------------------------------------------------------------------------


def _after(call: Call, place: int) -> int:
    start, end = call.get(START, 2), call.get(END, 2)
    return start if place + 2 >= end else place + 2


def _full(call: Call) -> bool:
    return _after(call, call.get(TAIL, 2)) == call.get(HEAD, 2)


def _put(call: Call, word: int) -> bool:
    tail = call.get(TAIL, 2)
    if _full(call):
        return False
    call.put(tail, word, 2)
    call.put(TAIL, _after(call, tail), 2)
    return True


def _first(call: Call) -> int | None:
    head = call.get(HEAD, 2)
    return None if head == call.get(TAIL, 2) else call.get(head, 2)


def _take(call: Call) -> None:
    full = _full(call)
    call.put(HEAD, _after(call, call.get(HEAD, 2)), 2)
    if full:
        call.port_out(0x64, KEYBOARD_ON)


# -- INT 9 -------------------------------------------------------------------------------------------------------------


def _modifier(call: Call, code: int, *, down: bool, extended: bool) -> bool:
    """Follow the shift keys; True where this was one."""
    flags, more, states = call.get(FLAGS), call.get(MORE_FLAGS), call.get(STATES)
    if code in SHIFTS:
        if not extended:  # with E0 it only accompanies a cursor key
            flags = flags | SHIFTS[code] if down else flags & ~SHIFTS[code]
    elif code in (CTRL_KEY, ALT_KEY):
        left, right, both = (LEFT_CTRL, RIGHT_CTRL, CTRL) if code == CTRL_KEY else (LEFT_ALT, RIGHT_ALT, ALT)
        if extended:
            states = states | right if down else states & ~right
        else:
            more = more | left if down else more & ~left
        flags = flags | both if more & left or states & right else flags & ~both
    elif code in TOGGLES and not extended:
        bit = TOGGLES[code]
        if down and not more & bit:
            flags ^= bit
        more = more | bit if down else more & ~bit
    else:
        return False
    call.put(FLAGS, flags)
    call.put(MORE_FLAGS, more)
    call.put(STATES, states)
    return True


def key(call: Call) -> None:
    """INT 9: a byte from the keyboard, in AL."""
    byte, states = call.al, call.get(STATES)
    if byte in (EXTENDED, EXTENDED | 1):
        call.put(STATES, states | (E0_CAME if byte == EXTENDED else E1_CAME))
        return
    extended, paused = bool(states & E0_CAME), states & E1_CAME
    code, down = byte & 0x7F, not byte & RELEASED
    if paused and code == CTRL_KEY:  # E1 1D 45: the pause key
        return
    call.put(STATES, states & ~(E0_CAME | E1_CAME))
    if paused:
        return
    flags = call.get(FLAGS)
    if extended and code == SCROLL_KEY:
        if down and flags & CTRL:
            call.put(BREAKS, call.get(BREAKS) | 0x80)
            call.put(HEAD, call.get(START, 2), 2)
            call.put(TAIL, call.get(START, 2), 2)
            _put(call, 0)
            call.go_on_at("key_break")
        return
    if _modifier(call, code, down=down, extended=extended) or not down:
        return
    if code == DELETE_KEY and flags & CTRL and flags & ALT:
        call.platform.reset()
        return
    if code == INSERT_KEY and not flags & (CTRL | ALT):
        call.put(FLAGS, flags ^ INSERT)
    word = _word(code, flags, extended=extended)
    if word is not None:
        _put(call, word)
        if _full(call):
            call.port_out(0x64, KEYBOARD_OFF)


# -- INT 16h -----------------------------------------------------------------------------------------------------------


def _old(word: int) -> int | None:
    """Return a key as the first PC's keyboard has it; None for one that it had not."""
    code, character = word >> 8, word & 0xFF
    if code == EXTENDED:
        return (ENTER_KEY if character in (0x0D, 0x0A) else SLASH_KEY) << 8 | character
    if code >= 0x85:
        return None
    return code << 8 if character == EXTENDED and code else word


def _next(call: Call, *, enhanced: bool) -> int | None:
    """Return the first key, throwing away those that this caller cannot know."""
    for _ in range(MOST_KEYS):  # a guest may have written anything into the ring's ends
        word = _first(call)
        if word is None:
            break
        found = word if enhanced else _old(word)
        if found is not None:
            return found
        _take(call)
    return None


def keyboard(call: Call) -> None:
    """INT 16h."""
    function, enhanced = call.ah & ~0x10, bool(call.ah & 0x10)
    if call.ah in (0x00, 0x10):
        word = _next(call, enhanced=enhanced)
        if word is None:
            call.go_on_at("wait_16")
            return
        _take(call)
        call.ax = word
    elif call.ah in (0x01, 0x11):
        word = _next(call, enhanced=enhanced)
        call.zero(word is None)
        if word is not None:
            call.ax = word
    elif function == 0x02:
        call.al = call.get(FLAGS)
        if enhanced:
            more, states = call.get(MORE_FLAGS), call.get(STATES)
            call.ah = more & 0x73 | (states & (RIGHT_CTRL | RIGHT_ALT)) | (0x80 if more & 0x04 else 0)
    elif call.ah == 0x05:
        call.al = 0 if _put(call, call.cx) else 1
