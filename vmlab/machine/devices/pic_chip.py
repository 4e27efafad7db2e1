"""One 8259A programmable interrupt controller chip.

Eight request lines come in, one INT line goes out. A request is latched in the IRR, masked by the IMR, compared in
priority with what is in service (ISR), and moves from IRR to ISR when the processor acknowledges it. `devices.pic`
joins two chips to a PC's pair.

In edge mode a rising line latches a request, and the line must stay high until the acknowledgement: a request whose
line falls earlier is gone, and an acknowledgement with no request left yields the spurious level 7.

Simplified: 8086 mode always (the 8080's three-byte CALL sequence is not built; ICW4's bit is stored), buffered mode is
stored and has no effect, and a chip makes no request before its first initialization is complete.

Read more: Intel 8259A data sheet, order number 231468-003 (ICW and OCW formats, figures 7 and 8).
"""

from __future__ import annotations

from typing import Any

from vmlab.machine.state import BYTE, check_state

__all__ = ["PicChip"]

# ICW1, port A0 = 0:  [ 0 0 0 1 | LTIM 3 | ADI 2 | SNGL 1 | IC4 0 ]
ICW1, LTIM, SNGL, IC4 = 0x10, 0x08, 0x02, 0x01
# ICW4, port A0 = 1:  [ 0 0 0 SFNM 4 | BUF 3 | M/S 2 | AEOI 1 | uPM 0 ]
SFNM, AEOI = 0x10, 0x02
# OCW2, port A0 = 0:  [ R 7 | SL 6 | EOI 5 | 0 0 | L2 L1 L0 ]
# OCW3, port A0 = 0:  [ 0 | ESMM 6 | SMM 5 | 0 1 | P 2 | RR 1 | RIS 0 ]
OCW3, ESMM, SMM, POLL, RR, RIS = 0x08, 0x40, 0x20, 0x04, 0x02, 0x01

SPURIOUS = 7

_FIELDS: dict[str, Any] = {
    "lines": BYTE, "latch": BYTE, "isr": BYTE, "imr": BYTE, "base": BYTE, "cascade": BYTE,
    "lowest": range(8), "expected": range(5), "initialized": bool, "needs_icw4": bool, "single": bool,
    "level_triggered": bool, "auto_eoi": bool, "rotate_on_auto_eoi": bool, "special_mask": bool,
    "special_fully_nested": bool, "read_isr": bool, "poll": bool, "icw4": BYTE,
}  # fmt: skip


class PicChip:
    """The registers and the priority logic of one 8259A.

    Attributes
    ----------
    lines : int
        Levels of the eight request lines, one bit each.
    latch : int
        Edges that await acknowledgement.
    isr, imr : int
        In-service and mask registers.
    base : int
        Vector of level 0 (ICW2).
    cascade : int
        ICW3: on a master, which lines come from slaves; on a slave, its number.
    lowest : int
        The level of lowest priority: 7 unless rotated.
    """

    __slots__ = (*_FIELDS, "master")

    def __init__(self, *, master: bool) -> None:
        self.master = master
        self.lines = self.latch = self.isr = self.imr = self.base = self.cascade = self.icw4 = 0
        self.lowest = 7
        self.expected = 0  # which ICW the next write to A0 = 1 is; 0: none, it is OCW1
        self.initialized = self.needs_icw4 = self.single = self.level_triggered = False
        self.auto_eoi = self.rotate_on_auto_eoi = self.special_mask = self.special_fully_nested = False
        self.read_isr = self.poll = False

    @property
    def irr(self) -> int:
        """Interrupt request register: levels that ask for service, masked or not."""
        return self.lines if self.level_triggered else self.latch

    # -- requests and acknowledgement --------------------------------------------------------------------------------

    def set_line(self, level: int, high: bool) -> None:
        """Drive one of the eight request lines."""
        bit = 1 << level
        if high:
            self.latch |= bit & ~self.lines
            self.lines |= bit
        else:
            self.latch &= ~bit
            self.lines &= ~bit

    def pending(self) -> int | None:
        """Return the level that the chip asks the processor to serve now, None if there is none."""
        requests = self.irr & ~self.imr
        if not requests or not self.initialized or self.expected:
            return None
        serving = self.isr & ~self.imr if self.special_mask else self.isr
        for step in range(1, 9):
            level = (self.lowest + step) & 7
            bit = 1 << level
            if serving & bit:
                # A special fully nested master lets a slave interrupt itself: the slave knows its own priorities.
                nested = self.special_fully_nested and self.master and self.cascade & bit
                return level if nested and requests & bit else None
            if requests & bit:
                return level
        return None

    def acknowledge(self) -> int | None:
        """Take the pending request into service (the first INTA pulse); None if it has gone: spurious."""
        level = self.pending()
        if level is None:
            return None
        bit = 1 << level
        self.latch &= ~bit
        if not self.auto_eoi:
            self.isr |= bit
        elif self.rotate_on_auto_eoi:
            self.lowest = level
        return level

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, a0: int) -> int:
        """Read the chip with address line A0 low or high."""
        if self.poll:
            self.poll = False
            level = self.acknowledge()
            return 0x80 | level if level is not None else 0
        if a0:
            return self.imr
        return self.isr if self.read_isr else self.irr

    def write(self, a0: int, value: int) -> None:
        """Write a command word with address line A0 low or high."""
        if a0:
            self._write_high(value)
        elif value & ICW1:
            self._initialize(value)
        elif value & OCW3:
            self._operate(value)
        else:
            self._end_of_interrupt(value)

    def _initialize(self, value: int) -> None:
        """ICW1: reset and start the initialization sequence."""
        self.latch = self.isr = self.imr = self.cascade = self.icw4 = 0
        self.lowest = 7
        self.level_triggered = bool(value & LTIM)
        self.single = bool(value & SNGL)
        self.needs_icw4 = bool(value & IC4)
        self.auto_eoi = self.rotate_on_auto_eoi = self.special_mask = self.special_fully_nested = False
        self.read_isr = self.poll = False
        self.initialized = True
        self.expected = 2

    def _write_high(self, value: int) -> None:
        """ICW2, ICW3, ICW4 in the sequence that ICW1 began, else OCW1: the mask."""
        if self.expected == 2:
            self.base = value & 0xF8
            self.expected = 3 if not self.single else 4 if self.needs_icw4 else 0
        elif self.expected == 3:
            self.cascade = value if self.master else value & 7
            self.expected = 4 if self.needs_icw4 else 0
        elif self.expected == 4:
            self.icw4 = value
            self.auto_eoi = bool(value & AEOI)
            self.special_fully_nested = bool(value & SFNM)
            self.expected = 0
        else:
            self.imr = value

    def _operate(self, value: int) -> None:
        """OCW3: special mask mode, poll, which register A0 = 0 reads."""
        if value & ESMM:
            self.special_mask = bool(value & SMM)
        if value & POLL:
            self.poll = True
        elif value & RR:
            self.read_isr = bool(value & RIS)

    def _end_of_interrupt(self, value: int) -> None:
        """OCW2: end of interrupt and rotation of priorities."""
        level = value & 7
        match value >> 5:
            case 0b001:  # non-specific EOI
                self._clear_highest()
            case 0b011:  # specific EOI
                self.isr &= ~(1 << level)
            case 0b101:  # rotate on non-specific EOI
                served = self._clear_highest()
                self.lowest = self.lowest if served is None else served
            case 0b111:  # rotate on specific EOI
                self.isr &= ~(1 << level)
                self.lowest = level
            case 0b110:  # set priority
                self.lowest = level
            case 0b100 | 0b000:  # rotate in automatic EOI mode, set and clear
                self.rotate_on_auto_eoi = bool(value & 0x80)
            case _:  # 0b010: no operation
                pass

    def _clear_highest(self) -> int | None:
        """Clear the in-service bit of highest priority; special mask mode spares the masked ones."""
        serving = self.isr & ~self.imr if self.special_mask else self.isr
        for step in range(1, 9):
            level = (self.lowest + step) & 7
            if serving & (1 << level):
                self.isr &= ~(1 << level)
                return level
        return None

    def save(self) -> dict[str, Any]:
        """Save every register and latch."""
        return {"version": 1} | {field: getattr(self, field) for field in _FIELDS}

    def load(self, state: dict[str, Any]) -> None:
        """Load saved registers; StateError if they are damaged."""
        check_state(state, "8259A", _FIELDS)
        for field in _FIELDS:
            setattr(self, field, state[field])
