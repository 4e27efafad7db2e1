"""Scenes of a page walk: what the walk theatre shows at each reference, all at once, so that stepping needs no kernel.

The *grid* is the picture of nested paging that Figure 18.4 of the textbook begins: the guest's levels down, the host's
levels across, the guest's own entry behind them, and the byte at the end. In one dimension it is a column; under shadow
paging there are two columns, of the guest's tables and of those which the hardware walks.

A scene is a plain dict: `kind` (`start`, `tlb`, `step`, `end`), `cell` (grid, row, column), `references` so far, `served`,
`strips` (the addresses with the bits that index each level), `entry` (the one read, with its bits), `caption`, `ok`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.views.entry_bits import short_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.nested_walk import AddressSpace
    from vmlab.machine.paging import Level, PageTableFormat
    from vmlab.views.page_walk import PageWalk
    from vmlab.views.walk_references import Reference

__all__ = ["walk_scenes", "walk_script"]

Scene = dict[str, Any]
GUEST_TABLE = "guest's entry"
SERVED = {
    "cache": "from a paging-structure cache: no reference",
    "nested TLB": "from the nested TLB: no reference",
    "register": "held in a register: no reference",
}


def walk_script(walk: PageWalk) -> dict[str, Any]:
    """Return all that the theatre needs of a walk: its grids and its scenes.

    Parameters
    ----------
    walk : PageWalk
        From `vmlab.walk`.

    Returns
    -------
    dict
        `title`, `kind`, `access`, `address` (hexadecimal), `grids`, `scenes`, `references`, `verdict`, `ok`, `text`.
    """
    return {
        "title": walk.title,
        "kind": walk.kind,
        "access": walk.access,
        "address": f"{walk.address:#x}",
        "grids": _grids(walk),
        "scenes": walk_scenes(walk),
        "references": walk.references,
        "cached": walk.cached,
        "verdict": walk.verdict,
        "ok": _is_allowed(walk),
        "tlb": walk.sight.tlb_state,
        "text": walk.describe(),
    }


def _is_allowed(walk: PageWalk) -> bool:
    return walk.fault is None and walk.shadow_fault is None


# -- the grid -------------------------------------------------------------------------------------------------------------


def _grids(walk: PageWalk) -> list[dict[str, Any]]:
    """Return the grids: names of rows and columns, and which cells there are."""
    guest, host = walk.sight.guest.guest, walk.sight.guest.host
    if guest and host:
        m = len(host.format.levels)
        rows = _rows(guest)
        cells = [
            [row, column] for row, level in enumerate(guest.format.levels) for column in range(m + 1)
            if not level.in_registers or column == m
        ]  # fmt: skip
        last = len(guest.format.levels)
        cells += [[last, column] for column in range(m + 1)]
        columns = [short_name(level) for level in host.format.levels]
        return [_grid(f"{guest.format.name} × {host.format.name}", [*rows, "the page"], [*columns, GUEST_TABLE], cells)]
    if host:
        m = len(host.format.levels)
        columns = [*(short_name(level) for level in host.format.levels), "byte"]
        return [_grid(host.format.name, [""], columns, [[0, column] for column in range(m + 1)])]
    grids = [_column("the guest's own tables" if walk.sight.shadow else "", guest)]
    if walk.sight.shadow:
        grids.append(_column("the shadow: what hardware walks", walk.sight.shadow.guest))
    return grids


def _grid(title: str, rows: Sequence[str], columns: Sequence[str], cells: list[list[int]]) -> dict[str, Any]:
    return {"title": title, "rows": list(rows), "columns": list(columns), "cells": cells}


def _column(title: str, space: AddressSpace | None) -> dict[str, Any]:
    if space is None:
        return _grid(title or "paging is off", ["byte"], [""], [[0, 0]])
    rows = [*_rows(space), "byte"]
    return _grid(title or space.format.name, rows, [""], [[row, 0] for row in range(len(rows))])


def _rows(space: AddressSpace) -> list[str]:
    return [short_name(level) for level in space.format.levels]


# -- the address and its fields -------------------------------------------------------------------------------------------


def _fields(format_: PageTableFormat, address: int) -> list[list[Any]]:
    """Return the fields of an address, one for each level and the offset: name, highest and lowest bit, value."""
    low = format_.levels[-1].shift
    fields = [_field(short_name(level), level, address) for level in format_.levels]
    return [*fields, ["offset", low - 1, 0, address & (1 << low) - 1]]


def _field(name: str, level: Level, address: int) -> list[Any]:
    return [name, level.shift + level.bits - 1, level.shift, address >> level.shift & (1 << level.bits) - 1]


class _Strips:
    """The addresses of a walk, with the fields that are lit."""

    def __init__(self, walk: PageWalk) -> None:
        walked = walk.sight.guest
        self.guest = walked.guest and walked.guest.format
        self.host = walked.host and walked.host.format
        shadow = walk.sight.shadow and walk.sight.shadow.guest
        self.shadow = shadow.format if shadow else None
        self.address = walk.address
        self.two = bool(self.guest and self.host)
        self.leaf = next((step for step in walk.steps if step.dimension == "guest" and step.leaf), None)

    def at(self, step: Reference | None, *, end: bool = False) -> list[dict[str, Any]]:
        """Return the strips with what a step indexes, or with the offset at the end."""
        strips = []
        format_ = self.shadow if step and step.dimension == "shadow" else self.guest or self.host
        if format_ is None:
            return []
        own = step if step and (step.dimension != "host" or not self.guest) else None
        if end and self.two:
            own = self.leaf
        label = "guest-virtual address" if self.two or self.shadow else "linear address" if self.guest else "guest-physical address"  # fmt: skip
        strips.append(self._strip(label, format_, self.address, own, end=end))
        if self.two and self.host:
            if step and step.dimension == "host" and step.walked is not None:
                strips.append(self._strip("guest-physical address", self.host, step.walked, step, end=end))
            else:
                blank = [[*field[:3], None] for field in _fields(self.host, 0)]
                strips.append({"label": "guest-physical address", "value": "", "fields": blank, "lit": [0, 0]})
        return strips

    @staticmethod
    def _strip(
        label: str, format_: PageTableFormat, address: int, step: Reference | None, *, end: bool
    ) -> dict[str, Any]:
        fields = _fields(format_, address)
        lit = [0, 0]
        if step:
            index = next(n for n, level in enumerate(format_.levels) if level.shift == step.low)
            lit = [index + 1, len(fields)] if end and step.leaf else [index, index + 1]
        return {"label": label, "value": f"{address:#x}", "fields": fields, "lit": lit}


# -- scenes ---------------------------------------------------------------------------------------------------------------


def walk_scenes(walk: PageWalk) -> list[Scene]:
    """Return the scenes of a walk: the question, the TLB, each entry, the answer."""
    strips = _Strips(walk)
    blank = {"cell": None, "references": 0, "served": "", "entry": None, "ok": None}
    question = f"{_capital(walk.access)} at {walk.address:#x}: where in physical memory is that?"
    scenes: list[Scene] = [{**blank, "kind": "start", "strips": strips.at(None), "caption": question}]
    state = walk.sight.tlb_state
    if state != "none":
        words = f"TLB: {walk.tlb}."
        if state == "hit":
            words += " This is the walk that a miss would cost."
        scenes.append({**blank, "kind": "tlb", "strips": strips.at(None), "caption": words})
    for grid, steps in enumerate((walk.steps, walk.shadow_steps)):
        scenes += [
            {
                "kind": "step",
                "cell": [grid, step.row, step.column],
                "references": step.number,
                "served": step.served,
                "strips": strips.at(step),
                "entry": _entry(step),
                "caption": _caption(walk, step),
                "ok": None,
            }
            for step in steps
        ]
        scenes += _between(walk, grid, strips)
    return scenes


def _between(walk: PageWalk, grid: int, strips: _Strips) -> list[Scene]:
    """Return the scene at the end of a walk: its result."""
    if grid == 1 and not walk.sight.shadow:
        return []
    first = grid == 0 and walk.sight.shadow is not None
    steps = walk.shadow_steps if grid else walk.steps
    fault = walk.shadow_fault if grid else walk.fault
    walked = walk.sight.shadow if grid and walk.sight.shadow else walk.sight.guest
    last = steps[-1] if steps else None
    cell = [grid, last.row, last.column] if last and fault else None if fault else _byte_cell(walk, grid)
    caption = walk.verdict
    if first:
        where = "nowhere" if walked.physical is None else f"guest-physical address {walked.physical:#x}"
        said = f"{fault.text}" if fault else f"it lies at {where}"
        caption = f"So much for what the guest believes: {said}. Now the shadow tables, which the hardware walks."
    return [
        {
            "kind": "end",
            "cell": cell,
            "references": last.number if last else 0,
            "served": "",
            "strips": strips.at(last, end=not fault),
            "entry": _entry(last) if last and fault else _result(walk, first=first),
            "caption": caption,
            "ok": fault is None,
        }
    ]


def _byte_cell(walk: PageWalk, grid: int) -> list[int]:
    walked = walk.sight.shadow if grid and walk.sight.shadow else walk.sight.guest
    rows = len(walked.guest.format.levels) if walked.guest else 0
    return [grid, rows, len(walked.host.format.levels) if walked.host else 0]


def _entry(step: Reference) -> dict[str, Any]:
    """Return what the panel shows of an entry."""
    digits = 2 + 2 * step.entry_bytes
    where = f"{step.table:#x} + {step.slot} × {step.entry_bytes} = {step.address:#x}"
    if step.served == "register":
        where = f"register {step.slot} of the processor"
    leads = (
        "nothing is mapped here" if step.target is None else f"{'page' if step.leaf else 'table'} at {step.target:#x}"
    )
    return {
        "title": f"{step.level}, entry {step.slot}",
        "owner": step.dimension,
        "where": where,
        "value": f"{step.entry:#0{digits}x}",
        "leads": leads,
        "leaf": step.leaf,
        "bits": [[bit.name, bit.low, bit.value, bit.meaning, bit.right] for bit in step.bits],
        "served": SERVED.get(step.served, ""),
    }


def _result(walk: PageWalk, *, first: bool) -> dict[str, Any] | None:
    """Return what the panel shows of the byte that was found."""
    physical = walk.sight.guest.physical if first else walk.physical
    if physical is None:
        return None
    byte = walk.sight.byte
    found = walk.found
    names = ("readable", "writable", "executable", "user")
    rights = {name: bool(getattr(found, name)) for name in names} if found else {}
    bits = [[name, -1, int(has), "yes" if has else "no", True] for name, has in rights.items()]
    return {
        "title": "the byte",
        "owner": "guest",
        "where": f"{'guest-physical' if first else 'physical'} address {physical:#x}",
        "value": "" if byte is None else f"{byte:#04x}",
        "leads": "rights along the whole path:" if found else "",
        "leaf": True,
        "bits": bits,
        "served": "",
    }


def _caption(walk: PageWalk, step: Reference) -> str:
    """Say what a step does."""
    bits = f"bits {step.high}:{step.low}"
    if step.target is None:
        leads = "it is not present: nothing is mapped"
    else:
        kind = "page" if step.leaf else "next table"
        guest_physical = "guest-physical " if step.dimension == "guest" and walk.kind in ("nested", "shadow") else ""
        leads = f"the {kind} is at {guest_physical}{step.target:#x}"
    served = f" ({SERVED[step.served]})" if step.served in SERVED else ""
    if step.dimension == "host":
        where = "" if step.walked is None else f"Where is guest-physical {step.walked:#x}? "
        return f"{where}Host's {step.short}, entry {step.slot} ({bits}){served}: {leads}."
    whose = "Shadow" if step.dimension == "shadow" else "Guest's"
    if walk.kind == "native":
        whose = "The"
    return f"{whose} {step.short}, entry {step.slot} ({bits}){served}: {leads}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
