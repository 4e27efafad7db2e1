"""The devices of a PC, one file each; every one is the model of a chip and cites its data sheet."""

from __future__ import annotations

from vmlab.machine.devices.cga import Cga
from vmlab.machine.devices.debug_exit import DebugExit
from vmlab.machine.devices.pic import Pic
from vmlab.machine.devices.pit import Pit
from vmlab.machine.devices.uart import Uart

__all__ = ["Cga", "DebugExit", "Pic", "Pit", "Uart"]
