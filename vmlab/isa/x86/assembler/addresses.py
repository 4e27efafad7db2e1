"""Addresses: what stands in brackets becomes base, index, scale and displacement.

The choices are NASM's: the first register written is the base unless it has a factor, `[eax*2]` becomes
`[eax+eax]`, `[eax*5]` becomes `[eax+eax*4]`, and a displacement has one byte only if it is a plain number.
Where to read more: NASM manual, chapter 3.3; Intel SDM vol. 2, 2.1.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler.expressions import wrap
from vmlab.isa.x86.assembler.registers import REGISTERS
from vmlab.isa.x86.decoder import BASES_16
from vmlab.isa.x86.registers import DS, EBP, ESP, FS, GS, RIP, SS

if TYPE_CHECKING:
    from vmlab.errors import AssemblyError
    from vmlab.isa.x86.assembler.arguments import Place
    from vmlab.isa.x86.assembler.expressions import Value
    from vmlab.isa.x86.assembler.syntax import OperandSyntax

__all__ = ["Address", "resolve_address"]

_PAIRS_16 = frozenset((base, index) for base, index, _ in BASES_16)


@dataclass(frozen=True, slots=True)
class Address:
    """An effective address; base and index are register numbers or -1.

    With `relative` it is reached from the next instruction: at `displacement`, unless that is still to be found by
    the length of the instruction and `target` says where it lies.
    """

    base: int
    index: int
    scale: int
    displacement: int
    address_size: int
    displacement_size: int
    relative: bool = False
    target: int | None = None

    @property
    def default_segment(self) -> int:
        """The segment register without an override."""
        stack = (EBP,) if self.address_size == 16 else (ESP, EBP)
        return SS if self.base in stack else DS


def resolve_address(operand: OperandSyntax, value: Value, place: Place, address_size: int = 0) -> Address:
    """Return the effective address of a memory operand whose expression has this value.

    `address_size` is that of an `a16`, `a32` or `a64` before the instruction, or 0.

    Raises
    ------
    AssemblyError
        If no ModRM and SIB byte can express it, or if the displacement is out of range when `final`.
    """
    bits, final = place.bits, place.final
    registers = [REGISTERS[name] for name in value.registers]
    if bits == 64 and _is_relative(operand, value, place):
        return _relative(operand, value, address_size or 64)
    sizes = {register.size for register in registers}
    kinds = {register.kind for register in registers}
    allowed = {32, 64} if bits == 64 else {16, 32}
    if kinds - {"general"} or sizes - allowed or len(sizes) > 1 or (bits < 64 and any(r.long for r in registers)):
        wide, narrow = sorted(allowed, reverse=True)
        raise _error(operand, f"an address consists of {wide}-bit registers, or of {narrow}-bit ones")
    if sizes:
        address_size = sizes.pop()
    elif not address_size:
        address_size = operand.inner_size if bits < 64 and operand.inner_size in (16, 32) else bits
    if address_size == 64:
        return _address_64(operand, value, final=final)
    if final and not -(1 << address_size - 1) <= value.number < 1 << address_size:
        raise _error(operand, f"displacement {value.number:#x} does not fit in {address_size} bits")
    displacement_size = operand.inner_size
    if not displacement_size and not value.simple and (value.sections or value.unknown):
        displacement_size = address_size
    base, index, scale = (_registers_16 if address_size == 16 else _registers_32)(operand, value)
    displacement = value.number & (1 << address_size) - 1
    if displacement_size == 8 and not -128 <= (displacement ^ 1 << address_size - 1) - (1 << address_size - 1) <= 127:
        raise _error(operand, "this displacement does not fit in a byte")
    return Address(base, index, scale, displacement, address_size, displacement_size)


def _is_relative(operand: OperandSyntax, value: Value, place: Place) -> bool:
    """Tell whether an address of 64-bit code is meant from the next instruction, which plain numbers never are."""
    if "rip" in value.registers:
        return True
    if value.registers or value.simple or operand.reference == "abs":
        return False
    return operand.reference == "rel" or (place.relative and operand.segment not in (FS, GS))


def _relative(operand: OperandSyntax, value: Value, address_size: int) -> Address:
    if value.registers not in ({}, {"rip": 1}):
        raise _error(operand, "rip stands alone in an address")
    if operand.inner_size not in (0, 32):
        raise _error(operand, "the displacement of a relative address has 32 bits")
    if value.sections or value.unknown:
        return Address(RIP, -1, 1, 0, address_size, 0, relative=True, target=value.number)
    if not -(1 << 31) <= value.number < 1 << 31:
        raise _error(operand, f"displacement {value.number:#x} does not fit in 32 bits")
    return Address(RIP, -1, 1, value.number, address_size, 0, relative=True)


def _address_64(operand: OperandSyntax, value: Value, *, final: bool) -> Address:
    """Return a 64-bit address: its displacement is sign-extended from 32 bits, save where the accumulator is moved."""
    base, index, scale = _registers_32(operand, value)
    number, size = wrap(value.number), operand.inner_size
    if size == 64 and not value.registers:
        return Address(-1, -1, 1, number, 64, 64)
    if size not in (0, 8, 32) or (size == 8 and not -128 <= number <= 127):
        raise _error(operand, f"a displacement of {number:#x} cannot have {size} bits here")
    if not -(1 << 31) <= number < 1 << 31:
        if final:
            hint = "" if value.registers else ": write [qword …] for the accumulator, or take a register"
            raise _error(operand, f"displacement {number:#x} does not fit in 32 bits with a sign{hint}")
        number = 0
    if not size and not value.simple and (value.sections or value.unknown):
        size = 32
    return Address(base, index, scale, number, 64, size)


def _error(operand: OperandSyntax, message: str) -> AssemblyError:
    assert operand.expression is not None
    return operand.expression.line.error(message, operand.column)


def _registers_32(operand: OperandSyntax, value: Value) -> tuple[int, int, int]:
    terms = [(REGISTERS[name].index, count) for name, count in value.registers.items()]
    if not terms:
        return -1, -1, 1
    if len(terms) == 1:
        return _single_32(operand, *terms[0])
    if len(terms) > 2:
        raise _error(operand, "an address has two registers at most")
    (base, base_count), (index, scale) = terms
    first, first_plain = value.hint
    if base_count == scale == 1:
        if (REGISTERS[first].index == base) != first_plain:
            base, index = index, base
    elif base_count != 1:
        base, base_count, index, scale = index, scale, base, base_count
    if index == ESP and scale == 1:
        base, index = index, base
    if base_count != 1 or scale not in (1, 2, 4, 8) or index == ESP:
        raise _error(operand, "one register is the base, the other an index times 1, 2, 4 or 8, and esp is no index")
    return base, index, scale


def _single_32(operand: OperandSyntax, register: int, count: int) -> tuple[int, int, int]:
    if count == 1:
        return register, -1, 1
    if register == ESP:
        raise _error(operand, "esp is no index")
    if count in (2, 3, 5, 9):
        return register, register, count - 1
    if count in (4, 8):
        return -1, register, count
    raise _error(operand, "a register in an address can be multiplied by 1, 2, 3, 4, 5, 8 or 9")


def _registers_16(operand: OperandSyntax, value: Value) -> tuple[int, int, int]:
    numbers = [REGISTERS[name].index for name in value.registers]
    if not numbers:
        return -1, -1, 1
    pairs = [(numbers[0], -1)] if len(numbers) == 1 else list(permutations(numbers)) if len(numbers) == 2 else []
    for base, index in pairs:
        if (base, index) in _PAIRS_16 and all(count == 1 for count in value.registers.values()):
            return base, index, 1
    raise _error(operand, "a 16-bit address is [bx|bp] + [si|di] + displacement")
