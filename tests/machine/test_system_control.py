"""System control port A."""

from __future__ import annotations

import pytest

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.devices.system_control import SystemControl
from vmlab.machine.memory import PhysicalMemory


def test_a20_is_on_and_reset_is_pulled():
    device, bus, heard = SystemControl(), Bus(PhysicalMemory(1 << 16)), []
    device.attach(bus)
    device.on_reset = lambda: heard.append("reset")
    assert bus.port_read(0x92, 1) == 0x02
    bus.port_write(0x92, 1, 0x0C)
    assert (bus.port_read(0x92, 1), heard) == (0x0C, [])
    bus.port_write(0x92, 1, 0x03)
    assert (bus.port_read(0x92, 1), heard) == (0x02, ["reset"])


def test_the_register_is_saved():
    device, other = SystemControl(), SystemControl()
    device.write(0, 1, 0x80)
    other.load(device.save())
    assert other.register == 0x80
    with pytest.raises(StateError, match="system-control"):
        other.load({"version": 1, "register": 256})
