"""Exceptions that instructions raise, and the exception classes by which a handler knows them.

    ESR_ELx:   63:32 0 | 31:26 EC, the class | 25 IL, a 32-bit instruction | 24:0 ISS, what the class says more

Read more: Arm ARM (DDI 0487), D1.3 (exceptions), D17.2.37 (ESR_ELx).
"""

from __future__ import annotations

__all__ = ["CLASSES", "EC_SHIFT", "IL", "ArmException", "ExceptionClass"]

EC_SHIFT, IL = 26, 1 << 25


class ExceptionClass:
    """Values of ESR_ELx.EC (those of an exception from a lower level; one more for the same level)."""

    UNKNOWN = 0x00
    WFX = 0x01
    SIMD = 0x07
    ILLEGAL_STATE = 0x0E
    SVC = 0x15
    HVC = 0x16
    SMC = 0x17
    SYSTEM_REGISTER = 0x18
    INSTRUCTION_ABORT = 0x20
    PC_ALIGNMENT = 0x22
    DATA_ABORT = 0x24
    SP_ALIGNMENT = 0x26
    BRK = 0x3C


CLASSES = {
    0x00: "undefined instruction", 0x01: "WFI or WFE", 0x07: "SIMD or floating point", 0x0E: "illegal execution state",
    0x15: "SVC", 0x16: "HVC", 0x17: "SMC", 0x18: "system register", 0x20: "instruction abort", 0x21: "instruction abort",
    0x22: "PC alignment", 0x24: "data abort", 0x25: "data abort", 0x26: "SP alignment", 0x3C: "BRK",
}  # fmt: skip
"""Names of the exception classes."""


class ArmException(Exception):  # noqa: N818 - exceptions are what the manual calls them; it never leaves the processor
    """A synchronous exception.

    Attributes
    ----------
    ec, iss : int
        Class and syndrome of ESR_ELx.
    after : bool
        True where the preferred return address is the next instruction (SVC, HVC, SMC).
    """

    def __init__(self, ec: int = ExceptionClass.UNKNOWN, iss: int = 0, *, after: bool = False) -> None:
        self.ec, self.iss, self.after = ec, iss, after
        super().__init__(f"{CLASSES.get(ec, 'exception')}, syndrome {iss:#x}")
