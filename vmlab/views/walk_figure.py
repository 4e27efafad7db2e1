"""A page walk as a plotly figure whose frames replay it: a static twin of the walk theatre, for a page without a kernel.

Each frame changes the traces of the cells, of the caption and of the entry; colour says whose table it is, and so does the
shape: circles are the guest's entries, squares the host's, diamonds the shadow's, a star the byte, a cross a fault.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from vmlab.views.theme import Mode, colours_of, template
from vmlab.views.walk_scene import walk_script
from vmlab.views.walk_svg import ROLES, cell_states, counted

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from vmlab.views.page_walk import PageWalk

__all__ = ["walk_figure"]

SYMBOLS = {"guest": "circle", "host": "square", "shadow": "diamond", "byte": "star"}
PACE = 700  # milliseconds a frame
WRAP = 88
GAP = 1.6  # between two grids, in columns
PIXELS = 62  # of a row


def walk_figure(walk: PageWalk, mode: str = "light") -> go.Figure:
    """Draw a walk, to be replayed by its own buttons.

    Parameters
    ----------
    walk : PageWalk
        From `vmlab.walk`.
    mode : {"light", "dark"}
        Colours.

    Returns
    -------
    plotly.graph_objects.Figure
        Its first picture is the walk at its end.

    Raises
    ------
    OptionError
        There is no such mode.
    """
    import plotly.graph_objects as go

    colours = colours_of(mode)
    script = walk_script(walk)
    last = len(script["scenes"]) - 1
    places = _places(script)
    tall = max(len(grid["rows"]) for grid in script["grids"])
    figure = go.Figure(data=_traces(script, last, places, colours, tall))
    figure.frames = [
        go.Frame(name=str(n), data=_traces(script, n, places, colours, tall), traces=[0, 1]) for n in range(last + 1)
    ]
    _name_lines(figure, script, colours)
    wide = max(x for x, _ in places.values())
    button = {"frame": {"duration": PACE, "redraw": True}, "transition": {"duration": 0}, "fromcurrent": False}
    figure.update_layout(
        template=template(mode),
        title={"text": f"{script['title']}: {script['access']} at {script['address']}", "font": {"size": 14}, "x": 0.01},
        height=190 + PIXELS * tall,
        width=860,
        showlegend=False,
        xaxis={"visible": False, "range": [-1.4, max(wide + 0.8, 5.4)], "fixedrange": True},
        yaxis={"visible": False, "range": [-tall - 1.0, 1.1], "fixedrange": True},
        updatemenus=[
            {
                "type": "buttons", "direction": "left", "x": 0.01, "y": -0.02, "xanchor": "left", "yanchor": "top",
                "bgcolor": colours.panel, "bordercolor": colours.rule, "showactive": False,
                "buttons": [
                    {"label": "▶ replay", "method": "animate", "args": [None, button]},
                    {"label": "❚❚ stop", "method": "animate", "args": [[None], {**button, "mode": "immediate"}]},
                ],
            }
        ],
        sliders=[
            {
                "active": last, "x": 0.26, "len": 0.72, "y": -0.01, "pad": {"t": 6}, "currentvalue": {"visible": False},
                "bordercolor": colours.rule, "bgcolor": colours.panel, "ticklen": 3, "font": {"size": 9},
                "steps": [
                    {"label": str(n), "method": "animate", "args": [[str(n)], {**button, "mode": "immediate"}]}
                    for n in range(last + 1)
                ],
            }
        ],
        margin={"l": 12, "r": 12, "t": 40, "b": 64},
    )  # fmt: skip
    return figure


Places = dict[tuple[int, int, int], tuple[float, float]]


def _places(script: dict[str, Any]) -> Places:
    """Return where the cells are."""
    places: Places = {}
    left = 0.0
    for number, grid in enumerate(script["grids"]):
        for row, column in grid["cells"]:
            places[number, row, column] = left + column, -float(row)
        left += len(grid["columns"]) + GAP
    return places


def _traces(script: dict[str, Any], scene: int, places: Places, colours: Mode, tall: int) -> list[Any]:
    """Return the cells and the caption at a scene."""
    import plotly.graph_objects as go

    states = cell_states(script, scene)
    now = script["scenes"][scene]
    current = tuple(now["cell"]) if now["cell"] else None
    seen = [states[place] for place in places]
    roles = ["trap" if state == "bad" else ROLES[owner] for owner, state, _ in seen]
    fills = [
        colours.tint(role, 0.28) if state in ("read", "ok", "bad") else colours.page
        for role, (_, state, _) in zip(roles, seen, strict=True)
    ]
    lines = [
        colours.rule if state == "unread" else colours.line[role]
        for role, (_, state, _) in zip(roles, seen, strict=True)
    ]
    cells = go.Scatter(
        x=[x for x, _ in places.values()],
        y=[y for _, y in places.values()],
        mode="markers+text",
        text=[text or "·" for _, _, text in seen],
        textfont={"size": 13, "color": [colours.ink[role] for role in roles]},
        marker={
            "size": [44 if place == current else 36 for place in places],
            "symbol": ["x" if state == "bad" else SYMBOLS[owner] for owner, state, _ in seen],
            "color": fills,
            "line": {"color": lines, "width": [3.5 if place == current else 1.5 for place in places]},
        },
        hoverinfo="skip",
    )
    entry = now["entry"]
    said = "" if entry is None else f"{entry['title']}: {entry['value']}  " + " ".join(f"{bit[0]}={bit[2]}" for bit in entry["bits"])  # fmt: skip
    words = [*textwrap.wrap(now["caption"], WRAP), *textwrap.wrap(said, WRAP)]
    caption = go.Scatter(
        x=[-1.3],
        y=[-tall - 0.4],
        mode="text",
        text=["<br>".join([f"<b>{counted(now['references'])}</b>", *words])],
        textposition="middle right",
        textfont={"size": 12, "color": colours.text},
        hoverinfo="skip",
    )
    return [cells, caption]


def _name_lines(figure: go.Figure, script: dict[str, Any], colours: Mode) -> None:
    """Write the names of rows and columns."""
    left = 0.0
    for grid in script["grids"]:
        for row, name in enumerate(grid["rows"]):
            figure.add_annotation(x=left - 0.55, y=-row, text=name, xanchor="right", showarrow=False, font={"size": 12, "color": colours.ink["user"]})  # fmt: skip
        for column, name in enumerate(grid["columns"]):
            figure.add_annotation(x=left + column, y=0.72, text=name, showarrow=False, font={"size": 11, "color": colours.muted})  # fmt: skip
        if not any(grid["columns"]):
            figure.add_annotation(x=left - 0.9, y=0.8, text=grid["title"], xanchor="left", showarrow=False, font={"size": 12, "color": colours.muted})  # fmt: skip
        left += len(grid["columns"]) + GAP
