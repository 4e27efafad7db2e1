"""A computer in long mode made ready for one experiment, like `tests.machine.computer`, with the same memory map.

Page tables (at 0x40000) map the first 2 MiB of memory at 0 and at `HIGH`, the start of the upper canonical half, for
every ring. The gates have 16 bytes; the TSS has stacks for the rings and for the interrupt stack table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.machine.computer import (
    CODE_OF_RING,
    FLAT,
    FREE,
    GDT,
    HANDLERS,
    IDT,
    INNER_STACKS,
    TASK,
    TSS,
    Computer,
    Trap,
)
from vmlab.isa.x86.descriptors import INTERRUPT_GATE64, TSS64_BUSY, Descriptor, encode_descriptor, encode_gate
from vmlab.isa.x86.faults import WITH_ERROR_CODE
from vmlab.isa.x86.registers import CR0_ET, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SCE, ESP
from vmlab.isa.x86.semantics.segments import fill
from vmlab.machine.cpu_model import CPU_MODELS

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel

TABLES = FREE
HIGH = 0xFFFF_8000_0000_0000
INTERRUPT_STACKS = (0xC000, 0xC800, 0xD000, 0xD800, 0xE000, 0xE800, 0xF000)
SPARE_64 = (0x58, 0x60, 0x68, 0x70, 0x78)
"""Selectors without a descriptor, for the experiment's own. (The descriptor of the TSS has 16 bytes.)"""
CODE_32, CODE_32_USER = 0x58, 0x63
"""Selectors for compatibility code, after `compatibility()`."""


class LongComputer(Computer):
    """A machine in 64-bit mode, in ring 0 until `load` says otherwise."""

    def __init__(self, model: CpuModel = CPU_MODELS["core-2"]) -> None:
        super().__init__(model)
        memory, cpu = self.memory, self.cpu
        for index, entry in ((0, TABLES + 0x1007), (256, TABLES + 0x1007)):
            memory.write(TABLES + 8 * index, 8, entry)
        memory.write(TABLES + 0x1000, 8, TABLES + 0x2007)
        memory.write(TABLES + 0x2000, 8, 0x87)
        cpu.set_cr4(CR4_PAE)
        cpu.set_cr3(TABLES)
        cpu.set_efer(EFER_LME | EFER_SCE)
        cpu.set_cr0(CR0_PE | CR0_ET | CR0_PG)
        for ring in range(4):
            self.descriptor(CODE_OF_RING[ring], encode_descriptor(0, FLAT, 0x9B | ring << 5, big=False, long=True))
        self.descriptor(TASK, encode_descriptor(TSS, 0x67, 0x80 | TSS64_BUSY, big=False))
        memory.write_bytes(TSS, bytes(0x66))
        for ring, stack in enumerate(INNER_STACKS):
            memory.write(TSS + 4 + 8 * ring, 8, stack)
        for number, stack in enumerate(INTERRUPT_STACKS):
            memory.write(TSS + 0x24 + 8 * number, 8, stack)
        cpu.idtr_limit = 0xFFF
        for vector in range(256):
            self.gate(vector, encode_gate(0x08, HANDLERS + 16 * vector, INTERRUPT_GATE64))
        self.enter(0)

    def gate(self, vector: int, raw: int) -> None:
        """Write a gate of the IDT."""
        self.memory.write(IDT + 16 * vector, 8, raw & 0xFFFF_FFFF_FFFF_FFFF)
        self.memory.write(IDT + 16 * vector + 8, 8, raw >> 64)

    def wide_descriptor(self, selector: int, raw: int) -> None:
        """Write a descriptor of 16 bytes."""
        self.descriptor(selector, raw & 0xFFFF_FFFF_FFFF_FFFF)
        self.descriptor(selector + 8, raw >> 64)

    def load(self, source: str, ring: int = 0, *, bits: int = 64, **options: int) -> None:
        """Assemble code, and stand before its first instruction in a ring; with 32 bits in compatibility code."""
        super().load(source, ring, bits=bits, **options)
        if bits != 64:
            self.compatibility()
            self.set_segment(1, CODE_32_USER if ring else CODE_32)

    def compatibility(self) -> None:
        """Make descriptors of compatibility code."""
        self.descriptor(CODE_32, encode_descriptor(0, FLAT, 0x9B))
        self.descriptor(CODE_32_USER, encode_descriptor(0, FLAT, 0xFB))

    def set_segment(self, index: int, selector: int) -> None:
        """Load a segment register from the GDT without a check."""
        descriptor = Descriptor(self.memory.read(GDT + (selector & 0xFFF8), 8))
        fill(self.cpu.segments[index], selector, descriptor, descriptor.access)
        self.cpu.code_changed()

    def trap(self, most: int = 10_000, *, software: bool = False) -> Trap:
        """Run until a handler is next and return what it finds: SS and RSP always."""
        for _ in range(most):
            if self.vector is not None or self.machine.outcome:
                break
            self.step()
        vector = self.vector
        assert self.machine.outcome is None, self.machine.outcome
        assert vector is not None, hex(self.cpu.ip)
        words = [self.quad(self.cpu.registers[ESP] + 8 * n) for n in range(6)]
        error = words.pop(0) if vector in WITH_ERROR_CODE and not software else None
        return Trap(vector, error, *words[:5])

    def quad(self, address: int) -> int:
        """Return 64 bits of physical memory."""
        return self.memory.read(address, 8)
