"""The VMCS inspector: the fields of a guest's control block by group, what the last exit changed, and a trial of an entry.

A value that is edited is tried on a copy (`vmlab.vmm.control_block`): the machine does not change. State travels through a plain
core widget, for the reason that `vmlab.widgets.stage` tells.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from vmlab.errors import OptionError, VmlabError
from vmlab.machine.recording import Recording
from vmlab.vmm.vmcs_view import vmcs
from vmlab.widgets.assets import module, style

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.vmm.control_block import ControlBlock, EntryVerdict
    from vmlab.vmm.run import Run
    from vmlab.vmm.system import System
    from vmlab.vmm.thin_vm import ThinVm

__all__ = ["VmcsFeed", "VmcsInspector", "show_vmcs"]

EXIT = "vm-exit"
_serials = count(1)


def read_value(text: object) -> int:
    """Return a number that was typed, as `0x1234`, `1234h` or `4096`; OptionError where it is none."""
    words = str(text).strip().lower().replace("_", "")
    try:
        return int(words[:-1], 16) if words.endswith("h") else int(words, 0)
    except ValueError:
        raise OptionError(f"{text!r} is no number: type one as 0x1234") from None


class VmcsFeed(ipywidgets.Widget):
    """Carries a control block to the browser, and what was found of an entry.

    Attributes
    ----------
    block : dict
        The block as it is shown, with a `serial` of its own.
    verdict : dict
        What an entry comes to: `ok`, `outcome`, `rules`, `untried`; `said` and `wrong` by edited field; a `serial`.
    """

    block = traitlets.Dict().tag(sync=True)
    verdict = traitlets.Dict().tag(sync=True)


class VmcsInspector(anywidget.AnyWidget):
    """Shows a guest's VMCS, and which check refuses an edited one.

    Parameters
    ----------
    of : System, Run, Recording or ThinVm
        As for `vmlab.vmcs`.
    guest, own
        As there.

    Notes
    -----
    Keys: `n` and `p` go to the next and previous exit of a recording, `/` to the search; Enter tries a value.
    """

    _esm = module("vmcs")
    _css = style("vmcs")

    feed = traitlets.Instance(VmcsFeed).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, of: System | Run | Recording | ThinVm, *, guest: int = 0, own: bool = False) -> None:
        self.of, self.guest, self.own = of, guest, own
        self.views_ready = 0
        self.block = vmcs(of, guest=guest, own=own)
        super().__init__(feed=VmcsFeed())
        self.feed.on_msg(self._on_message)
        self._show()

    def refresh(self) -> None:
        """Take the block anew, as it is now, and drop what was edited."""
        self.block = vmcs(self.of, guest=self.guest, own=self.own)
        self._show()

    def _show(self) -> None:
        with self.feed.hold_sync():
            self.feed.verdict = _verdict(self.block, {})
            self.feed.block = _script(self.block) | {"exits": self._has_exits, "serial": next(_serials)}

    @property
    def _has_exits(self) -> bool:
        return isinstance(self.of, Recording) and not self.own

    def next_exit(self) -> bool:
        """Go to the next exit of the guest in the recording; False, without moving, where there is none."""
        return self._go(forwards=True)

    def previous_exit(self) -> bool:
        """Go to the previous exit of the guest; False, without moving, where there is none."""
        return self._go(forwards=False)

    def _go(self, *, forwards: bool) -> bool:
        recording = self.of
        if not isinstance(recording, Recording):
            raise OptionError("exits are gone through in a Recording: make one by vmlab.record(...)")
        search = recording.events.after if forwards else recording.events.before
        event = search(recording.position, EXIT, lambda each: each.guest == self.guest)
        if event is None:
            return False
        recording.seek(event.step)
        self.refresh()
        return True

    def try_entry(self, **changes: int) -> EntryVerdict:
        """Edit fields, and show what an entry comes to; see `vmlab.vmm.control_block.ControlBlock.try_entry`."""
        verdict = self.block.try_entry(**changes)
        self.feed.verdict = _verdict(self.block, {name: f"{value:#x}" for name, value in verdict.changes.items()})
        return verdict

    def describe(self) -> str:
        """Say in words what the block holds."""
        return self.block.describe()

    def _on_message(self, _: object, content: dict[str, Any], buffers: object) -> None:
        """Answer a view."""
        kind = content.get("type", "")
        try:
            if kind == "ready":
                self.views_ready += 1
                self.feed.send_state()
            elif kind == "try":
                self.feed.verdict = _verdict(self.block, dict(content["edits"]))
            elif kind == "exit" and not self._go(forwards=bool(content["forwards"])):
                raise OptionError(f"there is no {'later' if content['forwards'] else 'earlier'} exit")
        except VmlabError as error:
            self.feed.verdict = self.feed.verdict | {"note": str(error), "serial": next(_serials)}

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Add tables and a text for viewers without a kernel to the widget."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data["text/html"] = self.block._repr_html_()
        data["text/plain"] = self.describe()
        return data, metadata


def _script(block: ControlBlock) -> dict[str, Any]:
    """Return what the browser shows of a block."""
    groups = [
        {
            "name": name,
            "fields": [
                {
                    "name": each.name, "place": f"{each.place:#06x}", "bits": each.width, "value": each.digits(each.value),
                    "said": each.said, "was": each.was, "locked": each.read_only,
                }
                for each in fields
            ],
        }
        for name, fields in block.groups.items()
    ]  # fmt: skip
    summary = [block.state, f"Last exit: {block.exit}" if block.exit else "There was no exit yet"]
    changed = len(block.changed)
    if block.since:
        summary.append(f"{changed} field{'' if changed == 1 else 's'} changed {block.since}")
    return {"kind": block.kind, "title": f"{block.kind} of {block.title}", "summary": summary, "groups": groups, "text": block.describe()}  # fmt: skip


def _verdict(block: ControlBlock, edits: Mapping[str, object]) -> dict[str, Any]:
    """Try an entry with edited fields; values that a field cannot hold are told, and left out."""
    changes: dict[str, int] = {}
    said, wrong = {}, {}
    for name, text in edits.items():
        try:
            value = read_value(text)
            said[name] = block.say(name, value)
            if value != block[name].value:
                changes[name] = value
        except OptionError as error:
            wrong[name] = str(error)
    found = block.try_entry(**changes)
    return {
        "ok": found.accepted, "outcome": found.outcome or "Accepted: the guest would run", "manual": found.manual,
        "rules": [[rule.section, rule.text] for rule in found.rules], "untried": found.untried, "edited": len(changes),
        "edits": {name: block[name].digits(value) for name, value in changes.items()}, "said": said, "wrong": wrong, "note": "",
        "serial": next(_serials),
    }  # fmt: skip


def show_vmcs(of: System | Run | Recording | ThinVm, *, guest: int = 0, own: bool = False) -> VmcsInspector:
    """Show a guest's VMCS in a notebook: fields by group, what the last exit changed, and a trial of an entry.

    Parameters
    ----------
    of : System, Run, Recording or ThinVm
        As for `vmlab.vmcs`; a recording can be gone through from exit to exit.
    guest : int
        Which guest's.
    own : bool
        That which the guest, a hypervisor itself, keeps for a guest of its own.

    Returns
    -------
    VmcsInspector
        A widget; the last expression of a cell is displayed.

    Raises
    ------
    OptionError
        As of `vmlab.vmcs`.
    """
    return VmcsInspector(of, guest=guest, own=own)
