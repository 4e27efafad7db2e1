"""A page with the debugger's view in it, without Jupyter."""

from __future__ import annotations

from tests.widgets.harness import StagePage
from vmlab.widgets import DebuggerView


class DebuggerPage(StagePage):
    """A browser page that shows a debugger."""

    landmark = "caption"

    def __init__(self, page, debugger, **options) -> None:
        super().__init__(page, DebuggerView(debugger), **options)

    @property
    def view(self):
        return self.stage

    def state(self) -> dict:
        return {"scene": self.view.feed.scene}

    def answer(self, message: dict) -> dict:
        self.messages.append(message)
        self.view._on_message(self.view.feed, message, [])
        return self.state()

    def press(self, *keys: str) -> None:
        self.find("debugger").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def wait_step(self, step: int, place: str = "host") -> None:
        self.page.wait_for_function(
            "([place, step]) => document.querySelector(`#${place} [data-testid=debugger]`).dataset.step === String(step)",
            arg=[place, step],
            timeout=30_000,
        )

    def register(self, name: str) -> int:
        return int(self.find(f"register-{name}").locator("b").inner_text(), 16)
