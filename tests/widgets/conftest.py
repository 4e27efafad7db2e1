"""Real recordings, and pages in a headless Chromium that show them."""

from __future__ import annotations

import pytest

import vmlab
from tests.widgets.harness import StagePage
from tools.lab_page import chromium
from vmlab.widgets import Stage

MEMORY = 2 << 20


@pytest.fixture(scope="session")
def recording():
    return vmlab.record(vmlab.guests.load("minios"), under="trap-and-emulate", memory=MEMORY)


@pytest.fixture(scope="session")
def pair():
    image = vmlab.guests.load("minios")
    return vmlab.record([image, image], under="trap-and-emulate", memory=MEMORY)


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def open_stage(browser):
    """Open a page with a stage: `open_stage(recording)`; a test fails where a script did."""
    contexts, pages = [], []

    def start(recording, *, reduced_motion="no-preference", stage=None, step=0, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 720}, reduced_motion=reduced_motion)
        contexts.append(context)
        pages.append(StagePage(context.new_page(), stage or Stage(recording, step=step), **options))
        return pages[-1]

    yield start
    for context in contexts:
        context.close()
    assert [error for page in pages for error in page.errors] == []
