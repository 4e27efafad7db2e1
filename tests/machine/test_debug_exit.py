"""The debug-exit port."""

from __future__ import annotations

import pytest

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.devices.debug_exit import DebugExit
from vmlab.machine.memory import PhysicalMemory


@pytest.mark.parametrize(
    ("size", "value", "status"), [(1, 0, 1), (1, 0x10, 33), (2, 300, 601), (4, 0xFFFF_FFFF, 0x1_FFFF_FFFF)]
)
def test_a_write_ends_the_machine(size, value, status):
    device = DebugExit()
    bus = Bus(PhysicalMemory(1 << 16))
    device.attach(bus)
    heard = []
    device.on_exit = heard.append
    assert device.status is None
    assert bus.port_read(0xF4, 4) == 0
    bus.port_write(0xF4, size, value)
    assert device.status == status
    assert heard == [status]


def test_the_status_is_saved():
    device = DebugExit()
    for value in (None, 7):
        if value is not None:
            device.write(0, 1, value)
        other = DebugExit()
        other.load(device.save())
        assert other.status == device.status
    for status in (-1, "7", 1 << 33, True):
        with pytest.raises(StateError, match="debug-exit"):
            device.load({"version": 1, "status": status})
