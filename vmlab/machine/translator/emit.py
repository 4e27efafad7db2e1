"""Python for each instruction: what `vmlab.isa.x86.semantics` says of it, written out for its operands.

General registers are the locals `r0` … `r7`. Whatever may fault comes first in an instruction's lines, so that an
exception finds the state as before it. A page that no dictionary holds raises KeyError, an access that is not aligned
raises `Unusual`: the interpreter then executes that instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vmlab.isa.x86.instruction import Instruction
from vmlab.isa.x86.operands import Immediate, Memory, Operand, Register8, Register16, Register32
from vmlab.isa.x86.registers import ARITHMETIC, OF
from vmlab.machine.translator.flags import HEAD, STORED, Pending, Producer, condition, formula

__all__ = ["EMITTERS", "Writer"]

MASK = 0xFFFFFFFF
ALIGNMENT = {8: 0, 16: 1, 32: 3}
VIEWS = {8: ("data", 0), 16: ("view16", 1), 32: ("view32", 2)}


@dataclass(slots=True)
class Writer:
    """The lines of one region, and where the flags are at each point.

    Attributes
    ----------
    lines : list of str
        Python, without the outermost indentation.
    owners : list of int
        For each line, the number of the instruction that it belongs to.
    points : list of Pending
        For each instruction, where the flags are before it.
    pending : Pending
        Where they are now.
    number : int
        The instruction being written.
    stores : bool
        True where the instruction wrote to memory, at `p`: code may have changed.
    """

    lines: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    points: list[Pending] = field(default_factory=list)
    pending: Pending = Pending(HEAD, HEAD)
    number: int = 0
    indent: int = 0
    stores: bool = False

    def put(self, *lines: str) -> None:
        """Add lines for the present instruction."""
        for line in lines:
            self.lines.append("    " * self.indent + line)
            self.owners.append(self.number)

    def keep(self, kind: str, a: str, b: str = "", size: int = 32) -> None:
        """Keep the operands of a producer of flags, after everything of the instruction that may fault."""
        self.put(f"a{self.number} = {a}" + (f"; b{self.number} = {b}" if b else ""))
        self.produced(Producer(kind, self.number, size))

    def produced(self, producer: Producer) -> None:
        """Note a producer of flags."""
        carry = self.pending.carry if producer.kind in ("inc", "dec") else producer
        self.pending = Pending(carry, producer)

    def store_flags(self) -> None:
        """Compute the flags into `fl`."""
        if HEAD in (self.pending.carry, self.pending.rest):
            self.put("if ft: fl = settle(ft, locals()); ft = 0")
            carry = STORED if self.pending.carry == HEAD else self.pending.carry
            rest = STORED if self.pending.rest == HEAD else self.pending.rest
            self.pending = Pending(carry, rest)
        if self.pending != Pending(STORED, STORED):
            self.put(f"fl = {formula(self.pending)}")
            self.pending = Pending(STORED, STORED)

    def test(self, suffix: str) -> str:
        """Return an expression for a condition; flags of a block's head are stored first."""
        if HEAD in (self.pending.carry, self.pending.rest):
            self.store_flags()
        return condition(suffix, self.pending)


def address(memory: Memory) -> str:
    """Return an expression for the linear address of an operand in a flat segment."""
    parts = [f"r{memory.base}"] if memory.base >= 0 else []
    if memory.index >= 0:
        parts.append(f"r{memory.index} * {memory.scale}" if memory.scale > 1 else f"r{memory.index}")
    if not parts:
        return str(memory.displacement)
    if memory.displacement:
        signed = memory.displacement - (memory.displacement >> 31 << 32)
        parts.append(str(signed)) if signed > 0 else parts.append(f"({signed})")
    if len(parts) == 1 and memory.scale == 1:
        return parts[0]
    return f"{' + '.join(parts)} & {MASK}"


def place(w: Writer, memory: Memory) -> str:
    """Return a local that holds the linear address of an operand."""
    found = address(memory)
    if found.isidentifier() or found.isdecimal():
        return found
    w.put(f"t = {found}")
    return "t"


def load(w: Writer, memory: Memory, size: int, *, into: str = "v", table: str = "rd") -> None:
    """Write a read from memory into a local; through `wr` it leaves the address in RAM in `p`, for a store."""
    view, shift = VIEWS[size]
    t = place(w, memory)
    found = f"p := {table}[{t} >> 12] | {t} & 4095" if table == "wr" else f"{table}[{t} >> 12] | {t} & 4095"
    if size > 8:
        w.put(f"if {t} & {ALIGNMENT[size]}: raise Unusual")
        w.put(f"{into} = {view}[({found}) >> {shift}]")
    else:
        w.put(f"{into} = data[{found}]" if table != "wr" else f"{into} = data[({found})]")


def store(w: Writer, value: str, size: int, memory: Memory | None = None) -> None:
    """Write a store: to an operand, or to `p` where a `load` through `wr` has found it already."""
    view, shift = VIEWS[size]
    if memory is not None:
        t = place(w, memory)
        if size > 8:
            w.put(f"if {t} & {ALIGNMENT[size]}: raise Unusual")
        w.put(f"p = wr[{t} >> 12] | {t} & 4095")
    w.put(f"{view}[p >> {shift}] = {value}" if shift else f"data[p] = {value}")
    w.stores = True


def read(operand: Operand) -> str:
    """Return an expression for a register or a constant."""
    if isinstance(operand, Register32):
        return f"r{operand.index}"
    if isinstance(operand, Register16):
        return f"(r{operand.index} & 65535)"
    if isinstance(operand, Register8):
        return f"(r{operand.parent} >> 8 & 255)" if operand.shift else f"(r{operand.parent} & 255)"
    assert isinstance(operand, Immediate)
    return str(operand.value)


def assign(operand: Operand, value: str) -> str:
    """Return a statement that sets a register to a masked value."""
    if isinstance(operand, Register32):
        return f"r{operand.index} = {value}"
    if isinstance(operand, Register16):
        return f"r{operand.index} = r{operand.index} & {0xFFFF0000} | {value}"
    assert isinstance(operand, Register8)
    keep, shift = (0xFFFF00FF, " << 8") if operand.shift else (0xFFFFFF00, "")
    value = f"({value}){shift}" if shift else value
    return f"r{operand.parent} = r{operand.parent} & {keep} | {value}"


def value_of(w: Writer, operand: Operand) -> str:
    """Write the read of an operand; return an expression for its value."""
    if isinstance(operand, Memory):
        load(w, operand, operand.size)
        return "v"
    return read(operand)


Emitter = Callable[[Writer, Instruction], None]
EMITTERS: dict[str, Emitter] = {}


def emits(*mnemonics: str) -> Callable[[Emitter], Emitter]:
    """Enter a function into the table under its mnemonics."""

    def enter(function: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(mnemonics, function))
        return function

    return enter


@emits("mov", "movzx")
def _mov(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    if isinstance(destination, Memory):
        store(w, read(source), destination.size, destination)
    else:
        w.put(assign(destination, value_of(w, source)))


@emits("movsx")
def _movsx(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    value = value_of(w, source)
    sign = 1 << source.size - 1
    w.put(assign(destination, f"(({value}) ^ {sign}) - {sign} & {(1 << destination.size) - 1}"))


@emits("lea")
def _lea(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    assert isinstance(source, Memory)
    w.put(assign(destination, address(source)))


BINARY = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}


@emits(*BINARY)
def _binary(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    mnemonic, size = i.mnemonic, i.size
    kind = mnemonic if mnemonic in ("add", "sub") else "logic"
    mask = f" & {(1 << size) - 1}" if kind != "logic" else ""
    if isinstance(destination, Memory):
        load(w, destination, size, table="wr")
        other = read(source)
        w.put(f"u = v {BINARY[mnemonic]} {other}{mask}")
        store(w, "u", size)
        w.keep(kind, "v" if kind != "logic" else "u", other if kind != "logic" else "", size)
        return
    if mnemonic == "xor" and destination == source:
        w.put(assign(destination, "0"))
        w.keep("logic", "0", size=size)
        return
    other = value_of(w, source)
    if kind == "logic":
        w.keep(kind, f"{read(destination)} {BINARY[mnemonic]} {other}", size=size)
        w.put(assign(destination, f"a{w.number}"))
    else:
        w.keep(kind, read(destination), other, size)
        w.put(assign(destination, f"a{w.number} {BINARY[mnemonic]} b{w.number}{mask}"))


@emits("cmp")
def _cmp(w: Writer, i: Instruction) -> None:
    left, right = i.operands
    if isinstance(left, Memory):
        load(w, left, i.size)
        w.keep("sub", "v", read(right), i.size)
    else:
        w.keep("sub", read(left), value_of(w, right), i.size)


@emits("test")
def _test(w: Writer, i: Instruction) -> None:
    left, right = i.operands
    if left == right and not isinstance(left, Memory):
        w.keep("logic", read(left), size=i.size)
    else:
        first = value_of(w, left)
        w.keep("logic", f"{first} & {read(right)}", size=i.size)


@emits("inc", "dec")
def _inc(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    sign, mask = "+" if i.mnemonic == "inc" else "-", (1 << i.size) - 1
    if w.pending.carry == HEAD:
        w.store_flags()
    if isinstance(destination, Memory):
        load(w, destination, i.size, table="wr")
        w.put(f"u = v {sign} 1 & {mask}")
        store(w, "u", i.size)
        w.keep(i.mnemonic, "u", size=i.size)
    else:
        w.keep(i.mnemonic, f"{read(destination)} {sign} 1 & {mask}", size=i.size)
        w.put(assign(destination, f"a{w.number}"))


@emits("neg")
def _neg(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    mask = (1 << i.size) - 1
    if isinstance(destination, Memory):
        load(w, destination, i.size, table="wr")
        store(w, f"-v & {mask}", i.size)
    else:
        w.put(f"v = {read(destination)}", assign(destination, f"-v & {mask}"))
    w.keep("sub", "0", "v", i.size)


@emits("not")
def _not(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    mask = (1 << i.size) - 1
    if isinstance(destination, Memory):
        load(w, destination, i.size, table="wr")
        store(w, f"v ^ {mask}", i.size)
    else:
        w.put(assign(destination, f"{read(destination)} ^ {mask}"))


@emits("push")
def _push(w: Writer, i: Instruction) -> None:
    value = value_of(w, i.operands[0])
    if value == "v":
        w.put("u = v")
        value = "u"
    w.put(f"t = r4 - 4 & {MASK}", "if t & 3: raise Unusual", "p = wr[t >> 12] | t & 4095")
    store(w, value, 32)
    w.put("r4 = t")


@emits("pop")
def _pop(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    w.put("if r4 & 3: raise Unusual", "v = view32[(rd[r4 >> 12] | r4 & 4095) >> 2]", f"r4 = r4 + 4 & {MASK}")
    w.put(assign(destination, "v"))


@emits("leave")
def _leave(w: Writer, i: Instruction) -> None:
    w.put("if r5 & 3: raise Unusual", "v = view32[(rd[r5 >> 12] | r5 & 4095) >> 2]")
    w.put(f"r4 = r5 + 4 & {MASK}", "r5 = v")


@emits("xchg")
def _xchg(w: Writer, i: Instruction) -> None:
    left, right = i.operands
    w.put(f"v = {read(left)}; u = {read(right)}", assign(left, "u"), assign(right, "v"))


@emits("nop")
def _nop(w: Writer, i: Instruction) -> None:
    w.put("pass")


@emits("cdq")
def _cdq(w: Writer, i: Instruction) -> None:
    w.put(f"r2 = {MASK} if r0 >> 31 else 0")


@emits("cwde")
def _cwde(w: Writer, i: Instruction) -> None:
    w.put(f"r0 = ((r0 & 65535) ^ 32768) - 32768 & {MASK}")


@emits("shl", "shr", "sar")
def _shift(w: Writer, i: Instruction) -> None:
    """Shift a register by a constant (anything else is not translated, see `translatable`)."""
    destination, source = i.operands
    assert isinstance(source, Immediate)
    count, mask, sign = source.value & 31, (1 << i.size) - 1, 1 << i.size - 1
    if not count:
        w.put("pass")
        return
    value = read(destination)
    number = w.number
    if i.mnemonic == "shl":
        w.put(f"b{number} = {value}; a{number} = b{number} << {count} & {mask}")
    elif i.mnemonic == "shr":
        w.put(f"b{number} = {value}; a{number} = b{number} >> {count}")
    else:
        w.put(f"b{number} = ({value} ^ {sign}) - {sign}; a{number} = b{number} >> {count} & {mask}")
    w.produced(Producer(i.mnemonic, number, i.size, count))
    w.put(assign(destination, f"a{number}"))


@emits("imul")
def _imul(w: Writer, i: Instruction) -> None:
    """Multiply with two or three operands of 32 bits."""
    value = value_of(w, i.operands[-2]) if len(i.operands) == 3 else read(i.operands[0])
    w.put(f"x = {value}")
    other = value_of(w, i.operands[-1])
    sign, number = 1 << 31, w.number
    w.put(f"b{number} = ((x ^ {sign}) - {sign}) * (({other} ^ {sign}) - {sign}); a{number} = b{number} & {MASK}")
    w.produced(Producer("imul", number, 32))
    w.put(assign(i.operands[0], f"a{number}"))


@emits("adc", "sbb")
def _adc(w: Writer, i: Instruction) -> None:
    """Add or subtract with carry, registers of 32 bits."""
    destination, source = i.operands
    carry = w.test("b")
    other = value_of(w, source)
    sign = "+" if i.mnemonic == "adc" else "-"
    w.put(
        f"c = 1 if {carry} else 0", f"v = {other}; a = {read(destination)}; x = a {sign} v {sign} c", f"u = x & {MASK}"
    )
    w.put(assign(destination, "u"))
    overflow = "(a ^ u) & (v ^ u)" if sign == "+" else "(a ^ v) & (a ^ u)"
    out = "x >> 32" if sign == "+" else "(x < 0)"
    w.put(
        f"fl = fl & {~ARITHMETIC & MASK} | PARITY[u & 255] | u >> 24 & 128 | (0 if u else 64) | {out}"
        f" | (a ^ v ^ u) & 16 | ({overflow}) >> 20 & {OF}"
    )
    w.pending = Pending(STORED, STORED)


def _setcc(w: Writer, i: Instruction) -> None:
    held = w.test(i.mnemonic[3:])
    w.put(assign(i.operands[0], f"(1 if {held} else 0)"))


def _cmov(w: Writer, i: Instruction) -> None:
    held = w.test(i.mnemonic[4:])
    destination, source = i.operands
    value = value_of(w, source)
    w.put(f"if {held}: {assign(destination, value)}")


SUFFIXES = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
for _suffix in SUFFIXES:
    emits(f"set{_suffix}")(_setcc)
    emits(f"cmov{_suffix}")(_cmov)


def translatable(i: Instruction) -> bool:
    """Say whether an instruction of a mnemonic in the table has a form that is written here."""
    operands = i.operands
    memories = [operand for operand in operands if isinstance(operand, Memory)]
    if any(memory.address_size != 32 for memory in memories):
        return False
    if not all(isinstance(o, (Memory, Immediate, Register8, Register16, Register32)) for o in operands):
        return False
    m = i.mnemonic
    if m in ("shl", "shr", "sar"):
        return isinstance(operands[1], Immediate) and isinstance(operands[0], Register32)
    if m == "imul":
        return len(operands) > 1 and i.size == 32
    if m in ("adc", "sbb"):
        return i.size == 32 and isinstance(operands[0], Register32)
    if m in ("push", "pop", "leave"):
        return i.size == 32 and (m != "pop" or isinstance(operands[0], Register32))
    if m == "xchg" or m.startswith("set"):
        return not memories
    if m in ("cdq", "cwde", "lea"):
        return i.size == 32
    return True
