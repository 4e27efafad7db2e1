"""INT 10h: text on the screen.

    00 set mode         05 choose page       09 write character and attribute    12 BL=10 EGA information
    01 cursor shape     06 scroll up         0A write character                  13 write string
    02 set cursor       07 scroll down       0E teletype                         1A display combination
    03 get cursor       08 read cell         0F get mode

Simplified: the adapter has text mode alone, 80 by 25: other modes are not set, and what belongs to graphics (pixels,
palette, fonts) does nothing. Eight pages of 4 KiB.

Read more: IBM PS/2 and PC BIOS Interface Technical Reference, INT 10h; Ralf Brown's Interrupt List.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import ES
from vmlab.machine.devices.cga import COLUMNS, ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.firmware.call import Call

__all__ = ["set_text_mode", "teletype", "video"]

# BIOS data area
MODE, COLUMN_COUNT, PAGE_BYTES, PAGE_START, CURSORS, SHAPE, PAGE, CRTC = 0x49, 0x4A, 0x4C, 0x4E, 0x50, 0x60, 0x62, 0x63
MODE_REGISTER, PALETTE, LAST_ROW, POINTS, VIDEO_CONTROL, SWITCHES, COMBINATION = (
    0x65,
    0x66,
    0x84,
    0x85,
    0x87,
    0x88,
    0x8A,
)

PAGES, PAGE_SIZE, ROW = 8, 0x1000, 2 * COLUMNS
TEXT_MODES = (0, 1, 2, 3, 7)
TEXT_MODE = 3
GREY = 0x07
BELL, BACKSPACE, LINE_FEED, RETURN = 7, 8, 10, 13
CURSOR_LINES, CURSOR_HIGH, CURSOR_LOW, START_HIGH, START_LOW = 0x0A, 0x0E, 0x0F, 0x0C, 0x0D
USUAL_SHAPE = 0x0607
VGA_COLOUR = 0x08


def set_text_mode(call: Call, *, clear: bool = True) -> None:
    """Set mode 3: the first page, blank, the cursor at its top."""
    fields = (
        (MODE, TEXT_MODE, 1), (COLUMN_COUNT, COLUMNS, 2), (PAGE_BYTES, PAGE_SIZE, 2), (PAGE_START, 0, 2), (PAGE, 0, 1),
        (CRTC, 0x3D4, 2), (MODE_REGISTER, 0x29, 1), (PALETTE, 0x30, 1), (LAST_ROW, ROWS - 1, 1), (POINTS, 16, 2),
        (VIDEO_CONTROL, 0x60 if clear else 0xE0, 1), (SWITCHES, 0xF9, 1), (COMBINATION, VGA_COLOUR, 1),
    )  # fmt: skip
    for offset, value, size in fields:
        call.put(offset, value, size)
    for page in range(PAGES):
        call.put(CURSORS + 2 * page, 0, 2)
    if clear:
        data = call.platform.cga.data
        data[:] = bytes([0x20, GREY]) * (len(data) // 2)
    _shape(call, USUAL_SHAPE)
    _register(call, START_HIGH, 0)
    _register(call, START_LOW, 0)
    _show_cursor(call)


def _register(call: Call, index: int, value: int) -> None:
    call.port_out(0x3D4, index)
    call.port_out(0x3D5, value)


def _shape(call: Call, shape: int) -> None:
    call.put(SHAPE, shape, 2)
    _register(call, CURSOR_LINES, shape >> 8)
    _register(call, CURSOR_LINES + 1, shape)


def _cursor(call: Call, page: int) -> tuple[int, int]:
    position = call.get(CURSORS + 2 * (page % PAGES), 2)
    return position >> 8, position & 0xFF


def _move(call: Call, page: int, row: int, column: int) -> None:
    call.put(CURSORS + 2 * (page % PAGES), row << 8 | column & 0xFF, 2)
    if page % PAGES == call.get(PAGE):
        _show_cursor(call)


def _show_cursor(call: Call) -> None:
    """Set the CRT controller's cursor to where that of the shown page is."""
    page = call.get(PAGE)
    row, column = _cursor(call, page)
    place = page * PAGE_SIZE // 2 + row * COLUMNS + column
    _register(call, CURSOR_HIGH, place >> 8 & 0x3F)
    _register(call, CURSOR_LOW, place & 0xFF)


def _place(page: int, row: int, column: int) -> int:
    """Return where in the adapter's memory a cell is; a position outside the screen wraps around."""
    return (page % PAGES * PAGE_SIZE + row * ROW + 2 * column) % (PAGES * PAGE_SIZE)


def _scroll(call: Call, page: int, lines: int, attribute: int, top: int, left: int, bottom: int, right: int) -> None:
    """Move a window up by `lines` (down if negative), filling with blanks; 0 blanks it."""
    bottom, right = min(bottom, ROWS - 1), min(right, COLUMNS - 1)
    if top > bottom or left > right:
        return
    data, width = call.platform.cga.data, 2 * (right - left + 1)
    height = bottom - top + 1
    starts = [_place(page, row, left) for row in range(top, bottom + 1)]
    old = [bytes(data[start : start + width]) for start in starts]
    blank = bytes([0x20, attribute]) * (width // 2)
    for row, start in enumerate(starts):
        source = row + lines
        data[start : start + width] = old[source] if lines and 0 <= source < height else blank


def teletype(call: Call, character: int, page: int, attribute: int | None = None) -> None:
    """Write a character at the cursor and move on, with what CR, LF, backspace and bell mean."""
    row, column = _cursor(call, page)
    data = call.platform.cga.data
    if character == BELL:
        return
    if character == BACKSPACE:
        column = max(column - 1, 0)
    elif character == RETURN:
        column = 0
    elif character == LINE_FEED:
        row += 1
    else:
        place = _place(page, row, column)
        data[place] = character
        if attribute is not None:
            data[place + 1] = attribute
        column += 1
        if column >= COLUMNS:
            row, column = row + 1, 0
    if row >= ROWS:
        row = ROWS - 1
        _scroll(call, page, 1, data[_place(page, row, column) + 1], 0, 0, ROWS - 1, COLUMNS - 1)
    _move(call, page, row, column)


def _set_mode(call: Call) -> None:
    if call.al & 0x7F in TEXT_MODES:
        set_text_mode(call, clear=not call.al & 0x80)


def _set_shape(call: Call) -> None:
    _shape(call, call.cx)


def _set_cursor(call: Call) -> None:
    _move(call, call.bh, call.dh, call.dl)


def _get_cursor(call: Call) -> None:
    row, column = _cursor(call, call.bh)
    call.dx, call.cx = row << 8 | column, call.get(SHAPE, 2)


def _choose_page(call: Call) -> None:
    page = call.al % PAGES
    call.put(PAGE, page)
    call.put(PAGE_START, page * PAGE_SIZE, 2)
    start = page * PAGE_SIZE // 2
    _register(call, START_HIGH, start >> 8)
    _register(call, START_LOW, start & 0xFF)
    _show_cursor(call)


def _scroll_window(call: Call) -> None:
    lines = call.al if call.ah == 6 else -call.al
    _scroll(call, call.get(PAGE), lines, call.bh, call.ch, call.cl, call.dh, call.dl)


def _read_cell(call: Call) -> None:
    place = _place(call.bh, *_cursor(call, call.bh))
    data = call.platform.cga.data
    call.ax = data[place + 1] << 8 | data[place]


def _write_cells(call: Call) -> None:
    row, column = _cursor(call, call.bh)
    data = call.platform.cga.data
    for count in range(min(call.cx, PAGE_SIZE // 2)):
        place = _place(call.bh, row, column + count)
        data[place] = call.al
        if call.ah == 9:
            data[place + 1] = call.bl


def _teletype(call: Call) -> None:
    teletype(call, call.al, call.get(PAGE))


def _get_mode(call: Call) -> None:
    call.al, call.ah, call.bh = call.get(MODE), call.get(COLUMN_COUNT), call.get(PAGE)


def _alternate(call: Call) -> None:
    if call.bl == 0x10:  # colour, 256 KiB, the switches of an enhanced colour display
        call.bx, call.cx = 3, 0x0009


def _write_string(call: Call) -> None:
    """AL: 1 moves the cursor, 2 attributes follow the characters."""
    moves, coloured = call.al & 1, call.al & 2
    before = _cursor(call, call.bh)
    text = call.load(call.address(ES, call.bp), call.cx * (2 if coloured else 1))
    _move(call, call.bh, call.dh, call.dl)
    for index in range(call.cx):
        if coloured:
            teletype(call, text[2 * index], call.bh, text[2 * index + 1])
        else:
            teletype(call, text[index], call.bh, call.bl)
    if not moves:
        _move(call, call.bh, *before)


def _combination(call: Call) -> None:
    if call.al == 0:
        call.bx = VGA_COLOUR
    call.al = 0x1A


_FUNCTIONS: dict[int, Callable[[Call], None]] = {
    0x00: _set_mode, 0x01: _set_shape, 0x02: _set_cursor, 0x03: _get_cursor, 0x05: _choose_page, 0x06: _scroll_window,
    0x07: _scroll_window, 0x08: _read_cell, 0x09: _write_cells, 0x0A: _write_cells, 0x0E: _teletype, 0x0F: _get_mode,
    0x12: _alternate, 0x13: _write_string, 0x1A: _combination,
}  # fmt: skip


def video(call: Call) -> None:
    """INT 10h."""
    function = _FUNCTIONS.get(call.ah)
    if function is not None:
        function(call)
