"""Syntax: a line's tokens become a statement.

`[label[:]] [prefix…] mnemonic [operand {, operand}]`, or a directive. A name that opens a line and is no
instruction is a label only with a colon or before a directive: NASM takes any lone word for a label and merely
warns, which turns a misspelt `hlt` into nothing at all.
Where to read more: NASM manual, chapter 3.1 to 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler.expressions import Cursor, Expression, describe, parse_expression
from vmlab.isa.x86.assembler.lexer import SourceLine, tokenize
from vmlab.isa.x86.assembler.mnemonics import PREFIXES, known_mnemonics, resolve
from vmlab.isa.x86.assembler.registers import REGISTERS, RegisterName

if TYPE_CHECKING:
    from vmlab.isa.x86.assembler.lexer import Token

__all__ = ["OperandSyntax", "Statement", "parse_line"]

SIZES = {"byte": 8, "word": 16, "dword": 32, "qword": 64, "oword": 128}
DATA = {"db": 1, "dw": 2, "dd": 4, "dq": 8}
RESERVE = {"resb": 1, "resw": 2, "resd": 4, "resq": 8}
DIRECTIVES = frozenset(
    {*DATA, *RESERVE, "equ", "times", "org", "align", "alignb", "bits", "use16", "use32", "use64", "section", "segment",
     "global", "extern", "static", "default", "cpu"}
)  # fmt: skip
REFUSED = {
    "incbin": "files cannot be included", "struc": "structures are not supported: use equ",
    "istruc": "structures are not supported: use equ", "common": "there is no linker", "dt": "there is no x87 unit",
    "rest": "there is no x87 unit", "absolute": "use equ", "ptr": "NASM writes the size alone: dword [ebx]",
    "offset": "NASM writes the label alone: its name is its address",
}  # fmt: skip


@dataclass(slots=True)
class OperandSyntax:
    """An operand as written.

    Attributes
    ----------
    kind : str
        `register`, `immediate`, `memory` or `far`.
    column : int
        Where it begins.
    register : RegisterName or None
        Of a register.
    expression : Expression or None
        The value, address or offset.
    selector : Expression or None
        Of a far pointer.
    size : int
        Bits said by `byte`, `word` …, or 0.
    distance : str
        `short`, `near`, `far` or empty.
    strict : bool
        Whether `strict` forbids a shorter form.
    segment : int
        Segment register written in the brackets, or -1.
    inner_size : int
        Bits said within the brackets, which is the width of displacement, or 0.
    reference : str
        `rel` or `abs` if said within the brackets.
    """

    kind: str
    column: int
    register: RegisterName | None = None
    expression: Expression | None = None
    selector: Expression | None = None
    size: int = 0
    distance: str = ""
    strict: bool = False
    segment: int = -1
    inner_size: int = 0
    reference: str = ""


@dataclass(slots=True)
class Statement:
    """One statement.

    Attributes
    ----------
    line : SourceLine
        Where it stands.
    name : str
        Mnemonic or directive in lower case; empty where there is only a label.
    column : int
        Where the name stands.
    label : str
        Full name of the label before it, or empty.
    label_column : int
        Where that stands.
    prefixes : tuple of str
        Of an instruction.
    operands : list
        Operands of an instruction.
    values : list
        Of a directive: expressions, strings as bytes, or words.
    repeat : Expression or None
        Count of a `times` before it.
    fill : Statement or None
        What `align` fills with.
    code : bytes or None
        The encoding where it can never change, filled in by the assembler.
    length : int
        Bytes of one repetition in the pass before, for jumps that must not shrink again.
    """

    line: SourceLine
    name: str
    column: int
    label: str = ""
    label_column: int = 1
    prefixes: tuple[str, ...] = ()
    operands: list[OperandSyntax] = field(default_factory=list)
    values: list[Expression | bytes | str] = field(default_factory=list)
    repeat: Expression | None = None
    fill: Statement | None = None
    code: bytes | None = None
    length: int = 0


def parse_line(line: SourceLine, parent: str) -> Statement | None:
    """Parse one line; `parent` is the label that `.local` names belong to. None for an empty line.

    Raises
    ------
    AssemblyError
        With line and column, if it is no statement.
    """
    cursor = Cursor(line, tokenize(line), parent)
    if cursor.token.kind == "end":
        return None
    bracketed = cursor.accept("[")  # [bits 32] and its like
    label, label_column = ("", 1) if bracketed else _label(cursor)
    if cursor.token.kind == "end":
        return Statement(line, "", 1, label, label_column)
    statement = _statement(cursor)
    if bracketed:
        cursor.expect("]", "to close this directive")
    if cursor.token.kind != "end":
        raise cursor.error(f"expected ',' or the end of the line, found {describe(cursor.token)}")
    statement.label, statement.label_column = label, label_column
    return statement


def _label(cursor: Cursor) -> tuple[str, int]:
    """Take a label, if there is one, and make it the parent of the local labels that follow."""
    token = cursor.token
    following = cursor.peek()
    word = token.lower
    if token.kind != "name" or (_is_statement(word) and following.text != ":"):
        return "", 1
    if following.text != ":" and not _is_statement(following.lower):
        return "", 1
    if word in REGISTERS or word in ("$", "$$"):
        raise cursor.error(f"'{token.text}' cannot be a label")
    cursor.take()
    cursor.accept(":")
    name = cursor.full_name(token.text)
    if token.text[0] != ".":
        cursor.parent = name
    return name, token.column


def _is_statement(word: str) -> bool:
    return word in DIRECTIVES or word in PREFIXES or resolve(word) is not None


def _statement(cursor: Cursor) -> Statement:
    token = cursor.token
    word = token.lower
    if token.kind != "name":
        raise cursor.error(f"expected an instruction or directive, found {describe(token)}")
    if word == "times":
        return _times(cursor)
    if word in DIRECTIVES:
        cursor.take()
        return _directive(cursor, word, token)
    prefixes: list[str] = []
    while cursor.token.lower in PREFIXES:
        prefixes.append(cursor.take().lower)
    token = cursor.token
    word = token.lower
    if token.kind != "name" or resolve(word) is None:
        raise _unknown(cursor, token)
    cursor.take()
    operands: list[OperandSyntax] = []
    if cursor.token.kind != "end":
        operands.append(_operand(cursor))
        while cursor.accept(","):
            operands.append(_operand(cursor))
    return Statement(cursor.line, word, token.column, prefixes=tuple(prefixes), operands=operands)


@cache
def _vocabulary() -> tuple[str, ...]:
    return (*sorted(known_mnemonics()), *sorted(DIRECTIVES))


def _unknown(cursor: Cursor, token: Token) -> Exception:
    """Explain a word that is no instruction."""
    if token.kind != "name":
        return cursor.error(f"expected an instruction after the prefix, found {describe(token)}")
    word = token.lower
    if word in REFUSED:
        return cursor.error(f"'{token.text}': {REFUSED[word]}")
    close = get_close_matches(word[:32], _vocabulary(), n=1, cutoff=0.6)
    close = [known for known in _vocabulary() if sorted(known) == sorted(word)] or close  # letters exchanged
    hint = f"; did you mean '{close[0]}'?" if close else ""
    if cursor.peek().kind == "end":
        hint += " (a label needs a colon)"
    return cursor.error(f"unknown instruction '{token.text}'{hint}")


def _times(cursor: Cursor) -> Statement:
    cursor.take()
    count = parse_expression(cursor)
    inner = cursor.token.lower
    if inner in ("times", "equ", "org", "section", "segment", "bits", "align", "alignb", ""):
        raise cursor.error(f"times needs an instruction or data, found {describe(cursor.token)}")
    statement = _statement(cursor)
    statement.repeat = count
    return statement


def _directive(cursor: Cursor, word: str, token: Token) -> Statement:
    statement = Statement(cursor.line, word, token.column)
    if word in DATA:
        statement.values = _data(cursor)
    elif word in RESERVE or word in ("equ", "org", "bits"):
        statement.values = [parse_expression(cursor)]
    elif word in ("align", "alignb"):
        statement.values = [parse_expression(cursor)]
        if cursor.accept(","):
            statement.fill = _statement(cursor)
    elif word in ("section", "segment"):
        statement.values = list(_words(cursor))
        if not statement.values:
            raise cursor.error("a section needs a name, as in: section .text")
    else:
        statement.values = list(_words(cursor))
    return statement


def _words(cursor: Cursor) -> list[str]:
    """Take the rest of a directive as words (`section .data align=16`)."""
    words: list[str] = []
    while cursor.token.kind != "end" and cursor.token.text != "]":
        token = cursor.take()
        if words and (token.text == "=" or words[-1].endswith("=")):
            words[-1] += token.text
        elif token.text != ",":
            words.append(token.text)
    return words


def _data(cursor: Cursor) -> list[Expression | bytes | str]:
    """Take the operands of `db` and its like: a lone string stays a string."""
    values: list[Expression | bytes | str] = []
    while True:
        token = cursor.token
        if token.kind == "string" and cursor.peek().text in (",", ""):
            cursor.take()
            values.append(token.text.encode("latin-1"))
        elif token.text == "?":
            cursor.take()
            values.append(b"\0")
        else:
            values.append(parse_expression(cursor))
        if not cursor.accept(","):
            return values
        if cursor.token.kind == "end":  # a comma at the end of a list is harmless
            return values


def _operand(cursor: Cursor) -> OperandSyntax:
    start = cursor.token.column
    size, distance, strict = 0, "", False
    while True:
        word = cursor.token.lower
        if word in SIZES:
            size = SIZES[word]
        elif word in ("short", "near", "far"):
            distance = word
        elif word == "strict":
            strict = True
        else:
            break
        cursor.take()
    token = cursor.token
    if token.lower in REFUSED and token.kind == "name" and (size or cursor.peek().kind != "end"):
        raise cursor.error(f"'{token.text}': {REFUSED[token.lower]}")
    if token.text == "[" and token.kind == "op":
        operand = _memory(cursor, start)
    elif token.kind == "name" and token.lower in REGISTERS:
        cursor.take()
        operand = OperandSyntax("register", start, REGISTERS[token.lower])
        if cursor.token.text == ":":
            raise cursor.error(f"a segment override stands in the brackets: [{token.lower}:…]", token.column)
        if size and size != REGISTERS[token.lower].size:
            raise cursor.error(f"register {token.text} does not have {size} bits", token.column)
    else:
        operand = OperandSyntax("immediate", start, expression=parse_expression(cursor))
        if cursor.accept(":"):
            operand.kind, operand.selector = "far", operand.expression
            operand.expression = parse_expression(cursor)
    operand.size, operand.distance, operand.strict = size, distance, strict
    return operand


def _memory(cursor: Cursor, start: int) -> OperandSyntax:
    cursor.expect("[", "before an address")
    operand = OperandSyntax("memory", start)
    _inner_words(cursor, operand)
    segment = REGISTERS.get(cursor.token.lower)
    if segment is not None and segment.kind == "segment":
        if cursor.peek().text != ":":
            raise cursor.error(f"segment register {segment.name} needs a colon behind it: [{segment.name}:…]")
        cursor.take()
        cursor.take()
        operand.segment = segment.index
        _inner_words(cursor, operand)
    operand.expression = parse_expression(cursor, registers=True)
    cursor.expect("]", "to close this address")
    return operand


def _inner_words(cursor: Cursor, operand: OperandSyntax) -> None:
    """Take the words within brackets that choose the width of the displacement or the address."""
    while cursor.token.lower in SIZES or cursor.token.lower in ("rel", "abs", "nosplit"):
        word = cursor.take().lower
        operand.inner_size = SIZES.get(word, operand.inner_size)
        if word in ("rel", "abs"):
            operand.reference = word
