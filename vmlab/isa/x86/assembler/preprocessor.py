"""Preprocessor: the part of NASM's that small programs use.

`%define %undef %assign`, `%macro … %endmacro` with `%1`, `%0` and `%%local`, `%rep … %endrep %exitrep`,
`%if %elif %ifdef %ifndef %else %endif`, `%error`, pasting with `%+`, lines continued with a backslash.

Simplified: single-line macros take no parameters, nothing is read from files, and `%rotate`, contexts and string
functions are missing; each is refused by name. Expansion is bounded, so that any source ends.
Where to read more: NASM manual, chapter 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler.expressions import Cursor, Value, parse_expression
from vmlab.isa.x86.assembler.lexer import SourceLine, tokenize
from vmlab.isa.x86.assembler.limits import DEEPEST_MACRO, LONGEST_LINE, MOST_CHARACTERS, MOST_LINES
from vmlab.isa.x86.assembler.macros import WORD, Macro, choose, paste, split, substitute, uncomment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["preprocess"]


_DIRECTIVE = re.compile(r"\s*%([A-Za-z]\w*)\s*(.*)", re.ASCII | re.DOTALL)
_CALL = re.compile(
    r"\s*(?:(?P<label>[A-Za-z_.?@$][\w.?@$#~]*)\s*(?P<colon>:)\s*|(?P<bare>[A-Za-z_.?@$][\w.?@$#~]*)\s+)?"
    r"(?P<name>[A-Za-z_.?@$][\w.?@$#~]*)(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
_MACRO_HEAD = re.compile(r"([A-Za-z_.?@$][\w.?@$#~]*)\s+(\d+)(?:-(\d+|\*))?(\+)?\s*(.*)", re.ASCII | re.DOTALL)
_NAME = re.compile(r"[A-Za-z_.?@$][\w.?@$#~]*", re.ASCII)


@dataclass(slots=True)
class _Condition:
    """One `%if`: whether its present branch is taken, and whether any branch has been."""

    taken: bool
    done: bool
    line: SourceLine
    else_seen: bool = False


class _ExitRepeat(Exception):  # noqa: N818 - control flow, no error
    """`%exitrep` was met."""


class _ConstantScope:
    """Names in a directive: none, since labels have no place yet."""

    def __init__(self, line: SourceLine) -> None:
        self.line = line

    def symbol(self, name: str, column: int) -> Value:
        raise self.line.error(f"'{name}' is not a constant that the preprocessor knows", column)

    def here(self) -> Value:
        raise self.line.error("'$' has no value in a preprocessor directive")

    section_start = here


def preprocess(source: str) -> list[SourceLine]:
    """Return the lines of `source` with all directives carried out.

    Raises
    ------
    AssemblyError
        If a directive is wrong or unknown, or if the expansion grows without bound.
    """
    return _Preprocessor().run(_join_continuations(source))


def _join_continuations(source: str) -> list[SourceLine]:
    lines: list[SourceLine] = []
    pending, first = "", 0
    for position, text in enumerate(source.split("\n"), 1):
        text = text.removesuffix("\r")  # noqa: PLW2901
        first = first or position
        if text.endswith("\\"):
            pending += text[:-1]
            continue
        lines.append(SourceLine(first, pending + text))
        pending, first = "", 0
    if pending:
        lines.append(SourceLine(first, pending))
    return lines


@dataclass(slots=True)
class _Preprocessor:
    output: list[SourceLine] = field(default_factory=list)
    defines: dict[str, str] = field(default_factory=dict)
    macros: dict[str, list[Macro]] = field(default_factory=dict)
    conditions: list[_Condition] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    calls: int = 0
    steps: int = 0
    characters: int = 0

    def run(self, lines: Sequence[SourceLine]) -> list[SourceLine]:
        try:
            self.process(lines)
        except _ExitRepeat as stop:
            raise stop.args[0].error("%exitrep outside of %rep") from None
        if self.conditions:
            raise self.conditions[-1].line.error("this condition has no %endif")
        return self.output

    def process(self, lines: Sequence[SourceLine]) -> None:
        iterator = iter(lines)
        for line in iterator:
            self.steps += 1
            self.characters += len(line.text)
            if self.steps > MOST_LINES or self.characters > MOST_CHARACTERS:
                raise line.error(f"the expansion exceeds {MOST_LINES} lines or {MOST_CHARACTERS} characters")
            directive = _DIRECTIVE.match(line.text) if "%" in line.text else None
            if directive is not None:
                self.directive(directive[1].lower(), directive[2], line, iterator)
            elif self.live:
                self.plain(line)

    @property
    def live(self) -> bool:
        """True where no enclosing condition leaves lines out."""
        return not self.conditions or self.conditions[-1].taken

    # Directives

    def directive(self, name: str, rest: str, line: SourceLine, following: Iterator[SourceLine]) -> None:
        if name in _CONDITIONALS:
            _CONDITIONALS[name](self, name, rest, line)
            return
        if name in ("macro", "imacro", "rep"):
            ending = "endrep" if name == "rep" else "endmacro"
            body = self.body(line, following, name, ending)
            if self.live:
                (self.repeat if name == "rep" else self.define_macro)(rest, line, body)
            return
        if not self.live:
            return
        if name not in _DIRECTIVES:
            known = " ".join(f"%{word}" for word in sorted({*_DIRECTIVES, *_CONDITIONALS, "macro", "rep"}))
            raise line.error(f"directive %{name} is not supported; there are {known}", line.text.index("%") + 1)
        _DIRECTIVES[name](self, rest, line)

    def body(
        self, line: SourceLine, following: Iterator[SourceLine], opening: str, ending: str
    ) -> tuple[SourceLine, ...]:
        """Collect the lines up to the directive that ends this one."""
        lines: list[SourceLine] = []
        depth = 1
        openings = ("rep",) if opening == "rep" else ("macro", "imacro")
        endings = (ending, "endm") if ending == "endmacro" else (ending,)
        for inner in following:
            match = _DIRECTIVE.match(inner.text)
            word = match[1].lower() if match else ""
            depth += (word in openings) - (word in endings)
            if not depth:
                return tuple(lines)
            lines.append(inner)
        raise line.error(f"%{opening} has no %{ending}")

    def repeat(self, rest: str, line: SourceLine, body: tuple[SourceLine, ...]) -> None:
        count = self.number(rest, line)
        depth = len(self.conditions)
        for _ in range(count):
            self.steps += 1
            if self.steps > MOST_LINES:
                raise line.error(f"the expansion exceeds {MOST_LINES} lines")
            try:
                self.process(body)
            except _ExitRepeat:
                del self.conditions[depth:]
                return

    def define_macro(self, rest: str, line: SourceLine, body: tuple[SourceLine, ...]) -> None:
        head = _MACRO_HEAD.match(uncomment(rest))
        if head is None:
            raise line.error("expected '%macro name count', as in %macro handler 1")
        name, least, most, plus, defaults = head.groups()
        limit = int(least) if most is None else 1 << 30 if most == "*" else int(most)
        macro = Macro(
            name.lower(), int(least), limit, plus is not None, tuple(split(defaults) if defaults.strip() else ()), body
        )
        overloads = self.macros.setdefault(macro.name, [])
        overloads[:] = [other for other in overloads if (other.least, other.most) != (macro.least, macro.most)]
        overloads.append(macro)

    def define(self, rest: str, line: SourceLine) -> None:
        name, value = self.name_and_rest(rest, line)
        if value.startswith("("):
            raise line.error("a %define with parameters is not supported: use %macro")
        self.defines[name] = uncomment(value).strip()

    def define_expanded(self, rest: str, line: SourceLine) -> None:
        name, value = self.name_and_rest(rest, line)
        self.define(f"{name} {self.expand(value, line)}", line)

    def assign(self, rest: str, line: SourceLine) -> None:
        name, value = self.name_and_rest(rest, line)
        self.defines[name] = str(self.number(value, line))

    def undefine(self, rest: str, line: SourceLine) -> None:
        self.defines.pop(self.name_and_rest(rest, line)[0], None)

    def exit_repeat(self, rest: str, line: SourceLine) -> None:
        raise _ExitRepeat(line)

    def fail(self, rest: str, line: SourceLine) -> None:
        raise line.error(uncomment(rest).strip().strip("\"'") or "%error")

    def ignore(self, rest: str, line: SourceLine) -> None:
        """Carry out nothing, as for `%line` and `%warning`."""

    def stray(self, rest: str, line: SourceLine) -> None:
        raise line.error(f"{line.text.split()[0]} ends nothing here")

    # Conditions

    def begin_if(self, name: str, rest: str, line: SourceLine) -> None:
        taken = self.live and self.test(name, rest, line)
        self.conditions.append(_Condition(taken, taken or not self.live, line))

    def else_if(self, name: str, rest: str, line: SourceLine) -> None:
        condition = self.innermost(name, line)
        condition.taken = False
        condition.taken = not condition.done and self.test(name.removeprefix("el"), rest, line)
        condition.done |= condition.taken

    def otherwise(self, name: str, rest: str, line: SourceLine) -> None:
        condition = self.innermost(name, line)
        condition.else_seen = True
        condition.taken = not condition.done
        condition.done = True

    def end_if(self, name: str, rest: str, line: SourceLine) -> None:
        if not self.conditions:
            raise line.error("%endif without %if")
        self.conditions.pop()

    def innermost(self, name: str, line: SourceLine) -> _Condition:
        if not self.conditions or self.conditions[-1].else_seen:
            raise line.error(f"%{name} without %if")
        return self.conditions[-1]

    def test(self, name: str, rest: str, line: SourceLine) -> bool:
        if name == "if":
            return self.number(rest, line) != 0
        word = uncomment(rest).strip()
        return (word in self.defines or word.lower() in self.macros) == (name == "ifdef")

    # Text

    def number(self, text: str, line: SourceLine) -> int:
        """Evaluate a constant expression of a directive."""
        expanded = SourceLine(line.number, self.expand(text, line), line.note)
        cursor = Cursor(expanded, tokenize(expanded))
        value = parse_expression(cursor).evaluate(_ConstantScope(expanded))
        if cursor.token.kind != "end":
            raise cursor.error(f"'{cursor.token.text}' is too much here")
        return value.number

    def name_and_rest(self, rest: str, line: SourceLine) -> tuple[str, str]:
        match = _NAME.match(rest)
        if match is None:
            raise line.error("a name is expected here")
        text = rest[match.end() :]
        return match.group(), text if text.startswith("(") else text.strip()

    def expand(self, text: str, line: SourceLine) -> str:
        """Replace the single-line macros in a text."""
        if self.defines:
            budget = [LONGEST_LINE]

            def replace(text: str, busy: frozenset[str]) -> str:
                def one(match: re.Match[str]) -> str:
                    word = match.group()
                    budget[0] -= 1
                    if budget[0] < 0:
                        raise line.error(f"macros make this line longer than {LONGEST_LINE} characters")
                    if word not in self.defines or word in busy or len(busy) > DEEPEST_MACRO:
                        return word
                    result = replace(self.defines[word], busy | {word})
                    budget[0] -= len(result)
                    return result

                return WORD.sub(one, text)

            text = replace(text, frozenset())
        if "%+" in text:
            text = paste(text)
        return text

    def plain(self, line: SourceLine) -> None:
        """Emit a line that is no directive, or the body of the macro that it calls."""
        text = self.expand(line.text, line)
        if self.macros:
            call = _CALL.match(text)
            if call is not None and self.call(call, text, line):
                return
        self.output.append(line if text is line.text else SourceLine(line.number, text, line.note))

    def call(self, call: re.Match[str], text: str, line: SourceLine) -> bool:
        """Expand a macro if the line calls one."""
        name, rest, label = call["name"], call["rest"], call["label"]
        if call["bare"] is not None and call["bare"].lower() in self.macros:
            name, rest = call["bare"], text[call.end("bare") :]
        elif call["bare"] is not None and name.lower() in self.macros:
            label = call["bare"]
        overloads = self.macros.get(name.lower())
        if not overloads or name.lower() in self.active or rest.lstrip().startswith(":"):
            return False
        rest = uncomment(rest).strip()
        arguments = split(rest) if rest else []
        macro = choose(overloads, arguments, line)
        if len(self.active) >= DEEPEST_MACRO:
            raise line.error(f"macros call one another more than {DEEPEST_MACRO} deep")
        if macro.greedy and len(arguments) > macro.most:
            arguments[macro.most - 1 :] = [",".join(arguments[macro.most - 1 :])]
        missing = macro.most - len(arguments)
        if 0 < missing <= len(macro.defaults):
            arguments += macro.defaults[len(macro.defaults) - missing :]
        elif missing > 0:
            arguments += macro.defaults[len(arguments) - macro.least :]
        if label:
            self.output.append(SourceLine(line.number, f"{label}:", line.note))
        self.calls += 1
        prefix = f"..@{self.calls}."
        note = line.note or f" (in macro '{macro.name}')"
        body = [SourceLine(line.number, substitute(inner, arguments, prefix, line), note) for inner in macro.body]
        self.active.append(macro.name)
        try:
            self.process(body)
        finally:
            self.active.pop()
        return True


_DIRECTIVES: dict[str, Callable[[_Preprocessor, str, SourceLine], None]] = {
    "define": _Preprocessor.define,
    "xdefine": _Preprocessor.define_expanded,
    "assign": _Preprocessor.assign,
    "undef": _Preprocessor.undefine,
    "exitrep": _Preprocessor.exit_repeat,
    "error": _Preprocessor.fail,
    "fatal": _Preprocessor.fail,
    "warning": _Preprocessor.ignore,
    "line": _Preprocessor.ignore,
    "endmacro": _Preprocessor.stray,
    "endm": _Preprocessor.stray,
    "endrep": _Preprocessor.stray,
}
_CONDITIONALS: dict[str, Callable[[_Preprocessor, str, str, SourceLine], None]] = {
    "if": _Preprocessor.begin_if,
    "ifdef": _Preprocessor.begin_if,
    "ifndef": _Preprocessor.begin_if,
    "elif": _Preprocessor.else_if,
    "elifdef": _Preprocessor.else_if,
    "elifndef": _Preprocessor.else_if,
    "else": _Preprocessor.otherwise,
    "endif": _Preprocessor.end_if,
}
