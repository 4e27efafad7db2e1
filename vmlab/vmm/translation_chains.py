"""Chained jumps: direct jumps in a translation cache that lead on within it (see `vmlab.vmm.translation_cache`).

A direct jump is UD2 until what it goes to has been translated, and JMP to that from then on; it may be UD2 again for a time,
while nobody is to come there unseen.

Read more: Adams and Agesen, ASPLOS 2006, 3.1 (chaining).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.memory import PAGE_SHIFT
from vmlab.vmm.translation_code import UNCHAINED, jump_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vmlab.vmm.host_memory import HostMemory

__all__ = ["Chains"]


class Chains:
    """The chained jumps of a cache.

    Parameters
    ----------
    host : HostMemory
        Whose window shows the cache.

    Attributes
    ----------
    goals : dict of int to int
        Where in the cache each leads, by its own address there.
    """

    def __init__(self, host: HostMemory) -> None:
        self._host = host
        self.goals: dict[int, int] = {}

    def add(self, stub: int, goal: int) -> None:
        """Chain a jump."""
        self._host.write_bytes(stub, jump_to(stub, goal))
        self.goals[stub] = goal

    def forget(self, stubs: Iterable[int]) -> None:
        """Forget jumps that nobody comes to any more."""
        for stub in stubs:
            self.goals.pop(stub, None)

    def drop(self, span: range) -> None:
        """Let no jump lead to addresses any more."""
        for stub in [stub for stub, goal in self.goals.items() if goal in span]:
            self._host.write_bytes(stub, UNCHAINED)
            del self.goals[stub]

    def switch(self, pages: Mapping[int, set[int]], begins: Mapping[int, int], *, on: bool) -> None:
        """Let the jumps to units of some pages lead on, or not for a time; those within a page stay as they are.

        Parameters
        ----------
        pages : mapping of int to set of int
            Jumps in the units of each of these pages of the guest's.
        begins : mapping of int to int
            Address of the guest's instruction by that of its translation.
        on : bool
            Which of the two.
        """
        for stub, goal in self.goals.items():
            within = pages.get(begins[goal] >> PAGE_SHIFT)
            if within is not None and stub not in within:
                self._host.write_bytes(stub, jump_to(stub, goal) if on else UNCHAINED)
