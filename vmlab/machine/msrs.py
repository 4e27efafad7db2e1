"""Model-specific registers: a table of what there is, what may be written, and what reading and writing do.

A number that no row has, or whose feature the model lacks, is #GP(0), and so is a reserved bit in what is written.
Registers without an effect of their own are only kept: of the memory type range registers and the PAT the *types*
have no effect, since there are no caches.

Simplified: of VM_CR only SVMDIS and LOCK have an effect; IA32_APIC_BASE cannot move the local APIC; no microcode update is ever loaded; of IA32_MISC_ENABLE what
cannot be changed here is read-only.

Read more: Intel SDM vol. 4, table 2-2 (numbers); vol. 3, 11.11 and 11.12 (MTRRs, PAT), 10.4.4 (APIC_BASE),
2.2.1 (EFER); 9.11.7 (BIOS_SIGN_ID).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.registers import (
    EFER_SVME,
    FS,
    GS,
    MSR_APIC_BASE,
    MSR_BIOS_SIGN_ID,
    MSR_CSTAR,
    MSR_EFER,
    MSR_FEATURE_CONTROL,
    MSR_FMASK,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_MISC_ENABLE,
    MSR_PAT,
    MSR_STAR,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
    MSR_TSC,
    MSR_TSC_AUX,
    MSR_VM_CR,
    MSR_VM_HSAVE_PA,
)  # fmt: skip
from vmlab.machine.cpuid import INTEL
from vmlab.machine.vmx.controls import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.processor import Processor

__all__ = ["MSRS", "Msr", "limits_cpuid", "read_msr", "write_msr"]

ALL = (1 << 64) - 1
HIGH = ALL & ~0xFFFF_FFFF

# IA32_APIC_BASE:  [ base MAXPHYADDR-1:12 | ENABLE 11 | BSP 8 ]
APIC_ENABLE, APIC_BSP = 1 << 11, 1 << 8

# IA32_FEATURE_CONTROL:  [ VMXON outside SMX 2 | in SMX 1 | lock 0 ]
FEATURE_CONTROL, FEATURE_LOCK = 7, 1

# VM_CR (AMD APM vol. 2, 15.30.1):  [ SVMDIS 4 | LOCK 3 | DIS_A20M 2 | R_INIT 1 | DPD 0 ]
VM_CR, VM_CR_LOCK, VM_CR_DISABLE = 0x1F, 1 << 3, 1 << 4

# IA32_MISC_ENABLE:  [ limit CPUID 22 | PEBS unavailable 12 | BTS unavailable 11 | fast strings 0 ]
MISC_LIMIT_CPUID, MISC_UNAVAILABLE, MISC_FAST_STRINGS = 1 << 22, 1 << 12 | 1 << 11, 1

# IA32_MTRRCAP:  [ WC 10 | FIX 8 | VCNT 7:0 ]    IA32_MTRR_DEF_TYPE:  [ E 11 | FE 10 | type 7:0 ]
MTRR_RANGES = 8
MTRR_CAPABILITIES = 1 << 10 | 1 << 8 | MTRR_RANGES
MTRR_TYPES = frozenset({0, 1, 4, 5, 6})
PAT_TYPES = frozenset({0, 1, 4, 5, 6, 7})
PAT_RESET = 0x0007_0406_0007_0406


def _stored(cpu: Processor, msr: Msr) -> int:
    return cpu.msrs.get(msr.number, msr.reset)


def _store(cpu: Processor, msr: Msr, value: int) -> None:
    cpu.msrs[msr.number] = value


def _refuse(cpu: Processor, msr: Msr, value: int) -> None:
    raise Fault(GP, 0)


def _ignore(cpu: Processor, msr: Msr, value: int) -> None:
    """A write that has no effect."""


@dataclass(frozen=True, slots=True)
class Msr:
    """One model-specific register.

    Attributes
    ----------
    number : int
        As in ECX of RDMSR.
    name : str
        As in the manual.
    vendor : str
        Whose processors alone have it; empty where both makes do.
    feature : str
        Feature that it belongs to; empty where every model has it.
    reserved : int
        Bits that must be 0 in what is written.
    reset : int
        Value after reset.
    read, write : callable
        `read(cpu, msr)` and `write(cpu, msr, value)`; without them the value is kept.
    """

    number: int
    name: str
    feature: str = ""
    reserved: int = 0
    reset: int = 0
    read: Callable[[Processor, Msr], int] = _stored
    write: Callable[[Processor, Msr, int], None] = _store
    vendor: str = ""


# -- what reading and writing do --------------------------------------------------------------------------------------


def _require(valid: bool) -> None:
    if not valid:
        raise Fault(GP, 0)


def _write_time_stamp(cpu: Processor, msr: Msr, value: int) -> None:
    cpu.msrs[MSR_TSC] = value - cpu.ticks & ALL


def _write_apic_base(cpu: Processor, msr: Msr, value: int) -> None:
    apic = cpu.interrupts
    # Once disabled, the APIC of a Pentium 4 can be enabled by a reset alone; later ones, and this one, allow it.
    _require(not value & ~(APIC_ENABLE | APIC_BSP) ^ apic.base & ~(APIC_ENABLE | APIC_BSP))
    apic.set_base(value & ~APIC_BSP | apic.base & APIC_BSP)


def _write_misc_enable(cpu: Processor, msr: Msr, value: int) -> None:
    changeable = MISC_FAST_STRINGS | MISC_LIMIT_CPUID
    _require(not value & ~(changeable | MISC_UNAVAILABLE))
    cpu.msrs[msr.number] = value & changeable | MISC_UNAVAILABLE


def _write_canonical(cpu: Processor, msr: Msr, value: int) -> None:
    _require(is_canonical(value))
    cpu.msrs[msr.number] = value


def _write_fast_call(cpu: Processor, msr: Msr, value: int) -> None:
    """IA32_SYSENTER_ESP and EIP: 32 bits on a processor without long mode."""
    if cpu.model.has("lm"):
        _write_canonical(cpu, msr, value)
    else:
        cpu.msrs[msr.number] = value & 0xFFFF_FFFF


def _segment_base(index: int) -> tuple[Callable[[Processor, Msr], int], Callable[[Processor, Msr, int], None]]:
    def read(cpu: Processor, msr: Msr) -> int:
        return cpu.segments[index].base

    def write(cpu: Processor, msr: Msr, value: int) -> None:
        _require(is_canonical(value))
        register = cpu.segments[index]
        register.set(register.selector, value, register.limit, register.access, big=register.big, long=register.long)
        cpu.segment_changed()

    return read, write


def _write_types(valid: frozenset[int]) -> Callable[[Processor, Msr, int], None]:
    """Eight memory types, a byte each."""

    def write(cpu: Processor, msr: Msr, value: int) -> None:
        _require(valid.issuperset(value.to_bytes(8, "little")))
        cpu.msrs[msr.number] = value

    return write


def _write_range_base(cpu: Processor, msr: Msr, value: int) -> None:
    _require(not value >> cpu.model.physical_bits and value & 0xFF in MTRR_TYPES)
    cpu.msrs[msr.number] = value


def _write_range_mask(cpu: Processor, msr: Msr, value: int) -> None:
    _require(not value >> cpu.model.physical_bits)
    cpu.msrs[msr.number] = value


def _write_default_type(cpu: Processor, msr: Msr, value: int) -> None:
    _require(value & 0xFF in MTRR_TYPES)
    cpu.msrs[msr.number] = value


def _write_feature_control(cpu: Processor, msr: Msr, value: int) -> None:
    """Once the lock bit is set, the register keeps its value until reset."""
    _require(not _stored(cpu, msr) & FEATURE_LOCK)
    cpu.msrs[msr.number] = value


def _write_vm_cr(cpu: Processor, msr: Msr, value: int) -> None:
    """Once LOCK is set, it and SVMDIS keep their values; SVMDIS cannot be set while EFER.SVME is."""
    old = _stored(cpu, msr)
    if old & VM_CR_LOCK:
        value = value & ~(VM_CR_LOCK | VM_CR_DISABLE) | old & (VM_CR_LOCK | VM_CR_DISABLE)
    _require(not (value & VM_CR_DISABLE and cpu.efer & EFER_SVME))
    cpu.msrs[msr.number] = value


def _write_host_save_area(cpu: Processor, msr: Msr, value: int) -> None:
    _require(not value >> cpu.model.physical_bits)
    cpu.msrs[msr.number] = value


def _vmx_capability(cpu: Processor, msr: Msr) -> int:
    return CAPABILITIES[msr.number](cpu.model)


_READ_FS, _WRITE_FS = _segment_base(FS)
_READ_GS, _WRITE_GS = _segment_base(GS)
_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))

MSRS: dict[int, Msr] = {
    row.number: row
    for row in (
        Msr(MSR_TSC, "IA32_TIME_STAMP_COUNTER", "tsc", read=lambda cpu, _: cpu.time_stamp(), write=_write_time_stamp),
        Msr(0x17, "IA32_PLATFORM_ID", write=_refuse, vendor=INTEL),
        Msr(
            MSR_APIC_BASE, "IA32_APIC_BASE", "apic",
            read=lambda cpu, _: cpu.interrupts.base, write=_write_apic_base,
        ),
        Msr(MSR_FEATURE_CONTROL, "IA32_FEATURE_CONTROL", "vmx", ALL & ~FEATURE_CONTROL, write=_write_feature_control),
        Msr(MSR_BIOS_SIGN_ID, "IA32_BIOS_SIGN_ID", write=_ignore),
        Msr(0xFE, "IA32_MTRRCAP", "mtrr", reset=MTRR_CAPABILITIES, write=_refuse),
        Msr(MSR_SYSENTER_CS, "IA32_SYSENTER_CS", "sep", HIGH),
        Msr(MSR_SYSENTER_ESP, "IA32_SYSENTER_ESP", "sep", write=_write_fast_call),
        Msr(MSR_SYSENTER_EIP, "IA32_SYSENTER_EIP", "sep", write=_write_fast_call),
        Msr(
            MSR_MISC_ENABLE, "IA32_MISC_ENABLE", reset=MISC_FAST_STRINGS | MISC_UNAVAILABLE, write=_write_misc_enable,
            vendor=INTEL,
        ),
        *(
            row
            for n in range(MTRR_RANGES)
            for row in (
                Msr(0x200 + 2 * n, f"IA32_MTRR_PHYSBASE{n}", "mtrr", 0xF00, write=_write_range_base),
                Msr(0x201 + 2 * n, f"IA32_MTRR_PHYSMASK{n}", "mtrr", 0x7FF, write=_write_range_mask),
            )
        ),
        *(Msr(number, f"IA32_MTRR_FIX_{number:X}H", "mtrr", write=_write_types(MTRR_TYPES)) for number in _FIXED),
        Msr(MSR_PAT, "IA32_PAT", "pat", reset=PAT_RESET, write=_write_types(PAT_TYPES)),
        Msr(0x2FF, "IA32_MTRR_DEF_TYPE", "mtrr", ALL & ~0xCFF, write=_write_default_type),
        Msr(
            MSR_EFER, "IA32_EFER", "nx", read=lambda cpu, _: cpu.efer, write=lambda cpu, _, value: cpu.set_efer(value)
        ),
        Msr(MSR_STAR, "IA32_STAR", "syscall"),
        Msr(MSR_LSTAR, "IA32_LSTAR", "syscall", write=_write_canonical),
        Msr(MSR_CSTAR, "IA32_CSTAR", "syscall", write=_write_canonical),
        Msr(MSR_FMASK, "IA32_FMASK", "syscall", HIGH),
        Msr(MSR_FS_BASE, "IA32_FS_BASE", "lm", read=_READ_FS, write=_WRITE_FS),
        Msr(MSR_GS_BASE, "IA32_GS_BASE", "lm", read=_READ_GS, write=_WRITE_GS),
        Msr(MSR_KERNEL_GS_BASE, "IA32_KERNEL_GS_BASE", "lm", write=_write_canonical),
        *(
            Msr(number, f"IA32_VMX_{number:X}H", "vmx", read=_vmx_capability, write=_refuse)
            for number in CAPABILITIES
        ),
        Msr(MSR_TSC_AUX, "IA32_TSC_AUX", "rdtscp", HIGH),
        Msr(MSR_VM_CR, "VM_CR", "svm", ALL & ~VM_CR, write=_write_vm_cr),
        Msr(MSR_VM_HSAVE_PA, "VM_HSAVE_PA", "svm", 0xFFF, write=_write_host_save_area),
    )
}  # fmt: skip
"""The registers by number."""


def find_msr(cpu: Processor, number: int) -> Msr:
    """Return the register of a number; #GP(0) where this processor has none."""
    msr = MSRS.get(number)
    if msr is None or (msr.vendor and msr.vendor != cpu.model.vendor):
        raise Fault(GP, 0)
    if msr.feature and not cpu.model.has(msr.feature):
        cpu.lacked.setdefault(msr.feature, msr.name)
        raise Fault(GP, 0)
    return msr


def read_msr(cpu: Processor, number: int) -> int:
    """Read a model-specific register."""
    msr = find_msr(cpu, number)
    return msr.read(cpu, msr)


def write_msr(cpu: Processor, number: int, value: int) -> None:
    """Write a model-specific register."""
    msr = find_msr(cpu, number)
    if value & msr.reserved:
        raise Fault(GP, 0)
    msr.write(cpu, msr, value)


def limits_cpuid(cpu: Processor) -> bool:
    """Say whether IA32_MISC_ENABLE limits the basic leaves of CPUID."""
    return bool(cpu.msrs.get(MSR_MISC_ENABLE, 0) & MISC_LIMIT_CPUID)
