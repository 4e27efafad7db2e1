"""A comparison of techniques as one text: verdicts, cycles by group of causes, exits by reason; the twin of its charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.vmm.causes import GROUPS, group_cycles
from vmlab.vmm.compare import Comparison

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_comparison", "comparison_table", "exit_reasons"]

NO_YES = ("no", "yes")


def check_comparison(comparison: object) -> Comparison:
    """Return a comparison, or refuse what is none."""
    if not isinstance(comparison, Comparison):
        raise OptionError(f"that is no comparison, as vmlab.compare(image, under=[...]) gives: {comparison!r:.80}")
    return comparison


def exit_reasons(comparison: Comparison) -> list[str]:
    """Return all reasons of exits, the most frequent under any technique first."""
    counts: dict[str, int] = {}
    for run in comparison.runs:
        for reason, count in run.exits.items():
            counts[reason] = max(counts.get(reason, 0), count)
    return sorted(counts, key=lambda reason: (-counts[reason], reason))


def comparison_table(comparison: Comparison) -> str:
    """Return a comparison as text: a column each technique.

    Parameters
    ----------
    comparison : Comparison
        Of `vmlab.compare`.

    Returns
    -------
    str
        Whether the console is the same and whether the guest could tell; slow-down; cycles by group of causes, the groups that
        have none left out; exits by reason.

    Raises
    ------
    OptionError
        That is no comparison.
    """
    comparison = check_comparison(comparison)
    rows, runs = comparison.rows(), comparison.runs
    cycles = [group_cycles(run.cycles_by_cause) for run in runs]
    lines: list[tuple[str, list[str]]] = [
        ("", [row["under"] for row in rows]),
        ("outcome", [row["outcome"] for row in rows]),
        ("same console", [_verdict(row["same console"]) for row in rows]),
        ("the guest cannot tell", [_verdict(row["same as first"]) for row in rows]),
        ("instructions", _numbers(row["instructions"] for row in rows)),
        ("slow-down", [f"{row['slow-down']:.2f}" for row in rows]),
        ("cycles", _numbers(row["cycles"] for row in rows)),
    ]
    lines += [
        (f"  {name}", _numbers(each[name] for each in cycles)) for name in GROUPS if any(each[name] for each in cycles)
    ]
    lines.append(("exits", _numbers(row["exits"] for row in rows)))
    lines += [(f"  {reason}", _numbers(run.exits[reason] for run in runs)) for reason in exit_reasons(comparison)]
    widths = [max(len(cells[n]) for _, cells in lines) + 2 for n in range(len(runs))]
    first = max(len(name) for name, _ in lines)
    return "\n".join(
        f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in lines
    )


def _verdict(same: bool | None) -> str:
    return "-" if same is None else NO_YES[same]


def _numbers(values: Iterable[int]) -> list[str]:
    return [f"{value:,}" for value in values]
