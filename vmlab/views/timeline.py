"""The history of virtual machines as a picture: a lane a kind, a row an event, years from left to right.

Each event has a row of its own, so that no two labels meet, and its label on that side of its mark where there is room. A
lane has a symbol beside its colour. Drawn from `vmlab.terms.history`; the text twin is `Timeline.describe()`.
"""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.terms.history import KINDS, HistoricEvent, history
from vmlab.views.theme import Mode, colours_of, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Timeline", "timeline"]

MARKS = {
    "mainframe": ("hardware", "square"),
    "theory": ("neutral", "star"),
    "pc": ("user", "circle"),
    "hardware": ("trap", "triangle-up"),
    "resources": ("inject", "diamond"),
    "container": ("kernel", "hexagon"),
    "language": ("emulate", "pentagon"),
}
"""Role of the colour and symbol by kind."""

ROW, FRAME = 19, 64  # pixels
TURN = 1992
"""Labels of earlier events stand to the right of their marks, those of later ones to the left."""
MARGIN = 3  # years
HOVER_WIDTH = 60  # letters


class Timeline:
    """Events of the history of virtual machines; prints as a text, draws itself by `figure()`.

    Attributes
    ----------
    events : tuple of HistoricEvent
        The earliest first.
    """

    def __init__(self, events: tuple[HistoricEvent, ...]) -> None:
        self.events = events

    def lanes(self) -> dict[str, list[HistoricEvent]]:
        """Return the events by kind, in the order of the picture."""
        lanes = {kind: [event for event in self.events if event.kind == kind] for kind in KINDS}
        return {kind: events for kind, events in lanes.items() if events}

    def rows(self) -> list[dict[str, Any]]:
        """Return a table: one row an event."""
        return [
            {
                "year": event.year, "event": event.name, "kind": KINDS[event.kind], "means": event.means, "source": event.cited,
            }
            for event in self.events
        ]  # fmt: skip

    def describe(self) -> str:
        """Return it as text: each event with its sentence and its source, by kind."""
        lines = []
        for kind, events in self.lanes().items():
            lines.append(KINDS[kind])
            lines += [f"  {event.year}  {event.name}: {event.means} [{event.cited}]" for event in events]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return "\n".join(f"{event.year}  {event.name} ({KINDS[event.kind]})" for event in self.events)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        cells = "".join(
            f"<tr><td>{event.year}</td><td style='text-align:left'><b>{escape(event.name)}</b><br>{KINDS[event.kind]}</td>"
            f"<td style='text-align:left'>{escape(event.means)}<br><i>{_source_html(event)}</i></td></tr>"
            for event in self.events
        )
        head = "".join(
            f"<th style='text-align:left'>{each}</th>" for each in ("year", "event", "what it was, and who says so")
        )
        return f"<table><tr>{head}</tr>{cells}</table>"

    def figure(self, mode: str = "light") -> go.Figure:
        """Draw it.

        Parameters
        ----------
        mode : {"light", "dark"}
            Colours.

        Returns
        -------
        plotly.graph_objects.Figure
            As wide as there is room, from 700 pixels on; on a mark stands what it was, and the source.

        Raises
        ------
        OptionError
            There is no such mode.
        """
        import plotly.graph_objects as go

        colours = colours_of(mode)
        figure = go.Figure()
        first, last = self.events[0].year - MARGIN, self.events[-1].year + MARGIN
        row = 0
        for number, (kind, events) in enumerate(self.lanes().items()):
            self._lane(figure, colours, kind, (first, row, last, row + len(events) + 1), shaded=number % 2 == 0)
            role, symbol = MARKS[kind]
            figure.add_trace(
                go.Scatter(
                    name=KINDS[kind],
                    x=[event.year for event in events],
                    y=[row + 1 + n for n in range(len(events))],
                    mode="markers+text",
                    text=[_label(event) for event in events],
                    textposition=["middle right" if event.year < TURN else "middle left" for event in events],
                    textfont={"size": 12, "color": colours.text},
                    marker={"symbol": symbol, "size": 11, "color": colours.line[role]},
                    hovertext=[_hover(event) for event in events],
                    hoverinfo="text",
                    showlegend=False,
                    cliponaxis=False,
                )
            )
            row += len(events) + 1
        figure.update_layout(
            template=template(mode),
            height=FRAME + ROW * row,
            margin={"l": 8, "r": 8, "t": 32, "b": 32},
            hovermode="closest",
            xaxis={"range": [first, last], "dtick": 10, "mirror": "allticks", "side": "top", "fixedrange": True},
            yaxis={"range": [row - 0.5, -0.5], "visible": False, "fixedrange": True},
        )
        return figure

    @staticmethod
    def _lane(
        figure: go.Figure, colours: Mode, kind: str, place: tuple[float, float, float, float], *, shaded: bool
    ) -> None:
        """Draw a lane's ground, and its title in its first row."""
        left, top, right, bottom = place
        if shaded:
            figure.add_shape(
                type="rect", x0=left, x1=right, y0=top - 0.5, y1=bottom - 0.5, layer="below", line_width=0, fillcolor=colours.panel
            )  # fmt: skip
        figure.add_annotation(
            x=left, y=top, xanchor="left", yanchor="middle", showarrow=False, text=f"<b>{KINDS[kind]}</b>",
            font={"size": 13, "color": colours.ink[MARKS[kind][0]]},
        )  # fmt: skip


def _label(event: HistoricEvent) -> str:
    """Return what stands beside a mark, with a space between them."""
    return f" {event.year}  {event.name}" if event.year < TURN else f"{event.name}  {event.year} "


def _hover(event: HistoricEvent) -> str:
    lines = [f"<b>{event.year}  {escape(event.name)}</b>", *textwrap.wrap(event.means, HOVER_WIDTH)]
    return "<br>".join([*lines, *(f"<i>{line}</i>" for line in textwrap.wrap(event.cited, HOVER_WIDTH))])


def _source_html(event: HistoricEvent) -> str:
    if not event.link:
        return escape(event.source)
    return f"{escape(event.source)}, <a href='https://doi.org/{event.link.removeprefix('doi:')}'>{event.link}</a>"


def timeline(kind: str | None = None) -> Timeline:
    """Return the history of virtual machines, or of one kind of event.

    Parameters
    ----------
    kind : str, optional
        `"mainframe"`, `"theory"`, `"pc"`, `"hardware"`, `"resources"`, `"container"` or `"language"`.

    Returns
    -------
    Timeline
        With `figure()`, `rows()` and `describe()`.

    Raises
    ------
    OptionError
        There is no such kind.

    Examples
    --------
    >>> [event.name for event in timeline("hardware").events][:2]
    ['VT-x', 'AMD-V']
    """
    if kind is None:
        return Timeline(history())
    if kind not in list(KINDS):  # a list: what cannot be hashed is no kind either
        raise OptionError(f"no kind of event {kind!r:.80}: choose one of {', '.join(KINDS)}")
    return Timeline(tuple(event for event in history() if event.kind == kind))
