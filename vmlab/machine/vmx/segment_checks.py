"""What a VM entry checks of the guest's segment registers (Intel SDM vol. 3, 26.3.1.2).

Simplified: what would need the G bit beside the limit is checked by the limit alone.
"""

from __future__ import annotations

from vmlab.isa.x86.registers import CR0_PE, VM
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.guest_state import BIG, GRANULAR, LONG, UNUSABLE

__all__ = ["bad_segments"]

NAMES = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
ES, CS, SS, DS, FS, GS, LDTR, TR = range(8)
RESERVED = 0xFFFE_0F00
PRESENT, SEGMENT, CODE, CONFORMING, READABLE_OR_WRITABLE, ACCESSED = 0x80, 0x10, 8, 4, 2, 1
REAL = 0xF3  # access rights of every segment in virtual-8086 mode
LDT, BUSY_16, BUSY_32 = 2, 3, 11
ACCESSED_DATA_WRITABLE = 3


def bad_segments(fields: dict[int, int], *, unrestricted: bool) -> bool:
    """Say whether a segment register is wrong."""
    key = (unrestricted, fields[f.GUEST_RFLAGS] & VM, *[fields[each] for each in _ALL])
    if key in _GOOD:
        return False
    if _are_bad(fields, unrestricted=unrestricted):
        return True
    if len(_GOOD) >= MOST_GOOD:
        _GOOD.clear()
    _GOOD[key] = None
    return False


_GOOD: dict[tuple[int, ...], None] = {}  # what was right once, is
MOST_GOOD = 1024
_ALL = (
    f.ENTRY_CONTROLS, f.GUEST_CR0, *range(f.GUEST_ES, f.GUEST_TR + 2, 2),
    *range(f.GUEST_ES_LIMIT, f.GUEST_TR_LIMIT + 2, 2), *range(f.GUEST_ES_ACCESS, f.GUEST_TR_ACCESS + 2, 2),
    *range(f.GUEST_ES_BASE, f.GUEST_TR_BASE + 2, 2),
)  # fmt: skip


def _are_bad(fields: dict[int, int], *, unrestricted: bool) -> bool:
    if fields[f.GUEST_RFLAGS] & VM:
        wrong = any(_bad_virtual(fields, n) for n in range(LDTR))
    else:
        wrong = any(_bad_segment(fields, n, unrestricted=unrestricted) for n in range(LDTR))
    return wrong or _bad_task(fields) or _bad_table(fields)


def _parts(fields: dict[int, int], n: int) -> tuple[int, int, int, int]:
    """Return selector, base, limit and access rights."""
    return (
        fields[f.GUEST_ES + 2 * n],
        fields[f.GUEST_ES_BASE + 2 * n],
        fields[f.GUEST_ES_LIMIT + 2 * n],
        fields[f.GUEST_ES_ACCESS + 2 * n],
    )


def _bad_virtual(fields: dict[int, int], n: int) -> bool:
    selector, base, limit, rights = _parts(fields, n)
    return base != selector << 4 or limit != 0xFFFF or rights != REAL


def _bad_limit(limit: int, rights: int) -> bool:
    """G must be 0 where any of bits 11:0 is 0, and 1 where any of bits 31:20 is 1."""
    if rights & GRANULAR:
        return limit & 0xFFF != 0xFFF
    return limit > 0xFFFFF


def _bad_segment(fields: dict[int, int], n: int, *, unrestricted: bool) -> bool:
    selector, base, limit, rights = _parts(fields, n)
    if rights & UNUSABLE and n != CS:
        return False
    kind, level = rights & 0xF, rights >> 5 & 3
    if rights & (RESERVED | UNUSABLE) or not rights & PRESENT or not rights & SEGMENT or _bad_limit(limit, rights):
        return True
    if n in (CS, SS, DS, ES) and base >> 32:
        return True
    if n == CS:
        long = fields[f.ENTRY_CONTROLS] & c.IA32E_MODE_GUEST and rights & LONG
        stack_level = fields[f.GUEST_SS_ACCESS] >> 5 & 3
        if kind == ACCESSED_DATA_WRITABLE:
            return not unrestricted or level != 0
        if not kind & CODE or not kind & ACCESSED:
            return True
        return bool(level > stack_level if kind & CONFORMING else level != stack_level) or bool(long and rights & BIG)
    if n == SS:
        code_kind = fields[f.GUEST_CS_ACCESS] & 0xF
        if kind & CODE or not kind & READABLE_OR_WRITABLE or not kind & ACCESSED:
            return True
        protected = fields[f.GUEST_CR0] & CR0_PE
        if not unrestricted and level != selector & 3:
            return True
        return bool(level and (code_kind == ACCESSED_DATA_WRITABLE or not protected))
    return not kind & ACCESSED or bool(kind & CODE and not kind & READABLE_OR_WRITABLE)


def _bad_task(fields: dict[int, int]) -> bool:
    selector, _, limit, rights = _parts(fields, TR)
    long = fields[f.ENTRY_CONTROLS] & c.IA32E_MODE_GUEST
    kinds = (BUSY_32,) if long else (BUSY_16, BUSY_32)
    return (
        bool(selector & 4)
        or bool(rights & (UNUSABLE | SEGMENT | RESERVED))
        or rights & 0xF not in kinds
        or not rights & PRESENT
        or _bad_limit(limit, rights)
    )


def _bad_table(fields: dict[int, int]) -> bool:
    selector, _, limit, rights = _parts(fields, LDTR)
    if rights & UNUSABLE:
        return False
    return (
        bool(selector & 4)
        or bool(rights & (SEGMENT | RESERVED))
        or rights & 0xF != LDT
        or not rights & PRESENT
        or _bad_limit(limit, rights)
    )
