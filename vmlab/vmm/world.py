"""The world switch: from a guest to the hypervisor and back (textbook 18.4.1, the VCPU).

`World` is what the hypervisor keeps for one guest beside the VCPU: its shadow page tables and shadow descriptors.
`WorldSwitch` moves between the real processor and a VCPU. On the way in, the hardware has pushed the frame of the
trap on the ring-0 stack; on the way out, a frame is built there and IRET executed, as any kernel does.

The guest's EFLAGS are split: IF, IOPL and the other system flags are the VCPU's alone, and the real IF stays 1 with
the real IOPL 0, so that the hypervisor can always interrupt the guest and CLI, STI, IN and OUT trap.

A guest's real mode and virtual-8086 mode run in the processor's virtual-8086 mode.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.decoder import decode
from vmlab.isa.x86.faults import WITH_ERROR_CODE, Fault
from vmlab.isa.x86.operands import Memory
from vmlab.isa.x86.registers import (
    AC,
    ARITHMETIC,
    CR0_AM,
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PGE,
    CR4_TSD,
    CR4_UMIP,
    CS,
    DF,
    DR6_BREAKPOINTS,
    DR6_SINGLE_STEP,
    DR7_GD,
    DS,
    ES,
    ESP,
    FIXED,
    FS,
    GS,
    ID,
    IF,
    NT,
    RF,
    SS,
    TF,
    VM,
)  # fmt: skip
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.isa.x86.semantics.segments import fill, has_real_segments, load_segment
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.state import COUNT, LONG, WORD, Items, check_state, rollback
from vmlab.vmm.host_memory import ENTRY_BYTES, TSS_BYTES, HostMemory, host_bytes
from vmlab.vmm.shadow_descriptors import HOST_CODE, HOST_STACK, HOST_TASK, ShadowDescriptors, hidden
from vmlab.vmm.shadow_paging import ShadowPaging

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.machine import Machine
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor

__all__ = ["World", "WorldSwitch"]

DIRECT_FLAGS = ARITHMETIC | TF | DF | NT | AC | ID
"""Flags that the guest changes in the real EFLAGS: those that POPF changes in any ring."""

DATA_SEGMENTS = (ES, DS, FS, GS)
IRET = decode(b"\xcf")
FRAME_BYTES, UPPER = 20, 0xFFFF0000  # of a frame with SS and ESP; of a register


def runs_as_virtual_8086(vcpu: Processor) -> bool:
    """Say whether the guest's code runs in the real virtual-8086 mode.

    Code of virtual-8086 mode does, and code of real mode, for which it was made: segment registers hold what the guest put
    there, and with IOPL 0 whatever touches IF traps. It cannot where real mode has segments of protected mode's making.
    """
    if vcpu.flags & VM:
        return True
    if vcpu.cr0 & CR0_PE:
        return False
    return all(
        register.base == register.selector << 4 and register.limit == 0xFFFF and not register.big
        for register in vcpu.segments
    )


class World:
    """Shadow structures of one guest.

    Attributes
    ----------
    shadow : ShadowPaging
        Its shadow page tables.
    descriptors : ShadowDescriptors
        Its shadow GDTs.
    loaded : list of int
        Real selectors given to the real segment registers at the last resume.
    """

    def __init__(self, host: HostMemory, vcpu: Processor, memory: MemoryWindow) -> None:
        self._host = host
        self.vcpu = vcpu
        self.memory = memory
        self.shadow = ShadowPaging(host, vcpu, memory)
        self.descriptors = ShadowDescriptors(host)
        self.loaded = [0] * 6
        self._shadowed: tuple[int, ...] = ()
        self._stale = True
        self._flushes_seen = 0

    def after_emulation(self, instruction: Instruction) -> None:
        """Follow what an emulated instruction did to translation."""
        flushes = self.vcpu.tlb.flushes
        if flushes != self._flushes_seen:
            self._flushes_seen = flushes
            self.shadow.flush()
            self._stale = True
        elif instruction.mnemonic == "invlpg":
            operand = instruction.operands[0]
            assert isinstance(operand, Memory)
            self.shadow.drop(self.vcpu.segments[operand.segment].base + operand.offset(self.vcpu) & 0xFFFFFFFF)
            self._stale = True

    # -- the guest's descriptor table ------------------------------------------------------------------------------------

    def _table_key(self) -> tuple[int, ...]:
        """Return what the shadow descriptors depend on, beside the table's contents."""
        vcpu = self.vcpu
        # In real mode a selector names no descriptor: no load may go on without a trap.
        return vcpu.gdtr_base, vcpu.gdtr_limit, vcpu.cpl % 3 if vcpu.cr0 & CR0_PE else -1

    def refresh_descriptors(self) -> None:
        """Bring the shadow descriptors up to date, if the guest's table, or where it lies, may have changed."""
        key = self._table_key()
        if not self._stale and key == self._shadowed:
            return
        self._stale, self._shadowed = False, key
        vcpu, level = self.vcpu, key[2]
        frames, parts = set(), []
        base, end = vcpu.gdtr_base, vcpu.gdtr_base + vcpu.gdtr_limit + 1
        while base < end <= 1 << 32 and level >= 0:
            part = min(end, (base & -PAGE_SIZE) + PAGE_SIZE) - base
            gpa = self._guest_physical(base)
            if gpa is None or not vcpu.bus.is_ram(gpa):
                break
            frames.add(gpa >> PAGE_SHIFT)
            parts.append(self.memory.read_bytes(gpa, part))
            base += part
        self._trace(frames)
        self.descriptors.rebuild(b"".join(parts), max(level, 0))

    def _guest_physical(self, linear: int) -> int | None:
        if not self.vcpu.cr0 & CR0_PG:
            return linear
        try:
            return self.vcpu.page_walk(linear, write=False, user=False, mark=False).frame | linear & 0xFFF
        except Fault:
            return None

    def _trace(self, pages: set[int]) -> None:
        """Write-protect the pages of the guest's table, and no others."""
        shadow = self.shadow
        if pages == shadow.traced:
            return
        for page in shadow.traced - pages:
            self.memory.host.unwatch(self.memory.frames[page], self._written)
        for page in pages - shadow.traced:
            self.memory.host.watch(self.memory.frames[page], self._written)
        shadow.traced = pages
        shadow.flush()

    def _written(self, frame: int) -> None:
        self._stale = True

    def save(self) -> dict[str, Any]:
        """Save what is not in memory."""
        return {
            "version": 1,
            "shadow": self.shadow.save(),
            "loaded": list(self.loaded),
            "shadowed": list(self._shadowed),
            "stale": self._stale,
            "flushes": self._flushes_seen,
            "descriptors": self.descriptors.save(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        fields = {"shadow": dict, "descriptors": dict, "stale": bool, "flushes": COUNT}
        check_state(state, "world", fields | {"loaded": Items(WORD, 6), "shadowed": Items(range(-1, LONG.stop))})
        with rollback(self):
            for page in self.shadow.traced:
                self.memory.host.unwatch(self.memory.frames[page], self._written)
            self.descriptors.load(state["descriptors"])
            self.shadow.load(state["shadow"])
            for page in self.shadow.traced:
                self.memory.host.watch(self.memory.frames[page], self._written)
            self.loaded = list(state["loaded"])
            self._shadowed = tuple(state["shadowed"])
            self._stale = state["stale"]
            self._flushes_seen = state["flushes"]


class WorldSwitch:
    """Moves between the real processor and VCPUs.

    Parameters
    ----------
    machine : Machine
        The computer; its tables are set up for the hypervisor.
    timer_vector : int
        Vector of the counter's interrupt.
    guests : int
        How many there will be.
    """

    def __init__(self, machine: Machine, timer_vector: int, guests: int) -> None:
        self.machine = machine
        self.host = HostMemory(machine.memory, host_bytes(guests))
        self.host.build_idt(HOST_CODE)
        self.host.build_tss(HOST_STACK)
        self._retired = 0
        cpu = machine.cpu
        machine.host_entry = self.host.entries
        machine.counter_vector = timer_vector
        cpu.idtr_base, cpu.idtr_limit = self.host.idt, 256 * 8 - 1
        # The hypervisor starts in ring 0 with flat segments, as a boot loader leaves it, and turns paging on when
        # it first loads a guest's root.
        cpu.segments[CS].selector, cpu.segments[SS].selector = HOST_CODE, HOST_STACK
        cpu.registers[ESP] = self.host.stack_top
        self._booted = False

    def _boot(self, root: int, table: int) -> None:
        cpu = self.machine.cpu
        cpu.set_cr3(root)
        cpu.set_cr4(CR4_TSD | CR4_PGE | (CR4_UMIP if cpu.model.has("umip") else 0))
        cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
        self._load_table(table)
        cpu.tr.set(HOST_TASK, self.host.tss, TSS_BYTES - 1, 0x8B, big=False)
        self._booted = True

    def _load_table(self, table: int) -> None:
        self.machine.cpu.gdtr_base, self.machine.cpu.gdtr_limit = table, 0xFFFF

    # -- in --------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what is not in memory."""
        return {"version": 1, "host": self.host.save(), "retired": self._retired, "booted": self._booted}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, "world switch", {"host": dict, "retired": COUNT, "booted": bool})
        self.host.load(state["host"])
        self._retired, self._booted = state["retired"], state["booted"]

    def look(self, vcpu: Processor, *, trapped: bool) -> Processor:
        """Return a copy of the VCPU of the running guest with what is in the real processor, or on its stack after a trap."""
        cpu, seen = self.machine.cpu, copy(vcpu)
        seen.registers = list(cpu.registers)
        ip, flags = cpu.ip, cpu.flags
        if trapped:
            top = cpu.registers[ESP] + 4 * ((cpu.ip - self.host.entry) // ENTRY_BYTES in WITH_ERROR_CODE)
            ip, _, flags, seen.registers[ESP] = (self.host.read(top + 4 * n, 4) for n in range(4))
        seen.ip, seen.flags = ip, vcpu.flags & ~DIRECT_FLAGS | flags & DIRECT_FLAGS
        return seen

    def leave(self, world: World) -> tuple[int, int]:
        """Save the real processor's state into the VCPU after a trap; return the vector and the error code (or 0)."""
        cpu, vcpu = self.machine.cpu, world.vcpu
        vector = (cpu.ip - self.host.entry) // ENTRY_BYTES
        top = cpu.registers[ESP]
        error_code = 0
        if vector in WITH_ERROR_CODE:
            error_code = cpu.read_system(top, 4)
            top += 4
        ip, code, flags, esp, stack = (cpu.read_system(top + 4 * n, 4) for n in range(5))
        level = vcpu.cpl
        if not flags & VM and not vcpu.segments[SS].big and not (esp ^ self.host.stack_top - FRAME_BYTES) & UPPER:
            esp = vcpu.registers[ESP] & UPPER | esp & 0xFFFF  # IRET to a 16-bit stack left the host's upper half there
        vcpu.registers[:] = cpu.registers
        vcpu.registers[ESP] = esp
        vcpu.ip = ip
        vcpu.flags = (vcpu.flags & ~DIRECT_FLAGS | flags & DIRECT_FLAGS) | FIXED
        if cpu.retired != self._retired:
            vcpu.flags &= ~RF  # it was for one instruction
        vcpu.retired += cpu.retired - self._retired
        if self.machine.shadowed:
            vcpu.shadow_at = (
                vcpu.retired
            )  # the guest has just loaded SS itself: no interrupt before its next instruction
        if flags & VM:  # the processor has pushed them, too, and emptied the registers
            selectors = {index: cpu.read_system(top + 20 + 4 * n, 4) & 0xFFFF for n, index in enumerate(DATA_SEGMENTS)}
        else:
            selectors = {index: cpu.segments[index].selector for index in DATA_SEGMENTS}
        selectors |= {CS: code & 0xFFFF, SS: stack & 0xFFFF}
        for index, selector in selectors.items():
            if selector != world.loaded[index]:
                self._reloaded(world, index, selector, level)
        vcpu.code_changed()
        return vector, error_code

    @staticmethod
    def _reloaded(world: World, index: int, selector: int, level: int) -> None:
        """The guest itself loaded a segment register, without a trap: load the VCPU's with what is shadowed there."""
        vcpu = world.vcpu
        if has_real_segments(vcpu):
            load_segment(
                vcpu, index, selector
            )  # outside virtual-8086 mode a null selector: here a segment as any other
            return
        if index in (CS, SS):
            selector = selector & ~3 | level
        if not selector & 0xFFFC:
            vcpu.segments[index].set(selector, 0, 0, 0, big=False)
        else:
            descriptor = world.descriptors.source(selector)
            fill(vcpu.segments[index], selector, descriptor, descriptor.access)

    def debug_causes(self) -> int:
        """Say why there is a #DB, a single step or breakpoints, as DR6 tells; 0 for INT1, which is the other way to it."""
        debug = self.machine.cpu.debug
        causes = debug[6] & (DR6_SINGLE_STEP | DR6_BREAKPOINTS)
        debug[6] &= ~causes
        return causes

    def _load_checks(self, vcpu: Processor, *, user: bool) -> None:
        """Let the real processor look at accesses as the guest asks: breakpoints, and alignment in virtual user mode."""
        cpu = self.machine.cpu
        cpu.debug[:4], cpu.debug[7] = vcpu.debug[:4], vcpu.debug[7] & ~DR7_GD
        if (cpu.cr0 ^ (vcpu.cr0 if user else 0)) & CR0_AM:
            cpu.set_cr0(cpu.cr0 ^ CR0_AM)

    @staticmethod
    def undo_int1(vcpu: Processor) -> None:
        """Go back to an INT1: its gate's DPL is not looked at, so that it has entered the hypervisor as if it were its."""
        vcpu.ip = vcpu.ip - 1 & 0xFFFFFFFF
        vcpu.retired -= 1

    # -- out -------------------------------------------------------------------------------------------------------------

    def enter(self, world: World, guest: int, instructions: int) -> None:
        """Load the VCPU into the real processor and return to the guest by IRET.

        Parameters
        ----------
        world : World
            The guest's.
        guest : int
            Its index, for events.
        instructions : int
            Guest instructions after which the counter interrupts.
        """
        cpu, vcpu = self.machine.cpu, world.vcpu
        world.refresh_descriptors()
        user = vcpu.cpl == 3
        root, table = world.shadow.root(user=user), world.descriptors.tables[user]
        if not self._booted:
            self._boot(root, table)
        if cpu.cr3 != root or world.shadow.changed:
            cpu.set_cr3(root)
            world.shadow.changed = False
        self._load_table(table)
        self._load_checks(vcpu, user=user)
        flags = vcpu.flags & (DIRECT_FLAGS | RF) | FIXED | IF
        if runs_as_virtual_8086(vcpu):
            selectors, flags = [register.selector for register in vcpu.segments], flags | VM
        else:
            selectors = [world.descriptors.selector_for(n, vcpu.segments[n], user=user) for n in range(6)]
            for index in DATA_SEGMENTS:
                if (selectors[index], *hidden(vcpu.segments[index])) != cpu.segments[index].key:
                    load_segment(cpu, index, selectors[index])
        world.loaded = selectors
        frame = [vcpu.ip, selectors[CS], flags, vcpu.registers[ESP], selectors[SS]]
        if flags & VM:
            frame += [selectors[index] for index in DATA_SEGMENTS]
        cpu.registers[:] = vcpu.registers
        cpu.registers[ESP] = self.host.stack_top - 4 * len(frame)
        for position, value in enumerate(frame):
            cpu.write_system(cpu.registers[ESP] + 4 * position, 4, value)
        SEMANTICS["iret"](cpu, IRET)
        cpu.debug_causes = 0  # the guest's breakpoints are not for the hypervisor's own accesses
        world.descriptors.conceal()
        self._retired = cpu.retired
        self.machine.counter_limit = cpu.retired + instructions
        self.machine.guest = guest
        self.machine.guest_time = vcpu.retired - cpu.retired
        self.machine.in_host = False

    def forget(self, linear: int) -> None:
        """Drop the real TLB's entry of a page whose shadow entry has changed."""
        self.machine.cpu.invalidate_page(linear)
