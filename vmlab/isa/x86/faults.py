"""Exceptions of the processor: their vectors, names and classes (Intel SDM vol. 3, table 6-1 and 6.15).

`Fault` is how a semantic function gives up: the processor then restores the instruction pointer and delivers
the exception through the interrupt descriptor table. It never reaches a user of the library.
"""

from __future__ import annotations

DE, DB, NMI, BP, OF, BR, UD, NM = range(8)
DF, TS, NP, SS, GP, PF = 8, 10, 11, 12, 13, 14
MF, AC, MC, XM = 16, 17, 18, 19

NAMES = {
    DE: "#DE", DB: "#DB", NMI: "NMI", BP: "#BP", OF: "#OF", BR: "#BR", UD: "#UD", NM: "#NM", DF: "#DF",
    TS: "#TS", NP: "#NP", SS: "#SS", GP: "#GP", PF: "#PF", MF: "#MF", AC: "#AC", MC: "#MC", XM: "#XM",
}  # fmt: skip

WITH_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, AC})
CONTRIBUTORY = frozenset({DE, TS, NP, SS, GP})

# Page-fault error code (SDM vol. 3, 4.7)
PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH = 1, 2, 4, 8, 16

# Selector error code (SDM vol. 3, 6.13): index 15:3, TI 2, IDT 1, EXT 0
ERROR_IDT, ERROR_EXT = 2, 1


def vector_name(vector: int) -> str:
    """Return the short name of a vector.

    >>> vector_name(14), vector_name(0x80)
    ('#PF', 'vector 0x80')
    """
    return NAMES.get(vector, f"vector {vector:#x}")


class Fault(Exception):  # noqa: N818 - the manual's word; it is caught inside the processor, always
    """An exception of fault class raised by an instruction.

    Attributes
    ----------
    vector : int
        0 to 31.
    error_code : int or None
        The error code pushed for the handler, for vectors that have one.
    ip : int or None
        Where the handler returns to, if not to the instruction: a task switch may fault in the new task.
    """

    def __init__(self, vector: int, error_code: int | None = None) -> None:
        self.vector = vector
        self.error_code = error_code
        self.ip: int | None = None
        super().__init__(vector, error_code)


class DoubleFault(Fault):
    """The exception #DF, raised where delivering one contributory exception caused another."""

    def __init__(self) -> None:
        super().__init__(DF, 0)


class TripleFault(Exception):  # noqa: N818 - the manual's word
    """Delivery of #DF failed: the processor shuts down."""


def undefined() -> Fault:
    """Return #UD."""
    return Fault(UD)


def general_protection(error_code: int = 0) -> Fault:
    """Return #GP with an error code."""
    return Fault(GP, error_code)


def escalate(first: int, second: int) -> bool:
    """Say whether `second`, raised while `first` was delivered, makes a double fault (SDM vol. 3, table 6-5).

    >>> escalate(GP, NP), escalate(PF, PF), escalate(DB, PF)
    (True, True, False)
    """
    if first == PF:
        return second == PF or second in CONTRIBUTORY
    return first in CONTRIBUTORY and second in CONTRIBUTORY
