"""Events of virtual memory: what a hypervisor did to shadow and nested page tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vmlab.machine.event import Event

__all__ = ["NestedFill", "ShadowFill", "ShadowRoot", "ShadowSync", "ShadowUnsync", "ShadowWrite"]


@dataclass(frozen=True, slots=True)
class ShadowFill(Event):
    """A hypervisor filled an entry of a shadow page table: guest-virtual, guest-physical, host-physical address."""

    kind: ClassVar[str] = "shadow"
    gva: int
    gpa: int
    hpa: int
    writable: bool


@dataclass(frozen=True, slots=True)
class ShadowUnsync(Event):
    """A hypervisor lets a guest write to a page table unseen; its shadow is out of step until a flush."""

    kind: ClassVar[str] = "unsync"
    table: int


@dataclass(frozen=True, slots=True)
class ShadowSync(Event):
    """A hypervisor brought the shadow of `tables` page tables in step, of whose entries so many were kept, and so on."""

    kind: ClassVar[str] = "sync"
    tables: int
    kept: int
    changed: int
    cleared: int


@dataclass(frozen=True, slots=True)
class ShadowWrite(Event):
    """A write to a page table that is traced: entries of its shadow were changed or cleared with it.

    Attributes
    ----------
    table : int
        Guest-physical address of the table.
    slot : int
        The first entry that was written.
    changed, cleared : int
        Entries of the shadow.
    """

    kind: ClassVar[str] = "traced"
    table: int
    slot: int
    changed: int
    cleared: int


@dataclass(frozen=True, slots=True)
class ShadowRoot(Event):
    """A hypervisor took another root of shadow page tables for the guest.

    Attributes
    ----------
    cr3 : int
        The guest's.
    root : int
        Host-physical.
    known : bool
        True where it had kept the root since the guest used it last.
    """

    kind: ClassVar[str] = "root"
    cr3: int
    root: int
    known: bool


@dataclass(frozen=True, slots=True)
class NestedFill(Event):
    """A hypervisor filled an entry of nested page tables: guest-physical, host-physical address, bytes of the page."""

    kind: ClassVar[str] = "nested"
    gpa: int
    hpa: int
    size: int
