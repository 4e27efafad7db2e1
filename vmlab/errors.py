"""Errors of the library: one base, one clear message each.

Misuse is an exception; what a guest does (a fault, an exit) is a value and never raised to the user.
A message says what was given, what is allowed and, where it helps, what to do.
"""

from __future__ import annotations

__all__ = ["AssemblyError", "ImageError", "OptionError", "StateError", "VmlabError"]


class VmlabError(Exception):
    """Base of every error that vmlab raises for a wrong argument or a wrong file."""


class OptionError(VmlabError, ValueError):
    """An argument has a value that is not allowed."""


class ImageError(VmlabError, ValueError):
    """A guest image cannot be loaded: missing, truncated, foreign or too large."""


class StateError(VmlabError, ValueError):
    """A saved state is damaged, foreign or of a version that this vmlab cannot read."""


class AssemblyError(VmlabError, SyntaxError):
    """Assembly source is wrong; carries the place.

    Attributes
    ----------
    line, column : int
        Place in the source, both counted from 1.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0, source: str = "") -> None:
        self.line = line
        self.column = column
        self.source = source
        self.message = message
        place = f"line {line}, column {column}: " if line else ""
        excerpt = f"\n    {source}\n    {' ' * (column - 1)}^" if source and column else ""
        super().__init__(f"{place}{message}{excerpt}")

    def __str__(self) -> str:
        return str(self.args[0])
