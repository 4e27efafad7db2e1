"""A processor that executes: fetch, decode, the instruction's semantics, precise exceptions. The definition.

It is plain on purpose: one instruction at a time, by the one table of semantics. Two things make it quick and change
nothing: decoded instructions are kept with the physical page they came from, and pages that the TLB holds are found
through small dictionaries (`_readable`, `_writable`, `_code`) that are always a part of the TLB.

The physical CPU is a `Processor` on physical memory; a VCPU is one on guest-physical memory, so that to emulate an
instruction is to execute it here.

Read more: Intel SDM vol. 3, chapters 4 (paging), 5 (protection), 6 (interrupts and exceptions).
"""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.addresses import CANONICAL_TOP, is_canonical
from vmlab.isa.x86.decoder import MAXIMUM_LENGTH, InvalidOpcode, TooLong, Truncated, decode, is_coprocessor
from vmlab.isa.x86.disassembler import format_instruction
from vmlab.isa.x86.faults import GP, NM, Fault, undefined
from vmlab.isa.x86.registers import CR0_EM, CR0_TS, CS, DR6_SINGLE_STEP, DS, ES, IF, RF, SS, TF
from vmlab.machine.cpuid import Place, cpuid
from vmlab.machine.memory_access import LONG_MASK, MASK
from vmlab.machine.msrs import limits_cpuid, read_msr, write_msr
from vmlab.machine.state import COUNT, LONG, QUAD, WORD, Items, check_state, rollback
from vmlab.machine.svm.guest_mode import GuestMode
from vmlab.machine.uncounted import Uncounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics import Semantic
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.platform import Platform

__all__ = ["Decoded", "Processor"]

Decoded = tuple["Semantic", "Instruction", int]
MODE_KEYS = {32: 0, 16: 0x1000, 64: 0x2000}
"""Added to an offset in a page, the key of a decoded instruction: the same bytes mean others in another mode."""
COUNTERS = ("walk_references", "port_accesses", "delivered", "control_loads", "fast_calls", "priority_loads", "guest_entries")  # fmt: skip


class Processor(GuestMode):
    """A processor, its TLB, and the platform it sits on.

    Parameters
    ----------
    platform : Platform
        Bus, clock and interrupt controller.
    model : CpuModel
        What CPUID says and which features exist.
    number : int
        Which of the platform's processors this is.

    Attributes
    ----------
    retired : int
        Instructions completed; each element of a repeated string instruction counts.
    walk_references, port_accesses, delivered, control_loads, fast_calls, priority_loads, guest_entries : int
        Memory references of page walks, IN and OUT, events delivered, loads of CR0 to CR4, SYSENTER and its kin, loads of CR8, VM entries.
    flat_data : bool
        What `has_flat_data` was when an engine last looked.
    linked : bool
        True where an engine may go on into the handler of a trap, and back: nobody waits for it there.
    deadline : int or None
        That of the clock when `run` began.
    uncounted : Uncounted
        Instructions that `retired` leaves out.
    spy : callable or None
        Called with linear address, instruction and semantics when an instruction is decoded; returns what is executed.
    steps_late : bool
        True where the instruction just executed looks at TF only when it is done (SYSCALL, SYSRET).
    """

    __slots__ = (
        "_code", "_linear_code", "_mode", "deadline", "fetch_bits", "flat_data", "linked", "number",
        "port_accesses", "spy", "steps_late", "uncounted",
    )  # fmt: skip

    def __init__(self, platform: Platform, model: CpuModel, number: int = 0) -> None:
        self.number, self.port_accesses, self.uncounted = number, 0, Uncounted()
        self.flat_data = self.linked = self.steps_late = False
        self.deadline: int | None = None
        self.spy: Callable[[int, Instruction, Semantic], Semantic] | None = None
        super().__init__(platform, model, number)

    # -- what is derived from the state --------------------------------------------------------------------------------

    def code_changed(self) -> None:
        """Note a new CS or a new mode: privilege level and default operand size may be others."""
        super().code_changed()
        code, long_mode = self.segments[CS], self.long_mode
        self.system_mask = LONG_MASK if long_mode else MASK
        if self.code_64 != (long_mode and code.long):
            self._change_width()
        # Instructions are kept by linear address. In a flat segment that is EIP, and no limit need be looked at.
        self._linear_code: dict[int, dict[int, Decoded]] = self._maps[self.ring == 3][2]
        self._code = self._linear_code if code.flat_code else {}
        self.fetch_bits = 64 if self.code_64 else 32 if code.big else 16
        self._mode = MODE_KEYS[self.fetch_bits]
        self.horizon = 0  # ends the loop of run(), which holds on to these
        self.flags_changed()

    def ring_changed(self, ring: int) -> None:
        """Note a new CS that is a flat segment of 32 bits, as the old one, in the same mode: only the privilege is another.

        An engine need not stop for that, where it is `linked`.
        """
        self.ring = ring
        self._enter_ring()
        self._code = self._linear_code = self._maps[ring == 3][2]
        if not self.linked:
            self.horizon = 0
        self.flags_changed()

    def _change_width(self) -> None:
        """Enter or leave 64-bit mode, as CS says; on the way out upper halves are lost (SDM vol. 1, 3.4.1.1: undefined)."""
        self.code_64 = not self.code_64
        self.address_mask = LONG_MASK if self.code_64 else MASK
        for index in (ES, CS, SS, DS):
            self.segments[index].flatten(on=self.code_64)
        if not self.code_64:
            self.registers[:8] = [register & MASK for register in self.registers[:8]]
            self.ip &= MASK

    @property
    def code_pages(self) -> dict[int, dict[int, Any]]:
        """Instructions kept with their pages, by EIP >> 12: a part of the TLB; none where EIP is not a linear address."""
        return self._code

    @property
    def kept(self) -> Decoded | None:
        """The next instruction, if it is kept with a page that the TLB holds."""
        linear = self.linear_ip
        return self._linear_code.get(linear >> 12, {}).get(linear & 0xFFF | self._mode)

    def segment_changed(self) -> None:
        """Note a new data or stack segment."""
        if self.flat_data != self.has_flat_data:
            self.horizon = 0  # ends the loop of an engine, which may count on flat segments

    @property
    def has_flat_data(self) -> bool:
        """True where offsets in DS, ES and SS below `WIDE` are linear addresses that may be read and written."""
        extra, _, stack, data, *_ = self.segments
        return stack.wide and stack.big and data.wide and extra.wide

    def reset(self, signature: int = 0) -> None:
        """Set the state after power-on."""
        super().reset(signature or self.model.signature)
        self.debug_causes, self.injected = 0, None
        self.vmx.reset()
        self.svm.reset()
        self.choose_operation(non_root=False)

    # -- ports, model-specific registers, time ---------------------------------------------------------------------------

    def port_read(self, port: int, size: int) -> int:
        """IN."""
        self.port_accesses += 1
        self.platform.now(self.retired)
        if self.strict:
            self.look_at_port(port, size)
        value = self.bus.port_read(port, size)
        self.device_changed()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.port_accesses += 1
        self.platform.now(self.retired)
        if self.strict:
            self.look_at_port(port, size)
        self.bus.port_write(port, size, value)
        self.device_changed()

    def device_changed(self) -> None:
        """A device was touched: its interrupt line and its next deadline may be others."""
        if self.platform.clock.deadline != self.deadline:
            self.horizon = 0
        if self.attention or self.interrupts.output or self.signals.due:
            self.flags_changed()

    def read_msr(self, number: int) -> int:
        """RDMSR, as the table of `vmlab.machine.msrs` says."""
        return read_msr(self, number)

    def write_msr(self, number: int, value: int) -> None:
        """WRMSR."""
        write_msr(self, number, value)

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID, as the model says."""
        limited = limits_cpuid(self)
        place = Place(
            self.number, len(self.platform.local_apics), apic_enabled=self.interrupts.enabled, limited=limited
        )
        return cpuid(self.model, leaf, subleaf, place)

    # -- execution -------------------------------------------------------------------------------------------------------

    def fetch(self) -> Decoded:
        """Decode the instruction at CS:EIP; keep it with its page where it lies within one page of RAM."""
        linear, available = self.linear_ip, self._fetchable()
        if available <= 0:
            raise Fault(GP, 0)
        key = linear & 0xFFF | self._mode
        found = self.kept
        if found and found[2] <= available:
            return found
        user = self.cpl == 3
        physical = self.translate(linear, write=False, user=user, fetch=True)
        cache: dict[int, Decoded] = {}
        page = -1
        if self.bus.is_ram(physical):
            page = self.ram_address(physical) >> 12
            cache = self.ram.code_page(page)
            if not self.model.tlb.sees_all:
                self._linear_code[linear >> 12] = cache
            found = cache.get(key)
            if found and found[2] <= available:
                return found
        room = min(0x1000 - (linear & 0xFFF), available)
        raw = self.fetch_bytes(physical, room)
        try:
            instruction = decode(raw, self.fetch_bits)
            whole = True
        except Truncated:
            if room == available:  # the limit is looked at before the next page
                raise Fault(GP, 0) from None
            upper = self.translate(linear + room & self.address_mask, write=False, user=user, fetch=True)
            try:
                instruction = decode(raw + self.fetch_bytes(upper, available - room), self.fetch_bits)
            except InvalidOpcode:
                raise self._undefined(raw) from None
            except (TooLong, Truncated):
                raise Fault(GP, 0) from None
            whole = False
        except InvalidOpcode:
            raise self._undefined(raw) from None
        except TooLong:
            raise Fault(GP, 0) from None
        handler = self.uncounted.semantic_of(instruction, linear)
        handler = self.spy(linear, instruction, handler) if self.spy else handler
        decoded = (handler, instruction, instruction.length)
        if whole:
            cache[key] = decoded
            if page >= 0:
                self.ram.mark_code(page, linear & 0xFFF, instruction.length)
        return decoded

    def _undefined(self, code: bytes) -> Fault:
        """Return #UD; or #NM for an instruction of the x87 unit, where CR0.EM or CR0.TS says so (SDM vol. 3, 2.5)."""
        if self.cr0 & (CR0_EM | CR0_TS) and is_coprocessor(code, self.fetch_bits):
            return Fault(NM)
        return undefined()

    def _fetchable(self) -> int:
        """Return how many bytes, 15 at most, there are to fetch from CS:EIP within the limit, or in canonical addresses."""
        if not self.code_64:
            return min(self.segments[CS].limit - self.ip + 1, MAXIMUM_LENGTH)
        if self.ip < CANONICAL_TOP:
            return min(CANONICAL_TOP - self.ip, MAXIMUM_LENGTH)
        return MAXIMUM_LENGTH if is_canonical(self.ip) else 0

    @property
    def linear_ip(self) -> int:
        """Linear address of the next instruction."""
        return self.ip if self.code_64 else self.segments[CS].base + self.ip & MASK

    def disassemble(self, instruction: Instruction) -> str:
        """Return the text of the instruction at CS:EIP."""
        return format_instruction(instruction, self.linear_ip, bits=self.fetch_bits)

    def fetch_bytes(self, physical: int, count: int) -> bytes:
        """Read bytes of code from the bus."""
        if self.bus.is_ram(physical):
            return self.memory.read_bytes(physical, count)
        return bytes(self.bus.read(physical + n, 1) for n in range(count))

    def execute(self, decoded: Decoded | None = None) -> None:
        """Execute one instruction to its end, or raise `Fault` with the state as before it; where it is `decoded`, that one."""
        start = self.ip
        if not decoded and (cache := self._code.get(start >> 12)):
            decoded = cache.get(start & 0xFFF | self._mode)
        handler, instruction, length = decoded or self.fetch()
        self.ip = start + length & self.address_mask
        try:
            handler(self, instruction)
        except Fault as fault:
            self.ip = start if fault.ip is None else fault.ip
            raise
        self.retired += 1

    def step(self, decoded: Decoded | None = None) -> None:
        """Execute one instruction, as `execute` does, and note whether TF asks for a trap after it."""
        flags, delivered, controls = self.flags, self.delivered, self.vmx.primary
        self.debug_causes, self.steps_late = 0, False
        self.stop_before()
        self.execute(decoded)
        self.flags &= ~(flags & RF)  # it is for one instruction
        # A load of SS holds back the trap as it does interrupts (SDM vol. 3, 6.8.3); the shadow of STI, which comes
        # with a change of IF, does not. An instruction that entered a handler (INT n) has cleared TF on its way.
        stack_loaded = self.interrupt_shadow and not (flags ^ self.flags) & IF
        # For SYSCALL and SYSRET it is TF afterwards that counts.
        asked = (self.flags if self.steps_late else flags) & TF
        if asked and self.delivered == delivered and not stack_loaded:
            self.debug_causes |= DR6_SINGLE_STEP
        self.note_trap(controls)

    def run(self, until: int) -> None:
        """Execute instructions until `retired` reaches `until`, attention is needed, or a fault is raised.

        The same as `execute()` again and again; written out, since most of the time is spent here.
        """
        if self.attention:
            return
        self.horizon, self.deadline = until, self.platform.clock.deadline
        if not self.segments[CS].flat_code:
            self._run_segmented()
            return
        code, mode, mask = self._code, self._mode, self.address_mask
        while self.retired < self.horizon:
            start = self.ip
            try:
                handler, instruction, length = code[start >> 12][start & 0xFFF | mode]
            except KeyError:
                handler, instruction, length = self.fetch()
            self.ip = start + length & mask
            try:
                handler(self, instruction)
            except Fault as fault:
                self.ip = start if fault.ip is None else fault.ip
                raise
            self.retired += 1

    def _run_segmented(self) -> None:
        """Execute up to the horizon in a code segment with a base or a limit: real mode, mostly."""
        code, mode, base, limit = self._linear_code, self._mode, self.segments[CS].base, self.segments[CS].limit
        while self.retired < self.horizon:
            start = self.ip
            linear = base + start & MASK
            try:
                handler, instruction, length = code[linear >> 12][linear & 0xFFF | mode]
            except KeyError:
                handler, instruction, length = self.fetch()
            if start + length - 1 > limit:
                raise Fault(GP, 0)
            self.ip = start + length & MASK
            try:
                handler(self, instruction)
            except Fault as fault:
                self.ip = start if fault.ip is None else fault.ip
                raise
            self.retired += 1

    # -- saving ----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save state, TLB and counters as plain data."""
        return {
            "version": 6,
            "state": self.save_state(),
            "injected": None if self.injected is None else list(self.injected),
            "vmx": self.vmx.save(),
            "svm": self.svm.save(),
            "tlb": self.tlb.save(),
            "walk_caches": self.walk_caches and self.walk_caches.save(),
            "debug_causes": self.debug_causes,
            "signals": self.signals.save(),
            "user_spaces": list(self.user_spaces),
            "deliveries": list(self._deliveries),
            "counters": [getattr(self, name) for name in COUNTERS],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        lists = {"deliveries": Items(COUNT, 2), "counters": Items(COUNT, len(COUNTERS)), "user_spaces": Items(QUAD)}
        parts = {"state": dict, "tlb": dict, "signals": dict, "vmx": dict, "svm": dict, "debug_causes": WORD}
        parts |= {"injected": (Items(LONG, 3), NoneType), "walk_caches": dict if self.walk_caches else NoneType}
        check_state(state, "processor", parts | lists, version=6)
        with rollback(self):
            self.load_state(state["state"])
            self.signals.load(state["signals"])
            injected = state["injected"]
            self.injected = None if injected is None else (injected[0], injected[1], injected[2])
            self.svm.load(state["svm"])
            self.vmx.load(state["vmx"])
            self.tlb.load(state["tlb"])
            if self.walk_caches:
                self.walk_caches.load(state["walk_caches"])
        for name, value in zip(COUNTERS, state["counters"], strict=True):
            setattr(self, name, value)
        self._deliveries = state["deliveries"][0], state["deliveries"][1]
        self.debug_causes = state["debug_causes"]
        self._mode_changed()
        self.user_spaces = dict.fromkeys(state["user_spaces"])  # as saved, whatever runs now
