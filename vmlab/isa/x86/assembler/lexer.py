"""Lexer: one line of NASM source becomes tokens.

Numbers are taken in all of NASM's forms (`0x1F`, `1Fh`, `$1F`, `0b101`, `101b`, `0o17`, `17q`, `0d15`, with
underscores), strings in its three quotes, of which the back quote knows C's escapes.
Where to read more: NASM manual, chapter 3.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from vmlab.errors import AssemblyError

__all__ = ["SourceLine", "Token", "tokenize"]


class Token(NamedTuple):
    """A piece of a line.

    Attributes
    ----------
    kind : str
        `name`, `number`, `string`, `op` or `end`.
    text : str
        As written; of a string, its contents, one character for each byte.
    value : int
        Of a number.
    column : int
        Counted from 1.
    """

    kind: str
    text: str
    value: int
    column: int

    @property
    def lower(self) -> str:
        """Its text in lower case if it is a name, otherwise empty; of an operator, the operator."""
        return self.text.lower() if self.kind in ("name", "op") else ""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line after preprocessing, and the line of the source that it came from.

    Attributes
    ----------
    number : int
        Line in the source, counted from 1; for the body of a macro, the line that called it.
    text : str
        The line itself.
    note : str
        For the body of a macro: which one, added to messages.
    """

    number: int
    text: str
    note: str = ""

    def error(self, message: str, column: int = 1) -> AssemblyError:
        """Return an error at a place in this line."""
        return AssemblyError(message + self.note, self.number, max(column, 1), self.text)


_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>;.*)
  | (?P<number>\d\w*|\$\d\w*)
  | (?P<name>\$?[A-Za-z_.?@][\w.?@$\#~]*|\$\$|\$)
  | (?P<string>"[^"]*"|'[^']*'|`(?:\\.|[^`\\])*`)
  | (?P<op><=>|<<<|>>>|<<|>>|//|%%|==|!=|<>|<=|>=|&&|\|\||\^\^|[-+*/%~!&|^(),:\[\]=<>?{}])
    """,
    re.VERBOSE | re.ASCII,
)

_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b",
    "0": "\0", "\\": "\\", "'": "'", '"': '"', "`": "`", "?": "?",
}  # fmt: skip
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.ASCII)

_RADIX_PREFIXES = {"0x": 16, "0h": 16, "0b": 2, "0y": 2, "0o": 8, "0q": 8, "0d": 10, "0t": 10}
_RADIX_SUFFIXES = {"h": 16, "x": 16, "b": 2, "y": 2, "o": 8, "q": 8, "d": 10, "t": 10}
_DIGITS = {radix: frozenset("0123456789abcdef"[:radix]) for radix in (2, 8, 10, 16)}
_LONGEST_NUMBER = 128


def tokenize(line: SourceLine) -> list[Token]:
    """Return the tokens of a line without its comment; the last one is always of kind `end`.

    >>> [token.text for token in tokenize(SourceLine(1, "mov eax, [ebx+4] ; load"))]
    ['mov', 'eax', ',', '[', 'ebx', '+', '4', ']', '']
    """
    tokens: list[Token] = []
    text = line.text
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise line.error(_explain(text[position]), position + 1)
        kind, piece = str(match.lastgroup), match.group()
        column = position + 1
        position = match.end()
        if kind == "comment":
            break
        if kind == "number":
            tokens.append(Token(kind, piece, _number(piece, line, column), column))
        elif kind == "string":
            tokens.append(Token(kind, _string(piece), 0, column))
        elif kind != "space":
            tokens.append(Token(kind, piece, 0, column))
    tokens.append(Token("end", "", 0, len(text.rstrip()) + 1))
    return tokens


def _explain(character: str) -> str:
    if character in "\"'`":
        return "this string has no closing quote"
    if character == "#":
        return "'#' starts no number or comment here: immediates stand plain, comments begin with ';'"
    return f"character {character!r} has no meaning here"


def _number(text: str, line: SourceLine, column: int) -> int:
    """Return the value of a number in any of NASM's forms."""
    digits = text.lower().replace("_", "")
    if len(digits) > _LONGEST_NUMBER:
        raise line.error("this number is too long: 64 bits are the limit", column)
    if digits[0] == "$":
        candidates = [(16, digits[1:])]
    elif digits[:2] in _RADIX_PREFIXES and not digits.endswith("h"):
        candidates = [(_RADIX_PREFIXES[digits[:2]], digits[2:])]
        if digits[-1] in "by" and digits[1] in "by":
            candidates.append((2, digits[:-1]))
    else:
        candidates = [(10, digits)]
        if digits[-1] in _RADIX_SUFFIXES:
            candidates.append((_RADIX_SUFFIXES[digits[-1]], digits[:-1]))
    for radix, body in candidates:
        if body and _DIGITS[radix].issuperset(body):
            value = int(body, radix)
            if value >> 64:
                raise line.error(f"{text} does not fit in 64 bits", column)
            return value
    hint = ""
    if "." in text or re.fullmatch(r"\d+e\d+", digits):
        hint = "; floating-point constants are not supported"
    elif re.fullmatch(r"[0-9a-f]+", digits):
        hint = "; a hexadecimal number is written 0x" + digits
    raise line.error(f"{text} is no number{hint}", column)


def _string(text: str) -> str:
    """Return the contents of a string, one character a byte (UTF-8)."""
    body = text[1:-1]
    if text[0] == "`":
        body = _ESCAPE.sub(_escape, body)
        if all(ord(character) < 0x100 for character in body):
            return body
    return body.encode("utf-8", "surrogatepass").decode("latin-1")


def _escape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8) & 0xFF)
    return _ESCAPES.get(code, code)
