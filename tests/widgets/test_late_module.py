"""In JupyterLab, with a module that takes longer to load than anywidget waits: updates arrive all the same.

anywidget 0.11 gives up on a model whose module is not ready within two seconds and from then on drops every update
that the kernel sends to it. The stage's feed is a core model, which is not concerned.
"""

from __future__ import annotations

import nbformat
import pytest

from tools.lab_page import chromium, open_page
from tools.lab_server import serve

pytestmark = pytest.mark.browser

SHOW = """
import vmlab
from ipywidgets import VBox
from vmlab.widgets import Stage, WalkTheatre

LATE = "await new Promise((done) => setTimeout(done, 3500));\\n"

class Late(Stage):
    _esm = LATE + Stage._esm

class LateWalk(WalkTheatre):
    _esm = LATE + WalkTheatre._esm

stage = Late(vmlab.record(vmlab.guests.load("hello"), under="trap-and-emulate"))
theatre = LateWalk(vmlab.show_walk().question)
VBox([stage, theatre])
"""

FIRST = "stage.step = 12; theatre.ask(address=0x7000)"
SECOND = "stage.step = 5; theatre.step = 3"


def test_updates_arrive_in_a_module_that_comes_late(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (SHOW, FIRST, SECOND)])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(book, folder / "late.ipynb")
    with serve(folder, tmp_path / "home") as server, chromium() as browser, open_page(browser, server) as lab:
        lab.open_notebook("late.ipynb")
        for cell in (0, 1):  # the second runs before the module is there
            lab.page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputArea-editor").click()
            lab.page.keyboard.press("Control+Enter")
            lab.wait_idle()
        lab.page.wait_for_selector("[data-testid=stage][data-step='12']", timeout=30_000)
        lab.page.locator(".jp-CodeCell").nth(2).locator(".jp-InputArea-editor").click()
        lab.page.keyboard.press("Control+Enter")
        lab.page.wait_for_selector("[data-testid=stage][data-step='5']", timeout=30_000)
        walk = lab.page.locator("[data-testid=walk][data-step='3']")
        walk.wait_for(timeout=30_000)
        assert walk.locator("[data-testid=address]").input_value() == "0x7000"
        stage = lab.page.locator("[data-testid=stage]")
        stage.focus()
        lab.page.keyboard.press("n")
        lab.page.wait_for_function("Number(document.querySelector('[data-testid=stage]').dataset.step) > 5")
        assert lab.cell_errors() == []
        lab.shut_down()
