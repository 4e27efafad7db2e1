"""Addresses: what stands in brackets becomes base, index, scale and displacement.

The choices are NASM's: the first register written is the base unless it has a factor, `[eax*2]` becomes
`[eax+eax]`, `[eax*5]` becomes `[eax+eax*4]`, and a displacement has one byte only if it is a plain number.
Where to read more: NASM manual, chapter 3.3; Intel SDM vol. 2, 2.1.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler.registers import REGISTERS
from vmlab.isa.x86.decoder import BASES_16
from vmlab.isa.x86.registers import DS, EBP, ESP, SS

if TYPE_CHECKING:
    from vmlab.errors import AssemblyError
    from vmlab.isa.x86.assembler.expressions import Value
    from vmlab.isa.x86.assembler.syntax import OperandSyntax

__all__ = ["Address", "resolve_address"]

_PAIRS_16 = frozenset((base, index) for base, index, _ in BASES_16)


@dataclass(frozen=True, slots=True)
class Address:
    """An effective address; base and index are register numbers or -1."""

    base: int
    index: int
    scale: int
    displacement: int
    address_size: int
    displacement_size: int

    @property
    def default_segment(self) -> int:
        """The segment register without an override."""
        stack = (EBP,) if self.address_size == 16 else (ESP, EBP)
        return SS if self.base in stack else DS


def resolve_address(operand: OperandSyntax, value: Value, bits: int, *, final: bool) -> Address:
    """Return the effective address of a memory operand whose expression has this value.

    Raises
    ------
    AssemblyError
        If no ModRM and SIB byte can express it, or if the displacement is out of range when `final`.
    """
    sizes = {REGISTERS[name].size for name in value.registers}
    kinds = {REGISTERS[name].kind for name in value.registers}
    if kinds - {"general"} or sizes - {16, 32} or len(sizes) > 1:
        raise _error(operand, "an address consists of 32-bit registers, or of 16-bit ones")
    address_size = sizes.pop() if sizes else operand.inner_size if operand.inner_size in (16, 32) else bits
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
