"""Mnemonics as programs write them, against those of the table.

The table has one `movs` for every width, NASM has `movsb`, `movsw` and `movsd`; conditions have several names;
`pushfd` and `pushf` differ in their operand size alone.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from vmlab.isa.x86.registers import SEGMENT_NAMES
from vmlab.isa.x86.table import CONDITIONS, ROWS

__all__ = ["PREFIXES", "Mnemonic", "known_mnemonics", "resolve"]

PREFIXES = frozenset(
    {"lock", "rep", "repe", "repz", "repne", "repnz", "o16", "o32", "o64", "a16", "a32", "a64", *SEGMENT_NAMES}
)

CONDITION_SYNONYMS = {
    "c": "b", "nae": "b", "nc": "ae", "nb": "ae", "z": "e", "nz": "ne", "na": "be", "nbe": "a",
    "pe": "p", "po": "np", "nge": "l", "nl": "ge", "ng": "le", "nle": "g",
}  # fmt: skip

STRINGS = ("movs", "cmps", "stos", "lods", "scas", "ins", "outs")
_HIDDEN = frozenset({*STRINGS, "callf", "jmpf"})
_LETTERS = {"b": 8, "w": 16, "d": 32, "q": 64}


class Mnemonic(NamedTuple):
    """The mnemonic of the table, and the operand size that the written one implies (8 to 64, or 0)."""

    name: str
    size: int


@cache
def _mnemonics() -> dict[str, Mnemonic]:
    names = {row.mnemonic: Mnemonic(row.mnemonic, 0) for row in ROWS if row.mnemonic not in _HIDDEN}
    for base in STRINGS:
        widest = 32 if base in ("ins", "outs") else 64
        names |= {base + letter: Mnemonic(base, size) for letter, size in _LETTERS.items() if size <= widest}
    for base in ("pusha", "popa", "pushf", "popf", "iret", "retf"):
        widest = 32 if base in ("pusha", "popa") else 64
        names |= {base + letter: Mnemonic(base, size) for letter, size in _LETTERS.items() if 8 < size <= widest}
    for base in ("sysret", "sysexit"):
        names[base + "q"] = Mnemonic(base, 64)
    names["lretq"] = Mnemonic("retf", 64)
    for family in ("j", "set", "cmov"):
        assert family + CONDITIONS[0] in names
        names |= {family + name: Mnemonic(family + meaning, 0) for name, meaning in CONDITION_SYNONYMS.items()}
    for name, meaning in {
        "sal": "shl", "retn": "ret", "loopz": "loope", "loopnz": "loopne", "xlatb": "xlat", "int03": "int3",
        "int01": "int1", "icebp": "int1", "ud2a": "ud2", "ud2b": "ud1",
    }.items():  # fmt: skip
        names[name] = Mnemonic(meaning, 0)
    return names


def resolve(word: str) -> Mnemonic | None:
    """Return what a word in lower case means as a mnemonic, or None.

    >>> resolve("movsd")
    Mnemonic(name='movs', size=32)
    """
    return _mnemonics().get(word)


def known_mnemonics() -> frozenset[str]:
    """Return every word that is a mnemonic."""
    return frozenset(_mnemonics())
