"""Fixtures of the browser tests: one JupyterLab server a session, one browser a file, one page a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.lab_page import chromium, open_page
from tools.lab_server import serve

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory):
    """JupyterLab on a copy of the notebooks; a test may write further ones into its `root`."""
    notebooks = PROJECT / "notebooks"
    notebooks.mkdir(exist_ok=True)
    with serve(notebooks, tmp_path_factory.mktemp("lab") / "home") as server:
        yield server


# One browser a file, not a session: while Playwright lives, its event loop counts as running in this thread, and the
# notebook tests that come later want one of their own.
@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser, lab_server, artefacts, request):
    """A `LabPage` of 1280 × 720 pixels; if its test fails, a picture of it is kept among the artefacts."""
    with open_page(browser, lab_server) as opened:
        yield opened
        if getattr(request.node, "failed_call", False):
            opened.screenshot(artefacts / f"failed-{request.node.name}.png")
        opened.shut_down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.failed_call = report.failed
    return report
