"""What leads out of a guest, whatever the make of the processor, and the events that go into one.

A `GuestExit` is raised before an instruction has changed anything, as a fault is, and is one to whoever undoes an
instruction half done; the machine takes it at one place.

An event that is injected, and one whose delivery an exit has interrupted, are described in the same way by both makes, but
for where the valid bit and the error code are (Intel SDM vol. 3, 24.8.3, 24.9.2, 24.9.3; AMD APM vol. 2, 15.20):

    [ valid 31 | error code 11 | type 10:8 | vector 7:0 ]
"""

from __future__ import annotations

from vmlab.isa.x86.faults import Fault, vector_name

__all__ = ["GuestExit", "event_name"]

VALID, WITH_CODE, TYPE_SHIFT = 1 << 31, 1 << 11, 8
EXTERNAL, _, NMI_TYPE, HARDWARE_EXCEPTION, SOFTWARE_INTERRUPT, PRIVILEGED_EXCEPTION, SOFTWARE_EXCEPTION, OTHER_EVENT = (
    range(8)
)
SOFTWARE_TYPES = frozenset({SOFTWARE_INTERRUPT, PRIVILEGED_EXCEPTION, SOFTWARE_EXCEPTION})


def event_name(information: int) -> str:
    """Return the name of an event, for the trace."""
    vector = information & 0xFF
    return f"interrupt {vector:#x}" if information >> TYPE_SHIFT & 7 == EXTERNAL else vector_name(vector)


class GuestExit(Fault):
    """An exit, on its way to the host.

    Attributes
    ----------
    qualification : int
        What the processor tells beside the reason.
    length : int
        Bytes of the instruction, for an exit by one.
    vectoring, vectoring_code : int
        The event that was being delivered, and its error code.
    """

    def __init__(self, qualification: int = 0, *, length: int = 0) -> None:
        super().__init__(-1)
        self.qualification = qualification
        self.length = length
        self.vectoring = self.vectoring_code = 0

    @property
    def name(self) -> str:
        """The reason, as in the manual."""
        raise NotImplementedError

    @property
    def acknowledges(self) -> bool:
        """True where it has taken an external interrupt from its controller."""
        return False

    def while_delivering(self, information: int, error_code: int | None) -> None:
        """Note the event in whose delivery this has happened."""
        self.vectoring = information | VALID | (WITH_CODE if error_code is not None else 0)
        self.vectoring_code = error_code or 0
