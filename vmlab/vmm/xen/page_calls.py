"""Hypercalls on page tables: the only way in which a guest may change one.

`mmu_update` takes a list of machine addresses and entries, `update_va_mapping` one linear address of the present address
space, `mmuext_op` a list of commands: pin and unpin a table, load another page directory, flush.

Read more: Xen, xen/include/public/xen.h (MMU_NORMAL_PT_UPDATE, MMUEXT_*, UVMF_*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.paging import PRESENT
from vmlab.vmm.xen.abi import DOMID_SELF, GUEST_END, Errno, Hypercall, MmuExt, MmuUpdate, Refused
from vmlab.vmm.xen.frame_types import FrameType
from vmlab.vmm.xen.hypercalls import MOST, hypercall

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.vmm.paravirtualization import Paravirtualization
    from vmlab.vmm.xen.domain import Domain

UPDATE_BYTES, COMMAND_BYTES = 16, 12
FLUSH_ALL, FLUSH_PAGE = 1, 2  # UVMF_TLB_FLUSH, UVMF_INVLPG


def _each(vmm: Paravirtualization, count: int, done: int, domain_id: int, act: Callable[[int], None]) -> int:
    """Do each element of a list, up to the first that is refused; tell how many were done, where the guest asks for that."""
    if domain_id not in (DOMID_SELF, vmm.current + 1):
        raise Refused(Errno.EPERM)
    if count > MOST:
        raise Refused(Errno.E2BIG)
    result = number = 0
    try:
        for number in range(count):
            act(number)
    except Refused as refused:
        result = -refused.errno
    else:
        number = count
    if done:
        vmm.access.write(done, number)
    return result


@hypercall(Hypercall.MMU_UPDATE, 4)
def mmu_update(vmm: Paravirtualization, domain: Domain, place: int, count: int, done: int, domain_id: int) -> int:
    """Write entries of page tables, or of the M2P table."""

    def act(number: int) -> None:
        where = place + number * UPDATE_BYTES
        address, upper, value, upper_value = vmm.access.words(where, 4)
        vmm.counters["page-table updates"] += 1
        if upper or upper_value:
            raise Refused(Errno.EINVAL)
        kind = address & 3
        if kind == MmuUpdate.MACHPHYS:
            vmm.write_m2p(vmm.current, address >> PAGE_SHIFT, value)
        elif kind in (MmuUpdate.NORMAL, MmuUpdate.PRESERVE_AD):
            vmm.frames.update(vmm.current, address & ~3, value, keep_marks=kind == MmuUpdate.PRESERVE_AD)
        else:
            raise Refused(Errno.ENOSYS)

    return _each(vmm, count, done, domain_id, act)


@hypercall(Hypercall.UPDATE_VA_MAPPING, 4)
def update_va_mapping(vmm: Paravirtualization, domain: Domain, linear: int, entry: int, upper: int, flags: int) -> int:
    """Write the entry of a page in the present address space, and flush as the flags say."""
    vmm.counters["page-table updates"] += 1
    if linear >= GUEST_END or upper or flags > FLUSH_PAGE:
        raise Refused(Errno.EINVAL)
    directory_entry = vmm.machine.memory.read(domain.base + (linear >> 22) * 4, 4)
    if not directory_entry & PRESENT:
        raise Refused(Errno.EINVAL)
    table = directory_entry >> PAGE_SHIFT << PAGE_SHIFT
    vmm.frames.update(vmm.current, table + (linear >> PAGE_SHIFT & 0x3FF) * 4, entry)
    if flags == FLUSH_ALL:
        vmm.flush()
    elif flags == FLUSH_PAGE:
        vmm.machine.cpu.invalidate_page(linear)
    return 0


@hypercall(Hypercall.MMUEXT_OP, 4)
def mmuext_op(vmm: Paravirtualization, domain: Domain, place: int, count: int, done: int, domain_id: int) -> int:
    """Do commands on page tables and the TLB."""

    def act(number: int) -> None:
        command, argument, _ = vmm.access.words(place + number * COMMAND_BYTES, 3)
        if command not in COMMANDS:
            raise Refused(Errno.ENOSYS)
        COMMANDS[command](vmm, domain, argument)

    return _each(vmm, count, done, domain_id, act)


def _new_base(vmm: Paravirtualization, domain: Domain, frame: int) -> None:
    """Load another page directory."""
    if frame << PAGE_SHIFT != domain.base:
        vmm.frames.take(vmm.current, frame, FrameType.L2)
        old, domain.base = domain.base, frame << PAGE_SHIFT
        vmm.frames.drop(old >> PAGE_SHIFT)
    vmm.load_base(domain)


def _pin(kind: FrameType) -> Callable[[Paravirtualization, Domain, int], None]:
    def pin(vmm: Paravirtualization, domain: Domain, frame: int) -> None:
        vmm.frames.pin(vmm.current, frame, kind)

    return pin


def _unpin(vmm: Paravirtualization, domain: Domain, frame: int) -> None:
    vmm.frames.unpin(vmm.current, frame)


def _flush(vmm: Paravirtualization, domain: Domain, _: int) -> None:
    vmm.flush()


def _invalidate(vmm: Paravirtualization, domain: Domain, linear: int) -> None:
    vmm.machine.cpu.invalidate_page(linear)


COMMANDS: dict[int, Callable[[Paravirtualization, Domain, int], None]] = {
    MmuExt.PIN_L1: _pin(FrameType.L1),
    MmuExt.PIN_L2: _pin(FrameType.L2),
    MmuExt.UNPIN: _unpin,
    MmuExt.NEW_BASEPTR: _new_base,
    MmuExt.TLB_FLUSH_LOCAL: _flush,
    MmuExt.INVLPG_LOCAL: _invalidate,
}
