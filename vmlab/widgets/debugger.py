"""The debugger's view: code, registers, stack and memory at an instant, and the commands of `vmlab.vmm.debugger`.

The widget is a face of a `Debugger`: a button, a key and a call from a cell are the same command, and what is shown is
read from the machine after it. State travels through a plain core widget, for the reason that `vmlab.widgets.stage` tells.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from vmlab.errors import OptionError, VmlabError
from vmlab.machine.recording import Recording
from vmlab.views.debugger import debugger_scene, debugger_svg
from vmlab.vmm.debugger import Debugger
from vmlab.vmm.run import record
from vmlab.widgets.assets import module, style

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.image import Image
    from vmlab.vmm.snapshot import Snapshot

__all__ = ["DebuggerFeed", "DebuggerView", "debug"]

MOVES = frozenset({"step", "back", "over", "back_over", "finish", "back_finish", "cont", "back_cont"})
COMMANDS = MOVES | {"goto", "find", "who_wrote", "break_at", "break_when", "break_on", "watch", "remove"}
LOOKS = frozenset(
    {
        "recording",
        "position",
        "breakpoints",
        "stop",
        "registers",
        "flags",
        "stack",
        "memory",
        "listing",
        "instruction",
        "place",
        "value",
    }
)


class DebuggerFeed(ipywidgets.Widget):
    """Carries what is shown to the browser.

    Attributes
    ----------
    scene : dict
        See `vmlab.views.debugger`; with `title`, `note`, and the memory that was asked for.
    """

    scene = traitlets.Dict().tag(sync=True)


class DebuggerView(anywidget.AnyWidget):
    """Shows a debugger. Every command of `Debugger` can be called on it, too.

    Parameters
    ----------
    debugger : Debugger
        What to show.
    """

    _esm = module("debugger")
    _css = style("debugger")

    feed = traitlets.Instance(DebuggerFeed).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, debugger: Debugger) -> None:
        self.debugger = debugger
        self._place, self._physical, self._note = "", False, ""
        super().__init__(feed=DebuggerFeed())
        self.feed.on_msg(self._on_message)
        self.refresh()

    # -- the debugger's commands -------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Return a command of the debugger that shows what came of it, or what else the debugger has."""
        if name in COMMANDS:
            return self._command(name)
        if name in LOOKS:
            return getattr(self.debugger, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *COMMANDS, *LOOKS})

    def _command(self, name: str) -> Callable[..., Any]:
        act = getattr(self.debugger, name)

        @wraps(act)
        def command(*arguments: Any, **options: Any) -> Any:
            self._note = ""
            try:
                return act(*arguments, **options)
            finally:
                self.refresh()

        return command

    def describe(self) -> str:
        """Say in words what is shown."""
        return self.debugger.describe()

    # -- the view ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show what is so now."""
        recording = self.recording
        place = self._place or ("rsp" if self.debugger.view.bits == 64 else "esp")
        scene = debugger_scene(self.debugger, place, physical=self._physical)
        title = f"{self.debugger.view.guest.name} · {recording.system.technique}"
        asked = {"memory_place": place, "memory_physical": self._physical}
        self.feed.scene = {**scene, **asked, "title": title, "note": self._note}

    def _on_message(self, _: object, content: dict[str, Any], buffers: object) -> None:
        """Do what a view asks for; what is wrong with it is shown there."""
        kind = str(content.get("type", ""))
        answers = {
            "goto": self._goto,
            "toggle": self._toggle,
            "add": self._added,
            "remove": self._removed,
            "memory": self._asked,
        }
        try:
            if kind == "ready":
                self.refresh()
                self.feed.send_state()
            elif kind in MOVES:
                self._command(kind)()
            elif kind in answers:
                answers[kind](content)
        except VmlabError as error:
            self._note = str(error)
            self.refresh()

    def _goto(self, content: dict[str, Any]) -> None:
        self.goto(min(max(int(content["step"]), 0), self.recording.length))

    def _toggle(self, content: dict[str, Any]) -> None:
        """Set a breakpoint at an address, or remove the one that is there."""
        address = int(content["address"], 16)
        there = [
            each.number
            for each in self.breakpoints
            if getattr(each, "address", None) == address and each.kind == "address"
        ]
        if there:
            self.remove(there[0])
        else:
            self.break_at(address)

    def _added(self, content: dict[str, Any]) -> None:
        """Add a breakpoint that was typed: `kind` is one of those of `vmlab.vmm.breakpoints`."""
        text = str(content["text"]).strip()
        add = {"address": self.break_at, "condition": self.break_when, "write": self.watch, "event": self._event}
        add[str(content["kind"])](text)

    def _event(self, text: str) -> None:
        """Add a breakpoint on an event, as `trap`, `trap vector=14`, `control register=cr3`."""
        kind, *pairs = text.split() or [""]
        values: dict[str, object] = {}
        for pair in pairs:
            name, _, value = pair.partition("=")
            try:
                values[name] = int(value, 0)
            except ValueError:
                values[name] = {"true": True, "false": False}.get(value.lower(), value)
        self.break_on(kind, **values)

    def _removed(self, content: dict[str, Any]) -> None:
        self.remove(int(content["number"]))

    def _asked(self, content: dict[str, Any]) -> None:
        self._place, self._physical, self._note = str(content["place"]).strip(), bool(content["physical"]), ""
        self.refresh()

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Add a picture and a text for viewers without a kernel to the widget."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        self.refresh()
        data["image/svg+xml"] = debugger_svg(self.feed.scene, self.feed.scene["title"])
        data["text/plain"] = self.describe()
        return data, metadata


def debug(
    what: Image | Sequence[Image] | Snapshot | Recording, under: str | None = None, *, guest: int = 0, **options: Any
) -> DebuggerView:
    """Debug a run, forwards and backwards.

    Parameters
    ----------
    what : Image, sequence of Image, Snapshot or Recording
        A recording; or what to record first, to its end.
    under, **options
        As of `vmlab.record`.
    guest : int
        Whose code, registers and memory.

    Returns
    -------
    DebuggerView
        A widget; the last expression of a cell is displayed. Its commands are those of `vmlab.Debugger`, which needs no
        widgets.

    Raises
    ------
    OptionError
        An option is not possible.
    """
    if isinstance(what, Recording) and (under is not None or options):
        given = ["under"] * (under is not None) + list(options)
        raise OptionError(
            f"{', '.join(given)}: the recording is made already; give an image, or vmlab.debug(recording)"
        )
    recording = what if isinstance(what, Recording) else record(what, under, **options)
    return DebuggerView(Debugger(recording, guest))
