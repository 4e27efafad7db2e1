"""The walk theatre: a page walk on the stage, reference by reference (Figure 18.4 of *Operating System Concepts*, 10th ed.).

All scenes of a walk are sent at once; what the kernel is asked for is another walk. State travels through a plain core
widget, for the reason that `vmlab.widgets.stage` tells.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from vmlab.errors import OptionError, VmlabError
from vmlab.views.walk_scene import walk_script
from vmlab.views.walk_svg import walk_svg
from vmlab.vmm.system import System, system_of
from vmlab.vmm.viewpoint import Viewpoint
from vmlab.vmm.walk_lab import WalkLab
from vmlab.widgets.assets import module, style
from vmlab.widgets.walk_questions import LabQuestion, SystemQuestion

if TYPE_CHECKING:
    from vmlab.machine.recording import Recording
    from vmlab.views.page_walk import PageWalk
    from vmlab.vmm.run import Run

__all__ = ["WalkFeed", "WalkTheatre", "show_walk"]

_serials = count(1)


class WalkFeed(ipywidgets.Widget):
    """Carries a walk to the browser, and the cursor both ways.

    Attributes
    ----------
    walk : dict
        See `vmlab.views.walk_scene`; with the controls and a `serial` of its own.
    step : int
        Which scene is shown.
    note : dict
        What was wrong with a value: `text`, and a `serial` of its own.
    """

    walk = traitlets.Dict().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    note = traitlets.Dict().tag(sync=True)


class WalkTheatre(anywidget.AnyWidget):
    """Shows page walks.

    Parameters
    ----------
    question : LabQuestion or SystemQuestion
        What to walk, and for which access.

    Notes
    -----
    Keys: arrows step, space plays, `n` and `p` go to the next and previous table of the guest, Home and End to the ends.
    """

    _esm = module("walk")
    _css = style("walk")

    feed = traitlets.Instance(WalkFeed).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, question: LabQuestion | SystemQuestion) -> None:
        self.question = question
        self.views_ready = 0
        super().__init__(feed=WalkFeed())
        self.feed.on_msg(self._on_message)
        self.refresh()

    @property
    def walk(self) -> PageWalk:
        """The walk that is shown, as it is now."""
        return self.question.answer()

    @property
    def step(self) -> int:
        """Which scene is shown. Assign to move."""
        return int(self.feed.step)

    @step.setter
    def step(self, step: int) -> None:
        last = len(self.feed.walk["scenes"]) - 1
        if type(step) is not int or not 0 <= step <= last:
            raise OptionError(f"there is no scene {step!r}: this walk has scenes 0 to {last}")
        self.feed.step = step

    def refresh(self, step: int = 0) -> None:
        """Walk again, and show it from a scene on; -1 is the last."""
        question = self.question
        script = walk_script(question.answer())
        script |= {
            "controls": question.controls(),
            "actions": [list(action) for action in question.actions],
            "editable": question.editable,
            "serial": next(_serials),
        }
        last = len(script["scenes"]) - 1
        with self.feed.hold_sync():
            self.feed.step = last if step < 0 else min(step, last)
            self.feed.walk = script

    def ask(self, **controls: object) -> None:
        """Set controls, as `address=0x401000`, `access="write"`, `host_format="npt"`, and walk.

        Raises
        ------
        OptionError
            A value is not possible; what was set before it stays so.
        """
        for name, value in controls.items():
            self.question.set(name, value)
        self.refresh()

    def describe(self) -> str:
        """Say the whole walk in words."""
        return self.walk.describe()

    def _on_message(self, _: object, content: dict[str, Any], buffers: object) -> None:
        """Answer a view; what is wrong with a value is said there."""
        try:
            kind = content.get("type", "")
            if kind == "ready":
                self.views_ready += 1
                self.feed.send_state()
            elif kind == "set":
                self.ask(**{str(content["name"]): content["value"]})
            elif kind == "act":
                self.question.act(str(content["name"]))
                self.refresh(1)
            elif kind == "flip":
                self._flip(content)
        except VmlabError as error:
            self.feed.note = {"text": str(error), "serial": next(_serials)}

    def _flip(self, content: dict[str, Any]) -> None:
        """Change a bit of the entry that a scene shows, and show what comes of it."""
        scenes = self.feed.walk["scenes"]
        step = min(max(int(content["step"]), 0), len(scenes) - 1)
        shown = sum(scene["kind"] == "step" for scene in scenes[: step + 1]) - 1
        self.question.flip(shown, int(content["bit"]))
        self.refresh(-1)

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Add a picture and a text for viewers without a kernel to the widget."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data["image/svg+xml"] = walk_svg(self.feed.walk)
        data["text/plain"] = self.describe()
        return data, metadata


def show_walk(
    of: System | Run | Recording | WalkLab | None = None,
    address: int | None = None,
    *,
    guest: int = 0,
    access: str = "read",
    user: bool | None = None,
) -> WalkTheatre:
    """Show a page walk, reference by reference, in a notebook.

    Parameters
    ----------
    of : System, Run, Recording or WalkLab, optional
        Whose tables, as for `vmlab.walk`; if not given, a laboratory of 4-level tables over EPT, whose formats can be chosen.
    address : int, optional
        Where to; if not given, the guest's next instruction, or an address that the laboratory maps.
    guest, access, user
        As for `vmlab.walk`.

    Returns
    -------
    WalkTheatre
        A widget; the last expression of a cell is displayed.

    Raises
    ------
    OptionError
        No address, no access, no guest, or nothing with page tables.
    """
    if of is None:
        of = WalkLab()
    if isinstance(of, WalkLab):
        return WalkTheatre(LabQuestion(of, address, access, user))
    system = system_of(of, guest, "show_walk takes a Run, a Recording, a System or a WalkLab")
    if address is None:
        address = Viewpoint(system, guest).address
    return WalkTheatre(SystemQuestion(of, address, access, user, guest))
