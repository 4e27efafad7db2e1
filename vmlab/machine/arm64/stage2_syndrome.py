"""What a data abort of stage 2 says about the access, so that a hypervisor can emulate a device without decoding.

    ISS:  24 ISV | 23:22 SAS, log2 of the bytes | 21 SSE, with sign | 20:16 SRT, the register | 15 SF, 64 bits | 14 AR

It is valid for loads and stores of one general register that write nothing back.

Read more: Arm ARM (DDI 0487), D17.2.37 (ESR_ELx, ISS of a data abort).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction

__all__ = ["with_access"]

ISV, SSE, SF, AR, S1PTW = 1 << 24, 1 << 21, 1 << 15, 1 << 14, 1 << 7
ORDERED = ("ldar", "stlr")


def with_access(iss: int, instruction: Instruction) -> int:
    """Add the access to the syndrome of a data abort, where the architecture tells it."""
    fields, row = instruction.fields, instruction.row
    name = instruction.mnemonic
    simple = "rt" in fields and "rt2" not in fields and "rs" not in fields and "x" not in name[2:4]
    writes_back = row.operands[-1].endswith("!") or row.operands[-1].startswith("[Xn],")
    if iss & S1PTW or not simple or writes_back or not name.startswith(("ld", "st")):
        return iss
    signed = SSE if "rs" in name or "urs" in name or "trs" in name else 0
    wide = SF if "Xt" in row.operands else 0
    size = row.access.bit_length() - 1
    ordered = AR if name.startswith(ORDERED) else 0
    return iss | ISV | size << 22 | signed | fields["rt"] << 16 | wide | ordered
