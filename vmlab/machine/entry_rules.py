"""Rules for entering a guest: what a processor checks, each with where its maker's manual says so.

A table of rules is what is checked and what is said about it, in one. It is evaluated for new values alone: a hypervisor
enters its guests again and again with the same, and what has kept all rules once does so always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

__all__ = ["EntryRule", "any_broken", "broken", "remember"]

MOST_GOOD = 1024
"""Sets of values of which is known that they keep the rules, at most, for one kind of check."""


class EntryRule(NamedTuple):
    """One check.

    Attributes
    ----------
    section : str
        Of the manual.
    text : str
        What must be so.
    is_broken : callable
        Says, of what is checked, whether it is not so.
    """

    section: str
    text: str
    is_broken: Callable[[Any], object]


def any_broken(rules: Iterable[EntryRule], subject: object) -> bool:
    """Say whether a rule is broken."""
    return any(rule.is_broken(subject) for rule in rules)


def broken(rules: Iterable[EntryRule], subject: object) -> tuple[EntryRule, ...]:
    """Return the rules that are broken."""
    return tuple(rule for rule in rules if rule.is_broken(subject))


def remember(good: dict[Hashable, None], key: Hashable) -> None:
    """Note values that keep the rules."""
    if len(good) >= MOST_GOOD:
        good.clear()
    good[key] = None
