"""How a guest's handlers are entered: a frame on the stack of its kernel, as the processor would build it.

From high to low addresses: SS and ESP where the guest was in user mode, EFLAGS with the virtual interrupt flag in IF's place,
CS with the old mask of events in its upper half, EIP, and an error code for the exceptions that have one. An event is the same
without a vector: the upcall, on entry to which events are masked.

Read more: Xen, xen/arch/x86/x86_32/entry.S (create_bounce_frame).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import vector_name
from vmlab.isa.x86.registers import CS, ESP, IF, NT, RF, SS, TF
from vmlab.machine.machine import LIVELOCK
from vmlab.machine.trace import Inject
from vmlab.vmm.xen.abi import KERNEL_CODE, KERNEL_DATA, Refused
from vmlab.vmm.xen.ring_switch import MASKS_EVENTS, set_segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.vmm.paravirtualization import Paravirtualization
    from vmlab.vmm.xen.domain import Domain, TrapHandler

__all__ = ["bounce", "upcall"]

UPCALL = 256
"""What stands in an event in place of a vector, for the call of a guest's handler of events."""


def bounce(vmm: Paravirtualization, domain: Domain, vector: int, code: int | None = None) -> None:
    """Enter the guest's handler of a vector, with an error code where there is one; without a handler the guest has crashed."""
    handler = domain.traps.get(vector)
    if handler is None:
        vmm.crash(domain)
        return
    _enter(vmm, domain, handler, vector, [] if code is None else [code])


def upcall(vmm: Paravirtualization, domain: Domain) -> None:
    """Call the guest's handler of events."""
    _enter(vmm, domain, (MASKS_EVENTS, domain.event_handler), UPCALL, [])


def _enter(vmm: Paravirtualization, domain: Domain, handler: TrapHandler, vector: int, code: Sequence[int]) -> None:
    """Build a frame on the guest's kernel stack, and go on in a handler; the guest has crashed where that cannot be."""
    vcpu, channels = domain.vcpu, domain.channels
    flags, address = handler
    masked, outer = channels.masked, vcpu.cpl == 3
    pointer = domain.stack if outer else vcpu.registers[ESP]
    frame = [vcpu.segments[SS].selector, vcpu.registers[ESP]] if outer else []
    shown = vcpu.flags & ~IF | (0 if masked else IF)
    frame += [shown, vcpu.segments[CS].selector | masked << 16, vcpu.ip, *code]
    try:
        for value in frame:
            pointer = pointer - 4 & 0xFFFFFFFF
            vmm.access.write(pointer, value)
    except Refused:
        vmm.crash(domain)
        return
    set_segment(vcpu, CS, KERNEL_CODE)
    set_segment(vcpu, SS, KERNEL_DATA)
    vcpu.ip, vcpu.registers[ESP] = address, pointer
    vcpu.flags &= ~(TF | NT | RF)
    if flags & MASKS_EVENTS:
        channels.masked = True
    vcpu.code_changed()
    vcpu.note_delivery()
    vmm.counters["injected"] += 1
    if vmm.trace.on:
        name = "event upcall" if vector == UPCALL else vector_name(vector)
        vmm.trace.emit(Inject(vmm.steps, vcpu.retired, vmm.domains.index(domain), vector, name))
    if vcpu.barren >= LIVELOCK:
        vmm.end_guest(vmm.domains.index(domain), "livelock")
