"""What an instruction is: a row of the table, and one decoded occurrence of it.

Operand codes are those of Intel's opcode maps (SDM vol. 2, appendix A.2): a letter for where the operand is
(`E` ModRM register or memory, `G` ModRM.reg, `I` immediate, `J` relative, `O` absolute offset, `M` memory only,
`S` segment, `C` control, `D` debug, `A` far pointer, `R` ModRM register only, `X`/`Y` string source/destination,
`Z` register in the opcode's low bits) and one for its width (`b` 8, `w` 16, `q` 64, `dq` 128, `v` operand size,
`z` the same but 32 at most, which a constant is sign-extended from, `y` 32 or, in 64-bit mode, 64, `x` a byte
sign-extended to the operand size, `r` operand size in a register but 16 in memory, `p` far pointer, `s`
pseudo-descriptor, `a` bound pair, none for an address).
Fixed registers stand by name (`AL`, `eAX`, `DX`, `CL`, `1`, `ES` …).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmlab.isa.x86.operands import Operand


class Privilege(Enum):
    """Popek and Goldberg's classes of instructions (CACM 17(7), 1974)."""

    INNOCUOUS = "innocuous"
    PRIVILEGED = "privileged"
    SENSITIVE = "sensitive but unprivileged"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the instruction table: one opcode with one form of operands.

    Attributes
    ----------
    mnemonic : str
        Lower case, as Intel's manual names it.
    operands : tuple of str
        Operand codes, destination first.
    opcode : bytes
        Opcode bytes without prefixes; the register field of a `Z` operand is zero.
    extension : int
        The opcode extension in ModRM.reg (Intel's `/0` … `/7`), or -1.
    privilege : Privilege
        Class of Popek and Goldberg, for this form.
    lockable : bool
        True where a LOCK prefix is allowed on a memory destination.
    repeat : str
        `"rep"` for string instructions that take REP, `"repz"` for those that take REPE/REPNE, else empty.
    size : int
        8 for a byte form; 16, 32 or 64 where the row demands this operand size (as `cbw` 16 against `cwde` 32);
        0 where it goes by the operand size in force.
    address_size : int
        Address size that this row demands in bits (as `jcxz` 16 against `jecxz` 32), or 0 for any.
    bare : bool
        True where a 66, F2 or F3 prefix makes it another, undefined instruction.
    alias : bool
        True for a second encoding that is decoded but never chosen by the encoder.
    group : str
        Name of its group in `vmlab.isa.x86.privilege.GROUPS`, the reason of `privilege`; empty if innocuous.
    in_64 : str
        What is special about it in 64-bit code, as in appendix A: `i64` undefined there, `o64` defined only there,
        `d64` with an operand size of 64 instead of 32 bits, `f64` with one of 64 bits whatever the prefixes, `n64`
        with none of 64 bits; empty where an operand size of 64 bits is asked for by REX.W.
    has_modrm : bool
        True where a ModRM byte follows the opcode.
    """

    mnemonic: str
    operands: tuple[str, ...]
    opcode: bytes
    extension: int = -1
    privilege: Privilege = Privilege.INNOCUOUS
    lockable: bool = False
    repeat: str = ""
    size: int = 0
    address_size: int = 0
    bare: bool = False
    alias: bool = False
    group: str = ""
    in_64: str = ""
    has_modrm: bool = field(init=False)

    def __post_init__(self) -> None:
        modrm = self.extension >= 0 or any(code[0] in "EGMSCDR" and code not in FIXED for code in self.operands)
        object.__setattr__(self, "has_modrm", modrm)

    def operand_sizes(self, bits: int) -> tuple[int, ...]:
        r"""Return the operand sizes it can have in code of `bits` bits, the default first; none if undefined there.

        >>> Row("push", ("Zv",), b"\x50", in_64="d64").operand_sizes(64)
        (64, 16)
        """
        if bits == 64:
            return _SIZES_64[self.in_64] if self.address_size != 16 else ()
        return () if self.in_64 == "o64" or 64 in (self.size, self.address_size) else (bits, 48 - bits)


_SIZES_64 = {
    "": (32, 64, 16),
    "i64": (),
    "o64": (32, 64, 16),
    "d64": (64, 16),
    "f64": (64,),
    "n64": (32, 16),
}


FIXED = frozenset({"AL", "CL", "DX", "eAX", "1", "ES", "CS", "SS", "DS", "FS", "GS"})
"""Operand codes that name a fixed register or constant."""


@dataclass(slots=True)
class Instruction:
    """One decoded instruction. It knows no address: the same bytes mean the same anywhere.

    Attributes
    ----------
    row : Row
        The row it came from.
    operands : tuple of Operand
        Destination first.
    size : int
        Operand size in bits: 8 for byte forms, else 16, 32 or 64.
    address_size : int
        16, 32 or 64.
    length : int
        Bytes, prefixes included.
    repeat : str
        `""`, `"rep"` or `"repne"` as prefixed.
    lock : bool
        True with a LOCK prefix.
    segment : int
        Segment override prefix's register number, or -1; in 64-bit code FS or GS, since the others are ignored.
    raw : bytes
        The bytes themselves.
    """

    row: Row
    operands: tuple[Operand, ...]
    size: int
    address_size: int
    length: int
    repeat: str = ""
    lock: bool = False
    segment: int = -1
    raw: bytes = b""

    @property
    def mnemonic(self) -> str:
        """The row's mnemonic."""
        return self.row.mnemonic

    @property
    def privilege(self) -> Privilege:
        """The row's class."""
        return self.row.privilege
