"""Events for guests of a hypervisor with hardware assistance: exceptions, interrupts and NMIs that the next entry delivers.

The processor delivers an event that the hypervisor injects, through the guest's own table. Where that leads out of the guest,
it has told which event it was; then it goes in once more, or is delivered on the VCPU.

Read more: Intel SDM vol. 3, 26.6 (event injection), 31.7 (handling of exceptions by a VMM); AMD APM vol. 2, 15.20.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import DB, NMI, Fault, TripleFault
from vmlab.isa.x86.registers import CR0_PE, RF
from vmlab.machine.guest_exit import (
    EXTERNAL,
    HARDWARE_EXCEPTION,
    NMI_TYPE,
    TYPE_SHIFT,
    VALID,
    WITH_CODE,
    GuestExit,
    event_name,
)  # fmt: skip
from vmlab.machine.machine import LIVELOCK
from vmlab.machine.trace import Inject
from vmlab.vmm.hypervisor import Hypervisor

if TYPE_CHECKING:
    from vmlab.vmm.assisted_machine import AssistedMachine
    from vmlab.vmm.guest import Guest

__all__ = ["EventInjection"]


class EventInjection(Hypervisor):
    """The part of a hypervisor with hardware assistance that gives its guests events.

    Attributes
    ----------
    machines : list of AssistedMachine
        Each VCPU of each guest, as the processor holds it.
    """

    machines: list[AssistedMachine]

    def may_pass_on(self) -> bool:
        return not self.machines[self.slot].event

    def devices(self, guest: Guest) -> None:
        """Let the virtual devices act, and choose the event that the next VM entry delivers, if there is one."""
        if guest.turns and self.may_pass_on():
            outcome = guest.turns.settle(self.most_idle)
            if outcome:
                self.end_guest(self.current, outcome)
                return
        vcpu, machine = guest.vcpu, self.machines[self.slot]
        guest.platform.service(vcpu.retired)
        if not machine.event and vcpu.non_root:
            self.own_guest(guest)
            if guest.outcome is not None:
                return
        if machine.event:
            vcpu.halted = False
            return
        if vcpu.debug_pending:
            vcpu.halted = False
            self.pend_debug(guest)
            return
        if not guest.turns and (vcpu.halted or guest.platform.idle > self.most_idle):
            self.sleep(guest)
        if guest.outcome is not None:
            return
        if vcpu.signals.has_nmi and not vcpu.interrupt_shadow:
            self.inject_nmi(guest)
        elif vcpu.interrupts.output and vcpu.interruptible:
            self.inject(EXTERNAL << TYPE_SHIFT | vcpu.interrupts.acknowledge())
        vcpu.halted = False

    def pend_debug(self, guest: Guest) -> None:
        """Let the processor deliver the debug trap that waits, as it does from a VMCS's pending debug exceptions."""

    def inject_nmi(self, guest: Guest) -> None:
        """Let the next entry deliver an NMI."""
        guest.vcpu.signals.take_nmi_for_host()
        self.inject(NMI_TYPE << TYPE_SHIFT | NMI)

    def own_guest(self, guest: Guest) -> None:
        """Do what comes before an entry of a guest's own guest."""

    def hand_on(self, guest: Guest, exit_: GuestExit) -> None:
        """Hand a VM exit of a guest's own guest on to the guest."""
        raise NotImplementedError

    def raise_fault(self, guest: Guest, fault: Fault) -> None:
        """Let the next VM entry deliver an exception."""
        vcpu = guest.vcpu
        vcpu.debug_causes = 0
        if vcpu.wants_exception(fault.vector, fault.error_code):
            exit_ = vcpu.exit_for_exception(fault.vector, fault.error_code)
            assert exit_ is not None, "it is wanted"
            self.hand_on(guest, exit_)
            return
        if fault.vector != DB:
            vcpu.flags |= RF  # in what is pushed, as for every fault
        code = fault.error_code if vcpu.cr0 & CR0_PE else None
        information = HARDWARE_EXCEPTION << TYPE_SHIFT | fault.vector | (WITH_CODE if code is not None else 0)
        self.inject(information, code or 0)

    def inject(self, information: int, code: int = 0) -> None:
        """Let the next VM entry deliver an event."""
        self.machines[self.slot].event = information | VALID, code
        self.counters["injected"] += 1
        if self.trace.on:
            time, vector = self.guest.instructions, information & 0xFF
            self.trace.emit(Inject(self.steps, time, self.current, vector, event_name(information)))

    def deliver(self, guest: Guest) -> None:
        """Deliver, on the VCPU, an event whose delivery by the processor has led out of the guest."""
        machine, vcpu = self.machines[self.slot], guest.vcpu
        event, machine.event = machine.event, None
        try:
            if event is None:
                vcpu.single_step()
                return
            information, code = event
            if vcpu.non_root:
                vcpu.injected = information, code, machine.event_length
                vcpu.inject()
                return
            kind, vector = information >> TYPE_SHIFT & 7, information & 0xFF
            if kind == HARDWARE_EXCEPTION:
                vcpu.flags &= ~RF  # the delivery sets it
                vcpu.take(Fault(vector, code if information & WITH_CODE else None))
            elif kind == NMI_TYPE:
                vcpu.signals.block_nmi(blocked=True)
                vcpu.interrupt(vector)
            else:
                vcpu.interrupt(vector)
        except GuestExit as exit_:
            self.hand_on(guest, exit_)
            return
        except TripleFault:
            shutdown = vcpu.exit_for_shutdown()
            if shutdown:
                self.hand_on(guest, shutdown)
            else:
                self.end_guest(self.current, "triple-fault")
            return
        if vcpu.barren >= LIVELOCK and not vcpu.non_root:
            self.end_guest(self.current, "livelock")
