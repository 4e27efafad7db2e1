"""Searching a recording: when did this come about, forwards and backwards from the cursor, across traps and world switches.

From checkpoint to checkpoint. A stretch in which it is impossible is passed over; another one runs again with a watch on
it, in small pieces; a piece in which the watch was touched is stepped through, and there the condition's definition
decides. So the answer never depends on how good the watch is, only the time does.

Read more: B. Boothe, "Efficient Algorithms for Bidirectional Debugging", PLDI 2000; O'Callahan et al., "Engineering Record
And Replay For Deployability", USENIX ATC 2017 (rr: reverse execution with breakpoints and watchpoints).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.recordable import check_guest
from vmlab.machine.search.base import Found, Search
from vmlab.machine.search.events import EventSearch, PredicateSearch
from vmlab.machine.search.execution import ExecutionSearch
from vmlab.machine.search.registers import RegisterSearch
from vmlab.machine.search.writes import WriteSearch
from vmlab.machine.when import Becomes, Condition, Executes, Happens, RegisterIs, Writes

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.recording import Recording

__all__ = ["Found", "find"]

_SEARCHES: dict[type, type[Search]] = {
    Becomes: PredicateSearch,
    Happens: EventSearch,
    Writes: WriteSearch,
    Executes: ExecutionSearch,
    RegisterIs: RegisterSearch,
}


def find(
    recording: Recording, condition: Condition | Callable[[Any], object], *, backwards: bool, guest: int
) -> Found | None:
    """Search from the cursor; see `Recording.find`."""
    if not isinstance(condition, Condition):
        if not callable(condition):
            raise OptionError(
                f"a search is for a condition of vmlab.when, or a function of the system, not {condition!r}"
            )
        condition = Becomes(condition)
    guests = recording.system.guests
    check_guest(guest, len(guests))
    search: Search = _SEARCHES[type(condition)](recording, condition, guest)
    start = recording.position
    found = None
    search.begin()
    try:
        found = search.before(start) if backwards else search.after(start)
    finally:
        search.end()
        recording.seek(start if found is None else found.step)
    return found
