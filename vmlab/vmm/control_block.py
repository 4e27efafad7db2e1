"""The control block of a guest to look at, a VMCS or a VMCB: its fields by group, and what an entry with others would come to.

It is a copy: what is tried on it changes nothing in the system from which it was taken.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.machine.entry_rules import EntryRule

__all__ = ["BlockField", "ControlBlock", "EntryVerdict"]

CHANGED = "*"


@dataclass(frozen=True, slots=True)
class BlockField:
    """One field.

    Attributes
    ----------
    name : str
        As in the manual, in capitals.
    group : str
        As `"guest state"`.
    place : int
        Its encoding in a VMCS, its offset in a VMCB.
    width : int
        Bits.
    value : int
        What it holds.
    said : str
        What that says: bits by name, an exit reason in words; empty for a plain number.
    before : int or None
        What it held at the instant with which the block was compared; None where there was none.
    read_only : bool
        Whether software cannot write it.
    """

    name: str
    group: str
    place: int
    width: int
    value: int
    said: str
    before: int | None = None
    read_only: bool = False

    @property
    def changed(self) -> bool:
        """True where it held something else before."""
        return self.before is not None and self.before != self.value

    @property
    def was(self) -> str:
        """What it held before, in hexadecimal; empty where it has not changed."""
        return "" if self.before is None or self.before == self.value else self.digits(self.before)

    def digits(self, value: int) -> str:
        """Write a value with as many hexadecimal digits as the field has."""
        return f"{value:#0{2 + self.width // 4}x}"

    def __str__(self) -> str:
        was = f"  (was {self.was})" if self.was else ""
        return f"{self.place:#06x} {self.name:<24} {self.digits(self.value):<18} {self.said}".rstrip() + was


@dataclass(frozen=True, slots=True)
class EntryVerdict:
    """What an entry into a guest would come to.

    Attributes
    ----------
    changes : mapping of str to int
        The fields that were changed for it.
    outcome : str
        How the processor would refuse it; empty where the guest would run.
    error : int
        VM-instruction error; 0 without one.
    reason, qualification : int
        Exit reason (exit code, on AMD processors) and its qualification, where the entry fails as an exit; else 0.
    rules : tuple of EntryRule
        Rules that are broken: section of the manual, and text of what must be so.
    manual : str
        Which manual.
    untried : str
        What an entry does beside, and was not tried; empty for nothing.
    """

    changes: Mapping[str, int]
    outcome: str
    error: int
    reason: int
    qualification: int
    rules: tuple[EntryRule, ...]
    manual: str
    untried: str = ""

    @property
    def accepted(self) -> bool:
        """True where the guest would run."""
        return not self.outcome

    def describe(self) -> str:
        """Say it in words."""
        what = ", ".join(f"{name} = {value:#x}" for name, value in self.changes.items())
        lines = [f"with {what}:" if what else "as it is:"]
        lines.append(f"refused: {self.outcome}" if self.outcome else "accepted: the guest would run")
        if self.rules:
            lines.append(f"broken, of what the {self.manual} demands:")
            lines += [f"  {rule.section}: {rule.text}" for rule in self.rules]
        if self.untried:
            lines.append(f"not tried: {self.untried}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


@dataclass(frozen=True)
class ControlBlock:
    """A VMCS or VMCB as it was at one instant.

    Attributes
    ----------
    kind : {"VMCS", "VMCB"}
        Which.
    title : str
        Whose.
    state : str
        Where it was in use.
    exit : str
        Why the guest has left it last, in words, with what belongs to that; empty before the first time.
    since : str
        With which instant it was compared; empty where with none.
    fields : dict of str to BlockField
        The fields by name.
    """

    kind: str
    title: str
    state: str
    exit: str
    since: str
    fields: Mapping[str, BlockField]
    judge: Callable[[Mapping[str, int]], EntryVerdict] = field(repr=False)
    words: Callable[[str, int], str] = field(repr=False)

    @property
    def groups(self) -> dict[str, list[BlockField]]:
        """The fields by group."""
        found: dict[str, list[BlockField]] = {}
        for each in self.fields.values():
            found.setdefault(each.group, []).append(each)
        return found

    @property
    def changed(self) -> list[BlockField]:
        """The fields that held something else at the instant with which it was compared."""
        return [each for each in self.fields.values() if each.changed]

    def __getitem__(self, name: str) -> BlockField:
        """Return a field by its name, in capitals or not; OptionError where there is none."""
        found = self.fields.get(str(name).upper())
        if found is None:
            near = difflib.get_close_matches(str(name).upper(), self.fields, 1)
            hint = f"did you mean {near[0]}?" if near else "see .fields for their names"
            raise OptionError(f"a {self.kind} has no field {name!r}: {hint}")
        return found

    def try_entry(self, **changes: int) -> EntryVerdict:
        """Say what an entry into the guest would come to, with some fields changed. Nothing else changes by that.

        Parameters
        ----------
        **changes : int
            Fields by name, as `guest_rflags=0`.

        Returns
        -------
        EntryVerdict

        Raises
        ------
        OptionError
            There is no such field, software cannot write it, or it does not hold such a value.
        """
        return self.judge({self._check(name, value).name: value for name, value in changes.items()})

    def say(self, name: str, value: int) -> str:
        """Say what a field would say with another value; OptionError as of `try_entry`."""
        return self.words(self._check(name, value).name, value)

    def _check(self, name: str, value: int) -> BlockField:
        """Return a field that can be given a value."""
        found = self[name]
        if found.read_only:
            raise OptionError(f"{found.name} is {found.group}: VMWRITE cannot write it (VM-instruction error 13)")
        if type(value) is not int or value >> found.width:
            raise OptionError(
                f"{found.name} holds an int of {found.width} bits, from 0 to {(1 << found.width) - 1:#x}, not {value!r}"
            )
        return found

    def rows(self, group: str | None = None) -> list[dict[str, Any]]:
        """Return the fields (of a group) as rows of a table; OptionError where there is no such group."""
        if group is not None and group not in self.groups:
            raise OptionError(f"a {self.kind} has the groups {', '.join(self.groups)}, not {group!r}")
        place = "encoding" if self.kind == "VMCS" else "offset"
        return [
            {
                "group": each.group,
                "field": each.name,
                place: f"{each.place:#06x}",
                "bits": each.width,
                "value": each.digits(each.value),
                "says": each.said,
                "before": each.was,
            }
            for each in self.fields.values()
            if group in (None, each.group)
        ]

    def _summary(self) -> list[str]:
        lines = [f"{self.kind} of {self.title}", self.state]
        lines.append(f"last exit: {self.exit}" if self.exit else "there was no exit yet")
        if self.since:
            lines.append(f"{len(self.changed)} field{'' if len(self.changed) == 1 else 's'} changed {self.since}")
        return lines

    def describe(self) -> str:
        """Say in words what it holds: by group, all fields but those that are 0 and were so."""
        lines = self._summary()
        for name, fields in self.groups.items():
            told = [each for each in fields if each.value or each.changed]
            lines.append(f"{name}:")
            lines += [f" {CHANGED if each.changed else ' '} {each}" for each in told]
            if len(told) < len(fields):
                lines.append(f"   {len(fields) - len(told)} more, which are 0")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return "\n".join([*self._summary(), *(f" {CHANGED} {each}" for each in self.changed)])

    def _repr_html_(self) -> str:
        """Return tables for a notebook, one a group, that of changes first."""
        parts = [f"<p>{'<br>'.join(escape(line) for line in self._summary())}</p>"]
        head = "<tr><th>field</th><th>value</th><th>says</th><th>before</th></tr>"
        for name, fields in self.groups.items():
            rows = "".join(
                f"<tr><td>{CHANGED if each.changed else ''} <code>{each.name}</code></td>"
                f"<td><code>{each.digits(each.value)}</code></td><td>{escape(each.said)}</td>"
                f"<td>{f'<code>{each.was}</code>' if each.was else ''}</td></tr>"
                for each in fields
            )
            changed = sum(each.changed for each in fields)
            note = f", {changed} changed" if changed else ""
            parts.append(
                f"<details{' open' if changed else ''}><summary>{name}: {len(fields)} fields{note}</summary>"
                f"<table>{head}{rows}</table></details>"
            )
        return "".join(parts)
