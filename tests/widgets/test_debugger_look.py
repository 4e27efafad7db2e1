"""The debugger's view in a browser: each button and key is a command, and what is shown is read from the machine."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

import vmlab
from tests.widgets.debugger_page import DebuggerPage
from vmlab.errors import OptionError
from vmlab.vmm.debugger import Debugger
from vmlab.widgets import DebuggerView, debug

pytestmark = pytest.mark.browser

PROGRAM = """
        org 0x100000
start:  mov esp, 0x90000
        mov ebx, 3
.loop:  push ebx
        call square
        add esp, 4
        mov [results + ebx * 4], eax
        dec ebx
        jnz .loop
        mov dx, 0x3f8
        mov al, '!'
        out dx, al
        mov al, 0
        out 0xf4, al
square: mov eax, [esp + 4]
        imul eax, eax
        ret
results: dd 0, 0, 0, 0
"""


@pytest.fixture
def debugger():
    return Debugger(vmlab.record(vmlab.assemble(PROGRAM)))


@pytest.fixture
def open_debugger(browser):
    """Open a page with a debugger; a test fails where a script did."""
    contexts, pages = [], []

    def start(debugger, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 760})
        contexts.append(context)
        pages.append(DebuggerPage(context.new_page(), debugger, **options))
        return pages[-1]

    yield start
    for context in contexts:
        context.close()
    assert [error for page in pages for error in page.errors] == []


def assert_shows(page):
    """The picture is that of the machine at the cursor."""
    debugger = page.view.debugger
    cpu = debugger.recording.system.machine.cpu
    assert page.register("eip") == cpu.ip
    assert page.register("eax") == cpu.registers[0]
    assert page.register("esp") == cpu.registers[4]
    now = page.page.locator("#host .vm-now")
    if now.count():
        assert int(now.get_attribute("data-address"), 16) == cpu.linear_ip
    console = debugger.recording.system.guests[0].console
    assert page.find("console").text_content() == console


def test_keys_step_both_ways(open_debugger, debugger):
    page = open_debugger(debugger)
    for step in (1, 2, 3):
        page.press("ArrowRight")
        page.wait_step(step)
        assert_shows(page)
    page.press("ArrowLeft")
    page.wait_step(2)
    assert_shows(page)
    assert "mov ebx, 3" not in page.find("caption").inner_text()
    page.press("End")
    page.wait_step(debugger.recording.length)
    assert_shows(page)
    page.press("Home")
    page.wait_step(0)
    assert page.find("back").get_attribute("aria-disabled") == "true"


def test_a_breakpoint_by_a_click_and_continuing_both_ways(open_debugger, debugger):
    page = open_debugger(debugger)
    address = f"{vmlab.assemble(PROGRAM).symbols['square']:08x}"
    page.page.locator(f"#host [data-address='{address}']").click()
    page.page.wait_for_selector(f"#host [data-address='{address}'][aria-pressed=true]")
    assert [each.text for each in debugger.breakpoints] == [f"at 0x{int(address, 16):x}"]
    page.find("cont").click()
    page.page.wait_for_selector(f"#host .vm-now[data-address='{address}']")
    assert "breakpoint 1" in page.find("caption").inner_text()
    assert_shows(page)
    first = debugger.position
    page.press("c")
    page.page.wait_for_function(
        f"Number(document.querySelector('#host [data-testid=debugger]').dataset.step) > {first}"
    )
    page.press("C")
    page.wait_step(first)
    page.page.locator(f"#host [data-address='{address}']").click()
    page.page.wait_for_selector(f"#host [data-address='{address}'][aria-pressed=false]")
    assert debugger.breakpoints == []


def test_over_and_finish_and_back(open_debugger, debugger):
    page = open_debugger(debugger)
    debugger.goto(3)
    page.press("n")
    page.wait_step(7)
    assert_shows(page)
    page.press("N")
    page.wait_step(3)
    page.press("ArrowRight", "f")
    page.wait_step(7)
    page.press("ArrowLeft", "F")
    page.wait_step(3)
    assert_shows(page)


def test_other_breakpoints_are_typed(open_debugger, debugger):
    page = open_debugger(debugger)
    for kind, text, shown in (
        ("condition", "ebx == 2", "when ebx == 2"),
        ("write", "results + 8", "write to results + 8 (0x1"),
        ("event", "port write=true", "on port write=True"),
        ("address", "square", "at square (0x1"),
    ):
        page.find("kind").select_option(kind)
        page.find("text").fill(text)
        page.find("text").press("Enter")
        page.page.wait_for_function(
            "text => document.querySelector('#host [data-testid=breakpoints]').textContent.includes(text)", arg=shown
        )
        assert page.find("text").input_value() == ""
    page.find("kind").select_option("condition")
    page.find("text").fill("nobody == 2")
    page.find("add").click()
    page.page.wait_for_function("document.querySelector('#host [data-testid=note]').textContent.includes('nobody')")
    assert page.find("text").input_value() == "nobody == 2", "what was wrong can be mended"
    page.page.locator("#host .vm-drop").first.click()
    page.page.wait_for_function("document.querySelectorAll('#host .vm-drop').length === 3")
    assert [each.kind for each in debugger.breakpoints] == ["write", "event", "address"]


def test_memory_at_any_address(open_debugger, debugger):
    page = open_debugger(debugger)
    debugger.goto(debugger.recording.length)
    page.find("place").fill("results")
    page.find("place").press("Enter")
    page.page.wait_for_function(
        "document.querySelector('#host [data-testid=memory]').textContent.includes('09 00 00 00')"
    )
    page.find("place").fill("0xf0000000")
    page.find("space").select_option("1")
    page.page.wait_for_function(
        "document.querySelector('#host [data-testid=memory]').textContent.includes('not mapped')"
    )
    page.find("place").fill("nobody")
    page.find("place").press("Enter")
    page.page.wait_for_function("document.querySelector('#host .vm-complaint').textContent.includes('nobody')")


def test_changed_registers_are_marked_not_by_colour_alone(open_debugger, debugger):
    page = open_debugger(debugger)
    page.press("ArrowRight", "ArrowRight")
    page.wait_step(2)
    changed = page.page.locator("#host .vm-changed").evaluate_all("rows => rows.map(row => row.dataset.testid)")
    assert sorted(changed) == ["register-ebx", "register-eip"]
    assert page.page.locator("#host .vm-changed b").first.evaluate("b => getComputedStyle(b).fontWeight") == "700"


def test_a_call_from_a_cell_moves_the_picture(open_debugger, debugger):
    page = open_debugger(debugger)
    page.view.find("eax == 4")
    page.push()
    page.wait_step(debugger.position)
    assert page.register("eax") == 4


def test_what_the_kernel_did_before_a_late_module_was_ready_arrives(open_debugger, debugger):
    page = open_debugger(debugger, late=True)
    page.view.step(5)
    page.push()
    page.page.wait_for_timeout(50)
    page.load()
    page.wait_step(5)
    page.view.back()
    page.push()
    page.wait_step(4)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_picture_to_look_at(open_debugger, artefacts, dark):
    recording = vmlab.record(vmlab.guests.load("minios"), memory=2 << 20)
    debugger = Debugger(recording)
    debugger.break_on("trap", vector=14)
    debugger.cont()
    debugger.break_when("cpl == 3 and eax == 2")
    debugger.step(3)
    page = open_debugger(debugger, dark=dark, width=1120)
    page.wait_step(debugger.position)
    page.page.screenshot(path=artefacts / f"debugger-{'dark' if dark else 'light'}.png", animations="disabled")


def test_without_a_browser(debugger):
    view = DebuggerView(debugger)
    assert view.break_at("square").number == 1
    assert view.cont().reason == "breakpoint"
    assert view.feed.scene["step"] == view.position == debugger.position
    assert view.registers() == debugger.registers()
    data, _ = view._repr_mimebundle_()
    assert ET.fromstring(data["image/svg+xml"]).tag.endswith("svg")
    assert data["text/plain"] == debugger.describe()
    assert "who_wrote" in dir(view)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        view.fly()
    with pytest.raises(OptionError, match="no symbol"):
        view.break_at("nobody")
    view._on_message(view.feed, {"type": "nonsense"}, [])
    assert debug(vmlab.assemble(PROGRAM)).recording.length == debugger.recording.length
    assert vmlab.debug is debug
    assert vmlab.Debugger is Debugger
