"""Operands as assembly writes them: each code of the table shows the fields that it stands for, and reads them back.

    Rd Rn Rm Ra Rt    registers as wide as `sf` says       Xd, Wn ...    of that width      Rd^ Rn^    31 is SP
    Em   the register that an extend makes longer          Sn  one register for Rn and Rm   {...}      may be left out

The rest are immediates, by the manual's names or by what they mean; `vmlab.isa.arm64.operands_memory` has the addresses.

Read more: Arm ARM (DDI 0487), C1.2 (structure of the assembler language), C6.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.bitmask import decode_bitmask, encode_bitmask
from vmlab.isa.arm64.operand_parts import NoMatchError as NoMatch
from vmlab.isa.arm64.operand_parts import Operand, Parts, Values, number, signed
from vmlab.isa.arm64.operand_registers import bits_of, register
from vmlab.isa.arm64.operands_memory import ADDRESSES
from vmlab.isa.arm64.system_names import BARRIERS, OPERATIONS, PSTATE, REGISTER_NAMES, REGISTERS
from vmlab.isa.arm64.table import CONDITIONS

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Row

__all__ = ["OPERANDS"]

SHIFTS = ("lsl", "lsr", "asr", "ror")
EXTENDS = ("uxtb", "uxth", "uxtw", "uxtx", "sxtb", "sxth", "sxtw", "sxtx")
OTHER_NAMES = {"cs": "hs", "cc": "lo"}

# -- plain numbers -----------------------------------------------------------------------------------------------------


def _plain(field: str, limit: int, default: int | None = None) -> Operand:
    """A number from 0 to `limit`, in one field."""

    def read(row: Row, parts: Parts, values: Values) -> None:
        values[field] = default if default is not None and not parts else parts.number(0, limit)

    return Operand(lambda row, values, at: None if values[field] == default else number(values[field]), read)


def _hint() -> Operand:
    def read(row: Row, parts: Parts, values: Values) -> None:
        value = parts.number(0, 127)
        values["CRm"], values["op2"] = value >> 3, value & 7

    return Operand(lambda row, values, at: number(values["CRm"] << 3 | values["op2"]), read)


def _bit() -> Operand:
    def read(row: Row, parts: Parts, values: Values) -> None:
        value = parts.number(0, 63)
        if value > 31 and values.get("b5") == 0:
            raise NoMatch(f"a W register has bits 0 to 31, not {value}")
        values["b5"], values["b40"] = value >> 5, value & 31

    return Operand(lambda row, values, at: number(values["b5"] << 5 | values["b40"]), read)


def _shifted_number(field: str, limit: int, shift_field: str, step: int) -> Operand:
    """A number, and by how much it is shifted: imm12 by 0 or 12, the immediate of a wide move by 0, 16, 32 or 48."""

    def show(row: Row, values: Values, at: int) -> str:
        shift = values[shift_field] * step
        return number(values[field]) + (f", lsl #{shift}" if shift else "")

    def read(row: Row, parts: Parts, values: Values) -> None:
        value = parts.number(0, limit << step)
        shift = parts.shift(("lsl",))
        if shift is None and value > limit and not value & (1 << step) - 1:
            value, shift = value >> step, ("lsl", step)
        amount = shift[1] if shift else 0
        if value > limit or amount % step or amount // step >= 1 << (2 if step == 16 else 1):
            raise NoMatch(f"an immediate is 0 to {limit:#x}, shifted by a multiple of {step}: not {value:#x}")
        values[field], values[shift_field] = value, amount // step

    return Operand(show, read)


# -- values that a register takes ----------------------------------------------------------------------------------------


def _bitmask() -> Operand:
    def show(row: Row, values: Values, at: int) -> str:
        value = decode_bitmask(values["N"], values["immr"], values["imms"], bits_of(values))
        assert value is not None
        return number(value)

    def read(row: Row, parts: Parts, values: Values) -> None:
        bits = bits_of(values)
        value = parts.number(-(1 << bits - 1), (1 << bits) - 1)
        found = encode_bitmask(value, bits)
        if found is None:
            raise NoMatch(f"{value:#x} is no bitmask immediate: it must be a rotated run of ones, repeated")
        values["N"], values["immr"], values["imms"] = found

    return Operand(show, read)


def _moved(*, invert: bool) -> Operand:
    """The value that MOVZ or MOVN loads."""

    def show(row: Row, values: Values, at: int) -> str:
        value = values["imm16"] << 16 * values["hw"]
        return number(signed(~value, bits_of(values)) if invert else value)

    def read(row: Row, parts: Parts, values: Values) -> None:
        bits = bits_of(values)
        value = parts.number(-(1 << bits - 1), (1 << bits) - 1) & (1 << bits) - 1
        wanted = value ^ (1 << bits) - 1 if invert else value
        for hw in range(bits // 16):
            if not wanted & ~(0xFFFF << 16 * hw):
                values["hw"], values["imm16"] = hw, wanted >> 16 * hw
                return
        raise NoMatch(f"{value:#x} takes more than one instruction: movz and movk, or ldr with =")

    return Operand(show, read)


# -- bit fields ------------------------------------------------------------------------------------------------------------


def _right() -> Operand:
    def read(row: Row, parts: Parts, values: Values) -> None:
        values["imms"] = bits_of(values) - 1
        values["immr"] = parts.number(0, bits_of(values) - 1)

    return Operand(lambda row, values, at: number(values["immr"]), read)


def _left() -> Operand:
    def read(row: Row, parts: Parts, values: Values) -> None:
        bits = bits_of(values)
        amount = parts.number(0, bits - 1)
        values["immr"], values["imms"] = -amount % bits, bits - 1 - amount

    return Operand(lambda row, values, at: number(bits_of(values) - 1 - values["imms"]), read)


def _insert() -> Operand:
    def read(row: Row, parts: Parts, values: Values) -> None:
        bits = bits_of(values)
        low = parts.number(0, bits - 1)
        values["immr"], values["imms"] = -low % bits, parts.number(1, bits - low) - 1

    def show(row: Row, values: Values, at: int) -> str:
        return f"{number(-values['immr'] % bits_of(values))}, {number(values['imms'] + 1)}"

    return Operand(show, read)


def _extract() -> Operand:
    def read(row: Row, parts: Parts, values: Values) -> None:
        low = values["immr"] = parts.number(0, bits_of(values) - 1)
        values["imms"] = low + parts.number(1, bits_of(values) - low) - 1

    def show(row: Row, values: Values, at: int) -> str:
        return f"{number(values['immr'])}, {number(values['imms'] - values['immr'] + 1)}"

    return Operand(show, read)


# -- shifts, extends, conditions -----------------------------------------------------------------------------------------


def _shift() -> Operand:
    def show(row: Row, values: Values, at: int) -> str | None:
        kind, amount = SHIFTS[values["shift"]], values["imm6"]
        return f"{kind} #{amount}" if amount or kind != "lsl" else None

    def read(row: Row, parts: Parts, values: Values) -> None:
        kind, amount = parts.shift(SHIFTS) or ("lsl", 0)
        if not 0 <= amount < bits_of(values):
            raise NoMatch(f"a register of {bits_of(values)} bits is shifted by less than that, not by {amount}")
        values["shift"], values["imm6"] = SHIFTS.index(kind), amount

    return Operand(show, read)


def _extend() -> Operand:
    def show(row: Row, values: Values, at: int) -> str | None:
        option, amount = values["option"], values["imm3"]
        stack = values["rn"] == 31 or (values.get("rd") == 31 and "Rd^" in row.operands)
        if stack and option == (3 if values["sf"] else 2):
            return f"lsl #{amount}" if amount else None
        return EXTENDS[option] + (f" #{amount}" if amount else "")

    def read(row: Row, parts: Parts, values: Values) -> None:
        plain = 3 if values["sf"] else 2
        kind, amount = parts.shift(("lsl", *EXTENDS)) or ("lsl", 0)
        values["option"] = plain if kind == "lsl" else EXTENDS.index(kind)
        values["imm3"] = amount
        if not 0 <= amount <= 4 or values["_wide"] != (plain == values["option"] & 3 == 3):
            raise NoMatch("an extended register is a W register (X for uxtx, sxtx and lsl), shifted by 0 to 4")

    return Operand(show, read)


def _condition(*, invert: bool) -> Operand:
    def read(row: Row, parts: Parts, values: Values) -> None:
        name = parts.take().lower()
        name = OTHER_NAMES.get(name, name)
        if name not in CONDITIONS:
            raise NoMatch(f"{name!r} is no condition: {', '.join(CONDITIONS)}")
        values["cond"] = CONDITIONS.index(name) ^ invert

    return Operand(lambda row, values, at: CONDITIONS[values["cond"] ^ invert], read)


# -- addresses of code and data ------------------------------------------------------------------------------------------


def _label(field: str, bits: int) -> Operand:
    def show(row: Row, values: Values, at: int) -> str:
        return f"#{at + 4 * signed(values[field], bits) & (1 << 64) - 1:#x}"

    def read(row: Row, parts: Parts, values: Values) -> None:
        distance = signed(parts.target() - parts.at, 64)
        if distance & 3 or not -(1 << bits + 1) <= distance < 1 << bits + 1:
            raise NoMatch(f"the target is {distance:#x} bytes away: a multiple of 4 below {1 << bits + 1:#x} is needed")
        values[field] = distance >> 2 & (1 << bits) - 1

    return Operand(show, read)


def _adr(scale: int) -> Operand:
    def show(row: Row, values: Values, at: int) -> str:
        distance = signed(values["immhi"] << 2 | values["immlo"], 21) << scale
        return f"#{(at & -1 << scale) + distance & (1 << 64) - 1:#x}"

    def read(row: Row, parts: Parts, values: Values) -> None:
        distance = signed((parts.target() >> scale) - (parts.at >> scale), 64 - scale)
        if not -(1 << 20) <= distance < 1 << 20:
            raise NoMatch(f"the target is {distance << scale:#x} bytes away, too far")
        values["immhi"], values["immlo"] = distance >> 2 & 0x7FFFF, distance & 3

    return Operand(show, read)


# -- system --------------------------------------------------------------------------------------------------------------


def _named(names: dict[str, int], field: str, default: int | None = None) -> Operand:
    """A name that stands for the value of a field, which may be written as a number too."""
    of = {value: name for name, value in names.items()}

    def show(row: Row, values: Values, at: int) -> str | None:
        return None if values[field] == default else of.get(values[field]) or number(values[field])

    def read(row: Row, parts: Parts, values: Values) -> None:
        if not parts and default is not None:
            values[field] = default
        elif parts.peek().lower() in names:
            values[field] = names[parts.take().lower()]
        else:
            values[field] = parts.number(0, 31 if field == "rt" else 15)

    return Operand(show, read)


def _control(field: str) -> Operand:
    """A number written as `c7`."""

    def read(row: Row, parts: Parts, values: Values) -> None:
        text = parts.take().lower()
        if text[:1] != "c" or not text[1:].isdecimal() or int(text[1:]) > 15:
            raise NoMatch(f"c0 to c15 is needed, not {text!r}")
        values[field] = int(text[1:])

    return Operand(lambda row, values, at: f"c{values[field]}", read)


def _system_register() -> Operand:
    def show(row: Row, values: Values, at: int) -> str:
        key = (2 + values["o0"], values["op1"], values["CRn"], values["CRm"], values["op2"])
        op0, op1, crn, crm, op2 = key
        return REGISTER_NAMES.get(key) or f"s{op0}_{op1}_c{crn}_c{crm}_{op2}"

    def read(row: Row, parts: Parts, values: Values) -> None:
        name = parts.take().lower()
        key = REGISTERS.get(name)
        if key is None:
            raise NoMatch(f"{name!r} is no system register that is known here")
        values["o0"] = key[0] - 2
        values["op1"], values["CRn"], values["CRm"], values["op2"] = key[1:]

    return Operand(show, read)


def _operation(mnemonic: str) -> Operand:
    known = OPERATIONS[mnemonic]
    names = {key: name for name, key in known.items()}

    def read(row: Row, parts: Parts, values: Values) -> None:
        name = parts.take().lower()
        if name not in known:
            raise NoMatch(f"{mnemonic} has no {name!r}: {', '.join(known)}")
        values["op1"], values["CRn"], values["CRm"], values["op2"] = known[name]

    return Operand(
        lambda row, values, at: names[values["op1"], values["CRn"], values["CRm"], values["op2"]],
        read,
    )


def _pstate() -> Operand:
    names = {key: name for name, key in PSTATE.items()}

    def read(row: Row, parts: Parts, values: Values) -> None:
        name = parts.take().lower()
        if name not in PSTATE:
            raise NoMatch(f"{name!r} is no field of PSTATE: {', '.join(PSTATE)}")
        values["op1"], values["op2"] = PSTATE[name]

    return Operand(lambda row, values, at: names[values["op1"], values["op2"]], read)


PREFETCHES = {
    f"{kind}l{level + 1}{policy}": number_ << 3 | level << 1 | strm
    for number_, kind in enumerate(("pld", "pli", "pst"))
    for level in range(3)
    for strm, policy in enumerate(("keep", "strm"))
}

OPERANDS: dict[str, Operand] = {
    **ADDRESSES,
    **{code: Operand(*register(code)) for code in (
        "Rd", "Rn", "Rm", "Ra", "Rt", "Rd^", "Rn^", "Xd", "Xn", "Xm", "Xa", "Xt", "Xt2", "Wd", "Wn", "Wm", "Wt", "Wt2", "Ws",
        "Bt", "Em", "Sn", "{Xn}", "{Xt}",
    )},
    **{name: _operation(name) for name in OPERATIONS},
    "imm12": _shifted_number("imm12", 0xFFF, "sh", 12),
    "wide": _shifted_number("imm16", 0xFFFF, "hw", 16),
    "imm16": _plain("imm16", 0xFFFF), "imm5": _plain("imm5", 31), "imm4": _plain("CRm", 15), "immr": _plain("immr", 63),
    "imms": _plain("imms", 63), "nzcv": _plain("nzcv", 15), "op1": _plain("op1", 7), "op2": _plain("op2", 7),
    "{CRm}": _plain("CRm", 15, 15), "CRn": _control("CRn"), "CRm": _control("CRm"), "hint": _hint(), "bit": _bit(),
    "bitmask": _bitmask(), "moved": _moved(invert=False), "inverted": _moved(invert=True),
    "right": _right(), "left": _left(), "insert": _insert(), "extract": _extract(),
    "shift": _shift(), "extend": _extend(), "cond": _condition(invert=False), "inverse": _condition(invert=True),
    "label14": _label("imm14", 14), "label19": _label("imm19", 19), "label26": _label("imm26", 26),
    "adr": _adr(0), "adrp": _adr(12),
    "sysreg": _system_register(), "pstate": _pstate(), "barrier": _named(BARRIERS, "CRm"),
    "{barrier}": _named({"sy": 15}, "CRm", 15), "prefetch": _named(PREFETCHES, "rt"),
}  # fmt: skip
"""By code."""
