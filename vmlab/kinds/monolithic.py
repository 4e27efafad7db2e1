"""The hypervisor of type 1 that does all itself: VMware ESX."""

from __future__ import annotations

from vmlab.kinds.organized import Organized
from vmlab.vmm.vt_x import VtX

__all__ = ["Monolithic"]


class Monolithic(Organized, VtX):
    """A purpose-built hypervisor: its kernel schedules the guests, and drives the computer's devices."""

    name = "VMkernel"
