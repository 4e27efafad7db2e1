"""How a technique is drawn in a chart: one colour and one pattern each, the same in every chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmlab.views.theme import Mode

__all__ = ["TechniqueMark", "technique_mark"]


@dataclass(frozen=True, slots=True)
class TechniqueMark:
    """A role of the theme for the colour, and a pattern of plotly's."""

    role: str
    pattern: str

    def marker(self, colours: Mode) -> dict[str, Any]:
        """Return the marker of a bar."""
        return {
            "color": colours.line[self.role],
            "line": {"color": colours.page, "width": 1},
            "pattern": {"shape": self.pattern, "fgcolor": colours.page, "solidity": 0.25, "size": 7},
        }


MARKS = {
    "native": TechniqueMark("hardware", ""),
    "trap-and-emulate": TechniqueMark("trap", "x"),
    "binary-translation": TechniqueMark("emulate", "|"),
    "paravirtualization": TechniqueMark("inject", "-"),
    "vt-x": TechniqueMark("user", "\\"),
    "vt-x/nested": TechniqueMark("user", "\\"),
    "vt-x/shadow": TechniqueMark("shadow", "/"),
    "amd-v": TechniqueMark("kernel", "."),
    "amd-v/nested": TechniqueMark("kernel", "."),
    "amd-v/shadow": TechniqueMark("neutral", "+"),
}
OTHERS = TechniqueMark("neutral", "x")


def technique_mark(name: str) -> TechniqueMark:
    """Return the mark of a technique, as `"native"` or `"vt-x/shadow"`.

    >>> technique_mark("vt-x/shadow").pattern
    '/'
    """
    return MARKS.get(name, OTHERS)
