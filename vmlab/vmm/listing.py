"""Listings of guest code: the disassembly around an address, as the guest's own page tables map it.

A listing starts at the nearest symbol before the address (or at the address itself, where none is near), so that
the sweep is in step with the code. It is cut again at every symbol: data between functions cannot put it out of
step for long. Listings are kept by their bytes: code that changes itself gets a new one.

Simplified: a linear sweep (no control flow); what does not decode is shown as `db`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from vmlab.isa.x86.disassembler import disassemble
from vmlab.isa.x86.instruction import Privilege

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.machine.image import Image
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest

__all__ = ["Listings", "labels_of", "read_code"]

REACH = 512  # bytes: how far before an address a symbol may lie to start the listing there
LENGTH = 320  # bytes shown after the address
LONGEST = 15  # bytes of the longest instruction
PAGE = 0x1000
HALF = 0x0FFF_FFFF
MARKS = {Privilege.INNOCUOUS: "", Privilege.PRIVILEGED: "p", Privilege.SENSITIVE: "s"}

Line = tuple[int, str, str, str]
"""Address, label, text, mark (`p` privileged, `s` sensitive but unprivileged)."""


def read_code(guest: Guest, address: int, length: int, vcpu: Processor | None = None) -> bytes:
    """Read guest memory at a linear address, without a trace in the machine; as far as it is mapped.

    It is looked at from one of the guest's processors: that which runs, if no other is given.
    """
    vcpu = vcpu or guest.vcpu
    data = bytearray()
    while len(data) < length:
        at = address + len(data) & vcpu.address_mask
        count = min(length - len(data), PAGE - at % PAGE)
        physical = vcpu.look_up(at)
        if physical is None or physical >= vcpu.memory.size:
            break
        count = min(count, vcpu.memory.size - physical)
        data += vcpu.memory.read_bytes(physical, count)
    return bytes(data)


def labels_of(image: Image) -> dict[str, int]:
    """Return the symbols of an image that lie in it: labels, but no other constants of the source.

    A kernel may be linked for the upper half: its symbols lie in it but for a multiple of 256 MiB, which it maps there.
    """
    inside = [range(segment.address, segment.end) for segment in image.segments]
    return {
        name: value
        for name, value in image.symbols.items()
        if any(value in part or value & HALF in part for part in inside)
    }


class Listings:
    """Listings of one guest's code, each with a name by which scenes refer to it.

    Parameters
    ----------
    name : str
        Prefix of the listings' names.
    symbols : mapping of str to int
        Labels of the image's code and data.
    """

    def __init__(self, name: str, symbols: Mapping[str, int]) -> None:
        self.name = name
        self.labels: dict[int, str] = {}
        for label, address in symbols.items():
            self.labels.setdefault(address, label)
        self.starts = sorted(self.labels)
        self.lines: dict[str, list[Line]] = {}
        self.last = ""
        self._by_address: dict[tuple[int, int], tuple[str, bytes]] = {}
        self._by_bytes: dict[tuple[int, bytes, int], str] = {}

    def at(self, guest: Guest, address: int, vcpu: Processor | None = None) -> str:
        """Return the name of a listing that shows the instruction at `address` as it is now, empty if unmapped."""
        vcpu = vcpu or guest.vcpu
        code = read_code(guest, address, LONGEST, vcpu)
        if not code:
            return ""
        bits = vcpu.fetch_bits
        known = self._by_address.get((address, bits))
        if known and code.startswith(known[1]):
            return known[0]
        start = self._start(address)
        data = read_code(guest, start, address - start + LENGTH, vcpu)
        if len(data) <= address - start:  # a hole between the symbol and here
            start, data = address, read_code(guest, address, LENGTH, vcpu)
        name = self._by_bytes.get((start, data, bits))
        if name is None or all(line[0] != address for line in self.lines[name]):
            name = f"{self.name}:{len(self.lines)}"
            self._by_bytes[start, data, bits] = name
            self.lines[name] = self._sweep(start, data, address, bits)
        return name

    def text(self, guest: Guest, address: int, vcpu: Processor | None = None) -> str:
        """Return the instruction at `address` as text, empty if unmapped."""
        lines = self.lines.get(self.at(guest, address, vcpu), ())
        return next((line[2] for line in lines if line[0] == address), "")

    def place(self, address: int) -> str:
        """Name an address by the label before it, as `label+0x12`; empty if none is near."""
        start = self._start(address)
        label = self.labels.get(start)
        if label is None:
            return ""
        return label if start == address else f"{label}+{address - start:#x}"

    def _start(self, address: int) -> int:
        index = bisect_right(self.starts, address)
        near = index and address - self.starts[index - 1] <= REACH
        return self.starts[index - 1] if near else address

    def _sweep(self, start: int, data: bytes, address: int, bits: int) -> list[Line]:
        """Disassemble code of 16, 32 or 64 bits; begin anew at each symbol and at the address itself."""
        cuts = sorted({start, address, *(label for label in self.starts if start < label < start + len(data))})
        lines: list[Line] = []
        name = f"{self.name}:{len(self.lines)}"
        for cut, end in zip(cuts, [*cuts[1:], start + len(data)], strict=True):
            for line in disassemble(data[cut - start : end - start], cut, bits, self.labels):
                mark = MARKS[line.instruction.privilege] if line.instruction else ""
                lines.append((line.address, self.labels.get(line.address, ""), line.text, mark))
                self._by_address[line.address, bits] = (name, line.raw)
        return lines
