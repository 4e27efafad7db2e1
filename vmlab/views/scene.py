"""Scenes: a recording as the stage plays it.

A *scene* is what the theatre shows after one step: registers, modes, code line, what lit up, what moved, a caption.
A *window* is a run of scenes, the first whole, the others only what changed; listings and consoles are shared by all
scenes of a window. A *script* is the part that stays during a run: places of the nodes, names, lanes, the overview.
All three are plain dicts that JSON can carry. Everything in them is read from the machine that the recording replays.

Keys of a scene: `step, lane, guest, ring, zone, in_vmm, cpu, lit, caption, events, motion`; for guest `n` also `vcpu:n,
mode:n, state:n, code:n, console:n`; `sub:node` is the second line of a node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.registers import EFER_LMA, IF
from vmlab.views.assistance import ASSISTANCE
from vmlab.views.captions import Moment, caption, main_event, port_access
from vmlab.views.instant import REGISTERS, GuestInstant, Instant, Observer
from vmlab.views.layers import guest_names, layers, processor_nodes, user_spaces
from vmlab.views.layout import stage_shape
from vmlab.views.theme import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmlab.machine.recording import Recording
    from vmlab.machine.trace import Event
    from vmlab.vmm.guest import Guest

__all__ = ["LEAD", "SIZE", "STOPS", "SceneWriter", "expand"]

SIZE = 256
"""Scenes in a window."""

LEAD = 112
"""Scenes before the cursor in a window that is sent for a jump: more than the stage keeps in reserve."""

STOPS = ("trap", "vm-exit")
"""Kinds of events at which *next trap* stops."""

BINS = 240
TAIL = 2000  # characters of the console before a window that are sent with it
TRANSIENT = ("caption", "events", "motion")
SHOWN = frozenset(EVENTS) - {"instruction", "exit", "root"}
SHADOW = frozenset({"shadow", "unsync", "sync", "traced", "nested"})
VIRTUAL_MARKS = ("trap", "emulate", "inject", "shadow", "resume", "switch")
ASSISTED_MARKS = ("vm-exit", "trap", "emulate", "inject", "nested", "resume", "switch")
PARAVIRTUAL_MARKS = ("trap", "hypercall", "inject", "resume", "switch")
NATIVE_MARKS = ("trap",)

Scene = dict[str, Any]


class SceneWriter:
    """Writes script and scenes of one recording. It moves the recording's cursor.

    Parameters
    ----------
    recording : Recording
        What to show.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        system = recording.system
        self.observer = Observer(system)
        self.virtual, self.assisted = self.observer.virtual, self.observer.assisted
        self.names = guest_names(system)
        self.processors = processor_nodes(system)
        self.shape = stage_shape(layers(recording))
        self.spaces = user_spaces(recording)

    def script(self) -> dict[str, Any]:
        """Return what stays during the run."""
        lanes = [{"id": f"guest{n}", "label": name, "role": "kernel"} for n, name in enumerate(self.names)]
        lanes += [{"id": "vmm", "label": "VMM", "role": "vmm"}] if self.virtual else []
        kinds = [kind for kind in self._marks() if kind != "switch" or len(self.names) > 1]
        technique = self.recording.system.technique
        return {
            "title": technique[:1].upper() + technique[1:],
            "virtual": self.virtual,
            "length": self.recording.length,
            "size": SIZE,
            "lead": LEAD,
            "stops": list(STOPS),
            "registers": list(REGISTERS),
            "guests": self.names,
            "lanes": [*lanes, {"id": "hardware", "label": "hardware", "role": "hardware"}],
            "marks": [[EVENTS[kind].glyph, EVENTS[kind].role, EVENTS[kind].word] for kind in kinds],
            "shape": self.shape,
            "overview": self.overview(),
        }

    def _marks(self) -> tuple[str, ...]:
        """Return the kinds of events that there may be."""
        if self.assisted:
            return ASSISTED_MARKS
        if self.recording.system.memory_virtualization == "direct":
            return PARAVIRTUAL_MARKS
        return VIRTUAL_MARKS if self.virtual else NATIVE_MARKS

    def overview(self, bins: int = BINS) -> list[int]:
        """Count the traps of the whole run in equal parts of it."""
        length = self.recording.length
        counts = [0] * min(bins, length + 1)
        for event in self.recording.events:
            if event.kind in STOPS:
                counts[min(event.step * len(counts) // (length + 1), len(counts) - 1)] += 1
        return counts

    def window(self, start: int, size: int = SIZE) -> dict[str, Any]:
        """Return the scenes from step `start` on, at most `size`, as one full scene and changes.

        A start outside the run is moved to where the run is.
        """
        start = max(0, min(start, self.recording.length))
        stop = min(start + size, self.recording.length + 1)
        scenes: list[Scene] = []
        previous: Scene = {}
        for scene in self._scenes(start, stop):
            scenes.append({key: value for key, value in scene.items() if _differs(previous, key, value)})
            previous = scene
        # The recording stands at the window's last step now: its consoles hold all that the window's scenes show.
        consoles = []
        for index, guest in enumerate(self.recording.system.guests):
            base = max(0, scenes[0][f"console:{index}"] - TAIL)
            consoles.append({"base": base, "text": guest.console[base:]})
        used = {scene[key][0] for scene in scenes for key in scene if key.startswith("code:")}
        books = self.observer.listings
        listings = {name: lines for book in books for name, lines in book.lines.items() if name in used}
        return {"start": start, "scenes": scenes, "listings": listings, "consoles": consoles}

    def scene(self, step: int) -> Scene:
        """Return the one full scene at `step`, with its listings and consoles: what a static picture needs."""
        window = self.window(step, 1)
        return expand(window)[0] | {"listings": window["listings"], "consoles": window["consoles"]}

    def _scenes(self, start: int, stop: int) -> Iterator[Scene]:
        """Yield whole scenes; each knows the instant before it."""
        recording = self.recording
        first = max(start - 1, 0)
        recording.seek(first)
        if first and self.observer.unsaved(recording.system):
            first -= 1  # right after a trap: what the guest had in its registers is known from the step before
        places = range(len(self.processors))
        views: list[Instant] = []  # of the instant before, from each processor: who runs next is known afterwards
        for step, events, system in recording.frames(first, stop - 1):
            ran = system.machine.ran if views else system.machine.turns.index
            before = views[ran] if views else None
            after = self.observer.look(system, before, ran)
            if step >= start:
                yield self._compose(step, events, before, after)
            views = [after if n == after.place else self.observer.look(system, None, n) for n in places]

    def _compose(self, step: int, events: Sequence[Event], before: Instant | None, after: Instant) -> Scene:
        """Make the scene of one step from the instants around it and its events."""
        ran = (before or after).current
        event = main_event(events)
        kind = "" if event is None else event.kind
        lane = self._lane(kind, ran, before, after)
        scene: Scene = {
            "step": step,
            "lane": lane,
            "guest": after.current,
            "ring": after.ring,
            "zone": "kernel" if (after.in_vmm if self.assisted else after.ring == 0) else "user",
            "in_vmm": after.in_vmm,
            "cpu": _shown(after.cpu),
            "long": bool(after.cpu["EFER"] & EFER_LMA),
        }
        for index, guest in enumerate(after.guests):
            scene |= {
                f"vcpu:{index}": _shown(guest.vcpu),
                f"mode:{index}": guest.mode,
                f"state:{index}": guest.state,
                f"code:{index}": [guest.listing, guest.address],
                f"console:{index}": guest.console,
            }
        moment = self._moment(ran, before, after)
        scene |= self._subs(after)
        scene["lit"] = self._lit(kind, lane, ran, after, events)
        scene["motion"] = self._motion(event, moment, before, after)
        scene["events"] = [_badge(entry) for entry in _ranked(events) if entry.kind in SHOWN]
        scene["caption"] = caption(moment, events)
        if len(self.processors) > 1 and before is not None:
            scene["caption"] = f"CPU {after.place}: {scene['caption']}"
        return scene

    def _lane(self, kind: str, ran: int, before: Instant | None, after: Instant) -> str:
        if kind in STOPS:
            return "hardware"
        if after.in_vmm or (before is not None and before.in_vmm):
            return "vmm"
        return f"guest{ran}"

    def _subs(self, after: Instant) -> dict[str, str]:
        """Return the second lines of the nodes."""
        states = after.states if len(self.processors) > 1 else (f"ring {after.ring}",)
        subs = {f"sub:{node}": state for node, state in zip(self.processors, states, strict=True)}
        if self.virtual:
            total = sum(guest.exits for guest in after.guests)
            subs["sub:vmm"] = f"{total:,} exit{'' if total == 1 else 's'}".replace(",", "\u202f")
        for index, guest in enumerate(after.guests):
            if self.virtual:
                subs[f"sub:guest{index}/vcpu"] = f"IF {int(bool(guest.vcpu['EFLAGS'] & IF))} · ring {guest.ring}"
            subs[f"sub:{self._node(index, guest)}"] = self.observer.listings[index].place(guest.address).split("+")[0]
        return subs

    def _lit(self, kind: str, lane: str, ran: int, after: Instant, events: Sequence[Event]) -> list[str]:
        """Name the nodes that are active."""
        running = self._node(after.current, after.guest)
        kinds = {event.kind for event in events}
        if lane == "vmm":
            lit = ["vmm", self.processors[after.place]]
            lit += (
                [f"guest{after.current}/vcpu"]
                if kinds & {"emulate", "hypercall", "inject", "control", "switch", "resume"}
                else []
            )
            lit += [f"guest{ran}/vcpu"] if "switch" in kinds else []
            lit += [f"guest{ran}/shadow", "hardware/memory"] if kinds & SHADOW else []
            lit += [f"guest{ran}/devices"] if _is_port(events) else []
            return lit + ([] if after.in_vmm else [running])
        if kind in STOPS:
            return [self.processors[after.place], "vmm" if self._reaches_vmm(kind) else running]
        return [running, self.processors[after.place]]

    def _motion(
        self, event: Event | None, moment: Moment, before: Instant | None, after: Instant
    ) -> dict[str, Any] | None:
        """Say which edge is travelled, and which way."""
        if before is None:
            return None
        source = self._node(before.current, before.guest)
        target = self._node(after.current, after.guest)
        kind = "" if event is None else event.kind
        way: tuple[str, bool] | None = None
        if not self.virtual:
            external = kind == "trap" and not getattr(event, "name", "#").startswith("#")
            if external:
                way = ("guest0/kernel>hardware/devices", True)
            elif source != target and after.guest.mode == "kernel":
                kind, way = "trap", (f"{source}>{target}", False)
            elif source != target:
                kind, way = "resume", (f"{target}>{source}", True)
            elif moment.started and port_access(moment.text, moment.before):
                kind, way = "port", ("guest0/kernel>hardware/devices", False)
        elif self._reaches_vmm(kind):
            way = (f"{source}>vmm", False)
        elif before.in_vmm and not after.in_vmm:
            way = (f"{target}>vmm", True)
        elif kind in INNER:
            port = kind == "emulate" and port_access(moment.text, moment.before)
            way = (f"vmm>guest{after.current}/{'devices' if port else INNER[kind]}", False)
        if way is None:
            return None
        mark = EVENTS[kind or "resume"]
        return {"edge": way[0], "up": way[1], "role": mark.role, "glyph": mark.glyph}

    def _reaches_vmm(self, kind: str) -> bool:
        """Say whether such an event gives the monitor the processor: with hardware assistance, VM exits alone do."""
        return kind == "vm-exit" or (kind == "trap" and self.virtual and not self.assisted)

    def _node(self, index: int, guest: GuestInstant) -> str:
        """Name the node of the guest's code that runs: its kernel, or the process whose address space is in CR3."""
        if guest.mode == "kernel":
            return f"guest{index}/kernel"
        spaces = self.spaces[index]
        root = guest.vcpu["CR3"]
        return f"guest{index}/user{spaces.index(root) if len(spaces) > 1 and root in spaces else 0}"

    def _moment(self, ran: int, before: Instant | None, after: Instant) -> Moment:
        old, new = (before or after).guests[ran], after.guests[ran]
        guest: Guest = self.recording.system.guests[ran]
        return Moment(
            virtual=self.virtual,
            assisted=ASSISTANCE.get(self.recording.system.technique),
            started=before is not None,
            in_vmm=before is not None and before.in_vmm,
            resumed=before is not None and before.in_vmm and not after.in_vmm,
            guest=self.names[ran],
            mode=old.mode,
            text=old.text,
            address=old.address,
            ip=after.guest.address,
            ring=after.ring,
            translated=before is not None and before.translated,
            before=old.believed,
            after=new.believed,
            names=self.names,
            where=self.observer.listings[after.current].place,
            device=lambda port: str(getattr(guest.platform.bus.device_at_port(port), "name", "")),
        )


INNER = {
    "emulate": "vcpu",
    "hypercall": "vcpu",
    "inject": "vcpu",
    "shadow": "shadow",
    "nested": "shadow",
    "switch": "vcpu",
    "control": "vcpu",
}
"""To which of a guest's boxes the monitor turns, by kind of event."""


def expand(window: dict[str, Any]) -> list[Scene]:
    """Return the whole scenes of a window, as the stage makes them of the changes.

    >>> expand({"scenes": [{"step": 4, "ring": 3, "caption": "a"}, {"step": 5}], "start": 4})[1]["ring"]
    3
    """
    scenes: list[Scene] = []
    blank: Scene = {"caption": "", "events": [], "motion": None}
    for delta in window["scenes"]:
        scenes.append({**(scenes[-1] if scenes else {}), **blank, **delta})
    return scenes


def _shown(registers: dict[str, int]) -> list[int]:
    return [registers[name] for name in REGISTERS]


def _differs(previous: Scene, key: str, value: object) -> bool:
    return bool(value) if key in TRANSIENT else key not in previous or previous[key] != value


def _is_port(events: Sequence[Event]) -> bool:
    texts = (getattr(event, "text", "") for event in events if event.kind == "emulate")
    return any(port_access(text, {}) is not None for text in texts)


def _ranked(events: Sequence[Event]) -> list[Event]:
    first = main_event(events)
    return [] if first is None else [first, *(event for event in events if event is not first)]


def _badge(event: Event) -> dict[str, str]:
    mark = EVENTS[event.kind]
    name = getattr(event, "name", "") or getattr(event, "text", "")
    return {"kind": event.kind, "glyph": mark.glyph, "role": mark.role, "text": f"{mark.word} {name}".strip()}
