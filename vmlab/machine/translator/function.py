"""The text of a region as a Python function, and what it calls.

Where the text comes from: `vmlab.machine.translator.compiler`. Here it gets its head and foot, its labels become a tree of
comparisons, and placeholders become lines; then it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import ARITHMETIC, CF
from vmlab.isa.x86.semantics.arithmetic import PARITY
from vmlab.machine.translator.flags import (
    AT_REST,
    HEAD,
    STORED,
    Pending,
    Producer,
    carry_formula,
    formula,
    rest_formula,
)
from vmlab.machine.translator.traps import load, look
from vmlab.machine.translator.writer import MASK, UNUSED, Writer

if TYPE_CHECKING:
    from types import CodeType, TracebackType

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics import Semantic
    from vmlab.machine.processor import Processor

    Item = tuple[Semantic, Instruction, int, int]

__all__ = ["LOAD", "PASSED", "STORE", "FunctionText", "Run", "Unusual", "added"]

Run = Callable[[Any, int], "tuple[int, int] | None"]
"""`run(cpu, budget)`: execute at most `budget` instructions; where one was left to the interpreter, its EIP and key."""


class Unusual(Exception):  # noqa: N818 - no error: the interpreter is to do this instruction
    """An access that translated code leaves to the interpreter."""


PORTS_ALLOWED = "io = cpu.ring <= cpu.flags >> 12 & 3"
"""Whether IOPL lets this ring use ports and IF; where not, the interpreter looks at the bitmap, or faults."""

PASSED = 1 << 20
"""What an instruction that is not counted adds to a count of those before a place, where another adds 1."""

STORE, LOAD = "@store", "@load"
"""Lines that stand for bringing the processor's registers up to date, and for taking them back."""

REGISTERS = 8
INLINE = 12
"""Producers among which code at a label chooses by itself to compute the flags; for more there is a function."""

HEADER = """def run(cpu, budget):
    last = budget - {longest}
    registers = cpu.registers
    fl = cpu.flags
    base = cpu.retired
    missed = None
    n = g = fc = fr = pc = 0
{load}
    try:
        while True:
"""

NEEDED = {
    "data": "data = cpu.ram.data",
    "view16": "view16 = cpu.ram.view16",
    "view32": "view32 = cpu.ram.view32",
    "rd": "rd = cpu.quick_read",
    "wr": "wr = cpu.quick_write",
    "limit": "limit = cpu.horizon",
    "io": PORTS_ALLOWED,
}
"""Locals that the header binds where the code names them."""

FOOTER = """    except (KeyError, Unusual) as stop:
        done, ip, fl = recover(stop.__traceback__, fl, fc, fr)
        n += done % {passed}; g += done // {passed}
        missed = ip, stop.args[0] if stop.args else 0
    {store}
    cpu.flags = fl
    cpu.ip = ip
    cpu.retired = base + n
    {note}
    return missed
"""

NAME = re.compile(r"\b(?:data|view16|view32|rd|wr|limit|io)\b")
REGISTER = re.compile(r"\br([0-7])\b")
WRITTEN = re.compile(r"^ *r([0-7]) = ", re.MULTILINE)


def added(count: int) -> str:
    """Return a statement that adds to what has been counted, and to what has not."""
    passed, counted = divmod(count, PASSED)
    return f"n += {counted}; g += {passed}" if passed else f"n += {counted}"


class FunctionText:
    """The lines of one region, with what is known of them.

    Parameters
    ----------
    entry : int
        EIP of the region.

    Attributes
    ----------
    writer : Writer
        The lines.
    tags : list of Producer
        What a label's code knows the producers of flags by, from 1.
    ends : list of Pending
        Where the flags may be when the budget ends.
    own : bool
        True where some instructions are not counted.
    done, places : list of int
        For each instruction: how many come before it since the label, see `PASSED`; EIP.
    items : list of (semantic, instruction, EIP, EIP behind it)
        What is performed.
    returns : dict of int to int
        Labels of places behind calls.
    longest : int
        Instructions of the longest way from a label to the next.
    """

    def __init__(self, entry: int) -> None:
        self.entry = entry
        self.writer = Writer()
        self.tags: list[Producer] = []
        self.ends: list[Pending] = []
        self.done: list[int] = []
        self.places: list[int] = []
        self.items: list[Item] = []
        self.returns: dict[int, int] = {}
        self.longest = 1
        self.own = False

    def build(self, parts: list[int]) -> Run:
        """Compile what is written; `parts` are the lines at which labels start, and the end."""
        w = self.writer
        lines: list[str] = []
        owners: list[int] = []

        def write(low: int, high: int, indent: str) -> None:
            if high - low > 1:
                middle = (low + high) // 2
                for test, start, end in ((f"if pc < {middle}:", low, middle), ("else:", middle, high)):
                    lines.append(indent + test)
                    owners.append(0)
                    write(start, end, indent + "    ")
                return
            for number in range(parts[low], parts[high]):
                line = w.lines[number]
                stripped = line.lstrip()
                if stripped == UNUSED:
                    continue
                prefix = indent + line[: len(line) - len(stripped)]
                for each in self.settle() if stripped == "@flags" else [stripped]:
                    lines.append(prefix + each)
                    owners.append(w.owners[number])

        write(0, len(parts) - 1, "            ")
        body = "\n".join(lines) + "\n"
        needed = sorted({*NAME.findall(body)})
        named = {
            name
            for point in (*w.points, *self.ends)
            for producer in (point.carry, point.rest)
            for name in producer.names
        }
        used = sorted({*REGISTER.findall(body), *(name[1:] for name in named if REGISTER.fullmatch(name))})
        changed = sorted({*WRITTEN.findall(body)})
        load = "; ".join(f"r{k} = registers[{k}]" for k in used) or "pass"
        store = "; ".join(f"registers[{k}] = r{k}" for k in changed) or "pass"
        if len(used) == REGISTERS:
            load = "r0, r1, r2, r3, r4, r5, r6, r7, _, _, _, _, _, _, _, _ = registers"
        if len(changed) == REGISTERS:
            store = "registers[:8] = r0, r1, r2, r3, r4, r5, r6, r7"
        if self.items:
            again = f"{load}; fl = cpu.flags" + (f"; {PORTS_ALLOWED}" if "io" in needed else "")
            body = body.replace(STORE, store).replace(LOAD, again)
        lines = [f"    {line}" for line in (load, *(NEEDED[name] for name in needed))]
        header = HEADER.format(longest=self.longest, load="\n".join(lines))
        return self.assemble(
            header,
            body + FOOTER.format(store=store, passed=PASSED, note="cpu.uncounted.executed += g" if self.own else ""),
            owners,
        )

    def settle(self) -> list[str]:
        """Return lines that compute into `fl` what a jump to this label has left in `fc` and `fr`."""
        if len(self.tags) > INLINE:
            return ["if fc or fr: fl = settle(fl, fc, fr, locals()); fc = fr = 0"]
        lines: list[str] = []
        for number, tag in enumerate(self.tags, 1):
            if tag.kind != "bit":
                lines.append(
                    f"{'el' if lines else ''}if fr == {number}: fl = fl & {MASK & ~(ARITHMETIC & ~CF)} | {rest_formula(tag)}"
                )
        first = True
        for number, tag in enumerate(self.tags, 1):
            if tag.kind not in ("inc", "dec"):
                lines.append(f"{'' if first else 'el'}if fc == {number}: fl = fl & {MASK & ~CF} | {carry_formula(tag)}")
                first = False
        return [*lines, "fc = fr = 0"]

    def assemble(self, header: str, rest: str, owners: list[int]) -> Run:
        """Compile the text; bind what it calls."""
        first = header.count("\n") + 1
        tags, ends, points, places, done = self.tags, self.ends, self.writer.points, self.places, self.done
        codes: dict[tuple[int, int, int], CodeType | None] = {}
        items, page = self.items, self.entry >> 12

        def perform(cpu: Processor, number: int, retired: int, limit: int) -> bool:
            handler, instruction, start, following = items[number]
            cpu.retired, cpu.ip = retired, following
            try:
                handler(cpu, instruction)
            except Fault as fault:
                cpu.ip = start if fault.ip is None else fault.ip
                raise
            cpu.retired += 1
            return cpu.horizon != limit or cpu.ip != following or not cpu.code_pages.get(page)

        def evaluate(where: int, pending: Pending, flags: int, carry: int, rest: int, names: dict[str, Any]) -> int:
            key = where, carry, rest
            if key not in codes:
                known = Pending(
                    (tags[carry - 1] if carry else STORED) if pending.carry == HEAD else pending.carry,
                    (tags[rest - 1] if rest else STORED) if pending.rest == HEAD else pending.rest,
                )
                stored = known == Pending(STORED, STORED)
                codes[key] = None if stored else compile(formula(known), "<flags>", "eval")
            code = codes[key]
            if code is None:
                return flags
            value: int = eval(code, GLOBALS, names)  # noqa: S307 - our own formula
            return value

        def settle(flags: int, carry: int, rest: int, names: dict[str, Any]) -> int:
            return evaluate(-1, Pending(HEAD, HEAD), flags, carry, rest, names)

        def exact(number: int, flags: int, carry: int, rest: int, names: dict[str, Any]) -> int:
            return evaluate(-2 - number, ends[number], flags, carry, rest, names)

        numbers: dict[int, int] = {}  # of instructions, by the place of the bytecode: to find a line takes long

        def recover(stop: TracebackType, flags: int, carry: int, rest: int) -> tuple[int, int, int]:
            number = numbers.get(stop.tb_lasti)
            if number is None:
                number = numbers[stop.tb_lasti] = owners[stop.tb_lineno - first]
            point = points[number]
            if point is not AT_REST:
                flags = evaluate(number, point, flags, carry, rest, stop.tb_frame.f_locals)
            return done[number], places[number], flags

        scope = GLOBALS | {
            "settle": settle,
            "exact": exact,
            "recover": recover,
            "returns": self.returns,
            "perform": perform,
        }
        exec(compile(header + rest, "<translated>", "exec"), scope)  # noqa: S102 - our own source
        run: Run = scope["run"]
        return run


GLOBALS: dict[str, Any] = {
    "load": load,
    "look": look,
    "PARITY": PARITY,
    "Unusual": Unusual,
    "KeyError": KeyError,
    "from_bytes": int.from_bytes,
}
