"""The text of a translated region while it is written: lines, whose they are, and where the flags are.

Memory is reached through two dictionaries of the processor, `rd` and `wr` (see
`vmlab.machine.memory_access.MemoryAccess.quicken`): from the start of a page, or of a line of 256 bytes for writes, to
what is added to a linear address to get the place in RAM. The key keeps the low bits that an aligned address has not, so that an
access that is not aligned, one beyond 4 GiB, one to another kind of page, and a write to code all end in the same KeyError:
the interpreter then does that instruction. An instruction that met it often is *careful* the next time it is translated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmlab.isa.x86.operands import Immediate, Memory, Operand, Register8, Register16, Register32
from vmlab.isa.x86.registers import GS
from vmlab.machine.page_maps import FULL
from vmlab.machine.translator.flags import AT_REST, HEAD, STORED, Pending, Producer, condition, formula

__all__ = ["MASK", "Writer", "address", "read"]

MASK = 0xFFFFFFFF
VIEWS = {8: ("data", 0), 16: ("view16", 1), 32: ("view32", 2)}
PAGE_KEY = {8: -0x1000, 16: -0xFFF, 32: -0xFFD}
LINE_KEY = {8: -0x100, 16: -0xFF, 32: -0xFD}
NEAR = 1 << 16
STACK_POINTER = 4
AT_HEAD = Pending(HEAD, HEAD)
UNUSED = "@unused"
"""A line that is left out."""

Known = tuple[Pending, int, dict[int, tuple[str, int]]]


@dataclass(slots=True)
class Writer:
    """The lines of one region.

    Attributes
    ----------
    lines : list of str
        Python, without the outermost indentation; `@flags` stands for the flags of a block's head.
    owners : list of int
        For each line, the number of the instruction that it belongs to.
    points : list of Pending
        For each instruction, where the flags are before it.
    pending : Pending
        Where they are now.
    number : int
        The instruction being written.
    careful : bool
        True where it is one whose accesses may be out of the ordinary.
    unseen : bool
        True where the flags that it sets are set again before anyone can look.
    depth : int
        ESP, from where it was at the label.
    slots : dict
        What has been pushed and nobody can have changed: depth → (constant, -1), or (local, line that sets it).
    """

    lines: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    points: list[Pending] = field(default_factory=list)
    pending: Pending = AT_HEAD
    number: int = 0
    indent: int = 0
    careful: bool = False
    unseen: bool = False
    depth: int = 0
    slots: dict[int, tuple[str, int]] = field(default_factory=dict)
    hidden: dict[int, str] = field(default_factory=dict)

    @property
    def known(self) -> Known:
        """What is known here, and not behind a jump elsewhere."""
        return self.pending, self.depth, dict(self.slots)

    @known.setter
    def known(self, value: Known) -> None:
        self.pending, self.depth, slots = value
        self.slots = dict(slots)

    def put(self, *lines: str) -> None:
        """Add lines for the present instruction."""
        for line in lines:
            if line.startswith("r4 = "):
                self.slots = {}
            self.lines.append("    " * self.indent + line)
            self.owners.append(self.number)

    # -- flags -----------------------------------------------------------------------------------------------------------

    def spill(self, register: int, *, carry: bool = True, rest: bool = True) -> None:
        """Save what the pending flags need of a register that is about to change."""
        name = f"r{register}"
        old = self.pending
        copies: list[str] = []
        if name not in old.carry.names and name not in old.rest.names:
            return
        if carry:
            new, copies = old.carry.without(name)
            self.pending = Pending(new, new if old.rest == old.carry and rest else old.rest)
        if rest and self.pending.rest == old.rest:
            new, more = old.rest.without(name)
            self.pending = Pending(self.pending.carry, new)
            copies = copies or more if old.rest == old.carry else copies + more
        for copy in copies:
            self.put(copy)

    def spill_all(self) -> None:
        """Save all that the pending flags need of registers."""
        for name in {*self.pending.carry.names, *self.pending.rest.names}:
            if name[:1] == "r":
                self.spill(int(name[1:]))

    def produce(self, kind: str, *, a: str = "", b: str = "", r: str = "", size: int = 32, count: int = 0) -> None:
        """Note a producer of flags: the present instruction."""
        if self.unseen:
            self.pending = AT_REST
            return
        producer = Producer(kind, self.number, size, a, b, r, count)
        carry = self.pending.carry if kind in ("inc", "dec") else producer
        self.pending = Pending(carry, self.pending.rest if kind == "bit" else producer)

    def store_flags(self) -> None:
        """Compute the flags into `fl`."""
        pending = self.pending
        if HEAD in (pending.carry, pending.rest):
            self.put("@flags")
            carry = STORED if pending.carry == HEAD else pending.carry
            pending = Pending(carry, STORED if pending.rest == HEAD else pending.rest)
        if pending != Pending(STORED, STORED):
            self.put(f"fl = {formula(pending)}")
        self.pending = Pending(STORED, STORED)

    def can_test(self, suffix: str) -> bool:
        """Say whether a condition asks only for flags whose producer is known."""
        pending = self.pending
        if suffix in ("b", "ae"):
            return pending.carry != HEAD
        return pending.rest != HEAD and (suffix not in ("be", "a") or pending.carry != HEAD)

    def test(self, suffix: str) -> str:
        """Return an expression for a condition; flags of a block's head are stored first, if it asks for them."""
        if not self.can_test(suffix):
            self.store_flags()
        carry, rest = (STORED if each == HEAD else each for each in (self.pending.carry, self.pending.rest))
        return condition(suffix, Pending(carry, rest))

    # -- registers -------------------------------------------------------------------------------------------------------

    def set(self, register: int, value: str) -> None:
        """Write a general register of 32 bits."""
        self.spill(register)
        self.put(f"r{register} = {value}")

    def assign(self, operand: Operand, value: str, *, carry: bool = True, rest: bool = True) -> None:
        """Write a register to a masked value; `carry`, `rest`: the flags pending now are still needed."""
        if isinstance(operand, Register32):
            index, whole = operand.index, value
        elif isinstance(operand, Register16):
            index = operand.index
            whole = f"r{index} & {0xFFFF0000} | {value}"
        else:
            assert isinstance(operand, Register8)
            index = operand.parent
            keep, shift = (0xFFFF00FF, " << 8") if operand.shift else (0xFFFFFF00, "")
            whole = f"r{index} & {keep} | ({value}){shift}"
        self.spill(index, carry=carry, rest=rest)
        self.put(f"r{index} = {whole}")

    # -- the stack -------------------------------------------------------------------------------------------------------

    def push(self, value: str) -> None:
        """Write a push of 32 bits, and remember the value: what is popped right away need not be read."""
        self.put("t = r4 - 4")
        slots = self.slots
        self.store("t", 32, value)
        self.spill(STACK_POINTER)
        self.put("r4 = t")
        self.depth -= 4
        if value.isdecimal():
            slots[self.depth] = value, -1
        elif value != "r4":
            name = f"s{self.number}"
            slots[self.depth] = name, len(self.lines)
            self.put(UNUSED)
            self.hidden[len(self.lines) - 1] = f"{name} = {value}"
        self.slots = slots

    def pop(self, into: str) -> str:
        """Write a pop of 32 bits; return a name for what was there."""
        slots = dict(self.slots)
        name, line = slots.pop(self.depth, (into, -1))
        if name == into:
            self.load("r4", 32, into)
        elif line >= 0 and line in self.hidden:
            self.lines[line] = self.lines[line].replace(UNUSED, self.hidden.pop(line))
        self.spill(STACK_POINTER)
        self.put("r4 = r4 + 4")  # the last page is never in `rd`: it does not wrap
        self.depth += 4
        self.slots = slots
        return name

    # -- memory ----------------------------------------------------------------------------------------------------------

    def place(self, memory: Memory | str) -> str:
        """Return a name for the linear address of an operand (or an expression for one)."""
        found = memory if isinstance(memory, str) else address(memory)
        if self.careful:
            found = f"({found}) & {MASK}"
        elif found.isidentifier() or found.isdecimal():
            return found
        self.put(f"t = {found}")
        return "t"

    def load(self, memory: Memory | str, size: int, into: str = "v") -> None:
        """Write a read from memory into a local."""
        view, shift = VIEWS[size]
        t = self.place(memory)
        if size == 8:
            self.put(f"{into} = data[{t} + rd[{t} & {PAGE_KEY[8]}]]")
            return
        line = f"{into} = {view}[{t} + rd[{t} & {PAGE_KEY[size]}] >> {shift}]"
        if not self.careful:
            self.put(line)
            return
        width = size >> 3
        self.put(f"if {t} & {width - 1}:", f"    if {t} & 4095 > {0x1000 - width}: raise Unusual")
        self.put(f"    p = {t} + rd[{t} & {PAGE_KEY[8]}]", f"    {into} = from_bytes(data[p:p + {width}], 'little')")
        self.put("else:", f"    {line}")

    def store(self, memory: Memory | str, size: int, value: str) -> None:
        """Write a store to memory."""
        self.slots = {}
        view, shift = VIEWS[size]
        t = self.place(memory)
        if size == 8:
            self.put(f"data[{t} + wr[{t} & {LINE_KEY[8]}]] = {value}")
            return
        line = f"{view}[{t} + wr[{t} & {LINE_KEY[size]}] >> {shift}] = {value}"
        if not self.careful:
            self.put(line)
            return
        width = size >> 3
        self.put(f"if {t} & {width - 1}:", f"    if {t} & 255 > {0x100 - width}: raise Unusual")
        self.put(
            f"    p = {t} + wr[{t} & {LINE_KEY[8]}]", f"    data[p:p + {width}] = ({value}).to_bytes({width}, 'little')"
        )
        self.put("else:", f"    {line}")

    def modify(self, memory: Memory, size: int, into: str = "v") -> None:
        """Write a read of what is to be written back, by `put_back`; its place is in `p`."""
        view, shift = VIEWS[size]
        t = self.place(memory)
        if not self.careful or size == 8:
            self.put(f"p = {t} + wr[{t} & {LINE_KEY[size]}]" + (f" >> {shift}" if shift else ""), f"{into} = {view}[p]")
            return
        width = size >> 3
        self.put(f"if {t} & {width - 1}:", f"    if {t} & 255 > {0x100 - width}: raise Unusual")
        self.put(
            f"    p = {t} + wr[{t} & {LINE_KEY[8]}]", f"    {into} = from_bytes(data[p:p + {width}], 'little')", "else:"
        )
        self.put(f"    p = {t} + wr[{t} & {LINE_KEY[size]}]", f"    {into} = {view}[p >> {shift}]")

    def put_back(self, size: int, value: str) -> None:
        """Write a store to where `modify` read."""
        self.slots = {}
        view, shift = VIEWS[size]
        if not self.careful or size == 8:
            self.put(f"{view}[p] = {value}")
            return
        width = size >> 3
        self.put(f"if p & {width - 1}: data[p:p + {width}] = ({value}).to_bytes({width}, 'little')")
        self.put(f"else: {view}[p >> {shift}] = {value}")

    def finish(self, destination: Operand, size: int, local: str) -> str:
        """Write the result `local` of an instruction that sets all flags; return a name for it that will last."""
        if isinstance(destination, Memory):
            self.put_back(size, local)
            return local
        self.assign(destination, local, carry=False, rest=False)
        return f"r{destination.index}" if isinstance(destination, Register32) else local

    def value(self, operand: Operand, into: str = "v") -> str:
        """Write the read of an operand; return an expression for its value, a name where it is in memory."""
        if isinstance(operand, Memory):
            self.load(operand, operand.size, into)
            return into
        return read(operand)

    def named(self, operand: Operand, into: str) -> str:
        """Write the read of an operand; return a name or constant that stands for it."""
        found = self.value(operand, into)
        if found != into and not found.isidentifier() and not found.isdecimal():
            self.put(f"{into} = {found}")
            return into
        return found


def address(memory: Memory) -> str:
    """Return an expression for the linear address of an operand in a flat segment, not masked to 32 bits.

    Through GS (of a hypervisor's own code) it is one by another name: see `vmlab.machine.page_maps.FULL`.
    """
    parts = [f"r{memory.base}"] if memory.base >= 0 else []
    if memory.index >= 0:
        parts.append(f"r{memory.index} * {memory.scale}" if memory.scale > 1 else f"r{memory.index}")
    found, displacement = " + ".join(parts), memory.displacement
    if memory.segment == GS:
        return " + ".join((*parts, str(displacement + FULL)))
    if not parts:
        return str(displacement)
    if not displacement:
        return found
    # A displacement far below zero is rather the address of a table in the upper half.
    return f"{found} - {(1 << 32) - displacement}" if displacement > MASK - NEAR else f"{found} + {displacement}"


def read(operand: Operand) -> str:
    """Return an expression for a register or a constant."""
    if isinstance(operand, Register32):
        return f"r{operand.index}"
    if isinstance(operand, Register16):
        return f"(r{operand.index} & 65535)"
    if isinstance(operand, Register8):
        return f"(r{operand.parent} >> 8 & 255)" if operand.shift else f"(r{operand.parent} & 255)"
    assert isinstance(operand, Immediate)
    return str(operand.value)
