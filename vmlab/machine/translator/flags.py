"""Flags in translated code: computed when somebody looks at them, and not before.

An instruction that sets flags leaves a note of its operands: the names of the locals that hold two of its first
operand `a`, its second `b` and its result `r`, from which everything else follows. Nothing is copied for it; only when a register
that a note names is about to change, its value moves to a local of its own. What the flags are then follows by a
formula whenever it is needed: at an exit, after a fault, for an instruction that reads them. A condition is mostly
simpler than the flags behind it: `jb` after `cmp` is `r0 < r3`.

The formulas are those of `vmlab.isa.x86.semantics.arithmetic`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vmlab.isa.x86.registers import AF, ARITHMETIC, CF, OF, PF, SF, ZF

__all__ = ["AT_REST", "HEAD", "STORED", "Pending", "Producer", "carry_formula", "condition", "formula", "rest_formula"]


@dataclass(frozen=True, slots=True)
class Producer:
    """An instruction and what is left of it for its flags.

    Attributes
    ----------
    kind : str
        `"add"`, `"sub"`, `"adc"`, `"sbb"`, `"logic"`, `"inc"`, `"dec"`, `"shl"`, `"shr"`, `"sar"`, `"imul"`, `"mul"`,
        `"bit"` (CF alone), `"stored"`, `"head"`.
    number : int
        Of the instruction: its locals are `a{number}`, `b{number}`, `c{number}`.
    size : int
        Bits.
    a, b, r : str
        Locals or constants: operands and result, empty where one follows from the others. For adc and sbb `r` is not
        masked; for shifts `b` is what was shifted (signed for sar); for imul the whole product, for mul its upper half.
    count : int
        How far a shift goes.
    """

    kind: str
    number: int = -1
    size: int = 32
    a: str = ""
    b: str = ""
    r: str = ""
    count: int = 0

    def without(self, register: str) -> tuple[Producer, list[str]]:
        """Return the same that does not name a register, and the copies that this takes."""
        changes, copies = {}, []
        for field, local in (("a", "a"), ("b", "b"), ("r", "c")):
            if getattr(self, field) == register:
                changes[field] = f"{local}{self.number}"
                copies.append(f"{local}{self.number} = {register}")
        return (replace(self, **changes) if changes else self), copies  # type: ignore[arg-type]  # all are strings

    @property
    def names(self) -> tuple[str, str, str]:
        """What it names."""
        return self.a, self.b, self.r


STORED = Producer("stored")
"""The flags are in the local `fl`."""

HEAD = Producer("head")
"""The flags are as the local `fc` (for CF) or `fr` says, which a jump to this block has set."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Where the flags are: CF and the others may have different producers (INC and DEC leave CF alone)."""

    carry: Producer
    rest: Producer


AT_REST = Pending(STORED, STORED)


def _mask(p: Producer) -> int:
    return (1 << p.size) - 1


def _result(p: Producer) -> str:
    if p.kind in ("adc", "sbb"):
        return f"({p.r} & {_mask(p)})"
    if p.r:
        return p.r
    return f"({p.a} {'+' if p.kind == 'add' else '-'} {p.b} & {_mask(p)})"


def _first(p: Producer) -> str:
    """Return the first operand of an addition or subtraction."""
    if p.a:
        return p.a
    return f"({p.r} {'-' if p.kind == 'add' else '+'} {p.b} & {_mask(p)})"


def carry_formula(p: Producer) -> str:  # noqa: PLR0911 - a table of cases
    """Return an expression for CF as 0 or 1."""
    if p.kind == "add":
        return f"({p.a} + {p.b} > {_mask(p)})" if p.a else f"({p.r} < {p.b})"
    if p.kind == "sub":
        return f"({p.a} < {p.b})" if p.a else f"({p.r} + {p.b} > {_mask(p)})"
    if p.kind == "adc":
        return f"({p.r} >> {p.size})"
    if p.kind == "sbb":
        return f"({p.r} < 0)"
    if p.kind == "logic":
        return "0"
    if p.kind == "shl":
        return f"({p.b} << {p.count} >> {p.size} & 1)"
    if p.kind in ("shr", "sar"):
        return f"({p.b} >> {p.count - 1} & 1)"
    if p.kind == "imul":
        top = 1 << p.size - 1
        return f"(({p.r} ^ {top}) - {top} != {p.b})"
    if p.kind == "mul":
        return f"({p.b} != 0)"
    if p.kind == "bit":
        return p.r
    return f"(fl & {CF})"


def rest_formula(p: Producer) -> str:
    """Return an expression for PF, AF, ZF, SF and OF; it uses the locals `q` and `e` as scratch."""
    if p.kind == "stored":
        return f"fl & {ARITHMETIC & ~CF}"
    size, top = p.size, 1 << p.size - 1
    common = f"PARITY[(q := {_result(p)}) & 255] | q >> {size - 8} & {SF} | (0 if q else {ZF})"
    a = _first(p) if p.kind in ("add", "sub", "adc", "sbb") else ""
    others = {
        "add": f"((e := {a}) ^ {p.b} ^ q) & {AF} | ((e ^ q) & ({p.b} ^ q)) << 4 >> {size - 8} & {OF}",
        "sub": f"((e := {a}) ^ {p.b} ^ q) & {AF} | ((e ^ {p.b}) & (e ^ q)) << 4 >> {size - 8} & {OF}",
        "inc": f"((q & 15) == 0) << 4 | (q == {top}) << 11",
        "dec": f"((q & 15) == 15) << 4 | (q == {top - 1}) << 11",
        "shl": f"((q ^ {p.b} << {p.count - 1}) >> {size - 1} & 1) << 11",
        "shr": f"(({p.b} >> {p.count - 1} ^ q) >> {size - 1} & 1) << 11",
    }
    others |= {"adc": others["add"], "sbb": others["sub"]}
    if p.kind in ("imul", "mul"):
        return f"{common} | {carry_formula(p)} << 11"
    return f"{common} | {others[p.kind]}" if p.kind in others else common


def formula(pending: Pending) -> str:
    """Return an expression for the whole of EFLAGS."""
    if pending.carry == STORED and pending.rest == STORED:
        return "fl"
    return f"fl & {~ARITHMETIC & 0xFFFFFFFF} | {rest_formula(pending.rest)} | {carry_formula(pending.carry)}"


BITS = {"o": OF, "b": CF, "e": ZF, "s": SF, "p": PF}
NEGATED = {"no": "o", "ae": "b", "ne": "e", "a": "be", "ns": "s", "np": "p", "ge": "l", "g": "le"}


def _less(p: Producer, sign: str) -> str:
    """Return an expression for a signed comparison, `<` or `<=`."""
    top = 1 << p.size - 1
    a = _first(p)
    if not p.b.isdecimal():
        return f"({a} ^ {top}) {sign} ({p.b} ^ {top})"
    if int(p.b) < top:
        return f"(not {p.b} {'<=' if sign == '<' else '<'} {a} < {top})"
    return f"({top} <= {a} {sign} {p.b})"


def _positive(suffix: str, pending: Pending) -> str | None:
    """Return an expression for a condition, or None where the flags themselves are needed."""
    p = pending.rest
    top = 1 << p.size - 1
    if suffix == "b":
        return None if pending.carry.kind in ("stored", "head") else carry_formula(pending.carry)
    if p.kind in ("stored", "head"):
        return None
    if suffix == "e":
        return f"{p.a} == {p.b}" if p.kind == "sub" and p.a else f"not {_result(p)}"
    if suffix == "s":
        return f"{_result(p)} > {top - 1}"
    if suffix == "p":
        return f"PARITY[{_result(p)} & 255]"
    if suffix == "be" and pending.carry == p and p.kind in ("sub", "logic"):
        return f"{_first(p)} <= {p.b}" if p.kind == "sub" else f"not {p.r}"
    if p.kind == "sub" and suffix in ("l", "le"):
        return _less(p, "<" if suffix == "l" else "<=")
    if p.kind == "logic":
        return {"l": f"{p.r} > {top - 1}", "le": f"(not 0 < {p.r} < {top})", "o": "False"}.get(suffix)
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
    if found.startswith("(not ") and positive in ("l", "le"):
        return found[5:-1]
    return found.replace(" == ", " != ") if positive == "e" and found.count(" == ") == 1 else f"not ({found})"
