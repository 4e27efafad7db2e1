"""Decoder: a word of 32 bits to the row of the table that it belongs to.

Read more: Arm ARM (DDI 0487), C4.1; what is unallocated there is undefined here, too.
"""

from __future__ import annotations

from vmlab.isa.arm64.instruction import Instruction, Row
from vmlab.isa.arm64.rules import RULES
from vmlab.isa.arm64.table import ROWS

__all__ = ["decode"]

TOP_SHIFT = 21
"""Bits 31:21 choose the few rows to look at."""
TOP = 0x7FF << TOP_SHIFT

_candidates: dict[int, tuple[Row, ...]] = {}


def decode(word: int) -> Instruction | None:
    """Decode a word; None where it is no instruction of the subset.

    Examples
    --------
    >>> add = decode(0x91004020)
    >>> add.mnemonic, add["imm12"], add["rn"]
    ('add', 16, 1)
    """
    top = word >> TOP_SHIFT
    rows = _candidates.get(top)
    if rows is None:
        rows = _candidates[top] = tuple(row for row in ROWS if not (row.value ^ word) & row.mask & TOP)
    for row in rows:
        if word & row.mask == row.value:
            fields = row.values(word)
            if not row.rule or RULES[row.rule](fields):
                return Instruction(row, word, fields)
    return None
