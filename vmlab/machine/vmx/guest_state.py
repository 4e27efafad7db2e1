"""The guest-state area of a VMCS: which field holds which part of a processor's state (Intel SDM vol. 3, 24.4).

    access rights:  [ unusable 16 | G 15 | D/B 14 | L 13 | AVL 12 | P 7 | DPL 6:5 | S 4 | type 3:0 ]

A VM entry loads a processor from it and a VM exit stores it there; a hypervisor reads and writes the same fields for a
VCPU, which is such a state, too. CR0, CR3, CR4, IA32_EFER and what blocks events are left to the two, for they differ.
"""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.registers import ESP, MSR_SYSENTER_CS, MSR_SYSENTER_EIP, MSR_SYSENTER_ESP
from vmlab.machine.cpu_state import CpuState
from vmlab.machine.vmx import fields as f

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["UNUSABLE", "Key", "Stored", "fit_width", "load_segments", "load_state", "store_state", "swap_segments"]

UNUSABLE, GRANULAR, BIG, LONG = 1 << 16, 1 << 15, 1 << 14, 1 << 13
STI_BLOCKING, MOV_SS_BLOCKING, NMI_BLOCKING = 1, 2, 8  # interruptibility state (table 24-3)
ACTIVE, HALTED = 0, 1  # activity state
DOUBLEWORD, QUADWORD = (1 << 32) - 1, (1 << 64) - 1
SYSENTER = (
    (MSR_SYSENTER_CS, f.GUEST_SYSENTER_CS),
    (MSR_SYSENTER_ESP, f.GUEST_SYSENTER_ESP),
    (MSR_SYSENTER_EIP, f.GUEST_SYSENTER_EIP),
)


_SEGMENTS = tuple(
    field
    for at in range(0, 16, 2)
    for field in (f.GUEST_ES + at, f.GUEST_ES_BASE + at, f.GUEST_ES_LIMIT + at, f.GUEST_ES_ACCESS + at)
)
"""Selector, base, limit and access rights of ES to GS, LDTR and TR."""
_segments = itemgetter(*_SEGMENTS)
_PDPTES = f.GUEST_PDPTE0, f.GUEST_PDPTE1, f.GUEST_PDPTE2, f.GUEST_PDPTE3
_pdptes = itemgetter(*_PDPTES)
_key = attrgetter("selector", "base", "limit", "access", "big", "long")
Key = tuple[int, int, int, int, bool, bool]
"""A segment register as `SegmentRegister.key` has it."""


class Stored(NamedTuple):
    """Segment registers, LDTR and TR as `store_state` found them, and what they are in the fields."""

    keys: list[Key]
    parts: tuple[int, ...]


def _parts(key: Key) -> tuple[int, int, int, int]:
    """Return selector, base, limit and access rights of a segment register, as a VMCS has them."""
    selector, base, limit, access, big, long = key
    rights = (access or UNUSABLE) | (LONG if long else 0) | (BIG if big else 0)
    return selector, base, limit, rights | (GRANULAR if limit > 0xFFFFF else 0)


def _keys(state: CpuState) -> list[Key]:
    return [*map(_key, state.segments), _key(state.ldtr), _key(state.tr)]


def load_segments(state: CpuState, keys: list[Key]) -> None:
    """Load segment registers, LDTR and TR, where they are others."""
    if keys != _keys(state):
        for register, (*parts, big, long) in zip((*state.segments, state.ldtr, state.tr), keys, strict=True):
            register.become(*parts, big=big, long=long)


def swap_segments(cpu: Processor) -> None:
    """Use the other set of segment registers; whatever it holds, all of it is loaded next, and `fit_width` called."""
    vmx, state = cpu.vmx, CpuState() if cpu.vmx.aside is None else None
    other = vmx.aside if state is None else (state.segments, state.ldtr, state.tr, False)
    assert other is not None
    vmx.aside = cpu.segments, cpu.ldtr, cpu.tr, cpu.code_64
    cpu.segments, cpu.ldtr, cpu.tr, cpu.code_64 = other


def fit_width(cpu: Processor) -> None:
    """Let addresses and general registers be as wide as the code for which the segment registers are set up."""
    cpu.address_mask = QUADWORD if cpu.code_64 else DOUBLEWORD
    if not cpu.code_64:
        cpu.registers[:8] = [register & DOUBLEWORD for register in cpu.registers[:8]]
        cpu.ip &= DOUBLEWORD


def store_state(state: CpuState, fields: dict[int, int], before: Stored | None = None) -> Stored:
    """Write a processor's state into the fields; return how, which makes it quicker the next time as what was `before`."""
    keys = _keys(state)
    if before is None or keys != before.keys:
        before = Stored(keys, tuple(part for key in keys for part in _parts(key)))
    fields.update(zip(_SEGMENTS, before.parts, strict=True))
    fields[f.GUEST_GDTR_BASE], fields[f.GUEST_GDTR_LIMIT] = state.gdtr_base, state.gdtr_limit
    fields[f.GUEST_IDTR_BASE], fields[f.GUEST_IDTR_LIMIT] = state.idtr_base, state.idtr_limit
    fields[f.GUEST_RIP], fields[f.GUEST_RSP], fields[f.GUEST_RFLAGS] = state.ip, state.registers[ESP], state.flags
    fields[f.GUEST_DR7] = state.debug[7]
    for number, field in SYSENTER:
        fields[field] = state.msrs.get(number, 0)
    fields.update(zip(_PDPTES, state.pdptes, strict=True))
    return before


def load_state(state: CpuState, fields: dict[int, int], before: Stored | None = None) -> None:
    """Load a processor's state from the fields; `before` tells what its segment registers hold, where they have not changed."""
    parts = _segments(fields)
    if before is None or parts != before.parts:
        each = iter(parts)
        registers = (*state.segments, state.ldtr, state.tr)
        for register, selector, base, limit, rights in zip(registers, each, each, each, each, strict=True):
            access = 0 if rights & UNUSABLE else rights & 0xFF
            register.become(selector, base, limit, access, big=bool(rights & BIG), long=bool(rights & LONG))
    state.gdtr_base, state.gdtr_limit = fields[f.GUEST_GDTR_BASE], fields[f.GUEST_GDTR_LIMIT]
    state.idtr_base, state.idtr_limit = fields[f.GUEST_IDTR_BASE], fields[f.GUEST_IDTR_LIMIT]
    state.ip, state.registers[ESP], state.flags = fields[f.GUEST_RIP], fields[f.GUEST_RSP], fields[f.GUEST_RFLAGS]
    state.debug[7] = fields[f.GUEST_DR7]
    for number, field in SYSENTER:
        if fields[field] or number in state.msrs:
            state.msrs[number] = fields[field]
    state.pdptes[:] = _pdptes(fields)
