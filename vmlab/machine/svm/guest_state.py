"""The state save area of a VMCB: which place holds which part of a processor's state (AMD APM vol. 2, table B-2).

    segment register, 16 bytes:  selector 16 | attributes 16 | limit 32 | base 64
    attributes:  [ G 11 | D/B 10 | L 9 | AVL 8 | P 7 | DPL 6:5 | S 4 | type 3:0 ]

VMRUN loads a processor from it and #VMEXIT stores it there, but for what VMLOAD and VMSAVE do: FS, GS, TR, LDTR, and the MSRs
of system calls. A hypervisor reads and writes the same places for a VCPU, which is such a state, too. CR0, CR3, CR4 and
EFER are left to the two, for they differ.

Simplified: the privilege level follows CS, and the CPL field is only written.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import (
    CS,
    DS,
    EAX,
    ES,
    ESP,
    FIXED,
    FS,
    GS,
    MSR_CSTAR,
    MSR_FMASK,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_STAR,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
    SS,
)  # fmt: skip

if TYPE_CHECKING:
    from vmlab.isa.x86.descriptors import SegmentRegister
    from vmlab.machine.cpu_state import CpuState

__all__ = [
    "AREA",
    "AREA_BYTES",
    "load_guest",
    "load_more",
    "read_checked",
    "read_system",
    "store_guest",
    "store_more",
    "write_system",
]

AREA, AREA_BYTES = 0x400, 0x270
GRANULAR, BIG, LONG = 1 << 11, 1 << 10, 1 << 9

# Runs of fields, and where they begin in the area.
SEGMENT, QUAD = Struct("<HHIQ"), Struct("<Q")
FOUR_SEGMENTS = Struct("<HHIQHHIQHHIQHHIQ")
DATA_SEGMENTS, CS_PLACE, FS_PLACE, GS_PLACE, GDTR, LDTR, IDTR, TR = 0x00, 0x10, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90
CPL, EFER = 0xCB, 0xD0
SYSTEM, CR4 = Struct("<QQQ"), 0x148  # CR4 CR3 CR0
CURRENT, DR7 = Struct("<QQQQ"), 0x160  # DR7 DR6 RFLAGS RIP
RSP, RAX, CR2 = 0x1D8, 0x1F8, 0x240
MSRS, STAR = Struct("<8Q"), 0x200
MSR_NUMBERS = (
    MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK, MSR_KERNEL_GS_BASE, MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
)  # fmt: skip
FLAGS = 0x3F_7FD7
ORDER = (ES, CS, SS, DS)


def _parts(register: SegmentRegister) -> tuple[int, int, int, int]:
    """Return a segment register as a VMCB has it: selector, attributes, limit, base."""
    rights = register.access | register.long * LONG | register.big * BIG
    limit = register.limit
    return register.selector, rights | (GRANULAR if limit > 0xFFFFF else 0), limit, register.base


def _set(register: SegmentRegister, selector: int, rights: int, limit: int, base: int) -> None:
    register.become(selector, base, limit, rights & 0xFF, big=bool(rights & BIG), long=bool(rights & LONG))


def read_system(area: bytes | bytearray) -> tuple[int, int, int, int]:
    """Return CR0, CR3, CR4 and EFER."""
    cr4, cr3, cr0 = SYSTEM.unpack_from(area, CR4)
    (efer,) = QUAD.unpack_from(area, EFER)
    return cr0, cr3, cr4, efer


def read_checked(area: bytes | bytearray) -> tuple[int, int, int]:
    """Return what else VMRUN checks: the attributes of CS, DR6 and DR7."""
    dr7, dr6, _, _ = CURRENT.unpack_from(area, DR7)
    return SEGMENT.unpack_from(area, CS_PLACE)[1], dr6, dr7


def write_system(area: bytearray, cr0: int, cr3: int, cr4: int, efer: int) -> None:
    """Write them."""
    SYSTEM.pack_into(area, CR4, cr4, cr3, cr0)
    QUAD.pack_into(area, EFER, efer)


def load_guest(state: CpuState, area: bytes | bytearray) -> None:
    """Load what VMRUN loads, but for the control registers."""
    parts = FOUR_SEGMENTS.unpack_from(area, DATA_SEGMENTS)
    for n, index in enumerate(ORDER):
        _set(state.segments[index], *parts[4 * n : 4 * n + 4])
    _, _, limit, state.gdtr_base = SEGMENT.unpack_from(area, GDTR)
    state.gdtr_limit = limit & 0xFFFF
    _, _, limit, state.idtr_base = SEGMENT.unpack_from(area, IDTR)
    state.idtr_limit = limit & 0xFFFF
    state.debug[7], state.debug[6], flags, state.ip = CURRENT.unpack_from(area, DR7)
    state.flags = flags & FLAGS | FIXED
    (state.registers[ESP],) = QUAD.unpack_from(area, RSP)
    (state.registers[EAX],) = QUAD.unpack_from(area, RAX)
    (state.cr2,) = QUAD.unpack_from(area, CR2)


def store_guest(state: CpuState, area: bytearray) -> None:
    """Store it."""
    segments = state.segments
    FOUR_SEGMENTS.pack_into(area, DATA_SEGMENTS, *[part for index in ORDER for part in _parts(segments[index])])
    SEGMENT.pack_into(area, GDTR, 0, 0, state.gdtr_limit, state.gdtr_base)
    SEGMENT.pack_into(area, IDTR, 0, 0, state.idtr_limit, state.idtr_base)
    area[CPL] = state.cpl
    CURRENT.pack_into(area, DR7, state.debug[7], state.debug[6], state.flags, state.ip)
    QUAD.pack_into(area, RSP, state.registers[ESP])
    QUAD.pack_into(area, RAX, state.registers[EAX])
    QUAD.pack_into(area, CR2, state.cr2)


def load_more(state: CpuState, area: bytes | bytearray) -> None:
    """Load what VMLOAD loads."""
    _set(state.segments[FS], *SEGMENT.unpack_from(area, FS_PLACE))
    _set(state.segments[GS], *SEGMENT.unpack_from(area, GS_PLACE))
    _set(state.ldtr, *SEGMENT.unpack_from(area, LDTR))
    _set(state.tr, *SEGMENT.unpack_from(area, TR))
    for number, value in zip(MSR_NUMBERS, MSRS.unpack_from(area, STAR), strict=True):
        if value or number in state.msrs:
            state.msrs[number] = value


def store_more(state: CpuState, area: bytearray) -> None:
    """Store it."""
    for place, register in (
        (FS_PLACE, state.segments[FS]), (GS_PLACE, state.segments[GS]), (LDTR, state.ldtr), (TR, state.tr),
    ):  # fmt: skip
        SEGMENT.pack_into(area, place, *_parts(register))
    msrs = state.msrs
    MSRS.pack_into(area, STAR, *[msrs.get(number, 0) for number in MSR_NUMBERS])
