"""Adaptive binary translation: what traps again and again is translated anew, into what does not.

An instruction that has trapped three times becomes a call-out, which costs no walk of the page tables to find out why it
trapped; after some call-outs it has another chance as itself, each time after twice as many: a page table may be one no more.
One that reads a register of the local APIC becomes a read of a copy in the hypervisor's data, which is brought up to date
whenever the guest is entered, if the register changes by nothing but the guest's own writes, which trap.

Read more: Adams and Agesen, ASPLOS 2006, 3.4 (adaptive binary translation).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.state import COUNT, LONG, Entries, Items, check_state
from vmlab.vmm.host_memory import WINDOW
from vmlab.vmm.translation_code import COPIES, Copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmlab.machine.processor import Processor

__all__ = ["Adaptation", "copy_of", "read_copies"]

PATIENCE = 3
"""Traps of an instruction after which it is translated into a call-out."""
TRUST, MOST_DOUBLINGS = 32, 16
"""Call-outs after which it is translated as it was: twice as many each time."""
COPIED = (0x20, 0x30, 0x80, 0xD0, 0xE0, 0xF0)
"""Registers of the local APIC that change by nothing but the guest's writes: ID, version, TPR, LDR, DFR, SVR."""


class Adaptation:
    """Which instructions of a guest are translated in another way than most.

    Attributes
    ----------
    trapping : dict of int to int
        Instructions that keep trapping: they are translated into call-outs, for so many times.
    copies : dict of int to Copy
        Instructions that read a register of the local APIC, and its copy in the data.
    """

    def __init__(self) -> None:
        self.trapping: dict[int, int] = {}
        self.copies: dict[int, Copy] = {}
        self._traps: Counter[int] = Counter()
        self._vain: set[int] = set()

    def trapped(self, ip: int, copy: Copy | None) -> bool:
        """Note that an instruction has trapped, as it read a register of which there may be a copy, or not.

        Returns
        -------
        bool
            True where it is to be translated anew.
        """
        self._traps[ip] += 1
        if self._traps[ip] % PATIENCE or ip in self.trapping:
            return False
        if copy is not None and ip not in self._vain:
            self.copies[ip] = copy
        else:
            self.trapping[ip] = TRUST << min(self._traps[ip] // PATIENCE, MOST_DOUBLINGS)
        return True

    def called_out(self, ip: int) -> bool:
        """Note a call-out; say whether its instruction is to be translated anew."""
        if ip in self.copies:  # the address was another
            self._vain.add(ip)
            del self.copies[ip]
            return True
        if ip not in self.trapping:
            return False
        self.trapping[ip] -= 1
        if self.trapping[ip]:
            return False
        del self.trapping[ip]
        return True

    def forget_copies(self, which: Callable[[Copy], bool]) -> list[int]:
        """Read some copies no more; return the addresses of the instructions that are to be translated anew."""
        found = [ip for ip, copy in self.copies.items() if which(copy)]
        for ip in found:
            del self.copies[ip]
        return found

    def registers(self, vcpu: Processor) -> dict[int, int]:
        """Return what stands in the registers of which there are copies, by the copy's place."""
        places = {copy.place for copy in self.copies.values()}
        return {place: vcpu.interrupts.read(COPIED[place - COPIES >> 2], 4) for place in places}

    # -- saving ------------------------------------------------------------------------------------------------------------

    def part(self, ips: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return what concerns some instructions: those that are call-outs, and copies as three numbers each."""
        ips = list(ips)
        copies = [number for ip in ips if ip in self.copies for number in (ip, *self.copies[ip])]
        return [ip for ip in ips if ip in self.trapping], copies

    def save(self) -> dict[str, Any]:
        """Save all of it."""
        return {
            "version": 1,
            "trapping": dict(self.trapping),
            "traps": dict(self._traps),
            "copies": self.part(self.copies)[1],
            "vain": sorted(self._vain),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        counts = Entries(LONG, COUNT)
        check_state(
            state, "adaptation", {"trapping": counts, "traps": counts, "copies": Items(LONG), "vain": Items(LONG)}
        )
        self.copies = read_copies(state["copies"])
        self.trapping, self._traps = dict(state["trapping"]), Counter(state["traps"])
        self._vain = set(state["vain"])


def read_copies(numbers: list[int]) -> dict[int, Copy]:
    """Make copies of their saved numbers; StateError where they are damaged."""
    places = range(COPIES, COPIES + 4 * len(COPIED), 4)
    if len(numbers) % 3 or any(place not in places for place in numbers[2::3]):
        raise StateError("adaptation: saved copies are three numbers each, the last a place in the data")
    return {ip: Copy(linear, place) for ip, linear, place in zip(*[iter(numbers)] * 3, strict=True)}


def copy_of(vcpu: Processor, linear: int, gpa: int) -> Copy | None:
    """Return which copy in the data there may be of what an address leads to."""
    base, offset = vcpu.interrupts.base & -PAGE_SIZE, gpa & PAGE_SIZE - 1
    if gpa - offset != base or not vcpu.interrupts.enabled or offset not in COPIED or linear >= WINDOW:
        return None
    return Copy(linear, COPIES + 4 * COPIED.index(offset))
