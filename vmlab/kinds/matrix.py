"""The kinds compared: one workload on each, and what is different, computed from the runs.

What is in a column is read off a running system or is a difference of two runs: nothing is typed in. Runs are the same each time,
so each is done once.

Slow-down is host cycles over those of the native machine, for one guest alone. Almost all of the native cycles are the disk's data
going word by word through a port, which no kind can make slower; so it is given without the cycles of port accesses, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING

from vmlab.kinds.journey import DISK_READ, SYSTEM_CALL
from vmlab.kinds.presets import PRESETS, find_preset, preset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.kinds.part import Part
    from vmlab.kinds.running import Running

__all__ = ["COLUMNS", "Matrix", "Measured", "matrix", "most_privileged"]

NATIVE = "native machine"
PORTS = "port accesses"
PIECE = 500

COLUMNS = {
    "kind": "kind",
    "most privileged": "who holds the most privileged mode",
    "modified": "what is modified",
    "kernels": "kernels for two guests",
    "isolation": "others that survive a kernel's fall",
    "memory": "bytes of host memory for one guest more",
    "boot": "cycles until the kernel is up",
    "disk path": "hops of a disk read",
    "disk read": "cycles of a disk read",
    "system call": "cycles of a system call",
    "slow-down": "cycles over native",
    "without ports": "the same without port accesses",
}
"""Columns of the matrix: name, and what it is."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of one preset; None where there is no such thing.

    Attributes
    ----------
    name, kind : str
        The preset's.
    privileged : tuple of str
        Labels of the parts that run in the most privileged mode of the processor.
    modified : str
        What is not as on a real machine: `"nothing"`, `"the kernel"`, `"the program"`, `"the processor"`.
    kernels : int
        Kernels below two guests' programs.
    survivors : str or None
        How many of how many others come to their result after a guest's kernel has fallen.
    memory : int or None
        Bytes of host memory for one guest more, its own included.
    boot : int or None
        Cycles until its kernel has said that it is up.
    hops, disk_cycles, call_cycles : int or None
        Of a disk read, and of a system call.
    cycles, port_cycles : int
        Of the workload, by one guest alone, and those of port accesses among them.
    """

    name: str
    kind: str
    privileged: tuple[str, ...]
    modified: str
    kernels: int
    survivors: str | None
    memory: int | None
    boot: int | None
    hops: int | None
    disk_cycles: int | None
    call_cycles: int | None
    cycles: int
    port_cycles: int


@cache
def measure(name: str) -> Measured:
    """Measure one preset."""
    chosen = PRESETS[name]
    alone = chosen.build(**chosen.alone)
    boot = _boot(alone)
    privileged = most_privileged(alone.parts())
    alone.run()
    disk, call = (alone.follow(event) if event in alone.events else None for event in (DISK_READ, SYSTEM_CALL))
    survived, others = alone.crash()
    two = preset(name) if chosen.alone else alone
    _boot(two)
    return Measured(
        name=name,
        kind=chosen.kind,
        privileged=tuple(dict.fromkeys(part.label for part in privileged)),
        modified=alone.modified,
        kernels=sum(part.layer == "guest kernel" for part in two.parts()) - chosen.first_guest,
        survivors=f"{survived} of {others}" if others else None,
        memory=two.footprint - alone.footprint if chosen.alone else None,
        boot=boot,
        hops=None if disk is None else disk.hops,
        disk_cycles=None if disk is None else disk.cycles,
        call_cycles=None if call is None else call.cycles,
        cycles=alone.cycles,
        port_cycles=alone.cycles_by_cause().get(PORTS, 0),
    )


def most_privileged(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that run in the most privileged mode, without the hardware."""
    software = [part for part in parts if part.privilege and part.layer != "hardware"]
    highest = max(_rank(part.privilege) for part in software)
    return [part for part in software if _rank(part.privilege) == highest]


def _boot(running: Running) -> int | None:
    """Run until the kernels of all guests are up; return the cycles until the first one was."""
    first = None
    while not running.finished and running.booting:
        running.advance(PIECE)
        if first is None and running.is_up:
            first = running.cycles
    return first


RANKS = ("ring 3", "ring 1", "ring 0, non-root", "EL1", "ring 0", "EL2", "ring 0, root", "below ring 0")
"""Beginnings of privileges, from the lowest."""


def _rank(privilege: str) -> int:
    """Return how privileged a mode is; one of a processor that is not there is no privilege at all."""
    if "emulated" in privilege:
        return -1
    return max(((len(words), n) for n, words in enumerate(RANKS) if privilege.startswith(words)), default=(0, 0))[1]


@dataclass(frozen=True, slots=True, repr=False)
class Matrix:
    """What was found of several kinds.

    Attributes
    ----------
    kinds : tuple of Measured
        In the order asked for.
    """

    kinds: tuple[Measured, ...]

    def rows(self) -> list[dict[str, object]]:
        """Return a row for each kind: `name`, and the names of `COLUMNS`."""
        native = measure(NATIVE)
        return [
            {
                "name": each.name,
                "kind": each.kind,
                "most privileged": ", ".join(each.privileged),
                "modified": each.modified,
                "kernels": each.kernels,
                "isolation": each.survivors,
                "memory": each.memory,
                "boot": each.boot,
                "disk path": each.hops,
                "disk read": each.disk_cycles,
                "system call": each.call_cycles,
                "slow-down": each.cycles / native.cycles,
                "without ports": (each.cycles - each.port_cycles) / (native.cycles - native.port_cycles),
            }
            for each in self.kinds
        ]

    def describe(self) -> str:
        """Return the matrix as text, a block for each kind."""
        lines = []
        for row in self.rows():
            lines.append(str(row["name"]))
            lines += [f"  {words}: {shown(row[name])}" for name, words in COLUMNS.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        """Return the matrix as a table, a row for each kind."""
        heads = "".join(f'<th style="text-align:left">{escape(words)}</th>' for words in ("", *COLUMNS.values()))
        lines = []
        for row in self.rows():
            cells = "".join(
                f'<td style="text-align:{"left" if isinstance(row[name], str) else "right"}">{escape(shown(row[name]))}</td>'
                for name in COLUMNS
            )
            lines.append(
                f'<tr><th style="text-align:left;white-space:nowrap">{escape(str(row["name"]))}</th>{cells}</tr>'
            )
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def shown(value: object) -> str:
    """Return a value of a row as text."""
    if value is None:
        return "-"
    return f"{value:,}" if type(value) is int else f"{value:.2f}" if isinstance(value, float) else str(value)


def matrix(names: Sequence[str] | None = None) -> Matrix:
    """Compare kinds by the common workload.

    Parameters
    ----------
    names : sequence of str, optional
        Presets; all if not given, which takes some seconds.

    Raises
    ------
    OptionError
        One is no preset.
    """
    wanted = list(PRESETS) if names is None else [names] if isinstance(names, str) else list(names)
    return Matrix(tuple(measure(find_preset(name).name) for name in wanted))
