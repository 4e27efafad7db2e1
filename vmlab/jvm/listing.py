"""A method three ways: its bytecode, the x86 code that was made of it, and how often it ran.

Simplified: code that the compiler has put aside (where a check fails) stands behind the code of the last instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from vmlab.errors import OptionError
from vmlab.jvm.constant_pool import CLASS, FIELD, STRING
from vmlab.jvm.descriptors import spell, spell_method
from vmlab.jvm.verifier import verify

if TYPE_CHECKING:
    from vmlab.jvm.bytecode import Bytecode
    from vmlab.jvm.classes import Method
    from vmlab.jvm.compiled_method import CompiledMethod
    from vmlab.jvm.constant_pool import ConstantPool
    from vmlab.jvm.runtime import Runtime

__all__ = ["MethodView", "find_method", "format_bytecode"]


class ListingRow(NamedTuple):
    """An instruction: line of the source (0 where it is not known), bytecode, and the x86 code that was made of it."""

    line: int
    bytecode: str
    code: tuple[str, ...]


def format_bytecode(code: Bytecode, pool: ConstantPool, offsets: tuple[int, ...]) -> str:
    """Return an instruction as text, its operand in words."""
    text = f"{code.offset:4} {code.mnemonic}"
    kind, operand = code.opcode.operand, code.operand
    if code.opcode.constant is not None or operand is None:
        return text
    if kind in "jw":
        return f"{text} {offsets[operand]}"
    if kind in "TL":
        cases = ", ".join(f"{key}: {offsets[target]}" for key, target in operand[1].items())
        return f"{text} {cases}, default: {offsets[operand[0]]}"
    if kind == "m":
        return f"{text} {_constant(pool, operand[0])}, {operand[1]}"
    if kind in "kKn":
        return f"{text} {_constant(pool, operand)}"
    if kind == "t":
        return f"{text} {spell(operand)}"
    return f"{text} {', '.join(map(str, operand)) if kind == 'i' else operand}"


def _constant(pool: ConstantPool, index: int) -> str:
    tag = pool.tag(index)
    if tag == FIELD:
        found = pool.field(index)
        return f"{found.owner.replace('/', '.')}.{found.name}"
    if tag == CLASS:
        return spell(name if (name := pool.class_name(index)).startswith("[") else f"L{name};")
    if tag == STRING:
        return repr(pool.string(index))
    if tag in (10, 11):
        return spell_method(*pool.method(index))
    return str(pool.loadable(index)[1])


@dataclass(frozen=True, slots=True, eq=False)
class MethodView:
    """A method to look at.

    Attributes
    ----------
    method : Method
        Which.
    compiled : CompiledMethod or None
        Its code in use; None where the interpreter does it.
    refused : str
        Why it is not compiled, where it has been tried.
    runtime : Runtime
        Where it is.
    """

    method: Method
    compiled: CompiledMethod | None
    refused: str
    runtime: Runtime

    @property
    def title(self) -> str:
        """Its name as Java source writes it."""
        return self.method.title

    @property
    def counts(self) -> dict[str, int]:
        """Calls and rounds of loops that the interpreter has counted before it was compiled; bytes of both codes."""
        size = len(self.method.code.code) if self.method.code else 0
        made = len(self.compiled.code) if self.compiled else 0
        return {
            "calls": self.method.calls,
            "rounds": self.method.loops,
            "bytes of bytecode": size,
            "bytes of x86": made,
        }

    def rows(self) -> list[ListingRow]:
        """Return its instructions, each with the code that was made of it; before the first stands what a call begins with."""
        method = self.method
        if method.code is None or method.owner.file is None:
            return []
        code = verify(method, self.runtime.loader).code
        offsets = tuple(each.offset for each in code)
        texts = [format_bytecode(each, method.owner.file.pool, offsets) for each in code]
        rows = [ListingRow(method.line(each.offset), text, ()) for each, text in zip(code, texts, strict=True)]
        if self.compiled is None:
            return rows
        made: dict[int, list[str]] = {}
        starts = sorted((address, index) for index, address in self.compiled.places.items())
        for line in self.compiled.disassemble():
            index = next((number for address, number in reversed(starts) if address <= line.address), -1)
            made.setdefault(index, []).append(f"{line.address:08x} {line.text}")
        rows = [row._replace(code=tuple(made.get(index, ()))) for index, row in enumerate(rows)]
        return [ListingRow(0, "(a call begins)", tuple(made.get(-1, ()))), *rows]

    def listing(self) -> str:
        """Return bytecode and x86 code side by side, and the counts."""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        state = "compiled" if self.compiled else f"not compiled: {self.refused}" if self.refused else "interpreted"
        lines = [f"{self.title}: {state}; {counts}"]
        width = max([len(row.bytecode) for row in self.rows()], default=0) + 8
        for row in self.rows():
            left = f"{row.line or '':>5} {row.bytecode}"
            lines += [f"{left if not n else '':<{width}}{text}".rstrip() for n, text in enumerate(row.code or ("",))]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.listing()

    def _repr_html_(self) -> str:
        """Return the listing for a notebook."""
        rows = "".join(
            f"<tr style='vertical-align:top'><td>{row.line or ''}</td>"
            f"<td style='text-align:left'><pre>{escape(row.bytecode)}</pre></td>"
            f"<td style='text-align:left'><pre>{escape(chr(10).join(row.code))}</pre></td></tr>"
            for row in self.rows()
        )
        head = "<tr><th>line</th><th style='text-align:left'>bytecode</th><th style='text-align:left'>x86</th></tr>"
        caption = escape(self.listing().partition("\n")[0])
        return f"<table><caption>{caption}</caption>{head}{rows}</table>"


def find_method(runtime: Runtime, name: object) -> Method:
    """Find a method by its name: `Sieve.count`, or with its parameters `Sieve.count(int)`.

    Raises
    ------
    OptionError
        There is none, or several, in the classes that the program has used.
    """
    own = [each for each in runtime.loader.methods if each.code is not None]
    if not isinstance(name, str):
        raise OptionError(f"a method is named as 'Sieve.count', not {name!r:.60}")
    found = [each for each in own if name in (each.title, each.title.partition("(")[0])]
    if len(found) == 1:
        return found[0]
    if found:
        choice = ", ".join(each.title for each in found)
        raise OptionError(f"there are several methods {name}: choose one of {choice}")
    files = runtime.loader.files
    choice = ", ".join(each.title for each in own if each.owner.name in files)[:300]
    raise OptionError(f"there is no method {name!r} in the classes that the program has used: it has {choice}")
