"""A processor that executes: fetch, decode, the instruction's semantics, precise exceptions. The definition.

It is plain on purpose: one instruction at a time, by the one table of semantics. Two things make it quick and change
nothing: decoded instructions are kept with the physical page they came from, and pages that the TLB holds are found
through small dictionaries (`_readable`, `_writable`, `_code`) that are always a part of the TLB.

The physical CPU is a `Processor` on physical memory; a VCPU is one on guest-physical memory, so that to emulate an
instruction is to execute it here.

Read more: Intel SDM vol. 3, chapters 4 (paging), 5 (protection), 6 (interrupts and exceptions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.decoder import InvalidOpcode, TooLong, Truncated, decode
from vmlab.isa.x86.descriptors import CODE, WRITE_OR_READ
from vmlab.isa.x86.disassembler import format_instruction
from vmlab.isa.x86.faults import DB, DF, GP, DoubleFault, Fault, TripleFault, escalate, undefined
from vmlab.isa.x86.faults import SS as STACK_FAULT
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CR0_WP, CR4_PGE, CR4_PSE, CS, IF, SS, TF
from vmlab.isa.x86.semantics import SEMANTICS, Semantic
from vmlab.isa.x86.semantics.interrupts import deliver
from vmlab.machine.cpu_state import CpuState
from vmlab.machine.memory import WRITTEN, PhysicalMemory
from vmlab.machine.paging import IA32, IA32_PSE, Translation, walk
from vmlab.machine.tlb import Tlb, TlbEntry

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.platform import Platform

__all__ = ["Processor"]

MASK = 0xFFFFFFFF
Decoded = tuple[Semantic, "Instruction", int]
DR6_SINGLE_STEP = 1 << 14
TSC_MSR = 0x10


class Processor(CpuState):
    """A processor, its TLB, and the platform it sits on.

    Parameters
    ----------
    platform : Platform
        Bus, clock and interrupt controller.
    model : CpuModel
        What CPUID says and which features exist.

    Attributes
    ----------
    retired : int
        Instructions completed; each element of a repeated string instruction counts.
    walk_references, port_accesses, delivered, control_loads : int
        Memory references of page walks, IN and OUT, exceptions and interrupts delivered, control-register loads.
    debug_pending : bool
        True where the instruction just executed asks for a single-step trap.
    attention : bool
        True where the next boundary needs more than the next instruction: an interrupt waits, or TF is set.
    """

    __slots__ = (
        "_code", "_maps", "_mode", "_readable", "_writable", "attention", "bus", "control_loads", "debug_pending", "delivered", "fetch_bits",
        "horizon", "memory", "model", "platform", "port_accesses", "tlb", "trace", "walk_references",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel) -> None:
        super().__init__()
        self.platform = platform
        self.bus = platform.bus
        self.memory = platform.memory
        self.model = model
        self.tlb = Tlb(model.tlb_entries)
        self.walk_references = self.port_accesses = self.delivered = self.control_loads = 0
        self.attention = False
        self.debug_pending = False
        self.horizon = 0
        self._forget()

    # -- what is derived from the state --------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Empty the dictionaries over the TLB, after a flush or a change of mode."""
        # Per privilege (supervisor, user): pages that may be read, written, executed without a look at the TLB.
        self._maps: tuple[Any, Any] = (({}, {}, {}), ({}, {}, {}))
        self.code_changed()

    def code_changed(self) -> None:
        """Note a new CS or a new mode: privilege level and default operand size may be others."""
        user = self.segments[CS].selector & 3 == 3 and bool(self.cr0 & CR0_PE)
        self._readable, self._writable, code = self._maps[user]
        # Instructions are kept by EIP, unchecked against a limit.
        # A code segment that is not flat has no such page, and goes through `fetch` each time.
        self._code = code if self.segments[CS].flat_code else {}
        self.fetch_bits = 32 if self.segments[CS].big else 16
        self._mode = 0 if self.fetch_bits == 32 else 0x1000
        self.horizon = 0  # ends the loop of run(), which holds on to these
        self.flags_changed()

    def flags_changed(self) -> None:
        """Note that IF or TF may have changed."""
        self.attention = bool(self.flags & TF) or self.platform.pic.output
        if self.attention:
            self.horizon = 0

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
        self.invalidate_page(linear)  # a page fault drops the page's translation (SDM vol. 3, 4.10.4.1)
        try:
            found = self.page_walk(linear, write=write, user=user)
        except Fault:
            self.cr2 = linear
            raise
        self.walk_references += len(found.steps)
        entry = TlbEntry(
            found.frame, found.writable, found.user, found.dirty, found.global_ and bool(self.cr4 & CR4_PGE)
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

    def _remember(self, page: int, frame: int, *, writable: bool, user: bool) -> None:
        """Enter a page that the TLB holds into the quick dictionaries, if RAM answers there."""
        if type(self.memory) is not PhysicalMemory or not self.bus.is_ram(frame):
            return
        for level in (0, 1) if user else (0,):
            readable, writables, _ = self._maps[level]
            readable[page] = frame
            if writable:
                writables[page] = frame

    def _drop_page(self, page: int) -> None:
        for maps in self._maps:
            for quick in maps:
                quick.pop(page, None)

    def invalidate_page(self, linear: int) -> None:
        """INVLPG."""
        self.tlb.drop(linear >> 12)
        self._drop_page(linear >> 12)

    def set_cr0(self, value: int) -> None:
        """Load CR0; a change of PE, PG or WP flushes all translations."""
        changed = (self.cr0 ^ value) & (CR0_PE | CR0_PG | CR0_WP)
        self.cr0 = value
        self.control_loads += 1
        if changed:
            self.tlb.flush()
            self._forget()

    def set_cr3(self, value: int) -> None:
        """Load CR3; flushes all but global translations."""
        self.cr3 = value
        self.control_loads += 1
        self.tlb.flush(keep_global=bool(self.cr4 & CR4_PGE))
        self._forget()

    def set_cr4(self, value: int) -> None:
        """Load CR4; #GP(0) for a bit that the model has not."""
        if value & ~self.model.cr4_mask:
            raise Fault(GP, 0)
        self.cr4 = value
        self.control_loads += 1
        self.tlb.flush()
        self._forget()

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
                return self.memory.view32[(frame | linear & 0xFFF) >> 2]
            if size == 1:
                return self.memory.data[frame | linear & 0xFFF]
            if linear & 0xFFF <= 0x1000 - size:
                return self.memory.read(frame | linear & 0xFFF, size)
        return self._read(linear, size, user=self.cpl == 3)

    def write(self, segment: int, offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `segment:offset` with the privilege of the running code."""
        linear = offset if self.segments[segment].flat_write else self._linear(segment, offset, size, write=True)
        frame = self._writable.get(linear >> 12)
        if frame is not None:
            memory = self.memory
            if size == 4 and not linear & 3:
                memory.view32[(frame | linear & 0xFFF) >> 2] = value
                if memory.pages[frame >> 12] != WRITTEN:
                    memory.touch(frame >> 12)
                return
            if linear & 0xFFF <= 0x1000 - size:
                memory.write(frame | linear & 0xFFF, size, value)
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
            self.translate(linear + size - 1 & MASK, write=write, user=user)

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
            self._device_changed()

    def read_system(self, linear: int, size: int) -> int:
        """Read a system structure (descriptor table, TSS) with supervisor privilege."""
        return self._read(linear, size, user=False)

    def write_system(self, linear: int, size: int, value: int) -> None:
        """Write a system structure with supervisor privilege."""
        self._write(linear, size, value, user=False)

    # -- ports, model-specific registers, time ---------------------------------------------------------------------------

    def port_read(self, port: int, size: int) -> int:
        """IN."""
        self.port_accesses += 1
        self.platform.now(self.retired)
        value = self.bus.port_read(port, size)
        self._device_changed()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.port_accesses += 1
        self.platform.now(self.retired)
        self.bus.port_write(port, size, value)
        self._device_changed()

    def _device_changed(self) -> None:
        """A device was touched: its interrupt line and its next deadline may be others."""
        self.flags_changed()
        self.horizon = 0  # ends the inner loop of run(), which then looks at the clock again

    def read_msr(self, number: int) -> int:
        """RDMSR: the time-stamp counter alone."""
        if number != TSC_MSR:
            raise Fault(GP, 0)
        return self.time_stamp()

    def write_msr(self, number: int, value: int) -> None:
        """WRMSR: the time-stamp counter alone."""
        if number != TSC_MSR:
            raise Fault(GP, 0)
        self.platform.now(self.retired)
        self.msrs[TSC_MSR] = value - self.platform.clock.now & (1 << 64) - 1

    def time_stamp(self) -> int:
        """Return the time-stamp counter: virtual time, so that a guest reads the same under every hypervisor."""
        self.platform.now(self.retired)
        return self.platform.clock.now + self.msrs.get(TSC_MSR, 0) & (1 << 64) - 1

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID, as the model says."""
        return self.model.cpuid(leaf, subleaf)

    def wake_on_interrupt(self) -> None:
        """HLT."""
        self.halted = True
        self.horizon = 0

    # -- execution -------------------------------------------------------------------------------------------------------

    def fetch(self) -> Decoded:
        """Decode the instruction at CS:EIP; keep it with its page where it lies within one page of RAM."""
        code, start = self.segments[CS], self.ip
        linear = code.base + start & MASK
        user = self.cpl == 3
        available = min(code.limit - start + 1, 15)
        if available <= 0:
            raise Fault(GP, 0)
        physical = self.translate(linear, write=False, user=user)
        room = min(0x1000 - (linear & 0xFFF), available)
        raw = self.fetch_bytes(physical, room)
        try:
            instruction = decode(raw, self.fetch_bits)
            whole = True
        except Truncated:
            if room == available:  # the limit is looked at before the next page
                raise Fault(GP, 0) from None
            upper = self.translate(linear + room & MASK, write=False, user=user)
            try:
                instruction = decode(raw + self.fetch_bytes(upper, available - room), self.fetch_bits)
            except InvalidOpcode:
                raise undefined() from None
            except (TooLong, Truncated):
                raise Fault(GP, 0) from None
            whole = False
        except InvalidOpcode:
            raise undefined() from None
        except TooLong:
            raise Fault(GP, 0) from None
        decoded = (SEMANTICS[instruction.mnemonic], instruction, instruction.length)
        memory = self.memory
        if whole and code.flat_code and type(memory) is PhysicalMemory and self.bus.is_ram(physical):
            cache = memory.code_page(physical >> 12)
            cache[start & 0xFFF | self._mode] = decoded
            self._code[start >> 12] = cache
        return decoded

    @property
    def linear_ip(self) -> int:
        """Linear address of the next instruction."""
        return self.segments[CS].base + self.ip & MASK

    def disassemble(self, instruction: Instruction) -> str:
        """Return the text of the instruction at CS:EIP."""
        return format_instruction(instruction, self.linear_ip)

    def fetch_bytes(self, physical: int, count: int) -> bytes:
        """Read bytes of code from the bus."""
        if self.bus.is_ram(physical):
            return self.memory.read_bytes(physical, count)
        return bytes(self.bus.read(physical + n, 1) for n in range(count))

    def execute(self) -> None:
        """Execute one instruction to its end, or raise `Fault` with the state as before it."""
        start = self.ip
        cache = self._code.get(start >> 12)
        decoded = cache.get(start & 0xFFF | self._mode) if cache else None
        handler, instruction, length = decoded or self.fetch()
        self.ip = start + length & MASK
        try:
            handler(self, instruction)
        except Fault:
            self.ip = start
            raise
        self.retired += 1

    def step(self) -> None:
        """Execute one instruction, and note whether TF asks for a trap after it."""
        flags, delivered = self.flags, self.delivered
        self.execute()
        # A load of SS holds back the trap as it does interrupts (SDM vol. 3, 6.8.3); the shadow of STI, which comes
        # with a change of IF, does not. An instruction that entered a handler (INT n) has cleared TF on its way.
        stack_loaded = self.interrupt_shadow and not (flags ^ self.flags) & IF
        self.debug_pending = bool(flags & TF) and self.delivered == delivered and not stack_loaded

    def run(self, until: int) -> None:
        """Execute instructions until `retired` reaches `until`, attention is needed, or a fault is raised.

        The same as `execute()` again and again; written out, since most of the time is spent here.
        """
        if self.attention:
            return
        self.horizon = until
        code, mode = self._code, self._mode
        while self.retired < self.horizon:
            start = self.ip
            try:
                handler, instruction, length = code[start >> 12][start & 0xFFF | mode]
            except KeyError:
                handler, instruction, length = self.fetch()
            self.ip = start + length & MASK
            try:
                handler(self, instruction)
            except Fault:
                self.ip = start
                raise
            self.retired += 1

    # -- exceptions and interrupts ---------------------------------------------------------------------------------------

    def take(self, fault: Fault) -> None:
        """Deliver an exception, escalating to a double and a triple fault (SDM vol. 3, 6.15).

        Raises
        ------
        TripleFault
            The processor shuts down.
        """
        self._deliver(fault.vector, fault.error_code)

    def interrupt(self, vector: int) -> None:
        """Deliver an external interrupt."""
        self.halted = False
        self._deliver(vector, None, external=True)

    def single_step(self) -> None:
        """Deliver the single-step trap that TF asks for after an instruction; it wakes a halted processor."""
        self.debug_pending = self.halted = False
        self.debug[6] |= DR6_SINGLE_STEP
        self._deliver(DB, None)

    def _deliver(self, vector: int, error_code: int | None, *, external: bool = False) -> None:
        try:
            fault = not external and vector not in (DB, DF)
            deliver(self, vector, error_code, fault=fault)
        except Fault as second:
            if vector == DF:
                raise TripleFault from None
            first_is_exception = vector < 32 and not external
            if first_is_exception and escalate(vector, second.vector):
                self._deliver(DF, DoubleFault().error_code)
            else:
                self._deliver(second.vector, second.error_code)

    @property
    def interruptible(self) -> bool:
        """True where an external interrupt would be taken at this boundary."""
        return bool(self.flags & IF) and not self.interrupt_shadow

    # -- saving ----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save state, TLB and counters as plain data."""
        return {
            "version": 1,
            "state": self.save_state(),
            "tlb": self.tlb.save(),
            "debug_pending": self.debug_pending,
            "counters": [self.walk_references, self.port_accesses, self.delivered, self.control_loads],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        self.load_state(state["state"])
        self.tlb.load(state["tlb"])
        self.walk_references, self.port_accesses, self.delivered, self.control_loads = state["counters"]
        self.debug_pending = state["debug_pending"]
        self._forget()
