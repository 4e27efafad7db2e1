"""minios, made to run a hundred times as long, under Unicorn: the same stream of instructions, with a Python hook on each.

Unicorn executes the instructions, the far transfers and IRET, the page walks and loads of CR3. What it lacks is done
here as hardware would: what devices answered, and before which instruction they interrupted, is replayed from a recording of our own run;
exceptions, INT and interrupts go through the guest's own IDT, GDT and TSS. That both ran the same stream is checked by
the console, the number of instructions and the whole memory at the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from struct import pack, unpack
from typing import TYPE_CHECKING, Any

from unicorn import UC_ARCH_X86, UC_HOOK_CODE, UC_HOOK_INSN, UC_HOOK_INTR, UC_MODE_32, Uc
from unicorn import x86_const as x86

import vmlab
import vmlab.guests
from vmlab.machine.trace import PortAccess, Trap
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    from vmlab.machine.image import Image
    from vmlab.machine.trace import Detail, Event
    from vmlab.vmm.system import System

__all__ = ["Peer", "Recorded", "ours", "record"]

MEMORY = 4 << 20
LIMIT = 50_000_000
SCREEN = range(0xB8000, 0xB9000)
TF, IF, NT, RF = 1 << 8, 1 << 9, 1 << 14, 1 << 16
CR0_PE = ACCESSED = 1
WITH_ERROR = frozenset({8, 10, 11, 12, 13, 14, 17})
FRAME = (x86.UC_X86_REG_EFLAGS, x86.UC_X86_REG_CS, x86.UC_X86_REG_EIP, x86.UC_X86_REG_ESP, x86.UC_X86_REG_SS)
GENERAL = [getattr(x86, f"UC_X86_REG_{name}") for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")]


@cache
def long_minios(first: int = 600, second: int = 300) -> Image:
    """Return minios with loops that end later: so many rounds for process 1 and for process 2."""
    source = vmlab.guests.source("minios")
    for short, long in (
        ("cmp dword [PRIVATE], 5", f"cmp dword [PRIVATE], {first}"),
        ("cmp dword [PRIVATE], 3", f"cmp dword [PRIVATE], {second}"),
    ):
        assert short in source
        source = source.replace(short, long)
    return vmlab.assemble(source)


def ours(engine: str = "auto", detail: Detail = "none") -> System:
    """Return the system of our own run."""
    return build(long_minios(), engine=engine, memory=MEMORY, max_instructions=LIMIT, detail=detail)


@dataclass
class Recorded:
    """What a run got from outside the processor, and how it ended.

    Attributes
    ----------
    entry : int
        EIP at the start.
    registers : list of int
        General registers at the start.
    memory, last : bytes
        All of memory at the start and at the end.
    answers : list of int
        What each IN read.
    interrupts : list of (int, int)
        After how many instructions an interrupt came, and its vector.
    faults : list of int
        Error code of each exception that has one.
    console : str
        What was printed.
    instructions : int
        Retired.
    """

    entry: int
    registers: list[int]
    memory: bytes
    answers: list[int] = field(default_factory=list)
    interrupts: list[tuple[int, int]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    console: str = ""
    instructions: int = 0
    last: bytes = b""


@cache
def record() -> Recorded:
    """Run minios on our machine and note all that came from outside the processor."""
    system = ours(detail="events")
    cpu, memory = system.machine.cpu, system.machine.memory
    found = Recorded(cpu.ip, list(cpu.registers[:8]), bytes(memory.data))

    def observe(event: Event) -> None:
        if isinstance(event, PortAccess) and not event.write:
            found.answers.append(event.value)
        elif isinstance(event, Trap) and event.name.startswith("interrupt"):
            found.interrupts.append((event.time, event.vector))
        elif isinstance(event, Trap) and event.error_code is not None:
            found.faults.append(event.error_code)

    system.trace.observers.append(observe)
    system.run()
    assert system.guests[0].outcome == "exit"
    found.console, found.instructions, found.last = system.guests[0].console, cpu.retired, bytes(memory.data)
    return found


class Peer:
    """Unicorn running minios.

    Parameters
    ----------
    recorded : Recorded
        What the devices did.
    """

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.uc: Any = Uc(UC_ARCH_X86, UC_MODE_32)
        self.answers, self.faults = iter(recorded.answers), iter(recorded.faults)
        self.console = bytearray()
        self.retired = 0
        self.ended = False
        uc = self.uc
        uc.mem_map(0, MEMORY)
        uc.mem_write(0, recorded.memory)
        uc.reg_write(x86.UC_X86_REG_EIP, recorded.entry)
        uc.reg_write_batch(list(zip(GENERAL, recorded.registers, strict=True)))
        uc.hook_add(UC_HOOK_INTR, self._interrupted)
        uc.hook_add(UC_HOOK_INSN, self._in, None, 1, 0, x86.UC_X86_INS_IN)
        uc.hook_add(UC_HOOK_INSN, self._out, None, 1, 0, x86.UC_X86_INS_OUT)

    # -- what devices do -----------------------------------------------------------------------------------------------

    def _in(self, _uc: Uc, _port: int, _size: int, _data: object) -> int:
        return next(self.answers)

    def _out(self, uc: Uc, port: int, _size: int, value: int, _data: object) -> None:
        if port == 0x3F8:
            self.console.append(value & 0xFF)
        elif port == 0xF4:
            self.ended = True
            uc.emu_stop()

    # -- what the processor does at an exception or interrupt ------------------------------------------------------------

    def _interrupted(self, uc: Uc, vector: int, _data: object) -> None:
        """An exception, or INT: EIP is that of the instruction, or of the next one."""
        if vector < 32:
            self.retired -= 1  # it was counted before it faulted
        self.deliver(vector, next(self.faults) if vector in WITH_ERROR else None, fault=vector < 32)

    def deliver(self, vector: int, error_code: int | None = None, *, fault: bool = False) -> None:
        """Enter the handler by an interrupt gate (SDM vol. 3, 6.12)."""
        uc = self.uc
        flags, cs, eip, esp, ss = uc.reg_read_batch(FRAME)
        _, idt, _, _ = uc.reg_read(x86.UC_X86_REG_IDTR)
        low, high = unpack("<II", uc.mem_read(idt + 8 * vector, 8))
        frame = [eip, cs, flags | RF if fault else flags]
        if error_code is not None:
            frame.insert(0, error_code)
        changes = []
        if cs & 3:
            frame += [esp, ss]
            _, task, _, _ = uc.reg_read(x86.UC_X86_REG_TR)
            esp, ss = unpack("<II", uc.mem_read(task + 4, 8))
            # Unicorn lets nobody load segments of an inner ring: except outside protected mode.
            cr0 = uc.reg_read(x86.UC_X86_REG_CR0)
            changes = [(x86.UC_X86_REG_CR0, cr0 & ~CR0_PE), (x86.UC_X86_REG_SS, 0), (x86.UC_X86_REG_CR0, cr0)]
            changes += [(x86.UC_X86_REG_SS, ss), (x86.UC_X86_REG_CS, low >> 16)]
        esp -= 4 * len(frame)
        uc.mem_write(esp, pack(f"<{len(frame)}I", *frame))
        changes += [(x86.UC_X86_REG_ESP, esp), (x86.UC_X86_REG_EFLAGS, flags & ~(TF | IF | NT | RF))]
        changes += [(x86.UC_X86_REG_EIP, high & 0xFFFF0000 | low & 0xFFFF)]
        for register, value in changes:
            uc.reg_write(register, value)

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> float:
        """Run to the end; return seconds."""
        uc = self.uc
        coming = [*self.recorded.interrupts, (LIMIT, 0)]
        coming.reverse()
        due, vector = coming.pop()

        def count(_uc: Uc, _address: int, _size: int, _data: object) -> None:
            nonlocal due, vector
            if self.ended:
                return
            if self.retired == due:
                self.deliver(vector)
                due, vector = coming.pop()
            else:
                self.retired += 1

        uc.hook_add(UC_HOOK_CODE, count)
        start = time.process_time()
        while not self.ended:
            uc.emu_start(uc.reg_read(x86.UC_X86_REG_EIP), 0xFFFFFFFF)
            if not self.ended:  # halted until there is an interrupt
                assert self.retired == due
                self.deliver(vector)
                due, vector = coming.pop()
        return time.process_time() - start

    def check(self) -> None:
        """Assert that this was the recorded stream: console, count, and memory.

        Two things differ: the screen is a device in our machine, and Unicorn's IRET does not set the accessed bit of a
        descriptor.
        """
        recorded = self.recorded
        found = bytearray(self.uc.mem_read(0, MEMORY))
        _, gdt, limit, _ = self.uc.reg_read(x86.UC_X86_REG_GDTR)
        for place in range(gdt + 5, gdt + limit, 8):
            found[place] |= recorded.last[place] & ACCESSED
        assert self.console.decode(errors="replace") == recorded.console
        assert self.retired == recorded.instructions
        assert not [*self.answers, *self.faults]
        assert found[: SCREEN.start] == recorded.last[: SCREEN.start]
        assert found[SCREEN.stop :] == recorded.last[SCREEN.stop :]
