"""Hypercalls: how they are found, and the call of many at once.

A handler gets the hypervisor, the domain and as many arguments as it takes, and returns what the guest finds in EAX; what it
refuses, it refuses as a whole, unless it says how much was done. `multicall` does a list of them in one crossing.

Simplified: a list may have so many elements only (`MOST`), where Xen would let the guest go on in between.

Read more: Xen, xen/arch/x86/hypercall.c, xen/common/multicall.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.trace import Hypercall as HypercallEvent
from vmlab.vmm.xen.abi import Errno, Hypercall, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.vmm.paravirtualization import Paravirtualization
    from vmlab.vmm.xen.domain import Domain

    Handler = Callable[..., int]

__all__ = ["HANDLERS", "MOST", "call", "hypercall", "signed"]

MOST = 1024
"""Elements of a list that one hypercall takes."""
MULTICALL_ENTRY = 32  # operation, result, six arguments
HANDLERS: dict[int, tuple[int, Handler]] = {}
"""How many arguments a hypercall has, and what does it, by number."""


def hypercall(number: Hypercall, arguments: int) -> Callable[[Handler], Handler]:
    """Enter a function into the table."""

    def enter(function: Handler) -> Handler:
        HANDLERS[number] = arguments, function
        return function

    return enter


def signed(value: int) -> int:
    """Return a register's contents as a number with a sign.

    >>> signed(0xFFFFFFEA)
    -22
    """
    return value - (1 << 32) if value >> 31 else value


def call(vmm: Paravirtualization, domain: Domain, number: int, arguments: list[int]) -> int:
    """Do one hypercall; return its result, which is negative where it was refused."""
    count, handler = HANDLERS.get(number, (0, _unknown))
    vmm.counters["hypercalls"] += 1
    try:
        result = handler(vmm, domain, *arguments[:count])
    except Refused as refused:
        result = -refused.errno
    if vmm.trace.on:
        name = Hypercall(number).name.lower() if number in HANDLERS else f"number {number}"
        shown = ", ".join(f"{each:#x}" for each in arguments[:count])
        vmm.trace.emit(HypercallEvent(vmm.steps, domain.vcpu.retired, vmm.current, name, shown, result))
    return result


def _unknown(vmm: Paravirtualization, domain: Domain) -> int:
    raise Refused(Errno.ENOSYS)


@hypercall(Hypercall.MULTICALL, 2)
def multicall(vmm: Paravirtualization, domain: Domain, place: int, count: int) -> int:
    """Do a list of hypercalls; each has its result in the list."""
    if count > MOST:
        raise Refused(Errno.E2BIG)
    for entry in range(place, place + count * MULTICALL_ENTRY, MULTICALL_ENTRY):
        number, _, *arguments = vmm.access.words(entry, 8)
        if number in (Hypercall.MULTICALL, Hypercall.IRET):
            result = -Errno.EINVAL
        else:
            result = call(vmm, domain, number, arguments)
            vmm.counters["batched hypercalls"] += 1
        vmm.access.write(entry + 4, result)
        if domain.outcome is not None:
            break
    return 0
