"""Which encodings of a pattern are allocated, and which alias a disassembler prefers: the rules that the table names.

Each is a function of the fields' values. The names are those in the last column of `vmlab.isa.arm64.table`.

Read more: Arm ARM (DDI 0487), the decode pseudocode and the "alias conditions" of each instruction in C6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmlab.isa.arm64.bitmask import decode_bitmask
from vmlab.isa.arm64.system_names import OPERATIONS, PSTATE

__all__ = ["RULES"]

Fields = Mapping[str, int]
ALWAYS = 0b1110
"""Conditions from here on have no inverse."""


def _last(fields: Fields) -> int:
    """The number of the highest bit of a register."""
    return 63 if fields["sf"] else 31


def _wide(fields: Fields) -> bool:
    return bool(fields["sf"]) or fields["hw"] < 2


def _bitfield(fields: Fields) -> bool:
    narrow = fields.get("immr", 0) < 32 and fields.get("imms", 0) < 32
    return fields["N"] == fields["sf"] and (bool(fields["sf"]) or narrow)


def _bitmask(fields: Fields) -> bool:
    return decode_bitmask(fields["N"], fields["immr"], fields["imms"], _last(fields) + 1) is not None


def _bitmask_move(fields: Fields) -> bool:
    """`mov`, unless MOVZ or MOVN is preferred for the value (`MoveWidePreferred`, J1.1.3)."""
    if not _bitmask(fields):
        return False
    width, ones, turn = _last(fields) + 1, fields["imms"], fields["immr"]
    if not (fields["N"] if fields["sf"] else ones < 32):
        return True  # the element is smaller than the register
    if ones < 16:
        return -turn % 16 > 15 - ones
    return ones < width - 15 or turn % 16 > ones - (width - 15)


def _movz(fields: Fields) -> bool:
    return _wide(fields) and not (fields["imm16"] == 0 and fields["hw"])


def _movn(fields: Fields) -> bool:
    return _movz(fields) and (bool(fields["sf"]) or fields["imm16"] != 0xFFFF)


def _amount(fields: Fields) -> bool:
    return bool(fields["sf"]) or fields["imm6"] < 32


def _shifted(fields: Fields) -> bool:
    return fields["shift"] != 3 and _amount(fields)


def _same(fields: Fields) -> bool:
    return fields["rn"] == fields["rm"] != 31 and fields["cond"] < ALWAYS


RULES: dict[str, Callable[[Fields], bool]] = {
    "wide": _wide,
    "bitfield": _bitfield,
    "bitmask": _bitmask,
    "bitmask_move": _bitmask_move,
    "movz_move": _movz,
    "movn_move": _movn,
    "amount": _amount,
    "shifted": _shifted,
    "extended": lambda fields: fields["imm3"] <= 4,
    "option": lambda fields: bool(fields["option"] & 2),
    "pstate": lambda fields: (fields["op1"], fields["op2"]) in PSTATE.values(),
    "stack": lambda fields: 31 in (fields["rd"], fields["rn"]),
    "right": lambda fields: _bitfield(fields) and fields["imms"] == _last(fields),
    "left": lambda fields: _bitfield(fields) and fields["imms"] + 1 == fields["immr"],
    "insert": lambda fields: _bitfield(fields) and fields["imms"] < fields["immr"],
    "extract": lambda fields: _bitfield(fields) and fields["imms"] >= fields["immr"],
    "rotate": lambda fields: _bitfield(fields) and fields["rn"] == fields["rm"],
    "inverse": lambda fields: fields["cond"] < ALWAYS,
    "same": _same,
    "same_negated": lambda fields: fields["rn"] == fields["rm"] and fields["cond"] < ALWAYS,
}
"""By name."""


def _system(mnemonic: str) -> Callable[[Fields], bool]:
    known = OPERATIONS[mnemonic]
    return lambda fields: (fields["op1"], fields["CRn"], fields["CRm"], fields["op2"]) in known.values()


RULES.update({mnemonic: _system(mnemonic) for mnemonic in OPERATIONS})
