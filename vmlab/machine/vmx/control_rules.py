"""What a VM entry checks of the VMX controls (Intel SDM vol. 3, 26.2.1): what is broken there is VM-instruction error 7.

Simplified: the TPR threshold is not compared with the virtual TPR where APIC accesses are not virtualized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import NMI, WITH_ERROR_CODE
from vmlab.machine import guest_exit as e
from vmlab.machine.entry_rules import EntryRule
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.vmx.attempt import Attempt

__all__ = ["CONTROL_RULES", "bad_ept_pointer"]

EXCEPTIONS = 32
RESERVED_TYPE, MONITOR_TRAP = 1, 0  # a type of event, and the vector of one of type 7
LONGEST = 15
LOWEST_PRIORITIES = 15  # greatest TPR threshold
# EPT pointer:  [ frame | A and D bits 6 | levels - 1 5:3 | memory type 2:0 ]
FOUR_LEVELS, EPT_RESERVED = 3, 0xF80
EXECUTION, EXITS, ENTRIES = "26.2.1.1", "26.2.1.2", "26.2.1.3"

# -- the EPT pointer -------------------------------------------------------------------------------------------------------

POINTER_RULES: tuple[tuple[str, Callable[[CpuModel, int], object]], ...] = (
    ("its memory type (bits 2:0) is 0 or 6", lambda _, pointer: pointer & 7 not in (0, c.WRITE_BACK)),
    ("bits 5:3 are 3: a walk has 4 levels", lambda _, pointer: pointer >> 3 & 7 != FOUR_LEVELS),
    (
        "bit 6 is 0 where the processor has no accessed and dirty flags for EPT",
        lambda model, pointer: pointer & 1 << 6 and not model.has("ept-dirty"),
    ),
    ("the reserved bits 11:7 are 0", lambda _, pointer: pointer & EPT_RESERVED),
    ("no bit is set beyond the physical-address width", lambda model, pointer: pointer >> model.physical_bits),
)


def bad_ept_pointer(model: CpuModel, pointer: int) -> bool:
    """Say whether an EPT pointer is wrong."""
    return any(is_wrong(model, pointer) for _, is_wrong in POINTER_RULES)


def _pointer_rule(text: str, is_wrong: Callable[[CpuModel, int], object]) -> EntryRule:
    return EntryRule(
        EXECUTION,
        f"with EPT, of the EPT pointer: {text}",
        lambda a: a.secondary & c.ENABLE_EPT and is_wrong(a.model, a[f.EPT_POINTER]),
    )


# -- the event to inject -----------------------------------------------------------------------------------------------------


def _needs_code(a: Attempt) -> bool:
    """Say whether the event to inject has an error code."""
    vector = a[f.ENTRY_INTERRUPTION] & 0xFF
    return (
        a.kind == e.HARDWARE_EXCEPTION and vector in WITH_ERROR_CODE and (not a.unrestricted or a.protected)
    )  # fmt: skip


def _has_code(a: Attempt) -> bool:
    return a.kind >= 0 and bool(a[f.ENTRY_INTERRUPTION] & e.WITH_CODE)


_EVENT = (
    EntryRule(
        ENTRIES,
        "an event's type (bits 10:8) is not reserved: 0, 2 to 6, and 7 (other event) where the processor has the monitor trap flag",
        lambda a: a.kind == RESERVED_TYPE or (a.kind == e.OTHER_EVENT and not a.model.has("monitor-trap-flag")),
    ),
    EntryRule(
        ENTRIES,
        "an event of type 7 has vector 0: a pending exit of the monitor trap flag",
        lambda a: a.kind == e.OTHER_EVENT and a[f.ENTRY_INTERRUPTION] & 0xFF != MONITOR_TRAP,
    ),
    EntryRule(
        ENTRIES,
        "an NMI has vector 2",
        lambda a: a.kind == e.NMI_TYPE and a[f.ENTRY_INTERRUPTION] & 0xFF != NMI,
    ),
    EntryRule(
        ENTRIES,
        "a hardware exception has a vector of at most 31",
        lambda a: a.kind == e.HARDWARE_EXCEPTION and a[f.ENTRY_INTERRUPTION] & 0xFF >= EXCEPTIONS,
    ),
    EntryRule(
        ENTRIES,
        "deliver error code (bit 11) is 1 exactly for a hardware exception that has one, and not in a guest in real mode",
        lambda a: a.kind >= 0 and _has_code(a) != _needs_code(a),
    ),
    EntryRule(
        ENTRIES,
        "bits 30:12 of the interruption information are 0",
        lambda a: a.kind >= 0 and a[f.ENTRY_INTERRUPTION] & 0x7FFF_F000,
    ),
    EntryRule(
        ENTRIES,
        "of an error code that is delivered, bits 31:16 are 0",
        lambda a: _has_code(a) and a[f.ENTRY_ERROR_CODE] > 0xFFFF,
    ),
    EntryRule(
        ENTRIES,
        "a software interrupt or exception has an instruction length from 1 to 15",
        lambda a: a.kind in e.SOFTWARE_TYPES and not 0 < a[f.ENTRY_INSTRUCTION_LENGTH] <= LONGEST,
    ),
)


# -- all of them -------------------------------------------------------------------------------------------------------------


def _reserved(section: str, name: str, value: Callable[[Attempt], int], capability: int, msr: str) -> EntryRule:
    return EntryRule(
        section,
        f"the reserved bits of the {name} are as {msr} demands and allows",
        lambda a: a.misfit(value(a), capability),
    )


def _area(section: str, name: str, count: int, address: int) -> EntryRule:
    return EntryRule(
        section,
        f"where the {name} count is not 0, the area's address has bits 3:0 clear and is not wider than a physical address",
        lambda a: a[count] and a.misplaced(address, 0xF),
    )


def _place(what: str, wanted: Callable[[Attempt], object], *fields: int) -> EntryRule:
    return EntryRule(
        EXECUTION,
        f"{what} is aligned to 4 KiB and not wider than a physical address",
        lambda a: wanted(a) and any(a.misplaced(field) for field in fields),
    )


CONTROL_RULES: tuple[EntryRule, ...] = (
    _reserved(EXECUTION, "pin-based controls", lambda a: a.pin, c.TRUE_PINBASED, "IA32_VMX_TRUE_PINBASED_CTLS"),
    _reserved(EXECUTION, "primary controls", lambda a: a.primary, c.TRUE_PROCBASED, "IA32_VMX_TRUE_PROCBASED_CTLS"),
    _reserved(EXECUTION, "secondary controls", lambda a: a.secondary, c.PROCBASED2, "IA32_VMX_PROCBASED_CTLS2"),
    EntryRule(EXECUTION, "the CR3-target count is at most 4", lambda a: a[f.CR3_TARGET_COUNT] > c.MOST_CR3_TARGETS),
    _place(
        "with use I/O bitmaps, each I/O-bitmap address",
        lambda a: a.primary & c.USE_IO_BITMAPS,
        f.IO_BITMAP_A,
        f.IO_BITMAP_B,
    ),
    _place("with use MSR bitmaps, the MSR-bitmap address", lambda a: a.primary & c.USE_MSR_BITMAPS, f.MSR_BITMAP),
    _place(
        "with use TPR shadow, the virtual-APIC address", lambda a: a.primary & c.USE_TPR_SHADOW, f.VIRTUAL_APIC_ADDRESS
    ),
    EntryRule(
        EXECUTION,
        "with use TPR shadow, bits 31:4 of the TPR threshold are 0",
        lambda a: a.primary & c.USE_TPR_SHADOW and a[f.TPR_THRESHOLD] > LOWEST_PRIORITIES,
    ),
    EntryRule(
        EXECUTION,
        "without use TPR shadow, APIC-register virtualization is 0",
        lambda a: not a.primary & c.USE_TPR_SHADOW and a.secondary & c.APIC_REGISTERS,
    ),
    EntryRule(
        EXECUTION,
        "without NMI exiting, virtual NMIs is 0",
        lambda a: a.pin & c.VIRTUAL_NMIS and not a.pin & c.NMI_EXITING,
    ),
    EntryRule(
        EXECUTION,
        "without virtual NMIs, NMI-window exiting is 0",
        lambda a: a.primary & c.NMI_WINDOW_EXITING and not a.pin & c.VIRTUAL_NMIS,
    ),
    _place(
        "with virtualize APIC accesses, the APIC-access address",
        lambda a: a.secondary & c.VIRTUALIZE_APIC_ACCESSES,
        f.APIC_ACCESS_ADDRESS,
    ),
    EntryRule(
        EXECUTION, "with enable VPID, the VPID is not 0", lambda a: a.secondary & c.ENABLE_VPID and not a[f.VPID]
    ),
    *(_pointer_rule(text, is_wrong) for text, is_wrong in POINTER_RULES),
    EntryRule(
        EXECUTION,
        "with enable PML, enable EPT is 1",
        lambda a: a.secondary & c.ENABLE_PML and not a.secondary & c.ENABLE_EPT,
    ),
    _place("with enable PML, the PML address", lambda a: a.secondary & c.ENABLE_PML, f.PML_ADDRESS),
    EntryRule(
        EXECUTION,
        "with unrestricted guest, enable EPT is 1",
        lambda a: a.unrestricted and not a.secondary & c.ENABLE_EPT,
    ),
    _reserved(EXITS, "VM-exit controls", lambda a: a.exit, c.TRUE_EXIT, "IA32_VMX_TRUE_EXIT_CTLS"),
    EntryRule(
        EXITS,
        "without activate VMX-preemption timer, save VMX-preemption timer value is 0",
        lambda a: a.exit & c.SAVE_PREEMPTION_TIMER and not a.pin & c.PREEMPTION_TIMER,
    ),
    _area(EXITS, "VM-exit MSR-store", f.EXIT_MSR_STORE_COUNT, f.EXIT_MSR_STORE_ADDRESS),
    _area(EXITS, "VM-exit MSR-load", f.EXIT_MSR_LOAD_COUNT, f.EXIT_MSR_LOAD_ADDRESS),
    _reserved(ENTRIES, "VM-entry controls", lambda a: a.entry, c.TRUE_ENTRY, "IA32_VMX_TRUE_ENTRY_CTLS"),
    *_EVENT,
    _area(ENTRIES, "VM-entry MSR-load", f.ENTRY_MSR_LOAD_COUNT, f.ENTRY_MSR_LOAD_ADDRESS),
)
"""Each is what must be so."""
