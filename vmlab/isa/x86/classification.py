"""The Popek-Goldberg table of IA-32: which instructions are innocuous, privileged, sensitive but unprivileged.

Nothing is stated here: the classes stand in the rows of the instruction table and the reasons in
`vmlab.isa.x86.privilege`; this module arranges them by form, so that `mov` of a segment register and `mov` of
CR3 are told apart from a plain `mov`.

Where to read more: Popek and Goldberg, CACM 17(7), 1974; Robin and Irvine, USENIX Security 2000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from vmlab.isa.x86.instruction import Privilege
from vmlab.isa.x86.privilege import GROUPS
from vmlab.isa.x86.table import CONDITIONS, ROWS

__all__ = ["Classification", "ClassifiedForm", "classify"]

_SPECIAL_OPERANDS = {"S": "segment register", "C": "control register", "D": "debug register"}
_SEGMENT_CODES = frozenset({"ES", "CS", "SS", "DS", "FS", "GS"})


@dataclass(frozen=True, slots=True)
class ClassifiedForm:
    """One mnemonic, or one kind of its forms, and its class.

    Attributes
    ----------
    mnemonic : str
        As in the table, with `callf` and `jmpf` for the far transfers.
    form : str
        What tells it from other forms of the mnemonic (`segment register`, …), or empty.
    privilege : Privilege
        Its class.
    group : str
        Short name of the group it belongs to, empty for the innocuous ones.
    reason : str
        Why, in one sentence.
    source : str
        Where that is said.
    """

    mnemonic: str
    form: str
    privilege: Privilege
    group: str
    reason: str
    source: str

    @property
    def name(self) -> str:
        """Mnemonic and form."""
        return f"{self.mnemonic} ({self.form})" if self.form else self.mnemonic


class Classification(Mapping[str, ClassifiedForm]):
    """All classified forms by name, in the order of the table; prints as a table of the three classes.

    Examples
    --------
    >>> table = classify()
    >>> table["popf"].privilege
    <Privilege.SENSITIVE: 'sensitive but unprivileged'>
    >>> [form.name for form in table.of(Privilege.SENSITIVE) if form.group == "flags"]
    ['pushf', 'popf']
    """

    __slots__ = ("_forms",)

    def __init__(self, forms: Iterable[ClassifiedForm]) -> None:
        self._forms = {form.name: form for form in forms}

    def __getitem__(self, name: str) -> ClassifiedForm:
        return self._forms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)

    def of(self, privilege: Privilege) -> tuple[ClassifiedForm, ...]:
        """Return the forms of one class."""
        return tuple(form for form in self._forms.values() if form.privilege is privilege)

    def groups(self, privilege: Privilege) -> dict[str, list[str]]:
        """Return the names of one class by group, conditions folded (`j*`)."""
        result: dict[str, list[str]] = {}
        for form in self.of(privilege):
            names = result.setdefault(form.group, [])
            name = _folded(form.mnemonic) or form.name
            if name not in names:
                names.append(name)
        return result

    def describe(self) -> str:
        """Return the table as text: each class, its groups with their reasons, and their members."""
        lines: list[str] = []
        for privilege in (Privilege.PRIVILEGED, Privilege.SENSITIVE, Privilege.INNOCUOUS):
            lines.append(privilege.value.capitalize())
            for group, names in self.groups(privilege).items():
                about = GROUPS[group]
                lines.append(f"  {about.reason} [{about.source}]")
                lines.append("    " + " ".join(name.replace(" ", "\N{NO-BREAK SPACE}") for name in names))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        rows = []
        for privilege in (Privilege.PRIVILEGED, Privilege.SENSITIVE, Privilege.INNOCUOUS):
            for group, names in self.groups(privilege).items():
                about = GROUPS[group]
                members = ", ".join(f"<code>{name}</code>" for name in names)
                rows.append(
                    f"<tr><th scope='row'>{privilege.value}</th><td>{members}</td>"
                    f"<td>{about.reason} <i>{about.source}</i></td></tr>".replace("&", "&amp;")
                )
        head = "<tr><th>class</th><th>instructions</th><th>why</th></tr>"
        return f"<table>{head}{''.join(rows)}</table>"


@cache
def classify() -> Classification:
    """Return the class of every instruction in the table, with group, reason and source.

    The forms of one mnemonic stand together only where they are of one group: `push` of a general register is
    innocuous, `push (segment register)` is sensitive.

    Examples
    --------
    >>> classify()["mov (control register)"].privilege
    <Privilege.PRIVILEGED: 'privileged'>
    >>> classify()["mov"].privilege
    <Privilege.INNOCUOUS: 'innocuous'>
    """
    groups_of: dict[str, set[str]] = {}
    for row in ROWS:
        groups_of.setdefault(row.mnemonic, set()).add(row.group)
    forms: dict[tuple[str, str], ClassifiedForm] = {}
    for row in ROWS:
        form = _form(row.operands) if len(groups_of[row.mnemonic]) > 1 else ""
        group = GROUPS[row.group]
        forms.setdefault(
            (row.mnemonic, form),
            ClassifiedForm(row.mnemonic, form, row.privilege, row.group, group.reason, group.source),
        )
    return Classification(forms.values())


def _form(operands: tuple[str, ...]) -> str:
    """Name the kind of operands that sets a form apart."""
    for code in operands:
        if code in _SEGMENT_CODES:
            return _SPECIAL_OPERANDS["S"]
        if code[0] in _SPECIAL_OPERANDS:
            return _SPECIAL_OPERANDS[code[0]]
    return ""


def _folded(mnemonic: str) -> str:
    """Return `j*`, `set*` or `cmov*` for a conditional instruction, else nothing."""
    for family in ("set", "cmov", "j"):
        if mnemonic.startswith(family) and mnemonic[len(family) :] in CONDITIONS:
            return f"{family}*"
    return ""
