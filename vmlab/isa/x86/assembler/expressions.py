"""Expressions: NASM's operators over numbers, labels and, in addresses, registers.

An expression is parsed once into reverse Polish order and evaluated in each pass with the symbols known by then.
A value knows whether it moves with a section, since the assembler may shorten only what is a plain number:
`end - start` is one, `start` is not.

Beyond NASM: an operator such as `&` may be used on a label, since the image's final addresses are known here.
Where to read more: NASM manual, chapter 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vmlab.isa.x86.assembler.limits import DEEPEST_EXPRESSION
from vmlab.isa.x86.assembler.registers import REGISTERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.errors import AssemblyError
    from vmlab.isa.x86.assembler.lexer import SourceLine, Token

__all__ = ["Cursor", "Expression", "Scope", "Value", "parse_expression", "wrap"]

_MOVED = ""  # "section" of a value that depends on addresses in a way that no subtraction undoes


@dataclass(slots=True)
class Value:
    """The value of an expression.

    Attributes
    ----------
    number : int
        Signed, within 64 bits; addresses are final ones, with the origin.
    sections : dict
        How often each section's base is contained, by section name; empty for a plain number.
    registers : dict
        Coefficients of registers by name, in the order in which they are written.
    unknown : int
        How often symbols occur that were not known yet, so that `number` means nothing; 0 where they cancel.
    hint : tuple of str and bool
        First register written, and whether it stands without a factor: what NASM makes the base.
    """

    number: int
    sections: dict[str, int]
    registers: dict[str, int]
    unknown: int = 0
    hint: tuple[str, bool] = ("", True)

    @property
    def simple(self) -> bool:
        """True for a known plain number."""
        return not (self.sections or self.registers or self.unknown)


def number(value: int) -> Value:
    """Return a plain number, wrapped to 64 bits."""
    return Value(wrap(value), {}, {})


class Scope(Protocol):
    """What the names in an expression mean at one place of the program."""

    def symbol(self, name: str, column: int) -> Value:
        """Return the value of a label or constant."""

    def here(self) -> Value:
        """Return `$`."""

    def section_start(self) -> Value:
        """Return `$$`."""


class Cursor:
    """Tokens of a line and a position among them; `parent` is the label that local labels belong to."""

    __slots__ = ("depth", "line", "parent", "position", "tokens")

    def __init__(self, line: SourceLine, tokens: list[Token], parent: str = "") -> None:
        self.line = line
        self.tokens = tokens
        self.parent = parent
        self.position = 0
        self.depth = 0

    def full_name(self, name: str) -> str:
        """Return a label's whole name: `.loop` belongs to the last label without a dot."""
        name = name.removeprefix("$")
        return self.parent + name if name[0] == "." and name[1:2] != "." else name

    @property
    def token(self) -> Token:
        """The current token."""
        return self.tokens[self.position]

    def take(self) -> Token:
        """Return the current token and move on, but never beyond the end."""
        token = self.tokens[self.position]
        if token.kind != "end":
            self.position += 1
        return token

    def peek(self, offset: int = 1) -> Token:
        """Return a token further on."""
        return self.tokens[min(self.position + offset, len(self.tokens) - 1)]

    def accept(self, text: str) -> bool:
        """Move on over an operator or a word if it is there."""
        if self.token.lower == text:
            self.position += 1
            return True
        return False

    def expect(self, text: str, why: str) -> None:
        """Move on over an operator, or raise."""
        if not self.accept(text):
            raise self.error(f"expected '{text}' {why}, found {describe(self.token)}")

    def error(self, message: str, column: int = 0) -> AssemblyError:
        """Return an error at the current token or at `column`."""
        return self.line.error(message, column or self.token.column)


def describe(token: Token) -> str:
    """Name a token in a message."""
    return "the end of the line" if token.kind == "end" else f"'{token.text}'"


def wrap(value: int) -> int:
    """Return a number as a signed one of 64 bits."""
    return (value + (1 << 63) & (1 << 64) - 1) - (1 << 63)


def _unsigned(value: int) -> int:
    return value & (1 << 64) - 1


def _truncated_division(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_BINARY: dict[str, Callable[[int, int], int]] = {
    "||": lambda a, b: bool(a) | bool(b),
    "^^": lambda a, b: bool(a) ^ bool(b),
    "&&": lambda a, b: bool(a) & bool(b),
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<=>": lambda a, b: (a > b) - (a < b),
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "<<": lambda a, b: a << b if 0 <= b < 64 else 0,
    "<<<": lambda a, b: a << b if 0 <= b < 64 else 0,
    ">>": lambda a, b: _unsigned(a) >> b if 0 <= b < 64 else 0,
    ">>>": lambda a, b: a >> min(b, 63) if b >= 0 else 0,
    "*": lambda a, b: a * b,
    "/": lambda a, b: _unsigned(a) // _unsigned(b),
    "//": _truncated_division,
    "%": lambda a, b: _unsigned(a) % _unsigned(b),
    "%%": lambda a, b: a - _truncated_division(a, b) * b,
}
_LEVELS = (
    ("||",), ("^^",), ("&&",), ("=", "==", "!=", "<>", "<", "<=", ">", ">=", "<=>"), ("|",), ("^",), ("&",),
    ("<<", ">>", "<<<", ">>>"), ("+", "-"), ("*", "/", "//", "%", "%%"),
)  # fmt: skip
_PRECEDENCE = {operator: level for level, operators in enumerate(_LEVELS) for operator in operators}
_UNARY: dict[str, Callable[[int], int]] = {"~": lambda a: ~a, "!": lambda a: not a}


@dataclass(slots=True)
class Expression:
    """A parsed expression.

    Attributes
    ----------
    line : SourceLine
        Where it stands.
    column : int
        Where it begins.
    items : list
        Values and operators in reverse Polish order, each a pair of kind and argument with its column.
    fixed : bool
        True if no symbol and no address occurs in it, so that its value never changes.
    """

    line: SourceLine
    column: int
    items: list[tuple[str, str | int, int]]
    fixed: bool

    def evaluate(self, scope: Scope) -> Value:
        """Return its value."""
        stack: list[Value] = []
        for kind, argument, column in self.items:
            if kind == "number":
                stack.append(number(int(argument)))
            elif kind == "symbol":
                stack.append(scope.symbol(str(argument), column))
            elif kind == "register":
                name = str(argument)
                stack.append(Value(0, {}, {name: 1}, hint=(name, True)))
            elif kind == "here":
                stack.append(scope.here())
            elif kind == "start":
                stack.append(scope.section_start())
            elif kind == "unary":
                stack.append(self._unary(str(argument), stack.pop(), column))
            else:
                right = stack.pop()
                stack.append(self._binary(str(argument), stack.pop(), right, column))
        return stack.pop()

    def _unary(self, operator: str, value: Value, column: int) -> Value:
        if operator == "-":
            return _combine(number(0), value, -1)
        self._refuse_registers(operator, value, value, column)
        result = Value(wrap(_UNARY[operator](value.number)), {}, {}, value.unknown)
        result.sections = {_MOVED: 1} if value.sections else {}
        return result

    def _binary(self, operator: str, a: Value, b: Value, column: int) -> Value:
        if operator in ("+", "-"):
            return _combine(a, b, 1 if operator == "+" else -1)
        if operator == "*" and (a.registers or b.registers):
            scaled, factor = (a, b) if a.registers else (b, a)
            if not factor.simple:
                raise self.line.error("a register can be multiplied by a plain number only", column)
            return _scale(scaled, factor.number)
        self._refuse_registers(operator, a, b, column)
        unknown = int(a.unknown != 0 or b.unknown != 0)
        if operator in ("/", "//", "%", "%%") and b.number == 0:
            if not unknown:
                raise self.line.error("division by zero", column)
            return Value(0, {}, {}, unknown=1)
        moved = {_MOVED: 1} if a.sections or b.sections else {}
        return Value(wrap(int(_BINARY[operator](a.number, b.number))), moved, {}, unknown)

    def _refuse_registers(self, operator: str, a: Value, b: Value, column: int) -> None:
        if a.registers or b.registers:
            raise self.line.error(f"operator '{operator}' cannot be used on a register", column)


def _sum(a: dict[str, int], b: dict[str, int], sign: int) -> dict[str, int]:
    if not b:
        return a
    total = dict(a)
    for name, count in b.items():
        total[name] = total.get(name, 0) + sign * count
    if _MOVED in total:
        total[_MOVED] = 1
    return {name: count for name, count in total.items() if count}


def _combine(a: Value, b: Value, sign: int) -> Value:
    return Value(
        wrap(a.number + sign * b.number),
        _sum(a.sections, b.sections, sign),
        _sum(a.registers, b.registers, sign),
        a.unknown + sign * b.unknown,
        a.hint if a.hint[0] else b.hint,
    )


def _scale(value: Value, factor: int) -> Value:
    registers = {name: count * factor for name, count in value.registers.items() if factor}
    sections = {_MOVED: 1} if value.sections else {}
    return Value(wrap(value.number * factor), sections, registers, value.unknown, (value.hint[0], False))


def parse_expression(cursor: Cursor, *, registers: bool = False) -> Expression:
    """Parse an expression from the cursor on; `registers` says whether registers may occur.

    Raises
    ------
    AssemblyError
        If there is none, or if it is nested too deep.
    """
    parser = _Parser(cursor, registers)
    column = cursor.token.column
    parser.binary(0)
    fixed = all(kind not in ("symbol", "here", "start") for kind, _, _ in parser.items)
    return Expression(cursor.line, column, parser.items, fixed)


class _Parser:
    """Precedence climbing which emits reverse Polish order."""

    __slots__ = ("cursor", "items", "registers")

    def __init__(self, cursor: Cursor, registers: bool) -> None:
        self.cursor = cursor
        self.items: list[tuple[str, str | int, int]] = []
        self.registers = registers

    def binary(self, level: int) -> None:
        self.operand()
        while True:
            token = self.cursor.token
            precedence = _PRECEDENCE.get(token.text, -1) if token.kind == "op" else -1
            if precedence < level:
                return
            self.cursor.take()
            self.binary(precedence + 1)
            self.items.append(("binary", token.text, token.column))

    def operand(self) -> None:
        pending: list[Token] = []
        while self.cursor.token.kind == "op" and self.cursor.token.text in "+-~!":
            token = self.cursor.take()
            if token.text != "+":
                pending.append(token)
        self.primary()
        self.items.extend(("unary", token.text, token.column) for token in reversed(pending))

    def primary(self) -> None:
        cursor = self.cursor
        token = cursor.take()
        if token.kind == "number":
            self.items.append(("number", token.value, token.column))
        elif token.kind == "string":
            if len(token.text) > 8:
                raise cursor.error("a character constant has at most 8 characters here", token.column)
            value = int.from_bytes(token.text.encode("latin-1"), "little")
            self.items.append(("number", value, token.column))
        elif token.kind == "name":
            self.name(token)
        elif token.text == "(":
            cursor.depth += 1
            if cursor.depth > DEEPEST_EXPRESSION:
                raise cursor.error("this expression is nested too deep", token.column)
            self.binary(0)
            cursor.expect(")", "to close this expression")
            cursor.depth -= 1
        else:
            raise cursor.error(f"expected a value, found {describe(token)}", token.column)

    def name(self, token: Token) -> None:
        if token.text == "$":
            self.items.append(("here", 0, token.column))
        elif token.text == "$$":
            self.items.append(("start", 0, token.column))
        elif token.text.lower() in REGISTERS:
            if not self.registers:
                raise self.cursor.error(f"register {token.text} cannot be part of this expression", token.column)
            self.items.append(("register", token.text.lower(), token.column))
        else:
            self.items.append(("symbol", self.cursor.full_name(token.text), token.column))
