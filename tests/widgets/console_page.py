"""A page with the console in it, without Jupyter; the machine runs while a message is answered, not behind it."""

from __future__ import annotations

from tests.widgets.harness import StagePage
from vmlab.widgets import Console


class PromptConsole(Console):
    """A console whose machine runs at once until it waits for a key."""

    def _go(self) -> None:
        self._note = ""
        if self.running and not self.session.past:
            self.session.advance_until_waiting(100_000)
        self.refresh()


class ConsolePage(StagePage):
    """A browser page that shows a console."""

    landmark = "screen"

    def __init__(self, page, session, **options) -> None:
        super().__init__(page, PromptConsole(session), **options)

    @property
    def console(self):
        return self.stage

    def state(self) -> dict:
        feed = self.console.feed
        return {"script": feed.script, "screen": feed.screen, "status": feed.status}

    def answer(self, message: dict) -> dict:
        self.messages.append(message)
        self.console._on_message(self.console.feed, message, [])
        return self.state()

    @property
    def text(self) -> str:
        """What the rows show, the lines above the screen included."""
        return self.page.locator("#host .vm-rows").evaluate(
            "rows => [...rows.children].map(row => row.textContent.trimEnd()).join('\\n').trimEnd()"
        )

    def type(self, text: str) -> None:
        self.find("screen").click()
        self.page.keyboard.type(text)

    def wait_text(self, text: str) -> None:
        self.page.wait_for_function(
            "text => document.querySelector('#host .vm-rows').textContent.includes(text)", arg=text, timeout=30_000
        )
