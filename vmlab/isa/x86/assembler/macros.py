"""Macros as text: what the preprocessor stores of one, and how parameters and names are put in.

Where to read more: NASM manual, chapters 4.1 to 4.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler.limits import LONGEST_LINE

if TYPE_CHECKING:
    from vmlab.isa.x86.assembler.lexer import SourceLine

__all__ = ["WORD", "Macro", "choose", "paste", "split", "substitute", "uncomment"]

_STRING = r""""[^"]*"|'[^']*'|`(?:\\.|[^`\\])*`"""
WORD = re.compile(rf"{_STRING}|;.*|\d\w*|\$*[A-Za-z_.?@][\w.?@$#~]*", re.ASCII)
"""A string, a comment, a number or a name: what a name is replaced among."""
_PARAMETER = re.compile(rf"{_STRING}|;.*|%\{{(\d+)\}}|%(\d+)|%%([A-Za-z_][\w.?@$#~]*)", re.ASCII)
_QUOTED = re.compile(_STRING, re.ASCII)
_PASTE = re.compile(rf"({_STRING})|%\+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Macro:
    """A multi-line macro: parameters it takes, their defaults, and its lines."""

    name: str
    least: int
    most: int
    greedy: bool
    defaults: tuple[str, ...]
    body: tuple[SourceLine, ...]


def choose(overloads: list[Macro], arguments: list[str], line: SourceLine) -> Macro:
    """Return the macro that takes this number of parameters."""
    for macro in reversed(overloads):
        if macro.least <= len(arguments) and (len(arguments) <= macro.most or macro.greedy):
            return macro
    macro = overloads[-1]
    raise line.error(f"macro '{macro.name}' takes {macro.least} parameters, not {len(arguments)}")


def substitute(inner: SourceLine, arguments: list[str], prefix: str, line: SourceLine) -> str:
    """Put arguments for `%1`, their number for `%0`, and names of its own for `%%name` into a line of a macro."""
    if "%" not in inner.text:
        return inner.text

    def one(match: re.Match[str]) -> str:
        if match[3]:
            return prefix + match[3]
        digits = match[1] or match[2]
        if digits is None:
            return match.group()
        if int(digits) == 0:
            return str(len(arguments))
        return arguments[int(digits) - 1] if int(digits) <= len(arguments) else ""

    text = _PARAMETER.sub(one, inner.text)
    if len(text) > LONGEST_LINE:
        raise line.error(f"macros make this line longer than {LONGEST_LINE} characters")
    return text


def paste(text: str) -> str:
    """Join what stands left and right of each `%+`."""
    result, start = "", 0
    for match in _PASTE.finditer(text):
        if match[1] is None:
            piece = text[start : match.start()]
            result = (result + (piece.lstrip() if start else piece)).rstrip()
            start = match.end()
    return result + text[start:].lstrip()


def uncomment(text: str) -> str:
    """Return the text without the comment at its end."""
    for match in WORD.finditer(text):
        if match.group()[0] == ";":
            return text[: match.start()]
    return text


def split(text: str) -> list[str]:
    """Split parameters at commas that stand in no string and no braces, and take the braces off."""
    parts: list[str] = []
    depth = start = position = 0
    while position < len(text):
        character = text[position]
        string = _QUOTED.match(text, position) if character in "\"'`" else None
        if string is not None:
            position = string.end()
            continue
        depth += (character == "{") - (character == "}")
        if character == "," and depth <= 0:
            parts.append(text[start:position])
            start = position + 1
        position += 1
    parts.append(text[start:])
    return [_unbrace(part.strip()) for part in parts]


def _unbrace(text: str) -> str:
    return text[1:-1] if text.startswith("{") and text.endswith("}") else text
