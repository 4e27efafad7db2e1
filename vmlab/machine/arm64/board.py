"""The board: what lies at which physical address, as on QEMU's `virt` machine where it has the same.

    0800_0000  GICv2 distributor (4 KiB)       0900_0000  PL011 serial line (4 KiB)
    0801_0000  GICv2 CPU interface (4 KiB)     0A00_0000  block device (4 KiB), this board's own
    4000_0000  memory; a program is loaded at 4008_0000 and starts there

    interrupts:  26 27 30  timers (EL2, virtual, physical)      33  serial line      48  block device

Simplified: devices have registers of 32 bits, which a narrower or wider access reads and writes as the word around it;
nothing else answers (a synchronous external abort). The firmware is two function calls of PSCI (SYSTEM_OFF, SYSTEM_RESET)
and its version, by HVC where the program starts at EL1, by SMC where it starts at EL2.

Read more: QEMU manual, "virt generic virtual platform"; Arm DEN 0022 (PSCI), 5.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from vmlab.machine.arm64.block import Block
from vmlab.machine.arm64.gic import Gic
from vmlab.machine.arm64.pl011 import Pl011
from vmlab.machine.arm64.timer import GenericTimer
from vmlab.machine.clock import Clock
from vmlab.machine.memory import PhysicalMemory

if TYPE_CHECKING:
    from vmlab.machine.arm64.state import ArmState
    from vmlab.machine.disk import Disk

__all__ = ["LOAD", "PSCI_CALLS", "RAM", "Board"]

RAM, LOAD = 0x4000_0000, 0x4008_0000
GIC_DISTRIBUTOR, GIC_CPU, UART, BLOCK, WINDOW = 0x0800_0000, 0x0801_0000, 0x0900_0000, 0x0A00_0000, 0x1000
UART_INTERRUPT, BLOCK_INTERRUPT = 33, 48

PSCI_VERSION, PSCI_OFF, PSCI_RESET = 0x8400_0000, 0x8400_0008, 0x8400_0009
PSCI_CALLS = {PSCI_OFF: "exit", PSCI_RESET: "reset"}
"""Function to outcome."""
PSCI_1_0, NOT_SUPPORTED = 0x1_0000, (1 << 64) - 1


class _Registers(Protocol):
    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class Board:
    """Memory and devices.

    Parameters
    ----------
    memory : int
        Bytes of memory.
    state : ArmState
        The processor's registers, where the timers' offset lies.
    disk : Disk or None
        What the block device holds.
    """

    def __init__(self, memory: int, state: ArmState, disk: Disk | None) -> None:
        self.memory = PhysicalMemory(memory)
        self.clock = Clock()
        self.gic = Gic()
        self.timer = GenericTimer(self.clock, self.gic, state.system)
        self.uart = Pl011(lambda level: self.gic.line(UART_INTERRUPT, level))
        self.block = Block(self.clock, disk, self, lambda level: self.gic.line(BLOCK_INTERRUPT, level))
        self.clock.add(self.timer)
        self.clock.add(self.block)
        self._devices: dict[int, _Registers] = {
            GIC_DISTRIBUTOR: self.gic.distributor,
            GIC_CPU: self.gic.interface,
            UART: self.uart,
            BLOCK: self.block,
        }
        self.accesses = 0
        self.outcome = ""

    # -- memory ------------------------------------------------------------------------------------------------------

    def is_memory(self, address: int, size: int) -> bool:
        """Say whether bytes lie in memory."""
        return RAM <= address <= RAM + self.memory.size - size

    def offset(self, address: int) -> int:
        """Return how far a physical address lies from the start of memory."""
        return address - RAM

    def read_table(self, address: int, size: int) -> int:
        """Read an entry of a page table; 0 outside memory."""
        return self.memory.read(address - RAM, size) if self.is_memory(address, size) else 0

    # -- devices -----------------------------------------------------------------------------------------------------

    def device(self, address: int) -> _Registers | None:
        """Return the device at a physical address."""
        return self._devices.get(address & -WINDOW)

    def read_device(self, address: int, size: int) -> int | None:
        """Read a device; None where there is none."""
        device = self.device(address)
        if device is None:
            return None
        self.accesses += 1
        value = device.read(address & WINDOW - 4) >> 8 * (address & 3)
        return value & (1 << 8 * size) - 1

    def write_device(self, address: int, size: int, value: int) -> bool:
        """Write to a device; False where there is none."""
        device = self.device(address)
        if device is None:
            return False
        self.accesses += 1
        offset, shift = address & WINDOW - 4, 8 * (address & 3)
        if size < 4 and device is self.gic.distributor:  # its priorities are bytes
            mask = (1 << 8 * size) - 1 << shift
            value = device.read(offset) & ~mask | value << shift & mask
        device.write(offset, value & 0xFFFF_FFFF)
        return True

    def firmware(self, function: int) -> int:
        """Do a call of PSCI; returns what goes to X0."""
        function &= 0xFFFF_FFFF
        if function in PSCI_CALLS:
            self.outcome = PSCI_CALLS[function]
            return 0
        return PSCI_1_0 if function == PSCI_VERSION else NOT_SUPPORTED

    # -- saving ------------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """Return what is saved, by name, in the order in which it is loaded."""
        return {
            "clock": self.clock,
            "memory": self.memory,
            "gic": self.gic,
            "timer": self.timer,
            "uart": self.uart,
            "block": self.block,
        }
