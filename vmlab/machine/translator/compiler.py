"""From a region to a Python function.

The function keeps the general registers in locals, loops over the region's blocks, and counts the instructions it
retires in `n`. It leaves by `break`, with EIP in `ip`; or by an exception, whose line number tells the instruction:
then `recover` says how many instructions were done and what the flags were, from the operands that are still in the
locals. It never starts an iteration that it might not finish before `budget`. What is not translated:
`vmlab.machine.translator.outside`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Memory
from vmlab.machine.translator.emitters import EMITTERS, Special, transfers, translatable
from vmlab.machine.translator.flags import AT_REST, HEAD, STORED, Pending, Producer
from vmlab.machine.translator.function import PASSED, added
from vmlab.machine.translator.outside import OutsideText
from vmlab.machine.translator.region import CONDITIONAL, COUNTED, ENDING, Block, Region, followers, target
from vmlab.machine.translator.writer import MASK

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.translator.function import Run

__all__ = ["compile_region"]

SHORT = 3
"""Instructions of a block that is rather written twice."""

MOST_DOUBLES = 3
"""How often in the tree below one label."""

OVERWRITING = frozenset({"add", "sub", "and", "or", "xor", "cmp", "test", "neg"})
SILENT = frozenset({"mov", "movzx", "movsx", "lea", "not", "nop", "bswap", "cwde", "cdq"})
"""Instructions that set all the flags, and those that neither set nor read any."""

DEEPEST = 20
"""Levels of indentation below which a block gets a label of its own."""


class _Compiler(OutsideText):
    """Writes one region: a tree of blocks below each block that can be jumped to."""

    def __init__(self, region: Region, careful: Special) -> None:
        super().__init__(region.blocks[0].start, careful)
        self.region = region
        self.blocks = {block.start: block for block in region.blocks}
        entered = Counter(place for block in region.blocks for place in followers(block))
        first = region.blocks[0].start
        self.labels = {first: 0}
        for start in self.blocks:
            if entered[start] > 1 and start != first:
                self.labels[start] = len(self.labels)
        # Behind a call that comes to a label, nobody knows any more who called: the return looks the place up.
        for block in region.blocks:
            place, last = block.code[-1]
            if last.mnemonic == "call" and block.end in self.blocks and self.reaches_label(target(place, last)):
                self.label(block.end)
                self.returns[block.end] = self.labels[block.end]
        self.waiting = list(self.labels)
        self.written: set[int] = set()
        self.current = -1
        self.doubled: Counter[tuple[int, int]] = Counter()  # how often a short block stands once more in a tree

    def reaches_label(self, goal: int | None) -> bool:
        """Say whether code with a label can be reached from an address, up to a return."""
        waiting, seen = [goal], {goal}
        while waiting:
            place = waiting.pop()
            if place in self.labels:
                return True
            if place in self.blocks:
                found = [each for each in followers(self.blocks[place]) if each not in seen]
                seen.update(found)
                waiting += found
        return False

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
            w.known = Pending(HEAD, HEAD), 0, {}
            parts.append(len(w.lines))
            self.block(self.blocks[start], 0, ())
        parts.append(len(w.lines))
        return self.build(parts), self.longest

    def block(self, block: Block, count: int, calls: tuple[int, ...]) -> None:
        """Write a block that is entered after `count` instructions, within calls that return to `calls`."""
        w = self.writer
        self.written.add(block.start)
        for index, (place, instruction) in enumerate(block.code):
            w.number = len(self.places)
            w.unseen = self.hides_flags(block, index + 1)
            w.careful = place in self.careful.careful
            self.places.append(place)
            self.done.append(count)
            w.points.append(AT_REST if w.pending == AT_REST else w.pending)
            before, count = count, count + self.step(place)
            # Where some are not counted, the interpreter does the last that is: to stop right behind it.
            self.longest = max(self.longest, count % PASSED + self.own)
            ends, known = instruction.mnemonic in ENDING, place not in self.careful.outside
            if known and ends and transfers(instruction, own=self.own):
                self.ending(place, instruction, count, calls)
                return
            if ends or not known or not translatable(instruction, own=self.own):
                if self.outside(place, instruction, before):
                    return
                continue
            EMITTERS[instruction.mnemonic][0](w, instruction)
        self.go(block.end, count, calls)

    def hides_flags(self, block: Block, index: int) -> bool:
        """Say whether an instruction sets all flags before anyone can look: it cannot fault, nor read them."""
        while index < len(block.code):
            place, following = block.code[index]
            touches_memory = following.mnemonic != "lea" and any(
                isinstance(each, Memory) for each in following.operands
            )
            if place in self.careful.outside or touches_memory or not translatable(following, own=self.own):
                return False
            if following.mnemonic in OVERWRITING:
                return True
            if following.mnemonic not in SILENT:
                return False
            index += 1
        return False

    # -- leaving a block -------------------------------------------------------------------------------------------------

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
        if place in self.labels and self.is_short(block):
            # So short: better once more here, where the flags that it asks for are at hand.
            self.doubled[self.current, place] += 1
            known = w.known
            self.block(block, count, calls)
            w.known = known
        elif place in self.labels:
            self.enter(self.labels[place], str(place), count)
        else:
            known = w.known
            self.block(block, count, calls)
            w.known = known

    def is_short(self, block: Block) -> bool:
        """Say whether a block with a label is better written once more than jumped to: little more than a conditional jump."""
        if len(block.code) > SHORT or self.doubled[self.current, block.start] >= MOST_DOUBLES:
            return False
        last = block.code[-1][1].mnemonic
        if last not in CONDITIONAL or last in COUNTED or any(place in self.careful.outside for place, _ in block.code):
            return False
        if len(block.code) == 1:
            return self.writer.can_test(last[1:])
        return all(translatable(instruction, own=self.own) for _, instruction in block.code[:-1])

    def enter(self, label: int | str, place: str, count: int) -> None:
        """Go to a label, as long as the budget lasts."""
        w = self.writer
        before = w.pending
        w.put(added(count), "if n > last:")
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
            known = w.known
            w.put(f"if {held}:")
            w.indent += 1
            self.go(goal, count, calls)
            w.indent -= 1
            w.known = known
            self.go(following, count, calls)
        elif mnemonic == "ret":
            extra = instruction.operands[0].value if instruction.operands else 0  # type: ignore[attr-defined]  # RET takes Immediate
            to = w.pop("to")
            if extra:
                w.set(4, f"r4 + {extra} & {MASK}")
            if to.isdecimal() and calls and calls[-1] == int(to):
                self.go(calls[-1], count, calls[:-1])
                return
            if to != "to":
                w.put(f"to = {to}")
            self.back(count, calls)
        else:
            if goal is None:
                w.put(f"to = {w.value(instruction.operands[0])}")
            if mnemonic == "call":
                w.push(str(following))
                calls = (*calls, following)
            if goal is None:
                self.leave("to", count)
            else:
                self.go(goal, count, calls)

    def back(self, count: int, calls: tuple[int, ...]) -> None:
        """Return to the address in `to`: mostly to where this tree was called from."""
        w = self.writer
        if calls and calls[-1] in self.blocks:
            known = w.known
            w.put(f"if to == {calls[-1]}:")
            w.indent += 1
            self.go(calls[-1], count, calls[:-1])
            w.indent -= 1
            w.known = known
        if self.returns:
            w.put("if to in returns:")
            w.indent += 1
            w.put("pc = returns[to]")
            self.enter(self.current, "to", count)
            w.indent -= 1
        self.leave("to", count)


def compile_region(region: Region, careful: Special) -> tuple[Run, int]:
    """Compile a region.

    Parameters
    ----------
    region : Region
        What to compile.
    careful : Special
        Instructions that are written in another way than most.

    Returns
    -------
    run : callable
        The function.
    longest : int
        Least budget with which it may be called.
    """
    return _Compiler(region, careful).compile()
