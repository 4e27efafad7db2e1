"""Arguments: an operand as written, with its values, against one operand code of the table.

Each function answers whether the argument is what the code asks for, at an operand size, by the operand or None.
Where to read more: `vmlab.isa.x86.instruction` for the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmlab.isa.x86.assembler.expressions import Scope, Value
from vmlab.isa.x86.instruction import FIXED
from vmlab.isa.x86.opcode_maps import operand_width
from vmlab.isa.x86.operands import (
    ControlRegister,
    DebugRegister,
    FarPointer,
    Immediate,
    Memory,
    Operand,
    Relative,
    SegmentOperand,
    general_register,
)
from vmlab.isa.x86.registers import DS
from vmlab.isa.x86.table import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.assembler.addresses import Address
    from vmlab.isa.x86.assembler.registers import RegisterName
    from vmlab.isa.x86.assembler.syntax import OperandSyntax
    from vmlab.isa.x86.instruction import Row

__all__ = ["Argument", "Place", "Wanted", "match_operand"]


class Place(Scope, Protocol):
    """Where an instruction will stand, and how strict to be there.

    Attributes
    ----------
    bits : int
        16 or 32.
    address : int
        Final address of the instruction.
    section : str
        Name of its section.
    final : bool
        True when all addresses are settled, so that what does not fit is an error.
    """

    @property
    def bits(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def section(self) -> str: ...
    @property
    def final(self) -> bool: ...


@dataclass(slots=True)
class Argument:
    """An operand with its values in this pass.

    Attributes
    ----------
    syntax : OperandSyntax
        The operand as written.
    kind : str
        `register`, `immediate`, `memory` or `far`.
    size : int
        Bits said before it, or 0.
    register : RegisterName or None
        Of a register.
    value, selector : Value or None
        Of a constant, target or far pointer.
    address : Address or None
        Of a memory operand.
    """

    syntax: OperandSyntax
    kind: str
    size: int
    register: RegisterName | None = None
    value: Value | None = None
    selector: Value | None = None
    address: Address | None = None

    @property
    def general(self) -> int:
        """Width of a general register, otherwise 0."""
        return self.register.size if self.register is not None and self.register.kind == "general" else 0


class Wanted(NamedTuple):
    """For what an argument is matched: a row at an operand size, with the size that the program demands or 0."""

    row: Row
    size: int
    demanded: int
    place: Place


_WHOLE_REGISTER = frozenset({"mov", "lar", "lsl"})  # read 16 bits of a register that may be named as a whole one
_SPECIAL = {"S": ("segment", SegmentOperand), "C": ("control", ControlRegister), "D": ("debug", DebugRegister)}


def match_operand(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    """Return the operand if the argument is what the code asks for, else None."""
    if code in FIXED:
        return _constant_one(argument) if code == "1" else _fixed_register(code, argument, wanted.size)
    return _MATCHERS[code[0]](code, argument, wanted)


def _constant_one(argument: Argument) -> Operand | None:
    value = argument.value
    if argument.kind != "immediate" or value is None or argument.syntax.strict or argument.size not in (0, 8):
        return None
    return Immediate(1, 8) if value.unknown or (value.simple and value.number == 1) else None


def _fixed_register(code: str, argument: Argument, size: int) -> Operand | None:
    register = argument.register
    name = ("ax", "eax")[size == 32] if code == "eAX" else code.lower()
    if register is None or register.name != name:
        return None
    if register.kind == "segment":
        return SegmentOperand(register.index)
    return general_register(register.index, register.size)


def _general(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    width = operand_width(code, wanted.size)
    whole = code == "Ew" and argument.general == 32 and wanted.row.mnemonic in _WHOLE_REGISTER
    if argument.register is None or not (argument.general == width or whole):
        return None
    return general_register(argument.register.index, width)


def _special(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    kind, operand = _SPECIAL[code[0]]
    register = argument.register
    return operand(register.index) if register is not None and register.kind == kind else None


def _register_or_memory(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    return _memory(code, argument, wanted) if argument.register is None else _general(code, argument, wanted)


def _memory(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    address = argument.address
    if address is None:
        return None
    width = 16 if code == "Er" else operand_width(code, wanted.size)
    if code == "Mp":
        fits = argument.size in (0, wanted.size)
    else:
        fits = width == 0 or (argument.syntax.distance != "far" and argument.size in (0, width))
    if not fits or (code[0] == "O" and (address.base >= 0 or address.index >= 0)):
        return None
    segment = argument.syntax.segment
    if segment < 0:
        segment = address.default_segment if code[0] != "O" else DS
    return Memory(
        segment, address.base, address.index, address.scale, address.displacement, width, address.address_size
    )


def _immediate(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    value, size = argument.value, wanted.size
    if argument.kind != "immediate" or argument.syntax.distance or value is None:
        return None
    said = argument.size if argument.size > 8 else wanted.demanded
    if wanted.row.mnemonic == "push" and size != (said or wanted.place.bits):
        return None  # no register tells the operand size, so it is the default, whatever the constant
    if code == "Ix":
        if argument.size == 8:
            return Immediate(value.number, size)
        short = bool(value.unknown) or (value.simple and (value.number + 128) & (1 << size) - 1 <= 255)
        fits = short and not argument.syntax.strict and argument.size in (0, size)
        return Immediate(value.number, size) if fits else None
    width = operand_width(code, size)
    return Immediate(value.number, width) if argument.size in (0, width) else None


def _relative(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    """Match a jump target; its displacement is filled in when the length is known."""
    value, syntax, place = argument.value, argument.syntax, wanted.place
    if argument.kind != "immediate" or value is None or value.registers:
        return None
    if wanted.size != (argument.size or wanted.demanded or place.bits):
        return None
    target = Relative(0, wanted.size)
    if code != "Jb":
        return target if syntax.distance != "short" else None
    if syntax.distance == "near":
        return None
    if syntax.distance == "short" or not any("Jz" in other.operands for other in rows_of(wanted.row.mnemonic)):
        return target
    if argument.size or syntax.strict:
        return None
    if value.unknown:
        return target
    length = len(wanted.row.opcode) + 1 + (wanted.size != place.bits)
    near = -128 <= value.number - place.address - length <= 127
    return target if near and value.sections == {place.section: 1} else None


def _far(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    if argument.selector is None or argument.value is None or argument.size not in (0, wanted.size):
        return None
    mask = (1 << wanted.size) - 1
    return FarPointer(argument.selector.number & 0xFFFF, argument.value.number & mask, wanted.size)


_MATCHERS: dict[str, Callable[[str, Argument, Wanted], Operand | None]] = {
    "A": _far,
    "C": _special,
    "D": _special,
    "E": _register_or_memory,
    "G": _general,
    "I": _immediate,
    "J": _relative,
    "M": _memory,
    "O": _memory,
    "R": _general,
    "S": _special,
    "Z": _general,
}
