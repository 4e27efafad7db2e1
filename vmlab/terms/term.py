"""A term of the glossary: its names in two languages, what it means, and where vmlab shows it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Term", "folded"]


def folded(name: str) -> str:
    """Return what of a name counts when names are compared: neither case, nor spaces, nor hyphens.

    >>> folded("Trap-and-Emulate") == folded("trap and emulate")
    True
    """
    return "".join(letter for letter in name.casefold() if letter not in " -_\u00a0")


@dataclass(frozen=True, slots=True)
class Term:
    """One term; prints as an entry of a dictionary.

    Attributes
    ----------
    key : str
        Under which others point to it.
    english, korean : str
        Its names.
    full : str
        What the English name stands for, where that is an abbreviation; else empty.
    also : tuple of str
        Other names, in either language.
    means, means_korean : str
        The definition, a sentence.
    section : str
        The section of the textbook's chapter (*Operating System Concepts*, 10th ed.).
    source : str
        The file that it stands in.
    lab : str or None
        The notebook that shows it.
    shown_by : str or None
        The function or class of vmlab's that shows it, by its whole name.
    see : tuple of str
        The English names of related terms.
    common : bool
        True where the English name is an everyday word, too: only where it is set off in a text is the term meant.
    """

    key: str
    english: str
    korean: str
    means: str
    means_korean: str
    section: str
    source: str
    full: str = ""
    also: tuple[str, ...] = ()
    lab: str | None = None
    shown_by: str | None = None
    see: tuple[str, ...] = ()
    common: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, the English one first."""
        return tuple(name for name in (self.english, self.full, self.korean, *self.also) if name)

    @property
    def anchor(self) -> str:
        """The name of its place in the page `glossary.md`: JupyterLab makes it of the heading, which is the English name."""
        return self.english.replace(" ", "-")

    @property
    def title(self) -> str:
        """The English name, and what it stands for."""
        return f"{self.english} ({self.full})" if self.full else self.english

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    def describe(self) -> str:
        """Return it as an entry of a dictionary."""
        lines = [f"{self.title} · {self.korean}", f"  {self.means}", f"  {self.means_korean}"]
        if self.also:
            lines.append(f"  also: {', '.join(self.also)}")
        lines.append("  " + "; ".join(self._places()))
        if self.see:
            lines.append(f"  see {', '.join(self.see)}")
        return "\n".join(lines)

    def _places(self) -> list[str]:
        places = [f"section {self.section}"]
        if self.lab:
            places.append(f"lab {self.lab}")
        if self.shown_by:
            places.append(self.shown_by)
        return places

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        """Return it for a notebook, with a link to its lab."""
        also = f"<br>also: {escape(', '.join(self.also))}" if self.also else ""
        see = f"<br>see {escape(', '.join(self.see))}" if self.see else ""
        return (
            f"<p><b>{escape(self.title)}</b> · <b lang='ko'>{escape(self.korean)}</b><br>{escape(self.means)}<br>"
            f"<span lang='ko'>{escape(self.means_korean)}</span>{also}<br>section {self.section}{self.shown_html()}{see}</p>"
        )

    def shown_html(self) -> str:
        """Return where vmlab shows it, as HTML; empty where it does not yet."""
        lab = f", lab <a href='{self.lab}.ipynb'>{self.lab}</a>" if self.lab else ""
        return lab + (f", <code>{self.shown_by}</code>" if self.shown_by else "")
