"""Saved state: how every component checks what it is asked to load.

A component's `save()` returns plain data (ints, strings, bytes, lists, dicts) with a `"version"`; its `load()` first
passes that through `check_state`, so that a damaged, foreign or newer state is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmlab.errors import StateError

__all__ = ["BYTE", "WORD", "Rule", "check_state"]

Rule = type | range | tuple[Any, ...]
"""What a field may hold: a type, a `range` of ints, or a tuple of such rules of which one must fit."""

BYTE = range(0x100)
WORD = range(0x1_0000)


def _fits(value: object, rule: object) -> bool:
    if isinstance(rule, tuple):
        return any(_fits(value, each) for each in rule)
    if isinstance(rule, range):
        return type(value) is int and value in rule
    if rule is int:
        return type(value) is int
    return isinstance(rule, type) and isinstance(value, rule)


def _name(rule: object) -> str:
    if isinstance(rule, tuple):
        return " or ".join(_name(each) for each in rule)
    if isinstance(rule, range):
        return f"an int from {rule.start} to {rule.stop - 1}"
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
