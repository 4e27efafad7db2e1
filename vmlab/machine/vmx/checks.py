"""What a VM entry checks before the guest runs (Intel SDM vol. 3, 26.2 and 26.3).

Each check is a condition on fields of the VMCS; what a mistaken VMM gets wrong is found as a processor finds it: bad
controls (error 7), bad host state (error 8), bad guest state (a failed entry, reason 33, with its qualification).

Simplified: of the checks that concern features which are not modelled (SMM, tracing) there are none, and the TPR threshold is
not compared with the virtual TPR where APIC accesses are not virtualized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import NMI, WITH_ERROR_CODE
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, FIXED, IF, VM
from vmlab.machine import guest_exit as e
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.guest_state import MOV_SS_BLOCKING, NMI_BLOCKING, STI_BLOCKING
from vmlab.machine.vmx.segment_checks import bad_segments

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.processor import Processor

__all__ = ["bad_controls_or_host", "bad_ept_pointer", "bad_guest_state", "secondary_of"]

ALL_ONES = (1 << 64) - 1
LOW = 0xFFFF_FFFF
FLAGS_RESERVED = ALL_ONES & ~0x3F_7FD7
PENDING_RESERVED = ALL_ONES & ~0x1_500F
BAD_CONTROLS, BAD_HOST = 7, 8  # VM-instruction errors (SDM vol. 3, 30.4)
LINK_POINTER = 4  # exit qualification of a failed entry
EXCEPTIONS = 32
LONGEST = 15
LOWEST_PRIORITIES = 15  # greatest TPR threshold
CAPABILITY_OF = {
    f.PIN_BASED_CONTROLS: c.TRUE_PINBASED,
    f.PRIMARY_CONTROLS: c.TRUE_PROCBASED,
    f.EXIT_CONTROLS: c.TRUE_EXIT,
    f.ENTRY_CONTROLS: c.TRUE_ENTRY,
}
# EPT pointer:  [ frame | A and D bits 6 | levels - 1 5:3 | memory type 2:0 ]
FOUR_LEVELS, EPT_RESERVED = 3, 0xF80


def secondary_of(fields: dict[int, int]) -> int:
    """Return the secondary controls, 0 where they are not activated."""
    return fields[f.SECONDARY_CONTROLS] if fields[f.PRIMARY_CONTROLS] & c.ACTIVATE_SECONDARY else 0


def _fits(model: CpuModel, value: int, capability: int) -> bool:
    must, may = c.allowed(model, capability)
    return value & must == must and not value & ~may


_GOOD: dict[tuple[object, ...], None] = {}
MOST_GOOD = 1024
_AREAS = (
    *range(f.IO_BITMAP_A, f.TSC_OFFSET, 2), f.VIRTUAL_APIC_ADDRESS, f.APIC_ACCESS_ADDRESS, f.EPT_POINTER,
    *range(f.PIN_BASED_CONTROLS, f.SECONDARY_CONTROLS + 2, 2), f.VPID, f.GUEST_CR0,
)  # fmt: skip
_HOST = (
    f.EXIT_CONTROLS, f.ENTRY_CONTROLS, *range(f.HOST_ES, f.HOST_TR + 2, 2), f.HOST_PAT, f.HOST_EFER,
    *range(f.HOST_CR0, f.HOST_RIP + 2, 2),
)  # fmt: skip


def bad_controls_or_host(cpu: Processor, fields: dict[int, int]) -> int:
    """Return the VM-instruction error of wrong controls (7) or a wrong host-state area (8), else 0.

    What was right once is, with the same values: a VMM enters its guests again and again with the same.
    """
    get = fields.__getitem__
    key = (cpu.model.name, cpu.long_mode, *map(get, _AREAS), *map(get, _HOST))
    if key in _GOOD:
        return 0
    if bad_controls(cpu.model, fields):
        return BAD_CONTROLS
    if bad_host_state(cpu, fields):
        return BAD_HOST
    if len(_GOOD) >= MOST_GOOD:
        _GOOD.clear()
    _GOOD[key] = None
    return 0


def bad_controls(model: CpuModel, fields: dict[int, int]) -> bool:
    """Say whether a control field is wrong: error 7."""
    pin, primary, secondary = fields[f.PIN_BASED_CONTROLS], fields[f.PRIMARY_CONTROLS], secondary_of(fields)
    if not all(_fits(model, fields[field], capability) for field, capability in CAPABILITY_OF.items()):
        return True
    if secondary and not _fits(model, secondary, c.PROCBASED2):
        return True

    def misplaced(field: int, mask: int = 0xFFF) -> bool:
        return bool(fields[field] & mask or fields[field] >> model.physical_bits)

    areas = (
        (f.EXIT_MSR_STORE_COUNT, f.EXIT_MSR_STORE_ADDRESS),
        (f.EXIT_MSR_LOAD_COUNT, f.EXIT_MSR_LOAD_ADDRESS),
        (f.ENTRY_MSR_LOAD_COUNT, f.ENTRY_MSR_LOAD_ADDRESS),
    )
    return (
        fields[f.CR3_TARGET_COUNT] > c.MOST_CR3_TARGETS
        or (primary & c.USE_IO_BITMAPS and (misplaced(f.IO_BITMAP_A) or misplaced(f.IO_BITMAP_B)))
        or (primary & c.USE_MSR_BITMAPS and misplaced(f.MSR_BITMAP))
        or bool(pin & c.VIRTUAL_NMIS and not pin & c.NMI_EXITING)
        or bool(primary & c.NMI_WINDOW_EXITING and not pin & c.VIRTUAL_NMIS)
        or bool(secondary & c.ENABLE_VPID and not fields[f.VPID])
        or bool(secondary & c.ENABLE_EPT and bad_ept_pointer(model, fields[f.EPT_POINTER]))
        or bool(secondary & (c.UNRESTRICTED_GUEST | c.ENABLE_PML) and not secondary & c.ENABLE_EPT)
        or (secondary & c.ENABLE_PML and misplaced(f.PML_ADDRESS))
        or _bad_apic(fields, primary, secondary, misplaced)
        or any(fields[count] and misplaced(address, 0xF) for count, address in areas)
        or _bad_event(fields, unrestricted=bool(secondary & c.UNRESTRICTED_GUEST))
    )


def _bad_apic(fields: dict[int, int], primary: int, secondary: int, misplaced: Callable[[int], bool]) -> bool:
    """Say whether the controls of the virtual APIC are wrong (SDM vol. 3, 26.2.1.1)."""
    if not primary & c.USE_TPR_SHADOW:
        return bool(secondary & c.APIC_REGISTERS) or bool(
            secondary & c.VIRTUALIZE_APIC_ACCESSES and misplaced(f.APIC_ACCESS_ADDRESS)
        )
    return (
        misplaced(f.VIRTUAL_APIC_ADDRESS)
        or fields[f.TPR_THRESHOLD] > LOWEST_PRIORITIES
        or bool(secondary & c.VIRTUALIZE_APIC_ACCESSES and misplaced(f.APIC_ACCESS_ADDRESS))
    )


def bad_ept_pointer(model: CpuModel, pointer: int) -> bool:
    """Say whether an EPT pointer is wrong (SDM vol. 3, 26.2.1.1)."""
    return (
        pointer & 7 not in (0, c.WRITE_BACK)
        or pointer >> 3 & 7 != FOUR_LEVELS
        or bool(pointer & 1 << 6 and not model.has("ept-dirty"))
        or bool(pointer & EPT_RESERVED)
        or bool(pointer >> model.physical_bits)
    )


def _bad_event(fields: dict[int, int], *, unrestricted: bool) -> bool:
    """Say whether the VM-entry interruption information is wrong (SDM vol. 3, 26.2.1.3)."""
    information = fields[f.ENTRY_INTERRUPTION]
    if not information & e.VALID:
        return False
    kind, vector, with_code = information >> e.TYPE_SHIFT & 7, information & 0xFF, bool(information & e.WITH_CODE)
    protected = not unrestricted or bool(fields[f.GUEST_CR0] & CR0_PE)
    needs_code = kind == e.HARDWARE_EXCEPTION and vector in WITH_ERROR_CODE and protected
    return (
        kind in (1, 7)
        or bool(information & 0x7FFF_F000)
        or (kind == e.NMI_TYPE and vector != NMI)
        or (kind == e.HARDWARE_EXCEPTION and vector >= EXCEPTIONS)
        or with_code != needs_code
        or (with_code and fields[f.ENTRY_ERROR_CODE] > 0xFFFF)
        or (kind in e.SOFTWARE_TYPES and not 0 < fields[f.ENTRY_INSTRUCTION_LENGTH] <= LONGEST)
    )


def bad_host_state(cpu: Processor, fields: dict[int, int]) -> bool:
    """Say whether the host-state area is wrong: error 8."""
    model = cpu.model
    needed = c.fixed_cr0(unrestricted=False)
    cr4_must, cr4_may = c.CAPABILITIES[c.CR4_FIXED0](model), c.CAPABILITIES[c.CR4_FIXED1](model)
    long = bool(fields[f.EXIT_CONTROLS] & c.HOST_ADDRESS_SPACE_SIZE)
    selectors = [fields[encoding] for encoding in range(f.HOST_ES, f.HOST_TR + 2, 2)]
    efer = fields[f.HOST_EFER]
    long_bits = EFER_LMA | EFER_LME if long else 0
    addresses = (
        f.HOST_FS_BASE, f.HOST_GS_BASE, f.HOST_TR_BASE, f.HOST_GDTR_BASE, f.HOST_IDTR_BASE, f.HOST_SYSENTER_ESP,
        f.HOST_SYSENTER_EIP, f.HOST_RIP,
    )  # fmt: skip
    return (
        fields[f.HOST_CR0] & needed != needed
        or fields[f.HOST_CR0] >> 32 != 0
        or fields[f.HOST_CR4] & cr4_must != cr4_must
        or bool(fields[f.HOST_CR4] & ~cr4_may)
        or bool(fields[f.HOST_CR3] >> model.physical_bits)
        or any(not is_canonical(fields[field]) for field in addresses)
        or any(selector & 7 for selector in selectors)
        or not fields[f.HOST_CS]
        or not fields[f.HOST_TR]
        or (not long and not fields[f.HOST_SS])
        or long != cpu.long_mode
        or bool(fields[f.ENTRY_CONTROLS] & c.IA32E_MODE_GUEST and not long)
        or (long and not fields[f.HOST_CR4] & CR4_PAE)
        or (not long and bool(fields[f.HOST_CR4] & CR4_PCIDE or fields[f.HOST_RIP] >> 32))
        or bool(
            fields[f.EXIT_CONTROLS] & c.LOAD_HOST_EFER
            and (efer & ~model.efer_mask or efer & (EFER_LMA | EFER_LME) != long_bits)
        )
    )


def bad_guest_state(model: CpuModel, fields: dict[int, int]) -> int | None:
    """Return the exit qualification of a failed entry where the guest-state area is wrong, else None."""
    if fields[f.VMCS_LINK_POINTER] != ALL_ONES:
        return LINK_POINTER
    wrong = (
        _bad_control_registers(model, fields)
        or bad_segments(fields, unrestricted=bool(secondary_of(fields) & c.UNRESTRICTED_GUEST))
        or _bad_rip_and_flags(fields)
        or _bad_non_register_state(fields)
    )
    return 0 if wrong else None


def _bad_control_registers(model: CpuModel, fields: dict[int, int]) -> bool:
    cr0, cr4, efer = fields[f.GUEST_CR0], fields[f.GUEST_CR4], fields[f.GUEST_EFER]
    needed = c.fixed_cr0(unrestricted=bool(secondary_of(fields) & c.UNRESTRICTED_GUEST))
    long = bool(fields[f.ENTRY_CONTROLS] & c.IA32E_MODE_GUEST)
    cr4_must, cr4_may = c.CAPABILITIES[c.CR4_FIXED0](model), c.CAPABILITIES[c.CR4_FIXED1](model)
    return (
        cr0 & needed != needed
        or cr0 >> 32 != 0
        or bool(cr0 & CR0_PG and not cr0 & CR0_PE)
        or cr4 & cr4_must != cr4_must
        or bool(cr4 & ~cr4_may)
        or (long and not (cr0 & CR0_PG and cr4 & CR4_PAE))
        or (not long and bool(cr4 & CR4_PCIDE))
        or bool(fields[f.GUEST_CR3] >> model.physical_bits)
        or fields[f.GUEST_DR7] >> 32 != 0
        or not is_canonical(fields[f.GUEST_SYSENTER_ESP])
        or not is_canonical(fields[f.GUEST_SYSENTER_EIP])
        or bool(
            fields[f.ENTRY_CONTROLS] & c.LOAD_GUEST_EFER
            and (
                efer & ~model.efer_mask
                or bool(efer & EFER_LMA) != long
                or (cr0 & CR0_PG and bool(efer & EFER_LMA) != bool(efer & EFER_LME))
            )
        )
    )


def _bad_rip_and_flags(fields: dict[int, int]) -> bool:
    flags, rip = fields[f.GUEST_RFLAGS], fields[f.GUEST_RIP]
    long = bool(fields[f.ENTRY_CONTROLS] & c.IA32E_MODE_GUEST)
    code_64 = long and bool(fields[f.GUEST_CS_ACCESS] & 1 << 13)
    information = fields[f.ENTRY_INTERRUPTION]
    external = information & e.VALID and information >> e.TYPE_SHIFT & 7 == e.EXTERNAL
    return (
        bool(rip >> 32 and not code_64)
        or (code_64 and not is_canonical(rip))
        or bool(flags & FLAGS_RESERVED)
        or not flags & FIXED
        or bool(flags & VM and (long or not fields[f.GUEST_CR0] & CR0_PE))
        or bool(external and not flags & IF)
    )


def _bad_non_register_state(fields: dict[int, int]) -> bool:
    """Check activity, interruptibility and pending debug exceptions (SDM vol. 3, 26.3.1.5)."""
    activity, blocking = fields[f.GUEST_ACTIVITY], fields[f.GUEST_INTERRUPTIBILITY]
    shadow, flags, information = blocking & 3, fields[f.GUEST_RFLAGS], fields[f.ENTRY_INTERRUPTION]
    kind = information >> e.TYPE_SHIFT & 7 if information & e.VALID else -1
    return (
        activity > 1
        or bool(activity and shadow)
        or bool(blocking & ~(STI_BLOCKING | MOV_SS_BLOCKING | NMI_BLOCKING))
        or shadow == STI_BLOCKING | MOV_SS_BLOCKING
        or bool(shadow & STI_BLOCKING and not flags & IF)
        or (kind == e.EXTERNAL and bool(shadow))
        or (kind == e.NMI_TYPE and bool(shadow & MOV_SS_BLOCKING))
        or bool(fields[f.GUEST_PENDING_DEBUG] & PENDING_RESERVED)
        or fields[f.GUEST_GDTR_LIMIT] > 0xFFFF
        or fields[f.GUEST_IDTR_LIMIT] > 0xFFFF
        or not is_canonical(fields[f.GUEST_GDTR_BASE])
        or not is_canonical(fields[f.GUEST_IDTR_BASE])
    )
