"""A computer made ready for one experiment: descriptor tables, a stack for each ring, a handler for each vector.

    0x01000  GDT      0x02000  IDT      0x03000  TSS      0x04000  handlers, 16 bytes each: `jmp $`
    0x08000  stack of the program; the TSS has 0x09000, 0x0A000, 0x0B000 for rings 0, 1, 2
    0x10000  code     0x20000  data     0x40000  free, for page tables

An experiment loads code in a ring, steps, and asks what trap was taken and what its frame says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, TSS32, TSS32_BUSY, Descriptor, encode_descriptor, encode_gate
from vmlab.isa.x86.faults import WITH_ERROR_CODE
from vmlab.isa.x86.registers import CS, DS, ES, ESP, FS, GS, SS
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import Machine

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel

GDT, IDT, TSS, HANDLERS = 0x1000, 0x2000, 0x3000, 0x4000
STACK, CODE, DATA, FREE = 0x8000, 0x1_0000, 0x2_0000, 0x4_0000
INNER_STACKS = (0x9000, 0xA000, 0xB000)
MEMORY = 1 << 20
FLAT = 0xFFFF_FFFF

CODE_OF_RING = (0x08, 0x19, 0x2A, 0x3B)
DATA_OF_RING = (0x10, 0x21, 0x32, 0x43)
TASK = 0x48
SPARE = (0x50, 0x58, 0x60, 0x68, 0x70, 0x78)
"""Selectors without a descriptor, for the experiment's own."""
GDT_LIMIT = 0x7F


@dataclass(frozen=True)
class Trap:
    """The frame that a handler found.

    `esp` and `ss` are None where the ring did not change; `error` is None for vectors without an error code.
    """

    vector: int
    error: int | None
    ip: int
    cs: int
    flags: int
    esp: int | None = None
    ss: int | None = None

    @property
    def what(self) -> tuple[int, int | None]:
        """Vector and error code."""
        return self.vector, self.error


class Computer:
    """A machine with tables, in ring 0 until `load` says otherwise."""

    def __init__(self, model: CpuModel = CPU_MODELS["pentium-4"], memory: int = MEMORY) -> None:
        self.machine = Machine(memory, model)
        self.cpu = self.machine.cpu
        self.memory = self.machine.memory
        cpu = self.cpu
        cpu.gdtr_base, cpu.gdtr_limit = GDT, GDT_LIMIT
        cpu.idtr_base, cpu.idtr_limit = IDT, 0x7FF
        for ring in range(4):
            self.descriptor(CODE_OF_RING[ring], encode_descriptor(0, FLAT, 0x9B | ring << 5))
            self.descriptor(DATA_OF_RING[ring], encode_descriptor(0, FLAT, 0x93 | ring << 5))
        self.descriptor(TASK, encode_descriptor(TSS, 0x67, 0x80 | TSS32_BUSY, big=False))
        cpu.tr.set(TASK, TSS, 0x67, 0x80 | TSS32_BUSY, big=False)
        for ring, stack in enumerate(INNER_STACKS):
            self.memory.write(TSS + 4 + 8 * ring, 4, stack)
            self.memory.write(TSS + 8 + 8 * ring, 4, DATA_OF_RING[ring])
        self.memory.write(TSS + 0x66, 2, 0x68)
        for vector in range(256):
            self.gate(vector, encode_gate(0x08, HANDLERS + 16 * vector, INTERRUPT_GATE32))
            self.memory.write_bytes(HANDLERS + 16 * vector, b"\xeb\xfe")
        self.symbols: dict[str, int] = {}
        self.ring = 0

    # -- preparing -----------------------------------------------------------------------------------------------------

    def descriptor(self, selector: int, raw: int) -> None:
        """Write a descriptor of the GDT."""
        self.memory.write(GDT + (selector & 0xFFF8), 8, raw)

    def gate(self, vector: int, raw: int) -> None:
        """Write a gate of the IDT."""
        self.memory.write(IDT + 8 * vector, 8, raw)

    def load(self, source: str, ring: int = 0, *, flags: int = 2, stack: int = STACK, bits: int = 32) -> None:
        """Assemble code, and stand before its first instruction in a ring with flat segments of that ring."""
        program = assemble(source, CODE, bits)
        self.symbols = program.symbols
        self.memory.write_bytes(CODE, program.code)
        self.enter(ring)
        self.cpu.ip, self.cpu.flags = CODE, flags
        self.cpu.registers[ESP] = stack
        self.cpu.flags_changed()

    def enter(self, ring: int) -> None:
        """Load the flat segments of a ring."""
        self.ring = ring
        self.set_segment(CS, CODE_OF_RING[ring])
        for index in (ES, SS, DS, FS, GS):
            self.set_segment(index, DATA_OF_RING[ring])

    def set_segment(self, index: int, selector: int) -> None:
        """Load a segment register from the GDT without a check."""
        descriptor = Descriptor(self.memory.read(GDT + (selector & 0xFFF8), 8))
        self.cpu.segments[index].set(selector, descriptor.base, descriptor.limit, descriptor.access, big=descriptor.big)
        self.cpu.code_changed()

    # -- running -------------------------------------------------------------------------------------------------------

    def step(self, count: int = 1) -> None:
        """Do so many steps of the machine."""
        self.machine.run(count)

    def run_to(self, label: str, most: int = 10_000) -> None:
        """Run until a label is next."""
        for _ in range(most):
            if self.cpu.ip == self.symbols[label]:
                return
            self.step()
            assert self.vector is None, self.trap()
        raise AssertionError(f"{label} is not reached; EIP is {self.cpu.ip:#x}")

    @property
    def vector(self) -> int | None:
        """The vector whose handler is next."""
        offset = self.cpu.ip - HANDLERS
        return offset // 16 if 0 <= offset < 0x1000 else None

    def trap(self, most: int = 10_000, *, software: bool = False) -> Trap:
        """Run until a handler is next and return what it finds; `software` for INT n, which pushes no error code."""
        ring = self.ring
        for _ in range(most):
            if self.vector is not None or self.machine.outcome:
                break
            ring = self.cpu.cpl
            self.step()
        assert self.machine.outcome is None, self.machine.outcome
        vector = self.vector
        assert vector is not None, hex(self.cpu.ip)
        words = [self.memory.read(self.stack_top + 4 * n, 4) for n in range(6)]
        error = words.pop(0) if vector in WITH_ERROR_CODE and not software else None
        ip, cs, flags, esp, ss = words[:5]
        if self.cpu.cpl == ring:
            return Trap(vector, error, ip, cs, flags)
        return Trap(vector, error, ip, cs, flags, esp, ss)

    @property
    def stack_top(self) -> int:
        """Linear address of the top of the stack."""
        register = self.cpu.segments[SS]
        return register.base + (self.cpu.registers[ESP] & (FLAT if register.big else 0xFFFF)) & FLAT

    def word(self, address: int) -> int:
        """Return 32 bits of physical memory."""
        return self.memory.read(address, 4)


def available_task() -> int:
    """Return the descriptor of the TSS with its busy bit clear."""
    return encode_descriptor(TSS, 0x67, 0x80 | TSS32, big=False)
