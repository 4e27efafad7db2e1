"""The layer explorer: the graph of a running system, or of two side by side; a part's state; an event's way through the layers.

It holds running systems and draws them anew after whatever has been done to them. State travels through a plain core widget, for
the reason that `vmlab.widgets.stage` tells.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from vmlab.errors import OptionError, VmlabError
from vmlab.kinds.presets import PRESETS, preset
from vmlab.kinds.running import Running
from vmlab.views.kind_graph import kind_graph
from vmlab.views.kind_scene import journey_scene, kind_scene
from vmlab.views.kind_svg import kind_svg
from vmlab.widgets.assets import module, style

if TYPE_CHECKING:
    from vmlab.kinds.journey import Journey

__all__ = ["LayerExplorer", "LayerFeed", "show_layers"]

MOST = 2
FIRST_STEPS, MOST_STEPS = 45_000, 1_000_000
_serials = count(1)


class LayerFeed(ipywidgets.Widget):
    """Carries the panes to the browser.

    Attributes
    ----------
    panes : dict
        `panes`, see `vmlab.views.kind_scene`, each with `journey` and `note`; `names` of the presets by kind; a `serial`.
    """

    panes = traitlets.Dict().tag(sync=True)


class LayerExplorer(anywidget.AnyWidget):
    """Shows running systems.

    Parameters
    ----------
    systems : list of Running
        One or two.

    Notes
    -----
    Keys: arrows step through a journey, Home and End go to its ends.
    """

    _esm = module("layers")
    _css = style("layers")

    feed = traitlets.Instance(LayerFeed).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, systems: list[Running]) -> None:
        self.systems = systems
        self.journeys: list[Journey | None] = [None] * len(systems)
        self._notes = [""] * len(systems)
        self.views_ready = 0
        super().__init__(feed=LayerFeed())
        self.feed.on_msg(self._on_message)
        self.refresh()

    def refresh(self) -> None:
        """Draw the systems as they are now."""
        panes = [
            kind_scene(system) | {"journey": None if journey is None else journey_scene(journey), "note": note}
            for system, journey, note in zip(self.systems, self.journeys, self._notes, strict=True)
        ]
        names: dict[str, list[str]] = {}
        for each in PRESETS.values():
            names.setdefault(each.kind, []).append(each.name)
        self.feed.panes = {
            "panes": panes,
            "names": [[kind, found] for kind, found in names.items()],
            "serial": next(_serials),
        }

    def choose(self, name: str, pane: int = 0) -> None:
        """Show another kind in a pane; one pane more is opened by its number.

        Raises
        ------
        OptionError
            No such preset, or no such pane.
        """
        if type(pane) is not int or not 0 <= pane <= min(len(self.systems), MOST - 1):
            raise OptionError(f"there is no pane {pane!r}: there are {MOST} at most, numbered from 0")
        system = begun(name)
        if pane == len(self.systems):
            self.systems.append(system)
            self.journeys.append(None)
            self._notes.append("")
        else:
            self.systems[pane], self.journeys[pane], self._notes[pane] = system, None, ""
        self.refresh()

    def close_pane(self, pane: int) -> None:
        """Close one of two panes."""
        if len(self.systems) == MOST:
            for each in (self.systems, self.journeys, self._notes):
                each.pop(pane)
        self.refresh()

    def advance(self, steps: int, pane: int = 0) -> None:
        """Let a pane's system run on for so many steps."""
        self._pane(pane).advance(min(steps, MOST_STEPS) if type(steps) is int else steps)
        self.refresh()

    def follow(self, event: str, pane: int = 0) -> Journey:
        """Follow an event through a pane's layers, and show its way."""
        journey = self.journeys[pane] = self._pane(pane).follow(event)
        self.refresh()
        return journey

    def kill(self, part: str, pane: int = 0) -> None:
        """End a guest or a process by the name of a part."""
        self._pane(pane).kill(part)
        self.refresh()

    def _pane(self, pane: int) -> Running:
        if type(pane) is not int or not 0 <= pane < len(self.systems):
            raise OptionError(f"there is no pane {pane!r}: there are {len(self.systems)}, numbered from 0")
        return self.systems[pane]

    def describe(self) -> str:
        """Say in words what the panes show."""
        return "\n\n".join(system.describe() for system in self.systems)

    def _on_message(self, _: object, content: dict[str, Any], buffers: object) -> None:
        """Answer a view; what is wrong is said in the pane."""
        kind, pane = content.get("type", ""), content.get("pane", 0)
        if kind == "ready":
            self.views_ready += 1
            self.feed.send_state()
            return
        pane = pane if type(pane) is int and 0 <= pane < len(self.systems) else 0
        self._notes[pane] = ""
        try:
            if kind == "choose":
                self.choose(str(content["name"]), int(content["pane"]))
            elif kind == "close":
                self.close_pane(pane)
            elif kind == "run":
                self.advance(int(content["steps"]), pane)
            elif kind == "follow":
                self.follow(str(content["event"]), pane)
            elif kind == "kill":
                self.kill(str(content["part"]), pane)
        except VmlabError as error:
            self._notes[pane] = str(error)
            self.refresh()

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Add a picture and a text for viewers without a kernel to the widget."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data["image/svg+xml"] = kind_svg(kind_graph(self.systems[0]))
        data["text/plain"] = self.describe()
        return data, metadata


def begun(name: str) -> Running:
    """Return a system in the middle of its work."""
    running = preset(name)
    running.advance(FIRST_STEPS)
    return running


def show_layers(*systems: str | Running) -> LayerExplorer:
    """Show the layers of a running system in a notebook, or of two side by side.

    Parameters
    ----------
    *systems : str or Running
        One or two: names of presets, or systems of `vmlab.preset`, which are shown as they are; if none is given, the plain
        virtual machine of the textbook's Figure 18.1.

    Returns
    -------
    LayerExplorer
        A widget; the last expression of a cell is displayed.

    Raises
    ------
    OptionError
        More than two, or one that is neither.
    """
    chosen = systems or ("plain VM",)
    if len(chosen) > MOST:
        raise OptionError(f"at most {MOST} systems are shown side by side, not {len(chosen)}")
    return LayerExplorer([each if isinstance(each, Running) else begun(each) for each in chosen])
