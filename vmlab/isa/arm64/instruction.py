"""What a row of the table says, and what an instruction is once it is decoded.

A row is a pattern of 32 bits (fixed ones and named fields), the operands as assembly writes them, and what makes an
encoding of that pattern unallocated. An instruction is a row with the values of its fields.

Read more: Arm ARM (DDI 0487), C4.1 (A64 instruction set encoding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["FIELD_BITS", "SINK", "STACK", "ZERO", "Field", "Instruction", "Row"]

ZERO, STACK, SINK = 31, 32, 33
"""Places in the register file `x`: 31 reads as zero, 32 is the present stack pointer, 33 takes what goes to XZR."""

FIELD_BITS = {
    "sf": 1, "sh": 1, "N": 1, "S": 1, "b5": 1, "o0": 1, "immlo": 2, "hw": 2, "shift": 2, "op1": 3, "op2": 3, "option": 3,
    "imm3": 3, "cond": 4, "nzcv": 4, "CRn": 4, "CRm": 4, "b40": 5, "imm5": 5, "rd": 5, "rn": 5, "rm": 5, "ra": 5, "rt": 5,
    "rt2": 5, "rs": 5, "immr": 6, "imms": 6, "imm6": 6, "imm7": 7, "imm9": 9, "imm12": 12, "imm14": 14, "imm16": 16,
    "imm19": 19, "immhi": 19, "imm26": 26,
}  # fmt: skip
"""Widths of the fields, by the manual's names."""


class Field(NamedTuple):
    """A field of a pattern: its name, how far from bit 0 it begins, and its bits as a mask at bit 0."""

    name: str
    shift: int
    mask: int


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One line of the table.

    Attributes
    ----------
    mnemonic : str
        As assembly writes it.
    mask, value : int
        A word is of this row where `word & mask == value`.
    fields : tuple of Field
        The rest of the bits.
    operands : tuple of str
        Codes of the operands, see `vmlab.isa.arm64.operands`.
    rule : str
        What an encoding must fulfil to be allocated (an alias: to be preferred), see `vmlab.isa.arm64.rules`.
    """

    mnemonic: str
    mask: int
    value: int
    fields: tuple[Field, ...]
    operands: tuple[str, ...]
    rule: str = ""

    @property
    def access(self) -> int:
        """Bytes that a load or store moves for each register."""
        name = self.mnemonic
        if name.endswith("sw"):
            return 4
        if name[-1] in "bh":
            return 1 if name[-1] == "b" else 2
        return 4 if "Wt" in self.operands else 8

    def values(self, word: int) -> dict[str, int]:
        """Return the values of the fields in a word."""
        return {name: word >> shift & mask for name, shift, mask in self.fields}

    def word(self, values: dict[str, int]) -> int:
        """Return the word with these values of the fields."""
        result = self.value
        for name, shift, mask in self.fields:
            result |= (values.get(name, 0) & mask) << shift
        return result


@dataclass(frozen=True, slots=True)
class Instruction:
    """A decoded instruction.

    Attributes
    ----------
    row : Row
        Its line of the table.
    word : int
        Its 32 bits.
    fields : dict
        Field name to value.
    """

    row: Row
    word: int
    fields: dict[str, int]

    @property
    def mnemonic(self) -> str:
        """As assembly writes it, aliases aside."""
        return self.row.mnemonic

    @property
    def bits(self) -> int:
        """Width of its registers: 64, or 32 where its `sf` is 0."""
        return 64 if self.fields.get("sf", 1) else 32

    def __getitem__(self, field: str) -> int:
        return self.fields[field]
