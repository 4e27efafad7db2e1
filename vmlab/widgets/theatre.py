"""The trap-and-emulate theatre (Figure 18.2 of *Operating System Concepts*, 10th ed.): a stage with choices.

Technique and processor are chosen in the stage's own toolbar; a choice makes a new recording by `make` and shows it.
The cursor stays at the same instant as the guest counts time: its retired instructions, not the steps, which differ
from technique to technique.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError, VmlabError
from vmlab.kinds.running import Running
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.recording import Recording
from vmlab.vmm.divergence import Divergence
from vmlab.vmm.run import record
from vmlab.vmm.techniques import techniques_for
from vmlab.widgets.layer_explorer import LayerExplorer, show_layers
from vmlab.widgets.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


__all__ = ["Theatre", "show"]


class Theatre(Stage):
    """Shows a recording with its layers, code, registers, console and timeline.

    Parameters
    ----------
    recording : Recording
        What to show.
    make : callable, optional
        `make(technique, cpu_model)` records again, for the menus; without it there are none.
    techniques, cpu_models : sequence of str, optional
        What the menus offer.
    step : int, optional
        Where the cursor starts.
    technique : str, optional
        What the first menu calls the recording; if not given, the technique of its system.

    Notes
    -----
    Keys: arrows step, space plays, `n` and `p` go to the next and previous trap, Home and End to the ends.
    """

    def __init__(
        self,
        recording: Recording,
        make: Callable[[str, str], Recording] | None = None,
        *,
        techniques: Sequence[str] = (),
        cpu_models: Sequence[str] = (),
        step: int = 0,
        technique: str = "",
    ) -> None:
        self.make = make
        system = recording.system
        now = {"technique": technique or system.technique, "cpu_model": system.machine.cpu.model.name}
        menus = (("technique", "Technique", techniques), ("cpu_model", "CPU", cpu_models))
        choices = [
            {"name": name, "label": label, "options": list(dict.fromkeys([*options, now[name]])), "value": now[name]}
            for name, label, options in menus
            if make is not None and len(options) > 1
        ]
        self._now = now
        super().__init__(recording, step=step, choices=choices)

    def choose(self, name: str, value: str) -> None:
        """Record again with another technique or processor, and show the same instant of the guest."""
        if self.make is None or name not in self._now:
            return
        wanted = {**self._now, name: value}
        time = self._time()
        try:
            recording = self.make(wanted["technique"], wanted["cpu_model"])
        except VmlabError as error:
            self.load(self.recording, step=self.step)
            self.feed.send({"type": "note", "text": str(error)})
            return
        self._now = wanted
        super().choose(name, value)
        self.load(recording, step=_step_at(recording, time))

    def _time(self) -> int:
        """Return the instructions that the first guest has retired at the cursor."""
        self.recording.seek(self.step)
        return int(self.recording.system.instructions())


def show(recording: Recording | Divergence | Running, *, step: int | None = None) -> Theatre | LayerExplorer:
    """Show a recording in a notebook; its menus record the same guests again, otherwise.

    Parameters
    ----------
    recording : Recording, Divergence or Running
        From `vmlab.record`; or from `vmlab.compare(...).divergence()`: the instruction to blame, and a menu that has both sides; or
        from `vmlab.preset`: its layers, as `vmlab.show_layers` shows them.
    step : int, optional
        Where the cursor starts; if not given, at the start, or just before the instruction to blame.

    Returns
    -------
    Theatre or LayerExplorer
        A widget; the last expression of a cell is displayed.

    Raises
    ------
    OptionError
        It is no recording.
    """
    if isinstance(recording, Running):
        return show_layers(recording)
    if isinstance(recording, Divergence):
        return _show_divergence(recording, step)
    if not isinstance(recording, Recording):
        raise OptionError(f"show takes a Recording, from vmlab.record(...), not {type(recording).__name__}")
    system = recording.system
    images = [guest.image for guest in system.guests]
    options = {
        "memory": system.guests[0].memory.size,
        "max_instructions": system.limit,
        "input": system.input,
        "disks": system.disks,
    }

    def make(technique: str, cpu_model: str) -> Recording:
        return record(images, technique, cpu=cpu_model, **options)

    return Theatre(
        recording, make, techniques=tuple(techniques_for(images)), cpu_models=tuple(CPU_MODELS), step=step or 0
    )


def _show_divergence(found: Divergence, step: int | None) -> Theatre:
    """Show the second side of a divergence; the menu has the other."""
    under = found.names[1]
    at = found.steps[under] if step is None else step

    def make(technique: str, _cpu_model: str) -> Recording:
        return found.recording(technique)

    return Theatre(found.recording(under), make, techniques=found.names, step=at, technique=under)


def _step_at(recording: Recording, time: int) -> int:
    """Return the step at which the first guest has retired so many instructions.

    Between two events each step is one instruction, so that the last event before the instant tells.
    """
    recording.seek(0)
    step, then = 0, int(recording.system.instructions())
    for event in recording.events:
        if event.guest == 0 and event.time <= time:
            step, then = event.step, event.time
    return min(int(step + time - then), int(recording.length))
