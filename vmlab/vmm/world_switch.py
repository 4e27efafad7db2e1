"""The world switch: from a guest to the hypervisor and back (textbook 18.4.1, the VCPU).

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
from vmlab.isa.x86.faults import WITH_ERROR_CODE
from vmlab.isa.x86.registers import (
    AC,
    ARITHMETIC,
    CR0_AM,
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
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
from vmlab.machine.state import COUNT, check_state
from vmlab.vmm.host_memory import ENTRY_BYTES, TSS_BYTES, HostMemory, host_bytes
from vmlab.vmm.shadow_descriptors import HOST_CODE, HOST_STACK, HOST_TASK
from vmlab.vmm.shadow_roles import PAE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmlab.machine.machine import Machine
    from vmlab.machine.processor import Processor
    from vmlab.vmm.shadow_paging import ShadowPaging
    from vmlab.vmm.world import World

__all__ = ["DIRECT_FLAGS", "WorldSwitch"]

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


class WorldSwitch:
    """Moves between the real processor and VCPUs.

    Parameters
    ----------
    machine : Machine
        The computer; its tables are set up for the hypervisor.
    timer_vector : int
        Vector of the counter's interrupt.
    vcpus : int
        How many there will be, of all guests.
    shown : int
        Pages for each that the guests' kernels are to see in the hypervisor's window.
    """

    def __init__(self, machine: Machine, timer_vector: int, vcpus: int, shown: int = 0) -> None:
        self.machine = machine
        self.host = HostMemory(machine.memory, host_bytes(vcpus, shown), shows=shown > 0)
        self.host.launch(machine, timer_vector, HOST_CODE, HOST_STACK)
        self._retired = 0
        self._booted = False

    def _boot(self) -> None:
        self.machine.cpu.tr.set(HOST_TASK, self.host.tss, TSS_BYTES - 1, 0x8B, big=False)
        self._booted = True

    def _load_root(self, shadow: ShadowPaging, *, user: bool) -> None:
        """Let the processor walk a guest's shadow tables, and forget what it must of those before."""
        cpu, root = self.machine.cpu, shadow.root(user=user)
        control = (
            CR4_TSD | CR4_PGE | (CR4_UMIP if cpu.model.has("umip") else 0) | (CR4_PAE if shadow.shape == PAE else 0)
        )
        if cpu.cr4 != control:  # tables of another format: with paging off, as a boot loader changes to them
            cpu.set_cr0(CR0_PE | CR0_WP | CR0_ET | CR0_NE)
            cpu.set_cr4(control)
            cpu.set_cr3(root)
            cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
        elif cpu.cr3 != root or shadow.changed:
            cpu.set_cr3(root)
        else:
            for linear in shadow.invalid:
                cpu.invalidate_page(linear)
            shadow.invalid.clear()
            return
        shadow.flushed()

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

    @property
    def has_retired(self) -> bool:
        """True where the guest has completed an instruction since it was entered."""
        return self.machine.cpu.retired != self._retired

    def look(self, world: World, *, trapped: bool) -> Processor:
        """Return a copy of the VCPU of the running guest with what is in the real processor, or on its stack after a trap."""
        cpu, seen = self.machine.cpu, copy(world.vcpu)
        seen.registers, seen.segments = list(seen.registers), [copy(register) for register in seen.segments]
        if not trapped:
            selectors = {index: register.selector for index, register in enumerate(cpu.segments)}
            self._take(world, seen, cpu.ip, cpu.flags, cpu.registers[ESP], selectors)
            return seen
        top = cpu.registers[ESP] + 4 * ((cpu.ip - self.host.entry) // ENTRY_BYTES in WITH_ERROR_CODE)
        ip, code, flags, esp, stack = (self.host.read(top + 4 * n, 4) for n in range(5))
        pushed = [self.host.read(top + 20 + 4 * n, 4) for n in range(4)] if flags & VM else []
        self._take(world, seen, ip, flags, esp, self._selectors(code, stack, pushed))
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
        pushed = [cpu.read_system(top + 20 + 4 * n, 4) for n in range(4)] if flags & VM else []
        self._take(world, vcpu, ip, flags, esp, self._selectors(code, stack, pushed))
        vcpu.retired += cpu.retired - self._retired
        if self.machine.shadowed:
            vcpu.shadow_at = (
                vcpu.retired
            )  # the guest has just loaded SS itself: no interrupt before its next instruction
        vcpu.code_changed()
        return vector, error_code

    def _selectors(self, code: int, stack: int, pushed: Sequence[int]) -> dict[int, int]:
        """Return the real selectors that the guest had when it trapped: of virtual-8086 mode, those that were pushed."""
        found = {index: self.machine.cpu.segments[index].selector for index in DATA_SEGMENTS}
        found |= dict(zip(DATA_SEGMENTS, (selector & 0xFFFF for selector in pushed), strict=False))
        return found | {CS: code & 0xFFFF, SS: stack & 0xFFFF}

    def _take(self, world: World, vcpu: Processor, ip: int, flags: int, esp: int, selectors: Mapping[int, int]) -> None:
        """Bring a VCPU up to date: what the guest has changed itself is in the real processor, or was there."""
        cpu, level = self.machine.cpu, vcpu.cpl
        if not flags & VM and not vcpu.segments[SS].big and not (esp ^ self.host.stack_top - FRAME_BYTES) & UPPER:
            esp = vcpu.registers[ESP] & UPPER | esp & 0xFFFF  # IRET to a 16-bit stack left the host's upper half there
        vcpu.registers[:] = cpu.registers
        vcpu.registers[ESP] = esp
        vcpu.ip = ip
        vcpu.flags = (vcpu.flags & ~DIRECT_FLAGS | flags & DIRECT_FLAGS) | FIXED
        if self.has_retired:
            vcpu.flags &= ~RF  # it was for one instruction
        for index, selector in selectors.items():
            if selector != world.loaded[index]:
                self._reloaded(world, vcpu, index, selector, level)

    @staticmethod
    def _reloaded(world: World, vcpu: Processor, index: int, selector: int, level: int) -> None:
        """The guest itself loaded a segment register, without a trap: load the VCPU's with what is shadowed there."""
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

    def enter(self, world: World, guest: int, time: int, instructions: int, ip: int | None = None) -> None:
        """Load the VCPU into the real processor and return to the guest by IRET.

        Parameters
        ----------
        world : World
            The guest's.
        guest : int
            Its index, for events.
        time : int
            Instructions that the guest has retired.
        instructions : int
            Guest instructions after which the counter interrupts.
        ip : int, optional
            Where the processor is to go on, if not at the VCPU's EIP.
        """
        cpu, vcpu = self.machine.cpu, world.vcpu
        user = vcpu.cpl == 3
        world.refresh_descriptors()
        table = world.descriptors.tables[user]
        self._load_root(world.shadow, user=user)
        if not self._booted:
            self._boot()
        self._load_table(table)
        self._load_checks(vcpu, user=user)
        flags = vcpu.flags & (DIRECT_FLAGS | RF) | FIXED | IF
        if runs_as_virtual_8086(vcpu):
            selectors, flags = [register.selector for register in vcpu.segments], flags | VM
        else:
            selectors = [world.descriptors.selector_for(n, vcpu.segments[n], user=user) for n in range(6)]
            for index in DATA_SEGMENTS:
                if (
                    selectors[index],
                    *world.descriptors.hidden(index, vcpu.segments[index], user=user),
                ) != cpu.segments[index].key:
                    load_segment(cpu, index, selectors[index])
        world.loaded = selectors
        frame = [vcpu.ip if ip is None else ip, selectors[CS], flags, vcpu.registers[ESP], selectors[SS]]
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
        self.machine.guest_time = time - cpu.retired
        self.machine.in_host = False
