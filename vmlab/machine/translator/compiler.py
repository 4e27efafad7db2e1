"""From a region to a Python function.

The function keeps the general registers in locals, loops over the region's blocks, and counts the instructions it
retires in `n`. It leaves by `break`, with EIP in `ip`; or by an exception, whose line number tells the instruction:
then `recover` says how many instructions were done and what the flags were, from the operands that are still in the
locals. It never starts an iteration that it might not finish before `budget`.

What is not translated is *performed*: the processor's state is brought up to date, the interpreter's semantics called,
and the region left where afterwards anything but the next instruction may be due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Memory, Register16, Register32, SegmentOperand
from vmlab.isa.x86.registers import IF
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.machine.translator.emitters import EMITTERS, Special, transfers, translatable
from vmlab.machine.translator.flags import AT_REST, HEAD, STORED, Pending, Producer
from vmlab.machine.translator.function import LOAD, STORE, FunctionText, Run
from vmlab.machine.translator.region import CONDITIONAL, COUNTED, ENDING, FINAL, Block, Region, followers, target
from vmlab.machine.translator.traps import DATA_SEGMENTS, QUICK
from vmlab.machine.translator.writer import MASK, address, read

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

__all__ = ["compile_region"]

SHORT = 3
"""Instructions of a block that is rather written twice."""

MOST_DOUBLES = 3
"""How often in the tree below one label."""

OVERWRITING = frozenset({"add", "sub", "and", "or", "xor", "cmp", "test", "neg"})
SILENT = frozenset({"mov", "movzx", "movsx", "lea", "not", "nop", "bswap", "cwde", "cdq"})
"""Instructions that set all the flags, and those that neither set nor read any."""

WIDEST = 32
DEEPEST = 20
"""Levels of indentation below which a block gets a label of its own."""


class _Compiler(FunctionText):
    """Writes one region: a tree of blocks below each block that can be jumped to."""

    def __init__(self, region: Region, careful: Special) -> None:
        super().__init__(region.blocks[0].start)
        self.region = region
        self.careful = careful
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
            count += 1
            self.longest = max(self.longest, count)
            ends, known = instruction.mnemonic in ENDING, place not in self.careful.outside
            if known and ends and transfers(instruction):
                self.ending(place, instruction, count, calls)
                return
            if ends or not known or not translatable(instruction):
                if self.outside(place, instruction, count - 1):
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
            if place in self.careful.outside or touches_memory or not translatable(following):
                return False
            if following.mnemonic in OVERWRITING:
                return True
            if following.mnemonic not in SILENT:
                return False
            index += 1
        return False

    # -- what is not translated ------------------------------------------------------------------------------------------

    def outside(self, place: int, instruction: Instruction, count: int) -> bool:
        """Write an instruction that concerns more than registers and memory; say whether it ends the block."""
        w = self.writer
        special = OUTSIDE.get(instruction.mnemonic)
        if special and place not in self.careful.outside and instruction.size <= WIDEST:
            special(self, place, instruction, count)
            return False
        segment = loaded_segment(instruction)
        if segment and place not in self.careful.outside:
            w.put(f"if not load(cpu, {segment[0]}, {segment[1]}):")
            known = w.known
            w.indent += 1
            self.perform(place, instruction, count)
            w.indent -= 1
            w.known = known
            w.slots = {}
            return False
        if reads_register(instruction):
            self.device_read(place, instruction, count)
            return False
        return self.perform(place, instruction, count)

    def device_read(self, place: int, i: Instruction, count: int) -> None:
        """MOV from a device's register, or from what turns out to be something else."""
        w = self.writer
        destination, source = i.operands
        assert isinstance(destination, Register32)
        assert isinstance(source, Memory)
        w.spill(destination.index)
        w.put(f"v = look(cpu, {address(source)}, base + n + {count})", "if v is None:")
        known = w.known
        w.indent += 1
        self.perform(place, i, count)
        w.indent -= 1
        w.known = known
        w.put("else:")
        w.indent += 1
        w.assign(destination, "v")
        self.leave_if_due(place + i.length & MASK, count + 1)
        w.indent -= 1
        w.slots = {}

    def perform(self, place: int, instruction: Instruction, count: int) -> bool:
        """Write a call of the interpreter's semantics; say whether it ends the block."""
        w = self.writer
        w.store_flags()
        w.slots = {}
        semantic = QUICK.get(instruction.mnemonic) or SEMANTICS[instruction.mnemonic]
        number = len(self.items)
        self.items.append((semantic, instruction, place, place + instruction.length & MASK))
        w.put(STORE, "cpu.flags = fl")
        if instruction.mnemonic in FINAL or instruction.mnemonic in ENDING:
            w.put(f"perform(cpu, {number}, base + n + {count}, 0)", "return None")
            return True
        w.put(f"away = perform(cpu, {number}, base + n + {count}, limit)", LOAD)
        w.put("if away:", f"    n += {count + 1}; ip = cpu.ip; break")
        return False

    def port_in(self, place: int, i: Instruction, count: int) -> None:
        """IN."""
        w = self.writer
        destination, port = i.operands
        w.put("if not io: raise Unusual", f"cpu.retired = base + n + {count}")
        w.put(f"v = cpu.port_read({read(port)}, {i.size >> 3})")
        w.assign(destination, "v")
        self.leave_if_due(place + i.length & MASK, count + 1)

    def port_out(self, place: int, i: Instruction, count: int) -> None:
        """OUT."""
        w = self.writer
        port, source = i.operands
        w.put("if not io: raise Unusual", f"cpu.retired = base + n + {count}")
        w.put(f"cpu.port_write({read(port)}, {i.size >> 3}, {read(source)})")
        self.leave_if_due(place + i.length & MASK, count + 1)

    def leave_if_due(self, place: int, count: int) -> None:
        """Leave where a device wants something before the next instruction."""
        w = self.writer
        w.put("if cpu.horizon != limit:")
        w.indent += 1
        self.leave(str(place), count)
        w.indent -= 1

    def clear_interrupts(self, place: int, i: Instruction, count: int) -> None:
        """CLI: nothing waits that this could hold back, or this region would not run."""
        self.writer.put("if not io: raise Unusual", f"fl &= {MASK & ~IF}; cpu.flags &= {MASK & ~IF}")

    # -- leaving a block -------------------------------------------------------------------------------------------------

    def leave(self, ip: str, count: int) -> None:
        """Leave the function with EIP `ip`, `count` instructions after the label."""
        w = self.writer
        known = w.known
        w.store_flags()
        w.known = known
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
        return all(translatable(instruction) for _, instruction in block.code[:-1])

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


OUTSIDE: dict[str, Callable[[_Compiler, int, Instruction, int], None]] = {
    "in": _Compiler.port_in,
    "out": _Compiler.port_out,
    "cli": _Compiler.clear_interrupts,
}
"""Mnemonics of what is written out after all."""


def loaded_segment(i: Instruction) -> tuple[int, str] | None:
    """Return which of DS, ES, FS and GS an instruction loads from a register, and what with."""
    if i.mnemonic != "mov":
        return None
    destination, source = i.operands
    if not isinstance(destination, SegmentOperand) or destination.index not in DATA_SEGMENTS:
        return None
    return (destination.index, read(source)) if isinstance(source, (Register16, Register32)) else None


def reads_register(i: Instruction) -> bool:
    """Say whether an instruction does nothing but read 32 bits of memory into a general register."""
    if i.mnemonic != "mov" or not translatable(i):
        return False
    destination, source = i.operands
    return isinstance(destination, Register32) and isinstance(source, Memory)


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
