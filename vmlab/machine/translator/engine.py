"""The engine: runs a processor by translated regions where it can, by the interpreter where it must.

A region is kept with the page of memory that its code came from, as decoded instructions are, so that a write to the
page drops it. An address is translated after it has been passed a number of times: compiling costs as much as
thousands of interpreted instructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import DS, SS
from vmlab.machine.translator.compiler import Translated, translate

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["Engine"]

WARM = 24
"""Passes of an address before it is translated."""

LONGEST = 15
"""Bytes of the longest instruction."""

REGION = 0x10000
"""Added to an EIP, the key of a region among the decoded instructions of a page, whose keys are smaller."""


class Engine:
    """Executes like `Processor.run`, faster.

    Attributes
    ----------
    regions : int
        Regions translated so far.
    """

    def __init__(self) -> None:
        self.regions = 0

    def run(self, cpu: Processor, until: int) -> None:
        """Execute until `retired` reaches `until`, attention is needed, or a fault is raised: as `Processor.run`."""
        if cpu.attention:
            return
        if cpu.fetch_bits != 32 or not self.flat(cpu):
            cpu.run(until)
            return
        cpu.horizon = until
        code = cpu.code_pages
        execute = cpu.execute
        entered = True  # by a transfer of control, or behind something that is not translated: a region may start
        while cpu.retired < cpu.horizon:
            ip = cpu.ip
            page = code.get(ip >> 12)
            found: Translated | int | None = 0
            if page is not None:
                found = page.get(ip + REGION, 0)
                if type(found) is Translated:
                    retired = cpu.retired
                    if found.length <= cpu.horizon - retired:
                        found.run(cpu, cpu.horizon - retired)
                        entered = True
                        if cpu.retired != retired:
                            continue
                elif entered and found is not None:
                    page[ip + REGION] = found + 1 if found < WARM else self.translate(cpu, ip)
            execute()
            entered = not 0 < cpu.ip - ip <= LONGEST or type(found) is Translated or found is None

    @staticmethod
    def flat(cpu: Processor) -> bool:
        """Say whether offsets in DS and SS are linear addresses."""
        data, stack = cpu.segments[DS], cpu.segments[SS]
        return data.flat_write and stack.flat_write and stack.big

    def translate(self, cpu: Processor, ip: int) -> Translated | None:
        """Translate the region at an address of the present code page."""
        physical = cpu.ram_address(cpu.translate(ip, write=False, user=cpu.cpl == 3))
        start = physical & -0x1000
        region = translate(bytes(cpu.ram.data[start : start + 0x1000]), ip)
        self.regions += region is not None
        return region
