"""Flags that Intel's manual leaves undefined, by mnemonic: no test may compare them.

Source: Intel SDM vol. 2, section "Flags Affected" of each instruction; vol. 1, appendix A (EFLAGS cross-reference).
"""

from __future__ import annotations

from vmlab.isa.x86.registers import AF, ARITHMETIC, CF, OF, PF, SF, ZF

ALWAYS = {
    "mul": SF | ZF | AF | PF,  # MUL: "The SF, ZF, AF, and PF flags are undefined"
    "imul": SF | ZF | AF | PF,
    "div": ARITHMETIC,  # DIV, IDIV: "The CF, OF, SF, ZF, AF, and PF flags are undefined"
    "idiv": ARITHMETIC,
    "and": AF,  # AND, OR, XOR, TEST: "the AF flag is undefined"
    "or": AF,
    "xor": AF,
    "test": AF,
    "bt": OF | SF | AF | PF,  # BT, BTS, BTR, BTC: ZF is unaffected
    "bts": OF | SF | AF | PF,
    "btr": OF | SF | AF | PF,
    "btc": OF | SF | AF | PF,
    "bsf": CF | OF | SF | AF | PF,
    "bsr": CF | OF | SF | AF | PF,
    "daa": OF,
    "das": OF,
    "aaa": OF | SF | ZF | PF,
    "aas": OF | SF | ZF | PF,
    "aam": OF | AF | CF,
    "aad": OF | AF | CF,
}
SHIFTS = frozenset({"shl", "shr", "sar"})
DOUBLE_SHIFTS = frozenset({"shld", "shrd"})
ROTATES = frozenset({"rol", "ror", "rcl", "rcr"})


def masked(count: int, size: int) -> int:
    """Return the count that a shift of `size` bits really has."""
    return count & (63 if size == 64 else 31)


def undefined_flags(mnemonic: str, size: int, count: int) -> int:
    """Return the mask of the flags without a meaning; `size` in bits, `count` of a shift or rotate, unmasked."""
    count = masked(count, size)
    if mnemonic in ROTATES:
        return OF if count > 1 else 0  # "The OF flag is defined only for the 1-bit rotates"
    if mnemonic in DOUBLE_SHIFTS and count > size:
        return ARITHMETIC  # "the CF, OF, SF, ZF, AF, and PF are undefined", and the destination too
    if mnemonic in SHIFTS | DOUBLE_SHIFTS:
        mask = (AF if count else 0) | (OF if count > 1 else 0)
        return mask | (CF if mnemonic in ("shl", "shr") and count >= size else 0)
    return ALWAYS.get(mnemonic, 0)


def undefined_result(mnemonic: str, size: int, count: int) -> bool:
    """Say whether the destination has no meaning, given the size in bits and the count of a shift."""
    return (mnemonic in DOUBLE_SHIFTS and masked(count, size) > size) or (mnemonic == "bswap" and size == 16)
