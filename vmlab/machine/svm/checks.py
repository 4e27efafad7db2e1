"""What VMRUN checks before the guest runs (AMD APM vol. 2, 15.5.1, 15.20 and 15.25).

What is wrong is told by VMEXIT_INVALID, and by nothing else; which rule it is, `broken` of `vmlab.machine.entry_rules` says
of `VMRUN_RULES`. Segment registers are not checked at all: a VMM may load them as it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.faults import NMI
from vmlab.isa.x86.registers import CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SVME
from vmlab.machine.entry_rules import EntryRule, any_broken, remember
from vmlab.machine.guest_exit import EXTERNAL, HARDWARE_EXCEPTION, NMI_TYPE, SOFTWARE_INTERRUPT, TYPE_SHIFT, VALID
from vmlab.machine.svm.codes import ExitCode, intercepts
from vmlab.machine.svm.guest_state import BIG, LONG, read_checked, read_system

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.svm.vmcb import Control

__all__ = ["INJECTED", "IOPM_BYTES", "MSRPM_BYTES", "VMRUN_RULES", "VmrunAttempt", "is_bad"]

IOPM_BYTES, MSRPM_BYTES = 0x3000, 0x2000
PAGE = ~0xFFF
HIGH = ~0xFFFF_FFFF
EXCEPTIONS = 32
INJECTED = frozenset({EXTERNAL, NMI_TYPE, HARDWARE_EXCEPTION, SOFTWARE_INTERRUPT})
"""Types of events that can be injected; the others are reserved."""
NESTED_PAGING = 1
STATE, EVENT, NESTED = "15.5.1", "15.20", "15.25"
_GOOD: dict[Hashable, None] = {}


class VmrunAttempt(NamedTuple):
    """A VMRUN that is attempted.

    Attributes
    ----------
    model : CpuModel
        The processor's.
    can_nest : bool
        Whether there are nested page tables for this host.
    control : Control
        The control area.
    cr0, cr3, cr4, efer, rights, dr6, dr7 : int
        Of the state save area; `rights` are the attributes of CS.
    """

    model: CpuModel
    can_nest: bool
    control: Control
    cr0: int
    cr3: int
    cr4: int
    efer: int
    rights: int
    dr6: int
    dr7: int

    @property
    def long(self) -> bool:
        """True for a guest in long mode."""
        return bool(self.efer & EFER_LME and self.cr0 & CR0_PG)

    @property
    def kind(self) -> int:
        """Type of the event to inject, -1 where there is none."""
        return self.control.event >> TYPE_SHIFT & 7 if self.control.event & VALID else -1


def is_bad(model: CpuModel, control: Control, area: bytes, *, can_nest: bool) -> bool:
    """Say whether a guest cannot be run so. What was right once is, with the same values."""
    state = *read_system(area), *read_checked(area)
    words = control.instructions, control.svm, control.iopm, control.msrpm, control.asid
    key = model.name, model.features, can_nest, words, control.nested, control.nested_cr3, control.event, state
    if key in _GOOD:
        return False
    if any_broken(VMRUN_RULES, VmrunAttempt(model, can_nest, control, *state)):
        return True
    remember(_GOOD, key)
    return False


def _map_outside(a: VmrunAttempt, code: ExitCode, address: int, size: int) -> bool:
    wanted = intercepts(a.control) >> code & 1
    return bool(wanted and (address & PAGE) + size > 1 << a.model.physical_bits)


VMRUN_RULES: tuple[EntryRule, ...] = (
    EntryRule(STATE, "SVME (bit 12) of EFER is 1", lambda a: not a.efer & EFER_SVME),
    EntryRule(STATE, "where NW of CR0 is 1, CD is 1", lambda a: a.cr0 & CR0_NW and not a.cr0 & CR0_CD),
    EntryRule(STATE, "bits 63:32 of CR0 are 0", lambda a: a.cr0 & HIGH),
    EntryRule(STATE, "no bit of CR3 is set that must be 0", lambda a: a.cr3 >> a.model.physical_bits),
    EntryRule(STATE, "no bit of CR4 is set that must be 0", lambda a: a.cr4 & ~a.model.cr4_mask),
    EntryRule(STATE, "bits 63:32 of DR6 are 0", lambda a: a.dr6 & HIGH),
    EntryRule(STATE, "bits 63:32 of DR7 are 0", lambda a: a.dr7 & HIGH),
    EntryRule(
        STATE,
        "no bit of EFER is set that must be 0 or that the processor has not",
        lambda a: a.efer & ~a.model.efer_mask,
    ),
    EntryRule(
        STATE, "where LME of EFER and PG of CR0 are 1, PAE of CR4 is 1", lambda a: a.long and not a.cr4 & CR4_PAE
    ),
    EntryRule(STATE, "where LME of EFER and PG of CR0 are 1, PE of CR0 is 1", lambda a: a.long and not a.cr0 & CR0_PE),
    EntryRule(
        STATE,
        "in a guest in long mode, L (bit 9) and D (bit 10) of the attributes of CS are not both 1",
        lambda a: a.long and a.rights & LONG and a.rights & BIG,
    ),
    EntryRule(STATE, "the intercept of VMRUN is set", lambda a: not intercepts(a.control) >> ExitCode.VMRUN & 1),
    EntryRule(
        STATE,
        "where ports are intercepted, the I/O permission map lies in physical memory",
        lambda a: _map_outside(a, ExitCode.IOIO, a.control.iopm, IOPM_BYTES),
    ),
    EntryRule(
        STATE,
        "where MSRs are intercepted, the MSR permission map lies in physical memory",
        lambda a: _map_outside(a, ExitCode.MSR, a.control.msrpm, MSRPM_BYTES),
    ),
    EntryRule(
        STATE, "the ASID is not 0, and one that the processor has", lambda a: not 0 < a.control.asid < a.model.asids
    ),
    EntryRule(
        EVENT,
        "an event's type (bits 10:8) is 0 (interrupt), 2 (NMI), 3 (exception) or 4 (software interrupt)",
        lambda a: a.kind >= 0 and a.kind not in INJECTED,
    ),
    EntryRule(
        EVENT,
        "an exception has a vector of at most 31, and not 2",
        lambda a: (
            a.kind == HARDWARE_EXCEPTION and (a.control.event & 0xFF >= EXCEPTIONS or a.control.event & 0xFF == NMI)
        ),
    ),
    EntryRule(
        NESTED,
        "with nested paging, the processor has it, and the host is in long mode",
        lambda a: a.control.nested & NESTED_PAGING and not a.can_nest,
    ),
    EntryRule(
        NESTED,
        "with nested paging, nCR3 is not wider than a physical address",
        lambda a: a.control.nested & NESTED_PAGING and a.control.nested_cr3 >> a.model.physical_bits,
    ),
)
"""Each is what must be so."""
