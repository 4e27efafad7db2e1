"""The matrix of the kinds as charts: what the same workload costs on each, and how long the way of a disk read is.

Bars are on a logarithmic scale where the kinds are far apart; the number stands beside each. Colour and pattern say the kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.kinds.matrix import COLUMNS, Matrix
from vmlab.views.technique_marks import TechniqueMark
from vmlab.views.theme import colours_of, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["KIND_CHARTS", "kinds_figure"]

KIND_CHARTS = {
    "slow-down": "without ports",
    "disk path": "disk path",
    "disk read": "disk read",
    "system call": "system call",
    "boot": "boot",
}
"""Charts, and the column of the matrix that each shows."""
MARKS = {
    "none": TechniqueMark("neutral", ""),
    "type 0": TechniqueMark("hardware", "x"),
    "type 1": TechniqueMark("user", ""),
    "type 1 in a general-purpose OS": TechniqueMark("kernel", "/"),
    "type 1 in a guest of type 1": TechniqueMark("user", "x"),
    "type 2": TechniqueMark("trap", "\\"),
    "paravirtualization": TechniqueMark("emulate", "|"),
    "programming-environment virtualization": TechniqueMark("shadow", "-"),
    "emulator": TechniqueMark("switch", "+"),
    "application containment": TechniqueMark("inject", "."),
}
BAR, FRAME = 26, 130


def kinds_figure(matrix: Matrix, chart: str = "slow-down", mode: str = "light") -> go.Figure:
    """Draw one column of the matrix.

    Parameters
    ----------
    matrix : Matrix
        Of `vmlab.compare_kinds`.
    chart : {"slow-down", "disk path", "disk read", "system call", "boot"}
        What the bars are; the slow-down is that without port accesses.
    mode : {"light", "dark"}
        Colours.

    Raises
    ------
    OptionError
        That is no matrix, or there is no such chart or mode.
    """
    import plotly.graph_objects as go

    if not isinstance(matrix, Matrix):
        raise OptionError(f"that is no matrix, as vmlab.compare_kinds([...]) gives: {matrix!r:.80}")
    if chart not in KIND_CHARTS:
        raise OptionError(f"there is no chart {chart!r} of the kinds: choose one of {', '.join(KIND_CHARTS)}")
    colours, column = colours_of(mode), KIND_CHARTS[chart]
    rows = [row for row in matrix.rows() if row[column] is not None]
    figure = go.Figure()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        values = [row[column] for row in own]
        figure.add_trace(
            go.Bar(
                orientation="h",
                name=str(kind) if kind != "none" else "no virtualization",
                y=[row["name"] for row in own],
                x=values,
                text=[f"{value:.1f}" if isinstance(value, float) else f"{value:,}" for value in values],
                textposition="outside",
                cliponaxis=False,
                hovertemplate=f"%{{y}}, {kind}: %{{x:,}}<extra></extra>",
                marker=MARKS[str(kind)].marker(colours),
            )
        )
    words = COLUMNS[column] if column != "without ports" else "cycles over native, without port accesses"
    figure.update_layout(
        template=template(mode),
        barmode="relative",
        height=FRAME + BAR * len(rows),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        margin={"l": 16, "r": 60, "t": 64, "b": 48},
        xaxis={"title": {"text": words}, "type": "log" if column != "disk path" else "linear", "dtick": 1 if column != "disk path" else None},
        yaxis={
            "categoryorder": "array", "categoryarray": [row["name"] for row in rows], "autorange": "reversed", "automargin": True,
            "showgrid": False,
        },
    )  # fmt: skip
    return figure
