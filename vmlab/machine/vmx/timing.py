"""Two ways for a VMM to get the processor back in time: the monitor trap flag, and the VMX-preemption timer.

The *monitor trap flag* leads out of the guest after each instruction (of a repeated string instruction: after each
element), or after the event that is delivered before it or in its place. A VM entry can bring such an exit with it, too.

The *VMX-preemption timer* counts down while the guest runs, or sleeps: by one whenever bit `TIMER_RATE` of the time-stamp
counter changes. The time-stamp counter is virtual time here, so that the exit comes at an exact instruction:

    time-stamp counter at the entry:  [ n          63:5 | any 4:0 ]
                       at the exit:   [ n + value  63:5 |   0 4:0 ]

Simplified: a guest that writes the time-stamp counter does not move the end. A processor that shares a computer with others
and sleeps finds out in its next turn.

Read more: Intel SDM vol. 3, 25.5.1, 25.5.2, 26.6.2, 26.7.4, 26.7.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import MSR_TSC
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["save_timer", "start_timer"]


def _stamp(cpu: Processor) -> int:
    """Return the time-stamp counter, without a guest's offset."""
    return cpu.ticks + cpu.msrs.get(MSR_TSC, 0) & (1 << 64) - 1


def start_timer(cpu: Processor) -> int | None:
    """Return the slot of virtual time at which the timer of the guest that is entered has counted down; None without one."""
    fields = cpu.vmx.fields
    if not fields[f.PIN_BASED_CONTROLS] & c.PREEMPTION_TIMER:
        return None
    value, stamp = fields[f.TIMER_VALUE], _stamp(cpu)
    return cpu.ticks + (((stamp >> c.TIMER_RATE) + value << c.TIMER_RATE) - stamp if value else 0)


def save_timer(cpu: Processor) -> None:
    """Note, at a VM exit, what the timer has not counted yet, if the VMM wants to know."""
    vmx = cpu.vmx
    if vmx.timer_end is not None and vmx.fields[f.EXIT_CONTROLS] & c.SAVE_PREEMPTION_TIMER:
        stamp = _stamp(cpu)
        end = stamp + vmx.timer_end - cpu.ticks
        vmx.fields[f.TIMER_VALUE] = max(0, (end >> c.TIMER_RATE) - (stamp >> c.TIMER_RATE))
