"""What a processor has cached for a virtual-processor identifier while another runs.

Intel's VPID (SDM vol. 3, 28.4), AMD's ASID (APM vol. 2, 15.16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.machine.state import QUAD, check_state
from vmlab.machine.tlb import Tlb

if TYPE_CHECKING:
    from vmlab.machine.nested_walk import AddressSpace
    from vmlab.machine.page_maps import Maps
    from vmlab.machine.processor import Processor

__all__ = ["Context", "load_contexts", "save_contexts"]


@dataclass(slots=True)
class Context:
    """What is cached for a VPID while another runs.

    Attributes
    ----------
    space : AddressSpace or None
        The nested page tables that it was found through.
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


def save_contexts(contexts: dict[int, Context]) -> dict[int, dict[str, Any]]:
    """Save the entries; the dictionaries over them fill again."""
    return {
        number: {"version": 1, "root": None if each.space is None else each.space.root, "tlb": each.tlb.save()}
        for number, each in contexts.items()
    }


def load_contexts(states: dict[int, dict[str, Any]], cpu: Processor) -> dict[int, Context]:
    """Load what `save_contexts` gave; StateError where it is damaged."""
    found = {}
    for number, state in states.items():
        check_state(state, "VPID", {"root": (QUAD, type(None)), "tlb": dict})
        tlb = Tlb(cpu.model.tlb)
        tlb.load(state["tlb"])
        tlb.counts = cpu.tlb.counts
        space = None if state["root"] is None else cpu.extended_tables(state["root"])
        found[number] = Context(space, (0, 0, 0, 0), tlb, (({}, {}, {}), ({}, {}, {})))
    return found
