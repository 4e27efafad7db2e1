"""The disk of the common workload: what every kind of virtual machine reads of its own.

Each kind does the workload in its own code, an x86 kernel's program (`workload.asm`) or another, and prints the same line.

Simplified: a fixed pattern stands for data; its period is longer than a sector, so that no two sectors are alike.
"""

from __future__ import annotations

from vmlab.machine.disk import SECTOR, Disk

__all__ = ["workload_disk"]

SECTORS = 8


def workload_disk() -> Disk:
    r"""Return a new disk with the 8 sectors that the workload reads.

    Examples
    --------
    >>> disk = workload_disk()
    >>> disk.sectors, disk.read(0)[:4]
    (8, b'\x05\x0c\x13\x1a')
    """
    return Disk(bytes((i * 7 + (i >> 8) * 13 + 5) & 0xFF for i in range(SECTORS * SECTOR)), name="workload disk")
