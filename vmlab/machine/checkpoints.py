"""Checkpoints of a running system: few enough to hold, dense where they are needed.

A checkpoint keeps the state of processors and devices, and of memory the pages written since the checkpoint before it.
So a page costs memory as often as it changed, a checkpoint can be dropped by giving its pages to the next one, and the
pages of a checkpoint tell where nobody wrote.

The recent past is dense. What is older keeps a distance that doubles when there are too many checkpoints or too many
pages. Whoever replays leaves checkpoints on the way, nearer and nearer to where he goes (`approach`), so that a step back
from there is short; the oldest of these are dropped again.

Read more: B. Boothe, "Efficient Algorithms for Bidirectional Debugging", PLDI 2000.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.machine.memory import ZERO_PAGE

if TYPE_CHECKING:
    from vmlab.machine.recordable import Recordable

__all__ = ["GAP", "SPACING", "Checkpoint", "Checkpoints"]

SPACING = 50_000
"""Steps between two checkpoints while a run is recorded by the translator."""
SLOWER = 8
"""How many times slower other runs are, about: the interpreter's, and those of a hypervisor's guests."""
GAP = 500
"""Steps of replay that no checkpoint is worth."""
MOST = 1_000
"""Checkpoints beyond which the old ones are thinned."""
RECENT = 16
"""Checkpoints at the end that are not thinned."""
MOST_PAGES = 65_536
"""Pages of 4 KiB in all checkpoints beyond which they are thinned; one of each is not counted, for it is needed anyhow."""
MOST_NEAR = 48
"""Checkpoints left by replays."""


@dataclass(slots=True, eq=False)
class Checkpoint:
    """The whole system at one step.

    Attributes
    ----------
    step : int
        The system's own count of steps.
    state : dict
        All but memory, and but what guests have sent to their serial ports.
    sent : list of int
        How many bytes each guest had sent.
    pages : dict
        Physical pages that may have been written since the checkpoint before, with their contents.
    pinned : bool
        True where it must stay: a replay from before would not lead here.
    """

    step: int
    state: dict[str, Any]
    sent: list[int]
    pages: dict[int, bytes]
    pinned: bool = False


class Checkpoints:
    """The checkpoints of one system, in order.

    Parameters
    ----------
    system : Recordable
        The system; the first checkpoint is taken at once.

    Attributes
    ----------
    items : list of Checkpoint
        In order of their steps.
    stride : int
        Distance of new checkpoints, in steps.
    spacing : int
        Least distance of old checkpoints, in steps.
    """

    def __init__(self, system: Recordable) -> None:
        self.system = system
        quick = system.machine.engine is not None and not system.machine.host_entry
        self.stride = self.spacing = SPACING if quick else SPACING // SLOWER
        memory = system.machine.memory
        memory.take_changed()
        self._uarts = [guest.platform.uart for guest in system.guests]
        self._sent = [bytearray() for _ in self._uarts]  # all that guests have sent, up to the end
        self.items = [Checkpoint(system.steps, *self._save(), memory.contents())]
        self._base = self.items[0]  # memory is what this one says but for the pages that count as changed
        self._latest = dict(self._base.pages)  # contents at the last checkpoint, so that equal ones are shared
        self._torn = False  # Ctrl-C came between: what counts as changed is not all that has changed
        self._near: OrderedDict[int, None] = OrderedDict()
        self._pages = len(self._base.pages)

    def index(self, step: int) -> int:
        """Return the index of the last checkpoint that is not after a step."""
        return bisect_right(self.items, step, key=_step_of) - 1

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint."""
        return self.items[-1]

    @property
    def due(self) -> int:
        """The step at which a run that is recorded gets its next checkpoint."""
        return self.last.step + self.stride

    def _save(self) -> tuple[dict[str, Any], list[int]]:
        """Save the system without what was sent: that only grows, so that once is enough for all checkpoints."""
        outputs = [uart.output for uart in self._uarts]
        for uart in self._uarts:
            uart.output = bytearray()
        try:
            state = self.system.save()
        finally:
            for uart, output in zip(self._uarts, outputs, strict=True):
                uart.output = output
        for sent, output in zip(self._sent, outputs, strict=True):
            if len(output) > len(sent):
                sent.extend(output[len(sent) :])
        return state, [len(output) for output in outputs]

    # -- taking --------------------------------------------------------------------------------------------------------

    def append(self, *, pinned: bool = False) -> None:
        """Take a checkpoint at the end of what is recorded."""
        memory, latest = self.system.machine.memory, self._latest
        pages: dict[int, bytes] = {}
        self._torn = True
        for number in memory.take_changed():
            contents = memory.page(number)
            known = latest.get(number, ZERO_PAGE)
            latest[number] = pages[number] = known if contents == known else contents
        self._insert(len(self.items), pages, pinned=pinned)
        self._torn = False
        place = len(self.items) - 1 - RECENT
        if place > 0 and self.items[place].step - self.items[place - 1].step < self.spacing:
            self._drop(place)
        if len(self.items) - len(self._near) > MOST:
            self._thin(RECENT)
        while self._pages - len(latest) > MOST_PAGES and self.spacing < self.last.step - self.items[0].step:
            self._thin(1)

    def take(self) -> None:
        """Take a checkpoint where a replay stands."""
        memory = self.system.machine.memory
        step = self.system.steps
        place = self.index(step) + 1
        if self.items[place - 1].step == step:
            return
        pages: dict[int, bytes] = {}
        self._torn = True
        for number in memory.take_changed():
            contents = memory.page(number)
            pages[number] = ZERO_PAGE if contents == ZERO_PAGE else contents
        self._insert(place, pages)
        self._torn = False
        self._near[step] = None
        while len(self._near) > MOST_NEAR or (self._pages - len(self._latest) > MOST_PAGES and len(self._near) > 1):
            oldest = self.index(next(iter(self._near)))
            self._drop(oldest)

    def _insert(self, place: int, pages: dict[int, bytes], *, pinned: bool = False) -> None:
        step = self.system.steps
        state, sent = self._save()
        before = self.items[place - 1]
        if before.step == step:  # the same instant once more: its memory is known, the state may be another
            before.state, before.pinned = state, before.pinned or pinned
            self._base = before
            return
        self._base = Checkpoint(step, state, sent, pages, pinned)
        self.items.insert(place, self._base)
        self._pages += len(pages)

    # -- dropping ------------------------------------------------------------------------------------------------------

    def _drop(self, place: int) -> None:
        """Drop a checkpoint between two others; the next one gets its pages. Nothing happens where it must stay."""
        item = self.items[place]
        if item.pinned or item is self._base or not 0 < place < len(self.items) - 1:
            self._near.pop(item.step, None)
            return
        after = self.items[place + 1]
        self._pages -= len(item.pages.keys() & after.pages.keys())
        after.pages = item.pages | after.pages
        del self.items[place]
        self._near.pop(item.step, None)

    def _thin(self, recent: int) -> None:
        """Double the spacing of all but the most recent checkpoints."""
        self.spacing *= 2
        place = 1
        while place < len(self.items) - recent:
            count = len(self.items)
            if self.items[place].step - self.items[place - 1].step < self.spacing:
                self._drop(place)
            if len(self.items) == count:
                place += 1

    def truncate(self, step: int) -> None:
        """Drop the checkpoints behind a step, at which the system stands."""
        count = self.index(step) + 1
        for uart, sent in zip(self._uarts, self._sent, strict=True):
            del sent[len(uart.output) :]
        for item in self.items[count:]:
            self._near.pop(item.step, None)
        del self.items[count:]
        self._latest = {}
        for item in self.items:
            self._latest |= item.pages
        self._pages = sum(len(item.pages) for item in self.items)

    # -- going back ----------------------------------------------------------------------------------------------------

    def restore(self, place: int) -> None:
        """Bring the system to a checkpoint, by its index."""
        memory, target = self.system.machine.memory, self.items[place]
        low, high = sorted((self.index(self._base.step), place))
        torn, self._torn = self._torn, True
        if torn:
            low, high = -1, len(self.items) - 1
        wanted = (
            set(memory.contents() if torn else ())
            .union(memory.take_changed())
            .union(*(item.pages for item in self.items[low + 1 : high + 1]))
        )
        contents: dict[int, bytes] = {}
        for item in reversed(self.items[: place + 1]):
            if not wanted:
                break
            found = wanted & item.pages.keys()
            contents.update((number, item.pages[number]) for number in found)
            wanted -= found
        memory.replace(contents | dict.fromkeys(wanted, ZERO_PAGE))
        self.system.load(target.state)
        for uart, sent, count in zip(self._uarts, self._sent, target.sent, strict=True):
            uart.output[:] = sent[:count]
        self._base, self._torn = target, False

    def approach(self, step: int) -> int:
        """Return to which step a replay should go next on its way to a step: half of the rest, or there."""
        rest = step - self.system.steps
        return step if rest <= 2 * GAP else step - rest // 2

    def far(self, gap: int) -> bool:
        """Say whether the system stands at least so many steps behind the checkpoint before it."""
        steps = self.system.steps
        return steps - self.items[self.index(steps)].step >= gap


def _step_of(item: Checkpoint) -> int:
    return item.step
