"""The harness itself: a widget in a real JupyterLab, updates both ways, both themes."""

from __future__ import annotations

import nbformat
import pytest

from tools.lab_page import DARK, LIGHT

pytestmark = pytest.mark.browser

WIDGET = '''
import anywidget
import traitlets

class Counter(anywidget.AnyWidget):
    _esm = """
    export default {
        render({ model, el }) {
            el.innerHTML = `<button class="probe"></button>`;
            const button = el.querySelector("button");
            const draw = () => { button.textContent = `${model.get("count")} → ${model.get("doubled")}`; };
            button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
            model.on("change", draw);
            draw();
        }
    };
    """
    count = traitlets.Int(1).tag(sync=True)
    doubled = traitlets.Int(2).tag(sync=True)

    @traitlets.observe("count")
    def _double(self, change):
        self.doubled = 2 * change.new

counter = Counter()
counter
'''


def write_notebook(path, *cells, kernel="python3"):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(notebook, path)
    return path.name


@pytest.fixture(scope="module")
def probe(lab_server):
    return write_notebook(lab_server.root / "probe.ipynb", WIDGET.strip(), "counter.count = 20")


def wait_for_text(page, text):
    page.page.wait_for_function("text => document.querySelector('.probe')?.textContent === text", arg=text)


def test_updates_arrive_both_ways(page, probe):
    page.open_notebook(probe)
    page.run_all()
    wait_for_text(page, "20 → 40")  # the kernel's change reaches the page

    page.page.locator(".probe").click()
    wait_for_text(page, "21 → 42")  # the page's change reaches the kernel, and its answer comes back

    assert page.cell_errors() == []
    assert page.errors == []
    assert page.foreign == []


def test_a_failing_cell_is_seen(page, lab_server):
    page.open_notebook(write_notebook(lab_server.root / "failing.ipynb", "1 / 0"))
    page.run_all()
    assert "ZeroDivisionError" in page.cell_errors()[0]


def test_a_question_is_not_waited_for(page, lab_server):
    with pytest.raises(RuntimeError, match="JupyterLab asks: Select Kernel"):
        page.open_notebook(write_notebook(lab_server.root / "foreign.ipynb", "1", kernel="fortran"))


def test_themes_and_screenshots(page, probe, artefacts):
    page.open_notebook(probe, theme=LIGHT)
    light = page.screenshot(artefacts / "harness-light.png").read_bytes()
    page.set_theme(DARK)
    dark = page.screenshot(artefacts / "harness-dark.png").read_bytes()
    assert light[:8] == dark[:8] == b"\x89PNG\r\n\x1a\n"
    assert light != dark
