"""The switch between a guest in rings 1 and 3 and the hypervisor in ring 0.

A guest has the flat segments that the hypervisor's table holds, and no others. The real IF stays 1 with IOPL 0, so that the
hypervisor can always interrupt, and CLI, STI, IN and OUT fault; the guest's own interrupt flag is a byte in the shared page.
The guest's page tables are the processor's, and every page directory ends with the hypervisor's two entries.

Read more: Xen, xen/arch/x86/x86_32/entry.S, xen/arch/x86/traps.c.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from vmlab.isa.x86.decoder import decode
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, TRAP_GATE32, TSS32, Descriptor, encode_descriptor, encode_gate
from vmlab.isa.x86.faults import BP, OF, WITH_ERROR_CODE
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PGE,
    CR4_TSD,
    CS,
    DS,
    ES,
    ESP,
    FIXED,
    FS,
    GS,
    IF,
    RF,
    SS,
)  # fmt: skip
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.isa.x86.semantics.segments import fill, load_segment
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.paging import ACCESSED, GLOBAL, PRESENT, WRITABLE
from vmlab.machine.state import COUNT, check_state
from vmlab.vmm.host_memory import ENTRY_BYTES, TSS_BYTES, HostMemory, host_bytes
from vmlab.vmm.world_switch import DIRECT_FLAGS
from vmlab.vmm.xen import abi

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmlab.machine.machine import Machine
    from vmlab.machine.processor import Processor
    from vmlab.vmm.xen.domain import Domain

__all__ = ["RingSwitch"]

TABLE_PAGES = 15
"""Pages of the descriptor table: 14 would be a guest's own, the last is the hypervisor's."""
FLAT = 0xFFFFFFFF
DATA_SEGMENTS = (ES, DS, FS, GS)
IRET = decode(b"\xcf")
TSS_ESP1, TSS_SS1 = 0x0C, 0x10
MASKS_EVENTS, DPL = 4, 3
"""Flags of a guest's trap handler."""

# Selector without RPL, limit, access byte
SEGMENTS = (
    (abi.HYPERVISOR_CODE, FLAT, 0x9B),
    (abi.HYPERVISOR_DATA, FLAT, 0x93),
    (abi.KERNEL_CODE & ~3, abi.SEGMENT_LIMIT, 0xBB),
    (abi.KERNEL_DATA & ~3, abi.SEGMENT_LIMIT, 0xB3),
    (abi.USER_CODE & ~3, abi.SEGMENT_LIMIT, 0xFB),
    (abi.USER_DATA & ~3, abi.SEGMENT_LIMIT, 0xF3),
)
DESCRIPTORS = {selector: Descriptor(encode_descriptor(0, limit, access)) for selector, limit, access in SEGMENTS}


def set_segment(vcpu: Processor, index: int, selector: int) -> None:
    """Load a segment register of a VCPU with one of the flat segments."""
    descriptor = DESCRIPTORS[selector & ~3]
    fill(vcpu.segments[index], selector, descriptor, descriptor.access)


class RingSwitch:
    """Moves between the real processor and VCPUs of paravirtualized guests.

    Parameters
    ----------
    machine : Machine
        The computer; its tables are set up for the hypervisor.
    timer_vector : int
        Vector of the counter's interrupt.
    guests : int
        How many there will be.

    Attributes
    ----------
    host : HostMemory
        The hypervisor's frames and its window.
    reserved : list of int
        The last entries of every page directory: for the M2P table and for the window.
    """

    def __init__(self, machine: Machine, timer_vector: int, guests: int) -> None:
        self.machine = machine
        self.host = host = HostMemory(machine.memory, host_bytes(guests))
        host.launch(machine, timer_vector, abi.HYPERVISOR_CODE, abi.HYPERVISOR_DATA)
        self._table = host.map_new(TABLE_PAGES)
        for selector, descriptor in DESCRIPTORS.items():
            host.write(self._table + selector, 8, descriptor.raw)
        task = encode_descriptor(host.tss, TSS_BYTES - 1, 0x80 | TSS32, big=False)
        host.write(self._table + abi.HYPERVISOR_TASK, 8, task)
        for vector, level in ((abi.HYPERCALL_VECTOR, 1), (BP, 3), (OF, 3)):
            self._set_gate(vector, self._own_gate(vector, level))
        self._map_frames()
        machine.cpu.gdtr_base, machine.cpu.gdtr_limit = self._table, TABLE_PAGES * PAGE_SIZE - 1
        self._retired = 0

    def _map_frames(self) -> None:
        """Make the table from frames to pseudo-physical pages, which a guest's kernel can read."""
        host, memory = self.host, self.machine.memory
        pages = -(-(memory.size // PAGE_SIZE * 4) // PAGE_SIZE)
        table = host.allocate()
        self._m2p = [host.allocate() for _ in range(pages)]
        for number, frame in enumerate(self._m2p):
            memory.write(table + 4 * number, 4, frame | PRESENT | ACCESSED | GLOBAL)
        self.reserved = [table | PRESENT | ACCESSED, host.window_tables[2][0] | PRESENT | WRITABLE | ACCESSED]

    def write_m2p(self, frame: int, page: int) -> None:
        """Note which page of its guest's memory a frame is."""
        self.machine.memory.write(self._m2p[frame >> 10] + 4 * (frame & 0x3FF), 4, page)

    def _own_gate(self, vector: int, level: int) -> int:
        """Return a gate to the hypervisor."""
        return encode_gate(abi.HYPERVISOR_CODE, self.host.entry + vector * ENTRY_BYTES, INTERRUPT_GATE32, level)

    def _set_gate(self, vector: int, gate: int) -> None:
        if self.host.read(self.host.idt + vector * 8, 8) != gate:
            self.host.write(self.host.idt + vector * 8, 8, gate)

    # -- in --------------------------------------------------------------------------------------------------------------

    def look(self, domain: Domain, *, trapped: bool) -> Processor:
        """Return a copy of the VCPU of the running guest with what is in the real processor, or on its stack after a trap."""
        cpu, seen = self.machine.cpu, copy(domain.vcpu)
        seen.registers, seen.segments = list(seen.registers), [copy(register) for register in seen.segments]
        frame = [cpu.ip, cpu.segments[CS].selector, cpu.flags, cpu.registers[ESP], cpu.segments[SS].selector]
        if trapped:
            top = cpu.registers[ESP] + 4 * (self._vector in WITH_ERROR_CODE)
            frame = [self.host.read(top + 4 * n, 4) for n in range(5)]
        self._take(domain, seen, frame)
        return seen

    @property
    def _vector(self) -> int:
        return (self.machine.cpu.ip - self.host.entry) // ENTRY_BYTES

    def leave(self, domain: Domain) -> tuple[int, int]:
        """Save the real processor's state into the VCPU after a trap; return the vector and the error code (or 0)."""
        cpu, vcpu = self.machine.cpu, domain.vcpu
        vector, top, code = self._vector, cpu.registers[ESP], 0
        if vector in WITH_ERROR_CODE:
            code = cpu.read_system(top, 4)
            top += 4
        self._take(domain, vcpu, [cpu.read_system(top + 4 * n, 4) for n in range(5)])
        vcpu.retired += cpu.retired - self._retired
        vcpu.code_changed()
        return vector, code

    def _take(self, domain: Domain, vcpu: Processor, frame: Sequence[int]) -> None:
        """Bring a VCPU up to date with the real processor, and with EIP, CS, EFLAGS, ESP and SS of the guest."""
        cpu = self.machine.cpu
        vcpu.ip, code, flags, pointer, stack = frame
        vcpu.registers[:] = cpu.registers
        vcpu.registers[ESP] = pointer
        vcpu.flags = flags & (DIRECT_FLAGS | RF) | FIXED | (0 if domain.channels.masked else IF)
        for index in DATA_SEGMENTS:
            vcpu.segments[index].copy_from(cpu.segments[index])
        set_segment(vcpu, CS, code & 0xFFFF)
        set_segment(vcpu, SS, stack & 0xFFFF)

    # -- out -------------------------------------------------------------------------------------------------------------

    def load_base(self, base: int) -> bool:
        """Let the processor walk a guest's page tables; say whether that has flushed the TLB."""
        cpu = self.machine.cpu
        if not cpu.cr0 & CR0_PG:
            cpu.set_cr4(CR4_TSD | CR4_PGE)
            cpu.set_cr3(base)
            cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
            cpu.tr.set(abi.HYPERVISOR_TASK, self.host.tss, TSS_BYTES - 1, 0x8B, big=False)
        elif cpu.cr3 != base:
            cpu.set_cr3(base)
        else:
            return False
        return True

    def enter(self, domain: Domain, guest: int, instructions: int) -> None:
        """Return to a guest by IRET.

        Parameters
        ----------
        domain : Domain
            The guest; its page tables are loaded.
        guest : int
            Its index, for events.
        instructions : int
            Guest instructions after which the counter interrupts.
        """
        cpu, vcpu, host = self.machine.cpu, domain.vcpu, self.host
        flags, address = domain.traps.get(abi.FAST_TRAP, (MASKS_EVENTS, 0))
        direct = not flags & MASKS_EVENTS and flags & DPL == DPL
        gate = encode_gate(abi.KERNEL_CODE, address, TRAP_GATE32, DPL) if direct else self._own_gate(abi.FAST_TRAP, 0)
        self._set_gate(abi.FAST_TRAP, gate)
        host.write(host.tss + TSS_ESP1, 4, domain.stack)
        host.write(host.tss + TSS_SS1, 2, abi.KERNEL_DATA)
        for index in DATA_SEGMENTS:
            if vcpu.segments[index].key != cpu.segments[index].key:
                load_segment(cpu, index, vcpu.segments[index].selector)
        code, stack = vcpu.segments[CS].selector, vcpu.segments[SS].selector
        frame = [vcpu.ip, code, vcpu.flags & (DIRECT_FLAGS | RF) | FIXED | IF, vcpu.registers[ESP], stack]
        cpu.registers[:] = vcpu.registers
        cpu.registers[ESP] = host.stack_top - 4 * len(frame)
        for position, value in enumerate(frame):
            cpu.write_system(cpu.registers[ESP] + 4 * position, 4, value)
        SEMANTICS["iret"](cpu, IRET)
        cpu.debug_causes = 0
        self._retired = cpu.retired
        self.machine.counter_limit = cpu.retired + instructions
        self.machine.guest = guest
        self.machine.guest_time = vcpu.retired - cpu.retired
        self.machine.in_host = False

    # -- saving ----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what is not in memory."""
        return {"version": 1, "host": self.host.save(), "retired": self._retired}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        check_state(state, "ring switch", {"host": dict, "retired": COUNT})
        self.host.load(state["host"])
        self._retired = state["retired"]
