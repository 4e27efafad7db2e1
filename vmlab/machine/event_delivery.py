"""How a processor takes what comes between two instructions: exceptions, interrupts, traps after an instruction, signals.

Read more: Intel SDM vol. 3, 6.9 (priority), 6.15 (double and triple faults).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vmlab.isa.x86.faults import DB, DF, DoubleFault, Fault, TripleFault, escalate
from vmlab.isa.x86.registers import AC, DR6_SINGLE_STEP, DR7_ENABLED, DR7_GD, IF, TF
from vmlab.isa.x86.semantics.interrupts import deliver
from vmlab.machine.memory_access import MemoryAccess
from vmlab.machine.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor as Executes
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.devices import LocalApic
    from vmlab.machine.platform import Platform

__all__ = ["EventDelivery"]


class EventDelivery(MemoryAccess):
    """The part of a processor that takes events.

    Parameters
    ----------
    platform, model : Platform, CpuModel
        As of `MemoryAccess`.
    number : int
        Which of the platform's processors this is.

    Attributes
    ----------
    interrupts : LocalApic
        Its interrupt controller.
    signals : Signals
        INIT, STARTUP and NMI.
    deliver_quickly : callable or None
        What an engine has in place of `vmlab.isa.x86.semantics.interrupts.deliver`; False where it has not done it.
    repeat_quickly : callable or None
        What does more elements of a repeated string instruction, while an engine leaves the loop to `Processor.run`.
    attention : bool
        True where the next boundary needs more than the next instruction: an interrupt or a signal waits, TF is set, or
        a breakpoint is enabled.
    relaxed : bool
        True where it leaves the rest of its turn to the others, by PAUSE, until the machine has passed it; never where it
        `is_alone`.
    """

    __slots__ = (
        "_deliveries", "attention", "deliver_quickly", "delivered", "interrupts", "is_alone", "relaxed",
        "repeat_quickly", "signals",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel, number: int = 0) -> None:
        self.interrupts: LocalApic = platform.local_apics[number]
        self.signals = signals = Signals(self.flags_changed)
        self.interrupts.on_init, self.interrupts.on_startup = signals.arrive_init, signals.arrive_startup
        self.interrupts.on_nmi = signals.arrive_nmi
        self.delivered = self.debug_causes = 0
        self._deliveries = (0, 0)
        self.deliver_quickly: Callable[..., bool] | None = None
        self.repeat_quickly: Callable[[Any, Instruction], None] | None = None
        self.attention = self.strict = self.relaxed = False
        self.is_alone = len(platform.local_apics) == 1
        super().__init__(platform, model)

    def flags_changed(self) -> None:
        """Note that IF, TF or AC, or DR7, may have changed."""
        flags, breakpoints = self.flags, self.debug[7] & DR7_ENABLED
        self.attention = bool(flags & TF or breakpoints or self.signals.due) or (
            bool(flags & IF) and self.interrupts.output
        )
        if self.attention:
            self.horizon = 0
        if self.strict or breakpoints or flags & AC:
            self.look_closely()

    @property
    def cr8(self) -> int:
        """The task priority register's bits 7:4."""
        return self.interrupts.tpr >> 4

    @cr8.setter
    def cr8(self, value: int) -> None:
        self.interrupts.set_tpr(value << 4)

    @property
    def debug_pending(self) -> bool:
        """True where #DB is due before the next instruction."""
        return self.debug_causes != 0

    @debug_pending.setter
    def debug_pending(self, value: bool) -> None:
        self.debug_causes = DR6_SINGLE_STEP if value else 0

    def debug_trap(self, cause: int) -> None:
        """Ask for #DB after this instruction, with these bits of DR6."""
        self.debug_causes |= cause
        self.horizon = 0

    def wake_on_interrupt(self) -> None:
        """HLT."""
        self.halted = True
        self.horizon = 0

    def relax(self) -> None:
        """PAUSE: leave the rest of the turn to the other processors, if there are any."""
        if not self.is_alone:
            self.relaxed = True
            self.horizon = 0

    def end_nmi(self) -> None:
        """IRET: let the next NMI come."""
        self.signals.end_nmi()

    def take(self, fault: Fault) -> None:
        """Deliver an exception, escalating to a double and a triple fault (SDM vol. 3, 6.15).

        Raises
        ------
        TripleFault
            The processor shuts down.
        """
        self.debug_causes = 0
        self._deliver(fault.vector, fault.error_code)

    def interrupt(self, vector: int) -> None:
        """Deliver an external interrupt."""
        self.halted = False
        self._deliver(vector, None, external=True)

    def single_step(self) -> None:
        """Deliver the trap that TF, a breakpoint or a task asks for after an instruction; it wakes a halted processor."""
        self.halted = False
        self.debug[6] |= self.debug_causes
        self.debug_causes = 0
        self._deliver(DB, None)

    @property
    def barren(self) -> int:
        """Deliveries of an exception or interrupt since the last instruction that completed."""
        count, retired = self._deliveries
        return count if retired == self.retired else 0

    def _deliver(self, vector: int, error_code: int | None, *, external: bool = False) -> None:
        self._deliveries = (self.barren + 1, self.retired)
        if vector == DB:
            self.debug[7] &= ~DR7_GD  # the handler may use the debug registers
        try:
            fault = not external and vector not in (DB, DF)
            if self.deliver_quickly is None or not self.deliver_quickly(self, vector, error_code, fault=fault):
                deliver(cast("Executes", self), vector, error_code, fault=fault)
        except Fault as second:
            if vector == DF:
                raise TripleFault from None
            first_is_exception = vector < 32 and not external
            if first_is_exception and escalate(vector, second.vector):
                self._deliver(DF, DoubleFault().error_code)
            else:
                self._deliver(second.vector, second.error_code)

    @property
    def interruptible(self) -> bool:
        """True where an external interrupt would be taken at this boundary."""
        return bool(self.flags & IF) and not self.interrupt_shadow
