"""The devices of a PC, one file each; every one is the model of a chip and cites its data sheet."""

from __future__ import annotations

from vmlab.machine.devices.ata import AtaChannel
from vmlab.machine.devices.cga import Cga
from vmlab.machine.devices.channel import Channel
from vmlab.machine.devices.debug_exit import DebugExit
from vmlab.machine.devices.io_apic import IoApic
from vmlab.machine.devices.keyboard import Keyboard
from vmlab.machine.devices.local_apic import LocalApic
from vmlab.machine.devices.pci import PciBus
from vmlab.machine.devices.pic import Pic
from vmlab.machine.devices.pit import Pit
from vmlab.machine.devices.rtc import Rtc
from vmlab.machine.devices.system_control import SystemControl
from vmlab.machine.devices.uart import Uart

__all__ = [
    "AtaChannel",
    "Cga",
    "Channel",
    "DebugExit",
    "IoApic",
    "Keyboard",
    "LocalApic",
    "PciBus",
    "Pic",
    "Pit",
    "Rtc",
    "SystemControl",
    "Uart",
]
