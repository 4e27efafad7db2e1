"""What the widgets send to the browser: their modules and style sheets, each with the part that all share.

Each module is plain ECMAScript without an import, so that a notebook needs no network and no build step.
"""

from __future__ import annotations

from pathlib import Path

from vmlab.views.theme import css_variables

__all__ = ["module", "style"]

STATIC = Path(__file__).parent / "static"


def module(name: str) -> str:
    """Return the source of a widget's module."""
    return "\n".join((STATIC / each).read_text(encoding="utf-8") for each in ("common.js", f"{name}.js"))


def style(name: str) -> str:
    """Return the style sheet of a widget whose root has the class `vmlab-NAME`."""
    root = f".vmlab-{name}"
    common = (STATIC / "common.css").read_text(encoding="utf-8").replace(".vmlab-widget", root)
    return css_variables(root) + common + (STATIC / f"{name}.css").read_text(encoding="utf-8")
