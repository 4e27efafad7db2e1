"""How a processor takes what comes between two instructions: exceptions, interrupts, traps after an instruction, signals.

Read more: Intel SDM vol. 3, 6.9 (priority), 6.15 (double and triple faults).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vmlab.isa.x86.faults import DB, DF, NMI, DoubleFault, Fault, TripleFault, escalate
from vmlab.isa.x86.registers import AC, CR0_PE, DR6_SINGLE_STEP, DR7_ENABLED, DR7_GD, IF, RF, TF
from vmlab.isa.x86.semantics.interrupts import deliver
from vmlab.machine.guest_exit import (
    EXTERNAL,
    HARDWARE_EXCEPTION,
    NMI_TYPE,
    PRIVILEGED_EXCEPTION,
    SOFTWARE_TYPES,
    TYPE_SHIFT,
    WITH_CODE,
    GuestExit,
)
from vmlab.machine.memory_access import MemoryAccess
from vmlab.machine.signals import Signals
from vmlab.machine.vmx.controls import MONITOR_TRAP_FLAG, NMI_WINDOW_EXITING
from vmlab.machine.vmx.operation import Vmx

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor as Executes
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.devices import LocalApic
    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor

__all__ = ["EventDelivery"]

EXCEPTIONS = 32


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
    injected : tuple of int or None
        Interruption information, error code and instruction length of an event that an entry into a guest injects, until it
        is delivered.
    vmx : Vmx
        Its virtual-machine extensions.
    window : bool
        True where the VMM wants to know when its guest can take an interrupt.
    watched : frozenset of str
        Mnemonics of instructions that the VMM wants, but that are not looked for at each.
    """

    __slots__ = (
        "_deliveries", "attention", "deliver_quickly", "delivered", "fast_calls", "guest_entries", "injected", "interrupts", "is_alone",
        "priority_loads", "relaxed", "repeat_quickly", "signals", "vmx", "watched", "window",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel, number: int = 0) -> None:
        self.interrupts: LocalApic = platform.local_apics[number]
        self.signals = signals = Signals(self.flags_changed)
        self.interrupts.on_init, self.interrupts.on_startup = signals.arrive_init, signals.arrive_startup
        self.interrupts.on_nmi = signals.arrive_nmi
        self.delivered = self.fast_calls = self.priority_loads = self.guest_entries = self.debug_causes = 0
        self._deliveries = (0, 0)
        self.deliver_quickly: Callable[..., bool] | None = None
        self.repeat_quickly: Callable[[Any, Instruction], None] | None = None
        self.attention = self.strict = self.relaxed = self.window = False
        self.injected: tuple[int, int, int] | None = None
        self.watched: frozenset[str] = frozenset()
        self.vmx = Vmx(cast("Processor", self))
        self.is_alone = len(platform.local_apics) == 1
        super().__init__(platform, model)

    def flags_changed(self) -> None:
        """Note that IF, TF or AC, or DR7, may have changed."""
        flags, breakpoints = self.flags, self.debug[7] & DR7_ENABLED
        self.attention = bool(flags & TF or breakpoints or self.signals.due) or (
            bool(flags & IF) and (self.interrupts.output or self.window)
        )
        if self.non_root:
            due = (
                self.injected
                or self.interrupts.output
                or self.debug_causes
                or self.watched
                or self.vmx.apic_write is not None
                or self.vmx.trap_pending
                or self.vmx.primary & (NMI_WINDOW_EXITING | MONITOR_TRAP_FLAG)
            )
            self.attention = self.attention or bool(due)
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
        self.priority_loads += 1
        self.interrupts.set_tpr(value << 4)

    @property
    def debug_pending(self) -> bool:
        """True where #DB is due before the next instruction."""
        return self.debug_causes != 0

    @debug_pending.setter
    def debug_pending(self, value: bool) -> None:
        self.debug_causes = DR6_SINGLE_STEP if value else 0

    @property
    def is_trapped(self) -> bool:
        """True where #DB, or an exit of the monitor trap flag, is due before the next instruction."""
        return self.debug_causes != 0 or self.vmx.trap_pending

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
        if self.wants_exception(fault.vector, fault.error_code):
            raise self.exit_for_exception(fault.vector, fault.error_code)
        self._deliver(fault.vector, fault.error_code)

    def interrupt(self, vector: int) -> None:
        """Deliver an external interrupt."""
        self.halted = False
        self._deliver(vector, None, external=True)

    def single_step(self) -> None:
        """Deliver the trap that TF, a breakpoint or a task asks for after an instruction; it wakes a halted processor."""
        if self.wants_exception(DB, None):
            causes, self.debug_causes = self.debug_causes, 0
            raise self.exit_for_exception(DB, None, causes)
        self.halted = False
        self.debug[6] |= self.debug_causes
        self.debug_causes = 0
        self._deliver(DB, None)

    @property
    def barren(self) -> int:
        """Deliveries of an exception or interrupt since the last instruction that completed."""
        count, retired = self._deliveries
        return count if retired == self.retired else 0

    def note_delivery(self) -> None:
        """Count a delivery, of the processor or of host software in its place, for `barren`."""
        self._deliveries = (self.barren + 1, self.retired)

    def inject(self) -> None:
        """Deliver the event that a VM entry has brought: what the host has put into RFLAGS is pushed as it is."""
        assert self.injected is not None, "there is no event"
        (information, code, length), self.injected = self.injected, None
        kind, vector = information >> TYPE_SHIFT & 7, information & 0xFF
        if kind in SOFTWARE_TYPES:
            start, self.ip = self.ip, self.ip + length & self.address_mask
            try:
                deliver(cast("Executes", self), vector, None, software=kind != PRIVILEGED_EXCEPTION)
            except GuestExit as exit_:
                self.ip, exit_.length = start, length
                exit_.while_delivering(information, None)
                raise
            except Fault as fault:
                self.ip = start
                self.take(fault)
            self.note_trap(self.vmx.primary)
            return
        if kind == NMI_TYPE:
            self.signals.block_nmi(blocked=True)
        error_code = code if information & WITH_CODE else None
        self._deliver(vector, error_code, external=kind != HARDWARE_EXCEPTION, flags=False)

    def _deliver(self, vector: int, error_code: int | None, *, external: bool = False, flags: bool = True) -> None:
        """Deliver an exception or interrupt; `flags` says whether RF is set in what a fault pushes."""
        self.note_delivery()
        if vector == DB:
            self.debug[7] &= ~DR7_GD  # the handler may use the debug registers
        fault = flags and not external and vector not in (DB, DF)
        try:
            if self.deliver_quickly is None or not self.deliver_quickly(self, vector, error_code, fault=fault):
                deliver(cast("Executes", self), vector, error_code, fault=fault)
        except GuestExit as exit_:
            self._note_delivery(exit_, vector, error_code, external=external)
            self.flags |= RF if fault else 0  # as it would have been pushed (SDM vol. 3, 27.3.3)
            raise
        except Fault as second:
            self._exit_for_second(vector, error_code, second, external=external)
            if vector == DF:
                raise TripleFault from None
            first_is_exception = vector < EXCEPTIONS and not external
            if first_is_exception and escalate(vector, second.vector):
                self._deliver(DF, DoubleFault().error_code)
            else:
                self._deliver(second.vector, second.error_code)
        self.note_trap(self.vmx.primary)

    def note_trap(self, controls: int) -> None:
        """Note that an event was delivered, or an instruction executed, under these controls: with MTF an exit follows."""
        if controls & MONITOR_TRAP_FLAG:
            self.vmx.trap_pending = True

    def _exit_for_second(self, vector: int, error_code: int | None, second: Fault, *, external: bool) -> None:
        """Leave a guest whose VMM wants the exception that a delivery has caused, or the double fault that it makes."""
        if self.wants_exception(second.vector, second.error_code):
            exit_ = self.exit_for_exception(second.vector, second.error_code)
            self._note_delivery(exit_, vector, error_code, external=external)
            raise exit_
        double = not external and vector < EXCEPTIONS and vector != DF and escalate(vector, second.vector)
        if double and self.wants_exception(DF, 0):
            raise self.exit_for_exception(DF, 0)

    def _note_delivery(self, exit_: GuestExit, vector: int, error_code: int | None, *, external: bool) -> None:
        if not self.cr0 & CR0_PE:
            error_code = None  # real mode pushes none
        kind = HARDWARE_EXCEPTION if not external else NMI_TYPE if vector == NMI else EXTERNAL
        exit_.while_delivering(kind << TYPE_SHIFT | vector, error_code)

    def wants_exception(self, vector: int, code: int | None) -> bool:
        """Say whether a VMM wants an exception of its guest."""
        raise NotImplementedError

    def exit_for_exception(self, vector: int, code: int | None, qualification: int = 0) -> GuestExit:
        """Return the VM exit that an exception is."""
        raise NotImplementedError

    @property
    def interruptible(self) -> bool:
        """True where an external interrupt would be taken at this boundary."""
        return bool(self.flags & IF) and not self.interrupt_shadow
