"""From a region to a Python function.

The function keeps the general registers in locals, loops over the region's blocks, and counts the instructions it
retires in `n`. It leaves by `break`, with EIP in `ip`; or by an exception, whose line number tells the instruction:
then `recover` says how many instructions were done and what the flags were, from the operands that are still in the
locals. It never starts an iteration that it might not finish before `budget`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.registers import ARITHMETIC, CF
from vmlab.isa.x86.semantics.arithmetic import PARITY
from vmlab.machine.translator.emitters import EMITTERS
from vmlab.machine.translator.flags import HEAD, STORED, Pending, Producer, carry_formula, formula, rest_formula
from vmlab.machine.translator.region import CONDITIONAL, COUNTED, ENDING, Block, Region, followers, target
from vmlab.machine.translator.writer import MASK, Writer

if TYPE_CHECKING:
    from types import CodeType, TracebackType

    from vmlab.isa.x86.instruction import Instruction

__all__ = ["Run", "Unusual", "compile_region"]

Run = Callable[[Any, int], "tuple[int, int] | None"]
"""`run(cpu, budget)`: execute at most `budget` instructions; where one was left to the interpreter, its EIP and key."""


class Unusual(Exception):  # noqa: N818 - no error: the interpreter is to do this instruction
    """An access that translated code leaves to the interpreter."""


DEEPEST = 20
"""Levels of indentation below which a block gets a label of its own."""

INLINE = 5
"""Producers among which code at a label chooses by itself to compute the flags; for more there is a function."""

HEADER = """def run(cpu, budget):
    last = budget - {longest}
    ram = cpu.ram
    data, view16, view32 = ram.data, ram.view16, ram.view32
    rd, wr = cpu.quick_read, cpu.quick_write
    registers = cpu.registers
    {load}
    fl = cpu.flags
    missed = None
    n = fc = fr = pc = 0
    try:
        while True:
"""

FOOTER = """    except (KeyError, Unusual) as stop:
        done, ip, fl = recover(stop.__traceback__, fl, fc, fr, locals())
        n += done
        missed = ip, stop.args[0] if stop.args else 0
    {store}
    cpu.flags = fl
    cpu.ip = ip
    cpu.retired += n
    return missed
"""

REGISTER = re.compile(r"\br([0-7])\b")
WRITTEN = re.compile(r"^ *r([0-7]) = ", re.MULTILINE)


class _Compiler:
    """Writes one region: a tree of blocks below each block that can be jumped to."""

    def __init__(self, region: Region, careful: frozenset[int]) -> None:
        self.region = region
        self.careful = careful
        self.writer = Writer()
        self.blocks = {block.start: block for block in region.blocks}
        entered = Counter(place for block in region.blocks for place in followers(block))
        first = region.blocks[0].start
        self.labels = {first: 0}
        for start in self.blocks:
            if entered[start] > 1 and start != first:
                self.labels[start] = len(self.labels)
        # Behind a call whose goal has a label, nobody knows any more who called: the return looks the place up.
        self.returns: dict[int, int] = {}
        for block in region.blocks:
            place, last = block.code[-1]
            if last.mnemonic == "call" and block.end in self.blocks and target(place, last) in self.labels:
                self.label(block.end)
                self.returns[block.end] = self.labels[block.end]
        self.waiting = list(self.labels)
        self.written: set[int] = set()
        self.current = -1
        self.doubled: set[tuple[int, int]] = set()  # in which tree a jump stands once more, and which
        self.tags: list[Producer] = []
        self.ends: list[Pending] = []  # where the flags may be when the budget ends
        self.done: list[int] = []  # instructions since the label that come before each instruction
        self.places: list[int] = []  # EIP of each instruction
        self.longest = 1

    def label(self, place: int) -> int:
        """Return the number of a block's label, a new one if need be."""
        if place not in self.labels:
            self.labels[place] = len(self.labels)
        return self.labels[place]

    def compile(self) -> tuple[Run, int]:
        """Return the function, and the least budget with which it may be called."""
        w = self.writer
        parts: list[int] = []
        while self.waiting:
            start = self.waiting.pop(0)
            self.current = self.labels[start]
            w.number = len(self.places)
            w.indent = 0
            w.pending = Pending(HEAD, HEAD)
            parts.append(len(w.lines))
            self.block(self.blocks[start], 0, ())
        parts.append(len(w.lines))
        return self.build(parts), self.longest

    def block(self, block: Block, count: int, calls: tuple[int, ...]) -> None:
        """Write a block that is entered after `count` instructions, within calls that return to `calls`."""
        w = self.writer
        self.written.add(block.start)
        for place, instruction in block.code:
            w.number = len(self.places)
            w.careful = place in self.careful
            self.places.append(place)
            self.done.append(count)
            w.points.append(w.pending)
            count += 1
            self.longest = max(self.longest, count)
            if instruction.mnemonic in ENDING:
                self.ending(place, instruction, count, calls)
                return
            EMITTERS[instruction.mnemonic][0](w, instruction)
        self.go(block.end, count, calls)

    # -- leaving a block -------------------------------------------------------------------------------------------------

    def leave(self, ip: str, count: int) -> None:
        """Leave the function with EIP `ip`, `count` instructions after the label."""
        w = self.writer
        pending = w.pending
        w.store_flags()
        w.pending = pending
        w.put(f"n += {count}; ip = {ip}; break")

    def go(self, place: int, count: int, calls: tuple[int, ...]) -> None:
        """Go to a constant address: on in this tree, to a label, or out."""
        w = self.writer
        block = self.blocks.get(place)
        if block is None:
            self.leave(str(place), count)
            return
        if place not in self.labels and (w.indent >= DEEPEST or place in self.written):
            self.label(place)
            self.waiting.append(place)
        mnemonic = block.code[0][1].mnemonic
        alone = len(block.code) == 1 and mnemonic in CONDITIONAL and (self.current, place) not in self.doubled
        if place in self.labels and alone and mnemonic not in COUNTED and w.can_test(mnemonic[1:]):
            # A jump alone: better once more here, where the flags that it asks for are at hand.
            self.doubled.add((self.current, place))
            pending = w.pending
            self.block(block, count, calls)
            w.pending = pending
        elif place in self.labels:
            self.enter(self.labels[place], str(place), count)
        else:
            pending = w.pending
            self.block(block, count, calls)
            w.pending = pending

    def enter(self, label: int | str, place: str, count: int) -> None:
        """Go to a label, as long as the budget lasts."""
        w = self.writer
        before = w.pending
        w.put(f"n += {count}", "if n > last:")
        w.indent += 1
        if before != Pending(STORED, STORED):
            if before not in self.ends:
                self.ends.append(before)
            w.put(f"fl = exact({self.ends.index(before)}, fl, fc, fr, locals())")  # rare: it may take its time
        w.put(f"ip = {place}; break")
        w.indent -= 1
        w.spill_all()
        carry, rest = w.pending.carry, w.pending.rest
        tags = [f"fc = {self.tag(carry)}"] if carry != HEAD else []
        tags += [f"fr = {self.tag(rest)}"] if rest != HEAD else []
        if tags:
            w.put("; ".join(tags))
        w.pending = before
        if label != self.current:
            w.put(f"pc = {label}")
        w.put("continue")

    def tag(self, producer: Producer) -> int:
        """Return the number by which the code at a label knows this producer."""
        if producer == STORED:
            return 0
        if producer not in self.tags:
            self.tags.append(producer)
        return self.tags.index(producer) + 1

    # -- transfers of control --------------------------------------------------------------------------------------------

    def ending(self, place: int, instruction: Instruction, count: int, calls: tuple[int, ...]) -> None:
        """Write a jump, call or return."""
        w = self.writer
        following = place + instruction.length & MASK
        goal = target(place, instruction)
        mnemonic = instruction.mnemonic
        if mnemonic in CONDITIONAL:
            assert goal is not None
            if mnemonic == "loop":
                w.set(1, f"r1 - 1 if r1 else {MASK}")
            held = COUNTED.get(mnemonic) or w.test(mnemonic[1:])
            pending = w.pending
            w.put(f"if {held}:")
            w.indent += 1
            self.go(goal, count, calls)
            w.indent -= 1
            w.pending = pending
            self.go(following, count, calls)
        elif mnemonic == "ret":
            extra = instruction.operands[0].value if instruction.operands else 0  # type: ignore[attr-defined]  # RET takes Immediate
            w.load("r4", 32, "to")
            w.set(4, f"r4 + {4 + extra} & {MASK}" if extra else "r4 + 4")
            self.back(count, calls)
        else:
            if goal is None:
                w.put(f"to = {w.value(instruction.operands[0])}")
            if mnemonic == "call":
                w.put("t = r4 - 4")
                w.store("t", 32, str(following))
                w.set(4, "t")
                calls = (*calls, following)
            if goal is None:
                self.leave("to", count)
            else:
                self.go(goal, count, calls)

    def back(self, count: int, calls: tuple[int, ...]) -> None:
        """Return to the address in `to`: mostly to where this tree was called from."""
        w = self.writer
        if calls and calls[-1] in self.blocks:
            pending = w.pending
            w.put(f"if to == {calls[-1]}:")
            w.indent += 1
            self.go(calls[-1], count, calls[:-1])
            w.indent -= 1
            w.pending = pending
        if self.returns:
            w.put("if to in returns:")
            w.indent += 1
            w.put("pc = returns[to]")
            self.enter(self.current, "to", count)
            w.indent -= 1
        self.leave("to", count)

    # -- the function ----------------------------------------------------------------------------------------------------

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
                prefix = indent + line[: len(line) - len(stripped)]
                for each in self.settle() if stripped == "@flags" else [stripped]:
                    lines.append(prefix + each)
                    owners.append(w.owners[number])

        write(0, len(parts) - 1, "            ")
        body = "\n".join(lines) + "\n"
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
        if len(used) == 8:
            load = "r0, r1, r2, r3, r4, r5, r6, r7, _, _, _, _, _, _, _, _ = registers"
        if len(changed) == 8:
            store = "registers[:8] = r0, r1, r2, r3, r4, r5, r6, r7"
        header = HEADER.format(longest=self.longest, load=load)
        return self.assemble(header, body + FOOTER.format(store=store), owners)

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
        codes: dict[Pending, CodeType] = {}

        def evaluate(pending: Pending, flags: int, carry: int, rest: int, names: dict[str, Any]) -> int:
            known = Pending(
                (tags[carry - 1] if carry else STORED) if pending.carry == HEAD else pending.carry,
                (tags[rest - 1] if rest else STORED) if pending.rest == HEAD else pending.rest,
            )
            if known == Pending(STORED, STORED):
                return flags
            code = codes.get(known)
            if code is None:
                code = codes[known] = compile(formula(known), "<flags>", "eval")
            value: int = eval(code, GLOBALS, names)  # noqa: S307 - our own formula
            return value

        def settle(flags: int, carry: int, rest: int, names: dict[str, Any]) -> int:
            return evaluate(Pending(HEAD, HEAD), flags, carry, rest, names)

        def exact(number: int, flags: int, carry: int, rest: int, names: dict[str, Any]) -> int:
            return evaluate(ends[number], flags, carry, rest, names)

        numbers: dict[int, int] = {}  # of instructions, by the place of the bytecode: to find a line takes long

        def recover(
            stop: TracebackType, flags: int, carry: int, rest: int, names: dict[str, Any]
        ) -> tuple[int, int, int]:
            number = numbers.get(stop.tb_lasti)
            if number is None:
                number = numbers[stop.tb_lasti] = owners[stop.tb_lineno - first]
            return done[number], places[number], evaluate(points[number], flags, carry, rest, names)

        scope = GLOBALS | {"settle": settle, "exact": exact, "recover": recover, "returns": self.returns}
        exec(compile(header + rest, "<translated>", "exec"), scope)  # noqa: S102 - our own source
        run: Run = scope["run"]
        return run


GLOBALS: dict[str, Any] = {"PARITY": PARITY, "Unusual": Unusual, "KeyError": KeyError, "from_bytes": int.from_bytes}


def compile_region(region: Region, careful: frozenset[int]) -> tuple[Run, int]:
    """Compile a region.

    Parameters
    ----------
    region : Region
        What to compile.
    careful : frozenset of int
        EIP of instructions whose accesses may be unaligned, or wrap around at 4 GiB.

    Returns
    -------
    run : callable
        The function.
    longest : int
        Least budget with which it may be called.
    """
    return _Compiler(region, careful).compile()
