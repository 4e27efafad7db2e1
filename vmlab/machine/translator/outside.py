"""What is not translated like moves and sums: it is written out, where that pays, or *performed*.

To perform is to bring the processor's state up to date, to call the interpreter's semantics, and to leave the region where
afterwards anything but the next instruction may be due. Written out are ports, CLI, loads of flat segments, and reads of
devices' registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Memory, Register16, Register32, SegmentOperand
from vmlab.isa.x86.registers import IF
from vmlab.machine.intercepts import semantic_of
from vmlab.machine.translator.emitters import Special, translatable
from vmlab.machine.translator.function import LOAD, PASSED, STORE, FunctionText, added
from vmlab.machine.translator.region import ENDING, FINAL
from vmlab.machine.translator.traps import DATA_SEGMENTS, QUICK
from vmlab.machine.translator.writer import MASK, address, read
from vmlab.machine.uncounted import leaving_out

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

__all__ = ["OutsideText"]

WIDEST = 32


class OutsideText(FunctionText):
    """Writes what concerns more than registers and memory.

    Parameters
    ----------
    entry : int
        EIP of the region.
    careful : Special
        Instructions that are written in another way than most.
    """

    def __init__(self, entry: int, careful: Special) -> None:
        super().__init__(entry)
        self.careful = careful
        self.own = careful.uncounted is not None

    def is_uncounted(self, place: int) -> bool:
        """Say whether the processor leaves out the instruction at an address when it counts."""
        return self.careful.uncounted is not None and place in self.careful.uncounted

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
        if reads_register(instruction) and not self.own:
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
        w.put(f"v = look(cpu, {address(source)}, base + n + {count % PASSED})", "if v is None:")
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
        semantic = QUICK.get(instruction.mnemonic) or semantic_of(instruction)
        number, after = len(self.items), count + self.step(place)
        if self.is_uncounted(place):
            semantic = leaving_out(semantic)
        self.items.append((semantic, instruction, place, place + instruction.length & MASK))
        w.put(STORE, "cpu.flags = fl")
        if self.own:  # it may fault, and never come back
            w.put(f"cpu.uncounted.executed += g + {count // PASSED}; g = -{count // PASSED}")
        if instruction.mnemonic in FINAL or instruction.mnemonic in ENDING:
            w.put(f"perform(cpu, {number}, base + n + {count % PASSED}, 0)", "return None")
            return True
        w.put(f"away = perform(cpu, {number}, base + n + {count % PASSED}, limit)", LOAD)
        if self.is_uncounted(place):
            w.put("g -= 1")  # it is noted there
        w.put("if away:", f"    {added(after)}; ip = cpu.ip; break")
        return False

    def step(self, place: int) -> int:
        """Return what executing the instruction at an address adds to a count."""
        return PASSED if self.is_uncounted(place) else 1

    def port_in(self, place: int, i: Instruction, count: int) -> None:
        """IN."""
        w = self.writer
        destination, port = i.operands
        w.put("if cpu.exits_io or not io: raise Unusual", f"cpu.retired = base + n + {count % PASSED}")
        w.put(f"v = cpu.port_read({read(port)}, {i.size >> 3})")
        w.assign(destination, "v")
        self.leave_if_due(place + i.length & MASK, count + 1)

    def port_out(self, place: int, i: Instruction, count: int) -> None:
        """OUT."""
        w = self.writer
        port, source = i.operands
        w.put("if cpu.exits_io or not io: raise Unusual", f"cpu.retired = base + n + {count % PASSED}")
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

    def leave(self, ip: str, count: int) -> None:
        """Leave the function with EIP `ip`, `count` instructions after the label."""
        w = self.writer
        known = w.known
        w.store_flags()
        w.known = known
        w.put(f"{added(count)}; ip = {ip}; break")


OUTSIDE: dict[str, Callable[[OutsideText, int, Instruction, int], None]] = {
    "in": OutsideText.port_in,
    "out": OutsideText.port_out,
    "cli": OutsideText.clear_interrupts,
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
