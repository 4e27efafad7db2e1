"""What a VM entry checks before the guest runs (Intel SDM vol. 3, 26.2 and 26.3).

What a mistaken VMM gets wrong is found as a processor finds it: bad controls (error 7), bad host state (error 8), bad guest
state (a failed entry, reason 33, with its qualification). Which rule it is no processor tells; `refusal` does.

Simplified: of the checks that concern features which are not modelled (SMM, tracing) there are none.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.x86.registers import VM
from vmlab.machine.entry_rules import any_broken, broken, remember
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.attempt import Attempt, secondary_of
from vmlab.machine.vmx.control_rules import CONTROL_RULES
from vmlab.machine.vmx.guest_rules import FLAGS_CHECKED, GUEST_FIELDS, GUEST_RULES, LINK_RULE
from vmlab.machine.vmx.host_rules import HOST_RULES
from vmlab.machine.vmx.segment_rules import SEGMENT_FIELDS, SEGMENT_RULES

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.entry_rules import EntryRule
    from vmlab.machine.processor import Processor

__all__ = ["Refusal", "bad_controls_or_host", "bad_guest_state", "refusal"]

BAD_CONTROLS, BAD_HOST = 7, 8  # VM-instruction errors (SDM vol. 3, 30.4)
LINK_POINTER = 4  # exit qualification of a failed entry
_GOOD: dict[Hashable, None] = {}
_GOOD_SEGMENTS: dict[Hashable, None] = {}
_GOOD_GUESTS: dict[Hashable, None] = {}
_CONTROLS_AND_HOST = (
    *range(f.IO_BITMAP_A, f.TSC_OFFSET, 2), f.VIRTUAL_APIC_ADDRESS, f.APIC_ACCESS_ADDRESS, f.EPT_POINTER,
    *range(f.PIN_BASED_CONTROLS, f.SECONDARY_CONTROLS + 2, 2), f.VPID, f.GUEST_CR0,
    *range(f.HOST_ES, f.HOST_TR + 2, 2), f.HOST_PAT, f.HOST_EFER, *range(f.HOST_CR0, f.HOST_RIP + 2, 2),
)  # fmt: skip
_controls_and_host, _segments, _guest = (
    itemgetter(*_CONTROLS_AND_HOST),
    itemgetter(*SEGMENT_FIELDS),
    itemgetter(*GUEST_FIELDS),
)


def bad_controls_or_host(cpu: Processor, fields: dict[int, int]) -> int:
    """Return the VM-instruction error of wrong controls (7) or a wrong host-state area (8), else 0.

    What was right once is, with the same values: a VMM enters its guests again and again with the same.
    """
    key = cpu.model.name, cpu.model.features, cpu.long_mode, _controls_and_host(fields)
    if key in _GOOD:
        return 0
    attempt = Attempt(cpu.model, fields, long_mode=cpu.long_mode)
    if any_broken(CONTROL_RULES, attempt):
        return BAD_CONTROLS
    if any_broken(HOST_RULES, attempt):
        return BAD_HOST
    remember(_GOOD, key)
    return 0


def bad_guest_state(model: CpuModel, fields: dict[int, int]) -> int | None:
    """Return the exit qualification of a failed entry where the guest-state area is wrong, else None."""
    if fields[f.VMCS_LINK_POINTER] != (1 << 64) - 1:
        return LINK_POINTER
    flags = fields[f.GUEST_RFLAGS]
    key = model.name, model.features, flags & FLAGS_CHECKED, fields[f.GUEST_RIP] >> 32, _guest(fields)
    unrestricted = bool(secondary_of(fields) & c.UNRESTRICTED_GUEST)
    segment_key = unrestricted, flags & VM, _segments(fields)
    if key in _GOOD_GUESTS and segment_key in _GOOD_SEGMENTS:
        return None
    attempt = Attempt(model, fields, long_mode=False)
    if any_broken(GUEST_RULES, attempt) or any_broken(SEGMENT_RULES, attempt):
        return 0
    remember(_GOOD_GUESTS, key)
    remember(_GOOD_SEGMENTS, segment_key)
    return None


class Refusal(NamedTuple):
    """Why a VM entry is refused.

    Attributes
    ----------
    error : int
        The VM-instruction error; 0 where the entry fails as a VM exit.
    qualification : int
        Exit qualification of a failed entry.
    rules : tuple of EntryRule
        The rules that are broken; which of them a processor finds first is its own affair.
    """

    error: int
    qualification: int
    rules: tuple[EntryRule, ...]


def refusal(model: CpuModel, fields: Mapping[int, int], *, long_mode: bool) -> Refusal | None:
    """Say why the entry into a guest would be refused; None where it is not.

    Parameters
    ----------
    model : CpuModel
        The processor's.
    fields : mapping of int to int
        The VMCS: fields by encoding.
    long_mode : bool
        Whether the host is in IA-32e mode.
    """
    attempt = Attempt(model, fields, long_mode=long_mode)
    for rules, error, qualification in (
        (CONTROL_RULES, BAD_CONTROLS, 0),
        (HOST_RULES, BAD_HOST, 0),
        ((LINK_RULE,), 0, LINK_POINTER),
        (GUEST_RULES + SEGMENT_RULES, 0, 0),
    ):
        found = broken(rules, attempt)
        if found:
            return Refusal(error, qualification, found)
    return None
