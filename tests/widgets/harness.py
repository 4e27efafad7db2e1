"""A page with the stage in it, without Jupyter: a fake widget manager in the browser, the real `Stage` behind it.

The page's feed hands what the module sends to Python and takes the feed's state back, as a kernel would.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmlab.widgets.stage import Stage

PAGE = """<!doctype html><html><head><meta charset="utf-8"><style>body { margin: 0 } __CSS__</style></head>
<body data-jp-theme-light="__LIGHT__"><div id="host"></div><div id="other"></div>
<script type="module">
const listeners = {};
const state = __STATE__;
const feed = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes: () => { window.saved = state.step; window.kernel({ type: "save", step: state.step }); },
  on: (name, act) => { (listeners[name] ??= []).push(act); },
  async send(message) {
    window.unanswered += 1;
    const news = await window.kernel(message);
    window.unanswered -= 1;
    feed.take(news);
  },
  take(news) {
    const changed = Object.keys(news).filter((name) => JSON.stringify(news[name]) !== JSON.stringify(state[name]));
    Object.assign(state, news);
    for (const name of changed) for (const act of listeners[`change:${name}`] ?? []) act();
  },
};
window.feed = feed;
window.unanswered = 0;
const model = { get: () => "IPY_MODEL_feed", widget_manager: { get_model: async () => feed } };
window.load = async () => {
  const source = new Blob([__MODULE__], { type: "text/javascript" });
  window.module = await import(URL.createObjectURL(source));
};
window.show = async (id) => window.module.default.render({ model, el: document.getElementById(id) });
</script></body></html>"""


class StagePage:
    """A browser page that shows a stage.

    Attributes
    ----------
    page : playwright.sync_api.Page
        The page.
    stage : Stage
        The widget behind it.
    messages : list of dict
        What the page has sent.
    """

    landmark = "caption"  # what is there once a view is drawn

    def __init__(self, page, stage: Stage, *, width: int = 1040, dark: bool = False, late: bool = False) -> None:
        self.page, self.stage = page, stage
        self.messages: list[dict] = []
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.expose_function("kernel", self.answer)
        filled = {
            "__CSS__": stage._css,
            "__LIGHT__": "false" if dark else "true",
            "__STATE__": json.dumps(self.state()),
            "__MODULE__": json.dumps(stage._esm),
        }
        html = PAGE
        for mark, text in filled.items():
            html = html.replace(mark, text)
        page.set_content(html)
        page.wait_for_function("window.show !== undefined")
        page.evaluate("width => { document.getElementById('host').style.width = width + 'px' }", width)
        if not late:
            self.load()

    def load(self) -> None:
        """Import the module and show the first view, as the widget manager does."""
        self.page.evaluate("window.load()")
        self.show("host")

    def show(self, place: str) -> None:
        self.page.evaluate("async (place) => { window.cleanup = await window.show(place); }", place)
        self.page.wait_for_selector(f"#{place} [data-testid={self.landmark}]")

    def state(self) -> dict:
        feed = self.stage.feed
        return {"script": feed.script, "window": feed.window, "step": feed.step}

    def answer(self, message: dict) -> dict:
        """Be the kernel."""
        self.messages.append(message)
        if message["type"] == "save":
            self.stage.feed.step = message["step"]
            return {}
        self.stage._on_message(self.stage.feed, message, [])
        news = self.state()
        del news["step"]  # an echo of the browser's own step is dropped by the widget manager
        return news

    def push(self) -> None:
        """Send the kernel's state to the browser, as a change of traits does."""
        self.page.evaluate("news => window.feed.take(news)", self.state())

    def find(self, name: str, place: str = "host"):
        return self.page.locator(f"#{place} [data-testid={name}]")

    def press(self, *keys: str) -> None:
        self.find("stage").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def walk(self, key: str, count: int) -> list[int]:
        """Press a key many times and return the step shown after each.

        Each press comes once the kernel has answered what it was asked: a step that is not shown then was not asked for ahead.
        """
        return self.page.evaluate(
            """async ([key, count]) => {
                const root = document.querySelector("#host [data-testid=stage]");
                const shown = [];
                for (let n = 0; n < count; n += 1) {
                    root.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
                    shown.push(Number(root.dataset.step));
                    do await new Promise((done) => setTimeout(done, 1)); while (window.unanswered);
                }
                return shown;
            }""",
            [key, count],
        )

    @property
    def step(self) -> int:
        return int(self.find("stage").get_attribute("data-step"))

    def wait_step(self, step: int, place: str = "host") -> None:
        self.page.wait_for_function(
            "([place, step]) => document.querySelector(`#${place} [data-testid=stage]`).dataset.step === String(step)",
            arg=[place, step],
            timeout=30_000,
        )

    @property
    def caption(self) -> str:
        return self.find("caption").inner_text()
