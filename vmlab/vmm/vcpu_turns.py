"""Whose turn it is among the VCPUs of a guest: the same as among the processors of the bare machine.

The hypervisor has one processor for all of them. It gives it to a VCPU for as long as its turn lasts, so that what they see of
each other is what they would see natively (`vmlab.machine.turns`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.turns import Turns

if TYPE_CHECKING:
    from vmlab.vmm.guest import Guest

__all__ = ["VcpuTurns"]


class VcpuTurns:
    """The turns of a guest's VCPUs.

    Parameters
    ----------
    guest : Guest
        Whose they are.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._turns = Turns(guest.vcpus, guest.platform)
        for other in guest.vcpus[1:]:
            other.reset()
            other.signals.wait(other)

    @property
    def end(self) -> int:
        """Slot at which the turn ends, for saving."""
        return self._turns.end

    def load(self, end: int) -> None:
        """Load the end of the turn, after VCPUs and platform."""
        self._turns.load(end)

    def left(self) -> int:
        """Return how many instructions the VCPU whose turn it is may execute."""
        return self._turns.horizon() - self._guest.vcpu.retired

    def pass_on(self) -> None:
        """Let turns pass that are over, and those of VCPUs that have nothing to do."""
        self._turns.pass_on()

    def settle(self, most_idle: int) -> str | None:
        """Go on to the VCPU that has something to do; return how the guest ends where none ever will have.

        What a machine does between two instructions: turns pass, INIT and STARTUP are obeyed, time passes while all sleep.
        """
        turns = self._turns
        while True:
            vcpu = turns.pass_on()
            if turns.asleep > most_idle:
                return "limit"
            signals = vcpu.signals
            if signals.due and (signals.init or signals.waiting):
                (signals.take_init if signals.init else signals.take_startup)(vcpu)
                continue
            if not vcpu.halted or vcpu.debug_pending or (signals.due and not vcpu.interrupt_shadow):
                return None
            awake = turns.rouse(vcpu.retired)
            if awake is None:
                return "halt"
            if awake == turns.index:
                return None
            turns.give(awake)
