"""The firmware's door: the APM control port, where the BIOS's code calls for the host software behind it.

A write from an entry of the ROM does that entry's service, as a part of the OUT; a write from anywhere else does nothing.
So a call is one instruction of virtual time in every engine and under every technique, and a fault in it (a page that is
not there, in virtual-8086 mode) is the OUT's: the guest's handler may mend it, and the call is made anew.

Bus range: ports 0xB2-0xB3, command and status.

Read more: Intel 82371AB (PIIX4) data sheet, APM control and status ports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.firmware.call import Call
from vmlab.machine.firmware.rom import PORT, build_rom
from vmlab.machine.firmware.services import SERVICES
from vmlab.machine.state import BYTE, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.bus import Bus
    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor

__all__ = ["FirmwarePort"]


class FirmwarePort:
    """The APM control port.

    Parameters
    ----------
    platform : Platform
        What the firmware serves.

    Attributes
    ----------
    cpus : sequence of Processor
        Of which the one that runs calls; without any, writes do nothing.
    on_call : callable or None
        Called with the vector and AX before each service.
    """

    __slots__ = ("_platform", "cpus", "name", "on_call", "registers")

    def __init__(self, platform: Platform, name: str = "firmware") -> None:
        self.name = name
        self._platform = platform
        self.cpus: Sequence[Processor] = ()
        self.on_call: Callable[[int, int], None] | None = None
        self.registers = [0, 0]

    def attach(self, bus: Bus) -> None:
        """Claim the ports of a PC's chip set."""
        bus.add_ports(self, PORT, 2)

    def read(self, offset: int, size: int) -> int:
        """Read what was written last."""
        return self.registers[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        """Write; a command that comes from an entry of the ROM is served."""
        self.registers[offset] = value & 0xFF
        if offset or not self.cpus:
            return
        cpu = self.cpus[self._platform.apics.current]
        vector = build_rom().calls.get(cpu.linear_ip)
        if vector is not None:
            if self.on_call is not None:
                self.on_call(vector, cpu.registers[0] & 0xFFFF)
            SERVICES[vector](Call(cpu, self._platform, vector))

    def save(self) -> dict[str, Any]:
        """Save the registers: all else that firmware knows stands in the guest's memory."""
        return {"version": 1, "registers": list(self.registers)}

    def load(self, state: dict[str, Any]) -> None:
        """Load saved registers; StateError if they are damaged."""
        check_state(state, self.name, {"registers": Items(BYTE, 2)})
        self.registers = list(state["registers"])
