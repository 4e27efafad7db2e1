"""Operands of a decoded instruction: where a value is read from and written to.

An operand knows how to fetch and store its value on a processor (anything with the registers and the memory
access of `vmlab.isa.x86.semantics.Processor`), so that a semantic function is written once for every form of
its instruction. Values are plain non-negative ints, masked to the operand's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from vmlab.isa.x86.registers import (
    CONTROL_NAMES,
    DEBUG_NAMES,
    GENERAL_NAMES,
    NAMES_8_LEGACY,
    RIP,
    SEGMENT_NAMES,
)

if TYPE_CHECKING:
    from vmlab.isa.x86.semantics import Processor

MASKS = {8: 0xFF, 16: 0xFFFF, 32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}
KEPT = {8: ~0xFF, 16: ~0xFFFF, 32: 0, 64: 0}
"""Bits of a general register that stay when so many bits of it are written (SDM vol. 1, 3.4.1.1)."""


class Operand:
    """Base of all operands.

    Attributes
    ----------
    size : int
        Width in bits.
    writes_memory : bool
        True where a write can fault.
    """

    __slots__ = ("size",)
    size: int
    writes_memory = False

    def read(self, cpu: Processor) -> int:
        """Return the operand's value."""
        raise TypeError(f"{type(self).__name__} has no value to read")

    def modify(self, cpu: Processor) -> int:
        """Return the value of a destination that will be written: checks that the write will be allowed."""
        return self.read(cpu)

    def write(self, cpu: Processor, value: int) -> None:
        """Store `value`, already masked to `size` bits."""
        raise TypeError(f"{type(self).__name__} cannot be written")

    def _key(self) -> tuple[object, ...]:
        fields = [name for cls in type(self).__mro__ for name in getattr(cls, "__slots__", ())]
        return tuple(getattr(self, name) for name in fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operand) and type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._key()}"


class Register64(Operand):
    """A general register of 64 bits."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.size = 64
        self.index = index

    @property
    def name(self) -> str:
        """Name in lower case, as `rax`."""
        return GENERAL_NAMES[64][self.index]

    def read(self, cpu: Processor) -> int:
        return cpu.registers[self.index]

    modify = read

    def write(self, cpu: Processor, value: int) -> None:
        cpu.registers[self.index] = value


class Register32(Operand):
    """A general register of 32 bits outside of 64-bit mode, where the processor has no more of it."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.size = 32
        self.index = index

    @property
    def name(self) -> str:
        """Name in lower case, as `eax`."""
        return GENERAL_NAMES[32][self.index]

    def read(self, cpu: Processor) -> int:
        return cpu.registers[self.index]

    modify = read

    def write(self, cpu: Processor, value: int) -> None:
        cpu.registers[self.index] = value


class LowRegister32(Register32):
    """The low half of a 64-bit register in 64-bit mode; a write clears the upper half (SDM vol. 1, 3.4.1.1)."""

    __slots__ = ()

    def read(self, cpu: Processor) -> int:
        return cpu.registers[self.index] & 0xFFFFFFFF

    modify = read


class Register16(Operand):
    """The low 16 bits of a general register; a write keeps the rest."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.size = 16
        self.index = index

    @property
    def name(self) -> str:
        """Name in lower case, as `ax`."""
        return GENERAL_NAMES[16][self.index]

    def read(self, cpu: Processor) -> int:
        return cpu.registers[self.index] & 0xFFFF

    modify = read

    def write(self, cpu: Processor, value: int) -> None:
        registers = cpu.registers
        registers[self.index] = registers[self.index] & ~0xFFFF | value


class Register8(Operand):
    """A byte register: `al cl dl bl` (bits 7:0) and `ah ch dh bh` (bits 15:8 of the register 4 lower).

    With a REX prefix there are sixteen, all bits 7:0, and numbers 4 to 7 are `spl bpl sil dil`.
    """

    __slots__ = ("index", "parent", "shift")

    def __init__(self, index: int, *, rex: bool = False) -> None:
        self.size = 8
        self.index = index
        high = 4 <= index < 8 and not rex
        self.parent = index & 3 if high else index
        self.shift = 8 if high else 0

    @property
    def name(self) -> str:
        """Name in lower case, as `ah`."""
        return NAMES_8_LEGACY[self.index] if self.shift else GENERAL_NAMES[8][self.index]

    def read(self, cpu: Processor) -> int:
        return cpu.registers[self.parent] >> self.shift & 0xFF

    modify = read

    def write(self, cpu: Processor, value: int) -> None:
        registers = cpu.registers
        registers[self.parent] = registers[self.parent] & ~(0xFF << self.shift) | value << self.shift


class SegmentOperand(Operand):
    """A segment register named by an instruction. Its read gives the selector; loading it is the semantics' task."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.size = 16
        self.index = index

    @property
    def name(self) -> str:
        """Name in lower case, as `ds`."""
        return SEGMENT_NAMES[self.index]

    def read(self, cpu: Processor) -> int:
        return cpu.segments[self.index].selector


class ControlRegister(Operand):
    """A control register named by `mov`."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.size = 32
        self.index = index

    @property
    def name(self) -> str:
        """Name in lower case, as `cr3`."""
        return CONTROL_NAMES[self.index]


class DebugRegister(Operand):
    """A debug register named by `mov`."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.size = 32
        self.index = index

    @property
    def name(self) -> str:
        """Name in lower case, as `dr7`."""
        return DEBUG_NAMES[self.index]


class Immediate(Operand):
    """A constant of the instruction, sign-extended where the row says so and masked to `size` bits."""

    __slots__ = ("value",)

    def __init__(self, value: int, size: int) -> None:
        self.size = size
        self.value = value & MASKS[size]

    def read(self, cpu: Processor) -> int:
        return self.value


class Relative(Operand):
    """A branch displacement, signed, counted from the end of the instruction. `size` is the operand size."""

    __slots__ = ("displacement",)

    def __init__(self, displacement: int, size: int) -> None:
        self.size = size
        self.displacement = displacement


class FarPointer(Operand):
    """A `selector:offset` constant of a far jump or call. `size` is that of the offset."""

    __slots__ = ("offset", "selector")

    def __init__(self, selector: int, offset: int, size: int) -> None:
        self.size = size
        self.selector = selector
        self.offset = offset


class Memory(Operand):
    """An operand in memory: `segment:[base + index * scale + displacement]`.

    Attributes
    ----------
    segment : int
        Number of the segment register after defaults and override.
    base, index : int
        Register numbers, or -1 where absent.
    scale : int
        1, 2, 4 or 8.
    displacement : int
        Masked to `address_size` bits.
    size : int
        Width of the datum in bits; 0 where only the address counts (`lea`, `invlpg`).
    address_size : int
        16, 32 or 64 bits.
    """

    __slots__ = ("_bytes", "_mask", "address_size", "base", "displacement", "index", "scale", "segment")
    writes_memory = True

    def __init__(
        self, segment: int, base: int, index: int, scale: int, displacement: int, size: int, address_size: int = 32
    ) -> None:
        self.segment = segment
        self.base = base
        self.index = index
        self.scale = scale
        self.address_size = address_size
        self._mask = MASKS[address_size]
        self.displacement = displacement & self._mask
        self.size = size
        self._bytes = size >> 3

    def offset(self, cpu: Processor) -> int:
        """Return the effective address within the segment."""
        registers = cpu.registers
        offset = self.displacement
        if self.base >= 0:
            offset += registers[self.base]
        if self.index >= 0:
            offset += registers[self.index] * self.scale
        return offset & self._mask

    def read(self, cpu: Processor) -> int:
        return cpu.read(self.segment, self.offset(cpu), self._bytes)

    def modify(self, cpu: Processor) -> int:
        return cpu.modify(self.segment, self.offset(cpu), self._bytes)

    def write(self, cpu: Processor, value: int) -> None:
        cpu.write(self.segment, self.offset(cpu), self._bytes, value)


class RelativeMemory(Memory):
    """An operand in memory at `[rip + displacement]`, from the next instruction on; its base is `RIP`, with no index.

    The processor's `ip` is past the instruction when its semantics run, so that the address is known then.
    """

    __slots__ = ()

    def __init__(self, segment: int, displacement: int, size: int, address_size: int = 64) -> None:
        super().__init__(segment, RIP, -1, 1, displacement, size, address_size)

    def offset(self, cpu: Processor) -> int:
        return cpu.ip + self.displacement & self._mask


GeneralRegister: TypeAlias = Register8 | Register16 | Register32 | Register64


def general_register(index: int, size: int) -> GeneralRegister:
    """Return the general register `index` at a width of `size` bits, as named outside of 64-bit mode.

    >>> general_register(4, 8).name, general_register(4, 32).name
    ('ah', 'esp')
    """
    kinds: dict[int, type[GeneralRegister]] = {8: Register8, 16: Register16, 32: Register32, 64: Register64}
    return kinds[size](index)


def general_register_64(index: int, size: int) -> GeneralRegister:
    """Return the general register `index` at a width of `size` bits, as named in 64-bit mode with a REX prefix.

    >>> general_register_64(4, 8).name, general_register_64(9, 32).name
    ('spl', 'r9d')
    """
    if size == 8:
        return Register8(index, rex=True)
    return LowRegister32(index) if size == 32 else general_register(index, size)
