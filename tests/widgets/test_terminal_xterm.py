"""The terminal's screen is the one that xterm.js draws, which JupyterLab brings for its own terminals."""

from __future__ import annotations

import re
from pathlib import Path

import jupyterlab
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.lab_page import chromium
from vmlab.machine.terminal import Terminal
from vmlab.machine.terminal_style import BOLD, DIM, HIDDEN, INVERSE, ITALIC, STRUCK, UNDERLINE

pytestmark = pytest.mark.browser

COLUMNS, ROWS = 12, 5

# JupyterLab's bundle hands its modules to an array by push(); we take the one that holds xterm.js out of it.
LOAD = """(source) => {
    let modules = {};
    const self_ = new Proxy({}, { get: () => ({ push: ([, found]) => { modules = found; } }), set: () => true });
    new Function("self", source)(self_);
    const [module] = Object.values(modules).filter((each) => /convertEol/.test(each));
    const wanted = { exports: {} };
    module(wanted, wanted.exports, () => ({ browser: true, env: {} }));
    window.Xterm = wanted.exports.Terminal;
}"""

SHOW = """async ([data, columns, rows]) => {
    const terminal = new window.Xterm({ cols: columns, rows, convertEol: true, allowProposedApi: true });
    await new Promise((done, fail) => {
        terminal.write(new Uint8Array(data), done);
        setTimeout(fail, 5000, "xterm.js did not finish");
    });
    const buffer = terminal.buffer.active;
    const lines = [];
    for (let n = 0; n < rows; n += 1) {
        const line = buffer.getLine(buffer.baseY + n);
        const cells = [];
        for (let m = 0; m < columns; m += 1) {
            const cell = line.getCell(m);
            const flags = [cell.isBold(), cell.isDim(), cell.isItalic(), cell.isUnderline(), cell.isInverse(),
                           cell.isInvisible(), cell.isStrikethrough()].map(Boolean);
            const colour = (rgb, plain, value) => plain ? -1 : rgb ? value + 0x1000000 : value;
            cells.push([cell.getWidth() ? cell.getChars() || " " : "",
                        colour(cell.isFgRGB(), cell.isFgDefault(), cell.getFgColor()),
                        colour(cell.isBgRGB(), cell.isBgDefault(), cell.getBgColor()), ...flags]);
        }
        lines.push(cells);
    }
    const result = { lines, row: buffer.cursorY, column: buffer.cursorX, scrolled: terminal.buffer.normal.baseY };
    terminal.dispose();
    return result;
}"""


@pytest.fixture(scope="module")
def xterm():
    """Return a function that shows bytes on xterm.js."""
    static = Path(jupyterlab.__file__).parents[4] / "share" / "jupyter" / "lab" / "static"
    bundles = [path.read_text(encoding="utf-8") for path in static.glob("*.js")]
    (bundle,) = [text for text in bundles if re.search(r"\bconvertEol\b", text) and "scrollBottom" in text]
    with chromium() as browser:
        page = browser.new_page()
        page.evaluate(LOAD, bundle)
        yield lambda data: page.evaluate(SHOW, [list(data), COLUMNS, ROWS])


FLAGS = (BOLD, DIM, ITALIC, UNDERLINE, INVERSE, HIDDEN, STRUCK)


def ours(data):
    terminal = Terminal(COLUMNS, ROWS)
    terminal.feed(data)
    lines = [
        [
            [character, style.foreground, style.background, *(bool(style.flags & flag) for flag in FLAGS)]
            for character, style in zip(line.characters, line.styles, strict=True)
        ]
        for line in terminal.lines
    ]
    return {"lines": lines, "row": terminal.row, "column": terminal.column, "scrolled": terminal.scrolled}


# Left out is where xterm.js differs from xterm: CSI T forgets the background colour, CSI 1 J fails in the last line, CSI J
# and K spare a full line's last character, a saved cursor moves with the text, relative movement in origin mode adds the
# origin twice; and what makes it count its lines anew (CSI 3 J, ESC c).
NUMBER = st.one_of(st.just(b""), st.integers(0, 14).map(lambda n: b"%d" % n))
SEQUENCE = st.builds(
    lambda first, second, final: b"\x1b[" + first + b";" + second + final,
    NUMBER,
    NUMBER,
    st.sampled_from([bytes([n]) for n in b"@ABCDEFGHILMPSXZ`adefr"]),
)
RENDITION = st.lists(
    st.sampled_from(["", *map(str, range(10)), "22", "23", "24", "27", "28", "29", "31", "39", "42", "49", "97", "104", "38;5;77", "48;2;9;8;7"]),
    min_size=1, max_size=3,
).map(lambda parts: f"\x1b[{';'.join(parts)}m".encode())  # fmt: skip
OTHER = st.sampled_from(
    [
        b"\n", b"\r", b"\b", b"\t", b"\x1bM", b"\x1bD", b"\x1bE", b"\x1bH", b"\x1b[4h", b"\x1b[4l", b"\x1b[?7l", b"\x1b[?7h",
        b"\x1b(0", b"\x1b(B", b"\x1b[0g", b"\x1b[3g", b"\x1b]0;t\x07", b"\x1b[2b", b"\x1b[D\x1b[J", b"\x1b[2J", b"\x1b[D\x1b[1K",
    ]
)  # fmt: skip
TEXT = st.text("abcxyz0123~ `qé", max_size=9).map(str.encode)


@settings(max_examples=100)
@given(st.lists(st.one_of(TEXT, TEXT, SEQUENCE, SEQUENCE, RENDITION, OTHER), max_size=24).map(b"".join))
def test_the_same_screen(xterm, data):
    assert ours(data) == xterm(data)
