"""The registers of a local APIC: their layouts, and what reading or writing each does.

`READERS` and `WRITERS` map a register's offset in the page to a function on the `LocalApic`. An offset in neither is an
illegal register; one in `READERS` alone is read-only.

Read more: Intel SDM vol. 3, chapter "Advanced Programmable Interrupt Controller (APIC)", table "Local APIC Register
Address Map", figures of LVT and ICR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.devices.apic_bus import Delivery, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.devices.local_apic import LocalApic

__all__ = ["READERS", "WRITERS"]

IDENTIFIER, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR = 0x100, 0x180, 0x200  # eight registers each: 256 bits
ESR, ICR, ICR_HIGH, LVT, INITIAL_COUNT, CURRENT_COUNT, DIVIDE = 0x280, 0x300, 0x310, 0x320, 0x380, 0x390, 0x3E0

LVT_COUNT = 6
TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = range(LVT_COUNT)
VERSION_VALUE = (LVT_COUNT - 1) << 16 | 0x14  # highest LVT entry; 0x14: Pentium 4

# LVT entry:  [ PERIODIC 17 | MASKED 16 | LEVEL 15 | REMOTE_IRR 14 | POLARITY 13 | mode 10:8 | vector 7:0 ]
PERIODIC, MASKED, LEVEL, REMOTE_IRR = 1 << 17, 1 << 16, 1 << 15, 1 << 14
LVT_BITS = (0x300FF, 0x107FF, 0x107FF, 0x1A7FF, 0x1A7FF, 0x100FF)  # what can be written of each entry

# SVR:  [ FOCUS 9 | ENABLE 8 | spurious vector 7:0 ]
SVR_BITS, SOFTWARE_ENABLE = 0x3FF, 0x100

# Interrupt command register:  [ shorthand 19:18 | TRIGGER 15 | ASSERT 14 | LOGICAL 11 | mode 10:8 | vector 7:0 ]
ICR_BITS, ICR_LEVEL, ICR_ASSERT, ICR_LOGICAL = 0xCCFFF, 1 << 15, 1 << 14, 1 << 11
NO_SHORTHAND, SELF, ALL, OTHERS = range(4)

# Error status register
SEND_ILLEGAL_VECTOR, RECEIVE_ILLEGAL_VECTOR, ILLEGAL_REGISTER = 0x20, 0x40, 0x80
FIRST_VECTOR = 16  # those below are illegal


def _read_vectors(apic: LocalApic, offset: int) -> int:
    vectors = {ISR: apic.isr, TMR: apic.tmr, IRR: apic.irr}[offset & 0x380]
    return vectors >> 2 * (offset & 0x70) & 0xFFFF_FFFF


def _read_lvt(apic: LocalApic, offset: int) -> int:
    return apic.lvt[offset - LVT >> 4]


def _write_identifier(apic: LocalApic, offset: int, value: int) -> None:
    apic.identifier = value >> 24


def _write_tpr(apic: LocalApic, offset: int, value: int) -> None:
    apic.tpr = value & 0xFF


def _write_eoi(apic: LocalApic, offset: int, value: int) -> None:
    """End the highest interrupt in service, and tell whoever asserts it as a level."""
    if not apic.isr:
        return
    vector = apic.isr.bit_length() - 1
    apic.isr &= ~(1 << vector)
    if apic.tmr >> vector & 1:
        if apic.lvt[LINT0] & REMOTE_IRR and apic.lvt[LINT0] & 0xFF == vector:
            apic.lvt[LINT0] &= ~REMOTE_IRR
            apic.pin_changed(LINT0, rising=False)
        apic.bus.end(vector)


def _write_ldr(apic: LocalApic, offset: int, value: int) -> None:
    apic.ldr = value >> 24


def _write_dfr(apic: LocalApic, offset: int, value: int) -> None:
    apic.dfr = value >> 28


def _write_svr(apic: LocalApic, offset: int, value: int) -> None:
    apic.svr = value & SVR_BITS
    if not value & SOFTWARE_ENABLE:
        apic.lvt = [entry | MASKED for entry in apic.lvt]


def _write_esr(apic: LocalApic, offset: int, value: int) -> None:
    """Show the errors since the last write, whatever is written."""
    apic.esr, apic.errors = apic.errors, 0


def _write_icr_high(apic: LocalApic, offset: int, value: int) -> None:
    apic.icr_high = value >> 24


def _write_icr(apic: LocalApic, offset: int, value: int) -> None:
    """Send an interprocessor interrupt."""
    apic.icr = value & ICR_BITS
    mode, vector, shorthand = value >> 8 & 7, value & 0xFF, value >> 18 & 3
    if mode == Delivery.EXTINT:
        return  # reserved here
    if mode == Delivery.INIT and value & ICR_LEVEL and not value & ICR_ASSERT:
        return  # INIT level de-assert: it once synchronized arbitration, nobody acts on it
    if mode in (Delivery.FIXED, Delivery.LOWEST_PRIORITY) and vector < FIRST_VECTOR:
        apic.note_error(SEND_ILLEGAL_VECTOR)
        return
    message = Message(mode, vector, apic.icr_high, bool(value & ICR_LOGICAL))
    bus = apic.bus
    if shorthand == NO_SHORTHAND:
        bus.send(message)
    elif shorthand == OTHERS:
        bus.deliver(message, [each for each in bus.local_apics if each is not apic and each.enabled])
    elif mode == Delivery.FIXED:  # the only mode that may include the sender
        bus.deliver(message, [each for each in bus.local_apics if each is apic or (shorthand == ALL and each.enabled)])


def _write_lvt(apic: LocalApic, offset: int, value: int) -> None:
    entry = offset - LVT >> 4
    value &= LVT_BITS[entry]
    if entry == LINT0 and value & LEVEL:
        value |= apic.lvt[entry] & REMOTE_IRR
    apic.lvt[entry] = value if apic.software_enabled else value | MASKED
    if entry == TIMER:
        apic.timer.periodic = bool(value & PERIODIC)
    elif entry == LINT0:
        apic.pin_changed(LINT0, rising=False)


def _write_initial_count(apic: LocalApic, offset: int, value: int) -> None:
    apic.timer.start(value, apic.tick)


def _write_divide(apic: LocalApic, offset: int, value: int) -> None:
    apic.timer.set_divide(value, apic.tick)


READERS: dict[int, Callable[[LocalApic, int], int]] = {
    IDENTIFIER: lambda apic, _: apic.identifier << 24,
    VERSION: lambda _apic, _: VERSION_VALUE,
    TPR: lambda apic, _: apic.tpr,
    PPR: lambda apic, _: apic.ppr,
    EOI: lambda _apic, _: 0,
    LDR: lambda apic, _: apic.ldr << 24,
    DFR: lambda apic, _: apic.dfr << 28 | 0x0FFF_FFFF,
    SVR: lambda apic, _: apic.svr,
    **dict.fromkeys(range(ISR, IRR + 0x80, 0x10), _read_vectors),
    ESR: lambda apic, _: apic.esr,
    ICR: lambda apic, _: apic.icr,
    ICR_HIGH: lambda apic, _: apic.icr_high << 24,
    **dict.fromkeys(range(LVT, LVT + LVT_COUNT * 0x10, 0x10), _read_lvt),
    INITIAL_COUNT: lambda apic, _: apic.timer.initial,
    CURRENT_COUNT: lambda apic, _: apic.timer.count(apic.tick),
    DIVIDE: lambda apic, _: apic.timer.divide,
}
"""What a read of the register at an offset gives."""

WRITERS: dict[int, Callable[[LocalApic, int, int], None]] = {
    IDENTIFIER: _write_identifier,
    TPR: _write_tpr,
    EOI: _write_eoi,
    LDR: _write_ldr,
    DFR: _write_dfr,
    SVR: _write_svr,
    ESR: _write_esr,
    ICR: _write_icr,
    ICR_HIGH: _write_icr_high,
    **dict.fromkeys(range(LVT, LVT + LVT_COUNT * 0x10, 0x10), _write_lvt),
    INITIAL_COUNT: _write_initial_count,
    DIVIDE: _write_divide,
}
"""What a write to the register at an offset does."""
