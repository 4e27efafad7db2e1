"""Instructions of paging beside INVLPG: INVPCID, and STAC and CLAC for SMAP (SDM vol. 2).

Each is undefined (#UD) on a processor without its feature. Those of absent features are in `absent`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import undefined
from vmlab.isa.x86.operands import MASKS, Memory
from vmlab.isa.x86.registers import AC
from vmlab.isa.x86.semantics.control_registers import require_ring_0
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


@semantic("invpcid")
def invpcid(cpu: Processor, i: Instruction) -> None:
    """INVPCID: by a type in a register, and a PCID and a linear address in memory."""
    if not cpu.has("invpcid"):
        raise undefined()
    require_ring_0(cpu)
    kind, memory = i.operands
    assert isinstance(memory, Memory)
    start, mask = memory.offset(cpu), MASKS[i.address_size]
    cpu.check(memory.segment, start, 16, write=False)
    pcid, linear = cpu.read(memory.segment, start, 8), cpu.read(memory.segment, start + 8 & mask, 8)
    cpu.invalidate_pcid(kind.read(cpu), pcid, linear)


def _require_smap(cpu: Processor) -> None:
    """Raise #UD without SMAP, and outside ring 0."""
    if not cpu.has("smap") or cpu.cpl:
        raise undefined()


@semantic("stac")
def stac(cpu: Processor, i: Instruction) -> None:
    """STAC: from now on the supervisor may touch users' pages."""
    _require_smap(cpu)
    cpu.flags |= AC


@semantic("clac")
def clac(cpu: Processor, i: Instruction) -> None:
    """CLAC: from now on it may not."""
    _require_smap(cpu)
    cpu.flags &= ~AC
