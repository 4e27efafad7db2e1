"""Addresses in memory as operands: a base register, which may be SP, and what is added to it.

    [Xn]           [Xn,imm12]  scaled, unsigned      [Xn,imm9]  unscaled, signed      [Xn,imm7]  scaled, signed
    [Xn,Rm]  a register, extended or shifted         ...]!  the base keeps the sum    [Xn],imm9  it is added afterwards

Read more: Arm ARM (DDI 0487), C1.3.3 (load/store addressing modes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.operand_parts import NoMatchError as NoMatch
from vmlab.isa.arm64.operand_parts import Operand, Parts, Values, number, signed
from vmlab.isa.arm64.operand_registers import name_of, parse

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Row

__all__ = ["ADDRESSES", "INDEX_EXTENDS"]

INDEX_EXTENDS = {2: "uxtw", 3: "lsl", 6: "sxtw", 7: "sxtx"}
"""Names of `option` in a register offset."""
OPTIONS = {name: option for option, name in INDEX_EXTENDS.items()}


def _inside(parts: Parts, values: Values, *, before: bool = False) -> list[str]:
    """Take an address, set its base, and return what stands behind the base in the brackets."""
    text = parts.take()
    if not text.startswith("[") or not text.endswith("]!" if before else "]"):
        raise NoMatch("an address in brackets is needed")
    base, *rest = (each.strip() for each in text[1 : text.rindex("]")].split(","))
    values["rn"], wide = parse(base, stack=True)
    if not wide:
        raise NoMatch("the base of an address is an X register or SP")
    return rest


def _base(values: Values) -> str:
    return name_of(values["rn"], wide=True, stack=True)


def _scale(row: Row, field: str) -> int:
    return 1 if field == "imm9" else row.access


def _offset(row: Row, values: Values, field: str) -> int:
    value = values[field]
    return (value if field == "imm12" else signed(value, int(field[3:]))) * _scale(row, field)


def _set_offset(row: Row, values: Values, field: str, offset: int) -> None:
    scale, bits = _scale(row, field), int(field[3:])
    low, high = (0, 1 << bits) if field == "imm12" else (-(1 << bits - 1), 1 << bits - 1)
    if offset % scale or not low <= offset // scale < high:
        raise NoMatch(f"the offset is a multiple of {scale} from {low * scale} to {(high - 1) * scale}, not {offset}")
    values[field] = offset // scale & (1 << bits) - 1


def _immediate(code: str) -> Operand:
    field = "imm" + code.rpartition("imm")[2].rstrip("]!") if "imm" in code else ""
    before, after = code.endswith("!"), code.startswith("[Xn],")

    def show(row: Row, values: Values, at: int) -> str:
        offset = _offset(row, values, field) if field else 0
        if after:
            return f"[{_base(values)}], {number(offset)}"
        text = f"[{_base(values)}, {number(offset)}]" if offset or before else f"[{_base(values)}]"
        return text + "!" * before

    def read(row: Row, parts: Parts, values: Values) -> None:
        rest = _inside(parts, values, before=before)
        if after:
            if rest:
                raise NoMatch("an offset in the brackets, and one behind them")
            rest = [parts.take()]
        if len(rest) > 1 or (rest and not field) or (rest and rest[0].lower() in OPTIONS):
            raise NoMatch("the address has too many parts")
        if field:
            _set_offset(row, values, field, parts.value(rest[0]) if rest else 0)
        elif rest:
            raise NoMatch("this address has no offset")

    return Operand(show, read)


def _index() -> Operand:
    def show(row: Row, values: Values, at: int) -> str:
        kind = INDEX_EXTENDS[values["option"]]
        amount = f" #{row.access.bit_length() - 1}" if values["S"] else ""
        extend = f", {kind}{amount}" if amount or kind != "lsl" else ""
        return f"[{_base(values)}, {name_of(values['rm'], wide=bool(values['option'] & 1))}{extend}]"

    def read(row: Row, parts: Parts, values: Values) -> None:
        rest = _inside(parts, values)
        if not rest:
            raise NoMatch("an index is needed")
        values["rm"], wide = parse(rest[0])
        kind, _, amount = (rest[1] if len(rest) > 1 else "lsl").partition(" ")
        option = OPTIONS.get(kind.lower())
        if option is None or bool(option & 1) != wide or len(rest) > 2:
            raise NoMatch("an index is an X register (lsl, sxtx) or a W register (uxtw, sxtw)")
        shift = parts.value(amount.strip()) if amount.strip() else 0
        full = row.access.bit_length() - 1
        if shift not in (0, full):
            raise NoMatch(f"the index of this access is shifted by 0 or {full}, not by {shift}")
        values["option"], values["S"] = option, int(bool(shift or (amount.strip() and not full)))

    return Operand(show, read)


ADDRESSES: dict[str, Operand] = {
    **{
        code: _immediate(code)
        for code in (
            "[Xn]",
            "[Xn,imm12]",
            "[Xn,imm9]",
            "[Xn,imm7]",
            "[Xn],imm9",
            "[Xn],imm7",
            "[Xn,imm9]!",
            "[Xn,imm7]!",
        )
    },
    "[Xn,Rm]": _index(),
}
"""By code."""
