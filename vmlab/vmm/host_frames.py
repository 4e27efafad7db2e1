"""The frames of a hypervisor with hardware assistance: 64-bit code, all memory mapped as it lies.

It needs nothing of its own in the guests' address spaces: an exit loads CR3, the descriptor tables and the stack. So this is an ordinary kernel's memory: page tables that map what there is one to one, in pages of 2 MiB, a GDT,
an IDT, a TSS, a stack, and an entry point at which exits arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.descriptors import TSS64_BUSY, encode_descriptor
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CS,
    DS,
    EFER_LME,
    ES,
    ESP,
    FIXED,
    MSR_EFER,
    SS,
)  # fmt: skip
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.page_formats import four_level
from vmlab.machine.page_tables import PageTables
from vmlab.machine.state import Items, check_state

if TYPE_CHECKING:
    from vmlab.machine.memory import PhysicalMemory
    from vmlab.machine.processor import Processor

__all__ = ["FIRST", "OWN_FRAMES", "HostFrames"]

FIRST = 0x100000
"""Host-physical address of the first frame; below lies the VGA hole."""
OWN_FRAMES = 32
LARGE = 2 << 20
HOST_CODE, HOST_DATA, HOST_TASK = 0x08, 0x10, 0x18
CODE_64, DATA, TASK_BYTES = 0x9B, 0x93, 0x68


class HostFrames:
    """Frames of the hypervisor, and its own structures in some of them.

    Parameters
    ----------
    memory : PhysicalMemory
        The computer's.
    count : int
        How many frames are the hypervisor's.
    physical_bits : int
        Width of the processor's physical addresses.
    first : int
        Where they begin.

    Attributes
    ----------
    addresses : range
        Host-physical addresses of its frames.
    free : list of int
        Those that nobody uses.
    root : int
        What goes into CR3.
    gdt, idt, tss, stack_top, entry : int
        Addresses of the descriptor tables, the task state segment, the end of the stack and the entry point.
    """

    def __init__(self, memory: PhysicalMemory, count: int, physical_bits: int, first: int = FIRST) -> None:
        self.memory = memory
        self.addresses = range(first, first + count * PAGE_SIZE, PAGE_SIZE)
        self.free = list(reversed(self.addresses))
        tables = PageTables(four_level(physical_bits, no_execute=False, gigabyte_pages=False), memory, self.allocate)
        for address in range(0, memory.size, LARGE):
            tables.map(address, address, LARGE, user=False)
        self.root = tables.root
        self.gdt, self.idt, self.tss, stack, self.entry = (self.allocate() for _ in range(5))
        self.stack_top = stack + PAGE_SIZE
        memory.write(self.gdt + HOST_CODE, 8, encode_descriptor(0, 0xFFFFFFFF, CODE_64, big=False, long=True))
        memory.write(self.gdt + HOST_DATA, 8, encode_descriptor(0, 0xFFFFFFFF, DATA))
        task = encode_descriptor(self.tss, TASK_BYTES - 1, 0x80 | TSS64_BUSY, big=False)
        memory.write(self.gdt + HOST_TASK, 8, task & (1 << 64) - 1)

    def boot(self, cpu: Processor) -> None:
        """Do what a host's kernel does: enter 64-bit code on these tables."""
        cpu.set_cr4(CR4_PAE)
        cpu.write_msr(MSR_EFER, EFER_LME)
        cpu.cr3 = self.root
        cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
        self.resume(cpu)

    def resume(self, cpu: Processor) -> None:
        """Load all that makes the processor this host's: descriptor tables, page tables, task, segments, stack."""
        cpu.gdtr_base, cpu.gdtr_limit, cpu.idtr_base, cpu.idtr_limit = self.gdt, 0xFFFF, self.idt, 0xFFFF
        cpu.set_cr3(self.root)
        cpu.segments[CS].set(HOST_CODE, 0, 0xFFFFFFFF, 0x9B, big=False, long=True)
        for segment in (ES, SS, DS):
            cpu.segments[segment].set(HOST_DATA, 0, 0xFFFFFFFF, 0x93, big=True)
        cpu.tr.set(HOST_TASK, self.tss, TASK_BYTES - 1, 0x8B, big=False)
        cpu.registers[ESP], cpu.ip, cpu.flags = self.stack_top, self.entry, FIXED
        cpu.code_changed()

    def allocate(self, size: int = PAGE_SIZE) -> int:
        """Take a frame, cleared; return its host-physical address."""
        assert size == PAGE_SIZE, "frames are taken one by one"
        address = self.free.pop()
        self.memory.write_bytes(address, bytes(PAGE_SIZE))
        return address

    def allocate_run(self, count: int) -> int:
        """Take frames that lie one behind the other, as long as none has been given back."""
        frames = [self.allocate() for _ in range(count)]
        assert frames == list(range(frames[0], frames[0] + count * PAGE_SIZE, PAGE_SIZE)), "frames lie apart"
        return frames[0]

    def release(self, address: int) -> None:
        """Give a frame back."""
        self.free.append(address)

    def save(self) -> dict[str, Any]:
        """Save which frames are free; their contents are in memory."""
        return {"version": 1, "free": list(self.free)}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        self.free = list(check_state(state, "host frames", {"free": Items(self.addresses)})["free"])
