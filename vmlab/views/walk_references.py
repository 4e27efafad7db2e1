"""The steps of a page walk as a picture needs them: decoded, counted, and with a place in the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.views.entry_bits import decode_entry, is_leaf, short_name, target_of

if TYPE_CHECKING:
    from vmlab.machine.nested_walk import NestedStep
    from vmlab.machine.paging import Level, PageTableFormat
    from vmlab.views.entry_bits import EntryBit
    from vmlab.vmm.page_walk import Walked

__all__ = ["Reference", "references_of"]


class Reference(NamedTuple):
    """One entry that a walk uses.

    Attributes
    ----------
    number : int
        Memory references of the walk so far, this one included.
    dimension : {"guest", "host", "shadow"}
        Whose table.
    row, column : int
        Place in the grid: guest levels down; host levels across, the guest's own entry behind them.
    level, short : str
        Name of the table, and its short name.
    high, low : int
        Which bits of the address index it.
    walked : int or None
        The address that is translated by it: the guest's, or a guest-physical one; None where that is not known.
    slot, table, address : int
        Which entry, where its table lies, and where it lies itself (host-physical).
    entry : int
        Its value.
    entry_bytes : int
        Its size.
    bits : tuple of EntryBit
        What that says.
    target : int or None
        Physical address that it points to: a guest-physical one in the guest's tables.
    leaf : bool
        True where that is a page.
    served : {"memory", "register", "cache", "nested TLB"}
        Where it came from; a cache is a paging-structure cache.
    """

    number: int
    dimension: str
    row: int
    column: int
    level: str
    short: str
    high: int
    low: int
    walked: int | None
    slot: int
    table: int
    address: int
    entry: int
    entry_bytes: int
    bits: tuple[EntryBit, ...]
    target: int | None
    leaf: bool
    served: str

    @property
    def said(self) -> str:
        """The fields of the entry in short."""
        return " ".join(f"{bit.name}={bit.value}" for bit in self.bits)


def references_of(walked: Walked, dimension: str, offset: int) -> tuple[Reference, ...]:
    """Decode the steps of a walk; `offset` is the column of the guest's own entries."""
    found: list[Reference] = []
    # A paging-structure cache never has the leaf: a row of the host's that is cached to its end is from the nested TLB.
    whole = {_row_key(step) for step in walked.steps if step.cached and is_leaf(*_place(walked, step)[1:], step.entry)}
    number = 0
    at_page = False
    below: int | None = None if walked.guest else walked.address
    for step in walked.steps:
        column, format_, level = _place(walked, step)
        served = "memory"
        if step.in_register:
            served = "register"
        elif step.cached:
            served = "nested TLB" if _row_key(step) in whole else "cache"
        number += served == "memory"
        whose = dimension if step.host_level is None else "host"
        if walked.guest is None:
            whose, column = "host", step.guest_level
        address = walked.address if whose != "host" else _guest_physical(walked, step, below, at_page=at_page)
        target = target_of(format_, level, step.entry)
        row = step.guest_level if walked.guest else 0
        if whose == "host" and at_page and walked.guest:
            row = len(walked.guest.format.levels)  # below the last table, however large the page is
        if whose != "host" and target is not None:
            at_page = is_leaf(format_, level, step.entry)
            below = target | (walked.address & (1 << level.shift) - 1 if at_page else 0)
        found.append(
            Reference(
                number,
                whose,
                row,
                offset if column is None else column,
                level.name,
                short_name(level),
                level.shift + level.bits - 1,
                level.shift,
                address,
                step.slot,
                step.address - step.slot * format_.entry_bytes,
                step.address,
                step.entry,
                format_.entry_bytes,
                decode_entry(format_, level, step.entry),
                target,
                is_leaf(format_, level, step.entry),
                served,
            )
        )
    return tuple(found)


def _row_key(step: NestedStep) -> tuple[str, int]:
    return step.dimension, step.guest_level


def _place(walked: Walked, step: NestedStep) -> tuple[int | None, PageTableFormat, Level]:
    """Return the column, the format and the level of a step."""
    space = walked.host if step.host_level is not None or walked.guest is None else walked.guest
    assert space
    number = step.guest_level if step.host_level is None else step.host_level
    return step.host_level, space.format, space.format.levels[number]


def _guest_physical(walked: Walked, step: NestedStep, below: int | None, *, at_page: bool) -> int | None:
    """Return the guest-physical address that a row of the host's tables translates."""
    guest = walked.guest
    if guest is None:
        return walked.address
    levels = guest.format.levels
    if at_page:
        return below
    table = guest.top if step.guest_level == 0 else below
    if table is None:
        return None
    level = levels[step.guest_level]
    return table + (walked.address >> level.shift & (1 << level.bits) - 1) * guest.format.entry_bytes
