"""What a VMM wants to know between two instructions of its guest (Intel SDM vol. 3, 25.2 and table 6-2).

Simplified: a guest that does nothing but take exceptions is given back to the VMM with the exit reason "notify", which
only later processors have (SDM vol. 3, 25.2, "notify VM exit"); on an earlier one, the VMM's timer would find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import NMI
from vmlab.isa.x86.registers import IF
from vmlab.machine.guest_exit import EXTERNAL, NMI_TYPE, TYPE_SHIFT, VALID
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx.fields import EXIT_CONTROLS
from vmlab.machine.vmx.reasons import BasicReason, VmExit
from vmlab.machine.vmx.virtual_apic import written_exit

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["pending_exit"]


def pending_exit(cpu: Processor, timer: int | None, *, stuck: bool) -> VmExit | None:
    """Return the VM exit that is due before the next instruction, if any.

    Parameters
    ----------
    cpu : Processor
        In non-root operation.
    timer : int or None
        Vector of the performance counter's interrupt, where it waits.
    stuck : bool
        Whether the guest does nothing but take exceptions.
    """
    vmx, signals = cpu.vmx, cpu.signals
    if vmx.apic_write is not None:
        return written_exit(cpu)
    if vmx.trap_pending:
        return VmExit(BasicReason.MONITOR_TRAP_FLAG)
    if stuck:
        return VmExit(BasicReason.NOTIFY)
    if cpu.debug_pending:
        return None  # goes first
    if cpu.timer_limit <= cpu.retired:
        return VmExit(BasicReason.PREEMPTION_TIMER)
    if signals.nmi and vmx.pin & c.NMI_EXITING:
        signals.take_nmi_for_host()
        return VmExit(BasicReason.EXCEPTION_OR_NMI, interruption=VALID | NMI_TYPE << TYPE_SHIFT | NMI)
    if vmx.pin & c.EXTERNAL_INTERRUPT_EXITING and (timer is not None or cpu.interrupts.output):
        interruption = 0
        if vmx.fields[EXIT_CONTROLS] & c.ACKNOWLEDGE_INTERRUPT:
            vector = timer if timer is not None else cpu.interrupts.acknowledge()
            interruption = VALID | EXTERNAL << TYPE_SHIFT | vector
        return VmExit(BasicReason.EXTERNAL_INTERRUPT, interruption=interruption)
    if cpu.window and cpu.flags & IF and not cpu.interrupt_shadow:
        return VmExit(BasicReason.INTERRUPT_WINDOW)
    if vmx.primary & c.NMI_WINDOW_EXITING and not signals.nmi_blocked and not cpu.interrupt_shadow:
        return VmExit(BasicReason.NMI_WINDOW)
    return None
