"""The real-time clock and CMOS memory of a PC: an MC146818.

A divider chain on a 32.768 kHz crystal counts the time bytes on each second and drives IRQ 8: periodically at a chosen
rate, at the end of each update, and at the alarm time. The rest of the chip's memory holds what firmware knows of
the computer: how much memory it has, the century, why it was last shut down.

It is 1 January 2026, 00:00:00 when a machine starts, and virtual time runs from there: no run sees the host's clock.

Bus range: ports 0x70 (index, bit 7 masks NMI; write-only) and 0x71 (data).

    A:  [ UIP 7 | DV 6:4 | RS 3:0 ]                      C:  [ IRQF 7 | PF 6 | AF 5 | UF 4 ]   cleared by reading
    B:  [ SET 7 | PIE 6 | AIE 5 | UIE 4 | SQWE 3 | DM 2 | 24/12 1 | DSE 0 ]        D:  [ VRT 7 ]

Simplified: an update takes no time: the bytes change at once, at the moment at which UIP falls. Every divider setting
but reset (11x) runs at the one crystal's speed. No square wave, no daylight saving.

Read more: Motorola MC146818A data sheet; the CMOS map: IBM PC/AT Technical Reference, 0x30-0x35: later firmware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.clock import NOMINAL_HZ
from vmlab.machine.devices.rtc_calendar import CENTURY, add_seconds, seconds_to_alarm
from vmlab.machine.state import BYTE, COUNT, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus
    from vmlab.machine.clock import Clock

__all__ = ["CMOS_SIZE", "START", "Rtc"]

START = (0x00, 0, 0x00, 0, 0x00, 0, 5, 0x01, 0x01, 0x26)
"""The time bytes at the start, BCD: Thursday, 1 January (20)26, 00:00:00."""

CMOS_SIZE = 128
INDEX, DATA = 0, 1
A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
UIP, RATE = 0x80, 0x0F
SET, PERIODIC, ALARM, UPDATE = 0x80, 0x40, 0x20, 0x10  # in B; the flags in C are at the same bits
INTERRUPTS = PERIODIC | ALARM | UPDATE
REQUEST, VALID = 0x80, 0x80
NORMAL_1024_HZ, MODE_24 = 0x26, 0x02
UPDATE_WARNING = NOMINAL_HZ * 2228 // 1_000_000  # UIP: 244 µs before an update of 1984 µs
BASE_MEMORY, EXTENDED, EXTENDED_FOUND, ABOVE_16M = 0x15, 0x17, 0x30, 0x34
CHECKSUM, CHECKED = 0x2E, range(0x10, 0x2E)
KIB, MIB = 1 << 10, 1 << 20

_FIELDS: dict[str, Any] = {
    "index": range(CMOS_SIZE), "nmi_masked": bool, "flags": BYTE, "origin": range(-(1 << 62), 1 << 62), "seconds": COUNT,
    "periods": COUNT,
}  # fmt: skip


class Rtc:
    """The real-time clock.

    Parameters
    ----------
    clock : Clock
        Virtual time; the chip registers itself there.
    line : callable
        Drives IRQ 8.
    memory_size : int
        Bytes of RAM, for the memory-size bytes.

    Attributes
    ----------
    cmos : bytearray
        The chip's memory.
    nmi_masked : bool
        True where bit 7 of port 0x70 keeps NMIs from the processor.
    """

    __slots__ = ("_clock", "_high", "_line", "cmos", "name", *_FIELDS)

    def __init__(self, clock: Clock, line: Callable[[bool], None], memory_size: int, name: str = "rtc") -> None:
        self.name = name
        self._clock, self._line = clock, line
        self._high = False
        self.cmos = bytearray(CMOS_SIZE)
        self.index = self.flags = 0
        self.nmi_masked = False
        self.origin = clock.now  # clock time at which the divider chain was at zero
        self.seconds = self.periods = 0  # of the chain's, that have been counted
        self.cmos[: len(START)] = bytes(START)
        self.cmos[CENTURY] = 0x20
        self.cmos[A], self.cmos[B] = NORMAL_1024_HZ, MODE_24
        self._firmware(memory_size)
        clock.add(self)

    def attach(self, bus: Bus) -> None:
        """Claim a PC's standard ports."""
        bus.add_ports(self, 0x70, 2)

    def _firmware(self, memory_size: int) -> None:
        """Note how much memory there is, and the checksum over what firmware has set."""
        extended = min(max(memory_size - MIB, 0) // KIB, 0xFFFF)
        self._word(BASE_MEMORY, min(memory_size // KIB, 640))
        self._word(EXTENDED, extended)
        self._word(EXTENDED_FOUND, extended)
        self._word(ABOVE_16M, min(max(memory_size - 16 * MIB, 0) // (64 * KIB), 0xFFFF))
        total = sum(self.cmos[place] for place in CHECKED)
        self.cmos[CHECKSUM], self.cmos[CHECKSUM + 1] = total >> 8 & 0xFF, total & 0xFF

    def _word(self, place: int, value: int) -> None:
        self.cmos[place : place + 2] = value.to_bytes(2, "little")

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def _held(self) -> bool:
        """True where the divider chain is held in reset."""
        return self.cmos[A] & 0x60 == 0x60

    @property
    def _frequency(self) -> int:
        """Periodic interrupts a second, 0 for none."""
        rate = self.cmos[A] & RATE
        if not rate:
            return 0
        return 32_768 >> (rate - 1 if rate >= 3 else rate + 6)

    def next_event(self) -> int | None:
        """Clock time at which the interrupt line will rise."""
        enabled, frequency = self.cmos[B] & INTERRUPTS, self._frequency
        if self._held or not enabled or self.flags & enabled:
            return None
        events = []
        if enabled & PERIODIC and frequency:
            events.append(-(-(self.periods + 1) * NOMINAL_HZ // frequency))
        if not self.cmos[B] & SET:
            if enabled & UPDATE:
                events.append((self.seconds + 1) * NOMINAL_HZ)
            if enabled & ALARM and (seconds := seconds_to_alarm(self.cmos, self.cmos[B])) is not None:
                events.append((self.seconds + seconds) * NOMINAL_HZ)
        return self.origin + min(events) if events else None

    def advance(self, now: int) -> None:
        """Count up to a clock time."""
        if self._held:
            return
        elapsed = now - self.origin
        passed = elapsed // NOMINAL_HZ - self.seconds
        if passed > 0:
            self.seconds += passed
            if not self.cmos[B] & SET:
                alarm = seconds_to_alarm(self.cmos, self.cmos[B])
                self.flags |= UPDATE | (ALARM if alarm is not None and alarm <= passed else 0)
                add_seconds(self.cmos, passed, self.cmos[B])
        periods = elapsed * self._frequency // NOMINAL_HZ
        if periods > self.periods:
            self.periods = periods
            self.flags |= PERIODIC
        self._update()

    def _update(self) -> None:
        high = bool(self.flags & self.cmos[B] & INTERRUPTS)
        if high != self._high:
            self._high = high
            self._line(high)

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read the data port; the index cannot be read."""
        if offset == INDEX:
            return 0xFF
        self.advance(self._clock.now)
        if self.index == A:
            return self.cmos[A] & ~UIP | (UIP if self._updating else 0)
        if self.index == C:
            value = self.flags | (REQUEST if self._high else 0)
            self.flags = 0
            self._update()
            self._clock.refresh()
            return value
        return VALID if self.index == D else self.cmos[self.index]

    @property
    def _updating(self) -> bool:
        if self._held or self.cmos[B] & SET:
            return False
        return (self._clock.now - self.origin) % NOMINAL_HZ >= NOMINAL_HZ - UPDATE_WARNING

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the index or the data port."""
        value &= 0xFF
        if offset == INDEX:
            self.index, self.nmi_masked = value & 0x7F, bool(value & 0x80)
            return
        self.advance(self._clock.now)
        if self.index == A:
            self._write_a(value)
        elif self.index == B:
            self.cmos[B] = value & ~UPDATE if value & SET else value
        elif self.index not in (C, D):
            self.cmos[self.index] = value
        self._update()
        self._clock.refresh()

    def _write_a(self, value: int) -> None:
        held = self._held
        self.cmos[A] = value & ~UIP
        if held and not self._held:  # the first update comes half a second after the reset
            self.origin = self._clock.now - NOMINAL_HZ // 2
            self.seconds = 0
        self.periods = max(self._clock.now - self.origin, 0) * self._frequency // NOMINAL_HZ

    def save(self) -> dict[str, Any]:
        """Save memory, registers and divider chain."""
        return {"version": 1, "cmos": bytes(self.cmos)} | {name: getattr(self, name) for name in _FIELDS}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state (load the clock first); StateError if it is damaged."""
        check_state(state, self.name, _FIELDS | {"cmos": bytes})
        if len(state["cmos"]) != CMOS_SIZE:
            raise StateError(f"{self.name}: saved memory has {len(state['cmos'])} bytes, the chip {CMOS_SIZE}")
        self.cmos[:] = state["cmos"]
        for name in _FIELDS:
            setattr(self, name, state[name])
        self._high = bool(self.flags & self.cmos[B] & INTERRUPTS)  # the controller saves the level of its line itself
        self._clock.refresh()
