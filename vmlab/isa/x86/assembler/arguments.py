"""Arguments: an operand as written, with its values, against one operand code of the table.

Each function answers whether the argument is what the code asks for, at an operand size, by the operand or None.
Where to read more: `vmlab.isa.x86.instruction` for the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmlab.isa.x86.assembler.expressions import Scope, Value, wrap
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
    RelativeMemory,
    SegmentOperand,
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
        16, 32 or 64.
    address : int
        Final address of the instruction.
    section : str
        Name of its section.
    final : bool
        True when all addresses are settled, so that what does not fit is an error.
    relative : bool
        True after `default rel`.
    """

    @property
    def bits(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def section(self) -> str: ...
    @property
    def final(self) -> bool: ...
    @property
    def relative(self) -> bool: ...


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

    @property
    def default(self) -> int:
        """The operand size without a prefix."""
        return self.row.operand_sizes(self.place.bits)[0]


_WHOLE_REGISTER = frozenset({"mov", "lar", "lsl"})  # read 16 bits of a register that may be named as a whole one
_WHOLE_DESTINATION = frozenset({"mov", "sldt"})  # in 64-bit code 32 bits fill the whole register
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
    name = {16: "ax", 32: "eax", 64: "rax"}[size] if code == "eAX" else code.lower()
    if register is None or register.name != name:
        return None
    if register.kind == "segment":
        return SegmentOperand(register.index)
    return register.operand(register.size)


def _general(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    width = operand_width(code, wanted.size)
    name = wanted.row.mnemonic
    whole = (code == "Ew" and argument.general in (32, 64) and name in _WHOLE_REGISTER) or (
        code == "Er" and (argument.general, width) == (64, 32) and name in _WHOLE_DESTINATION
    )
    if argument.register is None or not (argument.general == width or whole):
        return None
    return argument.register.operand(width)


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
    if not fits or (code[0] == "O" and not _is_offset(address)):
        return None
    segment = argument.syntax.segment
    if segment < 0:
        segment = address.default_segment if code[0] != "O" else DS
    if address.relative:
        return RelativeMemory(segment, address.displacement, width, address.address_size)
    return Memory(
        segment, address.base, address.index, address.scale, address.displacement, width, address.address_size
    )


def _is_offset(address: Address) -> bool:
    """Tell whether an address is an offset of its full width, as `mov` of the accumulator has it without ModRM."""
    return address.base < 0 and address.index < 0 and (address.address_size < 64 or address.displacement_size == 64)


def _immediate(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    value, size, name = argument.value, wanted.size, wanted.row.mnemonic
    if argument.kind != "immediate" or argument.syntax.distance or value is None:
        return None
    said = argument.size if argument.size > 8 else wanted.demanded
    said = max(said, 64) if said == 32 and size == 64 else said  # written with 32 bits, used with 64
    if name == "push" and size != (said or wanted.default):
        return None  # no register tells the operand size, so it is the default, whatever the constant
    if code == "Ix":
        byte = Immediate((value.number + 128 & 0xFF) - 128, size)  # what does not fit is found at the end
        if argument.size == 8:
            return byte
        short = bool(value.unknown) or (value.simple and (value.number + 128) & (1 << size) - 1 <= 255)
        fits = (
            short
            and not argument.syntax.strict
            and argument.size in (0, size, size if name == "imul" else min(size, 32))
        )
        return byte if fits else None
    width = operand_width(code, size)
    return Immediate(value.number, width) if argument.size in (0, width, size if code == "Iz" else width) else None


def _relative(code: str, argument: Argument, wanted: Wanted) -> Operand | None:
    """Match a jump target; its displacement is filled in when the length is known."""
    value, syntax, place = argument.value, argument.syntax, wanted.place
    if argument.kind != "immediate" or value is None or value.registers:
        return None
    if wanted.size != (argument.size or wanted.demanded or wanted.default):
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
    length = len(wanted.row.opcode) + 1 + (wanted.size != wanted.default)
    near = -128 <= wrap(value.number - place.address - length) <= 127
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
