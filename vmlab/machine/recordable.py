"""What can be recorded: the contract between a recording and the system that it records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol, runtime_checkable

from vmlab.errors import OptionError

if TYPE_CHECKING:
    from vmlab.machine.machine import Machine
    from vmlab.machine.processor import Processor
    from vmlab.machine.trace import Trace

__all__ = ["NotCopied", "Recordable", "check_guest"]


class NotCopied:
    """Neither copied nor pickled: two of them would share half of their parts."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse `copy` and `pickle`, which ask for this."""
        raise OptionError(
            f"a {type(self).__name__} is not copied and not pickled: vmlab.save(..., 'file') writes its state, "
            "and vmlab.load_state('file') is where any number of runs go on"
        )


def check_guest(guest: object, count: int) -> int:
    """Return the index of a guest; OptionError where a system of so many has none such."""
    if type(guest) is not int or not 0 <= guest < count:
        raise OptionError(f"there is no guest {guest!r}: give an int from 0 to {count - 1}")
    return guest


@runtime_checkable
class Recordable(Protocol):
    """What can be recorded: a deterministic system that can be saved and loaded."""

    machine: Machine
    trace: Trace
    guests: list[Any]

    @property
    def steps(self) -> int:
        """Steps since the start."""

    @property
    def finished(self) -> bool:
        """True when nothing can go on."""

    def advance(self, steps: int) -> None:
        """Run for at most `steps` steps."""

    def send(self, data: bytes, guest: int, device: str) -> None:
        """Type at a guest."""

    def cpu_state(self, guest: int, cpu: int) -> Processor:
        """Return the registers of a guest's processor as the guest would find them now."""

    def save(self) -> dict[str, Any]:
        """Save all but physical memory."""

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave."""
