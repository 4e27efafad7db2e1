"""What all searches have in common: stretches between checkpoints, pieces, and the answer."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.isa.x86.decoder import DecodeError, decode
from vmlab.isa.x86.disassembler import format_instruction
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.trace import Trap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.machine.checkpoints import Checkpoint
    from vmlab.machine.recording import Recording
    from vmlab.machine.trace import Event

__all__ = ["Found", "Search"]

PIECE = 400
"""Steps that are stepped through at once."""
LONGEST = 15
"""Bytes of the longest instruction."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a search ended.

    Attributes
    ----------
    step : int
        The step in which it came about; for a breakpoint, the step before the instruction. The cursor stands there.
    guest : int
        Index of the guest.
    address : int
        Linear address of the instruction.
    text : str
        The instruction; empty where none can be read there.
    old, new : int or None
        The value before and after, where there is one.
    what : str
        What was searched for.
    event : Event or None
        The event, where one was searched for; otherwise the trap that the step was, if it was one.
    """

    step: int
    guest: int
    address: int
    text: str
    old: int | None
    new: int | None
    what: str
    event: Event | None = None

    def describe(self) -> str:
        """Say it in one line."""
        values = "" if self.old is None or self.new is None else f": {self.old:#x} → {self.new:#x}"
        trap = f" ({self.event.name})" if isinstance(self.event, Trap) else ""
        return f"step {self.step:,}, {self.address:#x} {self.text or '(no code)'}{trap}: {self.what}{values}"


class Search:
    """A search of one recording for one condition; the base knows stretches and pieces.

    A *hit* is a step in which it came about, with the values before and after.
    """

    lag = 0
    """1 where the cursor is to stand before the step, not behind it."""
    blind = False
    """True where there is no watch: each step must be looked at."""

    def __init__(self, recording: Recording, condition: Any, guest: int) -> None:  # noqa: ANN401 - each search has its own kind
        self.recording, self.condition, self.index = recording, condition, guest
        self.system = recording.system
        self.guest = self.system.guests[guest]

    # -- what a kind of condition has of its own ---------------------------------------------------------------------------

    def possible(self, checkpoint: Checkpoint) -> bool:
        """Say whether it can have come about between the checkpoint before and this one."""
        return True

    def begin(self) -> None:
        """Set the watch."""

    def end(self) -> None:
        """Take the watch away."""

    def touched(self) -> bool:
        """Say whether the watch has been touched since the last call."""
        return True

    def look(self) -> Any:  # noqa: ANN401 - as the condition needs it
        """Return what the condition is decided by, at the instant."""

    def decide(self, before: Any, after: Any) -> tuple[int | None, int | None] | None:  # noqa: ANN401
        """Return old and new value where it came about between two instants one step apart, else None."""
        raise NotImplementedError

    # -- forwards and backwards ---------------------------------------------------------------------------------------------

    def after(self, position: int) -> Found | None:
        """Return the first one behind a position of the cursor."""
        low = position + self.lag
        while low < self.recording.length:
            high, checkpoint = self.recording.stretch(low)
            if checkpoint is None or self.possible(checkpoint):
                for piece in self._pieces(low, high):
                    for hit in self._hits(*piece):
                        return self._found(*hit)
            low = high
        return None

    def before(self, position: int) -> Found | None:
        """Return the last one before a position of the cursor."""
        high = min(position - 1 + self.lag, self.recording.length)
        while high > 0:
            low = self.recording.checkpoint_before(high)
            _, checkpoint = self.recording.stretch(low)
            if checkpoint is None or self.possible(checkpoint):
                for piece in reversed(list(self._pieces(low, high))):
                    hits = list(self._hits(*piece))
                    if hits:
                        return self._found(*hits[-1])
            high = low
        return None

    def _pieces(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield the pieces of a stretch in which the watch was touched."""
        if self.blind:
            yield low, high
            return
        while low < high:
            self.recording.seek(low)
            self.touched()
            stop = min(low + PIECE, high)
            self.recording.replay(stop)
            if self.touched():
                yield low, stop
            low = stop

    def _hits(self, low: int, high: int) -> Iterator[tuple[int, int | None, int | None]]:
        """Step through a piece, and yield what came about."""
        recording = self.recording
        recording.seek(low)
        self.touched()
        before = self.look()
        for step in range(low + 1, high + 1):
            recording.replay(step)
            recording.seek(step)
            after = self.look()
            values = self.decide(before, after)
            if values is not None:
                yield step, *values
                recording.seek(step)
            before = after

    def _found(self, step: int, old: int | None, new: int | None, event: Event | None = None) -> Found:
        """Describe a hit."""
        self.recording.seek(max(0, step - 1))
        address, text = self._instruction()
        if event is None:
            event = next(
                (each for each in self.recording.events_at(step) if each.kind == "trap" and not self.lag), None
            )
        return Found(step - self.lag, self.index, address, text, old, new, self.condition.describe(), event)

    def _instruction(self) -> tuple[int, str]:
        """Return address and text of the guest's next instruction, read without a trace in the machine."""
        vcpu = self.guest.vcpu
        memory = vcpu.memory
        state = self.system.cpu_state(self.index)
        address = state.linear_ip
        raw = bytearray()
        while len(raw) < LONGEST:
            place = address + len(raw)
            physical = vcpu.look_up(place & vcpu.address_mask)
            if physical is None or physical >= memory.size:
                break
            count = min(LONGEST - len(raw), PAGE_SIZE - place % PAGE_SIZE, memory.size - physical)
            raw += memory.read_bytes(physical, count)
        try:
            return address, format_instruction(decode(bytes(raw), vcpu.fetch_bits), address, bits=vcpu.fetch_bits)
        except DecodeError:
            return address, ""

    # -- addresses ---------------------------------------------------------------------------------------------------------

    def address_of(self, address: int | str) -> int:
        """Return an address, or that of a symbol."""
        if isinstance(address, int):
            return address
        symbols = self.guest.image.symbols
        if address not in symbols:
            close = difflib.get_close_matches(address, symbols, 3)
            hint = f": did you mean {' or '.join(close)}?" if close else f": it has {len(symbols)} symbols"
            raise OptionError(f"the image {self.guest.image.name} has no symbol {address!r}{hint}")
        return int(symbols[address])
