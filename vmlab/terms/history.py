"""The history of virtual machines as data: each event with its year, a sentence and a source."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "HistoricEvent", "history"]

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "mainframe": "mainframes and partitions",
        "theory": "theory and measurement",
        "pc": "hypervisors for PCs and servers",
        "hardware": "hardware assistance",
        "resources": "memory, migration, cloud",
        "container": "containers",
        "language": "languages and emulators",
    }
)
"""Kinds of events, in the order of a picture, and what they are called."""


@dataclass(frozen=True, slots=True)
class HistoricEvent:
    """Something that happened.

    Attributes
    ----------
    year : int
        Of first use or sale; of publication where it is a paper's.
    name : str
        What it was.
    kind : str
        A key of `KINDS`.
    means : str
        A sentence about it.
    source : str
        Who says so.
    link : str
        The source's DOI, as `doi:10.…`; empty where it has none.
    """

    year: int
    name: str
    kind: str
    means: str
    source: str
    link: str = ""

    @property
    def cited(self) -> str:
        """The source with its DOI."""
        return f"{self.source}, {self.link}" if self.link else self.source


@cache
def history() -> tuple[HistoricEvent, ...]:
    """Return what happened, the earliest first.

    Examples
    --------
    >>> [(event.year, event.name) for event in history()][:3]
    [(1967, 'CP-40'), (1967, 'CP-67'), (1972, 'VM/370')]
    """
    text = (files("vmlab.terms") / "history.toml").read_text(encoding="utf-8")
    events = [HistoricEvent(**fields) for fields in tomllib.loads(text)["event"]]
    return tuple(sorted(events, key=lambda event: event.year))
