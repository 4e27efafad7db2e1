"""A VM entry that is attempted: the fields of its VMCS, and what the rules of an entry ask of them again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import CR0_PE, VM
from vmlab.machine import guest_exit as e
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.machine.cpu_model import CpuModel

__all__ = ["Attempt", "secondary_of"]


def secondary_of(fields: Mapping[int, int]) -> int:
    """Return the secondary controls, 0 where they are not activated."""
    return fields[f.SECONDARY_CONTROLS] if fields[f.PRIMARY_CONTROLS] & c.ACTIVATE_SECONDARY else 0


class Attempt:
    """A VM entry that is attempted.

    Parameters
    ----------
    model : CpuModel
        The processor's.
    fields : mapping of int to int
        The VMCS: fields by encoding.
    long_mode : bool
        Whether the host is in IA-32e mode.

    Attributes
    ----------
    pin, primary, secondary, exit, entry : int
        The controls; the secondary ones are 0 where they are not activated.
    unrestricted, protected, virtual_8086, long_guest, long_host : bool
        What kind of guest that is, and that the host's address space is one of IA-32e mode.
    kind : int
        Type of the event to inject, -1 where there is none.
    """

    __slots__ = (
        "entry", "exit", "fields", "kind", "long_guest", "long_host", "long_mode", "model", "pin", "primary", "protected",
        "secondary", "unrestricted", "virtual_8086",
    )  # fmt: skip

    def __init__(self, model: CpuModel, fields: Mapping[int, int], *, long_mode: bool) -> None:
        self.model, self.fields, self.long_mode = model, fields, long_mode
        self.pin, self.primary, self.secondary = (
            fields[f.PIN_BASED_CONTROLS],
            fields[f.PRIMARY_CONTROLS],
            secondary_of(fields),
        )
        self.exit, self.entry = fields[f.EXIT_CONTROLS], fields[f.ENTRY_CONTROLS]
        self.long_host = bool(self.exit & c.HOST_ADDRESS_SPACE_SIZE)
        self.long_guest = bool(self.entry & c.IA32E_MODE_GUEST)
        self.unrestricted = bool(self.secondary & c.UNRESTRICTED_GUEST)
        self.protected = bool(fields[f.GUEST_CR0] & CR0_PE)
        self.virtual_8086 = bool(fields[f.GUEST_RFLAGS] & VM)
        information = fields[f.ENTRY_INTERRUPTION]
        self.kind = information >> e.TYPE_SHIFT & 7 if information & e.VALID else -1

    def __getitem__(self, field: int) -> int:
        """Return a field."""
        return self.fields[field]

    def misfit(self, value: int, capability: int) -> bool:
        """Say whether a control has bits that its capability MSR does not allow, or lacks some that it demands."""
        must, may = c.allowed(self.model, capability)
        return value & must != must or bool(value & ~may)

    def misplaced(self, field: int, mask: int = 0xFFF) -> bool:
        """Say whether a physical address is not aligned, or wider than the processor's."""
        return bool(self.fields[field] & mask or self.fields[field] >> self.model.physical_bits)
