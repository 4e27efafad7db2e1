"""A general-purpose operating system as the host: processes in ring 3 of the real processor, beside the virtual machines.

Its kernel is host software written in Python, as our hypervisors are; its processes are real machine code, the same program
that the guest `workload` runs. The kernel has page tables for each process (its own half for itself alone), an IDT whose gates
lead to it, a task state segment with its stack, and the computer's disk.

    address space of a process: [ 0 kernel's | 0x400000 program | a page of stack | heap … 0x800000 | kernel's … ]

Calls of the system, by INT 0x80, are those of `vmlab/guests/workload.asm`: number in EAX, arguments in EBX and ECX.

Simplified: 32-bit processes without signals and files; a read of the disk does not let another process run.

Read more: Intel SDM vol. 3, 6.12 and 6.14 (delivery of interrupts, in 64-bit mode); `vmlab.vmm.host_frames`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.errors import OptionError
from vmlab.isa.x86.descriptors import INTERRUPT_GATE64, encode_descriptor, encode_gate
from vmlab.isa.x86.faults import PF, vector_name
from vmlab.isa.x86.registers import CS, DS, EAX, EBX, ECX, ES, ESP, FIXED, FS, GS, IF, SS
from vmlab.kinds.process import BASE, END, Process
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.page_formats import four_level
from vmlab.machine.page_tables import PageTables
from vmlab.machine.state import COUNT, Entries, Items, check_state
from vmlab.vmm.host_frames import HOST_CODE, LARGE, TASK_BYTES, HostFrames

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.kinds.host_disk import HostDisk
    from vmlab.machine.machine import Machine

__all__ = ["SYSTEM_CALL", "HostOs"]

ENTRY_BYTES = 8
VECTORS = 256
USER_CODE, USER_DATA = 0x28 | 3, 0x30 | 3
CODE_32, DATA_3 = 0xFB, 0xF3
SYSTEM_CALL = 0x80
WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})
FLAGS = 0x0CD5  # OF, DF, SF, ZF, AF, PF, CF: what a process may change
TICK = 3_000
"""Instructions of the processor in a tick of the host's timer, as in the guest `workload`."""
SECTOR = 512
LONGEST_TEXT = 4096
LARGEST_PROGRAM = 1 << 16
MOST_TABLES = 2
"""Frames that mapping a page may take: for itself, and for a page table."""
LEAST = 8
"""Frames of the smallest process: page tables, program, stack."""
MASK = ERROR = 0xFFFFFFFF


class HostOs:
    """The kernel of a host's operating system.

    Parameters
    ----------
    machine : Machine
        The computer.
    frames : HostFrames
        The kernel's page tables, descriptor tables and stack.
    pool : list of int
        Host-physical addresses of frames that it can give to processes.
    disk : HostDisk
        Its driver.

    Attributes
    ----------
    processes : list of Process
        All that were started.
    running : Process or None
        The one that has, or had last, the processor.
    counters : Counter
        `"system calls"`, `"page faults"`, `"interrupts"`, `"context switches"`, `"disk reads"`.
    idle : int
        Virtual time in which everybody has slept.
    entries : range
        Addresses at which its gates lead into it.
    """

    def __init__(self, machine: Machine, frames: HostFrames, pool: list[int], disk: HostDisk) -> None:
        self._machine, self._frames, self._disk = machine, frames, disk
        self.pool = pool
        self.processes: list[Process] = []
        self.running: Process | None = None
        self.counters: Counter[str] = Counter()
        self._tables: dict[int, PageTables] = {}
        self._since = self.idle = 0
        self.entries = range(frames.entry, frames.entry + VECTORS * ENTRY_BYTES, ENTRY_BYTES)
        memory = machine.memory
        memory.write(frames.gdt + (USER_CODE & ~3), 8, encode_descriptor(0, 0xFFFFFFFF, CODE_32))
        memory.write(frames.gdt + (USER_DATA & ~3), 8, encode_descriptor(0, 0xFFFFFFFF, DATA_3))
        memory.write(frames.tss + 4, 8, frames.stack_top)
        memory.write(frames.tss + 0x66, 2, TASK_BYTES)
        for vector, entry in enumerate(self.entries):
            gate = encode_gate(HOST_CODE, entry, INTERRUPT_GATE64, dpl=3 if vector == SYSTEM_CALL else 0)
            memory.write_bytes(frames.idt + 16 * vector, gate.to_bytes(16, "little"))

    # -- processes -------------------------------------------------------------------------------------------------------

    def start(self, name: str, program: object) -> Process:
        """Load a program at `BASE` and make a process of it.

        Raises
        ------
        OptionError
            It is none, or there is no memory for it.
        """
        if not isinstance(program, bytes) or not 0 < len(program) <= LARGEST_PROGRAM:
            raise OptionError(f"a program is 1 to {LARGEST_PROGRAM} bytes of machine code, not {program!r:.40}")
        if len(self.pool) < LEAST + len(program) // PAGE_SIZE:
            raise OptionError(f"the host has no memory for a process more: {len(self.processes)} were started")
        memory = self._machine.memory
        format_ = four_level(self._machine.cpu.model.physical_bits, no_execute=False, gigabyte_pages=False)
        tables = PageTables(format_, memory, self._allocate)
        for address in range(0, memory.size, LARGE):
            if not BASE <= address < END:
                tables.map(address, address, LARGE, user=False)
        process = Process(name, len(self.processes) + 1, tables.root)
        self._tables[process.pid] = tables
        for offset in range(0, len(program), PAGE_SIZE):
            self._map(process, BASE + offset)
            memory.write_bytes(process.pages[BASE + offset], program[offset : offset + PAGE_SIZE])
        stack = BASE + -(-len(program) // PAGE_SIZE) * PAGE_SIZE
        self._map(process, stack)
        process.brk = process.registers[ESP] = stack + PAGE_SIZE
        self.processes.append(process)
        return process

    def _allocate(self, size: int = PAGE_SIZE) -> int:
        """Take a frame of the pool, cleared."""
        assert size == PAGE_SIZE, "frames are taken one by one"
        frame = self.pool.pop()
        self._machine.memory.write_bytes(frame, bytes(PAGE_SIZE))
        return frame

    def _map(self, process: Process, address: int) -> bool:
        """Give a process a page, cleared; False where there is no memory left."""
        if len(self.pool) < MOST_TABLES:
            return False
        frame = self._allocate()
        self._tables[process.pid].map(address, frame)
        process.pages[address] = frame
        return True

    def end(self, process: Process, outcome: str) -> None:
        """Take a process's memory back; its kernel leaves its address space before."""
        cpu = self._machine.cpu
        if cpu.cr3 == process.root:
            cpu.set_cr3(self._frames.root)
        process.outcome = outcome
        self.pool += process.pages.values()
        process.pages.clear()
        tables = self._tables.pop(process.pid, None)
        if tables is not None:
            self.pool += tables.tables

    def can_run(self, process: Process, time: int) -> bool:
        """Say whether a process can be given the processor at a virtual time."""
        return process.outcome is None and process.wake <= time

    def next_wake(self) -> int | None:
        """Return the virtual time at which the next process will wake; None where none sleeps."""
        return min((each.wake for each in self.processes if each.outcome is None), default=None)

    def enter(self, process: Process) -> None:
        """Go to a process in ring 3, as by IRET: its address space, segments, registers."""
        cpu = self._machine.cpu
        if process is not self.running:
            self.counters["context switches"] += 1
        self.running, self._since = process, cpu.retired
        cpu.set_cr3(process.root)
        cpu.registers[:8] = process.registers
        cpu.segments[CS].set(USER_CODE, 0, 0xFFFFFFFF, CODE_32, big=True)
        for segment in (SS, DS, ES):
            cpu.segments[segment].set(USER_DATA, 0, 0xFFFFFFFF, DATA_3, big=True)
        for segment in (FS, GS):
            cpu.segments[segment].set(0, 0, 0, 0, big=False)
        cpu.ip, cpu.flags = process.ip, process.flags
        cpu.code_changed()

    # -- traps -----------------------------------------------------------------------------------------------------------

    def take(self, timer_vector: int) -> str:
        """Do what the trap asks for that has led out of the running process; return what it was, in a few words."""
        process, cpu, memory = self.running, self._machine.cpu, self._machine.memory
        assert process is not None, "no process has run"
        vector = self.entries.index(cpu.ip)
        top = cpu.registers[ESP] + 8 * (vector in WITH_ERROR_CODE)
        process.registers = [value & MASK for value in cpu.registers[:8]]
        process.ip, _, process.flags, process.registers[ESP], _ = (memory.read(top + 8 * n, 8) for n in range(5))
        process.flags = process.flags & FLAGS | FIXED | IF
        process.instructions += cpu.retired - self._since
        if vector == SYSTEM_CALL:
            self.counters["system calls"] += 1
            return self._call(process)
        if vector == timer_vector:
            self.counters["interrupts"] += 1
            return "its time is over"
        if vector == PF and process.pages and self._page_fault(process, cpu.cr2):
            return "page fault"
        self.end(process, "killed")
        return f"{vector_name(vector)}: killed"

    def _page_fault(self, process: Process, address: int) -> bool:
        """Map a page that a process touches for the first time; False where it has no business there."""
        page = address & -PAGE_SIZE
        if not BASE <= page < process.brk or page in process.pages:
            return False
        if not self._map(process, page):
            return False
        self.counters["page faults"] += 1
        process.faults += 1
        return True

    def _place(self, process: Process, address: int) -> int | None:
        """Return where a byte of a process's memory lies; a page that is touched for the first time is mapped."""
        page = address & -PAGE_SIZE
        if page not in process.pages and not self._page_fault(process, address):
            return None
        return process.pages[page] | address & PAGE_SIZE - 1

    # -- system calls ------------------------------------------------------------------------------------------------------

    def _call(self, process: Process) -> str:
        """Do a system call; a number that there is not is an error."""
        number, registers = process.registers[EAX], process.registers
        call = self._CALLS.get(number)
        if call is None:
            registers[EAX] = ERROR
            return f"system call {number}: there is none"
        name, act = call
        process.calls[name] += 1
        registers[EAX] = act(self, process, registers[EBX], registers[ECX]) & MASK
        return f"system call {name}"

    def _exit(self, process: Process, _status: int, _: int) -> int:
        self.end(process, "exit")
        return 0

    def _print(self, process: Process, text: int, _: int) -> int:
        for address in range(text, text + LONGEST_TEXT):
            place = self._place(process, address & MASK)
            if place is None:
                return ERROR
            value = self._machine.memory.read(place, 1)
            if not value:
                break
            process.output.append(value)
        return 0

    def _put(self, process: Process, character: int, _: int) -> int:
        process.output.append(character & 0xFF)
        return 0

    def _pid(self, process: Process, *_: int) -> int:
        return process.pid

    def _ticks(self, *_: Any) -> int:  # noqa: ANN401 - nobody's
        return self.time // TICK

    def _sleep(self, process: Process, ticks: int, _: int) -> int:
        process.wake = (self.time // TICK + ticks) * TICK
        return 0

    def _read(self, process: Process, sector: int, buffer: int) -> int:
        places = [self._place(process, buffer + offset & MASK) for offset in range(SECTOR)]
        if None in places or sector >= self._disk.sectors:
            return ERROR
        self.counters["disk reads"] += 1
        for place, value in zip(places, self._disk.read(sector), strict=True):
            self._machine.memory.write(place or 0, 1, value)
        return 0

    def _more(self, process: Process, pages: int, _: int) -> int:
        start = process.brk
        if start + pages * PAGE_SIZE > END:
            return ERROR
        process.brk += pages * PAGE_SIZE
        return start

    _CALLS: ClassVar[dict[int, tuple[str, Callable[..., int]]]] = {
        0: ("exit", _exit), 1: ("print", _print), 2: ("putchar", _put), 3: ("getpid", _pid), 4: ("ticks", _ticks),
        5: ("sleep", _sleep), 6: ("read", _read), 7: ("more", _more),
    }  # fmt: skip

    # -- state -----------------------------------------------------------------------------------------------------------

    @property
    def time(self) -> int:
        """Virtual time of the host: instructions of its processor, and time in which it has slept."""
        return self._machine.retired + self.idle

    def save(self) -> dict[str, Any]:
        """Save all but memory."""
        return {
            "version": 1,
            "processes": [each.save() for each in self.processes],
            "running": None if self.running is None else self.running.pid,
            "pool": list(self.pool),
            "counters": dict(self.counters),
            "since": self._since,
            "idle": self.idle,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        count = len(self.processes)
        numbers = {"since": COUNT, "idle": COUNT, "running": (range(1, count + 1), type(None))}
        check_state(
            state,
            "host OS",
            {"processes": Items(dict, count), "pool": Items(COUNT), "counters": Entries(str, COUNT), **numbers},
        )
        for process, saved in zip(self.processes, state["processes"], strict=True):
            process.load(saved)
        self.pool[:] = state["pool"]
        running = state["running"]
        self.running = None if running is None else self.processes[running - 1]
        self.counters, self._since, self.idle = Counter(state["counters"]), state["since"], state["idle"]
