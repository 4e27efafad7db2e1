"""What the bits of a page-table entry are called, and say: the manuals' figures as data, one table a family of formats.

A family is the formats that share the layout of an entry; which one a format belongs to, the fault that it raises tells.
Which bits mean what to a walk is in `vmlab.machine.paging`; here they only get their names.

Read more: Intel SDM vol. 3, tables 4-5 to 4-20 and 29-1 to 29-7; Arm ARM, D8.3; RISC-V privileged architecture, 4.4;
Intel VT-d, 9.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.machine.paging import LARGE, PSE36_SHIFT
from vmlab.machine.walk_faults import (
    DmaFault,
    EptMisconfiguration,
    GuestPageFault,
    NestedPageFault,
    RiscvPageFault,
    Stage1Abort,
    Stage2Abort,
    page_fault,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.paging import Level, PageTableFormat
    from vmlab.machine.walk_faults import Failure

__all__ = ["EntryBit", "decode_entry", "is_leaf", "short_name", "target_of"]

SHORT = {
    "page map level 5": "PML5", "page map level 4": "PML4", "page-directory-pointer table": "PDPT",
    "page directory": "PD", "page table": "PT", "EPT PML5": "PML5", "EPT PML4": "PML4",
    "EPT page-directory-pointer table": "PDPT", "EPT page directory": "PD", "EPT page table": "PT",
}  # fmt: skip


def short_name(level: Level) -> str:
    """Return the short name of a level's table."""
    return SHORT.get(level.name, level.name)


class EntryBit(NamedTuple):
    """A field of an entry.

    Attributes
    ----------
    name : str
        The manual's.
    low, width : int
        Which bits.
    value : int
        What they hold.
    meaning : str
        What that says, in words.
    right : bool
        True where it decides about an access.
    """

    name: str
    low: int
    width: int
    value: int
    meaning: str
    right: bool = False


class _Field(NamedTuple):
    """A field of a family: in which entries it is (`leaf`: None for all), and what its values say."""

    name: str
    low: int
    width: int
    says: tuple[str, ...]
    leaf: bool | None = None
    right: bool = False


def _bit(name: str, low: int, clear: str, set_: str, *, leaf: bool | None = None, right: bool = False) -> _Field:
    return _Field(name, low, 1, (clear, set_), leaf, right)


ALL = True

X86 = (
    _bit("P", 0, "not present", "present", right=ALL),
    _bit("R/W", 1, "read only", "writable", right=ALL),
    _bit("U/S", 2, "supervisor only", "user too", right=ALL),
    _bit("PWT", 3, "write-back", "write-through"),
    _bit("PCD", 4, "cached", "not cached"),
    _bit("A", 5, "not accessed", "accessed"),
    _bit("D", 6, "clean", "dirty", leaf=True),
    _bit("PS", 7, "to a table", "maps a page"),
    _bit("G", 8, "this space only", "global", leaf=True),
    _bit("XD", 63, "executable", "not executable", right=ALL),
)
MEMORY_TYPES = ("uncacheable", "write-combining", "reserved", "reserved", "write-through", "write-protected", "write-back", "reserved")  # fmt: skip
EPT = (
    _bit("R", 0, "not readable", "readable", right=ALL),
    _bit("W", 1, "not writable", "writable", right=ALL),
    _bit("X", 2, "not executable", "executable", right=ALL),
    _Field("type", 3, 3, MEMORY_TYPES, leaf=True),
    _bit("PS", 7, "to a table", "maps a page"),
    _bit("A", 8, "not accessed", "accessed"),
    _bit("D", 9, "clean", "dirty", leaf=True),
)
VT_D = (
    _bit("R", 0, "not readable", "readable", right=ALL),
    _bit("W", 1, "not writable", "writable", right=ALL),
    _bit("SP", 7, "to a table", "maps a page"),
)
ARM_STAGE1 = (
    _bit("valid", 0, "invalid", "valid", right=ALL),
    _bit("type", 1, "block", "table or page"),
    _bit("AP[1]", 6, "EL1 only", "EL0 too", leaf=True, right=ALL),
    _bit("AP[2]", 7, "writable", "read only", leaf=True, right=ALL),
    _bit("AF", 10, "not accessed", "accessed", leaf=True, right=ALL),
    _bit("nG", 11, "global", "of this ASID", leaf=True),
    _bit("PXN", 53, "executable at EL1", "not executable at EL1", leaf=True, right=ALL),
    _bit("UXN", 54, "executable at EL0", "not executable at EL0", leaf=True, right=ALL),
    _bit("PXNTable", 59, "as below", "none executable at EL1", leaf=False, right=ALL),
    _bit("UXNTable", 60, "as below", "none executable at EL0", leaf=False, right=ALL),
    _bit("APTable[0]", 61, "as below", "none for EL0", leaf=False, right=ALL),
    _bit("APTable[1]", 62, "as below", "all read only", leaf=False, right=ALL),
)
ARM_STAGE2 = (
    _bit("valid", 0, "invalid", "valid", right=ALL),
    _bit("type", 1, "block", "table or page"),
    _bit("S2AP[0]", 6, "not readable", "readable", leaf=True, right=ALL),
    _bit("S2AP[1]", 7, "not writable", "writable", leaf=True, right=ALL),
    _bit("AF", 10, "not accessed", "accessed", leaf=True, right=ALL),
    _bit("XN", 54, "executable", "not executable", leaf=True, right=ALL),
)
RISC_V = (
    _bit("V", 0, "not valid", "valid", right=ALL),
    _bit("R", 1, "not readable", "readable", right=ALL),
    _bit("W", 2, "not writable", "writable", right=ALL),
    _bit("X", 3, "not executable", "executable", right=ALL),
    _bit("U", 4, "supervisor only", "user's", leaf=True, right=ALL),
    _bit("G", 5, "this space only", "global"),
    _bit("A", 6, "not accessed", "accessed", leaf=True),
    _bit("D", 7, "clean", "dirty", leaf=True),
)

FAMILIES: dict[Callable[[Failure], Exception], tuple[_Field, ...]] = {
    page_fault: X86,
    NestedPageFault.fault: X86,
    EptMisconfiguration.fault: EPT,
    DmaFault.fault: VT_D,
    Stage1Abort.fault: ARM_STAGE1,
    Stage2Abort.fault: ARM_STAGE2,
    RiscvPageFault.fault: RISC_V,
    GuestPageFault.fault: RISC_V,
}


def is_leaf(format_: PageTableFormat, level: Level, entry: int) -> bool:
    """Say whether an entry of a level maps a page itself."""
    return bool(entry & format_.present and (entry ^ format_.inverted) & level.leaf)


def target_of(format_: PageTableFormat, level: Level, entry: int) -> int | None:
    """Return the physical address of the table or page that an entry points to; None for one that is not present."""
    if not entry & format_.present:
        return None
    address = (entry & format_.frame_mask) << format_.frame_shift
    if is_leaf(format_, level, entry):
        address = address & -(1 << level.shift) | (entry & level.leaf_high) << PSE36_SHIFT
    return address


def decode_entry(format_: PageTableFormat, level: Level, entry: int) -> tuple[EntryBit, ...]:
    """Return the fields of an entry with what they say; of one that is not present, only that.

    Examples
    --------
    >>> from vmlab.machine.page_formats import IA32
    >>> [f"{bit.name}={bit.value}" for bit in decode_entry(IA32, IA32.levels[1], 0x5067)][:3]
    ['P=1', 'R/W=1', 'U/S=1']
    """
    fields = FAMILIES[format_.fault]
    if not entry & format_.present:
        present = [field for field in fields if format_.present >> field.low & 1]
        return tuple(_decoded(field, entry) for field in present)
    if level.in_registers and not level.grants and format_.fault is page_fault:
        fields = X86[:1]  # a PDPTE of PAE paging has no rights (SDM vol. 3, table 4-8)
    leaf = is_leaf(format_, level, entry)
    chosen = [
        field
        for field in fields
        if field.leaf in (None, leaf)
        and field.low < 8 * format_.entry_bytes
        # Bit 7 means something else where there is no choice between a table and a page.
        and not (format_.large == 1 << field.low == LARGE and level.leaf in (0, format_.present))
    ]
    return tuple(_decoded(field, entry) for field in chosen)


def _decoded(field: _Field, entry: int) -> EntryBit:
    value = entry >> field.low & (1 << field.width) - 1
    return EntryBit(field.name, field.low, field.width, value, field.says[value], field.right)
