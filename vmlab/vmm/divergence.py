"""What the divergence finder finds: the first instruction after which a guest can tell two techniques apart, and why.

The instruction to blame is that which both sides were about to execute when their guests still saw the same. Its class is
the instruction table's. Popek and Goldberg's condition says of which class it is under trap-and-emulate.

Read more: Popek and Goldberg, CACM 17(7), 1974; Robin and Irvine, USENIX Security 2000.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import OptionError
from vmlab.isa.x86.decoder import DecodeError, decode
from vmlab.isa.x86.disassembler import format_instruction
from vmlab.isa.x86.privilege import GROUPS
from vmlab.machine.recording import Recording
from vmlab.vmm.listing import Listings, labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.vmm.lockstep import Side

__all__ = ["Difference", "Divergence", "Place"]

AFTER = 5_000
"""Steps that a recording goes on behind it."""
WIDTH = 100


class Place(NamedTuple):
    """An instruction in a run.

    Attributes
    ----------
    address : int
        Linear.
    code : bytes
        What stood there then.
    bits : int
        16, 32 or 64.
    step : int
        The system's step before which it was found.
    """

    address: int
    code: bytes
    bits: int
    step: int

    @property
    def instruction(self) -> Instruction | None:
        """What the bytes mean, or None."""
        try:
            return decode(self.code, self.bits)
        except DecodeError:
            return None

    def show(self, labels: Mapping[int, str]) -> str:
        """Return the instruction as text, with the names of addresses; `db` where it is none."""
        found = self.instruction
        return (
            f"db {self.code[:1].hex()}h"
            if found is None
            else format_instruction(found, self.address, labels, bits=self.bits)
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the guest finds different.

    Attributes
    ----------
    what : str
        A register, `"console"`, `"outcome"`, or `"[0x8fffc]"`, a word at a guest-physical address.
    first, other : object
        The values on both sides.
    note : str
        Which flags differ, where the value is one of EFLAGS.
    """

    what: str
    first: object
    other: object
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Divergence:
    """Where two runs of a guest part, and why.

    Attributes
    ----------
    names : tuple of str
        The two techniques.
    instructions : int
        What the guest had retired in both when it had still seen the same.
    place : Place
        The instruction to blame: that which both were about to execute then. Where one side cannot stop between all
        instructions, the first sensitive one since.
    at : tuple of Place
        Where each side came upon it.
    executed : tuple of Place
        The instruction that each side retired last; empty where they differed before the first instruction.
    events : tuple of tuple of str
        Exceptions and interrupts that the guest got on each side before that was retired.
    differences : tuple of Difference
        What the guest finds different afterwards.
    before : tuple of Place
        The instructions before, on both sides the same.
    """

    names: tuple[str, str]
    instructions: int
    place: Place
    at: tuple[Place, ...]
    executed: tuple[Place, ...]
    events: tuple[tuple[str, ...], tuple[str, ...]]
    differences: tuple[Difference, ...]
    before: tuple[Place, ...]
    _sides: tuple[Side, Side] = field(repr=False)
    _recordings: dict[int, Recording] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> int:
        """Linear address of the instruction to blame."""
        return self.place.address

    @property
    def text(self) -> str:
        """The instruction to blame."""
        return self.place.show(self._listings.labels)

    @property
    def symbol(self) -> str:
        """Where it stands, as `label+0x12`; empty where the image has no symbols near."""
        return self._name(self.address)

    @property
    def mnemonic(self) -> str:
        """Its mnemonic; empty where there is no instruction."""
        found = self.place.instruction
        return "" if found is None else found.mnemonic

    @property
    def privilege(self) -> str:
        """Its class of Popek and Goldberg, as in `vmlab.classify()`."""
        found = self.place.instruction if self.executed else None
        return "" if found is None else found.privilege.value

    @property
    def reason(self) -> str:
        """Why it is of that class, with the source."""
        found = self.place.instruction
        if found is None or not self.executed:
            return ""
        group = GROUPS[found.row.group]
        return f"{group.reason} [{group.source}]"

    @property
    def steps(self) -> dict[str, int]:
        """Step, in each `recording`, before that in which the sides part."""
        return {
            name: place.step - side.anchored for name, place, side in zip(self.names, self.at, self._sides, strict=True)
        }

    def recording(self, under: str) -> Recording:
        """Return the recording of one side, its cursor just before the instruction.

        Step 0 is an instant at which both sides were equal: the start, or one at most some 20,000 instructions before.

        Raises
        ------
        OptionError
            That is none of the two techniques.
        """
        if under not in self.names:
            raise OptionError(f"there is no run under {under!r} here: choose {' or '.join(map(repr, self.names))}")
        index = self.names.index(under)
        step = self.steps[under]
        if index not in self._recordings:
            side = self._sides[index]
            side.restore()
            self._recordings[index] = Recording(side.system, max_steps=step + AFTER)
        recording = self._recordings[index]
        recording.seek(step)
        return recording

    def rows(self) -> list[dict[str, str]]:
        """Return a table of what differs: one row each, with the value on both sides."""
        first, other = self.names
        return [
            {"what": each.what, first: _shown(each.first), other: _shown(each.other), "flags": each.note}
            for each in self.differences
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what was found as plain data, as `vmlab compare --json` prints it."""
        return {
            "under": list(self.names),
            "instructions": self.instructions,
            "address": self.address,
            "symbol": self.symbol,
            "text": self.text,
            "class": self.privilege,
            "reason": self.reason,
            "events": [list(events) for events in self.events],
            "differences": self.rows(),
        }

    def describe(self) -> str:
        """Return what was found as text."""
        first, other = self.names
        lines = [
            f"{first} and {other} are the same for {self.instructions:,} instructions, and part at"
            if self.executed
            else f"{first} and {other} differ before the first instruction,",
            f"  {self._line(self.place)}",
        ]
        if self.privilege:
            lines.append(f"which is {self.privilege}:")
            lines += wrap(self.reason, WIDTH, initial_indent="  ", subsequent_indent="  ")
        parted = len({executed.address for executed in self.executed}) > 1
        for name, executed, events in zip(self.names, self.executed, self.events, strict=False):
            if events or (parted and executed.address != self.address):
                first_came = f"{', '.join(events)}, then " if events else ""
                lines.append(f"{name}: {first_came}{self._line(executed)}")
        width = max(len(each.what) for each in self.differences)
        lines.append("afterwards the guest finds")
        lines += [
            f"  {row['what']:<{width}}  {row[first]} ({first}), {row[other]} ({other})"
            + (f": {row['flags']} differs" if row["flags"] else "")
            for row in self.rows()
        ]
        if self.before:
            lines.append("before it")
            lines += [f"  {self._line(each)}" for each in self.before]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()

    def _line(self, place: Place) -> str:
        name = self._name(place.address)
        return f"{place.address:#x} {f'<{name}> ' if name else ''}{place.show(self._listings.labels)}"

    def _name(self, address: int) -> str:
        return self._listings.place(address)

    @property
    def _listings(self) -> Listings:
        return Listings("", labels_of(self._sides[0].guest.image))


def _shown(value: object) -> str:
    return f"{value:#x}" if type(value) is int else repr(value)
