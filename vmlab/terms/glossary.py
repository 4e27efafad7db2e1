"""The glossary: the terms of the chapter on virtual machines, to be looked up by any of their names, or searched."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from html import escape
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

from vmlab.errors import OptionError
from vmlab.terms.term import Term, folded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["SOURCES", "Glossary", "glossary"]

SOURCES = ("overview", "building_blocks", "assistance", "paging", "kinds", "components", "examples")
"""The files with the terms, in the order of the chapter."""

NEAR = 3
"""So many names are proposed for one that is unknown."""


class Glossary:
    """Terms in the order of the chapter; prints as a table.

    Attributes
    ----------
    terms : mapping of str to Term
        Terms by key.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        self.terms: Mapping[str, Term] = MappingProxyType({term.key: term for term in terms})
        self._names = {folded(name): term for term in self.terms.values() for name in (term.key, *term.names)}

    def __len__(self) -> int:
        return len(self.terms)

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms.values())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __getitem__(self, name: str) -> Term:
        """Return a term by one of its names, in either language; OptionError where none is named so."""
        if not isinstance(name, str):
            raise OptionError(f"a term is a word, as 'VMCS' or '하이퍼바이저', not {name!r:.80}")
        found = self._find(name)
        if found is None:
            raise OptionError(f"no term {name!r:.80}{self._proposal(name)}; vmlab.glossary() has all")
        return found

    def _find(self, name: str) -> Term | None:
        return self._names.get(folded(name)) or self._names.get(folded(name).removesuffix("s"))

    def _proposal(self, name: str) -> str:
        """Return what else may have been meant: names like it, else terms that have it in their definitions."""
        close = difflib.get_close_matches(folded(name), self._names, NEAR)
        meant = dict.fromkeys(self._names[each].english for each in close)
        if folded(name) and not meant:
            meant = dict.fromkeys(term.english for term in [*self.search(name)][:NEAR])
        return f" (did you mean {', '.join(map(repr, meant))}?)" if meant else ""

    def search(self, text: str) -> Glossary:
        """Return the terms that have a text in a name or a definition, those with it in a name first.

        Raises
        ------
        OptionError
            It is no text, or an empty one.
        """
        wanted = _letters(text)
        named = [term for term in self if any(wanted in folded(name) for name in term.names)]
        told = [term for term in self if any(wanted in folded(each) for each in (term.means, term.means_korean))]
        return Glossary(dict.fromkeys([*named, *told]))

    def rows(self) -> list[dict[str, Any]]:
        """Return a table: one row a term."""
        return [term.to_dict() for term in self]

    def describe(self) -> str:
        """Return all terms as entries of a dictionary."""
        return "\n\n".join(term.describe() for term in self)

    def __repr__(self) -> str:
        width = max((len(term.title) for term in self), default=0)
        lines = [f"{term.title:<{width}}  {term.section:<7} {term.korean}" for term in self]
        return "\n".join([*lines, f"{len(self)} term{'' if len(self) == 1 else 's'}"])

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        heads = ("term", "what it means", "section, and where to see it")
        head = "".join(f"<th style='text-align:left'>{each}</th>" for each in heads)
        rows = "".join(
            f"<tr><td style='text-align:left'><b>{escape(term.title)}</b><br><span lang='ko'>{escape(term.korean)}</span></td>"
            f"<td style='text-align:left'>{escape(term.means)}<br><span lang='ko'>{escape(term.means_korean)}</span></td>"
            f"<td style='text-align:left'>{term.section}{term.shown_html()}</td></tr>"
            for term in self
        )
        return f"<table><tr>{head}</tr>{rows}</table>"


def _letters(text: object) -> str:
    """Return what to search for; OptionError where that is nothing."""
    wanted = folded(text) if isinstance(text, str) else ""
    if not wanted:
        raise OptionError(f"search for some letters of a word, English or Korean, not {text!r:.80}")
    return wanted


@cache
def _all() -> Glossary:
    folder = files("vmlab.terms")
    tables = {source: tomllib.loads((folder / f"{source}.toml").read_text(encoding="utf-8")) for source in SOURCES}
    english = {key: fields["english"] for table in tables.values() for key, fields in table.items()}
    return Glossary(
        _term(key, source, fields, english) for source, table in tables.items() for key, fields in table.items()
    )


def _term(key: str, source: str, fields: dict[str, Any], english: Mapping[str, str]) -> Term:
    """Make a term of what stands in its file, where others are named by their keys."""
    lists = {"also": tuple(fields.get("also", ())), "see": tuple(english[other] for other in fields.get("see", ()))}
    return Term(key=key, source=source, **fields | lists)


@overload
def glossary(word: None = None) -> Glossary: ...
@overload
def glossary(word: str) -> Term: ...
def glossary(word: str | None = None) -> Glossary | Term:
    """Return a term of the chapter on virtual machines, or all of them.

    Parameters
    ----------
    word : str, optional
        One of the term's names, in English or in Korean.

    Returns
    -------
    Term or Glossary
        The term; without a word the whole glossary, which has `search(text)`, `rows()` and `describe()`.

    Raises
    ------
    OptionError
        There is no such term.

    Examples
    --------
    >>> glossary("VMCS").korean
    '가상 머신 제어 구조'
    >>> glossary("하이퍼바이저").english
    'hypervisor'
    >>> [term.english for term in glossary().search("balloon")]
    ['balloon']
    """
    return _all() if word is None else _all()[word]
