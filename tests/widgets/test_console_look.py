"""The console in a browser: keys in their order, the screen row by row, the keyboard alone, both themes."""

from __future__ import annotations

import pytest

import vmlab
from tests.widgets.console_page import ConsolePage
from vmlab.vmm.session import Session

pytestmark = pytest.mark.browser

PAINTED = b"plain \x1b[1;31mred\x1b[0m \x1b[44mblue ground\x1b[0m \x1b[7minverse\x1b[0m \x1b[4munder\x1b[0m\r\nnext"


def session_of(image, **options):
    return Session(vmlab.record(image, steps=0), **options)


def printing(data, **options):
    """A session whose guest sends some bytes and sleeps."""
    source = f"start: mov esi, text\n mov dx, 0x3f8\n mov ecx, {len(data)}\n rep outsb\n hlt\ntext: db {', '.join(map(str, data))}\n"
    return session_of(vmlab.assemble(source), **options)


@pytest.fixture
def open_console(browser):
    """Open a page with a console; a test fails where a script did."""
    contexts, pages = [], []

    def start(session, *, reduced_motion="no-preference", **options):
        context = browser.new_context(viewport={"width": 1280, "height": 720}, reduced_motion=reduced_motion)
        contexts.append(context)
        pages.append(ConsolePage(context.new_page(), session, **options))
        return pages[-1]

    yield start
    for context in contexts:
        context.close()
    assert [error for page in pages for error in page.errors] == []


@pytest.fixture
def echo(open_console):
    return open_console(session_of(vmlab.guests.load("echo")))


def test_what_is_typed_comes_back(echo):
    echo.type("hello, guest")
    echo.wait_text("hello, guest")
    assert echo.console.text == echo.text == "hello, guest"
    assert "waits for a key" in echo.find("state").inner_text()


def test_keys_as_the_guest_gets_them(echo):
    echo.find("screen").click()
    for key in ("a", "Enter", "Backspace", "ArrowUp", "Control+c", "Alt+x", "Tab", "Escape", "F5", "Shift+A"):
        echo.page.keyboard.press(key)
    echo.page.wait_for_function("Number(document.querySelector('#host [data-testid=console]').dataset.step) > 100")
    expected = b"a\r\x7f\x1b[A\x03\x1bx\t\x1b\x1b[15~A"
    for _ in range(50):
        if bytes(echo.console.recording.system.guest.platform.uart.output) == expected:
            break
        echo.page.wait_for_timeout(50)
    assert bytes(echo.console.recording.system.guest.platform.uart.output) == expected


def test_text_without_keys_and_pasted_text(echo):
    echo.find("screen").click()
    echo.page.keyboard.insert_text("é漢")
    echo.wait_text("é漢")
    echo.find("input").evaluate(
        """input => {
            const data = new DataTransfer();
            data.setData("text/plain", "pasted text");
            input.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        }"""
    )
    echo.wait_text("pasted text")


def test_the_keyboard_alone(echo):
    """Tab leads in and goes to the guest then; Shift+Tab leads out; buttons are reached and pressed."""
    echo.page.keyboard.press("Tab")
    order = []
    for _ in range(6):
        order.append(echo.page.evaluate("document.activeElement.dataset.testid"))
        if order[-1] == "input":
            break
        echo.page.keyboard.press("Tab")
    assert order == ["run", "reset", "history", "live", "input"]
    echo.page.keyboard.press("Tab")
    echo.page.keyboard.type("x")
    echo.wait_text("x")
    assert echo.console.recording.system.guest.console == "\tx"
    echo.page.keyboard.press("Shift+Tab")
    assert echo.page.evaluate("document.activeElement.dataset.testid") == "live"


def test_colours_and_attributes(open_console):
    view = open_console(printing(PAINTED))
    view.wait_text("next")
    assert view.text == view.console.text
    spans = view.page.locator("#host .vm-rows span")
    looks = spans.evaluate_all(
        "spans => spans.map(s => [s.textContent, s.style.fontWeight, s.style.color, s.style.background, s.style.textDecoration])"
    )
    assert looks[0] == ["red", "700", "var(--vm-ansi-1)", "", ""]
    assert looks[1][0] == "blue ground"
    assert looks[1][3] == "rgb(0, 0, 170)"
    assert looks[2][3] == "var(--text)"
    assert looks[3] == ["under", "", "", "", "underline"]


def test_lines_above_the_screen_can_be_scrolled_to(open_console):
    view = open_console(printing(b"\n".join(b"line %d" % n for n in range(60)), rows=10, columns=30))
    view.wait_text("line 59")
    assert view.text.splitlines() == [f"line {n}" for n in range(60)]
    screen = view.find("screen")
    at_end = "s => Math.abs(s.scrollTop + s.clientHeight - s.scrollHeight) < 5"
    assert screen.evaluate(at_end), "it follows the output"
    screen.evaluate("s => { s.scrollTop = 0; }")
    view.page.wait_for_timeout(100)
    view.push()
    assert screen.evaluate("s => s.scrollTop") == 0, "who reads above is left alone"


def test_pausing_and_running(open_console):
    view = open_console(session_of(vmlab.guests.load("echo")))
    view.find("run").click()
    view.page.wait_for_selector("#host [data-testid=run][aria-label=Run]")
    assert not view.console.running
    view.find("run").click()
    view.page.wait_for_selector("#host [data-testid=run][aria-label=Pause]")
    assert view.console.running


def test_going_back_and_branching(echo):
    echo.type("abc")
    echo.wait_text("abc")
    slider = echo.find("history")
    slider.fill("30")
    echo.page.wait_for_selector("#host [data-testid=console][data-state=past]")
    assert echo.text == ""
    assert "another history" in echo.find("note").inner_text()
    echo.type("z")
    echo.wait_text("z")
    assert echo.text == "z"
    echo.find("reset").click()
    echo.page.wait_for_function("document.querySelector('#host .vm-rows').textContent.trim() === ''")


def test_what_is_new_is_told_to_a_screen_reader(echo):
    echo.type("spoken")
    echo.wait_text("spoken")
    log = echo.find("log")
    echo.page.wait_for_function("document.querySelector('#host [data-testid=log]').textContent === 'spoken'")
    assert log.get_attribute("aria-live") == "polite"
    assert echo.find("input").get_attribute("aria-label").startswith("Terminal of echo")


def test_what_the_kernel_did_before_a_late_module_was_ready_arrives(open_console):
    view = open_console(session_of(vmlab.guests.load("echo")), late=True)
    view.console.type("early")
    view.push()
    view.page.wait_for_timeout(50)
    view.load()
    view.wait_text("early")
    view.console.type(" and late")
    view.push()
    view.wait_text("early and late")


def test_reduced_motion_stops_the_blinking(open_console):
    name = "getComputedStyle(document.querySelector('#host .vm-caret')).animationName"
    still = open_console(session_of(vmlab.guests.load("echo")), reduced_motion="reduce")
    still.find("screen").click()
    assert still.page.evaluate(name) == "none"
    moving = open_console(session_of(vmlab.guests.load("echo")))
    moving.find("screen").click()
    assert moving.page.evaluate(name) == "vm-blink"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_picture_to_look_at(open_console, artefacts, dark):
    view = open_console(printing(PAINTED + b"\n$ "), dark=dark)
    view.wait_text("next")
    view.find("screen").click()
    view.find("console").screenshot(
        path=artefacts / f"console-{'dark' if dark else 'light'}.png", animations="disabled"
    )
