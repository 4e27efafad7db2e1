"""How a processor reaches memory: segmentation, translation through the TLB, access rights, pages that an access spans.

Quick and exact: a page that the TLB holds with sufficient rights, and that RAM answers for, is found in one of a few
dictionaries (`_readable`, `_writable`, and `_code` of the processor), which are always a part of the TLB. Everything
else takes the long way: checks, TLB, page walk, bus.

Read more: Intel SDM vol. 3, 3.4 (segments), chapter 4 (paging), 5.3 to 5.5 (limits and types).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.descriptors import CODE, WRITE_OR_READ
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CR0_WP, CR4_PGE, CR4_PSE, CS, SS
from vmlab.machine.cpu_state import CpuState
from vmlab.machine.memory import CODE as PAGE_OF_CODE
from vmlab.machine.memory import WRITTEN, MemoryWindow
from vmlab.machine.paging import IA32, IA32_PSE, Translation, walk
from vmlab.machine.tlb import Tlb, TlbEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.platform import Platform

__all__ = ["MASK", "MemoryAccess"]

MASK = 0xFFFFFFFF
Maps = tuple[dict[int, int], dict[int, int], dict[int, Any]]
Quick = tuple[dict[int, int], dict[int, int], set[int]]
LINE = 0x100
LAST_PAGE = 0xFFFFF


class MemoryAccess(CpuState):
    """The part of a processor that reads and writes memory.

    Parameters
    ----------
    platform : Platform
        Bus, clock and memory.
    model : CpuModel
        Size of the TLB, bits of CR4.

    Attributes
    ----------
    ram : PhysicalMemory
        The host memory that holds this processor's RAM: its own, or that behind a guest's window.
    tlb : Tlb
        Cached translations.
    walk_references, control_loads : int
        Memory references of page walks; loads of control registers.
    on_control : callable or None
        Called with the name, the old and the new value when CR0, CR3 or CR4 changes.
    user_spaces : dict
        Values of CR3 under which code has run in ring 3, in order of their first time; the values are None.
    horizon : int
        Count of retired instructions at which the loop of `Processor.run` ends; 0 ends it at once.
    """

    __slots__ = (
        "_maps", "_quick", "_readable", "_window", "_writable", "bus", "control_loads", "horizon", "memory", "model",
        "on_control", "platform", "quick_read", "quick_write", "ram", "tlb", "user_spaces", "walk_references",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel) -> None:
        super().__init__()
        self.platform = platform
        self.bus = platform.bus
        self.memory = platform.memory
        self._window = self.memory if isinstance(self.memory, MemoryWindow) else None
        self.ram = self.memory.host if isinstance(self.memory, MemoryWindow) else self.memory
        self.model = model
        self.tlb = Tlb(model.tlb_entries)
        self.walk_references = self.control_loads = 0
        self.horizon = 0
        self.user_spaces: dict[int, None] = {}
        self.on_control: Callable[[str, int, int], None] | None = None
        # The same once more for translated code, per privilege: reads, writes, pages entered. See `quicken`.
        self._quick: tuple[Quick, Quick] = (({}, {}, set()), ({}, {}, set()))
        self.ram.quick_maps += [self._quick[0][1], self._quick[1][1]]
        self._forget()

    # -- the dictionaries over the TLB ---------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Empty the dictionaries over the TLB, after a flush or a change of mode."""
        # Per privilege (supervisor, user): pages that may be read, written, executed without a look at the TLB.
        # The first two lead to an address in `ram`, the third to instructions kept with the page.
        self._maps: tuple[Maps, Maps] = (({}, {}, {}), ({}, {}, {}))
        for quick in self._quick:
            for each in quick:
                each.clear()
        self.code_changed()

    def code_changed(self) -> None:
        """Note a new CS or a new mode: the privilege level may be another."""
        user = self.segments[CS].selector & 3 == 3 and bool(self.cr0 & CR0_PE)
        if user and self.cr3 not in self.user_spaces:
            self.user_spaces[self.cr3] = None
        self._readable: dict[int, int] = self._maps[user][0]
        self._writable: dict[int, int] = self._maps[user][1]
        self.quick_read, self.quick_write, _ = self._quick[user]

    def _remember(self, page: int, frame: int, *, writable: bool, user: bool) -> None:
        """Enter a page that the TLB holds into the dictionaries, if RAM answers there."""
        if not self.bus.is_ram(frame):
            return
        place = self.ram_address(frame)
        for level in (0, 1) if user else (0,):
            readable, writables, _ = self._maps[level]
            readable[page] = place
            if writable:
                writables[page] = place

    def ram_address(self, physical: int) -> int:
        """Return where in `ram` a physical address lies."""
        return self._window.host_address(physical) if self._window else physical

    def _drop_page(self, page: int) -> None:
        for maps in self._maps:
            for each in maps:
                each.pop(page, None)
        for readable, writable, entered in self._quick:
            if page in entered:
                entered.remove(page)
                readable.pop(page << 12, None)
                for line in range(page << 12, (page + 1) << 12, LINE):
                    writable.pop(line, None)

    def readable_place(self, page: int) -> int | None:
        """Return where in `ram` a page begins that may be read without a look at the TLB."""
        return self._readable.get(page)

    def writable_place(self, page: int) -> int | None:
        """Return where in `ram` a page begins that may be written without a look at the TLB."""
        return self._writable.get(page)

    def quicken(self, linear: int) -> bool:
        """Enter the page of an address into `quick_read` and `quick_write`; say whether that brought anything new.

        They lead from the linear address of a page, or of a line of 256 bytes, to what is to be added for the place in
        `ram`, and are always a part of the dictionaries over the TLB. Only lines are entered for writing of which nobody
        wants to know: no code, nothing watched, written since the last checkpoint. The last page is never entered, so
        that addresses in an entered page do not wrap around.
        """
        page = linear >> 12
        if page == LAST_PAGE:
            return False
        base, ram = page << 12, self.ram
        readable, writable, entered = self._quick[self.cpl == 3]
        news = False
        place = self._readable.get(page)
        if place is not None and base not in readable:
            readable[base] = place - base
            news = True
        place = self._writable.get(page)
        if place is not None and linear & -LINE not in writable and ram.pages[place >> 12] & ~PAGE_OF_CODE == WRITTEN:
            for line in range(0, 0x1000, LINE):
                if not ram.is_code(place >> 12, line, LINE):
                    writable[base + line] = place - base
            ram.quick_pages.add(place >> 12)
            news = news or linear & -LINE in writable
        entered.add(page)
        return news

    def forget_translations(self) -> None:
        """Empty the TLB without counting a flush: for a VCPU, whose TLB must not outlive an exit."""
        self.tlb.entries.clear()
        self._forget()

    # -- translation -----------------------------------------------------------------------------------------------------

    def translate(self, linear: int, *, write: bool, user: bool) -> int:
        """Return the physical address of a linear one; #PF where the tables or the rights say no.

        The TLB is believed where it holds the page with sufficient rights; otherwise the tables are walked.
        """
        if not self.cr0 & CR0_PG:
            self._remember(linear >> 12, linear & ~0xFFF, writable=True, user=True)
            return linear
        page = linear >> 12
        entry = self.tlb.entries.get(page)
        if entry is None or not self._permits(entry, write=write, user=user):
            entry = self._walk(linear, write=write, user=user)
        self._remember(page, entry.frame, writable=entry.writable and entry.dirty, user=entry.user)
        return entry.frame | linear & 0xFFF

    def _permits(self, entry: TlbEntry, *, write: bool, user: bool) -> bool:
        if user and not entry.user:
            return False
        if not write:
            return True
        return entry.dirty and (entry.writable or (not user and not self.cr0 & CR0_WP))

    def _walk(self, linear: int, *, write: bool, user: bool) -> TlbEntry:
        self.tlb.misses += 1
        self.tlb.drop(linear >> 12)  # a page fault drops the page's translation (SDM vol. 3, 4.10.4.1)
        self._drop_page(linear >> 12)
        try:
            found = self.page_walk(linear, write=write, user=user)
        except Fault:
            self.cr2 = linear
            raise
        self.walk_references += len(found.steps)
        entry = TlbEntry(
            found.frame,
            found.writable,
            found.user,
            found.dirty,
            found.global_ and bool(self.cr4 & CR4_PGE),
            found.page_size > 0x1000,
        )
        victim = self.tlb.insert(linear >> 12, entry)
        if victim is not None:
            self._drop_page(victim)
        return entry

    def page_walk(self, linear: int, *, write: bool, user: bool, mark: bool = True) -> Translation:
        """Walk the tables for a linear address; `mark` sets the accessed and dirty bits as the processor does."""
        return walk(
            IA32_PSE if self.cr4 & CR4_PSE else IA32,
            self.cr3,
            linear,
            self.bus.read,
            self.bus.write if mark else None,
            is_write=write,
            is_user=user,
            write_protect=bool(self.cr0 & CR0_WP),
        )

    def invalidate_page(self, linear: int) -> None:
        """INVLPG."""
        for page in {linear >> 12, *self.tlb.parts(linear >> 12)}:
            self.tlb.drop(page)
            self._drop_page(page)

    def set_cr0(self, value: int) -> None:
        """Load CR0; a change of PE, PG or WP flushes all translations."""
        changed = (self.cr0 ^ value) & (CR0_PE | CR0_PG | CR0_WP)
        self._control_loads("cr0", value)
        if changed:
            self.tlb.flush()
            self._forget()

    def set_cr3(self, value: int) -> None:
        """Load CR3; flushes all but global translations."""
        self._control_loads("cr3", value)
        self.tlb.flush(keep_global=bool(self.cr4 & CR4_PGE))
        self._forget()

    def set_cr4(self, value: int) -> None:
        """Load CR4; #GP(0) for a bit that the model has not."""
        if value & ~self.model.cr4_mask:
            raise Fault(GP, 0)
        self._control_loads("cr4", value)
        self.tlb.flush()
        self._forget()

    def _control_loads(self, name: str, value: int) -> None:
        """Load a control register, count it, and tell who watches."""
        old = getattr(self, name)
        setattr(self, name, value)
        self.control_loads += 1
        if self.on_control and old != value:
            self.on_control(name, old, value)

    # -- memory ----------------------------------------------------------------------------------------------------------

    def _linear(self, segment: int, offset: int, size: int, *, write: bool) -> int:
        """Return the linear address of `segment:offset`, after the checks of type and limit."""
        register = self.segments[segment]
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
            if linear & 0xFFF <= 0x1000 - size:
                return self.ram.read(frame | linear & 0xFFF, size)
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
            if linear & 0xFFF <= 0x1000 - size:
                ram.write(frame | linear & 0xFFF, size, value)
                return
        self._write(linear, size, value, user=self.cpl == 3)

    def modify(self, segment: int, offset: int, size: int) -> int:
        """Read a value that will be written back: faults as the write would."""
        linear = offset if self.segments[segment].flat_write else self._linear(segment, offset, size, write=True)
        frame = self._writable.get(linear >> 12)
        if frame is None or linear & 0xFFF > 0x1000 - size:
            self._touchable(linear, size, write=True, user=self.cpl == 3)
        return self.read(segment, offset, size)

    def check(self, segment: int, offset: int, size: int, *, write: bool) -> None:
        """Fault as an access of `size` bytes at `segment:offset` would, without it."""
        linear = self._linear(segment, offset, size, write=write)
        self._touchable(linear, size, write=write, user=self.cpl == 3)

    def _touchable(self, linear: int, size: int, *, write: bool, user: bool) -> None:
        self.translate(linear, write=write, user=user)
        if (linear & 0xFFF) + size > 0x1000:
            self.translate((linear | 0xFFF) + 1 & MASK, write=write, user=user)

    def _read(self, linear: int, size: int, *, user: bool) -> int:
        room = 0x1000 - (linear & 0xFFF)
        physical = self.translate(linear, write=False, user=user)
        if size <= room:
            return self._bus_read(physical, size)
        upper = self.translate(linear + room & MASK, write=False, user=user)
        parts = [self._bus_read(physical + n if n < room else upper + n - room, 1) for n in range(size)]
        return int.from_bytes(bytes(parts), "little")

    def _write(self, linear: int, size: int, value: int, *, user: bool) -> None:
        room = 0x1000 - (linear & 0xFFF)
        physical = self.translate(linear, write=True, user=user)
        if size <= room:
            self._bus_write(physical, size, value)
            return
        upper = self.translate(linear + room & MASK, write=True, user=user)
        for n, byte in enumerate(value.to_bytes(size, "little")):
            self._bus_write(physical + n if n < room else upper + n - room, 1, byte)

    def _bus_read(self, physical: int, size: int) -> int:
        self.platform.now(self.retired)
        return self.bus.read(physical, size)

    def _bus_write(self, physical: int, size: int, value: int) -> None:
        self.platform.now(self.retired)
        self.bus.write(physical, size, value)
        if not self.bus.is_ram(physical):
            self.device_changed()

    def read_system(self, linear: int, size: int) -> int:
        """Read a system structure (descriptor table, TSS) with supervisor privilege."""
        frame = self._maps[0][0].get(linear >> 12)
        if frame is not None and linear & 0xFFF <= 0x1000 - size:
            return self.ram.read(frame | linear & 0xFFF, size)
        return self._read(linear, size, user=False)

    def write_system(self, linear: int, size: int, value: int) -> None:
        """Write a system structure with supervisor privilege."""
        frame = self._maps[0][1].get(linear >> 12)
        if frame is not None and linear & 0xFFF <= 0x1000 - size:
            self.ram.write(frame | linear & 0xFFF, size, value)
            return
        self._write(linear, size, value, user=False)

    def device_changed(self) -> None:
        """A device was touched: its interrupt line and its next deadline may be others."""
        self.horizon = 0
