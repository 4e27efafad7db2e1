"""The VMCS region: 4 KiB of physical memory in which a processor keeps what it knows of a guest.

    offset 0   VMCS revision identifier
           4   VMX-abort indicator
           8   launch state: 0 clear, 1 launched
          16   the fields of `vmlab.machine.vmx.fields`, 8 bytes each, in the order of their encodings

Software reaches the fields by VMREAD and VMWRITE alone: a processor may hold the current VMCS in itself, and this one does,
until VMCLEAR or the VMPTRLD of another writes it back (SDM vol. 3, 24.1 and 24.11.1). Where a field lies is a matter of
the processor's make, and told by the revision identifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.vmx.fields import FIELDS

if TYPE_CHECKING:
    from vmlab.machine.memory_parts import Memory

__all__ = ["LAUNCH_STATE", "read_region", "write_region"]

LAUNCH_STATE, FIRST, FIELD_BYTES = 8, 16, 8


def read_region(memory: Memory, pointer: int) -> tuple[bool, dict[int, int]]:
    """Return whether the VMCS at an address is launched, and its fields by encoding."""
    data = memory.read_bytes(pointer + FIRST, FIELD_BYTES * len(FIELDS))
    values = memoryview(data).cast("Q")
    fields = {
        encoding: value & (1 << field.width) - 1
        for (encoding, field), value in zip(FIELDS.items(), values, strict=True)
    }
    return memory.read(pointer + LAUNCH_STATE, 4) == 1, fields


def write_region(memory: Memory, pointer: int, fields: dict[int, int], *, launched: bool) -> None:
    """Write launch state and fields back."""
    memory.write(pointer + LAUNCH_STATE, 4, int(launched))
    data = b"".join(fields[encoding].to_bytes(FIELD_BYTES, "little") for encoding in FIELDS)
    memory.write_bytes(pointer + FIRST, data)
