"""Python for arithmetic and logic: what `vmlab.isa.x86.semantics` says, written out for the operands of an instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Memory, Register32
from vmlab.machine.translator.emitters import emits, is_wide
from vmlab.machine.translator.flags import carry_formula
from vmlab.machine.translator.writer import MASK, Writer, read

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

__all__: list[str] = []

OPERATOR = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "adc": "+", "sbb": "-"}


@emits("add", "sub", "and", "or", "xor")
def _binary(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    size, n, operator = i.size, w.number, OPERATOR[i.mnemonic]
    logic = i.mnemonic in ("and", "or", "xor")
    kind = "logic" if logic else i.mnemonic
    mask = "" if logic else f" & {(1 << size) - 1}"
    if isinstance(destination, Register32):
        to = f"r{destination.index}"
        if i.mnemonic in ("xor", "sub") and destination == source:
            w.put(f"{to} = 0")
            w.produce("logic", r="0")
            return
        other = w.named(source, f"b{n}")
        if logic:
            w.put(f"{to} = {to} {operator} {other}")
            w.produce("logic", r=to)
        elif other == to:
            w.put(f"b{n} = {to}", f"{to} = {to} + {to}{mask}")
            w.produce("add", b=f"b{n}", r=to)
        else:
            w.put(f"{to} = {to} {operator} {other}{mask}")
            w.produce(kind, b=other, r=to)
        return
    if isinstance(destination, Memory):
        w.modify(destination, size, f"a{n}")
        other = w.named(source, f"b{n}")
    else:
        other = w.named(source, f"b{n}")
        w.put(f"a{n} = {read(destination)}")
    w.put(f"c{n} = a{n} {operator} {other}{mask}")
    w.finish(destination, size, f"c{n}")
    if logic:
        w.produce("logic", r=f"c{n}", size=size)
    else:
        w.produce(kind, a=f"a{n}", b=other, r=f"c{n}", size=size)


@emits("adc", "sbb")
def _adc(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    size, n, operator = i.size, w.number, OPERATOR[i.mnemonic]
    if w.pending.carry.kind == "head":
        w.store_flags()
    carry = carry_formula(w.pending.carry)
    if isinstance(destination, Memory):
        w.modify(destination, size)
        other = read(source)
    else:
        other = w.value(source, "v")
    # The carry first: it may lie in the locals of this same instruction, from its last time.
    w.put(f"k = {carry}")
    if isinstance(destination, Memory):
        w.put(f"b{n} = {other}; a{n} = v")
    else:
        w.put(f"b{n} = {other}; a{n} = {read(destination)}")
    w.put(f"c{n} = a{n} {operator} b{n} {operator} k")
    result = f"c{n} & {(1 << size) - 1}"
    if isinstance(destination, Memory):
        w.put_back(size, result)
    else:
        w.assign(destination, result if size == 32 else f"({result})", carry=False, rest=False)
    w.produce(i.mnemonic, a=f"a{n}", b=f"b{n}", r=f"c{n}", size=size)


@emits("cmp")
def _cmp(w: Writer, i: Instruction) -> None:
    left, right = i.operands
    n = w.number
    if isinstance(right, Memory):
        b = w.named(right, f"b{n}")
        a = w.named(left, f"a{n}")
    else:
        a = w.named(left, f"a{n}")
        b = w.named(right, f"b{n}")
    w.produce("sub", a=a, b=b, size=i.size)


@emits("test")
def _test(w: Writer, i: Instruction) -> None:
    left, right = i.operands
    if left == right and isinstance(left, Register32):
        w.produce("logic", r=f"r{left.index}")
        return
    n = w.number
    first = w.value(left, "v")
    w.put(f"c{n} = {first}" if left == right else f"c{n} = {first} & {read(right)}")
    w.produce("logic", r=f"c{n}", size=i.size)


@emits("inc", "dec")
def _inc(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    size, n, limit = i.size, w.number, (1 << i.size) - 1
    if isinstance(destination, Memory):
        w.modify(destination, size)
        value = "v"
    else:
        value = read(destination)
    new = f"{value} + 1 if {value} != {limit} else 0" if i.mnemonic == "inc" else f"{value} - 1 if {value} else {limit}"
    if isinstance(destination, Register32):
        w.assign(destination, new, rest=False)
        w.produce(i.mnemonic, r=f"r{destination.index}")
        return
    w.put(f"c{n} = {new}")
    if isinstance(destination, Memory):
        w.put_back(size, f"c{n}")
    else:
        w.assign(destination, f"c{n}", rest=False)
    w.produce(i.mnemonic, r=f"c{n}", size=size)


@emits("neg")
def _neg(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    size, n, mask = i.size, w.number, (1 << i.size) - 1
    if isinstance(destination, Memory):
        w.modify(destination, size, f"b{n}")
    else:
        w.put(f"b{n} = {read(destination)}")
    w.put(f"c{n} = -b{n} & {mask}")
    w.finish(destination, size, f"c{n}")
    w.produce("sub", a="0", b=f"b{n}", r=f"c{n}", size=size)


@emits("not")
def _not(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    mask = (1 << i.size) - 1
    if isinstance(destination, Memory):
        w.modify(destination, i.size)
        w.put_back(i.size, f"v ^ {mask}")
    else:
        w.assign(destination, f"{read(destination)} ^ {mask}")


# -- multiplication and division -------------------------------------------------------------------------------------------


@emits("imul", "mul", when=is_wide)
def _multiply(w: Writer, i: Instruction) -> None:
    n, sign = w.number, 1 << 31
    wide = len(i.operands) == 1
    x = "r0" if wide else w.value(i.operands[-2], "x") if len(i.operands) == 3 else read(i.operands[0])
    y = w.value(i.operands[-1], "v")
    if i.mnemonic == "mul":
        w.put(f"v = {x} * {y}")
    else:
        y = str(int(y) - (int(y) >> 31 << 32)) if y.isdecimal() else f"(({y} ^ {sign}) - {sign})"
        w.put(f"b{n} = v = (({x} ^ {sign}) - {sign}) * {y}")
    if wide:
        w.put(f"r0 = c{n} = v & {MASK}", f"r2 = v >> 32 & {MASK}")
    else:
        w.put(f"c{n} = v & {MASK}")
        w.assign(i.operands[0], f"c{n}", carry=False, rest=False)
    if i.mnemonic == "mul":
        w.put(f"b{n} = r2")
    w.produce(i.mnemonic, b=f"b{n}", r=f"c{n}")


@emits("div", when=is_wide)
def _divide(w: Writer, i: Instruction) -> None:
    """Divide; an exception is the interpreter's."""
    value = w.value(i.operands[0], "v")
    w.put(f"if {value} <= r2: raise Unusual", f"q, x = divmod(r2 << 32 | r0, {value})")
    w.set(0, "q")
    w.set(2, "x")


@emits("idiv", when=is_wide)
def _divide_signed(w: Writer, i: Instruction) -> None:
    value, sign = w.value(i.operands[0], "v"), 1 << 31
    w.put(f"y = ({value} ^ {sign}) - {sign}")
    w.put("if not y: raise Unusual", f"x = ((r2 << 32 | r0) ^ {1 << 63}) - {1 << 63}")
    w.put("q = abs(x) // abs(y)", "if (x < 0) != (y < 0): q = -q")
    w.put(f"if not {-sign} <= q < {sign}: raise Unusual", "x -= q * y")
    w.set(0, f"q & {MASK}")
    w.set(2, f"x & {MASK}")
