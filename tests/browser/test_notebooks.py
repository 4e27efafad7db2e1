"""The notebooks in a real JupyterLab: they run, and the picture changes as the machine does."""

from __future__ import annotations

import re

import nbformat
import pytest

import vmlab
from tools.lab_page import DARK, LIGHT
from vmlab.isa.x86.registers import IF

pytestmark = pytest.mark.browser

STAGE = ".vmlab-stage[data-step]"
NOTEBOOKS = {
    "00-start-here.ipynb": STAGE,
    "01-layers.ipynb": STAGE,
    "02-trap-and-emulate.ipynb": STAGE,
    "03-your-own-kernel.ipynb": ".vmlab-console[data-step]",
    "04-popf.ipynb": STAGE,
    "05-binary-translation.ipynb": STAGE,
    "06-hardware-assist.ipynb": STAGE,
    "07-page-tables.ipynb": ".vmlab-walk[data-step]",
    "08-kinds-of-hypervisor.ipynb": ".vmlab-layers[aria-busy=false]",
}
SHOWN = ("EIP", "EAX", "ESP", "CR0", "CR3")


def truth(recording, step):
    """What the picture must say at a step, read from a machine that this test ran itself."""
    recording.seek(step)
    system = recording.system
    cpu, vcpu = system.machine.cpu, system.guest.vcpu
    values = {"EIP": cpu.ip, "EAX": cpu.registers[0], "ESP": cpu.registers[4], "CR0": cpu.cr0, "CR3": cpu.cr3}
    return {
        "cpu": {name: f"{value:08x}" for name, value in values.items()},
        "cpu-IF": bool(cpu.flags & IF),
        "vcpu-IF": bool(vcpu.flags & IF),
        "ring": f"ring {cpu.cpl}",
        "mode": system.guest.mode,
        "console": system.guest.console,
    }


def picture(stage):
    """What the page shows."""

    def text(name):
        return stage.get_by_test_id(name).inner_text()

    return {
        "cpu": {name: text(f"cpu-{name}") for name in SHOWN},
        "cpu-IF": text("cpu-IF").startswith("1"),
        "vcpu-IF": text("vcpu-IF").startswith("1"),
        "ring": text("cpu-mode"),
        "mode": text("vcpu-mode"),
        "console": stage.get_by_test_id("console").inner_text(),
    }


def press(stage, key, step):
    """Press a key and wait until the stage stands at a step."""
    stage.press(key)
    stage.page.wait_for_function(
        "([element, step]) => element.dataset.step === String(step)", arg=[stage.element_handle(), step]
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_without_an_error(page, artefacts, name):
    page.open_notebook(name, theme=LIGHT)
    page.run_all()
    stage = page.page.locator(NOTEBOOKS[name]).first
    stage.wait_for()
    assert page.cell_errors() == []
    assert page.errors == []
    assert page.foreign == [], "a lab works without the network"
    stage.scroll_into_view_if_needed()
    page.screenshot(artefacts / f"{name[:2]}-light.png")
    page.set_theme(DARK)
    page.screenshot(artefacts / f"{name[:2]}-dark.png")


def test_the_picture_changes_as_the_machine_does(page, artefacts):
    recording = vmlab.record(vmlab.guests.load("cli_sti"), under="trap-and-emulate")
    start = recording.next("emulate").step - 2
    page.open_notebook("02-trap-and-emulate.ipynb", theme=LIGHT)
    page.run_all()
    stage = page.page.locator(STAGE).first
    stage.wait_for()
    assert stage.get_attribute("data-step") == str(start)

    steps = range(start, start + 12)
    seen = []
    for step in steps:
        if step > start:
            press(stage, "ArrowRight", step)
        seen.append(picture(stage))
        assert seen[-1] == truth(recording, step), f"step {step}"
    assert {each["ring"] for each in seen} == {"ring 0", "ring 3"}, "it went into the hypervisor and back"
    assert {each["vcpu-IF"] for each in seen} == {True, False}, "CLI and STI had their effect on the VCPU"
    assert len({each["cpu"]["EIP"] for each in seen}) > 4

    for step in reversed(steps[:-1]):
        press(stage, "ArrowLeft", step)
        assert picture(stage) == seen[step - start], f"step {step}, backwards"

    recording.seek(start)
    trap = recording.next("trap")
    press(stage, "n", trap.step)
    assert picture(stage) == truth(recording, trap.step)
    assert picture(stage)["ring"] == "ring 0"
    page.screenshot(artefacts / "02-trap.png")
    press(stage, "End", recording.length)
    assert picture(stage)["console"] == truth(recording, recording.length)["console"]
    press(stage, "Home", 0)
    assert picture(stage)["console"].strip() == ""


SHELL = """
import vmlab

shell = vmlab.console(vmlab.guests.load("echo"))
shell
"""
DEBUGGER = """
debugger = vmlab.debug(vmlab.guests.load("timer"))
debugger.goto(60)
debugger
"""
BUSY = """
busy = vmlab.console(vmlab.assemble("start: inc eax\\n jmp start"), rows=4)
busy
"""


def run_cell(page, number):
    page.page.locator(".jp-CodeCell").nth(number).locator(".jp-InputArea-editor").click()
    page.page.keyboard.press("Control+Enter")


def test_the_console_and_the_debugger(page, lab_server, artefacts):
    """What is typed reaches the guest and its answer the page, while cells run beside a guest that never rests."""
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source.strip()) for source in (SHELL, BUSY, "6 * 7", "shell.text[::-1]", DEBUGGER)
        ]
    )
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, lab_server.root / "console.ipynb")
    page.open_notebook("console.ipynb", theme=LIGHT)
    for number in (0, 1):
        run_cell(page, number)
        page.page.locator(".vmlab-console[data-step]").nth(number).wait_for()
    shell, busy = (page.page.locator(".vmlab-console").nth(number) for number in (0, 1))
    page.page.wait_for_function(
        "Number(document.querySelectorAll('.vmlab-console')[1].dataset.step) > 3000000", timeout=60_000
    )
    busy.get_by_test_id("state").filter(has_text="running silently").wait_for()

    shell.get_by_test_id("screen").click()
    page.page.keyboard.type("hello, guest")
    rows = "document.querySelectorAll('.vmlab-console')[0].querySelector('.vm-rows').textContent"
    page.page.wait_for_function(f"{rows}.includes('hello, guest')")
    shell.get_by_test_id("state").filter(has_text="waits for a key").wait_for()  # the echo comes before it

    run_cell(page, 2)
    page.page.wait_for_function("document.body.textContent.includes('42')", timeout=30_000)
    run_cell(page, 3)
    page.page.wait_for_function("document.body.textContent.includes('tseug ,olleh')", timeout=30_000)
    page.screenshot(artefacts / "console-lab.png")

    busy.get_by_test_id("run").click()
    busy.locator("[data-testid=run][aria-label=Run]").wait_for()
    stopped = busy.get_attribute("data-step")
    page.page.wait_for_timeout(400)
    assert busy.get_attribute("data-step") == stopped

    run_cell(page, 4)
    view = page.page.locator(".vmlab-debugger[data-step='60']")
    view.wait_for()
    before = view.get_by_test_id("register-eip").inner_text()
    page.page.locator(".vmlab-debugger").press("ArrowLeft")
    view = page.page.locator(".vmlab-debugger[data-step='59']")
    view.wait_for()
    assert view.get_by_test_id("register-eip").inner_text() != before
    page.page.locator(".vmlab-debugger").press("ArrowRight")
    view = page.page.locator(".vmlab-debugger[data-step='60']")
    view.wait_for()
    assert view.get_by_test_id("register-eip").inner_text() == before
    assert page.cell_errors() == []
    assert page.errors == []


def test_a_term_leads_to_the_glossary(page, artefacts):
    page.open_notebook("06-hardware-assist.ipynb", theme=LIGHT)
    link = page.page.get_by_role("link", name="VMCS", exact=True)
    link.scroll_into_view_if_needed()
    link.click()
    heading = page.page.locator(".jp-MarkdownViewer h3", has_text=re.compile("^VMCS"))
    heading.wait_for()
    page.page.wait_for_function("element => element.getBoundingClientRect().top < 200", arg=heading.element_handle())
    assert heading.bounding_box()["y"] > 0
    page.page.locator(".jp-MarkdownViewer").get_by_text(vmlab.glossary("VMCS").means_korean).wait_for()
    assert page.errors == []
    page.screenshot(artefacts / "glossary.png")
