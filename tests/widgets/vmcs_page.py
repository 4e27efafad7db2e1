"""A page with the VMCS inspector in it, without Jupyter."""

from __future__ import annotations

from tests.widgets.harness import StagePage


class VmcsPage(StagePage):
    """A browser page that shows a control block."""

    landmark = "outcome"

    def state(self) -> dict:
        return {"block": self.stage.feed.block, "verdict": self.stage.feed.verdict}

    def answer(self, message: dict) -> dict:
        self.messages.append(message)
        self.stage._on_message(self.stage.feed, message, [])
        return self.state()

    def press(self, *keys: str) -> None:
        self.find("vmcs").focus()
        for key in keys:
            self.page.keyboard.press(key)
            self.wait()

    def wait(self) -> None:
        """Wait until the kernel has answered."""
        self.page.wait_for_function("!window.unanswered && document.querySelector('#host [aria-busy=false]')")

    def open_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('#host .vm-group').forEach((each) => { each.open = true; })")

    def row(self, name: str):
        return self.page.locator(f"#host [data-row={name}]")

    def edit(self, name: str, value: str) -> None:
        """Type a value, and Enter."""
        box = self.page.locator(f"#host [data-field={name}]")
        box.fill(value)
        box.press("Enter")
        self.wait()

    @property
    def outcome(self) -> str:
        return self.find("outcome").inner_text()

    def visible(self) -> list[str]:
        """Return the names of the rows that are shown."""
        return self.page.locator("#host tbody tr").evaluate_all(
            "rows => rows.filter(row => row.offsetParent !== null).map(row => row.dataset.row)"
        )
