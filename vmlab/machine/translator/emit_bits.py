"""Python for shifts, rotates and single bits: what `vmlab.isa.x86.semantics` says, written out for the operands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Immediate, Memory, Register32
from vmlab.isa.x86.registers import CF, OF, ZF
from vmlab.machine.translator.emitters import always, emits, is_plain, is_wide
from vmlab.machine.translator.writer import MASK, Writer, read

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

__all__: list[str] = []

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
    w.produce(i.mnemonic, b=f"b{n}", r=w.finish(destination, size, f"c{n}"), size=size, count=count)


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
