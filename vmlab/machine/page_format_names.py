"""Page-table formats by name, each as a processor of today has it: for a table of formats, a test, a choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.page_formats import IA32, five_level, four_level, ia32_pse, pae
from vmlab.machine.page_formats_arm import aarch64_stage1, aarch64_stage2
from vmlab.machine.page_formats_host import ept, npt, vtd_second_level
from vmlab.machine.page_formats_riscv import sv39, sv39x4

if TYPE_CHECKING:
    from vmlab.machine.paging import PageTableFormat

__all__ = ["FORMATS", "HOST_FORMATS"]

WIDTH = 48
"""Bits of a physical address; with PSE-36 and PAE of that age, 36."""

FORMATS: dict[str, PageTableFormat] = {
    "ia32": IA32,
    "ia32-pse": ia32_pse(36),
    "pae": pae(36, no_execute=True),
    "4-level": four_level(WIDTH, no_execute=True, gigabyte_pages=True),
    "5-level": five_level(52, no_execute=True, gigabyte_pages=True),
    "ept": ept(4, physical_bits=WIDTH),
    "ept-5": ept(5, physical_bits=52),
    "npt": npt(4, physical_bits=WIDTH),
    "npt-5": npt(5, physical_bits=52),
    "aarch64-stage1": aarch64_stage1(16, physical_bits=WIDTH),
    "aarch64-stage2": aarch64_stage2(24, 1, physical_bits=WIDTH),
    "vt-d-3": vtd_second_level(3, physical_bits=WIDTH),
    "vt-d": vtd_second_level(4, physical_bits=WIDTH),
    "vt-d-5": vtd_second_level(5, physical_bits=52),
    "sv39": sv39(),
    "sv39x4": sv39x4(),
}
"""All formats by name."""

HOST_FORMATS = ("ept", "ept-5", "npt", "npt-5", "aarch64-stage2", "vt-d-3", "vt-d", "vt-d-5", "sv39x4")
"""The names of those that map guest-physical addresses."""
