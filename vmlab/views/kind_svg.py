"""The layered graph of a running system as a self-contained SVG: what a viewer without a kernel or without scripts sees.

The part in control has a heavy frame and a mark. Ways by which control comes from above are drawn where they pass a layer by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from vmlab.views.kind_layout import ROLES, Box, place_parts, row_names, small_words
from vmlab.views.svg import _text
from vmlab.views.theme import PLAIN_SANS, Mode, colours_of

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["kind_svg"]

TITLE = 34.0
QUOTED = {'"': "&quot;"}


def kind_svg(graph: nx.DiGraph, mode: str = "light") -> str:
    """Draw a running system.

    Parameters
    ----------
    graph : networkx.DiGraph
        From `kind_graph`.
    mode : {"light", "dark"}
        Colours.

    Returns
    -------
    str
        An SVG document; each part is a group with `data-part`.
    """
    colours = colours_of(mode)
    boxes, layers, width, height = place_parts(graph)
    title = f"{graph.graph['name']}: {graph.graph['kind']}"
    parts = [_part(graph, box, colours) for box in boxes]
    rows = [_text(12, top + TITLE + 28, layer, size=10.5, fill=colours.muted) for layer, top in row_names(layers)]
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height + TITLE:g}" width="{width:g}" height="{height + TITLE:g}" style="max-width:100%">',
            f'<g role="img" font-family="{escape(PLAIN_SANS, QUOTED)}" font-size="12" fill="{colours.text}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width:g}" height="{height + TITLE:g}" rx="8" fill="{colours.page}" stroke="{colours.rule}"/>',
            _text(14, 23, title, size=14, weight=650, fill=colours.text),
            *rows,
            *parts,
            "</g></svg>",
        ]
    )


def _part(graph: nx.DiGraph, box: Box, colours: Mode) -> str:
    data = graph.nodes[box.name]
    role = ROLES[data["layer"]]
    heavy = data["in_control"]
    y = box.y + TITLE
    words = "▶ " + data["label"] if heavy else data["label"]
    small = small_words(graph, box.name)
    return "".join(
        [
            f'<g data-part="{escape(box.name, QUOTED)}">',
            f'<rect x="{box.x:g}" y="{y:g}" width="{box.w:g}" height="{box.h:g}" rx="5" fill="{colours.tint(role)}" ',
            f'stroke="{colours.line[role]}" stroke-width="{3 if heavy else 1.4}"/>',
            _text(
                box.x + box.w / 2, y + 20, _fit(words, box.w, 7), anchor="middle", weight=650, fill=colours.ink[role]
            ),
            _text(box.x + box.w / 2, y + 36, _fit(small, box.w, 5.4), size=10, anchor="middle", fill=colours.muted),
            "</g>",
        ]
    )


def _fit(words: str, width: float, letter: float) -> str:
    room = int((width - 8) / letter)
    return words if len(words) <= room else words[: max(1, room - 1)] + "…"
