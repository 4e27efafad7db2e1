"""One theme for every picture: colours, glyphs, fonts and lengths in one place.

Colours are Okabe and Ito's palette ("Color Universal Design", 2008), which people with any common form of colour
blindness tell apart. A colour never stands alone: each role has a glyph or a dash beside it, and a word.
Each role has a `line` (3:1 against the page, for shapes) and an `ink` (4.5:1, WCAG 2.2 AA, for text) in both modes;
`tests/views/test_theme.py` computes the ratios.

The stage's style sheet takes the colours as CSS variables (`css_variables`), plotly as a template (`template`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ANSI",
    "DARK",
    "EVENTS",
    "LAYERS",
    "LIGHT",
    "MONO",
    "SANS",
    "Mode",
    "colours_of",
    "css_variables",
    "mix",
    "template",
]

SANS = "var(--jp-ui-font-family, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif)"
MONO = "var(--jp-code-font-family, ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace)"
PLAIN_SANS = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', 'DejaVu Sans', sans-serif"
PLAIN_MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"

ROLES = ("user", "kernel", "vmm", "hardware", "trap", "emulate", "inject", "shadow", "switch", "neutral")


@dataclass(frozen=True, slots=True)
class Mode:
    """Colours of one mode of display.

    Attributes
    ----------
    name : str
        `"light"` or `"dark"`.
    page, panel, text, muted, rule : str
        Background of the page, of a panel; text, quiet text, hairlines.
    line, ink : mapping of str to str
        By role: colour of a shape, colour of a word.
    ansi : tuple of str
        The terminal's sixteen colours for text on the panel.
    """

    name: str
    page: str
    panel: str
    text: str
    muted: str
    rule: str
    line: Mapping[str, str]
    ink: Mapping[str, str]
    ansi: tuple[str, ...]

    def tint(self, role: str, share: float = 0.14) -> str:
        """Return the role's colour thinned with the page's, for a fill."""
        return mix(self.line[role], self.page, share)


def _roles(*colours: str) -> Mapping[str, str]:
    return MappingProxyType(dict(zip(ROLES, colours, strict=True)))


LIGHT = Mode(
    name="light", page="#ffffff", panel="#f7f8f9", text="#1b1f24", muted="#575e66", rule="#d5d9de",
    #            user       kernel     vmm        hardware   trap       emulate    inject     shadow     switch     neutral
    line=_roles("#0072b2", "#009e73", "#b87d00", "#6b7580", "#d55e00", "#b87d00", "#b65a8e", "#8a7f00", "#0072b2", "#8a929b"),
    ink=_roles("#005f95", "#00694d", "#7d5500", "#4d565f", "#a84900", "#7d5500", "#963f70", "#665e00", "#005f95", "#575e66"),
    ansi=("#1b1f24", "#b3261e", "#00694d", "#7d5500", "#005f95", "#963f70", "#00666f", "#575e66",
          "#4d565f", "#c02a20", "#007a5a", "#8a5d00", "#0068a6", "#a84580", "#006f7a", "#1b1f24"),
)  # fmt: skip
DARK = Mode(
    name="dark", page="#111417", panel="#191d21", text="#e8eaed", muted="#a3abb4", rule="#343a41",
    line=_roles("#56b4e9", "#1fbf92", "#e69f00", "#8b96a1", "#f0772a", "#e69f00", "#dd8fba", "#e3d74a", "#56b4e9", "#7d868f"),
    ink=_roles("#7cc6f0", "#3fd0a6", "#f0b440", "#b3bcc5", "#ff9452", "#f0b440", "#e7a9ca", "#ece26e", "#7cc6f0", "#a3abb4"),
    ansi=("#a3abb4", "#ff8a80", "#3fd0a6", "#f0b440", "#7cc6f0", "#e7a9ca", "#6fd3dc", "#e8eaed",
          "#a3abb4", "#ffa79f", "#6fe0bd", "#f7cf7a", "#a5daf7", "#f2c6de", "#9ce4ea", "#ffffff"),
)  # fmt: skip
ANSI = (
    "#000000", "#aa0000", "#00aa00", "#aa5500", "#0000aa", "#aa00aa", "#00aaaa", "#aaaaaa",
    "#555555", "#ff5555", "#55ff55", "#ffff55", "#5555ff", "#ff55ff", "#55ffff", "#ffffff",
)  # fmt: skip
"""A PC screen's sixteen colours in the terminal's order, for cells that bring a background of their own."""
MODES = MappingProxyType({mode.name: mode for mode in (LIGHT, DARK)})


def colours_of(mode: str) -> Mode:
    """Return the colours of a mode; OptionError for an unknown one."""
    if mode not in MODES:
        raise OptionError(f"no colours {mode!r}: choose one of {', '.join(MODES)}")
    return MODES[mode]


@dataclass(frozen=True, slots=True)
class Mark:
    """How an event is drawn: a glyph, a role for the colour, a word."""

    glyph: str
    role: str
    word: str


EVENTS: Mapping[str, Mark] = MappingProxyType(
    {
        "trap": Mark("▼", "trap", "trap"),
        "signal": Mark("◇", "hardware", "signal"),
        "exit": Mark("▽", "trap", "exit"),
        "vm-exit": Mark("⇓", "trap", "VM exit"),
        "emulate": Mark("◆", "emulate", "emulate"),
        "hypercall": Mark("◈", "emulate", "hypercall"),
        "inject": Mark("▲", "inject", "inject"),
        "shadow": Mark("▦", "shadow", "shadow page"),
        "unsync": Mark("◫", "shadow", "out of step"),
        "sync": Mark("▣", "shadow", "in step"),
        "traced": Mark("▤", "shadow", "traced write"),
        "root": Mark("▥", "shadow", "shadow root"),
        "nested": Mark("▩", "shadow", "nested page"),
        "switch": Mark("⇄", "switch", "world switch"),
        "resume": Mark("△", "kernel", "resume"),
        "port": Mark("●", "hardware", "port"),
        "dma": Mark("⇆", "hardware", "DMA"),
        "control": Mark("■", "hardware", "control register"),
        "input": Mark("▸", "neutral", "input"),
        "end": Mark("✕", "neutral", "end"),
        "instruction": Mark("·", "neutral", "instruction"),
    }
)
"""Mark of every kind of trace event."""

LAYERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "processes": ("user", "guest processes"),
        "kernel": ("kernel", "guest kernels"),
        "vmm": ("vmm", "virtual-machine monitor"),
        "hardware": ("hardware", "hardware"),
    }
)
"""Layers from top to bottom: name to (role, words)."""

RELATIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "runs on": ("neutral", "solid"),
        "traps to": ("trap", "solid"),
        "maps to": ("shadow", "dot"),
        "assigned to": ("hardware", "dash"),
    }
)
"""Relation of an edge to (role, dash)."""


def mix(colour: str, ground: str, share: float) -> str:
    """Blend two `#rrggbb` colours, `share` of the first.

    >>> mix("#000000", "#ffffff", 0.5)
    '#808080'
    """
    pairs = ((int(colour[n : n + 2], 16), int(ground[n : n + 2], 16)) for n in (1, 3, 5))
    return "#" + "".join(f"{int(a * share + b * (1 - share) + 0.5):02x}" for a, b in pairs)


def css_variables(root: str = ".vmlab-stage") -> str:
    """Return the CSS that defines a widget's variables for light and dark pages.

    JupyterLab says which it is by `data-jp-theme-light` on the body; elsewhere the browser's preference counts.
    """

    def block(mode: Mode) -> str:
        names = {"page": mode.page, "panel": mode.panel, "text": mode.text, "muted": mode.muted, "rule": mode.rule}
        base = [f"--vm-{name}: {value};" for name, value in names.items()]
        lines = [f"--vm-{role}: {colour};" for role, colour in mode.line.items()]
        inks = [f"--vm-{role}-ink: {colour};" for role, colour in mode.ink.items()]
        tints = [f"--vm-{role}-tint: {mode.tint(role)};" for role in ROLES]
        ansi = [f"--vm-ansi-{number}: {colour};" for number, colour in enumerate(mode.ansi)]
        return "\n  ".join([f"color-scheme: {mode.name};", *base, *lines, *inks, *tints, *ansi])

    fonts = f"--vm-sans: {SANS};\n  --vm-mono: {MONO};"
    dark = block(DARK)
    return (
        f"{root} {{\n  {fonts}\n  {block(LIGHT)}\n}}\n"
        f'body[data-jp-theme-light="false"] {root} {{\n  {dark}\n}}\n'
        "@media (prefers-color-scheme: dark) {\n"
        f"body:not([data-jp-theme-light]) {root} {{\n  {dark}\n}}\n}}\n"
    )


def template(mode: str = "light") -> dict[str, Any]:
    """Return a plotly template (a plain dict) in this theme."""
    colours = MODES[mode]
    axis = {"gridcolor": colours.rule, "linecolor": colours.rule, "zerolinecolor": colours.rule}
    return {
        "layout": {
            "font": {"family": PLAIN_SANS, "color": colours.text, "size": 13},
            "paper_bgcolor": colours.page,
            "plot_bgcolor": colours.page,
            "colorway": [colours.line[role] for role in ("user", "kernel", "trap", "emulate", "inject", "shadow")],
            "xaxis": axis,
            "yaxis": axis | {"ticklabelstandoff": 6},
            "hoverlabel": {"bgcolor": colours.panel, "bordercolor": colours.rule, "font": {"color": colours.text}},
            "margin": {"l": 16, "r": 16, "t": 44, "b": 16},
        }
    }
