"""Matching: which row of the table an instruction as written is, and its bytes.

Every row of the mnemonic that takes the operands is encoded and the shortest encoding wins, as NASM does it:
a constant becomes a sign-extended byte where that is enough, a jump becomes short where the target is near.
Only a plain number may shorten anything; what moves with the program (a label) keeps the full width.
Where to read more: NASM manual, 2.1.24 (multipass optimization) and 3.7 (strict).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from vmlab.errors import OptionError
from vmlab.isa.x86.assembler.addresses import resolve_address
from vmlab.isa.x86.assembler.arguments import Argument, Place, Wanted, match_operand
from vmlab.isa.x86.assembler.expressions import number, wrap
from vmlab.isa.x86.assembler.mnemonics import resolve
from vmlab.isa.x86.assembler.registers import REGISTERS
from vmlab.isa.x86.assembler.syntax import OperandSyntax
from vmlab.isa.x86.encoder import encode
from vmlab.isa.x86.opcode_maps import DEFINED_CONTROLS
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
from vmlab.isa.x86.registers import CS, GENERAL_NAMES, SEGMENT_NAMES
from vmlab.isa.x86.table import rows_of

if TYPE_CHECKING:
    from vmlab.errors import AssemblyError
    from vmlab.isa.x86.assembler.syntax import Statement
    from vmlab.isa.x86.instruction import Row

__all__ = ["encode_statement"]


class Candidate(NamedTuple):
    """A row that takes the operands at an operand size."""

    row: Row
    size: int
    operands: list[Operand]


NOT_AT_16_BITS = frozenset({("movzx", ("Ew",)), ("movsx", ("Ew",)), ("movsxd", ("Ez",)), ("bswap", ("Zv",))})
"""Forms that the processor has at an operand size of 16 bits but that mean a plain move, or nothing."""

DEFAULT_SIZE = frozenset({"call", "jmp", "callf", "jmpf"})
"""Mnemonics whose memory operand has the default size when none is written."""

_REPEATS = {"rep": "rep", "repe": "rep", "repz": "rep", "repne": "repne", "repnz": "repne"}
_IMMEDIATE_TEN = frozenset({"aam", "aad"})


def encode_statement(statement: Statement, place: Place, shortest: int = 0) -> bytes:
    """Return the bytes of an instruction at a place.

    Parameters
    ----------
    statement : Statement
        An instruction.
    place : Place
        Where it stands.
    shortest : int
        Length to have if any encoding has it, else the longest is taken: what makes the passes end.

    Raises
    ------
    AssemblyError
        If no form fits, if the operand size is open, or if something is out of range.
    """
    return _Matcher(statement, place).encode(shortest)


class _Matcher:
    """One instruction in one pass."""

    __slots__ = ("address_size", "arguments", "name", "place", "size", "statement")

    def __init__(self, statement: Statement, place: Place) -> None:
        mnemonic = resolve(statement.name)
        assert mnemonic is not None
        self.statement = statement
        self.place = place
        self.name, self.size = mnemonic
        self.address_size = 0
        for prefix in statement.prefixes:
            if prefix in ("o16", "o32", "o64"):
                self.size = self.size or int(prefix[1:])
            elif prefix in ("a16", "a32", "a64"):
                self.address_size = int(prefix[1:])
        self.arguments = [self.argument(operand) for operand in statement.operands]
        self.normalize()

    def error(self, message: str, operand: OperandSyntax | None = None) -> AssemblyError:
        return self.statement.line.error(message, operand.column if operand else self.statement.column)

    def argument(self, operand: OperandSyntax) -> Argument:
        argument = Argument(operand, operand.kind, operand.size, operand.register)
        if operand.register is not None and operand.register.long and self.place.bits != 64:
            raise self.error(f"{operand.register.name} exists in 64-bit code alone", operand)
        if operand.expression is not None:
            argument.value = operand.expression.evaluate(self.place)
        if operand.selector is not None:
            argument.selector = operand.selector.evaluate(self.place)
        if operand.kind == "memory":
            assert argument.value is not None
            argument.address = resolve_address(operand, argument.value, self.place, self.address_size)
        return argument

    def normalize(self) -> None:
        """Give the operands the order and number that the table's rows have."""
        arguments = self.arguments
        kinds = [argument.kind for argument in arguments]
        if kinds == ["register", "memory"] and self.name in ("test", "xchg"):
            arguments.reverse()
        elif kinds == ["register", "register"] and self.name == "xchg":
            if not _is_accumulator(arguments[0]):  # as NASM has it: either order means the same
                arguments.reverse()
        elif self.name in ("loop", "loope", "loopne") and kinds[1:] == ["register"]:
            counter = arguments.pop().register
            names = ("ecx", "rcx") if self.place.bits == 64 else ("cx", "ecx")
            if counter is None or counter.name not in names:
                raise self.error(f"the counter of a loop is {' or '.join(names)}", self.statement.operands[1])
            self.address_size = counter.size
        elif self.name == "imul" and kinds == ["register", "immediate"]:
            arguments.insert(1, arguments[0])
        elif self.name == "mov" and kinds == ["register", "immediate"] and arguments[0].general == 64:
            self.shorten_load()
        elif self.name == "movsx" and len(kinds) == 2 and 32 in (arguments[1].general, arguments[1].size):
            self.name = "movsxd"
        elif self.name == "lea" and kinds[1:] == ["immediate"]:
            arguments[1] = self.argument(replace(arguments[1].syntax, kind="memory"))
        elif self.name in _IMMEDIATE_TEN and not arguments:
            arguments.append(Argument(OperandSyntax("immediate", 1), "immediate", 0, value=number(10)))
        elif self.name in ("jmp", "call") and any("far" in (a.kind, a.syntax.distance) for a in arguments):
            self.name += "f"
            if arguments[0].kind not in ("far", "memory"):
                raise self.error("a far target is written selector:offset or far [memory]", arguments[0].syntax)

    def shorten_load(self) -> None:
        """Load a register of 64 bits by its low half where that is enough, since the rest becomes 0."""
        destination, source = self.arguments
        value = source.value
        assert destination.register is not None
        assert value is not None
        if value.simple and value.number >> 32 == 0 and not source.syntax.strict and source.size in (0, 64):
            half = REGISTERS[GENERAL_NAMES[32][destination.register.index]]
            self.arguments = [replace(destination, register=half), replace(source, size=0)]

    # Choosing

    def encode(self, shortest: int) -> bytes:
        candidates = self.candidates()
        if not candidates:
            raise self.no_match()
        candidates = self.settle_memory_size(candidates)
        preferred = {id(row) for row, size, _ in candidates if size == self.default_size(row)}
        encodings = [
            (self.bytes_of(candidate), candidate)
            for candidate in candidates
            if candidate.size == self.default_size(candidate.row) or id(candidate.row) not in preferred
        ]
        code, candidate = min(encodings, key=lambda pair: _rank(len(pair[0]), shortest, pair[1].row))
        if self.place.final:
            self.check(candidate, len(code))
            if any(isinstance(operand, Relative) for operand in candidate.operands):
                code = self.bytes_of(self.aimed(candidate, len(code)))
            elif any(argument.address and argument.address.target is not None for argument in self.arguments):
                code = self.bytes_of(self.aimed_memory(candidate, len(code)))
        return code

    def default_size(self, row: Row) -> int:
        """Return the operand size of a row for which nothing is written; NASM jumps far with 64 bits where it can."""
        bits = self.place.bits
        return 64 if bits == 64 and row.mnemonic in ("callf", "jmpf") else row.operand_sizes(bits)[0]

    def candidates(self) -> list[Candidate]:
        found: list[Candidate] = []
        for row in rows_of(self.name):
            if row.alias or len(row.operands) != len(self.arguments):
                continue
            for size in row.operand_sizes(self.place.bits):
                if not self.size_fits(row, size) or self.is_another(row, size):
                    continue
                wanted = Wanted(row, size, self.size, self.place)
                pairs = zip(row.operands, self.arguments, strict=True)
                operands = [match_operand(code, argument, wanted) for code, argument in pairs]
                if None not in operands:
                    found.append(Candidate(row, size, [operand for operand in operands if operand is not None]))
        if any(argument.address and argument.address.displacement_size == 64 for argument in self.arguments):
            return [
                candidate for candidate in found if "O" in candidate.row.operands[0] + candidate.row.operands[-1]
            ] or found
        return found

    def is_another(self, row: Row, size: int) -> bool:
        """Tell whether 64-bit code has another meaning for a row, or a constant that the row would cut off."""
        if self.place.bits != 64:
            return False
        registers = [argument.register for argument in self.arguments if argument.general]
        if row.opcode == b"\x90":  # `xchg eax, eax` clears the upper half, which NOP does not
            return size == 32 and len(registers) == 2 and registers[0] == registers[1]
        if row.mnemonic == "mov" and row.operands == ("Ev", "Iz") and size == 64 and registers:
            source = self.arguments[1]
            value = source.value
            if source.size == 32 or value is None:
                return False
            return source.syntax.strict or not value.simple or not -(1 << 31) <= value.number < 1 << 31
        return False

    def size_fits(self, row: Row, size: int) -> bool:
        if row.size in (16, 32, 64) and row.size != size:
            return False
        if size == 16 and (self.name, row.operands[-1:]) in NOT_AT_16_BITS:
            return False
        if not self.size:
            return True
        return row.size == 8 if self.size == 8 else row.size != 8 and size == self.size

    def settle_memory_size(self, candidates: list[Candidate]) -> list[Candidate]:
        """Refuse a memory operand whose width nothing tells; a sized constant may tell it (`[ebx], byte 5`)."""
        if self.name in DEFAULT_SIZE:
            return candidates
        for position, argument in enumerate(self.arguments):
            if argument.kind != "memory" or argument.size:
                continue
            if len({candidate.operands[position].size for candidate in candidates}) > 1:
                said = self.size_of_constant(candidates)
                candidates = [candidate for candidate in candidates if candidate.operands[position].size == said]
                if not candidates:
                    raise self.error(
                        f"the size of this memory operand is not specified: write {_sizes(self.place.bits)} before it",
                        argument.syntax,
                    )
        return candidates

    def size_of_constant(self, candidates: list[Candidate]) -> int:
        """Return the size written before a constant, where the rows differ in that constant's width."""
        for position, argument in enumerate(self.arguments):
            if argument.kind == "immediate" and argument.size:
                codes = {(candidate.row.operands[position], candidate.size) for candidate in candidates}
                return argument.size if len(codes) > 1 else 0
        return 0

    def bytes_of(self, candidate: Candidate) -> bytes:
        prefixes = self.statement.prefixes
        segment = next((SEGMENT_NAMES.index(prefix) for prefix in prefixes if prefix in SEGMENT_NAMES), -1)
        displacement_size = 0
        for argument in self.arguments:
            if argument.address is not None:
                displacement_size = argument.address.displacement_size & 63
                if argument.syntax.segment >= 0:
                    segment = argument.syntax.segment
        try:
            return encode(
                candidate.row,
                candidate.operands,
                bits=self.place.bits,
                size=candidate.size,
                address_size=self.address_size,
                segment=segment,
                repeat=next((_REPEATS[prefix] for prefix in prefixes if prefix in _REPEATS), ""),
                lock="lock" in prefixes,
                displacement_size=displacement_size,
            )
        except OptionError as error:
            raise self.error(str(error)) from None

    def aimed(self, candidate: Candidate, length: int) -> Candidate:
        """Return the candidate with the displacement of its jump."""
        argument = self.arguments[0]
        assert argument.value is not None
        size = candidate.size
        distance = argument.value.number - self.place.address - length
        distance = (distance + (1 << size - 1) & (1 << size) - 1) - (1 << size - 1)
        if candidate.row.operands[0] == "Jb" and not -128 <= distance <= 127:
            raise self.error(
                f"the target of this short jump is {distance} bytes away, out of its range of -128 to 127",
                argument.syntax,
            )
        if size == 64 and not -(1 << 31) <= distance < 1 << 31:
            raise self.error(f"the target is {distance:#x} bytes away, more than 32 bits reach", argument.syntax)
        return candidate._replace(operands=[Relative(distance, size)])

    def aimed_memory(self, candidate: Candidate, length: int) -> Candidate:
        """Return the candidate with the displacement of its relative address."""
        operands: list[Operand] = []
        for argument, operand in zip(self.arguments, candidate.operands, strict=True):
            address = argument.address
            if address is None or address.target is None or not isinstance(operand, RelativeMemory):
                operands.append(operand)
                continue
            distance = wrap(address.target - self.place.address - length)
            if operand.address_size == 32:  # addresses wrap around
                distance = (distance + (1 << 31) & (1 << 32) - 1) - (1 << 31)
            if not -(1 << 31) <= distance < 1 << 31:
                raise self.error(f"this address is {distance:#x} bytes away, more than 32 bits reach", argument.syntax)
            operands.append(RelativeMemory(operand.segment, distance, operand.size, operand.address_size))
        return candidate._replace(operands=operands)

    # Checks and messages

    def check(self, candidate: Candidate, length: int) -> None:
        """Refuse what would be encoded with a wrong value."""
        for code, argument, operand in zip(candidate.row.operands, self.arguments, candidate.operands, strict=True):
            value = argument.value
            if argument.kind == "immediate" and value is not None and value.registers:
                raise self.error("this is no constant: a register occurs in it", argument.syntax)
            if isinstance(operand, Immediate) and value is not None:
                self.check_range(value.number, 8 if argument.size == 8 else operand.size, argument.syntax)
                if code == "Iz" and candidate.size == 64 and not -(1 << 31) <= wrap(value.number) < 1 << 31:
                    raise self.error(f"{value.number:#x} does not fit in 32 bits with a sign", argument.syntax)
                if code == "Ix" and (value.number + 128) & (1 << candidate.size) - 1 > 255:
                    raise self.error(f"{value.number} does not fit in a signed byte", argument.syntax)
            elif isinstance(operand, FarPointer) and value is not None and argument.selector is not None:
                self.check_range(value.number, operand.size, argument.syntax)
                self.check_range(argument.selector.number, 16, argument.syntax)
        row = candidate.row
        if "lock" in self.statement.prefixes:
            first = candidate.operands[0] if candidate.operands else None
            if not (row.lockable and isinstance(first, Memory)):
                raise self.error(f"lock is not allowed with this form of '{self.statement.name}'")
        if row.mnemonic == "mov" and candidate.operands[0] == SegmentOperand(CS):
            raise self.error("cs cannot be loaded by mov: use a far jump", self.arguments[0].syntax)
        for argument, operand in zip(self.arguments, candidate.operands, strict=True):
            if isinstance(operand, ControlRegister | DebugRegister) and not _is_defined(operand):
                raise self.error(f"there is no {operand.name}", argument.syntax)

    def check_range(self, value: int, width: int, operand: OperandSyntax) -> None:
        if not -(1 << width - 1) <= value < 1 << width:
            raise self.error(f"{value} ({value:#x}) does not fit in {width} bits", operand)

    def no_match(self) -> AssemblyError:
        """Say why no row takes these operands."""
        name = self.statement.name
        bits = self.place.bits
        if not any(row.operand_sizes(bits) for row in rows_of(self.name)):
            return self.error(f"'{name}' does not exist in {bits}-bit code")
        if self.size == 64 != bits:
            return self.error(f"'{name}' has 64 bits, which only 64-bit code has")
        counts = sorted({len(row.operands) for row in rows_of(self.name)})
        if len(self.arguments) not in counts:
            wanted = " or ".join(map(str, counts))
            return self.error(f"'{name}' takes {wanted} operand{'s' * (counts != [1])}, not {len(self.arguments)}")
        if sum(argument.kind == "memory" for argument in self.arguments) > 1:
            return self.error(f"'{name}' cannot have two memory operands: move one through a register")
        given = ", ".join(_describe(argument) for argument in self.arguments) or "none"
        sizes = {argument.size or argument.general for argument in self.arguments if argument.kind != "immediate"}
        hint = "; their sizes differ" if len(sizes - {0}) > 1 else ""
        return self.error(f"'{name}' has no form for these operands: {given}{hint}")


def _is_defined(register: ControlRegister | DebugRegister) -> bool:
    return register.index in DEFINED_CONTROLS if isinstance(register, ControlRegister) else register.index < 8


def _is_accumulator(argument: Argument) -> bool:
    return argument.register is not None and argument.register.name in ("ax", "eax", "rax")


def _sizes(bits: int) -> str:
    return "byte, word, dword or qword" if bits == 64 else "byte, word or dword"


def _rank(length: int, shortest: int, row: Row) -> tuple[bool, int, bool]:
    """Order encodings: the shortest of those that are long enough, failing that the longest."""
    too_short = length < shortest
    return too_short, -length if too_short else length, "Ix" not in row.operands


def _describe(argument: Argument) -> str:
    """Name an operand in a message."""
    if argument.register is not None:
        return argument.register.name
    size = f"{argument.size}-bit " if argument.size else ""
    distance = f"{argument.syntax.distance} " if argument.syntax.distance else ""
    return distance + size + {"memory": "memory", "immediate": "constant", "far": "far address"}[argument.kind]
