"""Our processor in the arena, driven one instruction at a time without the machine around it."""

from __future__ import annotations

from tests.isa.arena import (
    CODE,
    DESCRIPTORS,
    FS_BASE,
    GDT,
    GDT_BYTES,
    GS_BASE,
    JUMP_TO_SELF,
    LOW_SIZE,
    MEMORY_SIZE,
    TASK,
    TASK_LIMIT,
    TSS,
    Mode,
    Result,
    Trial,
)
from vmlab.isa.x86.descriptors import Descriptor
from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import CR4_PAE, EFER_LMA, EFER_LME, FS, GS
from vmlab.isa.x86.semantics.segments import fill
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.memory import PhysicalMemory
from vmlab.machine.platform import Platform
from vmlab.machine.processor import Processor

MOST_ELEMENTS = 64


class Subject:
    """A `Processor` with the arena's memory, descriptors and modes."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(MEMORY_SIZE)
        self.memory.write_bytes(CODE, JUMP_TO_SELF * ((MEMORY_SIZE - CODE) // 2))
        self.cpu = Processor(Platform(self.memory), CPU_MODELS["pentium-4"])
        self.cpu.gdtr_base, self.cpu.gdtr_limit = GDT, len(GDT_BYTES) - 1
        self.cpu.tr.set(TASK, TSS, TASK_LIMIT, 0x8B, big=False)
        self.port_writes: list[tuple[int, int, int]] = []
        self.cpu.bus.on_access = self._access

    def _access(self, address: int, size: int, value: int, write: bool, device: str | None) -> None:
        if write:
            self.port_writes.append((address, size, value))

    def enter(self, mode: Mode) -> None:
        """Load the segments of a mode."""
        for register, selector in zip(self.cpu.segments, mode.selectors, strict=True):
            descriptor = Descriptor(DESCRIPTORS[selector >> 3])
            fill(register, selector, descriptor, descriptor.access)
        # Long mode without paging: the tests of instructions need no page tables.
        self.cpu.efer = EFER_LME | EFER_LMA if mode.long else 0
        self.cpu.cr4 = CR4_PAE if mode.long else 0
        if mode.long:
            for index, base in ((FS, FS_BASE), (GS, GS_BASE)):
                register = self.cpu.segments[index]
                register.set(register.selector, base, register.limit, register.access, big=register.big)
        self.cpu.code_changed()

    def run(self, trial: Trial, *, whole: bool) -> Result:
        """Try an instruction; `whole`: all elements of a repeated one."""
        cpu = self.cpu
        self.enter(trial.mode)
        self.memory.write_bytes(trial.address, trial.code + JUMP_TO_SELF)
        for address, data in trial.pokes:
            self.memory.write_bytes(address, data)
        cpu.registers[: len(trial.registers)] = trial.registers
        cpu.flags = trial.flags
        cpu.ip = trial.address
        self.port_writes.clear()
        vector = None
        try:
            for _ in range(MOST_ELEMENTS):
                cpu.execute()
                if not whole or cpu.ip != trial.address:
                    break
        except Fault as fault:
            vector = fault.vector
        check_invariants(cpu)
        selectors = tuple(register.selector for register in cpu.segments)
        return Result(tuple(cpu.registers[: len(trial.registers)]), cpu.ip, cpu.flags, selectors, vector)

    def low_memory(self) -> bytes:
        """Return the low memory."""
        return bytes(self.memory.data[:LOW_SIZE])

    def set_low_memory(self, data: bytes) -> None:
        """Set the low memory."""
        self.memory.write_bytes(0, data)


def check_invariants(cpu: Processor) -> None:
    """Assert that every register holds a value of its width."""
    for register in cpu.registers:
        assert type(register) is int, register
        assert 0 <= register < 1 << 64, hex(register)
    if not cpu.code_64:
        assert max(*cpu.registers[:8], cpu.ip) < 1 << 32, cpu.registers
    for name in ("ip", "flags", "gdtr_base", "idtr_base", "cr0", "cr2", "cr3", "cr4"):
        value = getattr(cpu, name)
        assert type(value) is int, (name, value)
        assert 0 <= value < 1 << 64, (name, value)
    assert cpu.flags & 0xFFC0_802A == 2, hex(cpu.flags)  # bit 1 is set; bits 3, 5, 15 and 31:22 are reserved
    for segment in (*cpu.segments, cpu.ldtr, cpu.tr):
        assert 0 <= segment.selector < 1 << 16, segment
        assert segment.base < 1 << 64, segment
        assert segment.limit < 1 << 32, segment
        assert min(segment.base, segment.limit) >= 0, segment
        assert 0 <= segment.access < 1 << 8, segment
