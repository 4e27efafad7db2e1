"""The stage: an SVG widget that plays scenes in the browser at full frame rate.

The kernel hands it a *script* (what stays) and *windows* of scenes (see `vmlab.views.scene`). Inside a window the
browser steps, plays and seeks by itself; near the edge it asks for the next window and this class answers from the
recording. The widget holds no truth: it moves a cursor and redraws.

What is shown travels through `Feed`, a plain core widget, and not through the anywidget model itself: anywidget 0.11
drops every update of its own models for good when their module is not ready within two seconds, a core model's state
is kept by the widget manager however late the module comes. A view that has come up sends `ready`, and the window
around the cursor is sent again.

Read more: anywidget.dev, "Anywidget Front-End Module"; ipywidgets, "Low level widget explanation".
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from vmlab.errors import OptionError
from vmlab.views.scene import LEAD, STOPS, SceneWriter
from vmlab.views.svg import describe_scene, scene_svg
from vmlab.widgets.assets import module, style

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmlab.machine.recording import Recording

__all__ = ["Feed", "Stage"]

_serials = count(1)

DOUBLE = 1 << 53
"""Up to here every integer is a number of JavaScript's."""


def exact(window: dict[str, Any]) -> dict[str, Any]:
    """Return a window of scenes in which registers and addresses that JavaScript would round are hexadecimal text.

    >>> exact({"scenes": [{"cpu": [5, 0xFFFF_FFFF_8000_0001], "step": 1}], "listings": {}})["scenes"]
    [{'cpu': [5, 'ffffffff80000001'], 'step': 1}]
    """

    def text(value: Any) -> Any:
        return f"{value:x}" if isinstance(value, int) and value >= DOUBLE else value

    scenes = [
        {key: [text(each) for each in value] if isinstance(value, list) else value for key, value in scene.items()}
        for scene in window["scenes"]
    ]
    listings = {name: [[text(each) for each in line] for line in lines] for name, lines in window["listings"].items()}
    return {**window, "scenes": scenes, "listings": listings}


class Feed(ipywidgets.Widget):
    """Carries script, window and cursor between kernel and browser.

    Attributes
    ----------
    script : dict
        What stays during a run; its `serial` tells one recording from the next.
    window : dict
        Scenes from `start` on; `goto` and `note` answer a request to seek.
    step : int
        The cursor; both sides move it.
    """

    script = traitlets.Dict().tag(sync=True)
    window = traitlets.Dict().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)


class Stage(anywidget.AnyWidget):
    """Plays a recording.

    Parameters
    ----------
    recording : Recording
        What to play.
    step : int, optional
        Where the cursor starts.
    choices : sequence of dict, optional
        Menus of the toolbar: `name`, `label`, `options`, `value`. What a choice does is for a subclass:
        see `choose`.
    """

    _esm = module("stage")
    _css = style("stage")

    feed = traitlets.Instance(Feed).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, recording: Recording, *, step: int = 0, choices: Sequence[Mapping[str, Any]] = ()) -> None:
        self.views_ready = 0
        self.choices = [dict(choice) for choice in choices]
        super().__init__(feed=Feed())
        self.load(recording, step=step)
        self.feed.on_msg(self._on_message)
        self.feed.observe(self._moved, "step")

    def load(self, recording: Recording, *, step: int = 0) -> None:
        """Show another recording.

        Raises
        ------
        OptionError
            There is no such step.
        """
        if not 0 <= step <= recording.length:
            raise OptionError(f"no step {step}: this recording has steps 0 to {recording.length}")
        self.recording = recording
        self.writer = SceneWriter(recording)
        self.serial = next(_serials)
        script = {**self.writer.script(), "serial": self.serial, "choices": self.choices}
        window = {**exact(self.writer.window(step - LEAD)), "serial": self.serial}
        with self.feed.hold_sync():  # the browser must see the three together
            self.feed.step = step
            self.feed.window = window
            self.feed.script = script
        self._moved(None)

    @property
    def step(self) -> int:
        """The cursor: the step that the views show (as far as they have told). Assign to move it."""
        return int(self.feed.step)

    @step.setter
    def step(self, step: int) -> None:
        if not 0 <= step <= self.recording.length:
            raise OptionError(f"no step {step}: this recording has steps 0 to {self.recording.length}")
        self.feed.step = step

    def choose(self, name: str, value: str) -> None:
        """Act on a menu of the toolbar; the stage itself only notes the value."""
        for choice in self.choices:
            if choice["name"] == name:
                choice["value"] = value

    def describe(self) -> str:
        """Say in words what the stage shows now."""
        return describe_scene(self.writer.scene(self.step), self.writer.script())

    def _moved(self, change: object) -> None:
        """Bring the recording to the cursor, so that a cell below sees the machine that the stage shows."""
        self.recording.seek(min(max(self.feed.step, 0), self.recording.length))

    def _window(self, start: int, **extra: object) -> dict[str, Any]:
        window = {**exact(self.writer.window(start)), "serial": self.serial, **extra}
        self._moved(None)
        return window

    def _on_message(self, _: object, content: dict[str, Any], buffers: object) -> None:
        """Answer a view."""
        answers = {"ready": self._ready, "window": self._more, "seek": self._seek, "choose": self._chosen}
        answer = answers.get(content.get("type", ""))
        if answer is not None:
            answer(content)

    def _ready(self, content: dict[str, Any]) -> None:
        self.views_ready += 1
        self.feed.send_state()

    def _more(self, content: dict[str, Any]) -> None:
        self.feed.window = self._window(int(content["start"]))

    def _seek(self, content: dict[str, Any]) -> None:
        """Find the next or previous trap beyond what the browser holds."""
        step, direction = int(content["from"]), int(content["direction"])
        steps = [event.step for event in self.recording.events if event.kind in STOPS]
        ahead = min((other for other in steps if other > step), default=None)
        behind = max((other for other in steps if other < step), default=None)
        target = ahead if direction > 0 else behind
        note = "" if target is not None else "No trap follows." if direction > 0 else "No trap before."
        self.feed.window = self._window((step if target is None else target) - LEAD, goto=target, note=note)

    def _chosen(self, content: dict[str, Any]) -> None:
        self.choose(str(content["name"]), str(content["value"]))

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Add a picture and a text for viewers without a kernel to the widget."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        scene, script = self.writer.scene(self.step), self.writer.script()
        data["image/svg+xml"] = scene_svg(scene, script)
        data["text/plain"] = describe_scene(scene, script)
        return data, metadata
