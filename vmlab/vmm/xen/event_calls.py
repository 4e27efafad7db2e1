"""Hypercalls on event channels.

    alloc_unbound     0 domain, 2 remote domain, 4 → port
    bind_interdomain  0 remote domain, 4 remote port, 8 → port
    bind_virq         0 virtual interrupt, 4 processor, 8 → port
    close, send, unmask  0 port
    status            0 domain, 4 port, 8 → status, 12 → processor, 16 → remote domain or virtual interrupt, 20 → remote port

Read more: Xen, xen/include/public/event_channel.h, xen/common/event_channel.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.vmm.xen.abi import DOMAIN_0, DOMID_SELF, Errno, EventOp, Hypercall, Refused, Virq
from vmlab.vmm.xen.event_channels import Channel, ChannelKind
from vmlab.vmm.xen.hypercalls import hypercall

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.vmm.paravirtualization import Paravirtualization
    from vmlab.vmm.xen.domain import Domain


@hypercall(Hypercall.EVENT_CHANNEL_OP, 2)
def event_channel_op(vmm: Paravirtualization, domain: Domain, command: int, place: int) -> int:
    """Do a command on event channels."""
    if command not in COMMANDS:
        raise Refused(Errno.ENOSYS)
    COMMANDS[command](vmm, domain, place)
    return 0


def _check_self(vmm: Paravirtualization, domain_id: int) -> None:
    if domain_id not in (DOMID_SELF, vmm.current + 1):
        raise Refused(Errno.EPERM)


def _other(vmm: Paravirtualization, domain_id: int) -> Domain:
    """Return another domain by its number, or this one; Refused where there is none."""
    index = vmm.current if domain_id == DOMID_SELF else domain_id - 1
    if not 0 <= index < len(vmm.domains):
        raise Refused(Errno.ESRCH)
    return vmm.domains[index]


def _alloc_unbound(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    """Make a port to which another domain may bind."""
    _check_self(vmm, vmm.access.read(place, 2))
    remote = vmm.access.read(place + 2, 2)
    number = vmm.current + 1 if remote == DOMID_SELF else remote
    vmm.access.write(
        place + 4, vmm.access.read(place + 4)
    )  # refused before anything is done, where it cannot be written
    vmm.access.write(place + 4, domain.channels.allocate(Channel(ChannelKind.UNBOUND, number)))


def _bind_interdomain(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    """Bind a new port to one that another domain keeps for this."""
    number, remote_port = vmm.access.read(place, 2), vmm.access.read(place + 4)
    remote, own = _other(vmm, number), vmm.current + 1
    found = remote.channels.find(remote_port)
    if found.kind is not ChannelKind.UNBOUND or found.target != own:
        raise Refused(Errno.EINVAL)
    vmm.access.write(place + 8, vmm.access.read(place + 8))
    remote_number = vmm.domains.index(remote) + 1
    port = domain.channels.allocate(Channel(ChannelKind.INTERDOMAIN, remote_number, remote_port))
    remote.channels.bound[remote_port] = Channel(ChannelKind.INTERDOMAIN, own, port)
    vmm.access.write(place + 8, port)
    domain.channels.send(port)  # the other may have sent before there was anyone to hear it


def _bind_virq(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    """Bind a new port to a virtual interrupt."""
    virq, processor = vmm.access.words(place, 2)
    if virq not in list(Virq):
        raise Refused(Errno.EINVAL)
    if processor:
        raise Refused(Errno.ENOENT)
    if domain.channels.port_of(ChannelKind.VIRQ, virq) is not None:
        raise Refused(Errno.EBUSY)
    vmm.access.write(place + 8, vmm.access.read(place + 8))
    vmm.access.write(place + 8, domain.channels.allocate(Channel(ChannelKind.VIRQ, virq)))


def _close(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    """Free a port; its other end waits for another domain then."""
    port = vmm.access.read(place)
    channel = domain.channels.find(port)
    del domain.channels.bound[port]
    if channel.kind is ChannelKind.INTERDOMAIN and channel.target != DOMAIN_0:
        remote = vmm.domains[channel.target - 1]
        if channel.port in remote.channels.bound:  # a port bound to itself is gone already
            remote.channels.bound[channel.port] = Channel(ChannelKind.UNBOUND, vmm.current + 1)


def _send(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    """Notify the other end."""
    channel = domain.channels.find(vmm.access.read(place))
    if channel.kind is ChannelKind.VIRQ:
        raise Refused(Errno.EINVAL)
    if channel.kind is ChannelKind.UNBOUND:
        return  # nobody is there yet
    if channel.target == DOMAIN_0:
        domain.hear(channel.port)
    else:
        vmm.domains[channel.target - 1].channels.send(channel.port)


def _unmask(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    domain.channels.unmask(vmm.access.read(place))


def _status(vmm: Paravirtualization, domain: Domain, place: int) -> None:
    """Tell what a port is bound to."""
    _check_self(vmm, vmm.access.read(place, 2))
    port = vmm.access.read(place + 4)
    channel = domain.channels.bound.get(port)
    kind, target, remote = (0, 0, 0) if channel is None else channel
    for offset, value in ((8, int(kind)), (12, 0), (16, target), (20, remote)):
        vmm.access.write(place + offset, value)


COMMANDS: dict[int, Callable[[Paravirtualization, Domain, int], None]] = {
    EventOp.BIND_INTERDOMAIN: _bind_interdomain,
    EventOp.BIND_VIRQ: _bind_virq,
    EventOp.CLOSE: _close,
    EventOp.SEND: _send,
    EventOp.STATUS: _status,
    EventOp.ALLOC_UNBOUND: _alloc_unbound,
    EventOp.UNMASK: _unmask,
}
