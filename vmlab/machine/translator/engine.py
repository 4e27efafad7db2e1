"""The engine: runs a processor by translated regions where it can, by the interpreter where it must.

A region is kept with the page of memory that its code came from, as decoded instructions are, so that a write to its
code drops it. An address is translated after it has been passed a number of times: compiling costs as much as
thousands of interpreted instructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.translator.cache import Translated, is_kept, translate
from vmlab.machine.translator.strings import BULK

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["Engine"]

WARM = 24
"""Passes of an address before it is translated."""

MISSES = 8
"""Accesses of a region left to the interpreter after which it is translated again, with care."""

MOST_CAREFUL = 32
"""Instructions of a region that may be careful."""

SHORT = 32
"""Budget below which nothing is counted: who runs single steps gains nothing by translations."""

LONGEST = 15
"""Bytes of the longest instruction."""

REGION = 0x10000
"""Added to an EIP, the key of a region among the decoded instructions of a page, whose keys are smaller."""

BREAKPOINTS = 0xFF
"""Enable bits of DR7: what looks at single accesses is the interpreter's."""

PAGE = 0x1000
MASK = 0xFFFFFFFF


class Engine:
    """Executes like `Processor.run`, faster.

    Attributes
    ----------
    regions : int
        Regions compiled so far.
    """

    def __init__(self) -> None:
        self.regions = 0

    def run(self, cpu: Processor, until: int) -> None:
        """Execute until `retired` reaches `until`, attention is needed, or a fault is raised: as `Processor.run`."""
        if cpu.attention:
            return
        cpu.flat_data = cpu.has_flat_data
        if cpu.fetch_bits != 32 or not cpu.flat_data or cpu.debug[7] & BREAKPOINTS:
            cpu.run(until)
            return
        cpu.horizon, cpu.deadline = until, cpu.platform.clock.deadline
        code, execute = cpu.code_pages, cpu.execute
        entered = True  # by a transfer of control, or behind something that is not translated: a region may start
        while (budget := cpu.horizon - cpu.retired) > 0:
            ip = cpu.ip
            missed = found = None
            page = code.get(ip >> 12)
            if page:  # an empty one may have been dropped with its code: the interpreter fetches the present one
                found = page.get(ip + REGION, 0)
                if found.__class__ is Translated:
                    if found.longest <= budget:
                        missed = found.run(cpu, budget)
                        if missed is None:
                            entered = True
                            continue
                        ip = cpu.ip
                elif entered and found is not None and budget >= SHORT:
                    if found >= WARM or (not found and is_kept(ip)):
                        page[ip + REGION] = self.translate(cpu, ip)
                        continue
                    page[ip + REGION] = found + 1
            decoded = page.get(ip & 0xFFF) if page is not None else None
            bulk = BULK.get(decoded[0]) if decoded else None
            if decoded and bulk and bulk(cpu, decoded[1], cpu.horizon - cpu.retired):
                entered = True
                continue
            execute()
            entered = found is None or missed is not None or not 0 < cpu.ip - ip <= LONGEST
            if missed and found:
                self.missed(cpu, found, *missed)

    def missed(self, cpu: Processor, found: Translated, ip: int, key: int) -> None:
        """Note that a region left an instruction to the interpreter: a page was not there, or something unusual."""
        if 0 < key <= MASK and cpu.quicken(key & -0x100):
            return
        found.missed += 1
        if found.missed > MISSES and ip not in found.careful and (key & 3 or not 0 <= key <= MASK):
            found.missed = 0
            page = cpu.code_pages.get(found.entry >> 12)
            if page is not None and len(found.careful) < MOST_CAREFUL and page.get(found.entry + REGION) is found:
                page[found.entry + REGION] = self.translate(cpu, found.entry, found.careful | {ip})

    def translate(self, cpu: Processor, ip: int, careful: frozenset[int] = frozenset()) -> Translated | None:
        """Translate the region at an address of the present code page."""
        start = cpu.ram_address(cpu.translate(ip, write=False, user=cpu.cpl == 3, fetch=True)) & -PAGE
        executed = cpu.ram.decoded.get(start >> 12) if WARM else None
        region, new = translate(bytes(cpu.ram.data[start : start + PAGE]), ip, careful, executed)
        self.regions += new
        if region is not None:
            for offset, raw in region.ranges:
                cpu.ram.mark_code(start >> 12, offset, len(raw))
        return region
