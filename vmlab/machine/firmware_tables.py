"""The tables by which firmware tells a kernel what processors and interrupt controllers there are.

Two generations say the same: the MP configuration table of the MultiProcessor Specification, and ACPI's RSDT with FADT and
MADT. A kernel finds the first by its floating pointer (`_MP_`), the second by the RSDP (`RSD PTR `): both are searched on
16-byte boundaries in the first KiB of the extended BIOS data area and in the BIOS's read-only memory. The words of
the BIOS data area that lead to the former are part of what is built.

    0x0040E   segment of the extended BIOS data area        0x00413   KiB of base memory
    0x9FC00   extended BIOS data area, 1 KiB: MP floating pointer
    0xF5000   MP floating pointer, MP configuration table, RSDP, RSDT, FADT, FACS, DSDT, MADT

Local APIC IDs are 0 to n-1, the I/O APIC's ID is n, or 0 where its 4 bits do not hold that: from the Pentium 4 on,
messages to local APICs go over the system bus, and the two kinds of IDs are apart. ISA interrupts go to the I/O APIC's pins of the same number, but
IRQ 0 to pin 2; the 8259A pair goes to pin 0 and to LINT0 as ExtINT, NMI to LINT1.

Simplified: the FADT names no power-management registers, and the DSDT describes nothing: enough to find processors. No
PCI interrupts.

Read more: Intel, MultiProcessor Specification 1.4, chapter 4; ACPI Specification 1.0b, 5.2.
"""

from __future__ import annotations

import struct

from vmlab.errors import OptionError
from vmlab.machine.devices.apic_bus import LOCAL_APIC_BASE
from vmlab.machine.devices.io_apic import IO_APIC_BASE, TIMER_PIN
from vmlab.machine.devices.rtc_calendar import CENTURY

__all__ = ["EBDA", "MOST_CPUS", "TABLES", "build_tables", "io_apic_identifier"]

MOST_CPUS = 16
"""Processors that the tables can name."""

EBDA, TABLES = 0x9_FC00, 0xF_5000
EBDA_POINTER, BASE_MEMORY = 0x40E, 0x413

LOCAL_APIC_VERSION, IO_APIC_VERSION = 0x14, 0x11
ISA, PCI = 1, 0  # bus numbers
ALL = 0xFF
OEM, PRODUCT = b"VMLAB   ", b"LABORATORY  "
INT, NMI, EXTINT = 0, 1, 3  # MP interrupt types
SCI = 9
FADT_FLAGS = 1 << 0 | 1 << 2  # WBINVD works, HLT (C1) works on all processors
HAS_8259 = 1  # MADT flag


def io_apic_identifier(cpus: int) -> int:
    """Return the I/O APIC's ID in a computer with so many processors."""
    return cpus & 0xF


def build_tables(cpus: int, *, signature: int = 0xF29, features: int = 0x200) -> dict[int, bytes]:
    """Build the tables.

    Parameters
    ----------
    cpus : int
        Processors, 1 to 16; the first is the bootstrap processor.
    signature, features : int
        EAX and EDX of CPUID leaf 1, for the MP table.

    Returns
    -------
    dict
        Physical address to the bytes that firmware has put there.

    Raises
    ------
    OptionError
        The number of processors is not allowed.

    Examples
    --------
    >>> tables = build_tables(2)
    >>> tables[0xF5000][:4], [hex(address) for address in sorted(tables)][:3]
    (b'_MP_', ['0x40e', '0x413', '0x9fc00'])
    """
    if type(cpus) is not int or not 1 <= cpus <= MOST_CPUS:
        raise OptionError(f"a computer has 1 to {MOST_CPUS} processors, not {cpus!r}")
    configuration = TABLES + 0x10
    mp_table = _mp_configuration(cpus, signature, features)
    floating = _mp_floating_pointer(configuration)
    tables = {
        EBDA_POINTER: struct.pack("<H", EBDA >> 4),
        BASE_MEMORY: struct.pack("<H", EBDA >> 10),
        EBDA: bytes([1]) + bytes(15) + floating,  # its first byte is its size in KiB
        TABLES: floating,
        configuration: mp_table,
    }
    tables |= _acpi(configuration + len(mp_table), cpus)
    return tables


def _checksummed(data: bytes, place: int) -> bytes:
    """Set the checksum byte so that all bytes add up to 0 modulo 256."""
    return data[:place] + bytes([-(sum(data) - data[place]) & 0xFF]) + data[place + 1 :]


# -- MultiProcessor Specification --------------------------------------------------------------------------------------


def _mp_floating_pointer(configuration: int) -> bytes:
    # signature, configuration table, length in 16 bytes, revision 1.4, checksum; features: a table, virtual wire mode
    return _checksummed(struct.pack("<4sIBBB5x", b"_MP_", configuration, 1, 4, 0), 10)


def _mp_configuration(cpus: int, signature: int, features: int) -> bytes:
    io_apic = io_apic_identifier(cpus)
    entries = [
        # type 0: APIC ID, version, [ BSP 1 | ENABLED 0 ], signature, features
        struct.pack("<BBBBII8x", 0, cpu, LOCAL_APIC_VERSION, 3 if cpu == 0 else 1, signature, features)
        for cpu in range(cpus)
    ]
    entries += [struct.pack("<BB6s", 1, number, name) for number, name in ((PCI, b"PCI   "), (ISA, b"ISA   "))]
    entries.append(struct.pack("<BBBBI", 2, io_apic, IO_APIC_VERSION, 1, IO_APIC_BASE))
    # types 3 and 4: interrupt type, polarity and trigger as the bus has them, source bus and line, APIC and pin
    lines = [(EXTINT, 0, 0), (INT, 0, TIMER_PIN), (INT, 1, 1), *((INT, irq, irq) for irq in range(3, 16))]
    entries += [struct.pack("<BBHBBBB", 3, kind, 0, ISA, irq, io_apic, pin) for kind, irq, pin in lines]
    entries += [struct.pack("<BBHBBBB", 4, kind, 0, ISA, 0, ALL, pin) for kind, pin in ((EXTINT, 0), (NMI, 1))]
    body = b"".join(entries)
    header = struct.pack(
        "<4sHBB8s12sIHHIHBx", b"PCMP", 44 + len(body), 4, 0, OEM, PRODUCT, 0, 0, len(entries), LOCAL_APIC_BASE, 0, 0
    )
    return _checksummed(header + body, 7)


# -- ACPI 1.0 ----------------------------------------------------------------------------------------------------------


def _description(signature: bytes, body: bytes) -> bytes:
    """Put ACPI's common header before a table."""
    length = 36 + len(body)
    header = struct.pack("<4sIBB6s8sI4sI", signature, length, 1, 0, OEM[:6], PRODUCT[:8], 1, OEM[:4], 1)
    return _checksummed(header + body, 9)


def _acpi(start: int, cpus: int) -> dict[int, bytes]:
    """Lay out the ACPI tables from an address on."""
    rsdp = _align(start, 16)
    rsdt = rsdp + 0x20
    fadt = rsdt + 0x40
    facs = _align(fadt + 0x80, 64)
    dsdt = facs + 0x40
    madt = dsdt + 0x40
    return {
        rsdp: _checksummed(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM[:6], 0, rsdt), 8),
        rsdt: _description(b"RSDT", struct.pack("<II", fadt, madt)),
        fadt: _description(b"FACP", _fadt(facs, dsdt)),
        facs: struct.pack("<4sI56x", b"FACS", 64),
        dsdt: _description(b"DSDT", b""),
        madt: _description(b"APIC", _madt(cpus)),
    }


def _align(address: int, alignment: int) -> int:
    return (address + alignment - 1) & -alignment


def _fadt(facs: int, dsdt: int) -> bytes:
    """FADT without its header, offsets 36 to 115."""
    body = bytearray(80)
    struct.pack_into("<IIBxH", body, 0, facs, dsdt, 0, SCI)
    struct.pack_into("<HH", body, 60, 0xFFFF, 0xFFFF)  # latencies of C2 and C3: not there
    body[72] = CENTURY  # in CMOS
    struct.pack_into("<I", body, 76, FADT_FLAGS)
    return bytes(body)


def _madt(cpus: int) -> bytes:
    entries = [struct.pack("<II", LOCAL_APIC_BASE, HAS_8259)]
    entries += [struct.pack("<BBBBI", 0, 8, cpu, cpu, 1) for cpu in range(cpus)]  # processor, APIC ID, enabled
    entries.append(struct.pack("<BBBxII", 1, 12, io_apic_identifier(cpus), IO_APIC_BASE, 0))
    entries.append(struct.pack("<BBBBIH", 2, 10, 0, 0, TIMER_PIN, 0))  # override: ISA IRQ 0 is at pin 2
    entries.append(struct.pack("<BBBHB", 4, 6, ALL, 0, 1))  # NMI at every processor's LINT1
    return b"".join(entries)
