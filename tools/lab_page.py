"""JupyterLab in the system's Chromium, as a test or a screenshot needs it.

Playwright drives the browser; its own download is never used. Commands go to Lab by name where that is surer than
searching a menu; what a user would see is then read from the page.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

    from tools.lab_server import LabServer

__all__ = ["DARK", "LIGHT", "LabPage", "chromium", "find_chromium", "open_page"]

DARK = "JupyterLab Dark"
LIGHT = "JupyterLab Light"

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_OPTIONS = (
    "--no-sandbox",  # root may not use it, and the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)

SECONDS = 1000.0  # Playwright counts milliseconds

KERNEL_STATE = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    const status = panel?.sessionContext?.session?.kernel?.status;
    if (document.querySelector(".jp-Dialog") !== null) return "dialog";
    const waiting = [...document.querySelectorAll(".jp-InputPrompt")].some(p => p.textContent.includes("*"));
    return status === "idle" && !waiting && "idle";
}"""

RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"

SHUT_DOWN = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.shutdown()"

SET_THEME = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"

THEME_IS_SET = """name => document.body.dataset.jpThemeName === name
    && document.querySelector("#jupyterlab-splash") === null"""


def find_chromium() -> str:
    """Return the path of the system's Chromium: $VMLAB_CHROMIUM, or the first found by its usual names.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    for name in (os.environ.get("VMLAB_CHROMIUM"), *CHROMIUM_NAMES):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    raise FileNotFoundError(
        f"no browser found as {', '.join(CHROMIUM_NAMES)}: install Debian's package chromium, or set VMLAB_CHROMIUM"
    )


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run a headless Chromium for as long as the context lasts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(CHROMIUM_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


class LabPage:
    """One browser page on a `LabServer`.

    Attributes
    ----------
    page : playwright.sync_api.Page
        The page itself, to look at and to click in.
    errors : list of str
        Errors that scripts in the page threw or logged.
    foreign : list of str
        Addresses outside the server that the page asked for; a lab needs none.
    """

    def __init__(self, page: Page, server: LabServer) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._on_console)
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        # A resource that is not there is logged as an error too (Lab probes for optional ones): requests are not scripts.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def _on_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme in {"http", "https", "ws", "wss"} and address.netloc != urlsplit(self.server.url).netloc:
            self.foreign.append(request.url)

    def open_notebook(self, name: str, theme: str | None = None, timeout: float = 90) -> None:
        """Open notebook `name` and wait until its kernel is idle.

        Parameters
        ----------
        name : str
            Its path below the server's root.
        theme : str, optional
            `LIGHT` or `DARK`.
        timeout : float
            Seconds to wait for the page, and again for the kernel.
        """
        self.page.goto(self.server.document(name), timeout=timeout * SECONDS)
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=timeout * SECONDS)
        self.wait_idle(timeout)
        if theme is not None:
            self.set_theme(theme)

    def run_all(self, timeout: float = 180) -> None:
        """Run every cell and wait until the kernel is idle.

        A cell that fails stops the run: its error is an output, see `cell_errors`.
        """
        self.page.evaluate(RUN_ALL)
        self.wait_idle(timeout)

    def wait_idle(self, timeout: float = 90) -> None:
        """Wait until the kernel is idle and no cell waits for it.

        Raises
        ------
        RuntimeError
            If Lab asks a question instead, which kernel to use say: nobody is there to answer.
        """
        state = self.page.wait_for_function(KERNEL_STATE, timeout=timeout * SECONDS).json_value()
        if state == "dialog":
            question = self.page.locator(".jp-Dialog-content").first.inner_text()
            raise RuntimeError(f"JupyterLab asks: {' '.join(question.split())}")

    def set_theme(self, theme: str) -> None:
        """Change Lab's theme to `LIGHT` or `DARK`."""
        self.page.evaluate(SET_THEME, theme)
        self.page.wait_for_function(THEME_IS_SET, arg=theme, timeout=30 * SECONDS)

    def shut_down(self) -> None:
        """End the open notebook's kernel, which outlives its page otherwise."""
        self.page.evaluate(SHUT_DOWN)

    def cell_errors(self) -> list[str]:
        """Return the tracebacks among the outputs."""
        selector = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText pre"
        texts = self.page.locator(selector).all_inner_texts()
        return [text for text in texts if "Traceback (most recent call last)" in text]

    def screenshot(self, path: Path, selector: str | None = None) -> Path:
        """Write a picture of the window, or of the first element that `selector` names, and return its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"path": path, "animations": "disabled", "caret": "hide"}
        if selector is None:
            self.page.screenshot(**options)
        else:
            self.page.locator(selector).first.screenshot(**options)
        return path


@contextlib.contextmanager
def open_page(
    browser: Browser, server: LabServer, width: int = 1280, height: int = 720, scale: float = 1
) -> Iterator[LabPage]:
    """Open an empty page, with no history and no cookies, for as long as the context lasts."""
    context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=scale)
    try:
        yield LabPage(context.new_page(), server)
    finally:
        context.close()
