"""The engine: runs a processor by translated regions where it can, by the interpreter where it must.

A region is kept with the page of memory that its code came from, as decoded instructions are, so that a write to its
code drops it. An address is translated after it has been passed a number of times: compiling costs as much as
thousands of interpreted instructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.memory_parts import REGIONS
from vmlab.machine.page_maps import FULL
from vmlab.machine.translator.cache import ORDINARY, Translated, is_kept, translate
from vmlab.machine.translator.strings import BULK, repeat
from vmlab.machine.translator.traps import deliver

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.processor import Processor
    from vmlab.machine.translator.emitters import Special

__all__ = ["Engine"]

WARM = 24
"""Passes of an address before it is translated."""

MISSES = 8
"""Accesses of a region left to the interpreter after which it is translated again, with care."""

MOST_SPECIAL = 32
"""Instructions of a region that may be written in another way than most."""

SHORT = 32
"""Budget below which nothing is counted: who runs single steps gains nothing by translations."""

LONGEST = 15
"""Bytes of the longest instruction."""

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

    def run(self, cpu: Processor, until: int, go_on: Callable[[], int]) -> None:
        """Execute until `retired` reaches `until`, attention is needed, or a fault is raised: as `Processor.run`.

        Parameters
        ----------
        cpu : Processor
            Who executes.
        until : int
            A count of retired instructions.
        go_on : callable
            Returns up to which count of retired instructions it may go on after something has ended that; 0 where it must
            not.
        """
        if cpu.attention:
            return
        sees_all = cpu.model.tlb.sees_all  # the TLB is to see each access, as the interpreter makes them
        cpu.deliver_quickly = None if sees_all else deliver
        while True:
            cpu.flat_data = cpu.has_flat_data and not sees_all
            if cpu.fetch_bits != 32 or not cpu.flat_data or cpu.debug[7] & BREAKPOINTS:
                cpu.repeat_quickly = None if sees_all else repeat
                try:
                    cpu.run(until)
                finally:
                    cpu.repeat_quickly = None
            else:
                self._run_flat(cpu, until, go_on)
            until = go_on()
            if until <= cpu.retired:
                return

    def _run_flat(self, cpu: Processor, until: int, go_on: Callable[[], int]) -> None:
        """Execute in flat segments of 32 bits up to the horizon, and past one that a change of CS has set."""
        cpu.horizon, cpu.deadline = until, cpu.platform.clock.deadline
        execute = cpu.execute
        entered = True  # by a transfer of control, or behind something that is not translated: a region may start
        while True:
            budget = cpu.horizon - cpu.retired
            if budget <= 0:
                until = go_on()
                if until <= cpu.retired or cpu.fetch_bits != 32 or not cpu.has_flat_data or cpu.debug[7] & BREAKPOINTS:
                    return
                cpu.horizon, cpu.deadline, entered = until, cpu.platform.clock.deadline, True
                continue
            ip, code = cpu.ip, cpu.code_pages  # which are others in another ring or address space
            missed = found = None
            page = code.get(ip >> 12)
            if not page:
                cpu.fetch()
                page = code.get(ip >> 12)
            if page:  # empty where its code has been written to: it is not the page's any more
                found = page.get(ip + REGIONS, 0)
                if found.__class__ is Translated:
                    if found.longest <= budget:
                        missed = found.run(cpu, budget)
                        if missed is None:
                            entered = True
                            continue
                        ip = cpu.ip
                elif entered and found is not None and budget >= SHORT:
                    if found >= WARM or (not found and is_kept(ip, own=ip in cpu.uncounted.code)):
                        page[ip + REGIONS] = self.translate(cpu, ip)
                        continue
                    page[ip + REGIONS] = found + 1
            decoded = page.get(ip & 0xFFF) if page else None
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
        if not key & 3 and 0 < key <= MASK and cpu.quicken(key & -0x100):
            return
        if key >= FULL:
            return
        found.missed += 1
        special = found.careful
        if found.missed <= MISSES or len(special.careful) + len(special.outside) >= MOST_SPECIAL:
            return
        found.missed = 0
        page = cpu.code_pages.get(found.entry >> 12)
        if page is None or page.get(found.entry + REGIONS) is not found:
            return
        if ip not in special.careful and (key & 3 or not 0 <= key <= MASK):
            special = special._replace(careful=special.careful | {ip})
        else:
            special = special._replace(outside=special.outside | {ip})
        page[found.entry + REGIONS] = self.translate(cpu, found.entry, special)

    def translate(self, cpu: Processor, ip: int, careful: Special = ORDINARY) -> Translated | None:
        """Translate the region at an address of the present code page."""
        start = cpu.ram_address(cpu.translate(ip, write=False, user=cpu.cpl == 3, fetch=True)) & -PAGE
        executed = cpu.ram.decoded.get(start >> 12) if WARM else None
        if ip in cpu.uncounted.code:
            careful = careful._replace(uncounted=cpu.uncounted.places)
        region, new = translate(bytes(cpu.ram.data[start : start + PAGE]), ip, careful, executed)
        self.regions += new
        if region is not None:
            for offset, raw in region.ranges:
                cpu.ram.mark_code(start >> 12, offset, len(raw))
        return region
