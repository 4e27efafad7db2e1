"""Canonical addresses: those that 64-bit mode allows (SDM vol. 1, 3.3.7.1)."""

from __future__ import annotations

from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.registers import SS

CANONICAL_TOP = 1 << 47
"""End of the lower half of the canonical addresses."""

LAST = (1 << 64) - 1


def is_canonical(linear: int) -> bool:
    """Say whether bits 63:47 of an address are all the same.

    >>> is_canonical(0x7FFF_FFFF_FFFF), is_canonical(0x8000_0000_0000), is_canonical(0xFFFF_8000_0000_0000)
    (True, False, True)
    """
    return linear < CANONICAL_TOP or linear >= (1 << 64) - CANONICAL_TOP


def check_canonical(segment: int, linear: int, size: int) -> None:
    """Raise #GP(0), or #SS(0) on the stack, where `size` bytes at a linear address are not all at canonical ones."""
    if not is_canonical(linear) or not is_canonical(linear + size - 1 & LAST):
        raise Fault(STACK_FAULT if segment == SS else GP, 0)
