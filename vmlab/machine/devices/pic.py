"""The interrupt controller of a PC: two 8259A chips in cascade.

The slave's INT line is the master's line 2; lines IRQ 0-7 are the master's, IRQ 8-15 the slave's. An acknowledgement
asks the master for the level and, if that is the slave's, the slave for the vector.

Bus ranges: ports 0x20-0x21 (master, offsets 0-1), 0xA0-0xA1 (slave, offsets 2-3).

Simplified: the INTA cycles are one step. No edge/level control register (ports 0x4D0-1): the trigger mode is ICW1's.

Read more: Intel 8259A data sheet, order number 231468-003; the PC's wiring: IBM PC/AT Technical Reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.devices.pic_chip import SPURIOUS, PicChip
from vmlab.machine.state import check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["Pic"]

CASCADE = 2  # the master's line that the slave drives
LINES = 16


class Pic:
    """The pair of interrupt controllers.

    Attributes
    ----------
    master, slave : PicChip
        The chips, for views.
    output : bool
        Level of the INTR line to the processor.
    on_output : callable or None
        Called with the new level whenever `output` changes.
    """

    __slots__ = ("master", "name", "on_output", "output", "slave")

    def __init__(self, name: str = "pic") -> None:
        self.name = name
        self.master = PicChip(master=True)
        self.slave = PicChip(master=False)
        self.output = False
        self.on_output: Callable[[bool], None] | None = None

    def attach(self, bus: Bus) -> None:
        """Claim a PC's standard ports."""
        bus.add_ports(self, 0x20, 2)
        bus.add_ports(self, 0xA0, 2, offset=2)

    # -- lines -------------------------------------------------------------------------------------------------------

    def line(self, irq: int) -> Callable[[bool], None]:
        """Return the function that drives interrupt request line `irq`: 0-15 without 2, which the slave drives.

        Raises
        ------
        OptionError
            There is no such line.
        """
        if type(irq) is not int or not 0 <= irq < LINES or irq == CASCADE:
            raise OptionError(f"interrupt line {irq!r}: a PC has lines 0-15, and 2 joins the controllers")

        def drive(high: bool) -> None:
            self.set_line(irq, high)

        return drive

    def set_line(self, irq: int, high: bool) -> None:
        """Drive an interrupt request line."""
        chip = self.slave if irq & 8 else self.master
        chip.set_line(irq & 7, high)
        self._update()

    def acknowledge(self) -> int:
        """Acknowledge an interrupt (INTA) and return its vector; a request that has gone gives the spurious one."""
        level = self.master.acknowledge()
        if level is None:
            return self.master.base + SPURIOUS
        if level == CASCADE and self.master.cascade & (1 << CASCADE):
            slave_level = self.slave.acknowledge()
            vector = self.slave.base + (SPURIOUS if slave_level is None else slave_level)
            # INT falls with the acknowledgement, so that a next request makes a new edge at the master.
            self.master.set_line(CASCADE, False)
        else:
            vector = self.master.base + level
        self._update()
        return vector

    def pending_vector(self) -> int | None:
        """The vector that `acknowledge()` would return now, without acknowledging; None if nothing is pending."""
        level = self.master.pending()
        if level is None:
            return None
        if level == CASCADE and self.master.cascade & (1 << CASCADE):
            slave_level = self.slave.pending()
            return self.slave.base + (SPURIOUS if slave_level is None else slave_level)
        return self.master.base + level

    def _update(self) -> None:
        self.master.set_line(CASCADE, self.slave.pending() is not None)
        output = self.master.pending() is not None
        if output != self.output:
            self.output = output
            if self.on_output is not None:
                self.on_output(output)

    # -- bus ---------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register: offset 0-1 master, 2-3 slave."""
        chip = self.slave if offset & 2 else self.master
        polled = chip.poll
        value = chip.read(offset & 1)
        if polled:  # a poll acknowledges
            if chip is self.slave:
                self.master.set_line(CASCADE, False)
            self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a command word: offset 0-1 master, 2-3 slave."""
        chip = self.slave if offset & 2 else self.master
        chip.write(offset & 1, value & 0xFF)
        self._update()

    def save(self) -> dict[str, Any]:
        """Save both chips."""
        return {"version": 1, "master": self.master.save(), "slave": self.slave.save()}

    def load(self, state: dict[str, Any]) -> None:
        """Load both chips; StateError if the state is damaged."""
        check_state(state, self.name, {"master": dict, "slave": dict})
        check = PicChip(master=False)
        check.load(state["slave"])  # so that a damaged slave leaves the master untouched
        self.master.load(state["master"])
        self.slave.load(state["slave"])
        self._update()
