"""A page with the layer explorer in it, without Jupyter."""

from __future__ import annotations

from tests.widgets.harness import StagePage


class LayersPage(StagePage):
    """A browser page that shows running systems."""

    landmark = "say-0"

    def state(self) -> dict:
        return {"panes": self.stage.feed.panes}

    def answer(self, message: dict) -> dict:
        self.messages.append(message)
        self.stage._on_message(self.stage.feed, message, [])
        return self.state()

    def press(self, *keys: str) -> None:
        self.find("layers").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, testid: str) -> None:
        self.find(testid).click()
        self.wait()

    def wait(self) -> None:
        """Wait until the kernel has answered."""
        self.page.wait_for_function("!window.unanswered && document.querySelector('#host [aria-busy=false]')")

    def choose_part(self, name: str, pane: int = 0) -> None:
        self.page.locator(f"#host [data-pane='{pane}'] [data-part='{name}']").first.click()

    @property
    def parts(self) -> list[str]:
        return self.page.locator("#host [data-pane='0'] g[data-part]").evaluate_all(
            "parts => parts.map(part => part.dataset.part)"
        )

    @property
    def in_control(self) -> list[str]:
        return self.page.locator("#host [data-pane='0'] g.vm-control").evaluate_all(
            "parts => parts.map(part => part.dataset.part)"
        )
