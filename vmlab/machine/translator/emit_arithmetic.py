"""Python for arithmetic and logic: what `vmlab.isa.x86.semantics` says, written out for the operands of an instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Immediate, Memory, Operand, Register32
from vmlab.isa.x86.registers import CF, OF, ZF
from vmlab.machine.translator.emitters import always, emits, is_plain, is_wide
from vmlab.machine.translator.flags import carry_formula
from vmlab.machine.translator.writer import MASK, Writer, read

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

__all__: list[str] = []

OPERATOR = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "adc": "+", "sbb": "-"}


def _finish(w: Writer, destination: Operand, size: int, local: str) -> str:
    """Write the result `local` of an instruction that sets all flags; return a name for it that will last."""
    if isinstance(destination, Memory):
        w.put_back(size, local)
        return local
    w.assign(destination, local, carry=False, rest=False)
    return f"r{destination.index}" if isinstance(destination, Register32) else local


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
    _finish(w, destination, size, f"c{n}")
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
    _finish(w, destination, size, f"c{n}")
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


# -- shifts ----------------------------------------------------------------------------------------------------------------


def _is_shift(i: Instruction) -> bool:
    return is_plain(i) and len(i.operands) == 2


@emits("shl", "shr", "sar", when=_is_shift)
def _shift(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    size, n, sign = i.size, w.number, 1 << i.size - 1
    if not isinstance(source, Immediate):
        _shift_by_register(w, i)
        return
    count = source.value & 31
    if isinstance(destination, Memory):
        w.modify(destination, size)
        value = "v"
    else:
        value = read(destination)
    if not count:
        w.put("pass")
        return
    if w.unseen and i.mnemonic != "sar" and isinstance(destination, Register32):
        w.put(f"{value} = {value} >> {count}" if i.mnemonic == "shr" else f"{value} = {value} << {count} & {MASK}")
        w.produce(i.mnemonic)
        return
    w.put(f"b{n} = {value}" if i.mnemonic != "sar" else f"b{n} = ({value} ^ {sign}) - {sign}")
    operator = "<<" if i.mnemonic == "shl" else ">>"
    w.put(f"c{n} = b{n} {operator} {count}" + ("" if i.mnemonic == "shr" else f" & {(1 << size) - 1}"))
    w.produce(i.mnemonic, b=f"b{n}", r=_finish(w, destination, size, f"c{n}"), size=size, count=count)


def _shift_by_register(w: Writer, i: Instruction) -> None:
    """Shift by CL: without flags where it is 0, so they are computed at once."""
    destination, _ = i.operands
    size, mask, sign = i.size, (1 << i.size) - 1, 1 << i.size - 1
    if isinstance(destination, Memory):
        w.modify(destination, size)
    else:
        w.put(f"v = {read(destination)}")
    w.store_flags()
    w.put("if r1 & 31:")
    w.indent += 1
    if i.mnemonic == "shl":
        w.put("x = v << (r1 & 31)", f"q = x & {mask}", f"k = x >> {size} & 1")
        w.put(f"o = (q ^ v << (r1 & 31) - 1) >> {size - 1} & 1")
    else:
        if i.mnemonic == "sar":
            w.put(f"v = (v ^ {sign}) - {sign}")
        w.put("x = v >> (r1 & 31) - 1", f"q = x >> 1 & {mask}", "k = x & 1")
        w.put("o = 0" if i.mnemonic == "sar" else f"o = (x ^ q) >> {size - 1} & 1")
    w.put(
        f"fl = fl & {0xFFFFFFFF & ~0x8D5} | PARITY[q & 255] | q >> {size - 8} & 128 | (0 if q else {ZF}) | k | o << 11"
    )
    if isinstance(destination, Memory):
        w.put_back(size, "q")
    else:
        w.assign(destination, "q")
    w.indent -= 1


@emits("rol", "ror", when=_is_shift)
def _rotate(w: Writer, i: Instruction) -> None:
    """Rotate: CF and OF alone, computed at once."""
    destination, source = i.operands
    size, mask = i.size, (1 << i.size) - 1
    if isinstance(destination, Memory):
        w.modify(destination, size)
    else:
        w.put(f"v = {read(destination)}")
    w.store_flags()
    if isinstance(source, Immediate):
        if not source.value & 31:
            return
        turn, back = str((source.value & 31) % size), str(size - (source.value & 31) % size)
    else:
        w.put("if r1 & 31:")
        w.indent += 1
        w.put(f"x = (r1 & 31) % {size}")
        turn, back = "x", f"({size} - x)"
    if i.mnemonic == "rol":
        w.put(f"q = (v << {turn} | v >> {back}) & {mask}")
        w.put(f"fl = fl & {MASK & ~(CF | OF)} | q & 1 | ((q >> {size - 1} ^ q) & 1) << 11")
    else:
        w.put(f"q = (v >> {turn} | v << {back}) & {mask}")
        w.put(f"fl = fl & {MASK & ~(CF | OF)} | q >> {size - 1} | ((q >> {size - 1} ^ q >> {size - 2}) & 1) << 11")
    if isinstance(destination, Memory):
        w.put_back(size, "q")
    else:
        w.assign(destination, "q")
    if not isinstance(source, Immediate):
        w.indent -= 1


@emits("shld", "shrd", when=is_wide)
def _double_shift(w: Writer, i: Instruction) -> None:
    """Shift with the bits of another register following, by a constant; or by CL."""
    destination, source, amount = i.operands
    if isinstance(destination, Memory):
        w.modify(destination, 32)
    else:
        w.put(f"v = {read(destination)}")
    if isinstance(amount, Immediate):
        count = str(amount.value & 31)
        if count == "0":
            return
    else:
        count = "(r1 & 31)"
        w.store_flags()
        w.put("if r1 & 31:")
        w.indent += 1
    if isinstance(amount, Immediate):
        w.store_flags()
    if i.mnemonic == "shld":
        w.put(f"x = (v << 32 | {read(source)}) << {count}", f"q = x >> 32 & {MASK}", "k = x >> 64 & 1")
        w.put("o = (x >> 63 ^ x >> 64) & 1")
    else:
        w.put(
            f"x = ({read(source)} << 32 | v) >> {count} - 1",
            f"q = x >> 1 & {MASK}",
            "k = x & 1",
            "o = (x >> 31 ^ x >> 32) & 1",
        )
    w.put(f"fl = fl & {0xFFFFFFFF & ~0x8D5} | PARITY[q & 255] | q >> 24 & 128 | (0 if q else {ZF}) | k | o << 11")
    if isinstance(destination, Memory):
        w.put_back(32, "q")
    else:
        w.assign(destination, "q")
    if not isinstance(amount, Immediate):
        w.indent -= 1


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


# -- single bits -----------------------------------------------------------------------------------------------------------

CHANGE = {"bts": " | {}", "btr": " & ~{}", "btc": " ^ {}"}


def _is_bit(i: Instruction) -> bool:
    return (
        is_plain(i)
        and i.size == 32
        and not (isinstance(i.operands[0], Memory) and not isinstance(i.operands[1], Immediate))
    )


@emits("bt", "bts", "btr", "btc", when=_is_bit)
def _bit(w: Writer, i: Instruction) -> None:
    """Test a bit of a register, or one of constant number in memory."""
    target, number = i.operands
    n = w.number
    if isinstance(target, Memory):
        w.load(target, 32) if i.mnemonic == "bt" else w.modify(target, 32)
    else:
        w.put(f"v = {read(target)}")
    bit = str(number.value & 31) if isinstance(number, Immediate) else f"({read(number)} & 31)"
    if not bit.isdecimal():
        w.put(f"x = {bit}")
        bit = "x"
    if i.mnemonic != "bt":
        new = "v" + CHANGE[i.mnemonic].format(f"(1 << {bit})")
        w.put_back(32, new) if isinstance(target, Memory) else w.assign(target, new, carry=False)
    w.put(f"c{n} = v >> {bit} & 1")
    w.produce("bit", r=f"c{n}")


@emits("bsf", "bsr", when=is_wide)
def _scan(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    value = w.value(source, "v")
    w.put(f"v = {value}")
    w.store_flags()
    w.put(f"fl = fl & {MASK & ~ZF} | (0 if v else {ZF})", "if v:")
    w.indent += 1
    w.assign(destination, "(v & -v).bit_length() - 1" if i.mnemonic == "bsf" else "v.bit_length() - 1")
    w.indent -= 1


@emits("bswap", when=is_wide)
def _swap(w: Writer, i: Instruction) -> None:
    (target,) = i.operands
    w.assign(target, f"from_bytes({read(target)}.to_bytes(4, 'little'), 'big')")


@emits("clc", "stc", when=always)
def _carry(w: Writer, i: Instruction) -> None:
    w.produce("bit", r="1" if i.mnemonic == "stc" else "0")


@emits("cld", "std", when=always)
def _direction(w: Writer, i: Instruction) -> None:
    w.put(f"fl |= {1 << 10}" if i.mnemonic == "std" else f"fl &= {MASK & ~(1 << 10)}")
