"""Parts of a running system: what a layer graph has for nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["LAYERS", "Part"]

LAYERS = (
    "processes", "containers", "guest kernel", "runtime", "guest vmm", "vmm", "host processes", "host kernel", "firmware",
    "hardware",
)  # fmt: skip
"""Layers, from the top one down; a system has some of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a running system, as it is now.

    Attributes
    ----------
    name : str
        Its name in the graph, as `"guest0/kernel"`.
    label : str
        For display.
    layer : str
        One of `LAYERS`.
    privilege : str
        The mode or ring in which it runs; empty for what runs nothing.
    runs_on : tuple of str
        Names of the parts below that carry it.
    traps_to : tuple of str
        Names of the parts that get control where it is interrupted, faults, or asks for something.
    assigned_to : str or None
        The part that alone uses it, for devices, zones of memory and dedicated processors.
    state, counters : dict
        What there is to say of it.
    """

    name: str
    label: str
    layer: str
    privilege: str = ""
    runs_on: tuple[str, ...] = ()
    traps_to: tuple[str, ...] = ()
    assigned_to: str | None = None
    state: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
