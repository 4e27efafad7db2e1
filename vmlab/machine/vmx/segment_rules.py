"""What a VM entry checks of the guest's segment registers (Intel SDM vol. 3, 26.3.1.2).

Simplified: not checked are that bases of FS, GS, TR and LDTR are canonical, that the selector of SS has the RPL of CS's, and that
the DPL of a data segment is not below its RPL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.machine.entry_rules import EntryRule
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.guest_state import BIG, GRANULAR, LONG, UNUSABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.vmx.attempt import Attempt

__all__ = ["SEGMENT_FIELDS", "SEGMENT_RULES"]

SECTION = "26.3.1.2"
NAMES = ("ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR")
ES, CS, SS, DS, FS, GS, LDTR, TR = range(8)
RESERVED = 0xFFFE_0F00
PRESENT, SEGMENT, CODE, CONFORMING, READABLE_OR_WRITABLE, ACCESSED = 0x80, 0x10, 8, 4, 2, 1
REAL = 0xF3  # access rights of every segment in virtual-8086 mode
LDT, BUSY_16, BUSY_32 = 2, 3, 11
ACCESSED_DATA_WRITABLE = 3

SEGMENT_FIELDS = (
    f.ENTRY_CONTROLS, f.GUEST_CR0, *range(f.GUEST_ES, f.GUEST_TR + 2, 2),
    *range(f.GUEST_ES_LIMIT, f.GUEST_TR_LIMIT + 2, 2), *range(f.GUEST_ES_ACCESS, f.GUEST_TR_ACCESS + 2, 2),
    *range(f.GUEST_ES_BASE, f.GUEST_TR_BASE + 2, 2),
)  # fmt: skip
"""What the rules read, beside the bit VM of RFLAGS and the control for unrestricted guests."""


class _Segment(NamedTuple):
    """A segment register of a guest."""

    selector: int
    base: int
    limit: int
    rights: int

    @property
    def kind(self) -> int:
        return self.rights & 0xF

    @property
    def level(self) -> int:
        return self.rights >> 5 & 3


def _segment(a: Attempt, n: int) -> _Segment:
    return _Segment(
        a[f.GUEST_ES + 2 * n], a[f.GUEST_ES_BASE + 2 * n], a[f.GUEST_ES_LIMIT + 2 * n], a[f.GUEST_ES_ACCESS + 2 * n]
    )  # fmt: skip


def _bad_limit(s: _Segment) -> bool:
    if s.rights & GRANULAR:
        return s.limit & 0xFFF != 0xFFF
    return s.limit > 0xFFFFF


def _virtual(n: int, text: str, is_bad: Callable[[_Segment], object]) -> EntryRule:
    """Return a rule of a segment register in virtual-8086 mode."""
    return EntryRule(
        SECTION,
        f"{NAMES[n]} in virtual-8086 mode: {text}",
        lambda a: a.virtual_8086 and is_bad(_segment(a, n)),
    )


def _rule(n: int, text: str, is_bad: Callable[[Attempt, _Segment], object]) -> EntryRule:
    """Return a rule of a segment register outside of virtual-8086 mode; of CS, or where it is usable."""
    always = n in (CS, TR)

    def is_broken(a: Attempt) -> object:
        if a.virtual_8086 and n < LDTR:
            return False
        s = _segment(a, n)
        return (always or not s.rights & UNUSABLE) and is_bad(a, s)

    return EntryRule(SECTION, f"{NAMES[n]}: {text}", is_broken)


# The rules: in virtual-8086 mode, of all registers, of ordinary and of system segments, then of each
_VIRTUAL = (
    ("the base is the selector times 16", lambda s: s.base != s.selector << 4),
    ("the limit is FFFFH", lambda s: s.limit != 0xFFFF),
    ("the access rights are F3H", lambda s: s.rights != REAL),
)
_COMMON = (
    ("P (bit 7) of the access rights is 1", lambda _, s: not s.rights & PRESENT),
    ("the reserved bits 11:8 and 31:17 of the access rights are 0", lambda _, s: s.rights & RESERVED),
    (
        "G (bit 15) is 0 where bits 11:0 of the limit are not all 1, and 1 where bits 31:20 are not all 0",
        lambda _, s: _bad_limit(s),
    ),
)
_ORDINARY = (("S (bit 4) of the access rights is 1", lambda _, s: not s.rights & SEGMENT),)
_SYSTEM = (
    ("TI (bit 2) of the selector is 0", lambda _, s: s.selector & 4),
    ("S (bit 4) of the access rights is 0", lambda _, s: s.rights & SEGMENT),
)
_USABLE = (("the register is usable: bit 16 of its access rights is 0", lambda _, s: s.rights & UNUSABLE),)
_WIDTH = (("bits 63:32 of the base are 0", lambda _, s: s.base >> 32),)
_CS = (
    (
        "the type is 9, 11, 13 or 15 (accessed code), or 3 where the guest is unrestricted",
        lambda a, s: (
            not (s.kind & CODE and s.kind & ACCESSED) and not (a.unrestricted and s.kind == ACCESSED_DATA_WRITABLE)
        ),
    ),
    ("with type 3, the DPL is 0", lambda _, s: s.kind == ACCESSED_DATA_WRITABLE and s.level),
    (
        "with type 9 or 11 (non-conforming), the DPL is that of SS",
        lambda a, s: s.kind & (CODE | CONFORMING) == CODE and s.level != _segment(a, SS).level,
    ),
    (
        "with type 13 or 15 (conforming), the DPL is not above that of SS",
        lambda a, s: s.kind & (CODE | CONFORMING) == CODE | CONFORMING and s.level > _segment(a, SS).level,
    ),
    (
        "in an IA-32e mode guest with L (bit 13), D (bit 14) is 0",
        lambda a, s: a.long_guest and s.kind & CODE and s.rights & LONG and s.rights & BIG,
    ),
)
_SS = (
    (
        "the type is 3 or 7 (read/write, accessed)",
        lambda _, s: s.kind & (CODE | READABLE_OR_WRITABLE | ACCESSED) != READABLE_OR_WRITABLE | ACCESSED,
    ),
    (
        "where the guest is not unrestricted, the DPL is the RPL of the selector",
        lambda a, s: not a.unrestricted and s.level != s.selector & 3,
    ),
    (
        "the DPL is 0 where CS has type 3, or PE of CR0 is 0",
        lambda a, s: s.level and (_segment(a, CS).kind == ACCESSED_DATA_WRITABLE or not a.protected),
    ),
)
_DATA = (
    ("bit 0 of the type is 1 (accessed)", lambda _, s: not s.kind & ACCESSED),
    (
        "where bit 3 of the type is 1 (code), bit 1 is 1 (readable)",
        lambda _, s: s.kind & CODE and not s.kind & READABLE_OR_WRITABLE,
    ),
)
_TR = (
    (
        "the type is 11 (busy 32-bit or 64-bit TSS), or outside of IA-32e mode 3 (busy 16-bit TSS)",
        lambda a, s: s.kind not in ((BUSY_32,) if a.long_guest else (BUSY_16, BUSY_32)),
    ),
)
_LDTR = (("the type is 2 (LDT)", lambda _, s: s.kind != LDT),)
_OWN = {
    ES: _WIDTH + _DATA + _ORDINARY, CS: _USABLE + _WIDTH + _CS + _ORDINARY, SS: _WIDTH + _SS + _ORDINARY,
    DS: _WIDTH + _DATA + _ORDINARY, FS: _DATA + _ORDINARY, GS: _DATA + _ORDINARY, LDTR: _LDTR + _SYSTEM,
    TR: _USABLE + _TR + _SYSTEM,
}  # fmt: skip

SEGMENT_RULES: tuple[EntryRule, ...] = (
    *(_virtual(n, text, is_bad) for n in range(LDTR) for text, is_bad in _VIRTUAL),
    *(_rule(n, text, is_bad) for n in (CS, SS, DS, ES, FS, GS, TR, LDTR) for text, is_bad in _OWN[n] + _COMMON),
)
"""Each is what must be so."""
