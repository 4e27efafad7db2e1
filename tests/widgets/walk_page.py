"""A page with the walk theatre in it, without Jupyter."""

from __future__ import annotations

from tests.widgets.harness import StagePage


class WalkPage(StagePage):
    """A browser page that shows a walk."""

    def state(self) -> dict:
        return {"walk": self.stage.feed.walk, "step": self.stage.feed.step, "note": self.stage.feed.note}

    def answer(self, message: dict) -> dict:
        self.messages.append(message)
        if message["type"] == "save":
            self.stage.feed.step = message["step"]
            return {}
        self.stage._on_message(self.stage.feed, message, [])
        return self.state()

    def press(self, *keys: str) -> None:
        self.find("walk").focus()
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def step(self) -> int:
        return int(self.find("walk").get_attribute("data-step"))

    @property
    def serial(self) -> str:
        return self.find("walk").get_attribute("data-serial")

    def wait_new(self, serial: str) -> None:
        self.page.wait_for_function(
            "serial => document.querySelector('#host [data-testid=walk]').dataset.serial !== serial", arg=serial
        )

    def cells(self, grid: int = 0) -> dict[tuple[int, int], str]:
        """Return the texts of the cells of a grid."""
        texts = self.page.locator(f"#host [data-testid=grid-{grid}] [data-cell]").evaluate_all(
            "cells => cells.map(cell => [cell.dataset.cell, cell.textContent])"
        )
        return {tuple(map(int, place.split(",")[1:])): text for place, text in texts}
