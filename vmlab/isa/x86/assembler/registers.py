"""Register names as the assembler reads them: each with its kind, number and width."""

from __future__ import annotations

from dataclasses import dataclass

from vmlab.isa.x86.operands import GeneralRegister, Register8, general_register
from vmlab.isa.x86.registers import CONTROL_NAMES, DEBUG_NAMES, GENERAL_NAMES, NAMES_8_LEGACY, RIP, SEGMENT_NAMES

__all__ = ["REGISTERS", "RegisterName"]


@dataclass(frozen=True, slots=True)
class RegisterName:
    """A register as written.

    Attributes
    ----------
    name : str
        In lower case.
    kind : str
        `general`, `segment`, `control`, `debug`, or `pointer` for `rip`, which occurs in addresses alone.
    index : int
        Its number.
    size : int
        Its bits.
    long : bool
        True where only 64-bit code has it.
    """

    name: str
    kind: str
    index: int
    size: int
    long: bool

    def operand(self, width: int) -> GeneralRegister:
        """Return the general register of this number, of `width` bits."""
        return Register8(self.index, rex=self.long) if width == 8 else general_register(self.index, width)


REGISTERS = {
    name: RegisterName(name, kind, index, size, index >= 8 or size == 64 or (size == 8 and name not in NAMES_8_LEGACY))
    for names, kind, size in (
        (GENERAL_NAMES[8], "general", 8),
        (NAMES_8_LEGACY, "general", 8),
        (GENERAL_NAMES[16][:RIP], "general", 16),
        (GENERAL_NAMES[32][:RIP], "general", 32),
        (GENERAL_NAMES[64][:RIP], "general", 64),
        (SEGMENT_NAMES, "segment", 16),
        (CONTROL_NAMES, "control", 32),
        (DEBUG_NAMES, "debug", 32),
    )
    for index, name in enumerate(names)
} | {"rip": RegisterName("rip", "pointer", RIP, 64, long=True)}
