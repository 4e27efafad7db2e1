"""A call of a BIOS service: the caller's registers and memory, and the flags that it will get back.

A service is entered by INT n and left by IRET, so the caller's flags stand on its stack, above the return address. Carry
and zero, by which services answer, are changed there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import CF, SS, ZF
from vmlab.machine.firmware.rom import PORT, build_rom

if TYPE_CHECKING:
    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor

__all__ = ["BDA", "Call", "Reg8", "Reg16"]

BDA = 0x400
PAGE = 0x1000


class Reg16:
    """Descriptor of a 16-bit register of a `Call`; the upper half of the 32-bit one stays."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __get__(self, call: Call, _: type | None = None) -> int:
        return call.cpu.registers[self.index] & 0xFFFF

    def __set__(self, call: Call, value: int) -> None:
        registers = call.cpu.registers
        registers[self.index] = registers[self.index] & ~0xFFFF | value & 0xFFFF


class Reg8:
    """Descriptor of an 8-bit register of a `Call`."""

    def __init__(self, index: int, shift: int) -> None:
        self.index, self.shift = index, shift

    def __get__(self, call: Call, _: type | None = None) -> int:
        return call.cpu.registers[self.index] >> self.shift & 0xFF

    def __set__(self, call: Call, value: int) -> None:
        registers = call.cpu.registers
        registers[self.index] = registers[self.index] & ~(0xFF << self.shift) | (value & 0xFF) << self.shift


class Call:
    """One call of a service.

    Parameters
    ----------
    cpu : Processor
        The caller, inside the OUT of the service's entry.
    platform : Platform
        Its devices.
    vector : int
        The service.
    """

    __slots__ = ("cpu", "platform", "vector")

    def __init__(self, cpu: Processor, platform: Platform, vector: int) -> None:
        self.cpu, self.platform, self.vector = cpu, platform, vector

    ax, cx, dx, bx, sp, bp, si, di = (Reg16(index) for index in range(8))
    al, cl, dl, bl = (Reg8(index, 0) for index in range(4))
    ah, ch, dh, bh = (Reg8(index, 8) for index in range(4))

    # -- the answer ----------------------------------------------------------------------------------------------------

    @property
    def caller_flags(self) -> int:
        """The flags that IRET will restore."""
        return self.cpu.read(SS, self.sp + 4 & 0xFFFF, 2)

    def _flag(self, bit: int, value: bool) -> None:
        self.cpu.write(SS, self.sp + 4 & 0xFFFF, 2, self.caller_flags & ~bit | (bit if value else 0))

    def carry(self, value: bool) -> None:
        """Set or clear the caller's CF."""
        self._flag(CF, value)

    def zero(self, value: bool) -> None:
        """Set or clear the caller's ZF."""
        self._flag(ZF, value)

    def done(self, ah: int = 0) -> None:
        """Answer with a status in AH: CF clear for 0, else set."""
        self.ah = ah
        self.carry(ah != 0)

    def go_on_at(self, label: str) -> None:
        """Go on at a label of the ROM instead of behind the OUT."""
        self.cpu.ip = build_rom().labels[label]

    # -- memory, by linear address -------------------------------------------------------------------------------------

    def address(self, segment: int, offset: int) -> int:
        """Return the linear address of an offset in a segment register."""
        return self.cpu.segments[segment].base + (offset & 0xFFFF) & 0xFFFFFFFF

    def load(self, linear: int, length: int) -> bytes:
        """Read bytes of the caller's memory; a fault is the caller's, at the OUT."""
        cpu, parts = self.cpu, []
        for place, count in _pieces(linear, length):
            physical = cpu.translate(place, write=False, user=cpu.cpl == 3)
            parts.append(self.load_physical(physical, count))
        return b"".join(parts)

    def store(self, linear: int, data: bytes) -> None:
        """Write bytes into the caller's memory; a fault is the caller's, at the OUT."""
        cpu, done = self.cpu, 0
        for place, count in _pieces(linear, len(data)):
            physical = cpu.translate(place, write=True, user=cpu.cpl == 3)
            self.store_physical(physical, data[done : done + count])
            done += count

    def load_physical(self, physical: int, length: int) -> bytes:
        """Read bytes within a page of physical memory."""
        bus = self.platform.bus
        if bus.is_ram(physical):
            return self.platform.memory.read_bytes(physical, length)
        return bytes(bus.read(physical + place, 1) for place in range(length))

    def store_physical(self, physical: int, data: bytes) -> None:
        """Write bytes within a page of physical memory."""
        bus = self.platform.bus
        if bus.is_ram(physical):
            self.platform.memory.write_bytes(physical, data)
            return
        for place, byte in enumerate(data):
            bus.write(physical + place, 1, byte)

    def get(self, offset: int, size: int = 1) -> int:
        """Read a field of the BIOS data area."""
        return self.cpu.read_system(BDA + offset, size)

    def put(self, offset: int, value: int, size: int = 1) -> None:
        """Write a field of the BIOS data area."""
        self.cpu.write_system(BDA + offset, size, value & (1 << 8 * size) - 1)

    # -- ports ---------------------------------------------------------------------------------------------------------

    def port_in(self, port: int) -> int:
        """Read a byte from a port."""
        return self.platform.bus.port_read(port, 1)

    def port_out(self, port: int, value: int) -> None:
        """Write a byte to a port."""
        assert port != PORT, "firmware does not call itself"
        self.platform.bus.port_write(port, 1, value)


def _pieces(linear: int, length: int) -> list[tuple[int, int]]:
    """Cut a run of linear addresses at the ends of pages: (address, length) of each piece."""
    pieces: list[tuple[int, int]] = []
    while length > 0:
        count = min(length, PAGE - (linear & PAGE - 1))
        pieces.append((linear, count))
        linear, length = linear + count & 0xFFFFFFFF, length - count
    return pieces
