"""How the hypervisor reads and writes a guest's memory: by the guest's own page tables, as the guest could, and no further.

An argument of a hypercall may be the address of more. The hypervisor runs on the guest's page tables, so it reaches that by
the processor's own translation: what is not mapped, or not writable (a page table), faults, and the hypercall fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import Fault
from vmlab.vmm.xen.abi import GUEST_END, Errno, Refused

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["GuestAccess"]


class GuestAccess:
    """Reads and writes at linear addresses of the guest whose page tables are loaded.

    Parameters
    ----------
    cpu : Processor
        The processor, in ring 0.
    """

    def __init__(self, cpu: Processor) -> None:
        self._cpu = cpu

    def _check(self, linear: int, size: int) -> None:
        if linear + size > GUEST_END:
            raise Refused(Errno.EFAULT)

    def read(self, linear: int, size: int = 4) -> int:
        """Read 1, 2, 4 or 8 bytes; Refused where the guest cannot."""
        self._check(linear, size)
        try:
            return self._cpu.read_system(linear, size)
        except Fault:
            raise Refused(Errno.EFAULT) from None

    def write(self, linear: int, value: int, size: int = 4) -> None:
        """Write 1, 2, 4 or 8 bytes; Refused where the guest's kernel cannot."""
        self._check(linear, size)
        try:
            self._cpu.write_system(linear, size, value)
        except Fault:
            raise Refused(Errno.EFAULT) from None

    def words(self, linear: int, count: int) -> list[int]:
        """Read so many words of 4 bytes."""
        return [self.read(linear + 4 * n) for n in range(count)]
