"""Where the cycles of a run went: by cause, one bar a run, and the same as a table.

Each part has a pattern beside its colour, and the table has the numbers. Parts that all runs have without cycles are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.views.theme import colours_of, template
from vmlab.vmm.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["cycles_figure", "cycles_table"]

# Role of the colour (`TEXT`: that of text) and pattern by cause.
TEXT = "text"
MARKS = {
    "instructions": ("user", ""),
    "page walks": ("shadow", "/"),
    "traps": ("trap", "x"),
    "system calls": ("trap", "+"),
    "port accesses": ("hardware", "."),
    "control registers": ("inject", "-"),
    "VM exits and entries": ("kernel", "\\"),
    "handling of exits": ("emulate", "\\"),
    "emulation": ("emulate", "|"),
    "shadow paging": (TEXT, "/"),
    "nested paging": (TEXT, "x"),
    "hypercalls": ("emulate", "."),
    "direct paging": (TEXT, "."),
    "event delivery": ("inject", "|"),
    "world switches": ("neutral", "+"),
    "translated code": ("user", "/"),
    "translation": ("trap", "-"),
    "call-outs": ("kernel", "|"),
    "interpretation": ("trap", "."),
}
OTHERS = ("neutral", "")
BAR, FRAME = 44, 150


def _causes(runs: object) -> dict[str, list[int]]:
    """Return the cycles of each run by cause; all causes that a run knows."""
    if not isinstance(runs, Mapping) or not runs or not all(isinstance(each, Run) for each in runs.values()):
        raise OptionError(f"runs are a dict from labels to runs, as {{'native': vmlab.run(image)}}, not {runs!r:.80}")
    by_cause = [each.cycles_by_cause for each in runs.values()]
    causes = dict.fromkeys(cause for each in by_cause for cause in each)
    return {cause: [each.get(cause, 0) for each in by_cause] for cause in causes}


def cycles_table(runs: Mapping[str, Run]) -> str:
    """Return the cycles by cause as text: a row each cause, a column each run.

    Raises
    ------
    OptionError
        These are no runs.
    """
    table = {cause: row for cause, row in _causes(runs).items() if any(row)}
    labels = [str(label) for label in runs]
    totals = [sum(column) for column in zip(*table.values(), strict=True)]
    first = max(map(len, [*table, "all"])) + 2
    widths = [max(len(label), len(f"{total:,}")) + 3 for label, total in zip(labels, totals, strict=True)]

    def line(name: str, cells: list[str]) -> str:
        return f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    rows = [line(cause, [f"{cycles:,}" for cycles in row]) for cause, row in table.items()]
    return "\n".join([line("cycles", labels), *rows, line("all", [f"{total:,}" for total in totals])])


def cycles_figure(runs: Mapping[str, Run], mode: str = "light") -> go.Figure:
    """Draw the cycles by cause, a bar each run.

    Parameters
    ----------
    runs : mapping of str to Run
        Runs by label.
    mode : {"light", "dark"}
        Colours.

    Returns
    -------
    plotly.graph_objects.Figure
        Stacked bars.

    Raises
    ------
    OptionError
        These are no runs, or there is no such mode.
    """
    import plotly.graph_objects as go

    table = _causes(runs)
    colours = colours_of(mode)
    labels = [str(label) for label in runs]
    figure = go.Figure()
    for cause, cycles in table.items():
        if not any(cycles):
            continue
        role, shape = MARKS.get(cause, OTHERS)
        figure.add_trace(
            go.Bar(
                name=cause,
                y=labels,
                x=cycles,
                orientation="h",
                hovertemplate=f"%{{y}}: %{{x:,}} cycles, {cause}<extra></extra>",
                marker={
                    "color": colours.text if role == TEXT else colours.line[role],
                    "line": {"color": colours.page, "width": 1},
                    "pattern": {"shape": shape, "fgcolor": colours.page, "solidity": 0.25, "size": 7},
                },
            )
        )
    figure.update_layout(
        template=template(mode),
        barmode="stack",
        height=FRAME + BAR * len(labels),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        margin={"l": 16, "r": 16, "t": 64, "b": 48},
        xaxis={"title": {"text": "cycles"}, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "automargin": True, "showgrid": False},
    )
    return figure
