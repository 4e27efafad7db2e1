"""From a region to a Python function.

The function keeps the general registers in locals, loops over the region's blocks, and counts the instructions it
retires in `n`. It leaves by `break`, with EIP in `ip`; or by an exception, whose line number tells the instruction:
then `recover` says how many instructions were done and what the flags were, from the operands that are still in the
locals. It never starts an iteration that it might not finish before `budget`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.operands import Memory
from vmlab.isa.x86.registers import DS, SS
from vmlab.isa.x86.semantics.arithmetic import PARITY
from vmlab.machine.translator.emit import EMITTERS, Writer, store, translatable, value_of
from vmlab.machine.translator.flags import HEAD, STORED, Pending, formula
from vmlab.machine.translator.region import CONDITIONAL, ENDING, Block, Region, discover, followers, target

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

__all__ = ["Translated", "Unusual", "translate"]


class Unusual(Exception):  # noqa: N818 - no error: the interpreter is to do this instruction
    """An access that translated code leaves to the interpreter."""


@dataclass(slots=True)
class Translated:
    """A region as a function.

    Attributes
    ----------
    run : callable
        `run(cpu, budget)`: execute at most `budget` instructions.
    length : int
        Instructions of the region: the least budget for which `run` may be called.
    """

    run: Callable[[Any, int], None]
    length: int


HEADER = """def run(cpu, budget):
    last = budget - {length}
    ram = cpu.ram
    data, view16, view32, pages, touch = ram.data, ram.view16, ram.view32, ram.pages, cpu.touch_code
    rd, wr = cpu._readable, cpu._writable
    r0, r1, r2, r3, r4, r5, r6, r7 = registers = cpu.registers
    fl = cpu.flags
    n = ft = pc = 0
    try:
        while True:
"""

DEEPEST = 12
"""Levels of indentation below which a block gets a label of its own."""

FOOTER = """    except (KeyError, Unusual, Fault) as stop:
        done, ip, fl = recover(stop.__traceback__.tb_lineno, fl, ft, locals())
        n += done
    registers[0] = r0; registers[1] = r1; registers[2] = r2; registers[3] = r3
    registers[4] = r4; registers[5] = r5; registers[6] = r6; registers[7] = r7
    cpu.flags = fl
    cpu.ip = ip
    cpu.retired += n
"""


class _Compiler:
    """Writes one region: a tree of blocks below each block that can be jumped to."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.writer = Writer()
        self.blocks = {block.start: block for block in region.blocks}
        entered = Counter(place for block in region.blocks for place in followers(block))
        joined = [start for start in self.blocks if entered[start] > 1 and start != region.blocks[0].start]
        self.labels = {region.blocks[0].start: 0}
        for start in joined:
            self.labels[start] = len(self.labels)
        self.waiting = list(self.labels)
        self.current = -1
        self.tags: list[Pending] = []
        self.done: list[int] = []  # instructions since the label that come before each instruction
        self.places: list[int] = []  # EIP of each instruction

    def compile(self) -> Callable[[Any, int], None]:
        w = self.writer
        while self.waiting:
            start = self.waiting.pop(0)
            self.current = self.labels[start]
            w.number = len(self.places)
            w.indent = 0
            w.put(f"if pc == {self.current}:")
            w.indent = 1
            w.pending = Pending(HEAD, HEAD)
            self.block(self.blocks[start], 0, ())
        return self.build()

    def block(self, block: Block, count: int, calls: tuple[int, ...]) -> None:
        """Write a block that is entered after `count` instructions, within calls that return to `calls`."""
        w = self.writer
        for place, instruction in block.code:
            w.number = len(self.places)
            w.stores = False
            self.places.append(place)
            self.done.append(count)
            w.points.append(w.pending)
            count += 1
            if instruction.mnemonic in ENDING:
                self.ending(place, instruction, count, calls)
                return
            EMITTERS[instruction.mnemonic](w, instruction)
            if w.stores:
                self.leave_if_changed(str(place + instruction.length & 0xFFFFFFFF), count)
        self.go(block.end, count, calls)

    # -- leaving a block -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Write the flags into `fl` before leaving the function, without changing what is known after it."""
        w = self.writer
        pending = w.pending
        w.store_flags()
        w.pending = pending

    def leave(self, ip: str, count: int) -> None:
        """Leave the function with EIP `ip`, `count` instructions after the label."""
        self.settle()
        self.writer.put(f"n += {count}; ip = {ip}; break")

    def leave_if_changed(self, following: str, count: int) -> None:
        """Leave after a store that changed code: this code, perhaps."""
        w = self.writer
        w.put("if pages[p >> 12] != 9 and touch(p >> 12):")
        w.indent += 1
        self.leave(following, count)
        w.indent -= 1

    def go(self, place: int, count: int, calls: tuple[int, ...]) -> None:
        """Go to a constant address: on in this tree, to a label, or out."""
        w = self.writer
        block = self.blocks.get(place)
        if block is None:
            self.leave(str(place), count)
        elif place in self.labels:
            self.enter(self.labels[place], place, count)
        elif w.indent >= DEEPEST:
            self.labels[place] = len(self.labels)
            self.waiting.append(place)
            self.enter(self.labels[place], place, count)
        else:
            pending = w.pending
            self.block(block, count, calls)
            w.pending = pending

    def enter(self, label: int, place: int, count: int) -> None:
        """Go to a label, as long as the budget lasts."""
        w = self.writer
        w.put(f"n += {count}", "if n > last:")
        w.indent += 1
        self.settle()
        w.put(f"ip = {place}; break")
        w.indent -= 1
        pending = w.pending
        if pending != Pending(HEAD, HEAD):
            if HEAD in (pending.carry, pending.rest):
                w.store_flags()
            w.put(f"ft = {0 if w.pending == Pending(STORED, STORED) else self.tag()}")
            w.pending = pending
        if label != self.current:
            w.put(f"pc = {label}")
        w.put("continue")

    def tag(self) -> int:
        """Return the number by which the code at a label knows where the flags are now."""
        if self.writer.pending not in self.tags:
            self.tags.append(self.writer.pending)
        return self.tags.index(self.writer.pending) + 1

    # -- transfers of control --------------------------------------------------------------------------------------------

    def ending(self, place: int, instruction: Instruction, count: int, calls: tuple[int, ...]) -> None:
        """Write a jump, call or return."""
        w = self.writer
        following = place + instruction.length & 0xFFFFFFFF
        goal = target(place, instruction)
        if instruction.mnemonic in CONDITIONAL:
            assert goal is not None
            held = w.test(instruction.mnemonic[1:])
            pending = w.pending
            w.put(f"if {held}:")
            w.indent += 1
            self.go(goal, count, calls)
            w.indent -= 1
            w.pending = pending
            self.go(following, count, calls)
        elif instruction.mnemonic == "ret":
            extra = instruction.operands[0].value if instruction.operands else 0  # type: ignore[attr-defined]  # RET takes Immediate
            w.put("if r4 & 3: raise Unusual", "to = view32[(rd[r4 >> 12] | r4 & 4095) >> 2]")
            w.put(f"r4 = r4 + {4 + extra} & {0xFFFFFFFF}")
            self.back(count, calls)
        else:
            if goal is None:
                w.put(f"to = {value_of(w, instruction.operands[0])}")
            if instruction.mnemonic == "call":
                w.put(f"t = r4 - 4 & {0xFFFFFFFF}", "if t & 3: raise Unusual", "p = wr[t >> 12] | t & 4095")
                store(w, str(following), 32)
                w.put("r4 = t")
                self.leave_if_changed("to" if goal is None else str(goal), count)
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
        self.leave("to", count)

    # -- the function ----------------------------------------------------------------------------------------------------

    def build(self) -> Callable[[Any, int], None]:
        w = self.writer
        header = HEADER.format(length=self.region.length)
        first = header.count("\n") + 1
        source = header + "".join(f"            {line}\n" for line in w.lines) + FOOTER
        owners, places, done = w.owners, self.places, self.done
        heads = [_compiled(pending) for pending in self.tags]
        points = [(pending, _compiled(pending)) for pending in w.points]

        def settle(tag: int, names: dict[str, int]) -> int:
            flags: int = eval(heads[tag - 1], GLOBALS, names)  # noqa: S307 - our own formula
            return flags

        def recover(line: int, flags: int, tag: int, names: dict[str, int]) -> tuple[int, int, int]:
            number = owners[line - first]
            pending, code = points[number]
            if tag and HEAD in (pending.carry, pending.rest):
                flags = settle(tag, names)
                names["fl"] = flags
            if pending != Pending(HEAD, HEAD):
                flags = eval(code, GLOBALS, names)  # noqa: S307 - our own formula
            return done[number], places[number], flags

        scope = GLOBALS | {"settle": settle, "recover": recover}
        exec(compile(source, "<translated>", "exec"), scope)  # noqa: S102 - our own source
        run: Callable[[Any, int], None] = scope["run"]
        return run


GLOBALS: dict[str, Any] = {"PARITY": PARITY, "Unusual": Unusual, "Fault": Fault, "KeyError": KeyError}


def _compiled(pending: Pending) -> CodeType:
    """Compile the formula of the flags; parts of a head are in `fl` by then."""
    carry = STORED if pending.carry == HEAD else pending.carry
    rest = STORED if pending.rest == HEAD else pending.rest
    return compile(formula(Pending(carry, rest)), "<flags>", "eval")


def _known(instruction: Instruction) -> bool:
    """Say whether an instruction can be translated: operands in flat segments, transfers of 32 bits."""
    if instruction.segment not in (-1, DS, SS):  # nothing may be written through a flat CS, nor always read
        return False
    if instruction.mnemonic in ENDING:
        return instruction.size == 32 and not any(
            isinstance(o, Memory) and o.address_size != 32 for o in instruction.operands
        )
    return instruction.mnemonic in EMITTERS and translatable(instruction)


def translate(page: bytes, entry: int) -> Translated | None:
    """Translate the region of an address, or return None where nothing can be gained.

    Parameters
    ----------
    page : bytes
        The 4096 bytes of the page of code.
    entry : int
        EIP.
    """
    region = discover(page, entry, _known)
    if region is None:
        return None
    return Translated(_Compiler(region).compile(), region.length)
