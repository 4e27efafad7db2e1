"""Causes of cycles in a few groups, which every technique has: what a comparison of techniques is about.

    direct execution    what the guest's own instructions cost: where the guest runs itself, and in translation
    trapping            getting out of the guest and back: traps, VM exits, hypercalls, call-outs, and the handlers' beginnings
    emulation           the hypervisor does what the guest could not: instructions, events that it delivers
    translation         making translated code
    memory              keeping page tables of its own, or checking the guest's
    page walks          the processor's, whatever tables it walks
    world switches      from one VCPU to another

Simplified: natively a trap is what the guest's own kernel takes; under a hypervisor the processor counts both.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["GROUPS", "group_cycles"]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "direct execution": ("instructions", "translated code", "system calls", "port accesses", "control registers"),
    "trapping": ("traps", "VM exits and entries", "handling of exits", "hypercalls", "call-outs"),
    "emulation": ("emulation", "interpretation", "event delivery"),
    "translation": ("translation",),
    "memory": ("shadow paging", "nested paging", "direct paging"),
    "page walks": ("page walks",),
    "world switches": ("world switches",),
}
"""Causes, as in `Run.cycles_by_cause`, by group."""


def group_cycles(by_cause: Mapping[str, int]) -> dict[str, int]:
    """Return cycles by group; each cause is in one.

    Examples
    --------
    >>> group_cycles({"instructions": 5, "traps": 7, "translated code": 2})["direct execution"]
    7
    """
    groups = {name: sum(by_cause.get(cause, 0) for cause in causes) for name, causes in GROUPS.items()}
    assert sum(groups.values()) == sum(by_cause.values()), "a cause of cycles is in no group, or in two"
    return groups
