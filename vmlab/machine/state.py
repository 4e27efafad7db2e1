"""Saved state: how every component checks what it is asked to load.

A component's `save()` returns plain data (ints, strings, bytes, lists, dicts) with a `"version"`; its `load()` first
passes that through `check_state`, so that a damaged, foreign or newer state is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from vmlab.errors import StateError

__all__ = ["BYTE", "COUNT", "LONG", "QUAD", "WORD", "Entries", "Items", "Rule", "Saved", "check_state", "rollback"]

BYTE = range(0x100)
WORD = range(0x1_0000)
LONG = range(1 << 32)
QUAD = range(1 << 64)
COUNT = range(1 << 63)


@dataclass(frozen=True, slots=True)
class Items:
    """A list of which each item fits a rule."""

    rule: Any
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Entries:
    """A dict of which each key and each value fits a rule."""

    key: Any
    value: Any


Rule = type | range | Items | Entries | tuple[Any, ...]
"""What a field may hold: a type, a `range` of ints, `Items`, `Entries`, or a tuple of such rules of which one must fit."""


def _fits(value: object, rule: object) -> bool:
    if isinstance(rule, tuple):
        return any(_fits(value, each) for each in rule)
    if isinstance(rule, range):
        return type(value) is int and value in rule
    if isinstance(rule, Items):
        right = isinstance(value, list) and (rule.count is None or len(value) == rule.count)
        return right and all(_fits(each, rule.rule) for each in value)  # type: ignore[attr-defined]  # it is a list
    if isinstance(rule, Entries):
        return isinstance(value, dict) and all(_fits(k, rule.key) and _fits(v, rule.value) for k, v in value.items())
    if rule is int:
        return type(value) is int
    return isinstance(rule, type) and isinstance(value, rule)


def _name(rule: object) -> str:
    if isinstance(rule, tuple):
        return " or ".join(_name(each) for each in rule)
    if isinstance(rule, range):
        return f"an int from {rule.start} to {rule.stop - 1}"
    if isinstance(rule, Items):
        return f"a list of {'' if rule.count is None else f'{rule.count} items, each '}{_name(rule.rule)}"
    if isinstance(rule, Entries):
        return f"a dict of {_name(rule.key)} to {_name(rule.value)}"
    return rule.__name__ if isinstance(rule, type) else repr(rule)


def check_state(state: object, owner: str, fields: Mapping[str, Any], version: int = 1) -> dict[str, Any]:
    """Check a saved state against a table of fields and return it.

    Parameters
    ----------
    state : object
        What `load()` was given.
    owner : str
        Who loads it, for the message.
    fields : mapping
        Field name to `Rule`. `"version"` needs no entry.
    version : int
        The version that the owner reads.

    Raises
    ------
    StateError
        Not a dict, another version, or a field that is missing, unknown or out of range.
    """
    if not isinstance(state, dict):
        raise StateError(f"{owner}: a saved state is a dict, not {type(state).__name__}")
    found = state.get("version")
    if type(found) is not int or found != version:
        raise StateError(f"{owner}: saved state has version {found!r}; this vmlab reads version {version}")
    for field, rule in fields.items():
        if field not in state:
            raise StateError(f"{owner}: saved state lacks {field!r}")
        if not _fits(state[field], rule):
            shown = repr(state[field])
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise StateError(f"{owner}: saved {field!r} is {shown}; it must be {_name(rule)}")
    unknown = sorted(str(key) for key in state if key not in fields and key != "version")
    if unknown:
        raise StateError(f"{owner}: saved state has unknown fields {', '.join(unknown)}")
    return state


class Saved(Protocol):
    """What can be saved and loaded."""

    def save(self) -> dict[str, Any]:
        """Save the state."""

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state."""


@contextmanager
def rollback(component: Saved) -> Iterator[None]:
    """Give a component made of others its state back where loading one of them fails: all is loaded, or nothing."""
    before = component.save()
    try:
        yield
    except StateError:
        component.load(before)
        raise
