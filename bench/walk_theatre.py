"""From an address that is typed into the walk theatre to its walk on the screen, in a real JupyterLab and Chromium.

The peer is the same walk without a browser: walked, and its scenes written, in the bench's own process.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.sampling import noise
from tools.lab_page import chromium, open_page
from tools.lab_server import serve
from vmlab.views.page_walk import walk
from vmlab.views.walk_scene import walk_script
from vmlab.vmm.walk_lab import WalkLab

__all__ = ["measure"]

ADDRESSES = 24
WARM = 4  # the first answers find the kernel's caches cold
LIMIT = 100  # milliseconds: what the walk theatre is to answer within
NOTEBOOK = "walk.ipynb"

# Type an address into the control, and wait for the frame that shows another walk.
ASK = """async (address) => {
    const root = document.querySelector("[data-testid=walk]");
    const serial = root.dataset.serial;
    const box = root.querySelector("[data-testid=address]");
    const start = performance.now();
    box.value = address;
    box.dispatchEvent(new Event("change", { bubbles: true }));
    while (root.dataset.serial === serial) await new Promise((done) => requestAnimationFrame(done));
    return performance.now() - start;
}"""


def _write(folder: Path) -> None:
    cell = {
        "cell_type": "code", "execution_count": None, "id": "walk", "metadata": {}, "outputs": [],
        "source": "import vmlab\nvmlab.show_walk()",
    }  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (folder / NOTEBOOK).write_text(json.dumps(book))


def _plain(lab: WalkLab, address: int) -> float:
    start = time.perf_counter()
    json.dumps(walk_script(walk(lab, address)))
    return (time.perf_counter() - start) * 1000


def measure() -> Iterator[str]:
    """Yield the figure."""
    lab = WalkLab()
    addresses = [lab.address + 0x1000 * (n % 8) + n for n in range(ADDRESSES)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        _write(Path(folder))
        with serve(Path(folder), Path(home)) as server, chromium() as browser, open_page(browser, server) as page:
            page.open_notebook(NOTEBOOK)
            page.run_all()
            page.page.wait_for_selector("[data-testid=walk][data-serial]")
            shown = [page.page.evaluate(ASK, f"{address:#x}") for address in addresses][WARM:]
            page.shut_down()
    plain = [_plain(lab, address) for address in addresses][WARM:]
    median, worst = statistics.median(shown), max(shown)
    yield (
        f"a new address to its walk on the screen: {median:.0f} ms ({noise(shown)}), at most {worst:.0f} ms "
        f"(to be within {LIMIT}); the walk and its scenes alone: {statistics.median(plain):.1f} ms"
    )
