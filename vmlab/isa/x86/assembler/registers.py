"""Register names as the assembler reads them: each with its kind, number and width."""

from __future__ import annotations

from dataclasses import dataclass

from vmlab.isa.x86.registers import CONTROL_NAMES, DEBUG_NAMES, NAMES_8_LEGACY, NAMES_16, NAMES_32, SEGMENT_NAMES

__all__ = ["REGISTERS", "RegisterName"]


@dataclass(frozen=True, slots=True)
class RegisterName:
    """A register as an operand: `kind` is `general`, `segment`, `control` or `debug`, `size` its bits."""

    name: str
    kind: str
    index: int
    size: int


REGISTERS = {
    name: RegisterName(name, kind, index, size)
    for names, kind, size in (
        (NAMES_8_LEGACY, "general", 8),
        (NAMES_16, "general", 16),
        (NAMES_32, "general", 32),
        (SEGMENT_NAMES, "segment", 16),
        (CONTROL_NAMES, "control", 32),
        (DEBUG_NAMES, "debug", 32),
    )
    for index, name in enumerate(names)
}
