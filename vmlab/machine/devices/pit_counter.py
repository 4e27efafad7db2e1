"""One counter of an 8254 programmable interval timer.

A 16-bit counting element counts down on each tick of the input clock, in binary or BCD, in one of six modes which
differ in when the count is loaded, what GATE does, and what OUT does. `tick` is the number of the last clock tick that
the counter has seen; `run_to(tick)` computes in one step what many ticks without an event do.

    mode                 loaded            OUT                                      GATE low        GATE rising
    0 terminal count     tick after write  low, high when the count reaches 0       stops counting  -
    1 one-shot           tick after GATE   low from the load until 0                -               (re)starts
    2 rate generator     end of period     high, low while the count is 1           stops, OUT high restarts
    3 square wave        end of half       high for half of the count, then low     stops, OUT high restarts
    4 software strobe    tick after write  high, low for the tick at which 0        stops counting  -
    5 hardware strobe    tick after GATE   high, low for the tick at which 0        -               (re)starts

Simplified: a count of 1 is illegal in modes 2 and 3; here the output then stays high. The count that a counter holds
before its first load is undefined; here it is 0 and stands still, with OUT high.

Read more: Intel 82C54 data sheet, order number 231244-006, "Mode Definitions" and figures 15-20.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.state import BYTE, WORD, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PitCounter"]

# Control word:  [ SC1 SC0 | RW1 RW0 | M2 M1 M0 | BCD ]
LOW, HIGH, BOTH = 1, 2, 3  # RW: which bytes of the count are read and written
TERMINAL_COUNT, ONE_SHOT, RATE, SQUARE, SOFTWARE_STROBE, HARDWARE_STROBE = range(6)
PERIODIC = (RATE, SQUARE)
TRIGGERED = (ONE_SHOT, HARDWARE_STROBE)
# Status byte:  [ OUT 7 | NULL COUNT 6 | RW1 RW0 | M2 M1 M0 | BCD ]
STATUS_OUT, STATUS_NULL = 0x80, 0x40

_FIELDS: dict[str, Any] = {
    "tick": range(1 << 63), "mode": range(6), "access": range(1, 4), "bcd": bool, "gate": bool, "out": bool,
    "count": range(0x1_0001), "value": WORD, "odd": bool, "written": bool, "loading": bool, "counting": bool,
    "armed": bool, "null": bool, "write_low": (BYTE, type(None)), "read_high": bool,
    "latched": (WORD, type(None)), "status": (BYTE, type(None)),
}  # fmt: skip


class PitCounter:
    """The registers and the counting element of one counter.

    Attributes
    ----------
    tick : int
        The last clock tick that the counter has seen.
    mode, access, bcd : int, int, bool
        What the control word set.
    count : int
        The initial count, 1 to 65536 (10000 in BCD); 0 if none was written since power-on.
    value : int
        The counting element.
    gate, out : bool
        Levels of the pins.
    on_out : callable or None
        Called with the level whenever `out` changes.
    """

    __slots__ = (*_FIELDS, "on_out")

    def __init__(self, *, gate: bool = True) -> None:
        self.on_out: Callable[[bool], None] | None = None
        self.tick = self.count = self.value = self.mode = 0
        self.access = BOTH
        self.gate = gate
        self.bcd = self.odd = False
        self.out = True
        self.written = False  # a count was written since the control word
        self.loading = False  # the next tick loads the count
        self.counting = False  # a count has been loaded, ticks count
        self.armed = False  # reaching zero will change OUT (modes 0, 1, 4, 5)
        self.null = True
        self.write_low: int | None = None  # first byte of a two-byte write
        self.read_high = False  # the next read of a two-byte count gives the high byte
        self.latched: int | None = None
        self.status: int | None = None

    def _set_out(self, level: bool) -> None:
        if level != self.out:
            self.out = level
            if self.on_out is not None:
                self.on_out(level)

    # -- counting ----------------------------------------------------------------------------------------------------

    @property
    def _modulus(self) -> int:
        return 10_000 if self.bcd else 0x1_0000

    def ticks_to_event(self) -> int | None:
        """Ticks until OUT or the way of counting changes; None if neither does without a new write or trigger."""
        if self.loading:
            return 1
        if not self.counting or (not self.gate and self.mode not in TRIGGERED):
            return None if self.out or self.mode != SOFTWARE_STROBE else 1
        if self.mode in PERIODIC:
            if self.count < 2:
                return None
            # An odd square wave counts to 0 and stays for a tick; elsewhere 0 stands for the largest count.
            value = self.value if self.odd and self.mode == SQUARE else self.value or self._modulus
            return max(1, value - 1 if self.mode == RATE else (value >> 1) + (self.odd and self.out))
        if self.mode in (SOFTWARE_STROBE, HARDWARE_STROBE) and not self.out:
            return 1  # the strobe ends
        return (self.value or self._modulus) if self.armed else None

    def run_to(self, tick: int) -> None:
        """Count up to a clock tick, changing OUT on the way."""
        while self.tick < tick:
            left = tick - self.tick
            event = self.ticks_to_event()
            if event is None or event > left:
                self._decrement(left)
                self.tick = tick
                return
            self._decrement(event - 1)
            self.tick += event
            self._event()
            # Whole periods with nobody looking: keep the last ones, skip the rest.
            if self.mode in PERIODIC and self.out and tick - self.tick > 3 * self.count > 0 and not self.null:
                self.tick += ((tick - self.tick) // self.count - 2) * self.count

    def _decrement(self, ticks: int) -> None:
        """Count `ticks` ticks in which nothing but the value changes."""
        if self.counting and ticks and (self.gate or self.mode in TRIGGERED):
            self.value = (self.value - (ticks << (self.mode == SQUARE))) % self._modulus

    def _event(self) -> None:
        """Take the tick at which something changes."""
        if self.loading:
            self._load()
            self._set_out(self.mode not in (TERMINAL_COUNT, ONE_SHOT))
        elif self.mode == RATE:
            self._rate_event()
        elif self.mode == SQUARE:
            self._load()
            self._set_out(not self.out)
        elif self.mode in (SOFTWARE_STROBE, HARDWARE_STROBE) and not self.out:
            self._decrement(1)
            self._set_out(True)
        else:
            self.value = 0
            self.armed = False
            self._set_out(self.mode in (TERMINAL_COUNT, ONE_SHOT))

    def _rate_event(self) -> None:
        if self.value == 1:
            self._load()
            self._set_out(True)
        else:
            self.value = 1
            self._set_out(False)

    def _load(self) -> None:
        """Move the initial count into the counting element."""
        self.odd = bool(self.count & 1)
        self.value = (self.count & ~1 if self.mode == SQUARE else self.count) % self._modulus
        self.loading = self.null = False
        self.counting = self.armed = True

    def set_gate(self, level: bool) -> None:
        """Drive the GATE pin."""
        rising = level and not self.gate
        self.gate = level
        if rising and self.written and self.mode in (*PERIODIC, *TRIGGERED):
            self.loading = True
        elif not level and self.mode in PERIODIC:
            self._set_out(True)

    # -- registers ---------------------------------------------------------------------------------------------------

    def control(self, access: int, mode: int, bcd: bool) -> None:
        """Take a control word: the counter stops until a count is written."""
        self.access, self.bcd = access, bcd
        self.mode = mode if mode < 6 else mode - 4  # M2 is ignored in modes 2 and 3
        self.written = self.loading = self.counting = self.armed = self.read_high = False
        self.write_low = self.latched = self.status = None
        self.null = True
        self.value %= self._modulus
        self._set_out(self.mode != TERMINAL_COUNT)

    def write(self, byte: int) -> None:
        """Write the count, one byte or the next of two."""
        if self.access == BOTH and self.write_low is None:
            self.write_low = byte
            if self.mode == TERMINAL_COUNT:  # the first byte stops the count
                self.counting = self.armed = self.loading = False
                self._set_out(False)
            return
        word = byte << 8 | (self.write_low or 0) if self.access != LOW else byte
        self.write_low = None
        if self.bcd:
            word = sum((word >> 4 * place & 0xF) * 10**place for place in range(4)) % 10_000
        self.count = word or self._modulus
        self.null = True
        first = not self.written
        self.written = True
        if self.mode == TERMINAL_COUNT:
            self._set_out(False)
        if self.mode in (TERMINAL_COUNT, SOFTWARE_STROBE) or (self.mode in PERIODIC and first):
            self.loading = True

    def _reading(self) -> int:
        """The counting element as it is read: in BCD if so counted."""
        if not self.bcd:
            return self.value
        return int(str(self.value % 10_000), 16)

    def latch_count(self) -> None:
        """Hold the count for the next read; a count that is held already stays."""
        if self.latched is None:
            self.latched = self._reading()

    def latch_status(self) -> None:
        """Hold the status byte for the next read; one that is held already stays."""
        if self.status is None:
            levels = (STATUS_OUT if self.out else 0) | (STATUS_NULL if self.null else 0)
            self.status = levels | self.access << 4 | self.mode << 1 | self.bcd

    def read(self) -> int:
        """Read the status if it is held, else the count: one byte or the next of two."""
        if self.status is not None:
            status, self.status = self.status, None
            return status
        word = self._reading() if self.latched is None else self.latched
        high = self.access == HIGH or self.read_high
        if self.access == BOTH:
            self.read_high = not self.read_high
        if not self.read_high:
            self.latched = None
        return word >> 8 if high else word & 0xFF

    def save(self) -> dict[str, Any]:
        """Save every register and flag."""
        return {"version": 1} | {field: getattr(self, field) for field in _FIELDS}

    def load(self, state: dict[str, Any]) -> None:
        """Load saved registers; StateError if they are damaged."""
        check_state(state, "8254 counter", _FIELDS)
        for field in _FIELDS:
            setattr(self, field, state[field])
