"""What VMRUN checks before the guest runs (AMD APM vol. 2, 15.5.1 and 15.20).

What is wrong is told by VMEXIT_INVALID, and by nothing else. Segment registers are not checked at all: a VMM may load them
as it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import NMI
from vmlab.isa.x86.registers import CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SVME
from vmlab.machine.guest_exit import EXTERNAL, HARDWARE_EXCEPTION, NMI_TYPE, SOFTWARE_INTERRUPT, TYPE_SHIFT, VALID
from vmlab.machine.svm.codes import ExitCode, intercepts
from vmlab.machine.svm.guest_state import BIG, LONG, read_checked, read_system

if TYPE_CHECKING:
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.svm.vmcb import Control

__all__ = ["IOPM_BYTES", "MSRPM_BYTES", "is_bad"]

IOPM_BYTES, MSRPM_BYTES = 0x3000, 0x2000
PAGE = ~0xFFF
HIGH = ~0xFFFF_FFFF
EXCEPTIONS = 32
INJECTED = frozenset({EXTERNAL, NMI_TYPE, HARDWARE_EXCEPTION, SOFTWARE_INTERRUPT})
NESTED_PAGING = 1


def is_bad(model: CpuModel, control: Control, area: bytes) -> bool:
    """Say whether a guest cannot be run so."""
    return _bad_control(model, control) or _bad_state(model, area) or _bad_event(control.event)


def _bad_control(model: CpuModel, control: Control) -> bool:
    """The VMRUN intercept must be set, the ASID must be one of a guest, the maps must lie in physical memory."""
    wanted, limit = intercepts(control), 1 << model.physical_bits
    nested = control.nested & NESTED_PAGING and model.has("npt")
    return (
        not wanted >> ExitCode.VMRUN & 1
        or not 0 < control.asid < model.asids
        or bool(wanted >> ExitCode.IOIO & 1 and (control.iopm & PAGE) + IOPM_BYTES > limit)
        or bool(wanted >> ExitCode.MSR & 1 and (control.msrpm & PAGE) + MSRPM_BYTES > limit)
        or bool(nested and control.nested_cr3 >= limit)
    )


def _bad_state(model: CpuModel, area: bytes) -> bool:
    cr0, cr3, cr4, efer = read_system(area)
    paging, long = cr0 & CR0_PG, efer & EFER_LME
    rights, dr6, dr7 = read_checked(area)
    return bool(
        not efer & EFER_SVME
        or (cr0 & CR0_NW and not cr0 & CR0_CD)
        or cr0 & HIGH
        or cr3 >> model.physical_bits
        or cr4 & ~model.cr4_mask
        or (dr6 | dr7) & HIGH
        or efer & ~model.efer_mask
        or (long and paging and not (cr4 & CR4_PAE and cr0 & CR0_PE))
        or (long and paging and rights & LONG and rights & BIG)
    )


def _bad_event(event: int) -> bool:
    """An event is an interrupt, an NMI, an exception (but not vector 2), or INT n."""
    if not event & VALID:
        return False
    kind, vector = event >> TYPE_SHIFT & 7, event & 0xFF
    return kind not in INJECTED or (kind == HARDWARE_EXCEPTION and (vector >= EXCEPTIONS or vector == NMI))
