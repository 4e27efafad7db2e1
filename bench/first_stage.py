"""From "Run all" in the first notebook to a stage that answers a key, in a real JupyterLab and Chromium.

The peer is the same notebook's plain work: its code run in a fresh Python without a browser.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.sampling import noise, take_turns
from tools.lab_page import chromium, open_page
from tools.lab_server import serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tools.lab_server import LabServer

__all__ = ["measure"]

ROUNDS = 3
NOTEBOOK = "00-start-here.ipynb"
FOLDER = Path(__file__).parents[1] / "notebooks"
STAGE = ".vmlab-stage"
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }"
CHANGED = "([selector, before]) => document.querySelector(selector)?.dataset.step !== before"


def _code() -> str:
    cells = json.loads((FOLDER / NOTEBOOK).read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _plain() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", _code()], capture_output=True, check=True)
    return time.perf_counter() - start


def _interactive(browser: Browser, server: LabServer) -> float:
    """Run all cells, and press a key until the first stage has moved."""
    with open_page(browser, server) as lab:
        lab.open_notebook(NOTEBOOK)
        page = lab.page
        start = time.perf_counter()
        page.evaluate(RUN_ALL)
        stage = page.locator(f"{STAGE}[data-step]").first
        stage.wait_for(timeout=120_000)
        before = stage.get_attribute("data-step")
        stage.press("ArrowRight")
        page.wait_for_function(CHANGED, arg=[f"{STAGE}[data-step]", before], timeout=30_000)
        seconds = time.perf_counter() - start
        lab.shut_down()
        return seconds


def measure() -> Iterator[str]:
    """Yield the figure."""
    with tempfile.TemporaryDirectory() as home, serve(FOLDER, Path(home)) as server, chromium() as browser:
        ours, peer = take_turns(lambda: _interactive(browser, server), _plain, ROUNDS)
    yield (
        f'"Run all" in {NOTEBOOK} to an interactive stage: {statistics.median(ours):.2f} s ({noise(ours)}); '
        f"the same code without a browser, from a cold Python: {statistics.median(peer):.2f} s ({noise(peer)})"
    )
