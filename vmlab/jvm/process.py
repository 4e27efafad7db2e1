"""The process that the Java virtual machine is: its computer, its address space, and the way between Python and compiled code.

    0000 0000  nothing: what follows the null reference is not there
    0000 1000  IDT, GDT, TSS; stack of ring 0; entry points; page tables; system.asm       ring 0 alone
    0010 0000  records of classes, static fields, cells                                    ring 3 may write
    0014 0000  compiled code                                                               ring 3 may read
    001C 0000  a page that is not there, and the stack that grows down to it               ring 3 may write
    0020 0000  the heap                                                                    ring 3 may write

Compiled code runs in ring 3. Whatever it asks of the runtime it asks by INT, and what it must not do the processor refuses:
both lead through the IDT to an entry point, where the machine stops. The runtime, host software in Python, reads the frame that
the processor has pushed, does the work, and lets the machine go on with the IRET that stands at the entry point.

Read more: `vmlab.machine.machine` on host software; Intel SDM vol. 3, 6.12.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import OptionError
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_descriptor, encode_gate
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CS,
    DS,
    EAX,
    EBP,
    EBX,
    ECX,
    EDI,
    EDX,
    ES,
    ESI,
    ESP,
    SS,
)
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import Machine
from vmlab.machine.page_formats import ia32_pse
from vmlab.machine.page_tables import PageTables
from vmlab.machine.state import COUNT, check_state
from vmlab.machine.translator import Engine

if TYPE_CHECKING:
    from vmlab.isa.x86.assembler import Assembly
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.disk import Disk

__all__ = ["CODE", "CODE_END", "DONE", "HEAP", "STACK", "STACK_TOP", "CompiledTrap", "Process"]

PAGE = 0x1000
IDT, GDT, TSS, ENTRY, TABLES = 0x1000, 0x1800, 0x1900, 0x3000, 0x10000
SYSTEM_STACK, SYSTEM, BUFFER = 0x3000, 0x8000, 0xF000
DATA, CODE, GUARD, HEAP = 0x10_0000, 0x14_0000, 0x1C_0000, 0x20_0000
CODE_END, STACK, STACK_TOP = GUARD, GUARD + PAGE, HEAP
ENTRY_BYTES = 8
SYSTEM_CODE, SYSTEM_DATA, USER_CODE, USER_DATA, TASK = 0x08, 0x10, 0x18 | 3, 0x20 | 3, 0x28
DONE, TIMER, WITH_ERROR_CODE = 0xFF, 0x20, frozenset({8, 10, 11, 12, 13, 14, 17})
RING3 = 3
USER_FLAGS = 2
PIECE = 1_000_000


class CompiledTrap(NamedTuple):
    """Why compiled code has stopped, and where.

    Attributes
    ----------
    vector : int
        Number of the exception or of the INT.
    ip : int
        Address of the instruction that did not complete, or after INT of the next.
    stack, frame : int
        ESP and EBP.
    registers : tuple of int
        EAX, ECX, EDX and EBX.
    address : int
        What a page fault could not reach (CR2).
    """

    vector: int
    ip: int
    stack: int
    frame: int
    registers: tuple[int, int, int, int]
    address: int


@cache
def _system() -> Assembly:
    return assemble(resources.files("vmlab.jvm").joinpath("system.asm").read_text(encoding="utf-8"))


class Process:
    """A computer with one process.

    Parameters
    ----------
    heap_size : int
        Bytes of its heap.
    disk : Disk, optional
        What it can read.
    model : CpuModel, optional
        The processor.

    Attributes
    ----------
    compiled_instructions, system_instructions : int
        What the processor has retired of compiled code, and of system.asm.
    """

    def __init__(self, heap_size: int, disk: Disk | None = None, model: CpuModel = CPU_MODELS["pentium-4"]) -> None:
        size = HEAP + heap_size
        self.machine = Machine(size + -size % PAGE, model, disks=[disk] if disk else ())
        self.machine.engine = Engine()
        self.memory = self.machine.memory
        self.heap_size = heap_size
        self.compiled_instructions = self.system_instructions = 0
        self._data, self._cells, self._timer_runs = DATA, CODE, False
        self._build_tables()
        self._boot()

    def _build_tables(self) -> None:
        memory, free = self.memory, iter(range(TABLES, 0xA_0000, PAGE))
        tables = PageTables(ia32_pse(32), memory, lambda size: next(free))
        for page in range(PAGE, memory.size, PAGE):
            if page != GUARD and not 0xA_0000 <= page < DATA:
                tables.map(page, page, writable=not CODE <= page < CODE_END, user=page >= DATA)
        self._root = tables.root
        for selector, access in ((SYSTEM_CODE, 0x9B), (SYSTEM_DATA, 0x93), (USER_CODE, 0xFB), (USER_DATA, 0xF3)):
            memory.write(GDT + (selector & ~RING3), 8, encode_descriptor(0, 0xFFFFFFFF, access))
        for vector in range(256):
            gate = encode_gate(SYSTEM_CODE, ENTRY + vector * ENTRY_BYTES, INTERRUPT_GATE32, RING3)
            memory.write(IDT + 8 * vector, 8, gate)
        memory.write(IDT + 8 * TIMER, 8, encode_gate(SYSTEM_CODE, _system().symbols["timer"], INTERRUPT_GATE32))
        memory.write_bytes(ENTRY, b"\xcf".ljust(ENTRY_BYTES, b"\x90") * 256)  # iret
        memory.write_bytes(SYSTEM, _system().code)
        memory.write(TSS + 4, 4, SYSTEM_STACK)
        memory.write(TSS + 8, 2, SYSTEM_DATA)
        memory.write(TSS + 0x66, 2, 0x68)  # no bitmap of ports: ring 3 may use none

    def _boot(self) -> None:
        """Do what an operating system has done when it starts a process."""
        cpu = self.machine.cpu
        cpu.gdtr_base, cpu.gdtr_limit, cpu.idtr_base, cpu.idtr_limit = GDT, 0x2F, IDT, 256 * 8 - 1
        cpu.set_cr3(self._root)
        cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
        cpu.segments[CS].set(SYSTEM_CODE, 0, 0xFFFFFFFF, 0x9B, big=True)
        cpu.segments[SS].set(SYSTEM_DATA, 0, 0xFFFFFFFF, 0x93, big=True)
        for segment in (DS, ES):  # as flat, and good in both rings
            cpu.segments[segment].set(USER_DATA, 0, 0xFFFFFFFF, 0xF3, big=True)
        cpu.tr.set(TASK, TSS, 0x67, 0x8B, big=False)
        cpu.code_changed()
        self.machine.host_entry = range(ENTRY, ENTRY + 256 * ENTRY_BYTES, ENTRY_BYTES)
        self.machine.in_host = True

    @property
    def reserved(self) -> int:
        """Address up to which `reserve` has set memory aside."""
        return self._data

    def reserve(self, size: int) -> int:
        """Set memory aside for good, for records, static fields and the cells of methods; return its address.

        Raises
        ------
        OptionError
            There is no more.
        """
        address = self._data
        self._data += size + -size % 4
        self._check_room()
        return address

    def reserve_cell(self) -> int:
        """Set two words aside, in which a place in compiled code keeps something: from the other end, as they come later."""
        self._cells -= 8
        self._check_room()
        return self._cells

    def _check_room(self) -> None:
        if self._data > self._cells:
            raise OptionError("the program's classes are too many: there are 256 KiB for records and static fields")

    # -- in and out --------------------------------------------------------------------------------------------------------

    def enter(self, ip: int, stack: int, frame: int, result: int = 0, budget: int = PIECE) -> CompiledTrap | None:
        """Let compiled code run until it traps; None where its instructions are used up before.

        Parameters
        ----------
        ip, stack, frame, result : int
            EIP, ESP, EBP and EAX.
        budget : int
            Instructions that it may retire.
        """
        cpu = self.machine.cpu
        top = SYSTEM_STACK - 20
        for place, value in enumerate((ip, USER_CODE, USER_FLAGS, stack, USER_DATA)):
            self.memory.write(top + 4 * place, 4, value)
        cpu.ip, cpu.registers[ESP], cpu.registers[EBP], cpu.registers[EAX] = ENTRY, top, frame, result
        return self._run(budget)

    def go_on(self, budget: int) -> CompiledTrap | None:
        """Let compiled code go on where its instructions were used up."""
        return self._run(budget)

    def _run(self, budget: int) -> CompiledTrap | None:
        machine = self.machine
        cpu, before = machine.cpu, machine.retired
        machine.in_host = False
        machine.run(budget)
        self.compiled_instructions += machine.retired - before
        if not machine.in_host:
            return None
        vector, top = (cpu.ip - ENTRY) // ENTRY_BYTES, cpu.registers[ESP]
        if vector in WITH_ERROR_CODE:
            top += 4
        ip, stack = self.memory.read(top, 4), self.memory.read(top + 12, 4)
        registers = cpu.registers[EAX], cpu.registers[ECX], cpu.registers[EDX], cpu.registers[EBX]
        return CompiledTrap(vector, ip, stack, cpu.registers[EBP], registers, cpu.cr2)

    def _call(self, routine: str, **registers: int) -> int:
        """Run a routine of system.asm to its end; return EAX."""
        machine = self.machine
        cpu, before = machine.cpu, machine.retired
        self.set_registers(**registers)
        cpu.ip, cpu.registers[ESP] = _system().symbols[routine], SYSTEM_STACK
        machine.in_host = False
        while not machine.in_host:
            machine.run(PIECE)
        self.system_instructions += machine.retired - before
        return cpu.registers[EAX]

    def set_registers(self, **values: int) -> None:
        """Set registers by their names."""
        for name, value in values.items():
            self.machine.cpu.registers[_REGISTERS[name]] = value

    # -- the system's services ---------------------------------------------------------------------------------------------

    def print(self, text: bytes) -> None:
        """Send bytes to the serial port."""
        for start in range(0, len(text), PAGE):
            piece = text[start : start + PAGE]
            self.memory.write_bytes(BUFFER, piece)
            self._call("print", ecx=len(piece))

    def read_sector(self, sector: int) -> bytes | None:
        """Read a sector of the disk; None where it cannot be read."""
        if not 0 <= sector < 1 << 28 or self._call("read", eax=sector):
            return None
        return self.memory.read_bytes(BUFFER, 512)

    def sleep(self) -> int:
        """Sleep until the next timer tick; return how many there have been."""
        if not self._timer_runs:
            self._timer_runs = True
            self._call("start_timer")
        return self._call("sleep")

    @property
    def console(self) -> str:
        """What the serial port was sent."""
        return bytes(self.machine.platform.uart.output).decode("utf-8", "replace")

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of the hardware, by cause."""
        cpu = self.machine.cpu
        costs = cpu.model.costs
        return {
            "compiled code": self.compiled_instructions * costs.instruction,
            "system": self.system_instructions * costs.instruction,
            "page walks": cpu.walk_references * costs.walk_reference,
            "traps": cpu.delivered * (costs.trap + costs.interrupt_return),
            "port accesses": cpu.port_accesses * costs.port_access,
        }

    def save(self) -> dict[str, Any]:
        """Save computer and memory as plain data."""
        return {
            "version": 1,
            "machine": self.machine.save(),
            "memory": self.memory.save(),
            "data": self._data,
            "cells": self._cells,
            "timer_runs": self._timer_runs,
            "compiled_instructions": self.compiled_instructions,
            "system_instructions": self.system_instructions,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` of a process with as large a heap gave.

        Raises
        ------
        StateError
            It is damaged.
        """
        counts = {"compiled_instructions": COUNT, "system_instructions": COUNT}
        parts = {"machine": dict, "memory": dict, "data": range(DATA, CODE + 1), "cells": range(DATA, CODE + 1)}
        parts["timer_runs"] = bool
        check_state(state, "process", parts | counts)
        before = self.memory.save()
        self.memory.load(state["memory"])
        try:
            self.machine.load(state["machine"])
        except Exception:
            self.memory.load(before)
            raise
        self._data, self._cells, self._timer_runs = state["data"], state["cells"], state["timer_runs"]
        for name in counts:
            setattr(self, name, state[name])


_REGISTERS = {"eax": EAX, "ebx": EBX, "ecx": ECX, "edx": EDX, "esi": ESI, "edi": EDI}
