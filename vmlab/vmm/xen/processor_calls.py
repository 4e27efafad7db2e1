"""Hypercalls in place of what a kernel does to its processor: handlers, stack, return, waiting, time; and a few words to say.

`set_trap_table` takes entries of 8 bytes, ended by one without an address: vector, flags (DPL 1:0, bit 2: mask events on
entry), selector, linear address. A handler for `int 0x80` that does not mask events is entered by the processor itself.

`iret` takes what IRET pops, with EAX below it: EAX, EIP, CS, EFLAGS, and ESP and SS where CS is user mode's. The virtual
interrupt flag becomes what EFLAGS says. A frame that leads nowhere ends the guest, as in Xen.

Simplified: no virtual-8086 mode, flat segments alone.

Read more: Xen, xen/include/public/arch-x86/xen.h (trap_info), sched.h, vcpu.h; xen/arch/x86/x86_32/traps.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import CS, EAX, ESP, FIXED, IF, IOPL, RF, SS, VM
from vmlab.vmm.world_switch import DIRECT_FLAGS
from vmlab.vmm.xen.abi import (
    KERNEL_CODE,
    KERNEL_DATA,
    SEGMENT_LIMIT,
    USER_CODE,
    USER_DATA,
    ConsoleIo,
    Errno,
    Hypercall,
    Refused,
    SchedOp,
    Shutdown,
    VcpuOp,
)
from vmlab.vmm.xen.hypercalls import MOST, hypercall
from vmlab.vmm.xen.ring_switch import set_segment
from vmlab.vmm.xen.timer import units

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.vmm.paravirtualization import Paravirtualization
    from vmlab.vmm.xen.domain import Domain

TRAP_BYTES, VECTORS = 8, 256
VERSION = 3 << 16
RPL = 3
SERIAL, EXIT_PORT = 0x3F8, 0xF4


def _check_handler(selector: int, address: int) -> None:
    """Refuse a handler that is not the kernel's."""
    if selector & ~RPL != KERNEL_CODE & ~RPL or address > SEGMENT_LIMIT:
        raise Refused(Errno.EINVAL)


@hypercall(Hypercall.SET_TRAP_TABLE, 1)
def set_trap_table(vmm: Paravirtualization, domain: Domain, place: int) -> int:
    """Take over handlers; an address of 0 for the table takes all away."""
    if not place:
        domain.traps.clear()
        return 0
    for entry in range(place, place + VECTORS * TRAP_BYTES, TRAP_BYTES):
        first, address = vmm.access.words(entry, 2)
        if not address:
            break
        _check_handler(first >> 16, address)
        domain.traps[first & 0xFF] = first >> 8 & 0xFF, address
    return 0


@hypercall(Hypercall.STACK_SWITCH, 2)
def stack_switch(vmm: Paravirtualization, domain: Domain, selector: int, pointer: int) -> int:
    """Note where the kernel's stack begins when it is next entered from user mode."""
    if selector & 0xFFFF != KERNEL_DATA:
        raise Refused(Errno.EPERM)
    domain.stack = pointer
    return 0


@hypercall(Hypercall.SET_CALLBACKS, 4)
def set_callbacks(
    vmm: Paravirtualization, domain: Domain, selector: int, address: int, failsafe_selector: int, failsafe: int
) -> int:
    """Take over the handlers of events, and of what cannot be returned to."""
    _check_handler(selector, address)
    _check_handler(failsafe_selector, failsafe)
    domain.event_handler, domain.failsafe = address, failsafe
    return 0


@hypercall(Hypercall.IRET, 0)
def iret(vmm: Paravirtualization, domain: Domain) -> int:
    """Return from a handler, to the kernel or to user mode; the result is the EAX of the frame."""
    vcpu = domain.vcpu
    try:
        eax, ip, code, flags = vmm.access.words(vcpu.registers[ESP], 4)
        user = code & 0xFFFF == USER_CODE
        pointer, stack = (
            vmm.access.words(vcpu.registers[ESP] + 16, 2) if user else (vcpu.registers[ESP] + 16, KERNEL_DATA)
        )
    except Refused:
        vmm.crash(domain)
        return 0
    if (
        flags & VM
        or code & 0xFFFF not in (KERNEL_CODE, USER_CODE)
        or stack & 0xFFFF != (USER_DATA if user else KERNEL_DATA)
    ):
        vmm.crash(domain)
        return 0
    set_segment(vcpu, CS, code & 0xFFFF)
    set_segment(vcpu, SS, stack & 0xFFFF)
    vcpu.ip, vcpu.registers[ESP], vcpu.registers[EAX] = ip, pointer & 0xFFFFFFFF, eax
    vcpu.flags = flags & (DIRECT_FLAGS | RF) & ~IOPL | FIXED | flags & IF
    domain.channels.masked = not flags & IF
    vcpu.code_changed()
    return eax


@hypercall(Hypercall.SCHED_OP, 2)
def sched_op(vmm: Paravirtualization, domain: Domain, command: int, place: int) -> int:
    """Give up the processor: for now, until an event comes, or for good."""
    if command == SchedOp.YIELD:
        vmm.slice_end = domain.vcpu.retired
    elif command == SchedOp.BLOCK:
        domain.channels.masked = False
        domain.vcpu.flags |= IF
        domain.vcpu.halted = not domain.channels.pending
    elif command == SchedOp.SHUTDOWN:
        reason = vmm.access.read(place)
        if reason not in list(Shutdown):
            raise Refused(Errno.EINVAL)
        if reason == Shutdown.REBOOT:
            domain.platform.reset()
        else:  # with status 1, and 3 after a crash
            domain.platform.bus.port_write(EXIT_PORT, 1, int(reason == Shutdown.CRASH))
        vmm.end_guest(vmm.current, str(domain.outcome), domain.status)
    else:
        raise Refused(Errno.ENOSYS)
    return 0


@hypercall(Hypercall.CONSOLE_IO, 3)
def console_io(vmm: Paravirtualization, domain: Domain, command: int, count: int, place: int) -> int:
    """Write a text to the console, without the ring: for a kernel that has just begun."""
    if command != ConsoleIo.WRITE:
        raise Refused(Errno.ENOSYS)
    if count > MOST:
        raise Refused(Errno.E2BIG)
    for number in range(count):
        domain.platform.bus.port_write(SERIAL, 1, vmm.access.read(place + number, 1))
    return count


@hypercall(Hypercall.XEN_VERSION, 2)
def xen_version(vmm: Paravirtualization, domain: Domain, command: int, place: int) -> int:
    """Tell the version of the interface."""
    if command:
        raise Refused(Errno.ENOSYS)
    return VERSION


@hypercall(Hypercall.SET_TIMER_OP, 2)
def set_timer_op(vmm: Paravirtualization, domain: Domain, low: int, high: int) -> int:
    """Fire once, at a time in nanoseconds; 0 for never."""
    time = low | high << 32
    domain.timer.set_single(units(time) if time else None)
    return 0


def _periodic(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    period = units(vmm.access.read(place, 8))
    if not period:
        raise Refused(Errno.EINVAL)
    domain.timer.set_periodic(period)


def _single(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    domain.timer.set_single(units(vmm.access.read(place, 8)))


def _stop_periodic(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    domain.timer.set_periodic(0)


def _stop_single(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    domain.timer.set_single(None)


VCPU_COMMANDS: dict[int, Callable[[Paravirtualization, Domain, int], None]] = {
    VcpuOp.SET_PERIODIC_TIMER: _periodic,
    VcpuOp.STOP_PERIODIC_TIMER: _stop_periodic,
    VcpuOp.SET_SINGLESHOT_TIMER: _single,
    VcpuOp.STOP_SINGLESHOT_TIMER: _stop_single,
}


@hypercall(Hypercall.VCPU_OP, 3)
def vcpu_op(vmm: Paravirtualization, domain: Domain, command: int, processor: int, place: int) -> int:
    """Set and stop the timers of the guest's one processor."""
    if processor:
        raise Refused(Errno.ENOENT)
    if command not in VCPU_COMMANDS:
        raise Refused(Errno.ENOSYS)
    VCPU_COMMANDS[command](vmm, domain, place)
    return 0
