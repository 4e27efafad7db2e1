"""What a hypervisor's memory virtualization did, in a sentence each: shadow and nested page tables; and what devices did to memory."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.machine.trace import Dma, NestedFill, ShadowFill, ShadowRoot, ShadowSync, ShadowUnsync, ShadowWrite

__all__ = ["MEMORY_SENTENCES"]


def _shadow(moment: object, event: ShadowFill, events: object) -> str:
    right = "writable" if event.writable else "read-only"
    return (
        f"The VMM fills the shadow page table: guest-virtual {event.gva:#x} → guest-physical {event.gpa:#x} → "
        f"host-physical {event.hpa:#x}, {right}. The guest never learns of it."
    )


def _unsync(moment: object, event: ShadowUnsync, events: object) -> str:
    return (
        f"From now on the guest writes to its page table at {event.table:#x} unseen: the shadow of it is out of step until "
        "the guest flushes its TLB."
    )


def _sync(moment: object, event: ShadowSync, events: object) -> str:
    tables = "a page table" if event.tables == 1 else f"{event.tables} page tables"
    return (
        f"The TLB flush brings the shadow of {tables} in step: {event.kept} entries stay, {event.changed} change, "
        f"{event.cleared} go."
    )


def _traced(moment: object, event: ShadowWrite, events: object) -> str:
    return (
        f"The write went to entry {event.slot} of the guest's page table at {event.table:#x}, and its shadow follows: "
        f"{event.changed} entries change, {event.cleared} go."
    )


def _root(moment: object, event: ShadowRoot, events: object) -> str:
    kept = "it was kept" if event.known else "it is new, and still empty"
    return f"The VMM takes the shadow root at host-physical {event.root:#x} for CR3 {event.cr3:#x}: {kept}."


def _nested(moment: object, event: NestedFill, events: object) -> str:
    return (
        f"The VMM fills the nested page table: guest-physical {event.gpa:#x} → host-physical {event.hpa:#x}, a page of "
        f"{event.size >> 10:,} KiB. The guest never learns of it."
    )


def _dma(moment: object, event: Dma, events: object) -> str:
    way = "writes" if event.write else "reads"
    if event.done == event.size:
        return f"Meanwhile {event.device} {way} {event.size} bytes of memory at {event.address:#x} by itself (DMA)."
    return (
        f"Meanwhile {event.device} {way} memory at {event.address:#x} by itself (DMA): {event.done} of {event.size} bytes, "
        "since nothing answers there, and it stops with an error."
    )


MEMORY_SENTENCES: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "shadow": _shadow,
        "unsync": _unsync,
        "sync": _sync,
        "traced": _traced,
        "root": _root,
        "nested": _nested,
        "dma": _dma,
    }
)
