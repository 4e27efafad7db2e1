"""The guest-state area of a VMCS: which field holds which part of a processor's state (Intel SDM vol. 3, 24.4).

    access rights:  [ unusable 16 | G 15 | D/B 14 | L 13 | AVL 12 | P 7 | DPL 6:5 | S 4 | type 3:0 ]

A VM entry loads a processor from it and a VM exit stores it there; a hypervisor reads and writes the same fields for a
VCPU, which is such a state, too. CR0, CR3, CR4, IA32_EFER and what blocks events are left to the two, for they differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import ESP, MSR_SYSENTER_CS, MSR_SYSENTER_EIP, MSR_SYSENTER_ESP
from vmlab.machine.vmx import fields as f

if TYPE_CHECKING:
    from vmlab.isa.x86.descriptors import SegmentRegister
    from vmlab.machine.cpu_state import CpuState

__all__ = ["UNUSABLE", "load_state", "store_state"]

UNUSABLE, GRANULAR, BIG, LONG = 1 << 16, 1 << 15, 1 << 14, 1 << 13
STI_BLOCKING, MOV_SS_BLOCKING, NMI_BLOCKING = 1, 2, 8  # interruptibility state (table 24-3)
ACTIVE, HALTED = 0, 1  # activity state
SYSENTER = (
    (MSR_SYSENTER_CS, f.GUEST_SYSENTER_CS),
    (MSR_SYSENTER_ESP, f.GUEST_SYSENTER_ESP),
    (MSR_SYSENTER_EIP, f.GUEST_SYSENTER_EIP),
)


def access_rights(register: SegmentRegister) -> int:
    """Return the access rights of a segment register, as a VMCS has them."""
    rights = register.access | register.long * LONG | register.big * BIG
    return rights | (GRANULAR if register.limit > 0xFFFFF else 0) | (0 if register.access else UNUSABLE)


def store_state(state: CpuState, fields: dict[int, int]) -> None:
    """Write a processor's state into the fields."""
    for n, register in enumerate((*state.segments, state.ldtr, state.tr)):
        fields[f.GUEST_ES + 2 * n] = register.selector
        fields[f.GUEST_ES_BASE + 2 * n] = register.base
        fields[f.GUEST_ES_LIMIT + 2 * n] = register.limit
        fields[f.GUEST_ES_ACCESS + 2 * n] = access_rights(register)
    fields[f.GUEST_GDTR_BASE], fields[f.GUEST_GDTR_LIMIT] = state.gdtr_base, state.gdtr_limit
    fields[f.GUEST_IDTR_BASE], fields[f.GUEST_IDTR_LIMIT] = state.idtr_base, state.idtr_limit
    fields[f.GUEST_RIP], fields[f.GUEST_RSP], fields[f.GUEST_RFLAGS] = state.ip, state.registers[ESP], state.flags
    fields[f.GUEST_DR7] = state.debug[7]
    for number, field in SYSENTER:
        fields[field] = state.msrs.get(number, 0)
    for n in range(4):
        fields[f.GUEST_PDPTE0 + 2 * n] = state.pdptes[n]


def load_state(state: CpuState, fields: dict[int, int]) -> None:
    """Load a processor's state from the fields."""
    for n, register in enumerate((*state.segments, state.ldtr, state.tr)):
        at = 2 * n
        rights = fields[f.GUEST_ES_ACCESS + at]
        selector, base, limit = fields[f.GUEST_ES + at], fields[f.GUEST_ES_BASE + at], fields[f.GUEST_ES_LIMIT + at]
        access = 0 if rights & UNUSABLE else rights & 0xFF
        register.become(selector, base, limit, access, big=bool(rights & BIG), long=bool(rights & LONG))
    state.gdtr_base, state.gdtr_limit = fields[f.GUEST_GDTR_BASE], fields[f.GUEST_GDTR_LIMIT]
    state.idtr_base, state.idtr_limit = fields[f.GUEST_IDTR_BASE], fields[f.GUEST_IDTR_LIMIT]
    state.ip, state.registers[ESP], state.flags = fields[f.GUEST_RIP], fields[f.GUEST_RSP], fields[f.GUEST_RFLAGS]
    state.debug[7] = fields[f.GUEST_DR7]
    for number, field in SYSENTER:
        if fields[field] or number in state.msrs:
            state.msrs[number] = fields[field]
    state.pdptes[:] = [fields[f.GUEST_PDPTE0 + 2 * n] for n in range(4)]
