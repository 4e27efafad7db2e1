"""The services by vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.firmware.clock import time
from vmlab.machine.firmware.disks import disk
from vmlab.machine.firmware.keys import key, keyboard
from vmlab.machine.firmware.ports import printer, serial
from vmlab.machine.firmware.rom import EXCEPTIONS, SHARED
from vmlab.machine.firmware.system import equipment, fault, memory_size, no_boot, reboot, system
from vmlab.machine.firmware.video import video

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.firmware.call import Call

__all__ = ["SERVICES"]

SERVICES: dict[int, Callable[[Call], None]] = {
    **dict.fromkeys((*EXCEPTIONS, *SHARED), fault),
    0x09: key, 0x10: video, 0x11: equipment, 0x12: memory_size, 0x13: disk, 0x14: serial, 0x15: system, 0x16: keyboard,
    0x17: printer, 0x18: no_boot, 0x19: reboot, 0x1A: time,
}  # fmt: skip
"""Vector to service."""
