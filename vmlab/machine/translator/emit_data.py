"""Python for moving data: MOV and its kin, the stack, exchange, conversions, single elements of strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.operands import Memory, Register32
from vmlab.isa.x86.registers import EAX, EBP, EBX, ECX, EDI, EDX, ESI, ESP, RF, VM
from vmlab.machine.translator.emitters import always, emits, is_wide
from vmlab.machine.translator.writer import LINE_KEY, MASK, PAGE_KEY, Writer, address, read

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

__all__: list[str] = []


@emits("mov", "movzx")
def _mov(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    if isinstance(destination, Memory):
        w.store(destination, destination.size, read(source))
    elif isinstance(destination, Register32) and isinstance(source, Memory):
        # Straight into the register: the load fails before it assigns. The address may be made of it.
        w.spill(destination.index)
        w.load(source, source.size, f"r{destination.index}")
    else:
        w.assign(destination, w.value(source))


@emits("movsx")
def _movsx(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    value = w.named(source, "v")
    sign, extension = 1 << source.size - 1, (1 << destination.size) - (1 << source.size)
    w.assign(destination, f"({value} if {value} < {sign} else {value} | {extension})")


@emits("lea", when=is_wide)
def _lea(w: Writer, i: Instruction) -> None:
    destination, source = i.operands
    assert isinstance(source, Memory)
    found = address(source)
    w.assign(destination, found if found.isidentifier() or found.isdecimal() else f"{found} & {MASK}")


@emits("push", when=is_wide)
def _push(w: Writer, i: Instruction) -> None:
    w.push(w.value(i.operands[0], "u"))


@emits("pop", when=is_wide)
def _pop(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    if isinstance(destination, Memory):
        w.load("r4", 32, "u")
        target = address(destination)
        if destination.base == ESP:
            target += " + 4"  # addressed with ESP already raised
        w.store(target, 32, "u")
        w.set(ESP, "r4 + 4")
    else:
        w.assign(destination, w.pop("u"))


@emits("leave", when=is_wide)
def _leave(w: Writer, i: Instruction) -> None:
    w.load("r5", 32)
    w.set(ESP, "r5 + 4")
    w.set(EBP, "v")


@emits("pushf", when=is_wide)
def _pushf(w: Writer, i: Instruction) -> None:
    w.store_flags()
    w.push(f"fl & {MASK & ~(VM | RF)}")


PUSHED = (EDI, ESI, EBP, ESP, EBX, EDX, ECX, EAX)


@emits("pusha", when=is_wide)
def _pusha(w: Writer, i: Instruction) -> None:
    w.put("t = r4 - 32", "if t & 255 > 224: raise Unusual", f"p = t + wr[t & {LINE_KEY[32]}] >> 2")
    w.slots.clear()
    for n, register in enumerate(PUSHED):
        w.put(f"view32[p + {n}] = r{register}")
    w.set(ESP, "t")


@emits("popa", when=is_wide)
def _popa(w: Writer, i: Instruction) -> None:
    w.put("if r4 & 4095 > 4064: raise Unusual", f"p = r4 + rd[r4 & {PAGE_KEY[32]}] >> 2")
    for n, register in enumerate(PUSHED):
        if register != ESP:
            w.set(register, f"view32[p + {n}]")
    w.set(ESP, "r4 + 32")


@emits("xchg")
def _xchg(w: Writer, i: Instruction) -> None:
    left, right = i.operands
    if isinstance(right, Memory):
        left, right = right, left
    if isinstance(left, Memory):
        w.modify(left, i.size)
        w.put_back(i.size, read(right))
        w.assign(right, "v")
    else:
        w.put(f"v = {read(left)}; u = {read(right)}")
        w.assign(left, "u")
        w.assign(right, "v")


@emits("nop", when=always)
def _nop(w: Writer, i: Instruction) -> None:
    """Write nothing."""


@emits("cdq", when=is_wide)
def _cdq(w: Writer, i: Instruction) -> None:
    w.set(EDX, f"{MASK} if r0 >> 31 else 0")


@emits("cwde", when=is_wide)
def _cwde(w: Writer, i: Instruction) -> None:
    w.set(EAX, f"((r0 & 65535) ^ 32768) - 32768 & {MASK}")


def _setcc(w: Writer, i: Instruction) -> None:
    (destination,) = i.operands
    held = w.test(i.mnemonic[3:])
    if isinstance(destination, Memory):
        w.store(destination, 8, f"1 if {held} else 0")
    else:
        w.assign(destination, f"(1 if {held} else 0)")


def _cmov(w: Writer, i: Instruction) -> None:
    held = w.test(i.mnemonic[4:])
    destination, source = i.operands
    value = w.value(source)
    w.put(f"x = {held}")
    w.assign(destination, f"({value} if x else {read(destination)})")


SUFFIXES = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
for _suffix in SUFFIXES:
    emits(f"set{_suffix}")(_setcc)
    emits(f"cmov{_suffix}")(_cmov)


# -- single elements of strings --------------------------------------------------------------------------------------------


def _is_string(i: Instruction) -> bool:
    return not i.repeat and i.address_size == 32 and i.size <= 32


def _advance(w: Writer, i: Instruction, *registers: int) -> None:
    width = i.size >> 3
    w.put(f"x = {-width} if fl & 1024 else {width}")
    for register in registers:
        w.set(register, f"r{register} + x & {MASK}")


@emits("lods", when=_is_string)
def _lods(w: Writer, i: Instruction) -> None:
    w.load("r6", i.size)
    keep = {8: f"r0 & {0xFFFFFF00} | v", 16: f"r0 & {0xFFFF0000} | v", 32: "v"}
    w.set(EAX, keep[i.size])
    _advance(w, i, ESI)


@emits("stos", when=_is_string)
def _stos(w: Writer, i: Instruction) -> None:
    w.store("r7", i.size, "r0" if i.size == 32 else f"r0 & {(1 << i.size) - 1}")
    _advance(w, i, EDI)


@emits("movs", when=_is_string)
def _movs(w: Writer, i: Instruction) -> None:
    w.load("r6", i.size, "u")
    w.store("r7", i.size, "u")
    _advance(w, i, ESI, EDI)
