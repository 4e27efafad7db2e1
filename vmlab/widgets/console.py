"""The console: a widget in which one types to a guest that runs while one looks.

The guest's machine runs in short slices on the kernel's own event loop, so that cells and other widgets get their turn
between two of them. What it does is a `vmlab.vmm.session.Session`, and so a recording: the console goes back in it, and
`console.recording` can be searched and debugged like any other.

Nobody waits busily: how fast a guest goes is a matter of its `Pace`; one that has ended, or that nobody looks at, stops.

State travels through a plain core widget, for the reason that `vmlab.widgets.stage` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from vmlab.errors import OptionError, VmlabError
from vmlab.machine.recording import Recording
from vmlab.views.console import console_svg, history_lines, session_display
from vmlab.views.theme import ANSI
from vmlab.vmm.run import start
from vmlab.vmm.session import Session
from vmlab.vmm.system import System
from vmlab.widgets.assets import module, style
from vmlab.widgets.pace import BREATH, Pace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.image import Image
    from vmlab.vmm.snapshot import Snapshot

__all__ = ["Console", "ConsoleFeed", "console"]

FRAME = 0.05  # seconds between two pictures
REPORT = 0.25  # seconds between two reports of speed and state
LOOKED_AT = 90.0  # seconds after a view's last sign of life
BEGINNING = 2_000_000  # steps that are run before anyone looks, at most

HINTS = {
    "serial": "Click and type. Ctrl+C interrupts, Ctrl+V pastes, Shift+Tab leaves.",
    "cga": "Click and type: keys go to the PC's keyboard. Ctrl+V pastes, Shift+Tab leaves.",
}

ASLEEP = "Asleep, since nothing happened for a while. Type, or press Run."
MOVED = "Its recording is looked at elsewhere, by a debugger say. Run, or type, to go on at its end."

_serials = count(1)


class ConsoleFeed(ipywidgets.Widget):
    """Carries screen and state between kernel and browser.

    Attributes
    ----------
    script : dict
        What stays: title, size, palette.
    screen : dict
        A display (see `vmlab.views.console`), with the lines above it that the browser does not have yet.
    status : dict
        Where the session is and what the guest does.
    """

    script = traitlets.Dict().tag(sync=True)
    screen = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)


class Console(anywidget.AnyWidget):
    """A guest's console.

    Parameters
    ----------
    session : Session
        What to show and to run.

    Attributes
    ----------
    running : bool
        Whether it runs while someone looks.
    """

    _esm = module("console")
    _css = style("console")

    feed = traitlets.Instance(ConsoleFeed).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, session: Session) -> None:
        self.session = session
        self.running = True
        self._note = ""
        self._epoch = (0, 0)
        self._sent = 0
        self.pace = Pace()
        self._drawn = self._reported = self._seen = 0.0
        self._task: asyncio.Task[None] | None = None
        self._woken: asyncio.Event | None = None
        self._serial = next(_serials)
        super().__init__(feed=ConsoleFeed())
        display = session_display(session)
        self.feed.script = {
            "title": f"{session.guest.name} · {session.recording.system.technique}",
            "columns": display["columns"],
            "rows": display["rows"],
            "screen": session.screen,
            "palette": list(ANSI),
            "hint": HINTS[session.screen],
        }
        self.feed.on_msg(self._on_message)
        self.refresh()

    # -- in Python ---------------------------------------------------------------------------------------------------

    @property
    def recording(self) -> Recording:
        """The session so far."""
        return self.session.recording

    @property
    def text(self) -> str:
        """What the screen shows."""
        return self.session.terminal.text if self.session.screen == "serial" else self.session.guest.screen.rstrip()

    def type(self, text: str) -> None:
        """Type a text at the cursor; newline is Enter.

        Raises
        ------
        OptionError
            The guest has ended, or there is no such key.
        """
        self.session.type(text)
        self._go()

    def advance(self, steps: int = BEGINNING) -> int:
        """Run at once, for at most so many steps, until the guest waits for a key or ends; return how many."""
        done = self.session.advance_until_waiting(steps)
        self.refresh()
        return done

    def seek(self, step: int) -> None:
        """Go to an instant of the session, and stay there."""
        self.pause()
        self.session.seek(step)
        self.refresh()

    def run(self) -> None:
        """Run while someone looks."""
        self.session.resume()
        self.running = True
        self._go()

    def pause(self) -> None:
        """Stop running."""
        self.running = False
        self.refresh()

    def reset(self) -> None:
        """Switch the machine off and on."""
        self.session.reset()
        self._go()

    def describe(self) -> str:
        """Say in words what the console shows."""
        return self.session.describe()

    # -- running -----------------------------------------------------------------------------------------------------

    def _go(self) -> None:
        """Show what is new, and see to it that the machine runs if it should."""
        self._note = ""
        self.refresh()
        if self._woken is not None:
            self._woken.set()
        if not self._wanted():
            return
        if self._task is None or self._task.done():
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # no event loop, as in a plain script: see `advance`
                return
            self._woken = asyncio.Event()
            self._task = loop.create_task(self._work())

    def _wanted(self) -> bool:
        """Whether there is someone to run for, and something to run."""
        if not self.running or self.session.moved or monotonic() - self._seen > LOOKED_AT:
            return False
        return self.session.past or not self.session.recording.ended

    async def _work(self) -> None:
        """Run in slices, until nobody wants it."""
        try:
            self.pace.start()
            while self._wanted():
                more = self.pace.slice(self.session)
                self._draw_when_due()
                if not more:
                    if not self.recording.ended:
                        self.running, self._note = False, ASLEEP
                    break
                if self.pace.delay > FRAME:
                    self._draw()
                self.pace.rested(await self._sleep(self.pace.delay))
        except VmlabError as error:
            self.running, self._note = False, str(error)
        self.refresh()

    async def _sleep(self, delay: float) -> float:
        """Let others work; return how long that took."""
        started = monotonic()
        if delay <= BREATH or self._woken is None:
            await asyncio.sleep(delay)
        else:
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), delay)
        return monotonic() - started

    # -- drawing -----------------------------------------------------------------------------------------------------

    def _draw_when_due(self) -> None:
        now = monotonic()
        if now - self._drawn >= FRAME:
            self._draw()
        if now - self._reported >= REPORT:
            self._report()

    def refresh(self) -> None:
        """Show what is so now."""
        self._draw()
        self._report()

    def _draw(self) -> None:
        self._drawn = monotonic()
        terminal = self.session.terminal
        epoch = (self._serial, terminal.restarts)
        if epoch != self._epoch:
            self._epoch, self._sent = epoch, 0
        display = session_display(self.session)
        history = history_lines(terminal, self._sent)
        if self.session.screen == "cga":
            history = {"start": 0, "lines": []}
        self._sent = display["first"]
        self.feed.screen = {**display, "history": history, "epoch": list(epoch)}

    def _report(self) -> None:
        self._reported = monotonic()
        session, recording, state = self.session, self.session.recording, self.session.state
        over = recording.ended and state != "waiting"
        self.feed.status = {
            "state": state,
            "status": session.guest.status if recording.ended else None,
            "running": self.running and (session.past or not over),
            "over": over,
            "past": session.past,
            "position": recording.position,
            "length": recording.length,
            "instructions": session.guest.instructions,
            "rate": int(float(f"{self.pace.rate:.2g}")) if self._task is not None and not self._task.done() else 0,
            "note": self._note or (MOVED if session.moved else ""),
        }

    # -- messages ----------------------------------------------------------------------------------------------------

    def _on_message(self, _: object, content: dict[str, Any], buffers: object) -> None:
        """Answer a view."""
        kind = content.get("type", "")
        if kind != "gone":
            self._seen = monotonic()
        answer = {
            "ready": self._ready, "alive": self._alive, "gone": self._gone, "keys": self._keys, "run": self._run,
            "pause": self._pause, "reset": self._reset, "seek": self._seek, "live": self._live,
        }.get(kind)  # fmt: skip
        if answer is None:
            return
        try:
            answer(content)
        except VmlabError as error:
            self._note = str(error)
            self.refresh()

    def _ready(self, content: dict[str, Any]) -> None:
        """Send a new view everything, the lines above the screen too."""
        self._sent = 0
        self._go()
        self.feed.send_state()

    def _alive(self, content: dict[str, Any]) -> None:
        if self._task is None or self._task.done():
            self._go()

    def _gone(self, content: dict[str, Any]) -> None:
        self._seen = monotonic() - LOOKED_AT

    def _keys(self, content: dict[str, Any]) -> None:
        for key in content["keys"]:
            if "paste" in key:
                self.session.paste(str(key["paste"]))
            else:
                modifiers = {name: bool(key.get(name)) for name in ("ctrl", "alt", "shift")}
                self.session.press(str(key["key"]), **modifiers)
        self.running = True
        self._go()

    def _run(self, content: dict[str, Any]) -> None:
        self.run()

    def _pause(self, content: dict[str, Any]) -> None:
        self.pause()

    def _reset(self, content: dict[str, Any]) -> None:
        self.running = True
        self.reset()

    def _seek(self, content: dict[str, Any]) -> None:
        self.seek(min(max(int(content["step"]), 0), self.recording.length))

    def _live(self, content: dict[str, Any]) -> None:
        self.session.seek(self.recording.length)
        self.run()

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Add a picture and a text for viewers without a kernel to the widget."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        note = f"{self.session.state} · step {self.recording.position:,}"
        data["image/svg+xml"] = console_svg(session_display(self.session), self.feed.script["title"], note)
        data["text/plain"] = self.describe()
        return data, metadata


def console(
    what: Image | Sequence[Image] | Snapshot | System | Recording,
    under: str | None = None,
    *,
    screen: str = "serial",
    guest: int = 0,
    columns: int = 80,
    rows: int = 24,
    **options: Any,
) -> Console:
    r"""Open the console of a guest: it runs while one looks, and one types in it.

    Parameters
    ----------
    what : Image, sequence of Image, Snapshot, System or Recording
        What to boot, or to resume; or a system that runs already; or a recording, which goes on at its end.
    under : str
        Technique, for an image: native if not given.
    screen : {"serial", "cga"}
        The serial terminal, or the CGA screen and the keyboard.
    guest : int
        Whose console, where there are several guests.
    columns, rows : int
        Size of the serial terminal.
    **options
        For an image, as of `vmlab.run`; the translator is used unless `engine` says otherwise.

    Returns
    -------
    Console
        A widget; the last expression of a cell is displayed. `.type("ls\n")` types from a cell, `.recording` is the
        session so far, to be sought and debugged.

    Raises
    ------
    OptionError
        An option is not possible.
    """
    if isinstance(what, (Recording, System)) and (under is not None or options):
        given = ["under"] * (under is not None) + list(options)
        raise OptionError(f"{', '.join(given)}: belongs to the system, which is built already; give an image instead")
    if isinstance(what, Recording):
        recording = what
    elif isinstance(what, System):
        recording = Recording(what, max_steps=0)
    else:
        recording = Recording(start(what, under, None, {"engine": "auto", **options}), max_steps=0)
    session = Session(recording, guest=guest, screen=screen, columns=columns, rows=rows)
    session.advance_until_waiting(BEGINNING)
    return Console(session)
