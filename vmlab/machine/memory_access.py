"""How a processor reaches memory: segmentation, access rights, pages that an access spans.

A page that may be read or written without a look at the TLB is found in one of the dictionaries of
`vmlab.machine.address_translation`. Everything else takes the long way: checks, TLB, page walk, bus.

Read more: Intel SDM vol. 3, 3.4 (segments), 5.3 to 5.5 (limits and types).
"""

from __future__ import annotations

from vmlab.isa.x86.addresses import check_canonical
from vmlab.isa.x86.descriptors import CODE, WRITE_OR_READ
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.registers import CR0_PE, SS
from vmlab.machine.access_checks import AccessChecks
from vmlab.machine.memory import WRITTEN

__all__ = ["MASK", "MemoryAccess"]

MASK, LONG_MASK = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


class MemoryAccess(AccessChecks):
    """The part of a processor that reads and writes memory."""

    __slots__ = ()

    def _linear(self, segment: int, offset: int, size: int, *, write: bool) -> int:
        """Return the linear address of `segment:offset`, after the checks of type and limit."""
        register = self.segments[segment]
        if self.code_64:  # no limits, no types; whether the address is canonical is looked at where no page is found
            return offset if register.flattened else register.base + offset & LONG_MASK
        access = register.access
        if not access & 0x80:
            raise Fault(STACK_FAULT if segment == SS else GP, 0)
        if self.cr0 & CR0_PE:
            if write:
                allowed = not access & CODE and access & WRITE_OR_READ
            else:
                allowed = not access & CODE or access & WRITE_OR_READ
            if not allowed:
                raise Fault(GP, 0)
        if not register.in_bounds(offset, size):
            raise Fault(STACK_FAULT if segment == SS else GP, 0)
        return register.base + offset & MASK

    def read(self, segment: int, offset: int, size: int) -> int:
        """Read `size` bytes at `segment:offset` with the privilege of the running code."""
        linear = offset if self.segments[segment].flat_read else self._linear(segment, offset, size, write=False)
        frame = self._readable.get(linear >> 12)
        if frame is not None:
            if size == 4 and not linear & 3:
                return self.ram.view32[(frame | linear & 0xFFF) >> 2]
            if size == 1:
                return self.ram.data[frame | linear & 0xFFF]
            if size == 8 and not linear & 7:
                return self.ram.view64[(frame | linear & 0xFFF) >> 3]
            if linear & 0xFFF <= 0x1000 - size:
                return self.ram.read(frame | linear & 0xFFF, size)
        if self.code_64:
            check_canonical(segment, linear, size)
        return self._read(linear, size, user=self.cpl == 3)

    def write(self, segment: int, offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `segment:offset` with the privilege of the running code."""
        linear = offset if self.segments[segment].flat_write else self._linear(segment, offset, size, write=True)
        frame = self._writable.get(linear >> 12)
        if frame is not None:
            ram = self.ram
            if size == 4 and not linear & 3:
                ram.view32[(frame | linear & 0xFFF) >> 2] = value
                if ram.pages[frame >> 12] != WRITTEN:
                    ram.touch(frame >> 12, linear & 0xFFF, 4)
                return
            if size == 8 and not linear & 7:
                ram.view64[(frame | linear & 0xFFF) >> 3] = value
                if ram.pages[frame >> 12] != WRITTEN:
                    ram.touch(frame >> 12, linear & 0xFFF, 8)
                return
            if linear & 0xFFF <= 0x1000 - size:
                ram.write(frame | linear & 0xFFF, size, value)
                return
        if self.code_64:
            check_canonical(segment, linear, size)
        self._write(linear, size, value, user=self.cpl == 3)

    def modify(self, segment: int, offset: int, size: int) -> int:
        """Read a value that will be written back: faults as the write would."""
        linear = offset if self.segments[segment].flat_write else self._linear(segment, offset, size, write=True)
        frame = self._writable.get(linear >> 12)
        if frame is None or linear & 0xFFF > 0x1000 - size:
            self.check(segment, offset, size, write=True)
        return self.read(segment, offset, size)

    def check(self, segment: int, offset: int, size: int, *, write: bool) -> None:
        """Fault as an access of `size` bytes at `segment:offset` would, without it."""
        linear = self._linear(segment, offset, size, write=write)
        if self.code_64:
            check_canonical(segment, linear, size)
        self._touchable(linear, size, write=write, user=self.cpl == 3)

    def place(self, segment: int, offset: int, size: int, *, write: bool) -> int | None:
        """Return where in `ram` bytes of one page lie that are reached without a look at the TLB; None for others."""
        register = self.segments[segment]
        linear = offset
        if not (register.flat_write if write else register.flat_read):
            try:
                linear = self._linear(segment, offset, size, write=write)
            except Fault:
                return None
        frame = (self._writable if write else self._readable).get(linear >> 12)
        return None if frame is None else frame | linear & 0xFFF

    def write_linear(self, linear: int, size: int, value: int, *, user: bool) -> None:
        """Write to a linear address with supervisor or user privilege."""
        self._write(linear, size, value, user=user)

    def _touchable(self, linear: int, size: int, *, write: bool, user: bool) -> None:
        self.translate(linear, write=write, user=user)
        if (linear & 0xFFF) + size > 0x1000:
            self.translate(self._next_page(linear), write=write, user=user)

    def _next_page(self, linear: int) -> int:
        """Return where the next page begins; outside of 64-bit mode the first follows the last below 4 GiB."""
        return (linear | 0xFFF) + 1 & (self.address_mask if linear <= MASK else LONG_MASK)

    def _read(self, linear: int, size: int, *, user: bool, implicit: bool = False) -> int:
        room = 0x1000 - (linear & 0xFFF)
        physical = self.translate(linear, write=False, user=user, implicit=implicit)
        upper = 0
        if size > room:
            upper = self.translate(self._next_page(linear), write=False, user=user, implicit=implicit)
        if self.strict and not implicit:
            self.look_at_data(linear, size, write=False)
        if size <= room:
            return self._bus_read(physical, size)
        parts = [self._bus_read(physical + n if n < room else upper + n - room, 1) for n in range(size)]
        return int.from_bytes(bytes(parts), "little")

    def _write(self, linear: int, size: int, value: int, *, user: bool, implicit: bool = False) -> None:
        room = 0x1000 - (linear & 0xFFF)
        physical = self.translate(linear, write=True, user=user, implicit=implicit)
        upper = 0
        if size > room:
            upper = self.translate(self._next_page(linear), write=True, user=user, implicit=implicit)
        if self.strict and not implicit:
            self.look_at_data(linear, size, write=True)
        if size <= room:
            self._bus_write(physical, size, value)
            return
        for n, byte in enumerate(value.to_bytes(size, "little")):
            self._bus_write(physical + n if n < room else upper + n - room, 1, byte)

    def _bus_read(self, physical: int, size: int) -> int:
        self.platform.now(self.retired)
        if physical & -0x1000 == self.apic_page:
            return self.read_virtual_apic(physical & 0xFFF, size)
        return self.bus.read(physical, size)

    def _bus_write(self, physical: int, size: int, value: int) -> None:
        self.platform.now(self.retired)
        if physical & -0x1000 == self.apic_page:
            self.write_virtual_apic(physical & 0xFFF, size, value)
            return
        self.bus.write(physical, size, value)
        if not self.bus.is_ram(physical):
            self.device_changed()

    def read_system(self, linear: int, size: int) -> int:
        """Read a system structure (descriptor table, TSS) with supervisor privilege."""
        linear &= self.system_mask
        frame = self._maps[0][0].get(linear >> 12)
        if frame is not None and linear & 0xFFF <= 0x1000 - size:
            return self.ram.read(frame | linear & 0xFFF, size)
        return self._read(linear, size, user=False, implicit=True)

    def write_system(self, linear: int, size: int, value: int) -> None:
        """Write a system structure with supervisor privilege."""
        linear &= self.system_mask
        frame = self._maps[0][1].get(linear >> 12)
        if frame is not None and linear & 0xFFF <= 0x1000 - size:
            self.ram.write(frame | linear & 0xFFF, size, value)
            return
        self._write(linear, size, value, user=False, implicit=True)

    def read_virtual_apic(self, offset: int, size: int) -> int:
        """Read a register of a guest's local APIC, in `vmlab.machine.vmx.non_root`."""
        raise NotImplementedError

    def write_virtual_apic(self, offset: int, size: int, value: int) -> None:
        """Write one."""
        raise NotImplementedError

    def device_changed(self) -> None:
        """A device was touched: its interrupt line and its next deadline may be others."""
        self.horizon = 0
