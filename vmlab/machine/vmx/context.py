"""What a processor has cached for a virtual-processor identifier (VPID) while another runs (Intel SDM vol. 3, 28.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmlab.machine.nested_walk import AddressSpace
    from vmlab.machine.page_maps import Maps
    from vmlab.machine.tlb import Tlb

__all__ = ["Context"]


@dataclass(slots=True)
class Context:
    """What is cached for a VPID while another runs.

    Attributes
    ----------
    space : AddressSpace or None
        The extended page tables that it was found through.
    mode : tuple of int
        CR0, CR3, CR4 and IA32_EFER at the last VM exit.
    tlb : Tlb
        Its entries.
    maps : tuple
        The dictionaries over the TLB.
    derived : tuple
        What the processor has derived from the mode.
    """

    space: AddressSpace | None
    mode: tuple[int, int, int, int]
    tlb: Tlb
    maps: tuple[Maps, Maps]
    derived: tuple[Any, ...] = ()
