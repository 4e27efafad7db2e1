"""The platform around a processor: memory, bus, clock and the devices of a PC, wired together.

The physical machine has one and every guest has one: a virtual device is the same model on a guest's own bus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.bus import Bus
from vmlab.machine.clock import Clock
from vmlab.machine.devices import (
    AtaChannel,
    Cga,
    Channel,
    DebugExit,
    IoApic,
    Keyboard,
    LocalApic,
    PciBus,
    Pic,
    Pit,
    Rtc,
    SystemControl,
    Uart,
)
from vmlab.machine.devices.apic_bus import ApicBus
from vmlab.machine.devices.bus_master import BusMaster
from vmlab.machine.firmware.port import FirmwarePort
from vmlab.machine.firmware_tables import build_tables, io_apic_identifier
from vmlab.machine.state import COUNT, check_state, rollback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.bus import Device
    from vmlab.machine.disk import Disk
    from vmlab.machine.memory import MemoryWindow, PhysicalMemory

__all__ = ["Platform"]

TIMER_IRQ, KEYBOARD_IRQ, SERIAL_IRQ, CLOCK_IRQ, CHANNEL_IRQ, DISK_IRQ = 0, 1, 4, 8, 10, 14

PATIENCE = 10_000
"""Device deadlines without an interrupt after which a halted processor is taken to sleep for ever: a timer runs, masked."""


class Platform:
    """A PC without its processors.

    Parameters
    ----------
    memory : PhysicalMemory or MemoryWindow
        Physical memory, or what a guest takes for it.
    disks : sequence of Disk
        At most two, on the first ATA channel.
    processors : int
        How many processors there are, each with its local APIC; the first starts the computer.
    masters : bool
        False where no device may master the bus: where `memory` is not the guest's alone.

    Attributes
    ----------
    firmware : FirmwarePort
        The BIOS's door to host software.
    on_reset : callable or None
        Called when software asks for a reset: through the keyboard controller, or the BIOS.
    idle : int
        Slots of time in which the running processor has not retired an instruction, because it was halted or another
        one ran: those that have passed are its retired instructions plus this. See `vmlab.machine.turns`.
    """

    def __init__(
        self,
        memory: PhysicalMemory | MemoryWindow,
        disks: Sequence[Disk | None] = (),
        processors: int = 1,
        *,
        masters: bool = True,
    ) -> None:
        self.memory = memory
        self.bus = Bus(memory)
        self.clock = Clock()
        self.idle = 0
        self._pace = processors  # slots in a unit of the clock
        self.pic = Pic()
        self.apics = ApicBus()
        for number in range(processors):
            LocalApic(self.clock, self.apics, number, bootstrap=not number, external=self.pic)
        self.io_apic = IoApic(self.apics.send, io_apic_identifier(processors))
        self.apics.on_end.append(self.io_apic.end_of_interrupt)
        self.pic.on_output = self._pic_output
        self.local_apics[0].virtual_wire()  # as firmware leaves it: the PIC's interrupts pass through
        self.pit = Pit(self.clock, self.line(TIMER_IRQ))
        self.keyboard = Keyboard(self.line(KEYBOARD_IRQ), clock=self.clock)
        self.uart = Uart(self.line(SERIAL_IRQ))
        self.rtc = Rtc(self.clock, self.line(CLOCK_IRQ), memory.size)
        first, second = (*disks, None, None)[:2]
        self.ata = AtaChannel(self.clock, self.line(DISK_IRQ), first, second)
        self.pci = PciBus()
        self.debug_exit = DebugExit()
        self.cga = Cga()
        self.firmware = FirmwarePort(self)
        self.on_reset: Callable[[], None] | None = None
        self.system_control = SystemControl()
        self.keyboard.on_reset = self.system_control.on_reset = self.reset
        for device in (
            self.pic, self.apics, self.io_apic, self.pit, self.keyboard, self.uart, self.rtc, self.ata, self.pci,
            self.debug_exit, self.cga, self.system_control, self.firmware,
        ):  # fmt: skip
            device.attach(self.bus)
        if masters:
            BusMaster(self.pci, self.ata).attach(self.bus)

    def line(self, irq: int) -> Callable[[bool], None]:
        """Return the function that drives an ISA interrupt line: it leads to the PIC and to the I/O APIC."""
        pic, io_apic = self.pic.line(irq), self.io_apic.line(irq)

        def drive(high: bool) -> None:
            pic(high)
            io_apic(high)

        return drive

    def add_channel(self) -> Channel:
        """Give the computer the control domain's end of a channel, and return it; OptionError where it has one."""
        channel = Channel(self.line(CHANNEL_IRQ))
        channel.attach(self.bus)
        return channel

    def install_firmware(self, signature: int, features: int) -> None:
        """Write the tables by which firmware tells a kernel what there is."""
        for address, data in build_tables(len(self.local_apics), signature=signature, features=features).items():
            self.memory.write_bytes(address, data)

    def reset(self) -> None:
        """Pull the reset line: the computer would start anew."""
        if self.on_reset is not None:
            self.on_reset()

    @property
    def local_apics(self) -> list[LocalApic]:
        """The interrupt controllers of the processors; the PIC pair is behind each."""
        return self.apics.local_apics

    def _pic_output(self, level: bool) -> None:
        """Drive the processors' LINT0, to which the PIC pair leads (MultiProcessor Specification 1.4, 3.6.2.2)."""
        for apic in self.local_apics:
            apic.set_lint0(level)

    @property
    def devices(self) -> dict[str, Device]:
        """Devices by name."""
        return self.bus.devices

    @property
    def console(self) -> str:
        """What the guest has sent to its serial port so far."""
        return self.uart.text

    @property
    def screen(self) -> str:
        """The text on the CGA screen."""
        return self.cga.text()

    def now(self, retired: int) -> None:
        """Bring the clock up to the running processor's count of retired instructions."""
        self.clock.now = (retired + self.idle) // self._pace

    def check_time(self, retired: int) -> None:
        """Check that a loaded clock fits the running processor's loaded count; StateError where it does not."""
        expected = (retired + self.idle) // self._pace
        if self.clock.now != expected:
            raise StateError(f"platform: saved clock is at {self.clock.now}; instructions and idle time say {expected}")

    def service(self, retired: int) -> None:
        """Let the devices act whose time has come."""
        self.now(retired)
        deadline = self.clock.deadline
        if deadline is not None and deadline <= self.clock.now:
            self.clock.service()

    def next_deadline(self) -> int | None:
        """Return the count of retired instructions at which a device will act next, None for never."""
        deadline = self.clock.deadline
        return None if deadline is None else deadline * self._pace - self.idle

    def await_interrupt(self, retired: int, has_come: Callable[[], bool], latest: int | None = None) -> bool:
        """Pass the time of halted processors until what they wait for has come; False if it never will.

        What is waited for comes in slot `latest` at the latest, if that is given.
        """
        for _ in range(PATIENCE):
            self.now(retired)
            if has_come():
                return True
            deadline = self.next_deadline()
            if latest is not None and (deadline is None or deadline > latest - self.idle):
                deadline = latest - self.idle
            if deadline is None:
                return False
            self.idle += max(0, deadline - retired)
            self.service(retired)
        if latest is None:
            return False
        self.idle = max(self.idle, latest - retired)
        self.service(retired)
        return True

    def save(self) -> dict[str, Any]:
        """Save clock and devices as plain data; memory saves itself."""
        devices = {name: device.save() for name, device in self.devices.items()}
        return {"version": 1, "idle": self.idle, "clock": self.clock.save(), "devices": devices}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        check_state(state, "platform", {"idle": COUNT, "clock": dict, "devices": dict})
        if set(state["devices"]) != set(self.devices):
            found = ", ".join(sorted(str(name) for name in state["devices"]))
            raise StateError(f"platform: saved devices are {found}; here are {', '.join(sorted(self.devices))}")
        with rollback(self):
            self.idle = state["idle"]
            self.clock.load(state["clock"])
            for name, device in self.devices.items():
                device.load(state["devices"][name])
            self.clock.refresh()
