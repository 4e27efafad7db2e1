"""What a VMM wants to know between two instructions of its guest (AMD APM vol. 2, 15.13 and 15.21).

An interrupt that leads out of a guest is not taken from its controller: it waits until the host sets the global interrupt
flag. With V_INTR_MASKING it leads out whatever the guest's IF is, by the host's.

Simplified: a guest that does nothing but take exceptions is interrupted, as the VMM's timer would do sooner or later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import IF
from vmlab.machine.svm.codes import ExitCode, SvmExit

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["pending_exit", "virtual_vector"]


def pending_exit(cpu: Processor, *, timer: bool, stuck: bool) -> SvmExit | None:
    """Return the exit that is due before the next instruction, if any.

    Parameters
    ----------
    cpu : Processor
        In a guest.
    timer : bool
        Whether the performance counter's interrupt waits.
    stuck : bool
        Whether the guest does nothing but take exceptions.
    """
    svm, signals = cpu.svm, cpu.signals
    if stuck and svm.wants(ExitCode.INTR):
        return SvmExit(ExitCode.INTR)
    if cpu.debug_pending or not svm.gif:
        return None  # goes first, or is held back
    if signals.init and svm.wants(ExitCode.INIT):
        return SvmExit(ExitCode.INIT)
    if signals.nmi and svm.wants(ExitCode.NMI):
        return SvmExit(ExitCode.NMI)
    if (timer or cpu.interrupts.output) and svm.wants(ExitCode.INTR) and cpu.interruptible:
        return SvmExit(ExitCode.INTR)
    if cpu.window and _takes_virtual(cpu) and svm.wants(ExitCode.VINTR):
        return SvmExit(ExitCode.VINTR)
    return None


def _takes_virtual(cpu: Processor) -> bool:
    return bool(cpu.flags & IF) and not cpu.interrupt_shadow


def virtual_vector(cpu: Processor) -> int | None:
    """Take a virtual interrupt that the guest can take now; return its vector."""
    if not cpu.window or cpu.debug_pending or not cpu.svm.gif or (cpu.signals.due and not cpu.interrupt_shadow):
        return None
    if not _takes_virtual(cpu):
        return None
    vector = cpu.svm.take_interrupt()
    cpu.window = False
    cpu.flags_changed()
    return vector
