"""What looks at single accesses: the breakpoints of the debug registers, and the alignment check.

While either is on, the dictionaries over the TLB are out of the way (`strict`), so that each access takes the long way
and is looked at there. A breakpoint on an instruction is a fault before it, unless RF is set; one on data or a port is
a trap after the instruction. An access of code in ring 3 that is not aligned is #AC where CR0.AM and EFLAGS.AC are set.

Simplified: accesses to descriptor tables and task-state segments are not looked at; RF is loaded by IRET only while a
breakpoint is enabled, since nobody can tell otherwise; a breakpoint on data that a load of SS reads does not wait.

Read more: Intel SDM vol. 3, 17.2 (debug registers), 17.3.1 (#DB), 6.15, interrupt 17 (#AC).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import AC as ALIGNMENT_CHECK
from vmlab.isa.x86.faults import DB, Fault
from vmlab.isa.x86.registers import AC, CR0_AM, CR4_DE, DR7_ENABLED
from vmlab.machine.paging_control import PagingControl

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AccessChecks"]

# DR7:  [ LEN3 31:30 | R/W3 29:28 | … | LEN0 19:18 | R/W0 17:16 | GD 13 | G3 L3 … G0 L0 7:0 ]
EXECUTION, WRITES, PORTS, ACCESSES = range(4)
LENGTHS = (1, 2, 8, 4)


class AccessChecks(PagingControl):
    """The part of a processor that looks at single accesses.

    Attributes
    ----------
    strict : bool
        True where accesses to data are looked at.
    debug_causes : int
        Why the instruction just executed asks for #DB, as bits of DR6; 0 where it does not.
    """

    __slots__ = ("debug_causes", "strict")

    debug_causes: int
    strict: bool

    def look_closely(self) -> None:
        """Note that DR7, CR0.AM, EFLAGS.AC or the privilege level may have changed."""
        watching = bool(self.debug[7] & DR7_ENABLED) or self._aligns
        if watching:
            self._readable, self._writable, self.quick_read, self.quick_write = {}, {}, {}, {}
            self.horizon = 0
        elif self.strict:
            self._choose_maps()
            self.horizon = 0
        self.strict = watching

    @property
    def _aligns(self) -> bool:
        return bool(self.flags & AC) and bool(self.cr0 & CR0_AM) and self.ring == 3

    def _breakpoints(self, kinds: Iterable[int], start: int, size: int) -> int:
        """Return as bits of DR6 which enabled breakpoints of these kinds an access touches."""
        control, causes = self.debug[7], 0
        for n in range(4):
            if control >> 2 * n & 3 and control >> 16 + 4 * n & 3 in kinds:
                length = LENGTHS[control >> 18 + 4 * n & 3]
                first = self.debug[n] & -length
                if first < start + size and start < first + length:
                    causes |= 1 << n
        return causes

    def look_at_data(self, linear: int, size: int, *, write: bool) -> None:
        """Look at an access to data that no page fault forbids; #AC where it is not aligned."""
        if self._aligns and linear & size - 1:
            raise Fault(ALIGNMENT_CHECK, 0)
        self._note(self._breakpoints((WRITES, ACCESSES) if write else (ACCESSES,), linear, size))

    def look_at_port(self, port: int, size: int) -> None:
        """Look at an access to a port: with CR4.DE there are breakpoints for those."""
        if self.cr4 & CR4_DE:
            self._note(self._breakpoints((PORTS,), port, size))

    def look_at_code(self, linear: int) -> None:
        """Look at an instruction before it executes: #DB where a breakpoint is on its first byte."""
        causes = self._breakpoints((EXECUTION,), linear, 1)
        if causes:
            self.debug[6] |= causes
            raise Fault(DB)

    def _note(self, causes: int) -> None:
        if causes:
            self.debug_causes |= causes
            self.horizon = 0
