"""What a debugger shows of an instant: code with its symbols, registers, stack, memory, all as the guest sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.disassembler import disassemble
from vmlab.isa.x86.registers import ESP, SS
from vmlab.machine.recordable import check_guest
from vmlab.machine.recording import Recording
from vmlab.vmm.condition import Condition, evaluate
from vmlab.vmm.listing import Listings, labels_of
from vmlab.vmm.viewpoint import Viewpoint

if TYPE_CHECKING:
    from vmlab.vmm.listing import Line

__all__ = ["Inspector"]

ROW = 16
LONGEST = 15
MOST_BYTES = 1 << 16


def check_number(what: str, value: object, most: int, least: int = 1) -> None:
    """Refuse a number of something that is none, or too large."""
    if type(value) is not int or not least <= value <= most:
        raise OptionError(f"a number {what} is an int from {least} to {most}, not {value!r}")


class Inspector:
    """Looks at the instant at which a recording's cursor stands.

    Parameters
    ----------
    recording : Recording
        What to look at.
    guest : int
        Whose code, registers and memory.

    Raises
    ------
    OptionError
        It is no recording, or has no such guest.
    """

    def __init__(self, recording: Recording, guest: int = 0) -> None:
        if not isinstance(recording, Recording):
            raise OptionError(f"a debugger needs a Recording, from vmlab.record(...), not {type(recording).__name__}")
        guests = recording.system.guests
        check_guest(guest, len(guests))
        self.recording = recording
        self.view = Viewpoint(recording.system, guest)
        self.symbols = labels_of(guests[guest].image)
        self.listings = Listings(str(guest), self.symbols)

    @property
    def position(self) -> int:
        """The cursor."""
        return self.recording.position

    @property
    def stack_pointer(self) -> int:
        """ESP."""
        return self.view.cpu.registers[ESP]

    @property
    def mnemonic(self) -> str:
        """The next instruction without its operands."""
        return self.instruction().split(" ")[0]

    @property
    def following(self) -> int:
        """Linear address of the instruction after the next one, in memory."""
        address = self.view.address
        line = disassemble(self.view.read(address, LONGEST), address, bits=self.view.cpu.fetch_bits)[0]
        return line.address + len(line.raw)

    def instruction(self) -> str:
        """Return the next instruction as text."""
        return self.listings.text(self.view.guest, self.view.address)

    def listing(self, before: int = 6, after: int = 10) -> list[Line]:
        """Return lines of code around the next instruction: address, label, text, mark."""
        check_number("of lines", before, MOST_BYTES, least=0)
        check_number("of lines", after, MOST_BYTES, least=0)
        guest, address = self.view.guest, self.view.address
        lines = self.listings.lines.get(self.listings.at(guest, address), [])
        here = next((index for index, line in enumerate(lines) if line[0] == address), 0)
        return lines[max(0, here - before) : here + after + 1]

    def place(self, address: int | None = None) -> str:
        """Name an address (or that of the next instruction) by the symbol before it."""
        if address is not None and type(address) is not int:
            raise OptionError(f"an address to be named is an int, not {address!r}")
        return self.listings.place(self.view.address if address is None else address)

    def registers(self) -> dict[str, int]:
        """Return the registers by name."""
        return self.view.registers()

    def flags(self) -> str:
        """Name the flags that are set."""
        return self.view.describe_flags()

    def stack(self, count: int = 8) -> list[tuple[int, int, str]]:
        """Return address, value, and the symbol that the value is near, for values from the top of the stack."""
        check_number("of values", count, MOST_BYTES // 8)
        cpu = self.view.cpu
        size = cpu.fetch_bits // 8 if cpu.fetch_bits == 64 else 4
        top = cpu.registers[ESP] + self.view.vcpu.segments[SS].base & (1 << 8 * size) - 1
        data = self.view.read(top, size * count)
        values = [int.from_bytes(data[n : n + size], "little") for n in range(0, len(data) // size * size, size)]
        return [(top + n * size, value, self.place(value)) for n, value in enumerate(values)]

    def value(self, expression: str) -> int:
        """Return what an expression is worth now, as `"eax"`, `"[counter]"`, `"byte[esi + 1]"`.

        Raises
        ------
        OptionError
            It cannot be read.
        """
        return Condition(expression, self.symbols).value(self.view)

    def memory(self, where: int | str, count: int = 64, *, physical: bool = False) -> list[tuple[int, bytes]]:
        """Return memory as rows of 16 bytes with their addresses; shorter, or none, where nothing is mapped.

        Parameters
        ----------
        where : int or str
            A number, or an expression of registers and symbols, as `"esp + 8"`.
        count : int
            Bytes.
        physical : bool
            Whether the address is guest-physical, not linear.
        """
        check_number("of bytes", count, MOST_BYTES)
        address = evaluate(where, self.view, self.symbols)
        memory = self.view.guest.memory
        rows = []
        end = min(address + count, 1 << self.view.bits)  # addresses do not go on at 0
        for at in range(address, end, ROW):
            size = min(ROW, end - at)
            if physical:
                data = memory.read_bytes(at, min(size, memory.size - at)) if at < memory.size else b""
            else:
                data = self.view.read(at, size)
            rows.append((at, bytes(data)))
        return rows
