"""A comparison of techniques as charts: slow-down, cycles by group of causes, exits by reason.

In the first and the last a colour is a technique; in the second, a group of causes. Each has a pattern beside it, what did not
keep the guest from telling is marked by a word, and `comparison_table` says all of it as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.views.compare_table import check_comparison, exit_reasons
from vmlab.views.technique_marks import TechniqueMark, technique_mark
from vmlab.views.theme import Mode, colours_of, template
from vmlab.vmm.causes import GROUPS, group_cycles

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from vmlab.vmm.compare import Comparison

__all__ = ["CHARTS", "comparison_figure"]

GROUP_MARKS = {
    "direct execution": TechniqueMark("user", ""),
    "trapping": TechniqueMark("trap", "x"),
    "emulation": TechniqueMark("emulate", "|"),
    "translation": TechniqueMark("inject", "-"),
    "memory": TechniqueMark("kernel", "\\"),
    "page walks": TechniqueMark("shadow", "/"),
    "world switches": TechniqueMark("neutral", "+"),
}
CHARTS = ("slow-down", "cycles", "exits")
MOST_REASONS = 12
BAR, THIN, FRAME = 44, 16, 150


def comparison_figure(comparison: Comparison, chart: str = "cycles", mode: str = "light") -> go.Figure:
    """Draw one chart of a comparison.

    Parameters
    ----------
    comparison : Comparison
        Of `vmlab.compare`.
    chart : {"slow-down", "cycles", "exits"}
        A bar each technique: how many times the first one's cycles; the cycles by group of causes, stacked; or the exits of the
        twelve most frequent reasons, a bar each technique and reason.
    mode : {"light", "dark"}
        Colours.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    OptionError
        That is no comparison, or there is no such chart or mode.
    """
    import plotly.graph_objects as go

    comparison = check_comparison(comparison)
    if chart not in CHARTS:
        raise OptionError(f"there is no chart {chart!r} of a comparison: choose one of {', '.join(CHARTS)}")
    colours = colours_of(mode)
    traces, title, bars = {"slow-down": _slow_down, "cycles": _cycles, "exits": _exits}[chart](comparison, colours)
    figure = go.Figure([go.Bar(orientation="h", **trace) for trace in traces])
    figure.update_layout(
        template=template(mode),
        barmode="stack" if chart == "cycles" else "group" if chart == "exits" else "relative",
        height=FRAME + bars,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        margin={"l": 16, "r": 16, "t": 64, "b": 48},
        xaxis={"title": {"text": title}, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "automargin": True, "showgrid": False},
    )
    return figure


Drawn = tuple[list[dict[str, Any]], str, int]


def _labels(comparison: Comparison) -> list[str]:
    """Return the techniques, those with the mark of a word under which the guest could tell."""
    told = [row["same as first"] is False for row in comparison.rows()]
    return [f"{name} (unfaithful)" if wrong else name for name, wrong in zip(comparison.names, told, strict=True)]


def _slow_down(comparison: Comparison, colours: Mode) -> Drawn:
    rows, labels = comparison.rows(), _labels(comparison)
    traces = [
        {
            "name": name,
            "showlegend": False,
            "y": [label],
            "x": [row["slow-down"]],
            "text": [f"{row['slow-down']:.2f}"],
            "textposition": "outside",
            "cliponaxis": False,
            "hovertemplate": f"%{{y}}: {row['cycles']:,} cycles, %{{x:.2f}} times the first<extra></extra>",
            "marker": technique_mark(name).marker(colours),
        }
        for name, label, row in zip(comparison.names, labels, rows, strict=True)
    ]
    return traces, f"times the cycles of {comparison.names[0]}", BAR * len(rows)


def _cycles(comparison: Comparison, colours: Mode) -> Drawn:
    labels = _labels(comparison)
    groups = [group_cycles(run.cycles_by_cause) for run in comparison.runs]
    traces = [
        {
            "name": name,
            "y": labels,
            "x": [each[name] for each in groups],
            "hovertemplate": f"%{{y}}: %{{x:,}} cycles, {name}<extra></extra>",
            "marker": GROUP_MARKS[name].marker(colours),
        }
        for name in GROUPS
        if any(each[name] for each in groups)
    ]
    return traces, "cycles", BAR * len(labels)


def _exits(comparison: Comparison, colours: Mode) -> Drawn:
    reasons = exit_reasons(comparison)[:MOST_REASONS]
    pairs = [each for each in zip(comparison.names, comparison.runs, strict=True) if each[1].exits]
    traces = [
        {
            "name": name,
            "y": reasons,
            "x": [run.exits[reason] for reason in reasons],
            "hovertemplate": f"%{{y}} under {name}: %{{x:,}}<extra></extra>",
            "marker": technique_mark(name).marker(colours),
        }
        for name, run in pairs
    ]
    return traces, "exits", THIN * len(reasons) * max(len(pairs), 1)
