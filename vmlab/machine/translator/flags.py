"""Flags in translated code: computed when somebody looks at them, and not before.

An instruction that sets flags leaves its operands in local variables (`a7`, `b7` for the seventh); what the flags are
then follows by a formula whenever it is needed: at an exit, after a fault, for an instruction that reads them. A
condition is mostly simpler than the flags behind it: `jb` after `cmp` is `a7 < b7`.

The formulas are those of `vmlab.isa.x86.semantics.arithmetic`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmlab.isa.x86.registers import AF, ARITHMETIC, CF, OF, SF, ZF

__all__ = ["HEAD", "STORED", "Pending", "Producer", "condition", "formula"]


@dataclass(frozen=True, slots=True)
class Producer:
    """An instruction whose operands are kept for its flags.

    Attributes
    ----------
    kind : str
        `"add"`, `"sub"`, `"logic"`, `"inc"`, `"dec"`, `"shl"`, `"shr"`, `"sar"`, `"imul"`.
    number : int
        Which locals hold the operands. For add and sub `a{number}` and `b{number}` are the two; otherwise `a{number}`
        is the result, and `b{number}` what was shifted (signed for sar), or the whole product.
    size : int
        Bits.
    count : int
        How far a shift goes.
    """

    kind: str
    number: int
    size: int
    count: int = 0


STORED = Producer("stored", -1, 32)
"""The flags are in the local `fl`."""

HEAD = Producer("head", -2, 32)
"""The flags are as the local `ft` says, which a jump to this block has set."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Where the flags are: CF and the others may have different producers (INC and DEC leave CF alone)."""

    carry: Producer
    rest: Producer


def _mask(size: int) -> int:
    return (1 << size) - 1


def _result(producer: Producer) -> str:
    a, b = f"a{producer.number}", f"b{producer.number}"
    if producer.kind == "add":
        return f"({a} + {b} & {_mask(producer.size)})"
    if producer.kind == "sub":
        return f"({a} - {b} & {_mask(producer.size)})"
    return a


def carry_formula(producer: Producer) -> str:
    """Return an expression for CF as 0 or 1."""
    a, b = f"a{producer.number}", f"b{producer.number}"
    if producer.kind == "add":
        return f"({a} + {b} >> {producer.size})"
    if producer.kind == "sub":
        return f"({a} < {b})"
    if producer.kind == "logic":
        return "0"
    if producer.kind == "shl":
        return f"({b} >> {producer.size - producer.count} & 1)"
    if producer.kind in ("shr", "sar"):
        return f"({b} >> {producer.count - 1} & 1)"
    if producer.kind == "imul":
        return f"(({a} ^ {1 << 31}) - {1 << 31} != {b})"
    return f"(fl & {CF})"


def _rest_formula(producer: Producer) -> str:
    if producer.kind == "stored":
        return f"fl & {ARITHMETIC & ~CF}"
    a, b, r, size = f"a{producer.number}", f"b{producer.number}", "r", producer.size
    common = f"PARITY[(r := {_result(producer)}) & 255] | r >> {size - 8} & {SF} | (0 if r else {ZF})"
    top = 1 << size - 1
    if producer.kind == "add":
        return f"{common} | ({a} ^ {b} ^ {r}) & {AF} | (({a} ^ {r}) & ({b} ^ {r})) << 4 >> {size - 8} & {OF}"
    if producer.kind == "sub":
        return f"{common} | ({a} ^ {b} ^ {r}) & {AF} | (({a} ^ {b}) & ({a} ^ {r})) << 4 >> {size - 8} & {OF}"
    if producer.kind == "inc":
        return f"{common} | ((r & 15) == 0) << 4 | (r == {top}) << 11"
    if producer.kind == "dec":
        return f"{common} | ((r & 15) == 15) << 4 | (r == {top - 1}) << 11"
    if producer.kind == "shl":
        return f"{common} | ((r ^ {b} << {producer.count - 1}) >> {size - 1} & 1) << 11"
    if producer.kind == "shr":
        return f"{common} | (({b} >> {producer.count - 1} ^ r) >> {size - 1} & 1) << 11"
    if producer.kind == "imul":
        return f"{common} | {carry_formula(producer)} << 11"
    return common


def formula(pending: Pending) -> str:
    """Return an expression for the whole of EFLAGS; it may use the local `r` as scratch."""
    if pending.carry == STORED and pending.rest == STORED:
        return "fl"
    return f"fl & {~ARITHMETIC & 0xFFFFFFFF} | {_rest_formula(pending.rest)} | {carry_formula(pending.carry)}"


BITS = {"o": OF, "b": CF, "e": ZF, "s": SF, "p": 4}
NEGATED = {"no": "o", "ae": "b", "ne": "e", "a": "be", "ns": "s", "np": "p", "ge": "l", "g": "le"}


def _positive(suffix: str, pending: Pending) -> str | None:  # noqa: PLR0911 - a table of cases
    """Return an expression for a condition, or None where the flags themselves are needed."""
    rest = pending.rest
    a, b, size = f"a{rest.number}", f"b{rest.number}", rest.size
    top = 1 << size - 1
    if suffix == "b":
        return None if pending.carry.kind in ("stored", "head") else carry_formula(pending.carry)
    if rest.kind in ("stored", "head"):
        return None
    if suffix == "e":
        return f"{a} == {b}" if rest.kind == "sub" else f"not {_result(rest)}"
    if suffix == "s":
        return f"{_result(rest)} >= {top}"
    if suffix == "p":
        return f"PARITY[{_result(rest)} & 255]"
    if rest.kind == "sub":
        if suffix == "be" and pending.carry == rest:
            return f"{a} <= {b}"
        if suffix == "l":
            return f"{a} ^ {top} < {b} ^ {top}"
        if suffix == "le":
            return f"{a} ^ {top} <= {b} ^ {top}"
    if rest.kind == "logic":
        if suffix == "be" and pending.carry == rest:
            return f"not {a}"
        if suffix == "l":
            return f"{a} >= {top}"
        if suffix == "le":
            return f"not 0 < {a} < {top}"
        if suffix == "o":
            return "False"
    return None


def condition(suffix: str, pending: Pending) -> str:
    """Return an expression that is true where a condition holds, for flags that are pending (never at a HEAD)."""
    positive = NEGATED.get(suffix, suffix)
    found = _positive(positive, pending)
    if found is None:
        flags = f"({formula(pending)})" if pending != Pending(STORED, STORED) else "fl"
        if positive in BITS:
            found = f"{flags} & {BITS[positive]}"
        elif positive == "be":
            found = f"{flags} & {CF | ZF}"
        else:
            equal = f" or f & {ZF}" if positive == "le" else ""
            found = f"((f := {flags}) >> 7 ^ f >> 11) & 1{equal}"
    if positive == suffix:
        return found
    if found.startswith("not "):
        return found[4:]  # as a truth value
    return found.replace(" == ", " != ") if found.count(" == ") == 1 and positive == "e" else f"not ({found})"
