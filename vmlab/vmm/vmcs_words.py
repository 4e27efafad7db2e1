"""What the fields of a VMCS say, in words: controls, access rights, events, and an exit's qualification.

Read more: Intel SDM vol. 3, table 24-2 (access rights), 24-15 (interruption information), 27-1 to 27-7 (exit qualification).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import DB, PF, vector_name
from vmlab.isa.x86.registers import GENERAL_NAMES
from vmlab.machine.guest_exit import EXTERNAL, TYPE_SHIFT, VALID, WITH_CODE
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.guest_state import ACTIVE, BIG, GRANULAR, HALTED, LONG, UNUSABLE
from vmlab.machine.vmx.intercepts import IO_IMMEDIATE, IO_IN, IO_REPEATED, IO_STRING
from vmlab.machine.vmx.names import BITS, EVENT_TYPES, INSTRUCTION_ERRORS, REASONS
from vmlab.machine.vmx.reasons import ENTRY_FAILURE, BasicReason
from vmlab.machine.walk_faults import FETCH, FINAL, GRANTED_SHIFT, LINEAR_VALID, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Fields = Mapping[int, int]

__all__ = [
    "describe_event",
    "describe_field",
    "describe_qualification",
    "describe_reason",
    "describe_rights",
    "set_bits",
]

REASON = 0xFFFF
ALL_ONES = (1 << 64) - 1
CODE, CONFORMING_OR_DOWN, WRITABLE_OR_READABLE, ACCESSED, SEGMENT = 8, 4, 2, 1, 0x10
SYSTEM_TYPES = {2: "LDT", 3: "busy 16-bit TSS", 11: "busy TSS"}


def set_bits(value: int, names: Mapping[str, int]) -> str:
    """Name the bits that are set, from the lowest on."""
    return " ".join(name for name, bit in sorted(names.items(), key=lambda each: each[1]) if value & bit)


def describe_rights(rights: int) -> str:
    """Say what access rights say (table 24-2).

    >>> describe_rights(0xC09B), describe_rights(0x10000)
    ('type 11: code, readable, accessed; DPL 0; P D G', 'unusable')
    """
    if rights & UNUSABLE:
        return "unusable"
    kind = rights & 0xF
    if not rights & SEGMENT:
        words = [SYSTEM_TYPES.get(kind, "of the system")]
    elif kind & CODE:
        words = [
            "code",
            *(["conforming"] if kind & CONFORMING_OR_DOWN else []),
            *(["readable"] if kind & WRITABLE_OR_READABLE else []),
        ]
    else:
        words = [
            "data",
            *(["expand-down"] if kind & CONFORMING_OR_DOWN else []),
            *(["writable"] if kind & WRITABLE_OR_READABLE else []),
        ]
    if rights & SEGMENT and kind & ACCESSED:
        words.append("accessed")
    flags = set_bits(rights, {"P": 1 << 7, "L": LONG, "D": BIG, "G": GRANULAR})
    return f"type {kind}: {', '.join(words)}; DPL {rights >> 5 & 3}; {flags}".rstrip("; ")


def describe_event(information: int) -> str:
    """Say what an interruption information says (table 24-15).

    >>> describe_event(0x80000B0E)
    'hardware exception #PF, with an error code'
    """
    if not information & VALID:
        return "none"
    kind, vector = information >> TYPE_SHIFT & 7, information & 0xFF
    name = f"{vector:#x}" if kind in (EXTERNAL, 4) else vector_name(vector)
    what = EVENT_TYPES[kind]
    return (what if what == name else f"{what} {name}") + (", with an error code" if information & WITH_CODE else "")


def describe_reason(reason: int) -> str:
    """Say what an exit reason says.

    >>> describe_reason(48), describe_reason(1 << 31 | 33)
    ('EPT violation (48)', 'VM-entry failure due to invalid guest state (33)')
    """
    basic = reason & REASON
    return f"{dict(REASONS).get(basic, 'unknown')} ({basic})"  # type: ignore[call-overload]  # any number


# -- exit qualifications -----------------------------------------------------------------------------------------------------


def _control_access(q: int, _: Fields) -> str:
    number, general = q & 0xF, GENERAL_NAMES[64][q >> 8 & 0xF]
    return (f"MOV CR{number}, {general}", f"MOV {general}, CR{number}", "CLTS", "LMSW")[q >> 4 & 3]


def _debug_access(q: int, _: Fields) -> str:
    number, general = q & 7, GENERAL_NAMES[64][q >> 8 & 0xF]
    return f"MOV {general}, DR{number}" if q & 1 << 4 else f"MOV DR{number}, {general}"


def _port(q: int, _: Fields) -> str:
    """Table 27-5."""
    name = ("INS" if q & IO_IN else "OUTS") if q & IO_STRING else ("IN" if q & IO_IN else "OUT")
    repeated, where = "REP " if q & IO_REPEATED else "", "immediate" if q & IO_IMMEDIATE else "in DX"
    return f"{repeated}{name} of {8 * ((q & 7) + 1)} bits, port {q >> 16 & 0xFFFF:#x} ({where})"


def _violation(q: int, fields: Fields) -> str:
    """Table 27-7."""
    kinds = [word for word, bit in (("read", READ), ("write", WRITE), ("fetch", FETCH)) if q & bit]
    granted = "".join(letter for n, letter in enumerate("RWX") if q >> GRANTED_SHIFT >> n & 1)
    of = "the access itself" if q & FINAL else "a table of the guest"
    linear = f"; linear address {fields[f.GUEST_LINEAR_ADDRESS]:#x}, {of}" if q & LINEAR_VALID else ""
    allowed = f"the tables allow {granted}" if granted else "nothing is mapped"
    return f"{' and '.join(kinds)} of guest-physical address {fields[f.GUEST_PHYSICAL_ADDRESS]:#x}: {allowed}{linear}"


def _exception(q: int, fields: Fields) -> str:
    information = fields[f.EXIT_INTERRUPTION]
    code = f" {fields[f.EXIT_ERROR_CODE]:#x}" if information & WITH_CODE else ""
    more = {PF: f"; linear address {q:#x}", DB: f"; causes {q:#x}, as in DR6"}.get(information & 0xFF, "")
    return f"{describe_event(information)}{code}{more}"


def _interrupt(_: int, fields: Fields) -> str:
    return describe_event(fields[f.EXIT_INTERRUPTION]) if fields[f.EXIT_INTERRUPTION] & VALID else ""


def _apic(q: int, _: Fields) -> str:
    kinds = ("read", "write", "fetch", "access in the delivery of an event")
    return f"{kinds[min(q >> 12 & 0xF, 3)]} at offset {q & 0xFFF:#x}"


QUALIFICATIONS: dict[int, Callable[[int, Fields], str]] = {
    BasicReason.EXCEPTION_OR_NMI: _exception,
    BasicReason.EXTERNAL_INTERRUPT: _interrupt,
    BasicReason.INVLPG: lambda q, _: f"linear address {q:#x}",
    BasicReason.CR_ACCESS: _control_access,
    BasicReason.MOV_DR: _debug_access,
    BasicReason.IO_INSTRUCTION: _port,
    BasicReason.ENTRY_FAILURE_GUEST_STATE: lambda q, _: {2: "the PDPTEs cannot be loaded", 4: "VMCS link pointer"}.get(
        q, ""
    ),
    BasicReason.ENTRY_FAILURE_MSR_LOADING: lambda q, _: f"entry {q} of the area",
    BasicReason.APIC_ACCESS: _apic,
    BasicReason.APIC_WRITE: lambda q, _: f"offset {q & 0xFFF:#x}",
    BasicReason.EPT_VIOLATION: _violation,
    BasicReason.EPT_MISCONFIGURATION: lambda _, fields: f"guest-physical address {fields[f.GUEST_PHYSICAL_ADDRESS]:#x}",
}


def describe_qualification(fields: Fields) -> str:
    """Say what the exit qualification of the last VM exit says, with the fields that belong to it."""
    words = QUALIFICATIONS.get(fields[f.EXIT_REASON] & REASON)
    return words(fields[f.EXIT_QUALIFICATION], fields) if words else ""


# -- fields ------------------------------------------------------------------------------------------------------------------


def _pointer(value: int) -> str:
    """Say what an EPT pointer says (table 24-8)."""
    return f"root {value & ~0xFFF:#x}, {(value >> 3 & 7) + 1} levels{', accessed and dirty flags' if value & 1 << 6 else ''}"


WORDS: dict[int, Callable[[int], str]] = {
    **dict.fromkeys(range(f.GUEST_ES_ACCESS, f.GUEST_TR_ACCESS + 2, 2), describe_rights),
    **dict.fromkeys((f.ENTRY_INTERRUPTION, f.EXIT_INTERRUPTION, f.IDT_VECTORING), describe_event),
    f.EXCEPTION_BITMAP: lambda value: " ".join(vector_name(n) for n in range(32) if value >> n & 1),
    f.EPT_POINTER: lambda value: _pointer(value) if value else "",
    f.INSTRUCTION_ERROR: lambda value: INSTRUCTION_ERRORS.get(value, ""),
    f.GUEST_ACTIVITY: lambda value: {ACTIVE: "active", HALTED: "HLT"}.get(value, ""),
    f.VMCS_LINK_POINTER: lambda value: "none" if value == ALL_ONES else "",
}


def describe_field(field: int, fields: Fields) -> str:
    """Say what a field says, by its encoding; empty for a plain number."""
    value = fields[field]
    if field == f.EXIT_REASON:
        failed = "; the VM entry has failed" if value & ENTRY_FAILURE else ""
        return describe_reason(value) + failed
    if field == f.EXIT_QUALIFICATION:
        return describe_qualification(fields)
    if field in BITS:
        return "all bits" if value == ALL_ONES else set_bits(value, BITS[field])
    return WORDS[field](value) if field in WORDS else ""
