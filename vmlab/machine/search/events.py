"""Searching for recorded events, and for what a function says: the two ends of speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.search.base import Search

if TYPE_CHECKING:
    from vmlab.machine.search.base import Found
    from vmlab.machine.trace import Event

__all__ = ["EventSearch", "PredicateSearch"]


class EventSearch(Search):
    """Events are recorded: nothing need run."""

    def _fits(self, event: Event) -> bool:
        fields = self.condition.fields
        return event.guest == self.index and all(getattr(event, name) == value for name, value in fields)

    def after(self, position: int) -> Found | None:
        return self._event(self.recording.events.after(position, self.condition.kind, self._fits))

    def before(self, position: int) -> Found | None:
        return self._event(self.recording.events.before(position, self.condition.kind, self._fits))

    def _event(self, event: Event | None) -> Found | None:
        if event is None:
            return None
        return self._found(event.step, getattr(event, "old", None), getattr(event, "new", None), event)


class PredicateSearch(Search):
    """A function of the system becomes true: nothing but each step tells."""

    blind = True

    def look(self) -> bool:
        return bool(self.condition.predicate(self.system))

    def decide(self, before: bool, after: bool) -> tuple[None, None] | None:
        return (None, None) if after and not before else None
