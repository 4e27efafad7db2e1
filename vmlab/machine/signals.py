"""What other processors do to one: INIT, STARTUP (SIPI) and NMI, from their arrival until they are taken.

INIT resets a processor. The bootstrap processor then goes on at the reset vector; the others wait for a STARTUP message,
whose vector v lets them start in real mode at v × 0x1000. One that comes at any other time is ignored, so that the
second of the two that software sends does nothing. An NMI waits while the handler of another runs, until its IRET.

    INIT, then STARTUP v:  CS selector = v << 8, CS base = v << 12, IP = 0

Simplified: no SMI; in the wait for a STARTUP message an NMI stays pending.

Read more: Intel SDM vol. 3, "Multiple-Processor (MP) Initialization"; 6.7 (NMI); table 9-1 (state after INIT);
MultiProcessor Specification 1.4, B.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import NMI
from vmlab.isa.x86.registers import CR0_CD, CR0_NW, CS
from vmlab.machine.state import BYTE, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.processor import Processor

__all__ = ["Signals"]

FIELDS: dict[str, Any] = {
    "init": bool, "startup": (BYTE, type(None)), "waiting": bool, "nmi": bool, "nmi_blocked": bool, "held": bool,
}  # fmt: skip
CACHING = CR0_CD | CR0_NW


class Signals:
    """The signals of one processor.

    Parameters
    ----------
    on_change : callable
        Called when `due` may have changed.

    Attributes
    ----------
    init, nmi : bool
        True where one has come and has not been taken.
    startup : int or None
        Vector of a STARTUP message that has come and has not been taken.
    waiting : bool
        True between INIT and STARTUP; the processor counts as halted then.
    nmi_blocked : bool
        True from the delivery of an NMI to the next IRET.
    held : bool
        True where none is taken: AMD's global interrupt flag is 0.
    due : bool
        True where the next boundary has something to take.
    """

    __slots__ = ("_on_change", "due", *FIELDS)
    init: bool
    startup: int | None
    waiting: bool
    nmi: bool
    nmi_blocked: bool
    held: bool

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.due = self.init = self.waiting = self.nmi = self.nmi_blocked = self.held = False
        self.startup = None
        self._on_change = on_change

    @property
    def has_nmi(self) -> bool:
        """True where an NMI can be delivered."""
        return self.nmi and not (self.nmi_blocked or self.waiting)

    def _update(self) -> None:
        asked = self.init or (self.waiting and self.startup is not None) or self.has_nmi
        self.due = asked and not self.held
        self._on_change()

    def arrive_init(self) -> None:
        """INIT; a STARTUP message that came before it is void."""
        self.init, self.startup = True, None
        self._update()

    def arrive_startup(self, vector: int) -> None:
        """STARTUP: heard by a processor that waits for it, or will when it has taken its INIT."""
        if (self.waiting or self.init) and self.startup is None:
            self.startup = vector
        self._update()

    def arrive_nmi(self) -> None:
        """NMI."""
        self.nmi = True
        self._update()

    def take_init(self, cpu: Processor) -> None:
        """Reset a processor as after power-on; but MSRs and the cache's bits of CR0 stay."""
        msrs, caching = cpu.msrs, cpu.cr0 & CACHING
        cpu.reset()
        cpu.msrs, cpu.cr0 = msrs, cpu.cr0 & ~CACHING | caching
        self.init = self.nmi = self.nmi_blocked = False
        self.wait(cpu)

    def wait(self, cpu: Processor) -> None:
        """Let a processor wait for a STARTUP message; the bootstrap processor does not."""
        self.waiting = cpu.halted = not cpu.interrupts.is_bootstrap
        if not self.waiting:
            self.startup = None
        self._update()

    def take_startup(self, cpu: Processor) -> None:
        """Start a processor that waits, in real mode at the start of a page."""
        vector = self.startup
        assert vector is not None, "no STARTUP message has come"
        self.startup, self.waiting = None, False
        code = cpu.segments[CS]
        code.set(vector << 8, vector << 12, code.limit, code.access, big=False)
        cpu.ip, cpu.halted = 0, False
        cpu.code_changed()
        self._update()

    def take_nmi(self, cpu: Processor) -> None:
        """Deliver an NMI; others wait for the end of its handler."""
        self.nmi, self.nmi_blocked = False, True
        self._update()
        cpu.interrupt(NMI)

    def take_nmi_for_host(self) -> None:
        """Take an NMI that is a VM exit: the host's are blocked from now on, the guest's are as they were."""
        self.nmi = False
        self._update()

    def end_nmi(self) -> None:
        """IRET."""
        if self.nmi_blocked:
            self.nmi_blocked = False
            self._update()

    def block_nmi(self, *, blocked: bool) -> None:
        """Take over whether NMIs are blocked, as VM entries and VM exits do."""
        if blocked != self.nmi_blocked:
            self.nmi_blocked = blocked
            self._update()

    def hold(self, *, held: bool) -> None:
        """Hold back what comes, or no more."""
        if held != self.held:
            self.held = held
            self._update()

    def save(self) -> dict[str, Any]:
        """Save as plain data."""
        return {"version": 2, **{name: getattr(self, name) for name in FIELDS}}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged."""
        check_state(state, "signals", FIELDS, version=2)
        for name in FIELDS:
            setattr(self, name, state[name])
        self._update()
