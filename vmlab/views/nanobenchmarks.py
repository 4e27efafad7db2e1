"""Nanobenchmarks as a chart: how many times the native cycles each loop takes, and what was published.

One colour and one pattern for each technique; the published figure is a diamond on the bar. The axis is logarithmic, and a line
stands where the native cost is. The text twin is `describe()` of what is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.views.technique_marks import technique_mark
from vmlab.views.theme import colours_of, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["nanobenchmarks_figure"]

COLUMNS = {"loop", "under", "cycles", "times native", "published times native"}
BAR, FRAME = 26, 170


def _check(rows: object) -> list[dict[str, Any]]:
    """Refuse what are no rows of nanobenchmarks."""
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) and row.keys() >= COLUMNS for row in rows)
    ):
        raise OptionError(f"rows are those of nanobenchmarks, as vmlab.nanobenchmarks().rows(), not {rows!r:.80}")
    return rows


def nanobenchmarks_figure(rows: list[dict[str, Any]], mode: str = "light") -> go.Figure:
    """Draw nanobenchmarks: a bar each loop and technique.

    Parameters
    ----------
    rows : list of dict
        `vmlab.nanobenchmarks().rows()`.
    mode : {"light", "dark"}
        Colours.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    OptionError
        These are no such rows, or there is no such mode.
    """
    import plotly.graph_objects as go

    table = _check(rows)
    colours = colours_of(mode)
    names = [name for name in dict.fromkeys(row["under"] for row in table) if name != "native"]
    figure = go.Figure()
    for n, name in enumerate(names):
        own = [row for row in table if row["under"] == name and row["times native"] is not None]
        mark = technique_mark(name)
        figure.add_trace(
            go.Bar(
                name=name,
                y=[row["loop"] for row in own],
                x=[row["times native"] for row in own],
                customdata=[row["cycles"] for row in own],
                orientation="h",
                offsetgroup=name,
                hovertemplate=f"%{{y}} under {name}: %{{customdata:,.0f}} cycles, %{{x:,.2f}} times native<extra></extra>",
                marker=mark.marker(colours),
            )
        )
        known = [row for row in table if row["under"] == name and row["published times native"] is not None]
        if known:
            figure.add_trace(
                go.Scatter(
                    name="published (2006)",
                    y=[row["loop"] for row in known],
                    x=[row["published times native"] for row in known],
                    mode="markers",
                    orientation="h",
                    offsetgroup=name,
                    legendgroup="published",
                    showlegend=n == 0,
                    hovertemplate=f"%{{y}} under {name}, published: %{{x:,.2f}} times native<extra></extra>",
                    marker={
                        "symbol": "diamond", "size": 10, "color": colours.page, "line": {"color": colours.text, "width": 2},
                    },
                )
            )  # fmt: skip
    loops = list(dict.fromkeys(row["loop"] for row in table))
    figure.update_layout(
        template=template(mode),
        barmode="group",
        scattermode="group",
        height=FRAME + BAR * len(loops) * max(len(names), 1),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        margin={"l": 16, "r": 16, "t": 64, "b": 48},
        xaxis={"title": {"text": "times the native cycles"}, "type": "log", "dtick": 1},
        yaxis={
            "categoryorder": "array",
            "categoryarray": loops,
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
        },
    )
    figure.add_vline(x=1, line={"color": colours.text, "width": 1})
    return figure
