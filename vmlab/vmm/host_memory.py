"""The memory of a hypervisor: frames of its own, and the window of linear addresses that shows them.

The window is in every guest's page tables, for the hardware, and for nobody else. The processor finds the IDT, the GDT, the
TSS and the stack of ring 0 by linear address, through whatever page tables are loaded. A VMM must therefore keep a small window in every address space: here the last 4 MiB, with supervisor
pages, which a deprivileged guest cannot touch. A guest that uses these addresses itself traps, and its access is
emulated on its own memory.

Read more: Adams and Agesen, ASPLOS 2006, 3.1 (VMware put its window in the same place).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate
from vmlab.isa.x86.registers import CS, ESP, SS
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.paging import ACCESSED, DIRTY, GLOBAL, PRESENT, USER, WRITABLE
from vmlab.machine.state import Items, check_state

if TYPE_CHECKING:
    from vmlab.machine.machine import Machine
    from vmlab.machine.memory import PhysicalMemory

__all__ = ["HOST_BASE", "HostMemory", "host_bytes", "room_for"]

HOST_BASE = 0x100000
"""Host-physical address from which the hypervisor's frames are taken; below lies the VGA hole."""

GUEST_FRAMES = 256
"""Frames for what the hypervisor keeps of one VCPU: shadow page tables, shadow descriptor tables."""
OWN_FRAMES = 256
"""Frames for its own structures."""
DESCRIPTOR_PAGES = 32
"""Pages of the window for the descriptor tables of one VCPU."""
MOST_VCPUS = 31
"""VCPUs whose descriptor tables fit into the window."""

WINDOW = 0xFFC00000
ENTRY_BYTES = 8
TSS_BYTES = 0x68

SUPERVISOR = PRESENT | WRITABLE | ACCESSED | DIRTY | GLOBAL
SHOWN = PRESENT | USER | ACCESSED | DIRTY


def room_for(vcpus: int) -> int:
    """Return how many pages of the window are left for each VCPU beside its descriptor tables; 0 or less where none are."""
    return MOST_VCPUS * DESCRIPTOR_PAGES // vcpus - DESCRIPTOR_PAGES


def host_bytes(vcpus: int, shown: int = 0) -> int:
    """Return how many bytes from `HOST_BASE` on are set aside for the hypervisor.

    Parameters
    ----------
    vcpus : int
        How many there will be, of all guests.
    shown : int
        Pages for each that the guests' kernels are to see in the window.

    Raises
    ------
    OptionError
        Too many VCPUs.

    Examples
    --------
    >>> hex(host_bytes(2))
    '0x300000'
    """
    most = MOST_VCPUS * DESCRIPTOR_PAGES // (DESCRIPTOR_PAGES + shown)
    if vcpus > most:
        raise OptionError(
            f"{vcpus} virtual CPUs are too many: the guests of this hypervisor have at most {most} together"
        )
    return OWN_FRAMES + vcpus * (GUEST_FRAMES + shown) << PAGE_SHIFT


class HostMemory:
    """Frames of the hypervisor and the window that shows some of them.

    Parameters
    ----------
    memory : PhysicalMemory
        The computer's.
    size : int
        Bytes from `HOST_BASE` on that are the hypervisor's.
    shows : bool
        True where a guest's kernel, in ring 3, is to see some pages of the window.

    Attributes
    ----------
    addresses : range
        Host-physical addresses of its frames.
    free : list of int
        Those that nobody uses.
    window_tables : dict of int to list of int
        Host-physical addresses of the page tables behind the window, by the number of levels of the format (2, and 3 for
        PAE); every shadow root leads to them.
    window_directory : int
        Host-physical address of the PAE page directory of the last GiB where there is nothing but the window.
    kernel_tables, kernel_directory : dict of int to list of int, int
        The same for a guest's kernel; no others where it is to see nothing.
    idt, tss, stack_top, entry : int
        Linear addresses of the interrupt descriptor table, the task state segment, the end of the ring-0 stack and
        the first entry point.
    """

    def __init__(self, memory: PhysicalMemory, size: int, *, shows: bool = False) -> None:
        self.memory = memory
        self.addresses = range(HOST_BASE, HOST_BASE + size, PAGE_SIZE)
        self.free = list(reversed(self.addresses))
        self._next = WINDOW
        self.window_tables, self.window_directory = self._build_tables(0)
        self.shows = shows
        self.kernel_tables, self.kernel_directory = self.window_tables, self.window_directory
        if shows:
            self.kernel_tables, self.kernel_directory = self._build_tables(USER)
        self.idt = self.map_new(1)
        self.tss = self.map_new(1)
        self.stack_top = self.map_new(1) + PAGE_SIZE
        self.entry = self.map_new(1)

    def _build_tables(self, rights: int) -> tuple[dict[int, list[int]], int]:
        tables, directory = {2: [self.allocate()], 3: [self.allocate(), self.allocate()]}, self.allocate()
        for n, table in enumerate(tables[3]):
            entry = table | PRESENT | WRITABLE | ACCESSED | rights
            self.memory.write(directory + PAGE_SIZE - 16 + 8 * n, 8, entry)
        return tables, directory

    def allocate(self) -> int:
        """Take a frame, cleared; return its host-physical address."""
        address = self.free.pop()
        self.memory.write_bytes(address, bytes(PAGE_SIZE))
        return address

    def release(self, address: int) -> None:
        """Give a frame back."""
        self.free.append(address)

    def map_new(self, pages: int) -> int:
        """Take frames and show them in the window, one after the other; return their linear address."""
        return self._map(pages, SUPERVISOR, [self.window_tables, self.kernel_tables])

    def show_new(self, pages: int, *, writable: bool = False) -> int:
        """The same for what a guest's kernel is to see, in ring 3, and its user is not."""
        return self._map(pages, SHOWN | (WRITABLE if writable else 0), [self.kernel_tables])

    def _map(self, pages: int, rights: int, views: list[dict[int, list[int]]]) -> int:
        linear = self._next
        for _ in range(pages):
            page, entry = self._next - WINDOW >> PAGE_SHIFT, self.allocate() | rights
            for tables in views:
                self.memory.write(tables[2][0] + 4 * page, 4, entry)
                self.memory.write(tables[3][page >> 9] + 8 * (page & 0x1FF), 8, entry)
            self._next += PAGE_SIZE
        return linear

    def host_address(self, linear: int) -> int:
        """Return the host-physical address behind a linear address of the window."""
        entry = self.memory.read(self.kernel_tables[2][0] + (linear - WINDOW >> PAGE_SHIFT) * 4, 4)
        return entry & ~0xFFF | linear & 0xFFF

    def write(self, linear: int, size: int, value: int) -> None:
        """Write to the window."""
        self.memory.write(self.host_address(linear), size, value)

    def write_bytes(self, linear: int, data: bytes) -> None:
        """Write a run of bytes to the window."""
        while data:
            room = PAGE_SIZE - (linear & PAGE_SIZE - 1)
            self.memory.write_bytes(self.host_address(linear), data[:room])
            linear, data = linear + room, data[room:]

    def read_bytes(self, linear: int, length: int) -> bytes:
        """Read a run of bytes from the window."""
        pieces = []
        while length:
            room = min(length, PAGE_SIZE - (linear & PAGE_SIZE - 1))
            pieces.append(self.memory.read_bytes(self.host_address(linear), room))
            linear, length = linear + room, length - room
        return b"".join(pieces)

    def read(self, linear: int, size: int) -> int:
        """Read from the window."""
        return self.memory.read(self.host_address(linear), size)

    def launch(self, machine: Machine, timer_vector: int, code: int, stack: int) -> None:
        """Fill IDT and TSS, and let the processor be in ring 0 with flat segments, as a boot loader leaves it.

        Paging comes on with the first guest's root.

        Parameters
        ----------
        machine : Machine
            The computer.
        timer_vector : int
            Vector of the counter's interrupt.
        code, stack : int
            Selectors of the hypervisor's segments.
        """
        self._build_idt(code)
        self._build_tss(stack)
        cpu = machine.cpu
        machine.host_entry = self.entries
        machine.counter_vector = timer_vector
        cpu.idtr_base, cpu.idtr_limit = self.idt, 256 * 8 - 1
        cpu.segments[CS].selector, cpu.segments[SS].selector = code, stack
        cpu.registers[ESP] = self.stack_top

    def _build_idt(self, selector: int) -> None:
        """Fill the IDT: each vector enters ring 0 at an entry point of its own."""
        for vector in range(256):
            gate = encode_gate(selector, self.entry + vector * ENTRY_BYTES, INTERRUPT_GATE32)
            self.write(self.idt + vector * 8, 8, gate)

    def _build_tss(self, stack_selector: int) -> None:
        """Fill the TSS: the stack of ring 0, and no bitmap of ports that ring 3 may use (SDM vol. 3, figure 8-2)."""
        self.write(self.tss + 4, 4, self.stack_top)
        self.write(self.tss + 8, 2, stack_selector)
        self.write(self.tss + 0x66, 2, TSS_BYTES)

    @property
    def entries(self) -> range:
        """Linear addresses of the entry points, by vector."""
        return range(self.entry, self.entry + 256 * ENTRY_BYTES, ENTRY_BYTES)

    def save(self) -> dict[str, object]:
        """Save which frames are free; their contents are in memory."""
        return {"version": 1, "free": list(self.free)}

    def load(self, state: dict[str, object]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        self.free = list(check_state(state, "host memory", {"free": Items(self.addresses)})["free"])
